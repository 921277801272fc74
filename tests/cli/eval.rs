//! eval: AP of a network on photos, and of results that are there.

use super::{SMALL, expect, json_lines, text, workplace};
use rtmo_engine::{Device, Engine, EngineOptions, Photo};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A random network is sure of nobody.
const LOW: [&str; 2] = ["--score-thr", "0.001"];

/// The folder of all tests, with annotations `a.json` of its two photos: the three people of each that the network is surest
/// of, so that it has an AP of 1.
fn annotated() -> TempDir {
    let folder = workplace();
    let at = |name: &str| folder.path().join(name);
    let options = EngineOptions::default()
        .with_input_size(96, 64)
        .with_device(Device::Cpu)
        .with_max_people(3)
        .with_score_thr(0.001)
        .with_nms_thr(0.9);
    let mut engine = Engine::load(at("weights/rtmo-t.safetensors"), options).unwrap();
    let (mut images, mut people) = (Vec::new(), Vec::new());
    for (id, name) in [(4, "a.png"), (2, "b.jpg")] {
        let photo = Photo::open(at(name)).unwrap();
        images.push(json!({ "id": id, "file_name": name, "width": photo.width, "height": photo.height }));
        for person in &engine.infer(&[photo]).unwrap()[0] {
            let [x1, y1, x2, y2] = person.bbox.map(f64::from);
            let keypoints: Vec<f64> =
                person.keypoints.iter().flat_map(|k| [k.x.into(), k.y.into(), 2.0]).collect();
            people.push(json!({ "id": people.len() + 1, "image_id": id, "category_id": 1, "keypoints": keypoints,
                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0, "num_keypoints": 17 }));
        }
    }
    assert_eq!(people.len(), 6, "the random network finds people");
    let all =
        json!({ "images": images, "annotations": people, "categories": [{ "id": 1, "name": "person" }] });
    fs::write(at("a.json"), all.to_string()).unwrap();
    folder
}

/// Arguments of a run on the photos.
fn run<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let common = [
        "eval",
        "--annotations",
        "a.json",
        "--images",
        ".",
        "-m",
        "rtmo-t",
        "--max-people",
        "3",
        "--nms-thr",
        "0.9",
    ];
    let low =
        if more.iter().any(|option| ["--score-thr", "score"].contains(option)) { &[][..] } else { &LOW };
    [&common[..], &SMALL, low, more].concat()
}

fn json(folder: &Path, name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join(name)).unwrap()).unwrap()
}

#[test]
fn a_run_that_was_interrupted_goes_on() {
    let folder = annotated();
    let (at, record) = (folder.path(), folder.path().join("rtmo-eval.jsonl"));
    let (out, err) = expect(0, at, &run(&["--json", "m.json"]));
    assert!(
        !err.contains("warning") && out.contains("2 of a.json, 6 people annotated, 6 found"),
        "{out}{err}"
    );
    let whole = json(at, "m.json");
    // The reference's precision divides by slightly more than the count.
    assert!((whole["metrics"]["AP"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{whole}");
    assert!(out.lines().any(|line| line.split_whitespace().eq(["AP", "1.0000", "0.574", "+0.426"])), "{out}");
    assert!(
        out.contains("not comparable with this run: 2 images, not 5000, an input of 96x64, not 416x416, --score-thr, --nms-thr, --max-people"),
        "{out}"
    );
    assert_eq!(whole["published"]["metrics"]["AP50"], 0.803);

    // All is there; then one photo's line is half there.
    let lines = fs::read_to_string(&record).unwrap();
    assert_eq!(json_lines(&lines).len(), 3);
    let (out, _) = expect(0, at, &run(&["--json", "m2.json"]));
    assert!(out.contains("2 of 2 photos are done; 0 to do"), "{out}");
    assert_eq!(json(at, "m2.json")["metrics"], whole["metrics"]);
    fs::write(&record, &lines[..lines.len() - 40]).unwrap();
    let (out, _) = expect(0, at, &run(&["--json", "m3.json", "--batch", "2"]));
    assert!(out.contains("1 of 2 photos are done; 1 to do"), "{out}");
    assert_eq!(json(at, "m3.json")["metrics"], whole["metrics"]);
    assert_eq!(json_lines(&fs::read_to_string(&record).unwrap()).len(), 3);

    // With other options it is another run.
    let before = fs::read(&record).unwrap();
    let (_, err) = expect(2, at, &run(&["--score-thr", "0.01"]));
    assert!(err.contains("made with score threshold 0.001, and this run has 0.01; name another"), "{err}");
    let (_, err) = expect(2, at, &run(&["--out", "a.png"]));
    assert!(err.contains("a.png: --out would replace it, but it is a photo of this run"), "{err}");
    assert_eq!(fs::read(&record).unwrap(), before);
    let (out, _) = expect(0, at, &run(&["--score-thr", "0.01", "--restart", "--limit", "1"]));
    assert!(out.contains("1 of a.json, 3 people annotated"), "{out}");

    // A number to standard output is all that is there.
    let (out, _) = expect(0, at, &run(&["--out", "other.jsonl", "--json", "-"]));
    let printed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(printed["metrics"], whole["metrics"]);
}

#[test]
fn results_that_are_there_are_judged() {
    let folder = annotated();
    let at = folder.path();
    let infer = [
        "infer",
        "a.png",
        "b.jpg",
        "-m",
        "rtmo-t",
        "--max-people",
        "3",
        "--nms-thr",
        "0.9",
        "--no-draw",
        "--coco",
        "r.json",
    ];
    expect(0, at, &[&infer[..], &SMALL, &LOW, &["--coco-images", "a.json"]].concat());
    let judge = ["eval", "-a", "a.json", "--results", "r.json"];
    for rule in ["xtcocotools", "pycocotools"] {
        let (out, _) = expect(0, at, &[&judge[..], &["--rule", rule, "--json", "m.json"]].concat());
        assert!(out.contains(&format!("by the rule of {rule}")), "{out}");
        // Coordinates in files are rounded.
        assert!((json(at, "m.json")["metrics"]["AP"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{out}");
    }
    let (_, err) = expect(2, at, &[&judge[..], &["--json", "r.json"]].concat());
    assert!(err.contains("r.json: --json would replace it, but it is the results to judge"), "{err}");
    let (_, err) = expect(2, at, &[&judge[..], &["--rule", "mine"]].concat());
    assert!(err.contains("expected xtcocotools or pycocotools"), "{err}");
    expect(2, at, &[&judge[..], &["--images", "."]].concat());
    expect(2, at, &["eval", "-a", "a.json"]);
    // No panic, no number.
    fs::write(at.join("r.json"), "[{\"image_id\": 4, \"category_id\": 1, \"score\": NaN}]").unwrap();
    let (out, err) = expect(1, at, &judge);
    assert!(out.is_empty() && err.contains("r.json: results[0] (image_id 4): has no 'keypoints'"), "{err}");
    let (_, err) = expect(1, at, &["eval", "-a", "a.json", "--results", "r.json", "--crowdpose"]);
    assert!(err.contains("a.json: annotations[0] (id 1): 'keypoints' has 51 values, expected 42"), "{err}");
}

#[test]
fn photos_that_are_missing_or_broken_give_no_number() {
    let folder = annotated();
    let at = folder.path();
    let (_, err) = expect(2, at, &["eval", "-a", "a.json", "--images", "weights", "-m", "rtmo-t"]);
    assert!(err.contains("2 of 2 are missing: is --images their folder?"), "{err}");
    let broken = fs::read(at.join("b.jpg")).unwrap();
    fs::write(at.join("b.jpg"), "no photo").unwrap();
    let (out, err) = expect(1, at, &run(&[]));
    assert!(err.contains("1 of 2 photos cannot be read, so there is no AP"), "{err}");
    assert!(!out.contains("AP50"), "{out}");
    fs::remove_file(at.join("b.jpg")).unwrap();
    let (_, err) = expect(2, at, &run(&[]));
    assert!(
        err.contains("b.jpg: no such photo; 1 of 2 are missing; --skip-missing leaves them out"),
        "{err}"
    );
    let (out, err) = expect(0, at, &run(&["--skip-missing"]));
    assert!(
        err.contains("1 of 2 photos are missing") && out.contains("1 of a.json, 3 people annotated"),
        "{out}{err}"
    );
    // What was done is kept.
    fs::write(at.join("b.jpg"), broken).unwrap();
    let (out, _) = expect(0, at, &run(&[]));
    assert!(out.contains("1 of 2 photos are done; 1 to do"), "{out}");

    let text = fs::read_to_string(at.join("a.json")).unwrap();
    for (name, part) in [("../b.jpg", "leads out of the folder"), ("/b.jpg", "leads out"), ("", "leads out")]
    {
        fs::write(at.join("b.json"), text.replace("\"b.jpg\"", &json!(name).to_string())).unwrap();
        let (_, err) = expect(1, at, &["eval", "-a", "b.json", "--images", ".", "-m", "rtmo-t"]);
        assert!(err.contains(part) && err.contains("the image of id 2"), "{err}");
    }
    // Two images of one photo, each with its people.
    let mut twice: Value = serde_json::from_str(&text).unwrap();
    let (mut image, mut people) =
        (twice["images"][1].clone(), twice["annotations"].as_array().unwrap().clone());
    image["id"] = json!(7);
    people.retain(|person| person["image_id"] == 2);
    assert_eq!((&image["file_name"], people.len()), (&json!("b.jpg"), 3));
    twice["images"].as_array_mut().unwrap().push(image);
    for (i, mut person) in people.into_iter().enumerate() {
        (person["id"], person["image_id"]) = (json!(100 + i), json!(7));
        twice["annotations"].as_array_mut().unwrap().push(person);
    }
    fs::write(at.join("d.json"), twice.to_string()).unwrap();
    let arguments: Vec<&str> =
        run(&["--out", "d.jsonl"]).into_iter().map(|a| if a == "a.json" { "d.json" } else { a }).collect();
    let (out, _) = expect(0, at, &arguments);
    assert!(out.contains("3 of d.json, 9 people annotated, 9 found"), "{out}");
    // Photos of another size than annotated are told.
    fs::write(at.join("c.json"), text.replace("\"width\":120", "\"width\":121")).unwrap();
    let arguments: Vec<&str> =
        run(&["--out", "c.jsonl"]).into_iter().map(|a| if a == "a.json" { "c.json" } else { a }).collect();
    let (_, err) = expect(0, at, &arguments);
    assert!(err.contains("a.png: 120x80, and the annotations are for 121x80"), "{err}");
}

#[test]
fn precisions_and_values_are_compared() {
    let folder = annotated();
    let at = folder.path();
    let (out, err) = expect(0, at, &run(&["--compare", "fp32,fp16,fp32", "--json", "c.json"]));
    assert!(err.contains("fp16 is left out: "), "{err}");
    let row = out.lines().find(|line| line.trim_start().starts_with("fp32 ")).unwrap_or_default();
    let row: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(
        row[..11],
        ["fp32", "1.0000", "+0.0000", "1.0000", "6", "6", "0", "0", "0.0000", "0.0000", "0.000"],
        "{out}"
    );
    let all = json(at, "c.json");
    assert_eq!(
        (all["runs"].as_array().unwrap().len(), &all["left_out"][0]["precision"]),
        (1, &json!("fp16"))
    );
    assert!(at.join("rtmo-eval.fp32.jsonl").exists() && !at.join("rtmo-eval.fp16.jsonl").exists());
    let (_, err) = expect(1, at, &run(&["--compare", "fp16"]));
    assert!(err.contains("none of these precisions runs on this machine"), "{err}");

    let sweep = ["--sweep", "score", "--values", "0.001,0.99", "--plot", "s.svg", "--json", "s.json"];
    let (out, _) = expect(0, at, &run(&sweep));
    assert!(out.lines().any(|line| line.split_whitespace().take(2).eq(["0.001", "1.0000"])), "{out}");
    let all = json(at, "s.json");
    assert_eq!((&all["runs"][1]["value"], &all["runs"][1]["metrics"]["AP"]), (&json!("0.99"), &json!(0.0)));
    assert!(fs::read_to_string(at.join("s.svg")).unwrap().contains("AP against speed"));
    let without: Vec<&str> = run(&["--sweep", "size", "--values", "96x64,64"])
        .into_iter()
        .filter(|a| !["--size", "96x64"].contains(a))
        .collect();
    let (out, _) = expect(0, at, &without);
    assert!(out.lines().any(|line| line.split_whitespace().take(2).eq(["96x64", "1.0000"])), "{out}");
    assert!(at.join("rtmo-eval.64x64.jsonl").exists());
    for (more, part) in [
        (&["--sweep", "size"][..], "--size is what --sweep size varies"),
        (&["--sweep", "score", "--score-thr", "0.2"], "--score-thr is what --sweep score varies"),
        (&["--sweep", "score", "--values", "2"], "--values 2: expected a number from 0 to 1"),
        (&["--sweep", "score", "--values", "0.1,0.10"], "0.1 is there twice"),
        (&["--sweep", "score", "--plot", "a.png"], "needs a name that ends in .svg"),
        (
            &["--sweep", "score", "--values", "0.1", "--json", "rtmo-eval.0.1.jsonl"],
            "it is what --out writes",
        ),
    ] {
        let (_, err) = expect(2, at, &run(more));
        assert!(err.contains(part), "{err}\nexpected {part}");
    }
    expect(2, at, &run(&["--values", "0.1"]));
    let help = text(&super::run(at, &["eval", "--help"]).stdout);
    assert!(help.contains("Examples:") && help.contains("--compare"), "{help}");
}
