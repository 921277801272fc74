//! Help, and options that make no sense.

use super::{SMALL, expect, program, text, workplace};

#[test]
fn help_and_version() {
    let folder = tempfile::tempdir().unwrap();
    let (out, _) = expect(0, folder.path(), &["--help"]);
    for command in ["infer", "bench", "check", "convert", "models", "info"] {
        assert!(out.contains(command), "{out}");
        let (help, _) = expect(0, folder.path(), &[command, "--help"]);
        assert!(help.contains("Usage: rtmo-engine"), "{help}");
    }
    let (out, _) = expect(0, folder.path(), &["--version"]);
    assert_eq!(out.trim(), format!("rtmo-engine {}", env!("CARGO_PKG_VERSION")));
    expect(2, folder.path(), &[]);
    expect(2, folder.path(), &["infer"]);
    expect(2, folder.path(), &["infer", "a.png", "--size", "100x100"]);
    expect(2, folder.path(), &["infer", "a.png", "--precision", "int3"]);
    expect(2, folder.path(), &["bench", "--threads", "0"]);
}

#[test]
fn models_and_info() {
    let folder = workplace();
    let (out, _) = expect(0, folder.path(), &["models"]);
    assert_eq!(out.matches("https://").count(), 11, "{out}");
    let here = out.lines().nth(2).unwrap();
    assert!(here.starts_with("    here since 2") && here.ends_with(": weights/rtmo-t.safetensors"), "{out}");
    assert!(out.lines().nth(3).unwrap().contains("nothing to compare it with"), "{out}");
    assert_eq!(out.matches("not here").count(), 10, "{out}");
    let mistyped = program(folder.path(), &["models"]).env("RTMO_WEIGHTS", "mistyped").output().unwrap();
    assert!(text(&mistyped.stderr).starts_with("warning: mistyped: no such file or folder"));
    let (out, _) = expect(0, folder.path(), &["info"]);
    for key in ["version", "CPU", "ISA", "CUDA", "kernels", "weights"] {
        assert!(out.lines().any(|line| line.starts_with(key)), "{key}: {out}");
    }
}

#[test]
fn numbers_out_of_range_are_told_the_range() {
    let folder = workplace();
    for option in ["--score-thr", "--nms-thr", "--kpt-thr"] {
        for value in ["7", "-1", "nan", "-0.5"] {
            let (_, err) = expect(2, folder.path(), &["infer", "a.png", option, value]);
            assert!(err.contains("expected a number from 0 to 1"), "{option} {value}: {err}");
        }
    }
    for (option, range) in [("-t", "1..=1024"), ("-b", "1..=1024")] {
        let (_, err) = expect(2, folder.path(), &["infer", "a.png", option, "-1"]);
        assert!(err.contains(&format!("-1 is not in {range}")), "{err}");
    }
    for (option, value) in [("--warmup", "4294967295"), ("--warmup", "-1"), ("--iters", "-3")] {
        let (_, err) = expect(2, folder.path(), &["bench", option, value]);
        assert!(err.contains("is not in ") && err.contains("..=1000000"), "{err}");
    }
}

#[test]
fn more_threads_than_cpus_are_warned_of() {
    let folder = workplace();
    let infer = |threads: &str| {
        let arguments = ["infer", "a.png", "-m", "rtmo-t", "--no-draw", "--threads", threads];
        expect(0, folder.path(), &[&arguments[..], &SMALL].concat()).1
    };
    assert!(!infer("1").contains("warning"));
    let err = infer("1000");
    assert!(err.contains("warning: 1000 threads on ") && err.contains("wait for each other"), "{err}");
}
