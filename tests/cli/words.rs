//! Words that people bring from other programs, and outputs that cannot be written.

use super::{SMALL, expect, workplace};

#[test]
fn words_of_others_are_told_ours() {
    let folder = workplace();
    for (arguments, ours) in [
        (&["--conf", "0.5"][..], "--score-thr"),
        (&["--conf-thres=0.5"], "--score-thr"),
        (&["--imgsz", "640"], "--size WxH"),
        (&["--iou", "0.5"], "--nms-thr"),
        (&["--source", "x.jpg"], "infer PATH"),
        (&["--batch-size", "2"], "--batch N"),
        (&["--half"], "--fp16"),
        (&["--device", "0"], "--device cuda:0"),
        (&["--device", "gpu"], "--device cuda"),
        (&["--output_dir", "x"], "--out DIR"),
        (&["conf=0.5"], "--score-thr"),
        (&["model=x.pt"], "--weights FILE"),
    ] {
        let (_, err) = expect(2, folder.path(), &[&["infer"], arguments].concat());
        assert!(err.contains(ours), "{arguments:?}: {err}");
    }
    let (_, err) = expect(2, folder.path(), &["predict", "a.png"]);
    assert!(err.contains("rtmo-engine infer PATH"), "{err}");
    let (help, _) = expect(0, folder.path(), &["bench", "--help"]);
    assert!(help.contains("rtmo-r50"), "{help}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_cannot_be_written_is_called_as_it_was_given() {
    let folder = workplace();
    // Nobody makes files there.
    let arguments = ["infer", "a.png", "-m", "rtmo-t", "--out", "/proc/self"];
    let (_, err) = expect(1, folder.path(), &[&arguments[..], &SMALL].concat());
    assert!(err.contains("error: /proc/self: cannot write into the folder: "), "{err}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_closed_standard_output_is_an_error() {
    use std::process::{Command, Stdio};
    let folder = workplace();
    let run = |redirect: &str, arguments: &[&str]| {
        let command = super::program(folder.path(), arguments);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec \"$0\" \"$@\" {redirect}")]).arg(command.get_program());
        shell.args(command.get_args()).current_dir(folder.path()).stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let output = shell.output().unwrap();
        (output.status.code(), super::text(&output.stderr))
    };
    let infer = [&["infer", "a.png", "-m", "rtmo-t", "--no-draw"], &SMALL[..]].concat();
    let json = [&infer[..], &["--json", "-"]].concat();
    for arguments in [&["models"][..], &json] {
        for redirect in [">&-", "> /dev/full"] {
            let (status, err) = run(redirect, arguments);
            assert!(status == Some(1) && err.contains("standard output: cannot write"), "{redirect}: {err}");
        }
        assert_eq!(run("> /dev/null", arguments).0, Some(0));
        // As subprocess.DEVNULL of Python is opened.
        assert_eq!(run("1<> /dev/null", arguments).0, Some(0));
    }
    // Without data for it there is nothing to be lost.
    assert_eq!(run(">&-", &[&infer[..], &["--json", "p.jsonl"]].concat()).0, Some(0));
}
