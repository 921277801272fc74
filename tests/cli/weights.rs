//! Which weights a command takes.

use super::{SMALL, checkpoint, expect, names, program, said, save, save_with, text, workplace};
use rtmo_engine::pose::model::{self, Variant};
use rtmo_engine::weights::{Checkpoint, SaveType, save_safetensors};
use std::fs;
use std::path::Path;

#[test]
fn without_weights_the_demonstration_model_in_the_program_is_taken() {
    let folder = workplace();
    fs::remove_dir_all(folder.path().join("weights")).unwrap();
    let (_, err) = expect(0, folder.path(), &[&["infer", "a.png"], &SMALL[..]].concat());
    let (out, err) = said(&err);
    assert!(out.contains("rtmo-n-demo in the program") && out.contains("'rtmo-engine download'"), "{out}");
    assert!(err.is_empty(), "{err}");
    assert!(out.contains("a.png: "), "{out}");
    assert_eq!(names(&folder.path().join("rtmo-out")), ["a.png"]);
    let (_, named) =
        expect(0, folder.path(), &[&["infer", "a.png", "-m", "rtmo-n-demo"], &SMALL[..]].concat());
    assert!(named.contains("rtmo-n-demo in the program"), "{named}");

    // To ask for weights gives those or an error that tells where they were looked for.
    let (_, err) = expect(2, folder.path(), &["infer", "a.png", "--model", "rtmo-l"]);
    assert!(err.contains("https://download.openmmlab.com") && err.contains("RTMO_WEIGHTS"), "{err}");
    let (_, err) = expect(2, folder.path(), &["infer", "a.png", "--weights", "none.pth"]);
    assert!(err.contains("none.pth"), "{err}");
    fs::create_dir(folder.path().join("empty")).unwrap();
    let (_, err) = expect(2, folder.path(), &["infer", "a.png", "--weights", "empty"]);
    assert!(err.contains("empty (--weights)"), "{err}");
}

#[test]
fn weights_of_the_current_folder_are_told_before_they_are_opened() {
    let folder = workplace();
    let at = folder.path();
    fs::write(at.join("weights/rtmo-s.pth"), "no weights").unwrap();
    let (out, err) = infer(1, at, &[]);
    assert_eq!(out, format!("weights of the current folder: {}\n", at.join("weights/rtmo-s.pth").display()));
    assert!(err.contains("not a safetensors file"), "{err}");
    let (out, _) = infer(1, at, &["-w", "weights/rtmo-s.pth"]);
    assert_eq!(out, "");
}

#[test]
fn what_is_to_be_said_of_a_file_is_said_once() {
    let folder = workplace();
    let at = folder.path();
    let original = checkpoint();
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = original
        .names()
        .map(|name| {
            let shape = original.shape(name).unwrap();
            // As torch.compile and data parallelism name them.
            let wrapped = format!("module._orig_mod.{name}");
            (wrapped, shape.to_vec(), original.tensor(name, shape).unwrap())
        })
        .collect();
    tensors.push(("teacher.\u{e9}.weight".into(), vec![3], vec![0.0; 3]));
    let list = tensors.iter().map(|(name, shape, values)| (&name[..], &shape[..], &values[..]));
    save_safetensors(at.join("w\n.safetensors"), list, &Default::default(), SaveType::F32).unwrap();
    let json = |weights: [&str; 2]| {
        let arguments = ["infer", "a.png", "--no-draw", "-q", "--json", "-"];
        expect(0, at, &[&arguments[..], &weights, &SMALL].concat())
    };
    let (plain, _) = json(["-m", "rtmo-t"]);
    let (out, err) = json(["-w", "w\n.safetensors"]);
    assert_eq!(out, plain);
    assert_eq!(
        err,
        "warning: w\\n.safetensors: 1 tensor outside backbone, neck and head ignored: 'teacher.\u{e9}.weight'\n"
    );
    let (_, again) = expect(0, at, &["convert", "w\n.safetensors", "c.safetensors"]);
    assert_eq!(again, err);
}

#[test]
fn converted_weights_hold_the_same_tensors() {
    let folder = workplace();
    let (out, _) = expect(0, folder.path(), &["convert", "weights/rtmo-t.safetensors", "copy.safetensors"]);
    assert!(out.contains("sha256") && out.contains("rtmo-t"), "{out}");
    let (copy, original) = (Checkpoint::open(folder.path().join("copy.safetensors")).unwrap(), checkpoint());
    assert_eq!(copy.metadata()["arch"], "rtmo-t");
    assert_eq!(copy.metadata()["keypoints"], "17");
    assert_eq!(copy.metadata()["source_file"], "rtmo-t.safetensors");
    assert!(copy.names().eq(original.names()));
    for name in original.names() {
        let shape = original.shape(name).unwrap();
        assert_eq!(copy.tensor(name, shape).unwrap(), original.tensor(name, shape).unwrap(), "{name}");
    }
    expect(0, folder.path(), &["convert", "copy.safetensors", "half.safetensors", "--half"]);
    let bytes = |name: &str| fs::metadata(folder.path().join(name)).unwrap().len();
    assert!(bytes("half.safetensors") < bytes("copy.safetensors") * 6 / 10);
    let (_, err) = expect(1, folder.path(), &["convert", "a.png", "c.safetensors"]);
    assert!(err.contains("a.png"), "{err}");
    assert!(!folder.path().join("c.safetensors").exists());
}

const DEMO: &str = "weights/rtmo-n-demo.safetensors";

/// A workplace whose weights are a demonstration model's.
fn with_demo() -> tempfile::TempDir {
    let folder = workplace();
    fs::remove_file(folder.path().join("weights/rtmo-t.safetensors")).unwrap();
    save_with(&checkpoint(), &folder.path().join(DEMO), &[("purpose", "demonstration")]);
    folder
}

/// What infer says and complains of, on a.png without pictures.
#[track_caller]
fn infer(status: i32, folder: &Path, more: &[&str]) -> (String, String) {
    said(&expect(status, folder, &[&["infer", "a.png", "--no-draw"], more, &SMALL].concat()).1)
}

#[test]
fn a_demonstration_model_is_taken_when_no_other_is_there() {
    let folder = with_demo();
    let at = folder.path();
    let (out, err) = infer(0, at, &[]);
    assert!(err.is_empty() && out.contains("rtmo-n-demo.safetensors"), "{out}{err}");
    assert!(out.contains("demonstration model") && out.contains("'rtmo-engine download'"), "{out}");
    assert!(!at.join("rtmo-out").exists());

    // It is known by what it says, not by its name, also when it was converted.
    assert!(out.contains("with people above 0.5 unless --score-thr says otherwise"), "{out}");
    expect(0, at, &["convert", DEMO, "other.safetensors", "--half"]);
    let (out, _) = infer(0, at, &["-w", "other.safetensors"]);
    assert!(out.contains("demonstration model") && out.contains("above 0.5"), "{out}");
    for other in [&["--score-thr", "0.2"][..], &["--compat", "rtmlib"]] {
        let (out, _) = infer(0, at, other);
        assert!(out.contains("demonstration model") && !out.contains("above 0.5"), "{out}");
    }
    save(&checkpoint(), &at.join(DEMO));
    let (out, _) = infer(0, at, &[]);
    assert!(out.contains("rtmo-n-demo.safetensors") && !out.contains("demonstration model"), "{out}");
}

#[test]
fn the_demonstration_model_of_this_repository_says_that_it_is_one() {
    let demo = Checkpoint::open(Path::new(env!("CARGO_MANIFEST_DIR")).join(DEMO)).unwrap();
    assert_eq!(demo.metadata()["purpose"], "demonstration");
    assert_eq!(demo.metadata()["input_size"], "416x416");
}

#[test]
fn any_published_checkpoint_that_is_here_will_do() {
    let folder = with_demo();
    let at = folder.path();
    let put = |name: &str, variant, keypoints| {
        save(&model::random(variant, keypoints, 2, 3), &at.join(format!("weights/{name}.safetensors")));
    };
    // In the order of the table, with the default before all.
    for (name, variant, keypoints) in [
        ("rtmo-s-crowdpose", Variant::S, 14),
        ("rtmo-s-coco", Variant::S, 17),
        ("rtmo-t", Variant::T, 17),
        ("rtmo-s", Variant::S, 17),
    ] {
        put(name, variant, keypoints);
        let (out, err) = infer(0, at, &[]);
        assert!(err.is_empty() && out.contains(&format!("weights/{name}.safetensors\n")), "{out}{err}");
    }
    let (help, _) = expect(0, at, &["infer", "--help"]);
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("rtmo-s, else the others in the order"), "{help}");
    let (out, _) = infer(0, at, &["-w", "weights"]);
    assert!(out.contains("weights/rtmo-s.safetensors"), "{out}");
}

#[test]
fn the_variable_names_a_file_or_a_folder() {
    let folder = with_demo();
    let at = folder.path();
    fs::rename(at.join("weights"), at.join("elsewhere")).unwrap();
    let with = |variable: &str, arguments: &[&str]| {
        let output =
            program(at, &[arguments, &SMALL[..]].concat()).env("RTMO_WEIGHTS", variable).output().unwrap();
        let (out, err) = said(&text(&output.stderr));
        (output.status.code(), out, err)
    };
    let plain = ["infer", "a.png", "--no-draw"];
    // A folder without the default model, but with another.
    let (code, out, err) = with("elsewhere", &plain);
    assert!(code == Some(0) && out.contains("elsewhere/rtmo-n-demo.safetensors"), "{out}{err}");
    save(&checkpoint(), &at.join("elsewhere/rtmo-t.safetensors"));
    let (code, out, err) = with("elsewhere", &plain);
    assert!(code == Some(0) && out.contains("elsewhere/rtmo-t.safetensors"), "{out}{err}");
    // A file, also one that is called as a published model that is not the default.
    let (code, out, err) = with("elsewhere/rtmo-t.safetensors", &plain);
    assert!(code == Some(0) && out.contains("elsewhere/rtmo-t.safetensors"), "{out}{err}");

    for command in [&plain[..], &["bench", "--iters", "1"], &["check", "a.png"]] {
        let (code, _, err) = with("mistyped", command);
        assert!(code == Some(2) && err.contains("mistyped: no such file or folder"), "{command:?}: {err}");
        assert!(err.contains("RTMO_WEIGHTS"), "{err}");
        let (code, _, err) = with("b.jpg", command);
        assert!(code == Some(1) && err.contains("b.jpg: not a safetensors file"), "{command:?}: {err}");
        assert!(err.contains("RTMO_WEIGHTS names it"), "{err}");
    }
    #[cfg(unix)]
    {
        let (_, _, err) = with("/dev/null", &plain);
        assert!(err.contains("/dev/null: is not a regular file (RTMO_WEIGHTS names it)"), "{err}");
    }
    let (code, _, err) = with("elsewhere/rtmo-n-demo.safetensors", &[&plain[..], &["-m", "rtmo-l"]].concat());
    assert!(code == Some(2) && err.contains("expected rtmo-l of 17 keypoints, got rtmo-t of 17"), "{err}");
}

#[test]
fn another_model_than_was_asked_for_is_refused() {
    let folder = workplace();
    let at = folder.path();
    let (file, path) = (["-w", "weights/rtmo-t.safetensors"], at.join("weights"));
    let (_, err) = infer(2, at, &[&file[..], &["-m", "rtmo-l-crowdpose"]].concat());
    assert!(
        err.contains("by model rtmo-l-crowdpose expected rtmo-l of 14 keypoints, got rtmo-t of 17"),
        "{err}"
    );
    let (_, err) = infer(2, at, &[&file[..], &["-m", "mine"]].concat());
    assert!(err.contains("model 'mine' is not a published one") && err.contains("give one of them"), "{err}");
    infer(0, at, &[&file[..], &["-m", "rtmo-t"]].concat());
    // A file of another name may hold anything, one that is found by its name may not.
    fs::rename(path.join("rtmo-t.safetensors"), path.join("rtmo-s.safetensors")).unwrap();
    let (_, err) = infer(2, at, &[]);
    assert!(err.contains("by its name expected rtmo-s of 17 keypoints, got rtmo-t of 17"), "{err}");
    for command in [&["bench", "--iters", "1"][..], &["check", "a.png"]] {
        expect(2, at, &[command, &["-m", "rtmo-s"], &SMALL].concat());
    }
    infer(0, at, &["-w", "weights/rtmo-s.safetensors"]);
    let (_, err) = infer(2, at, &["-m", "rtmo-s.safetensors"]);
    assert!(err.contains("is not a name; a file is given with --weights"), "{err}");
}
