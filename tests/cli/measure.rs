//! bench and check.

use super::{SMALL, checkpoint, expect, program, save_with, text, workplace};
use serde_json::Value;
use std::fs;

#[test]
fn check_compares_step_by_step() {
    let folder = workplace();
    let check = |status: i32, more: &[&str]| {
        let common = ["check", "a.png", "-m", "rtmo-t"];
        expect(status, folder.path(), &[&common[..], &SMALL[..2], more].concat())
    };
    let (out, err) = check(0, &["--device", "cpu"]);
    assert!(err.is_empty() && out.contains("against  64-bit arithmetic"), "{out}{err}");
    assert!(out.contains("all is within the bounds of fp32"), "{out}");
    let rows = |out: &str| out.lines().filter(|line| line.contains("e-")).count();
    assert!(out.lines().any(|line| line.starts_with("c3 ")), "{out}");
    assert!(out.contains("backbone.stem.conv") && rows(&out) > 50, "{out}");
    // The network input is the same to the bit.
    assert!(out.lines().any(|line| line.starts_with("input") && line.contains("0.00e0")), "{out}");
    let (out, _) = check(0, &["--device", "cpu", "--stages"]);
    assert!(!out.contains("backbone.stem.conv") && out.contains("cls.1"), "{out}");

    // No arithmetic in fp32 is that close to one in 64 bit.
    let (out, err) = check(1, &["--device", "cpu", "--map-error", "1e-9"]);
    assert!(err.contains("beyond the bounds: c3 differs by") && err.contains("allowed 1.0e-9"), "{err}");
    assert!(!out.contains("within"), "{out}");
    for nonsense in ["0", "-1", "NaN", "x"] {
        let (_, err) = check(2, &["--map-error", nonsense]);
        assert!(err.contains("expected a number above 0"), "{err}");
    }

    // Where there is no GPU the CPU is checked, and the reason told.
    let arguments = ["check", "a.png", "-m", "rtmo-s", "--stages"];
    let (out, _) = expect(0, folder.path(), &[&arguments[..], &SMALL[..2]].concat());
    assert!(out.contains("no GPU is checked: ") != out.contains("checked  NVIDIA"), "{out}");

    // bf16 against fp32, by the emulation that every machine has.
    let arguments = [&["check", "a.png", "-m", "rtmo-s", "--precision", "bf16"], &SMALL[..]].concat();
    let output = program(folder.path(), &arguments).env("RTMO_ISA", "portable16").output().unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert!(
        out.contains("generated rtmo-s") && out.contains("the maps are within the bounds of bf16"),
        "{out}"
    );
}

#[test]
fn a_size_whose_weights_nobody_published_can_be_measured() {
    let folder = workplace();
    let tiny =
        ["bench", "-m", "rtmo-r50", "--size", "64", "--device", "cpu", "--iters", "1", "--warmup", "0"];
    let (out, _) = expect(0, folder.path(), &tiny);
    assert!(out.contains("rtmo-r50"), "{out}");
}

#[test]
fn several_numbers_of_threads_make_a_table() {
    let folder = workplace();
    let tiny = ["bench", "-m", "rtmo-t", "--size", "64", "--device", "cpu", "--iters", "2", "--warmup", "0"];
    let (out, _) = expect(0, folder.path(), &[&tiny[..], &["--threads", "1,2", "--json", "b.json"]].concat());
    let rows: Vec<&str> = out.lines().skip_while(|line| !line.starts_with("threads ")).skip(1).collect();
    let first: Vec<&str> = rows[0].split_whitespace().collect();
    assert_eq!((rows.len(), first[0], &first[3..]), (2, "1", &["1.00", "100", "%"][..]), "{out}");
    let json: Value = serde_json::from_slice(&fs::read(folder.path().join("b.json")).unwrap()).unwrap();
    let rows = json["threads"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["threads"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    assert!(rows.iter().all(|row| {
        let ms = |key: &str| row[key].as_f64().unwrap();
        ms("network_p50_ms") > 0.0 && ms("total_p50_ms") >= ms("network_p50_ms")
    }));
    for more in [&["--layers"][..], &["--image", "a.png", "--decode"]] {
        let (_, err) = expect(2, folder.path(), &[&tiny[..], &["--threads", "1,2"], more].concat());
        assert!(err.contains("--threads with several numbers"), "{err}");
    }
    expect(2, folder.path(), &["infer", "a.png", "--threads", "1,2"]);
}

#[test]
fn bench_ends_in_the_median() {
    let folder = workplace();
    let tiny = ["bench", "-m", "rtmo-t", "--size", "64", "--device", "cpu", "--iters", "3", "--warmup", "0"];
    let more = ["--layers", "--people", "5", "--json", "b.json", "--plot", "b.svg"];
    let (out, _) = expect(0, folder.path(), &[&tiny[..], &more].concat());
    let last = out.lines().last().unwrap();
    let number = |line: &str, prefix: &str| -> f64 {
        line.strip_prefix(prefix)
            .and_then(|l| l.strip_suffix(" ms"))
            .and_then(|x| x.parse().ok())
            .expect(line)
    };
    let p50 = number(last, "total p50 ");
    let json: Value = serde_json::from_slice(&fs::read(folder.path().join("b.json")).unwrap()).unwrap();
    assert!((json["ms"]["total"]["p50"].as_f64().unwrap() - p50).abs() < 1e-3);
    let ms = |stage: &str| json["ms"][stage]["min"].as_f64().unwrap();
    let parts = ["letterbox", "network", "select", "dcc"].map(ms).iter().sum::<f64>();
    assert!(parts > 0.0 && parts <= json["ms"]["total"]["mean"].as_f64().unwrap());
    assert_eq!((&json["photo"]["people"], &json["photo"]["forced"]), (&5.into(), &false.into()));
    assert_eq!(json["total_ms"].as_array().unwrap().len(), 3);
    assert!(json["layers"].as_array().unwrap().len() > 50);
    assert!(out.contains("backbone.stem.conv") && out.contains("FMA peak"), "{out}");
    let svg = fs::read_to_string(folder.path().join("b.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("p99"), "{svg}");

    // From the file on, which is not a stage of the engine's.
    let from_file = [&tiny[..], &["--image", "a.png", "--decode", "--json", "d.json"]].concat();
    let (out, _) = expect(0, folder.path(), &from_file);
    assert!(out.contains("decode"), "{out}");
    let json: Value = serde_json::from_slice(&fs::read(folder.path().join("d.json")).unwrap()).unwrap();
    let ms = |stage: &str| json["ms"][stage]["min"].as_f64().unwrap();
    let parts = ["decode", "letterbox", "network"].map(ms);
    assert!(parts[0] > 0.0, "{json}");
    assert!(parts.iter().sum::<f64>() <= json["ms"]["total"]["mean"].as_f64().unwrap(), "{json}");
    let (_, err) = expect(2, folder.path(), &[&tiny[..], &["--decode"]].concat());
    assert!(err.contains("--image"), "{err}");

    // fp16 without a GPU is computed on the CPU, and the first line and the JSON say so.
    let half = [
        "bench", "--fp16", "-m", "rtmo-t", "--size", "32", "--iters", "1", "--warmup", "0", "--json",
        "h.json",
    ];
    let (out, _) = expect(0, folder.path(), &half);
    let json: Value = serde_json::from_slice(&fs::read(folder.path().join("h.json")).unwrap()).unwrap();
    let fallback = "fp16 needs a GPU that can be used: computing in fp32 on the CPU instead";
    match json["machine"]["device"].as_str() {
        Some("cpu") => {
            assert!(out.starts_with(fallback), "{out}");
            assert_eq!(json["machine"]["precision"], "fp32");
            assert!(json["machine"]["fallback"].as_str().is_some_and(|said| said.starts_with(fallback)));
        }
        _ => assert!(json["machine"]["precision"] == "fp16" && json["machine"]["fallback"].is_null()),
    }
    // A GPU that is named is no wish.
    let named = [&half[..2], &["--device", "cuda:9", "-m", "rtmo-t", "--size", "32"]].concat();
    let (_, err) = expect(1, folder.path(), &named);
    assert!(err.contains("cuda") || err.contains("CUDA"), "{err}");

    // Without a weights file it makes weights of that shape.
    let other = [
        "bench",
        "-m",
        "rtmo-s-crowdpose",
        "--size",
        "32",
        "--iters",
        "1",
        "--warmup",
        "0",
        "--network-only",
    ];
    let (out, _) = expect(0, folder.path(), &other);
    assert!(out.contains("14 keypoints") && out.contains("generated"), "{out}");
    number(out.lines().last().unwrap(), "network p50 ");
}

#[test]
fn a_sweep_draws_curves() {
    let folder = workplace();
    let arguments = [
        "bench", "--sweep", "-m", "rtmo-t", "--size", "64", "--iters", "2", "--warmup", "0", "--device",
        "cpu",
    ];
    let more = ["--batches", "1,3", "--json", "s.json", "--plot", "s.svg"];
    let (out, _) = expect(0, folder.path(), &[&arguments[..], &more].concat());
    let json: Value = serde_json::from_slice(&fs::read(folder.path().join("s.json")).unwrap()).unwrap();
    let points = json["sweep"].as_array().unwrap();
    let batches: Vec<u64> = points.iter().map(|p| p["batch"].as_u64().unwrap()).collect();
    assert_eq!(batches, [1, 3]);
    for point in points {
        let (n, ms) = (point["batch"].as_f64().unwrap(), point["p50_ms"].as_f64().unwrap());
        assert!(ms > 0.0 && (point["images_per_second"].as_f64().unwrap() * ms / 1e3 / n - 1.0).abs() < 1e-9);
    }
    assert!(out.contains("rtmo-t 64x64 batch 3: ") && out.contains("images/s"), "{out}");
    let svg = fs::read_to_string(folder.path().join("s.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("rtmo-t 64x64") && !svg.contains("NaN"), "{svg}");
    expect(2, folder.path(), &["bench", "--sweep", "--batch", "2"]);
    expect(2, folder.path(), &["bench", "--batches", "2"]);
}

#[test]
fn bench_says_when_a_grid_has_too_few_people() {
    let folder = workplace();
    let bench = |people: &[&str]| {
        let arguments = ["bench", "-m", "rtmo-t", "--iters", "1", "--warmup", "0", "--people"];
        expect(0, folder.path(), &[&arguments[..], people, &SMALL].concat()).0
    };
    let forced = ", forced (the best grids, without threshold and suppression)\n";
    assert!(bench(&["65535"]).contains(&format!("; 30 people of 65535: the grid has no more{forced}")));
    assert!(bench(&["1"]).contains("; 1 person\n"));
    assert!(bench(&["1", "--forced"]).contains(&format!("; 1 person{forced}")));
    assert!(bench(&["0"]).contains("; 0 people\n"));
}

#[test]
fn check_takes_the_threshold_of_the_demonstration_model() {
    let folder = workplace();
    let path = folder.path().join("demo.safetensors");
    save_with(&checkpoint(), &path, &[("purpose", "demonstration")]);
    let count = |weights: &str| -> usize {
        let arguments = ["check", "a.png", "--stages", "-w", weights];
        let (out, _) = expect(0, folder.path(), &[&arguments[..], &SMALL].concat());
        let line = out.lines().find_map(|line| line.strip_prefix("people ")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let (demo, other) = (count("demo.safetensors"), count("weights/rtmo-t.safetensors"));
    assert!(demo < other, "{demo} people of the demonstration's, {other} of another's");
}
