//! What infer finds, writes and draws.

use super::{SMALL, checkpoint, expect, json_lines, names, program, text, workplace};
use rtmo_engine::backend::{Device, Placement};
use rtmo_engine::weights::{SaveType, save_safetensors};
use rtmo_engine::{Engine, EngineOptions, Photo};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

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
    assert!(out.is_empty() && !err.contains("warning"), "{out}{err}");
    assert!(err.lines().any(|l| l.starts_with("a.png: ") && l.ends_with(" ms")), "{err}");

    let lines = json_lines(&fs::read_to_string(at("people.jsonl")).unwrap());
    let placement = Placement { device: Device::Cpu, ..Default::default() };
    let options = EngineOptions::default().with_input_size(96, 64).with_placement(placement);
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
    let (_, err) = expect(1, folder.path(), &[&arguments[..], &SMALL].concat());
    assert!(err.contains("bad.jpg: not an image"), "{err}");
    assert!(err.contains("missing.jpg"), "{err}");
    assert!(err.contains("2 of 4 failed"), "{err}");
    assert!(err.contains("note: .: left out 1 subfolder (--recursive or './**/*' goes deeper)"), "{err}");
    assert!(err.contains("a.png: ") && err.contains("b.jpg: "), "{err}");
    assert_eq!(names(&folder.path().join("rtmo-out")), ["a.png", "b.jpg"]);
    assert_eq!(json_lines(&fs::read_to_string(folder.path().join("p.jsonl")).unwrap()).len(), 2);
}

/// Where the system gives no more memory, the photo that needs it is reported and the others are done.
#[cfg(target_os = "linux")]
#[test]
fn a_photo_larger_than_memory_does_not_stop_the_others() {
    let folder = workplace();
    // One bit a pixel: 24 MB on the way to the file, 588 MB as a photo.
    let file = fs::File::create(folder.path().join("huge.png")).unwrap();
    let mut encoder = png::Encoder::new(file, 14_000, 14_000);
    encoder.set_depth(png::BitDepth::One);
    encoder.write_header().unwrap().write_image_data(&vec![0; 14_000 * 1750]).unwrap();
    let arguments = ["infer", "huge.png", "a.png", "-m", "rtmo-t", "--threads", "1"];
    let command = program(folder.path(), &[&arguments[..], &SMALL].concat());
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -v 560000; exec \"$0\" \"$@\""]).arg(command.get_program());
    limited.args(command.get_args()).current_dir(folder.path()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    let output = limited.output().unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{out}{err}");
    assert!(err.contains("huge.png: needs 588000000 bytes of memory, which are not free"), "{err}");
    assert!(err.contains("a.png: ") && err.contains("1 of 2 failed"), "{err}");
}

#[test]
fn photos_have_a_limit_that_can_be_raised() {
    let folder = workplace();
    let arguments = ["infer", "a.png", "b.jpg", "-m", "rtmo-t", "--no-draw", "--max-pixels", "6000"];
    let (_, err) = expect(1, folder.path(), &[&arguments[..], &SMALL].concat());
    let message =
        "a.png: the header says 120x80 pixels; the limit is 6000 pixels ('--max-pixels 9600' allows it)";
    assert!(err.contains(message) && err.contains("b.jpg: "), "{err}");
    let raised = [&arguments[..arguments.len() - 1], &["9600"]].concat();
    expect(0, folder.path(), &[&raised[..], &SMALL].concat());
}

#[test]
fn damage_that_a_decoder_works_around_is_told() {
    let folder = workplace();
    let jpeg = fs::read(folder.path().join("b.jpg")).unwrap();
    fs::write(folder.path().join("cut.jpg"), &jpeg[..jpeg.len() - 40]).unwrap();
    let arguments = ["infer", "cut.jpg", "a.png", "-m", "rtmo-t", "--no-draw"];
    let (_, err) = expect(0, folder.path(), &[&arguments[..], &SMALL].concat());
    let warnings: Vec<&str> = err.lines().filter(|line| line.starts_with("warning")).collect();
    assert!(
        warnings.len() == 1 && warnings[0].starts_with("warning: cut.jpg: Premature end of JPEG file"),
        "{err}"
    );
    assert!(err.contains("\ncut.jpg: ") && err.contains("\na.png: "), "{err}");
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
    // The photo without an id fails alone; where none has one, nothing begins.
    let err = infer(1, &["a.png", "b.jpg"], &["--coco-images", "list.json"]);
    assert!(err.contains("b.jpg: has no COCO image id: list.json lists no image of this name"), "{err}");
    let rows: Value = serde_json::from_slice(&fs::read(at.join("c.json")).unwrap()).unwrap();
    assert_eq!(rows[0]["image_id"], 41);
    let err = infer(2, &["b.jpg"], &["--coco-images", "list.json"]);
    assert!(err.contains("list.json lists no image of this name"), "{err}");
    let err = infer(1, &["a.png"], &["--coco-images", "none.json"]);
    assert!(err.contains("none.json: cannot read"), "{err}");
    // Two photos with one id would be one image.
    fs::copy(at.join("a.png"), at.join("1.png")).unwrap();
    fs::copy(at.join("b.jpg"), at.join("COCO_val_1.jpg")).unwrap();
    let err = infer(1, &["1.png", "COCO_val_1.jpg"], &[]);
    assert!(err.contains("COCO_val_1.jpg: has the same COCO image id as 1.png, 1"), "{err}");
    // The last digits of any name are no id.
    let hash = "000000000785_jpg.rf.0a1b9.png";
    fs::copy(at.join("a.png"), at.join(hash)).unwrap();
    let err = infer(2, &[hash], &[]);
    assert!(err.contains("take an image's id from a name that is a number"), "{err}");
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
    let mut err = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(err.by_ref().any(|line| line.unwrap().starts_with("a.png: ")));
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert!(err.next().unwrap().unwrap().starts_with("interrupted"));
    // It does not wait for the pipe.
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(
        err.any(|line| line
            .unwrap()
            .contains("1 of 3 photos done; p.jsonl is not written ('--json -' gives"))
    );
    assert_eq!(names(folder.path()), ["a.png", "b.jpg", "c.jpg", "rtmo-out", "weights"]);
    assert_eq!(names(&folder.path().join("rtmo-out")), ["a.png"]);
}

#[test]
fn coco_results_on_standard_output_are_alone_there() {
    let folder = workplace();
    fs::rename(folder.path().join("a.png"), folder.path().join("7.png")).unwrap();
    let arguments = ["infer", "7.png", "-m", "rtmo-t", "--no-draw", "--coco", "-", "--max-people", "1"];
    let (out, err) = expect(0, folder.path(), &[&arguments[..], &SMALL].concat());
    let rows: Value = serde_json::from_str(&out).expect(&out);
    assert_eq!(rows[0]["image_id"], 7);
    assert!(err.contains("7.png: 1 person"), "{err}");
}

/// Runs `infer -` on a list, and returns the exit status, the images in lines of JSON, and standard error.
fn listed(folder: &Path, list: &[u8], more: &[&str]) -> (Option<i32>, Vec<String>, String) {
    let arguments =
        [&["infer", "-", "-m", "rtmo-t", "--no-draw", "--json", "-", "-q"], more, &SMALL].concat();
    let mut child = program(folder, &arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that ends early closes its input.
    child.stdin.take().unwrap().write_all(list).ok();
    let output = child.wait_with_output().unwrap();
    let images = json_lines(&text(&output.stdout));
    let images = images.iter().map(|line| line["image"].as_str().unwrap().to_string()).collect();
    (output.status.code(), images, text(&output.stderr))
}

#[test]
fn lists_are_bytes_and_bad_lines_do_not_stop_the_rest() {
    let folder = workplace();
    let at = folder.path();
    let both = ["a.png", "b.jpg"].map(String::from).to_vec();
    // What editors on Windows write.
    assert_eq!(
        listed(at, b"\xef\xbb\xbfa.png\r\n\r\nb.jpg\r\n", &[]),
        (Some(0), both.clone(), String::new())
    );
    assert_eq!(listed(at, b"a.png\0b.jpg\0", &["--null"]), (Some(0), both.clone(), String::new()));
    let list = [&b"a.png\n"[..], &[b'x'; 70_000], b"\nmissing.jpg\na\0b\nb.jpg\n"].concat();
    let (code, images, err) = listed(at, &list, &["--batch", "3"]);
    assert_eq!((code, images), (Some(1), both));
    for part in [
        "line 2: 70000 bytes",
        "missing.jpg: cannot read",
        "line 4: has a zero byte",
        "--null",
        "3 of 5 failed",
    ] {
        assert!(err.contains(part), "{part}: {err}");
    }
    assert!(err.len() < 1000, "{err}");
    let (code, _, err) = listed(at, b"\n\n", &[]);
    assert!(code == Some(2) && err.contains("the list names no photo"), "{err}");
    let (code, images, err) = listed(at, b"a.png\n./a.png\nb.jpg\nweights/../a.png\n", &[]);
    // Notes are left out by -q.
    assert_eq!((code, images.len(), err.as_str()), (Some(0), 2, ""));
    let (_, err) = expect(2, at, &["infer", "a.png", "--null"]);
    assert!(err.contains("no PATH is '-'"), "{err}");
}

#[cfg(target_os = "linux")]
#[test]
fn names_need_not_be_text() {
    use std::os::unix::ffi::OsStrExt;
    let folder = workplace();
    let name = std::ffi::OsStr::from_bytes(b"\xe4.png");
    fs::copy(folder.path().join("a.png"), folder.path().join(name)).unwrap();
    let (code, images, err) = listed(folder.path(), b"\xe4.png\n", &[]);
    assert_eq!((code, images, err), (Some(0), vec!["\u{fffd}.png".to_string()], String::new()));
}

#[test]
fn a_photo_may_come_on_standard_input() {
    let folder = workplace();
    for photo in ["a.png", "b.jpg"] {
        let bytes = fs::read(folder.path().join(photo)).unwrap();
        assert_eq!(listed(folder.path(), &bytes, &[]), (Some(0), vec!["stdin".to_string()], String::new()));
    }
    let (code, _, err) = listed(folder.path(), b"\x89PNG\r\n\x1a\n", &[]);
    assert!(code == Some(1) && err.contains("stdin: "), "{err}");
}

#[test]
fn a_list_is_worked_on_as_it_arrives() {
    let folder = workplace();
    let arguments = ["infer", "-", "-m", "rtmo-t", "--no-draw", "--json", "-", "-q", "--batch", "4"];
    let mut child = program(folder.path(), &[&arguments[..], &SMALL].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut list = child.stdin.take().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    for name in ["a.png", "b.jpg"] {
        writeln!(list, "{name}").unwrap();
        // The list stays open, and the batch has room.
        assert!(out.next().unwrap().unwrap().contains(name));
    }
    drop(list);
    assert!(out.next().is_none() && child.wait().unwrap().success());
}

/// A picture that this run draws is no photo of it. The photos behind it are done.
#[test]
fn a_list_that_names_the_runs_own_picture() {
    let folder = workplace();
    let arguments = ["infer", "-", "-m", "rtmo-t", "--out", "drawn", "--json", "-"];
    let mut child = program(folder.path(), &[&arguments[..], &SMALL].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut list = child.stdin.take().unwrap();
    writeln!(list, "a.png").unwrap();
    let drawn = folder.path().join("drawn/a.png");
    let start = std::time::Instant::now();
    while !drawn.exists() {
        assert!(start.elapsed().as_secs() < 60, "no picture");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    writeln!(list, "drawn/a.png\nb.jpg").unwrap();
    drop(list);
    let output = child.wait_with_output().unwrap();
    let (lines, err) = (json_lines(&text(&output.stdout)), text(&output.stderr));
    let images: Vec<&str> = lines.iter().map(|line| line["image"].as_str().unwrap()).collect();
    assert_eq!((output.status.code(), images), (Some(1), vec!["a.png", "b.jpg"]), "{err}");
    assert!(err.contains("drawn/a.png: is no photo of this run, but what it writes"), "{err}");
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_wait_for_a_list() {
    let folder = workplace();
    let arguments = ["infer", "-", "-m", "rtmo-t", "--no-draw", "--json", "-"];
    let mut child = program(folder.path(), &[&arguments[..], &SMALL].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut list = child.stdin.take().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    writeln!(list, "a.png").unwrap();
    assert!(out.next().unwrap().unwrap().contains("a.png"));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(list);
}

#[cfg(unix)]
#[test]
fn pipes_in_folders_are_left_out() {
    let folder = workplace();
    let at = folder.path();
    assert!(Command::new("mkfifo").arg(at.join("c.jpg")).status().unwrap().success());
    let (_, err) = expect(0, at, &[&["infer", ".", "-m", "rtmo-t", "--no-draw"], &SMALL[..]].concat());
    assert!(err.contains("left out 1 pipe, socket or device and 1 subfolder"), "{err}");
    assert!(err.contains("a.png: ") && err.contains("b.jpg: "), "{err}");
    let (_, err) = expect(0, at, &[&["infer", "*.jpg", "-m", "rtmo-t", "--no-draw"], &SMALL[..]].concat());
    assert!(err.contains("'*.jpg': left out 1 pipe"), "{err}");
}

#[test]
fn numbers_that_are_not_finite_are_told() {
    let folder = workplace();
    let at = folder.path();
    // A bias of the boxes' sizes beyond what f32's exponential can take.
    let checkpoint = checkpoint();
    let tensors: Vec<(&str, &[usize], Vec<f32>)> = checkpoint
        .names()
        .map(|name| {
            let shape = checkpoint.shape(name).unwrap();
            let mut values = checkpoint.tensor(name, shape).unwrap();
            if name.contains("out_bbox") && name.ends_with("bias") {
                values[2..].iter_mut().for_each(|v| *v += 95.0);
            }
            (name, shape, values)
        })
        .collect();
    let tensors = tensors.iter().map(|(name, shape, values)| (*name, *shape, &values[..]));
    save_safetensors(at.join("broken.safetensors"), tensors, &BTreeMap::new(), SaveType::F32).unwrap();
    let arguments = ["infer", "a.png", "--weights", "broken.safetensors", "--no-draw", "--json", "-"];
    let (out, err) = expect(0, at, &[&arguments[..], &SMALL].concat());
    let line = &json_lines(&out)[0];
    assert!(
        line["not_finite"].as_u64().unwrap() > 0 && line["people"].as_array().unwrap().is_empty(),
        "{line}"
    );
    assert!(
        err.contains("warning: a.png: the network's numbers for") && err.contains("are not finite"),
        "{err}"
    );
}

#[test]
fn a_skeleton_of_ones_own_names_and_draws() {
    let folder = workplace();
    let at = folder.path();
    let names: Vec<String> = (0..17).map(|k| format!("\"k{k}\"")).collect();
    let skeleton =
        format!("{{\"keypoints\": [{}], \"bones\": [[\"k0\", \"k16\", \"#ff0000\"]]}}", names.join(","));
    fs::write(at.join("own.json"), skeleton).unwrap();
    let infer = |out: &str, more: &[&str]| {
        let arguments = ["infer", "a.png", "-m", "rtmo-t", "--kpt-thr", "0", "--out", out, "--json", "-"];
        expect(0, at, &[&arguments[..], more, &SMALL].concat()).0
    };
    let line = &json_lines(&infer("own", &["--skeleton", "own.json"]))[0];
    assert_eq!(line["keypoint_names"][16], "k16");
    assert!(json_lines(&infer("coco", &[]))[0].get("keypoint_names").is_none());
    assert_ne!(fs::read(at.join("own/a.png")).unwrap(), fs::read(at.join("coco/a.png")).unwrap());
    fs::write(at.join("arm.json"), r#"{"keypoints": ["elbow", "wrist"]}"#).unwrap();
    let (_, err) =
        expect(2, at, &[&["infer", "a.png", "-m", "rtmo-t", "--skeleton", "arm.json"], &SMALL[..]].concat());
    assert!(err.contains("arm.json: 2 keypoints, expected 17"), "{err}");
}

#[test]
fn what_folders_hold_besides_is_told() {
    let folder = workplace();
    let at = folder.path();
    fs::create_dir_all(at.join("photos/deeper")).unwrap();
    for name in ["one.avif", "two.HEIC", "notes.txt"] {
        fs::write(at.join("photos").join(name), "").unwrap();
    }
    fs::copy(at.join("a.png"), at.join("photos/deeper/a.png")).unwrap();
    let infer = |photos: &str, code: i32| {
        expect(code, at, &[&["infer", photos, "-m", "rtmo-t", "--no-draw"], &SMALL[..]].concat()).1
    };
    let besides =
        "left out 2 images of other formats and 1 subfolder (--recursive or 'photos/**/*' goes deeper)";
    let err = infer("photos", 2);
    assert!(err.contains("holds no image") && err.contains(besides), "{err}");
    fs::copy(at.join("a.png"), at.join("photos/a.png")).unwrap();
    assert_eq!(infer("photos", 0).lines().next().unwrap(), format!("note: photos: {besides}"));
    assert!(!infer("photos/**/*", 0).contains("note"));
    let quiet = ["infer", "photos", "-m", "rtmo-t", "--no-draw", "--quiet"];
    assert_eq!(expect(0, at, &[&quiet[..], &SMALL].concat()), (String::new(), String::new()));
}
