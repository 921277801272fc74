//! The command line as a user has it: the built program, files, exit statuses and output.

use rtmo_engine::model::{self, Variant};
use rtmo_engine::vision::encode;
use rtmo_engine::weights::{Checkpoint, SaveType, save_safetensors};
use rtmo_engine::{Engine, EngineOptions, Photo};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// The smallest network on the smallest input that has people in it: quick also without optimisation.
const SMALL: [&str; 2] = ["--size", "96x64"];

/// The program, in `folder`, where no weights are found but its own.
fn program(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rtmo-engine"));
    command.args(arguments).current_dir(folder);
    for variable in ["RTMO_WEIGHTS", "RTMO_ISA", "TORCH_HOME", "XDG_CACHE_HOME"] {
        command.env_remove(variable);
    }
    command.env("HOME", folder.join("home")).stdin(Stdio::null());
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    program(folder, arguments).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Runs, demands an exit status, and returns standard output and standard error.
#[track_caller]
fn expect(status: i32, folder: &Path, arguments: &[&str]) -> (String, String) {
    let output = run(folder, arguments);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{arguments:?}\n{out}\n{err}");
    (out, err)
}

/// A picture with edges, so that the network has something to see.
fn picture(width: usize, height: usize) -> Photo {
    let mut photo = Photo::filled(width, height, [0; 3]);
    for (i, byte) in photo.bgr.iter_mut().enumerate() {
        let (x, y) = (i / 3 % width, i / 3 / width);
        *byte = ((x / 20 * 73 + y / 15 * 41 + i % 3 * 90) % 256) as u8;
    }
    photo
}

/// A folder with pictures `a.png`, `b.jpg`, and weights of a tiny network under `weights/rtmo-t.safetensors`.
fn workplace() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    encode::save(&picture(120, 80), folder.path().join("a.png")).unwrap();
    encode::save(&picture(60, 90), folder.path().join("b.jpg")).unwrap();
    fs::create_dir(folder.path().join("weights")).unwrap();
    save(&checkpoint(), &folder.path().join("weights/rtmo-t.safetensors"));
    folder
}

fn checkpoint() -> Checkpoint {
    model::random(Variant::T, 17, 2, 3)
}

fn save(checkpoint: &Checkpoint, path: &Path) {
    let tensors: Vec<(&str, &[usize], Vec<f32>)> = checkpoint
        .names()
        .map(|name| {
            let shape = checkpoint.shape(name).unwrap();
            (name, shape, checkpoint.tensor(name, shape).unwrap())
        })
        .collect();
    let tensors = tensors.iter().map(|(name, shape, values)| (*name, *shape, &values[..]));
    save_safetensors(path, tensors, &BTreeMap::new(), SaveType::F32).unwrap();
}

/// Names in a folder, sorted; none if it is not there.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

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
fn infer_draws_and_writes_what_the_library_finds() {
    let folder = workplace();
    let at = |name: &str| folder.path().join(name);
    let arguments = [
        "infer",
        "a.png",
        "b.jpg",
        "-m",
        "rtmo-t",
        "--json",
        "people.jsonl",
        "--heatmaps",
        "--boxes",
        "--batch",
        "2",
    ];
    let (out, err) = expect(0, folder.path(), &[&arguments[..], &SMALL].concat());
    assert!(err.is_empty(), "{err}");
    assert!(out.lines().any(|l| l.starts_with("a.png: ") && l.ends_with(" ms")), "{out}");

    let lines = json_lines(&fs::read_to_string(at("people.jsonl")).unwrap());
    let options = EngineOptions { input_size: Some((96, 64)), ..Default::default() };
    let mut engine = Engine::load(at("weights/rtmo-t.safetensors"), options).unwrap();
    let mut found = 0;
    for (line, name) in lines.iter().zip(["a.png", "b.jpg"]) {
        let photo = Photo::open(at(name)).unwrap();
        let people = engine.infer(std::slice::from_ref(&photo)).unwrap().remove(0);
        assert_eq!(line["image"], name);
        assert_eq!(
            (line["width"].as_u64(), line["height"].as_u64()),
            (Some(photo.width as u64), Some(photo.height as u64))
        );
        let listed = line["people"].as_array().unwrap();
        assert_eq!(listed.len(), people.len());
        for (entry, person) in listed.iter().zip(&people) {
            // Scores are written exactly, coordinates to 1/1000 pixel.
            let close = |value: &Value, expected: f32, eps: f64| {
                (value.as_f64().unwrap() - f64::from(expected)).abs() <= eps
            };
            assert!(close(&entry["score"], person.score, 1e-7));
            assert_eq!(entry["bbox"].as_array().unwrap().len(), 4);
            assert!((0..4).all(|i| close(&entry["bbox"][i], person.bbox[i], 6e-4)));
            assert_eq!(entry["keypoints"].as_array().unwrap().len(), 17);
            for (written, keypoint) in entry["keypoints"].as_array().unwrap().iter().zip(&person.keypoints) {
                assert!(close(&written[0], keypoint.x, 6e-4) && close(&written[1], keypoint.y, 6e-4));
                assert!(close(&written[2], keypoint.score, 1e-7));
            }
        }
        assert!(people.windows(2).all(|pair| pair[0].score >= pair[1].score));
        found += people.len();
        let drawn = Photo::open(at("rtmo-out").join(name)).unwrap();
        assert_eq!((drawn.width, drawn.height), (photo.width, photo.height));
    }
    assert!(found > 0, "nobody found, so nothing was tested");
    assert_eq!(lines.len(), 2);
    let pages = names(&at("rtmo-out")).into_iter().filter(|name| name.contains(".person")).count();
    assert_eq!(pages, found);
}

#[test]
fn the_first_run_without_weights_says_that_they_are_random() {
    let folder = workplace();
    fs::remove_dir_all(folder.path().join("weights")).unwrap();
    let (out, err) = expect(0, folder.path(), &[&["infer", "a.png"], &SMALL[..]].concat());
    assert!(err.contains("random") && err.contains("https://"), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(out.contains("a.png: "), "{out}");
    assert_eq!(names(&folder.path().join("rtmo-out")), ["a.png"]);

    // Whoever asks for weights gets those or an error that tells where they were looked for.
    let (_, err) = expect(2, folder.path(), &["infer", "a.png", "--model", "rtmo-l"]);
    assert!(err.contains("https://download.openmmlab.com") && err.contains("RTMO_WEIGHTS"), "{err}");
    let (_, err) = expect(2, folder.path(), &["infer", "a.png", "--weights", "none.pth"]);
    assert!(err.contains("none.pth"), "{err}");
    let output =
        program(folder.path(), &["infer", "a.png"]).env("RTMO_WEIGHTS", "elsewhere").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_demonstration_model_is_taken_when_no_other_is_there() {
    let folder = workplace();
    let weights = folder.path().join("weights");
    fs::rename(weights.join("rtmo-t.safetensors"), weights.join("rtmo-t-demo.safetensors")).unwrap();
    let (out, err) = expect(0, folder.path(), &[&["infer", "a.png", "--no-draw"], &SMALL[..]].concat());
    assert!(err.is_empty() && out.contains("rtmo-t-demo.safetensors"), "{out}{err}");
    assert!(out.contains("demonstration model") && out.contains("https://"), "{out}");
    assert!(!folder.path().join("rtmo-out").exists());
}

#[test]
fn json_on_standard_output_is_alone_there() {
    let folder = workplace();
    let arguments = ["infer", "-", "-m", "rtmo-t", "--no-draw", "--json", "-"];
    let mut child = program(folder.path(), &[&arguments[..], &SMALL].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"b.jpg\na.png\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let lines = json_lines(&text(&output.stdout));
    assert_eq!(
        lines.iter().map(|line| line["image"].as_str().unwrap()).collect::<Vec<_>>(),
        ["b.jpg", "a.png"]
    );
    assert!(text(&output.stderr).contains("b.jpg: "));
}

#[test]
fn one_bad_photo_does_not_stop_the_others() {
    let folder = workplace();
    fs::write(folder.path().join("bad.jpg"), b"no photo").unwrap();
    let arguments = ["infer", ".", "missing.jpg", "-m", "rtmo-t", "--json", "p.jsonl"];
    let (out, err) = expect(1, folder.path(), &[&arguments[..], &SMALL].concat());
    assert!(err.contains("bad.jpg: not an image"), "{err}");
    assert!(err.contains("missing.jpg"), "{err}");
    assert!(err.contains("2 of 4 failed"), "{err}");
    assert!(out.contains("a.png: ") && out.contains("b.jpg: "), "{out}");
    assert_eq!(names(&folder.path().join("rtmo-out")), ["a.png", "b.jpg"]);
    assert_eq!(json_lines(&fs::read_to_string(folder.path().join("p.jsonl")).unwrap()).len(), 2);
}

#[test]
fn what_will_fail_fails_before_the_work() {
    let folder = workplace();
    let at = folder.path();
    fs::create_dir(at.join("empty")).unwrap();
    fs::write(at.join("file"), b"").unwrap();
    let (_, err) = expect(2, at, &["infer", "empty"]);
    assert!(err.contains("holds no image"), "{err}");
    let (_, err) = expect(1, at, &["infer", "a.png", "--out", "file/below"]);
    assert!(err.contains("file/below"), "{err}");
    let (_, err) = expect(1, at, &["infer", "a.png", "--json", "no/such/folder/p.jsonl"]);
    assert!(err.contains("no/such/folder/p.jsonl"), "{err}");
    let (_, err) = expect(2, at, &["infer", "a.png", "--coco", "c.json"]);
    assert!(err.contains("a.png: --coco takes") && err.contains("--coco-images FILE"), "{err}");
    let before = fs::read(at.join("a.png")).unwrap();
    let (_, err) = expect(2, at, &["infer", "a.png", "--out", "."]);
    assert!(err.contains("would replace the photo"), "{err}");
    assert_eq!(fs::read(at.join("a.png")).unwrap(), before);
    let (_, err) = expect(2, at, &["infer", "a.png", "-m", "rtmo-t", "--score-thr", "7"]);
    assert!(err.contains("score threshold"), "{err}");
    let (_, err) = expect(1, at, &["infer", "a.png", "-m", "rtmo-t", "--device", "cpu", "--fp16"]);
    assert!(err.contains("fp16"), "{err}");
    assert_eq!(names(at), ["a.png", "b.jpg", "empty", "file", "rtmo-out", "weights"]);
    assert!(names(&at.join("rtmo-out")).is_empty());
}

#[test]
fn coco_results_name_images_by_number() {
    let folder = workplace();
    fs::rename(folder.path().join("a.png"), folder.path().join("000000000785.png")).unwrap();
    let arguments =
        ["infer", "000000000785.png", "-m", "rtmo-t", "--no-draw", "--coco", "c.json", "--max-people", "2"];
    expect(0, folder.path(), &[&arguments[..], &SMALL].concat());
    let rows: Value = serde_json::from_slice(&fs::read(folder.path().join("c.json")).unwrap()).unwrap();
    let rows = rows.as_array().unwrap();
    assert!(!rows.is_empty() && rows.len() <= 2, "{rows:?}");
    for row in rows {
        assert_eq!(row["image_id"], 785);
        assert_eq!(row["category_id"], 1);
        assert_eq!(row["keypoints"].as_array().unwrap().len(), 51);
    }
}

#[test]
fn coco_results_take_ids_from_annotations() {
    let folder = workplace();
    let at = folder.path();
    let infer = |code, photos: &[&str], more: &[&str]| {
        let arguments = ["infer", "-m", "rtmo-t", "--no-draw", "--coco", "c.json", "--max-people", "1"];
        expect(code, at, &[&arguments[..], &SMALL, photos, more].concat()).1
    };
    fs::write(at.join("list.json"), r#"{"images": [{"id": 41, "file_name": "a.png"}]}"#).unwrap();
    infer(0, &["a.png"], &["--coco-images", "list.json"]);
    let rows: Value = serde_json::from_slice(&fs::read(at.join("c.json")).unwrap()).unwrap();
    assert_eq!(rows[0]["image_id"], 41);
    let err = infer(2, &["a.png", "b.jpg"], &["--coco-images", "list.json"]);
    assert!(err.contains("b.jpg") && err.contains("list.json lists no image of this name"), "{err}");
    let err = infer(1, &["a.png"], &["--coco-images", "none.json"]);
    assert!(err.contains("none.json: cannot read"), "{err}");
    // Two photos with one id would be one image.
    fs::copy(at.join("a.png"), at.join("left_1.png")).unwrap();
    fs::copy(at.join("a.png"), at.join("right_1.png")).unwrap();
    let err = infer(2, &["left_1.png", "right_1.png"], &[]);
    assert!(err.contains("left_1.png") && err.contains("same COCO image id, 1"), "{err}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_and_a_reader_that_leaves() {
    let folder = workplace();
    let arguments =
        [&["infer", "a.png", "-m", "rtmo-t", "--no-draw", "--json", "/dev/full"], &SMALL[..]].concat();
    let (_, err) = expect(1, folder.path(), &arguments);
    assert!(err.contains("No space left on device"), "{err}");
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = program(folder.path(), &["models"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("standard output"), "{}", text(&output.stderr));

    let mut child =
        program(folder.path(), &["models"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stderr), "");
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_nothing_half_done() {
    let folder = workplace();
    // A pipe that nobody writes to yet keeps the program waiting for the second photo.
    assert!(Command::new("mkfifo").arg(folder.path().join("c.jpg")).status().unwrap().success());
    let arguments = ["infer", "a.png", "c.jpg", "b.jpg", "-m", "rtmo-t", "--json", "p.jsonl"];
    let mut child = program(folder.path(), &[&arguments[..], &SMALL].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(out.by_ref().any(|line| line.unwrap().starts_with("a.png: ")));
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let mut err = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(err.next().unwrap().unwrap().starts_with("interrupted"));
    fs::write(folder.path().join("c.jpg"), b"no photo").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(err.any(|line| line.unwrap().contains("1 of 3 photos done; p.jsonl is not written")));
    assert_eq!(names(folder.path()), ["a.png", "b.jpg", "c.jpg", "rtmo-out", "weights"]);
    assert_eq!(names(&folder.path().join("rtmo-out")), ["a.png"]);
}

#[test]
fn check_compares_step_by_step() {
    let folder = workplace();
    let check = |status: i32, more: &[&str]| {
        let common = ["check", "a.png", "-m", "rtmo-t"];
        expect(status, folder.path(), &[&common[..], &SMALL, more].concat())
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
        check(2, &["--map-error", nonsense]);
    }

    // Where there is no GPU the CPU is checked, and the reason told.
    let (out, _) = check(0, &["--stages"]);
    assert!(out.contains("no GPU is checked: ") != out.contains("checked  NVIDIA"), "{out}");

    // bf16 against fp32, by the emulation that every machine has.
    let arguments = [&["check", "a.png", "-m", "rtmo-s", "--precision", "bf16"], &SMALL[..]].concat();
    let output = program(folder.path(), &arguments).env("RTMO_ISA", "scalar16").output().unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert!(
        out.contains("generated rtmo-s") && out.contains("the maps are within the bounds of bf16"),
        "{out}"
    );
}

#[test]
fn bench_ends_in_the_median() {
    let folder = workplace();
    let tiny = ["bench", "-m", "rtmo-t", "--size", "64", "--iters", "3", "--warmup", "0"];
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
    assert_eq!(json["photo"]["people"], 5);
    assert_eq!(json["total_ms"].as_array().unwrap().len(), 3);
    assert!(json["layers"].as_array().unwrap().len() > 50);
    assert!(out.contains("backbone.stem.conv") && out.contains("FMA peak"), "{out}");
    let svg = fs::read_to_string(folder.path().join("b.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("p99"), "{svg}");

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

#[test]
fn models_and_info() {
    let folder = workplace();
    let (out, _) = expect(0, folder.path(), &["models"]);
    assert_eq!(out.matches("https://").count(), 11, "{out}");
    assert!(out.lines().next().unwrap().ends_with("here: weights/rtmo-t.safetensors"), "{out}");
    assert_eq!(out.matches("not here").count(), 10, "{out}");
    let (out, _) = expect(0, folder.path(), &["info"]);
    for key in ["version", "CPU", "ISA", "CUDA", "weights"] {
        assert!(out.lines().any(|line| line.starts_with(key)), "{key}: {out}");
    }
}
