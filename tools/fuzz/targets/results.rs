//! People of any numbers and photos of any names, as JSON lines and COCO results: what is written is JSON, and says the
//! same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rtmo_engine::output::{CocoWriter, ImageIds, write_json_line};
use rtmo_engine::{Keypoint, People, Person};
use serde_json::Value;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The name before the first line end, the people from the bytes behind it: 11 numbers each, two keypoints.
fn parse(bytes: &[u8]) -> (&Path, People) {
    let end = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len());
    let numbers: Vec<f32> =
        bytes[end..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let person = |n: &[f32]| {
        let keypoints = n[5..].chunks_exact(3).map(|k| Keypoint::new(k[0], k[1], k[2])).collect();
        Person::new(n[0], [n[1], n[2], n[3], n[4]], keypoints)
    };
    (Path::new(OsStr::from_bytes(&bytes[..end])), numbers.chunks_exact(11).map(person).collect::<Vec<_>>().into())
}

/// Turns hexadecimal digits back.
fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = (0..hex.len()).step_by(2).map(|i| &hex[i..i + 2]);
    digits.map(|digits| u8::from_str_radix(digits, 16).expect("two digits")).collect()
}

fn is_finite(person: &Person) -> bool {
    let joints = person.keypoints.iter().flat_map(|k| [k.x, k.y, k.score]);
    person.bbox.into_iter().chain([person.score]).chain(joints).all(f32::is_finite)
}

fuzz_target!(|bytes: &[u8]| {
    let (image, people) = parse(bytes);
    let finite = people.iter().all(is_finite);
    let mut line = Vec::new();
    assert_eq!(write_json_line(&mut line, image, (3, 4), &people, None).is_ok(), finite);
    if finite {
        assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
        let line: Value = serde_json::from_slice(&line).expect("a line of JSON");
        let name = match line.get("image_hex") {
            Some(hex) => bytes_of(hex.as_str().expect("text")),
            None => line["image"].as_str().expect("text").into(),
        };
        assert_eq!(name, image.as_os_str().as_bytes());
        for (entry, person) in line["people"].as_array().expect("people").iter().zip(&people) {
            assert_eq!(entry["score"].as_f64().map(|score| score as f32), Some(person.score));
        }
    } else {
        assert!(line.is_empty());
    }

    let mut coco = CocoWriter::new(Vec::new(), ImageIds::from_names());
    let added = [image, Path::new("7.jpg"), image].map(|image| coco.add(image, &people).is_ok());
    assert!(!added[2] && (finite || added == [false; 3]));
    let rows: Vec<Value> =
        serde_json::from_slice(&coco.finish().expect("memory")).expect("an array of results");
    // What JSON cannot say becomes null.
    assert!(rows.iter().all(|row| row["bbox"].as_array().expect("a box").iter().all(Value::is_f64)));
    assert_eq!(rows.len(), people.len() * added.iter().filter(|&&added| added).count());
});
