//! Average precision against pycocotools and xtcocotools, and files that are none.
#![cfg(feature = "eval")]

use rtmo_engine::eval::{Annotations, Benchmark, Results, Rule, evaluate};
use rtmo_engine::{Keypoint, Person};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

#[path = "weights/memory.rs"]
mod memory;

/// Stems of the cases in a folder.
fn cases(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut stems: Vec<String> =
        names.filter_map(|name| name.strip_suffix(".expected.json").map(String::from)).collect();
    stems.sort();
    stems
}

/// Compares all cases of a folder with what was expected; returns how many numbers were equal to the last bit, and how many
/// there were.
fn compare(folder: &Path) -> (usize, usize) {
    let (mut same, mut all) = (0, 0);
    for case in cases(folder) {
        let file = |suffix: &str| folder.join(format!("{case}.{suffix}.json"));
        let benchmark = if case.starts_with("crowdpose") { Benchmark::CrowdPose } else { Benchmark::Coco };
        let annotations = Annotations::open(file("annotations"), benchmark).unwrap();
        let results = Results::open(file("results"), &annotations).unwrap();
        let expected: BTreeMap<String, Vec<f64>> =
            serde_json::from_str(&fs::read_to_string(file("expected")).unwrap()).unwrap();
        for (rule, expected) in expected {
            let metrics = evaluate(&annotations, &results, rule.parse().unwrap()).unwrap();
            assert_eq!(metrics.iter().count(), expected.len());
            for ((name, got), expected) in metrics.iter().zip(expected) {
                let got = got.unwrap_or(-1.0);
                // The order of a sum of similarities differs, hence its last bits; counts must not.
                assert!((got - expected).abs() <= 1e-12, "{case}, {rule}, {name}: {got}, not {expected}");
                same += usize::from(got == expected);
                all += 1;
            }
        }
    }
    (same, all)
}

#[test]
fn numbers_are_those_of_pycocotools_and_xtcocotools() {
    let (same, all) = compare(Path::new("tests/data/eval"));
    assert!(all > 300 && same == all, "{same} of {all} are the same");
    // Larger ones, which tools/eval/fixtures.py makes.
    if let Some(folder) = std::env::var_os("RTMO_EVAL_CASES") {
        let (same, all) = compare(Path::new(&folder));
        println!("{same} of {all} numbers are the same to the last bit");
    }
}

/// 17 or 14 keypoints at one place.
fn keypoints(n: usize, place: &str) -> String {
    format!("[{}]", vec![place; n].join(","))
}

/// Annotations of one image and one person, with some text replaced.
fn annotated(from: &str, to: &str) -> String {
    let text = format!(
        r#"{{"images":[{{"id":5,"file_name":"five.jpg","width":64,"height":48}}],"categories":[{{"id":1}}],"annotations":[{{"id":7,"image_id":5,"category_id":1,"bbox":[1,2,30,40],"area":900,"iscrowd":0,"num_keypoints":17,"keypoints":{}}}]}}"#,
        keypoints(17, "9,8,2")
    );
    assert!(text.contains(from), "{from}");
    text.replacen(from, to, 1)
}

/// Results of one person, with some text replaced.
fn found(from: &str, to: &str) -> String {
    let text = format!(
        r#"[{{"image_id":5,"category_id":1,"score":0.5,"bbox":[1,2,30,40],"keypoints":{}}}]"#,
        keypoints(17, "9,8,0.7")
    );
    assert!(text.contains(from), "{from}");
    text.replacen(from, to, 1)
}

fn read(text: &str, benchmark: Benchmark) -> rtmo_engine::Result<Annotations> {
    Annotations::read(text.as_bytes(), Path::new("a.json"), benchmark)
}

fn annotations() -> Annotations {
    read(&annotated("", ""), Benchmark::Coco).unwrap()
}

fn results(text: &str) -> rtmo_engine::Result<Results> {
    Results::read(text.as_bytes(), Path::new("r.json"), &annotations())
}

#[test]
fn what_is_wrong_with_annotations_is_named() {
    for (from, to, part) in [
        (r#""id":7,"#, "", "annotations[0]: has no 'id', expected a whole number from 0 on"),
        (r#""id":7,"#, r#""id":-7,"#, "annotations[0]: 'id' is -7, expected"),
        (r#""id":7,"#, r#""id":7.5,"#, "'id' is 7.5"),
        (r#""id":7,"#, r#""id":"7","#, "'id' is a text"),
        (r#""id":7,"#, r#""id":7,"id":8,"#, "has 'id' twice"),
        (r#""image_id":5,"#, "", "annotations[0] (id 7): has no 'image_id'"),
        (
            r#""image_id":5,"#,
            r#""image_id":6,"#,
            "annotations[0] (id 7): 'image_id' is 6, and 'images' lists no such",
        ),
        (
            r#""category_id":1,"#,
            r#""category_id":2,"#,
            "(id 7): 'category_id' is 2, and 'categories' lists no such",
        ),
        ("[1,2,30,40]", "[1,2,30]", "(id 7): 'bbox' has 3 values, expected 4 numbers (x, y, width, height)"),
        ("[1,2,30,40]", "[1,NaN,30,40]", "(id 7): 'bbox'[1] is null, NaN or an infinity, expected a number"),
        ("[1,2,30,40]", "[1,2,30,-4]", "(id 7): 'bbox' has a side of -4"),
        ("[1,2,30,40]", "{}", "(id 7): 'bbox' is an object"),
        (
            "[1,2,30,40]",
            "[1,2,3e39,4]",
            "'bbox'[2] is 3000000000000000000000000000000000000000, expected a number of the range",
        ),
        (r#""area":900,"#, "", "(id 7): has no 'area'"),
        ("900", "Infinity", "(id 7): 'area' is null, NaN or an infinity"),
        ("900", "-1", "(id 7): 'area' is -1"),
        (r#""iscrowd":0"#, r#""iscrowd":2"#, "(id 7): 'iscrowd' is 2, expected 0 or 1"),
        (r#""num_keypoints":17"#, r#""num_keypoints":18"#, "'num_keypoints' is 18, expected at most 17"),
        (
            "9,8,2",
            "9,8,2,1",
            "(id 7): 'keypoints' has 52 values, expected 51 numbers (17 times x, y, visibility)",
        ),
        ("9,8,2", "9,[8],2", "(id 7): 'keypoints'[1] is a list"),
        ("9,8,2", "9,-Infinity,2", "(id 7): 'keypoints'[1] is null, NaN or an infinity"),
        ("9,8,2", "9,1e999,2", "number out of range"),
        (r#"{"id":5,"#, "{", "images[0]: has no 'id'"),
        (r#"{"id":5,"#, r#"{"id":5},{"id":5,"#, "images[1] (id 5): another image has this id"),
        (r#""five.jpg""#, "5", "images[0] (id 5): 'file_name' is a number"),
        (r#"[{"id":1}]"#, "[]", "lists no such category"),
        (r#"[{"id":1}]"#, "[{}]", "categories[0]: has no 'id'"),
        (r#""categories":[{"id":1}],"#, "", "has no list 'categories'"),
        (r#""annotations""#, r#""others""#, "has no list 'annotations'"),
        (r#""images""#, r#""others""#, "has no list 'images'"),
        (r#"{"images""#, r#"{"images":[{"id":1}],"images""#, "'images' is there twice"),
        ("]}]}", "]}]}x", "trailing characters at line 1"),
        ("]}]}", "]}]", "EOF"),
        ("]}]}", "]}7]}", "expected `,` or `]`"),
        (r#"{"images""#, r#"[{"images""#, "expected COCO annotations"),
    ] {
        let error = read(&annotated(from, to), Benchmark::Coco).expect_err(to).to_string();
        assert!(error.starts_with("a.json: ") && error.contains(part), "{error}\nexpected {part}");
    }
    let twice = annotated("", "").replacen(
        "]}]}",
        &format!("]}},{}", &annotated("", "").split_once(r#""annotations":["#).unwrap().1),
        1,
    );
    let error = read(&twice, Benchmark::Coco).unwrap_err().to_string();
    assert!(error.contains("annotations[1] (id 7): another annotation has this id"), "{error}");
    let other =
        twice.replacen(r#""id":7,"#, r#""id":8,"#, 1).replacen(r#""category_id":1"#, r#""category_id":3"#, 1);
    let error = read(&other, Benchmark::Coco).unwrap_err().to_string();
    assert!(error.contains("annotations[1] (id 7): 'category_id' is 1, expected 3"), "{error}");
    let error = read(&annotated("", ""), Benchmark::CrowdPose).unwrap_err().to_string();
    assert!(error.contains("'keypoints' has 51 values, expected 42 numbers (14 times"), "{error}");
    let empty = r#"{"images":[],"categories":[{"id":1}],"annotations":[]}"#;
    assert!(read(empty, Benchmark::Coco).unwrap_err().to_string().contains("'images' is empty"));
    let crowds =
        r#"{"images":[{"id":1,"crowdIndex":0.5},{"id":2}],"categories":[{"id":1}],"annotations":[]}"#;
    let error = read(crowds, Benchmark::CrowdPose).unwrap_err().to_string();
    assert!(error.contains("the image of id 2 has no 'crowdIndex'"), "{error}");
}

#[test]
fn what_is_wrong_with_results_is_named() {
    for (from, to, part) in [
        (r#""image_id":5,"#, "", "results[0]: has no 'image_id'"),
        (
            r#""image_id":5,"#,
            r#""image_id":6,"#,
            "results[0] (image_id 6): 'image_id' is 6, and the annotations list no such image",
        ),
        (
            r#""category_id":1,"#,
            r#""category_id":2,"#,
            "results[0] (image_id 5): 'category_id' is 2, expected 1",
        ),
        (r#""score":0.5,"#, "", "(image_id 5): has no 'score'"),
        ("0.5", "NaN", "(image_id 5): 'score' is null, NaN or an infinity"),
        (
            "9,8,0.7",
            "9,8",
            "(image_id 5): 'keypoints' has 50 values, expected 51 numbers (17 times x, y, score)",
        ),
        ("9,8,0.7", "9,8,\"a\"", "(image_id 5): 'keypoints'[2] is a text"),
        ("[1,2,30,40]", "[1,2]", "(image_id 5): 'bbox' has 2 values"),
        ("[1,2,30,40]", "[1,2,30,-1]", "'bbox' has a side of -1"),
        ("[{", r#"{"annotations":[{"#, "expected a list of COCO results"),
        ("[{", "[3,{", "invalid type: integer `3`, expected an object"),
        ("]}]", "]}", "EOF"),
    ] {
        let error = results(&found(from, to)).expect_err(to).to_string();
        assert!(error.starts_with("r.json: ") && error.contains(part), "{error}\nexpected {part}");
    }
    // A message quotes no more than the beginning of a text.
    let error = results(&format!("[\"{}\"]", "x".repeat(100_000))).unwrap_err().to_string();
    assert!(error.len() < 500 && error.contains("invalid type: string \"xxx"), "{error}");
    assert!(error.contains("expected an object at line 1"), "{error}");
    let one = found("", "");
    let two = format!("{},{}", one.trim_end_matches(']'), &found(r#""bbox":[1,2,30,40],"#, "")[1..]);
    let error = results(&(two)).unwrap_err().to_string();
    assert!(
        error.contains("results[1] (image_id 5): has no 'bbox', and those before it have one"),
        "{error}"
    );
    // An empty box is none.
    assert!(results(&found("[1,2,30,40]", "[]")).is_ok());
    assert_eq!(results("[]").unwrap().people(), 0);
}

#[test]
fn what_others_write_is_read() {
    // NaN where nobody looks, ids as 5.0, truth values, a byte-order mark, lists in another order, fields that nobody knows.
    let text =
        annotated(r#""area":900,"#, r#""area":900.0,"segmentation":[[NaN,-Infinity]],"x":{"y":[Infinity]},"#)
            .replace(r#""iscrowd":0"#, r#""iscrowd":false"#)
            .replace(r#""image_id":5,"#, r#""image_id":5.0,"#);
    let text = format!("\u{feff}{text}");
    let annotations = read(&text, Benchmark::Coco).unwrap();
    let image = &annotations.images()[0];
    assert_eq!((image.id, image.file_name.as_deref(), image.size), (5, Some("five.jpg"), Some((64, 48))));
    assert_eq!((annotations.people(), annotations.category()), (1, 1));
    // The lists may come in any order.
    let (images, rest) = text[3..].split_once(r#","categories":"#).unwrap();
    let (categories, people) = rest.split_once(r#","annotations":"#).unwrap();
    let turned = format!(
        r#"{{"annotations":{},"categories":{categories},{}}}"#,
        people.strip_suffix('}').unwrap(),
        images.strip_prefix('{').unwrap()
    );
    assert_eq!(read(&turned, Benchmark::Coco).unwrap().people(), 1, "{turned}");
}

#[test]
fn people_in_memory_count_as_those_of_files() {
    let annotations = annotations();
    let person = |score| Person::new(0.5, [1.0, 2.0, 31.0, 42.0], vec![Keypoint::new(9.0, 8.0, score); 17]);
    // The reference's precision is divided by slightly more than the count: its 1 is not quite 1.
    let ap = |results: &Results, rule| {
        evaluate(&annotations, results, rule).unwrap().ap().map(|ap| (ap * 1e9).round() / 1e9)
    };
    let mut results = Results::new(&annotations);
    assert_eq!(ap(&results, Rule::Xtcocotools), Some(0.0));
    results.add(&annotations, 5, &[person(0.7)]).unwrap();
    assert_eq!(ap(&results, Rule::Xtcocotools), Some(1.0));
    // Without a score above 0 a person counts by pycocotools only.
    let mut unseen = Results::new(&annotations);
    unseen.add(&annotations, 5, &[person(0.0)]).unwrap();
    assert_eq!((ap(&unseen, Rule::Xtcocotools), ap(&unseen, Rule::Pycocotools)), (Some(0.0), Some(1.0)));
    // A score of one part in a thousand million is above 0.
    let mut faint = Results::new(&annotations);
    faint.add(&annotations, 5, &[person(1e-9)]).unwrap();
    assert_eq!(ap(&faint, Rule::Xtcocotools), Some(1.0));

    let error = results.add(&annotations, 6, &[]).unwrap_err().to_string();
    assert!(error.contains("image of id 6: the annotations do not list it"), "{error}");
    let short = Person::new(0.5, [0.0; 4], vec![Keypoint::new(9.0, 8.0, 0.5); 14]);
    let error = results.add(&annotations, 5, &[short]).unwrap_err().to_string();
    assert!(error.contains("person 1 has 14 keypoints, expected 17"), "{error}");
    let error = results.add(&annotations, 5, &[person(f32::NAN)]).unwrap_err().to_string();
    assert!(error.contains("not finite"), "{error}");
}

#[test]
fn the_first_images_can_be_judged_alone() {
    let text = annotated(r#"{"id":5,"#, r#"{"id":4},{"id":5,"#);
    let annotations = read(&text, Benchmark::Coco).unwrap().first(1);
    assert_eq!((annotations.images().len(), annotations.people()), (1, 0));
    // People on the other image are passed over; nobody is left to be found.
    let results = Results::read(found("", "").as_bytes(), Path::new("r.json"), &annotations).unwrap();
    assert_eq!(results.people(), 0);
    assert_eq!(evaluate(&annotations, &results, Rule::default()).unwrap().ap(), None);
    let all = read(&text, Benchmark::Coco).unwrap();
    let results = Results::read(found("", "").as_bytes(), Path::new("r.json"), &all).unwrap();
    let error = evaluate(&annotations, &results, Rule::default()).unwrap_err().to_string();
    assert!(error.contains("the results are not of these annotations"), "{error}");
}

#[test]
fn memory_is_bounded_by_the_file() {
    let zeros = |n| vec!["0"; n].join(",");
    let images = |n: usize| (0..n).map(|i| format!("{{\"id\":{i}}}")).collect::<Vec<_>>().join(",");
    let frame = |images: &str, annotations: &str| {
        format!(r#"{{"images":[{images}],"categories":[{{"id":1}}],"annotations":[{annotations}]}}"#)
    };
    let person = |i: usize| {
        let keypoints = zeros(51);
        format!(
            r#"{{"id":{i},"image_id":1,"category_id":1,"bbox":[0,0,0,0],"area":0,"keypoints":[{keypoints}]}}"#
        )
    };
    let people = (0..2000).map(person).collect::<Vec<_>>().join(",");
    for (what, text) in [
        ("many images", frame(&images(60_000), "")),
        ("many people", frame(r#"{"id":1}"#, &people)),
        ("many keypoints", frame("", &format!(r#"{{"id":1,"keypoints":[{}]}}"#, zeros(500_000)))),
        ("a long name", frame(&format!(r#"{{"id":1,"file_name":"{}"}}"#, "x".repeat(1_000_000)), "")),
        ("deep lists", frame("", &format!(r#"{{"segmentation":{}"#, "[".repeat(1_000_000)))),
        ("lists in lists", frame("", &format!(r#"{{"keypoints":[{}]}}"#, vec!["[0]"; 200_000].join(",")))),
    ] {
        let (_, peak) = memory::peak(|| read(&text, Benchmark::Coco).map(drop));
        let most = 100_000 + Annotations::MEMORY * text.len();
        assert!(peak <= most, "{what}: {peak} bytes for a file of {}", text.len());
    }
    let annotations = read(&frame(r#"{"id":1}"#, ""), Benchmark::Coco).unwrap();
    let found = format!(r#"{{"image_id":1,"category_id":1,"score":1,"keypoints":[{}]}}"#, zeros(51));
    let text = format!("[{}]", vec![found; 3000].join(","));
    let (read, peak) = memory::peak(|| Results::read(text.as_bytes(), Path::new("r.json"), &annotations));
    assert_eq!(read.unwrap().people(), 3000);
    assert!(peak <= 100_000 + Results::MEMORY * text.len(), "{peak} bytes for a file of {}", text.len());
}

#[test]
fn damaged_files_give_errors_and_no_panic() {
    let folder = Path::new("tests/data/eval");
    // A linear congruential generator: the same damage every time.
    let mut state = 1u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let pieces: [&[u8]; 8] = [b"NaN", b"-1", b"1e99", b"null", b"{}", b"[", b"\"id\":", b"4294967296"];
    let (mut whole, mut broken) = (0, 0);
    for case in cases(folder) {
        let file = |suffix: &str| fs::read(folder.join(format!("{case}.{suffix}.json"))).unwrap();
        let benchmark = if case.starts_with("crowdpose") { Benchmark::CrowdPose } else { Benchmark::Coco };
        let files = [file("annotations"), file("results")];
        for _ in 0..60 {
            let mut files = files.clone();
            let damaged = &mut files[random(2)];
            for _ in 0..=random(2) {
                let at = random(damaged.len());
                match random(3) {
                    0 => damaged.truncate(at.max(1)),
                    1 => damaged[at] = b"0123456789.,-]}[{\"e"[random(19)],
                    _ => drop(
                        damaged.splice(at..(at + 3).min(damaged.len()), pieces[random(8)].iter().copied()),
                    ),
                }
            }
            let path = Path::new("damaged.json");
            let judged = Annotations::read(&files[0][..], path, benchmark).and_then(|annotations| {
                let results = Results::read(&files[1][..], path, &annotations)?;
                evaluate(&annotations, &results, Rule::default())
            });
            match judged {
                Ok(metrics) => {
                    whole += 1;
                    assert!(metrics.iter().all(|(_, value)| value.is_none_or(|v| (0.0..=1.0).contains(&v))));
                }
                Err(error) => {
                    broken += 1;
                    assert!(error.to_string().starts_with("damaged.json: "), "{error}");
                }
            }
        }
    }
    assert!(whole > 50 && broken > 500, "{whole} whole, {broken} broken");
}
