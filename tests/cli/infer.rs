//! What infer finds, writes and draws.

use super::{SMALL, expect, json_lines, names, program, text, workplace};
use rtmo_engine::backend::{Device, Placement};
use rtmo_engine::{Engine, EngineOptions, Photo};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
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
    assert!(err.is_empty(), "{err}");
    assert!(out.lines().any(|l| l.starts_with("a.png: ") && l.ends_with(" ms")), "{out}");

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
    let (out, err) = expect(1, folder.path(), &[&arguments[..], &SMALL].concat());
    assert!(err.contains("bad.jpg: not an image"), "{err}");
    assert!(err.contains("missing.jpg"), "{err}");
    assert!(err.contains("2 of 4 failed"), "{err}");
    assert!(err.contains("note: .: left out 1 subfolder ('./**/*' goes deeper)"), "{err}");
    assert!(out.contains("a.png: ") && out.contains("b.jpg: "), "{out}");
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
    assert!(out.contains("a.png: ") && err.contains("1 of 2 failed"), "{out}{err}");
}

#[test]
fn photos_have_a_limit_that_can_be_raised() {
    let folder = workplace();
    let arguments = ["infer", "a.png", "b.jpg", "-m", "rtmo-t", "--no-draw", "--max-pixels", "6000"];
    let (out, err) = expect(1, folder.path(), &[&arguments[..], &SMALL].concat());
    let message =
        "a.png: the header says 120x80 pixels; the limit is 6000 pixels ('--max-pixels 9600' allows it)";
    assert!(err.contains(message) && out.contains("b.jpg: "), "{out}{err}");
    let raised = [&arguments[..arguments.len() - 1], &["9600"]].concat();
    expect(0, folder.path(), &[&raised[..], &SMALL].concat());
}

#[test]
fn damage_that_a_decoder_works_around_is_told() {
    let folder = workplace();
    let jpeg = fs::read(folder.path().join("b.jpg")).unwrap();
    fs::write(folder.path().join("cut.jpg"), &jpeg[..jpeg.len() - 40]).unwrap();
    let arguments = ["infer", "cut.jpg", "a.png", "-m", "rtmo-t", "--no-draw"];
    let (out, err) = expect(0, folder.path(), &[&arguments[..], &SMALL].concat());
    assert!(
        err.starts_with("warning: cut.jpg: Premature end of JPEG file") && err.lines().count() == 1,
        "{err}"
    );
    assert!(out.contains("cut.jpg: ") && out.contains("a.png: "), "{out}");
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

#[test]
fn lists_that_are_no_lists_get_a_sentence() {
    let folder = workplace();
    let listed = |list: &[u8]| {
        let mut child = program(folder.path(), &["infer", "-", "--no-draw"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(list).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        text(&output.stderr)
    };
    let print0 = listed(b"a.png\0b.jpg\0");
    assert!(print0.contains("'-' takes one path a line, got a zero byte"), "{print0}");
    let binary = listed(b"\x89PNG\x0d\x0a\x1a\xff\x0a");
    assert!(binary.contains("'-' takes one path a line, got something that is not UTF-8 text"), "{binary}");
    let long = listed(&[b'x'; 70_000]);
    assert!(long.contains("got a line of 65536 bytes or more") && long.len() < 200, "{long}");
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
    let besides = "left out 2 images of other formats and 1 subfolder ('photos/**/*' goes deeper)";
    let err = infer("photos", 2);
    assert!(err.contains("holds no image") && err.contains(besides), "{err}");
    fs::copy(at.join("a.png"), at.join("photos/a.png")).unwrap();
    assert_eq!(infer("photos", 0).trim(), format!("note: photos: {besides}"));
    assert_eq!(infer("photos/**/*", 0), "");
    let quiet = ["infer", "photos", "-m", "rtmo-t", "--no-draw", "--quiet"];
    assert_eq!(expect(0, at, &[&quiet[..], &SMALL].concat()), (String::new(), String::new()));
}
