//! One JSON object a line and image, as `docs/people.schema.json` describes it.

use super::rounded;
use super::sink::{FrameInfo, Output, ResultSink};
use crate::error::{Error, Result};
use crate::pose::{People, Person, Skeleton};
use serde::Serialize;
use std::io::Write;
use std::path::Path;

/// Of the lines' format. A new field does not change it.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Line<'a> {
    version: u32,
    image: &'a str,
    /// The name's bytes where `image` cannot hold them.
    #[serde(skip_serializing_if = "Option::is_none")]
    image_hex: Option<String>,
    width: usize,
    height: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    frame: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<f64>,
    #[serde(skip_serializing_if = "is_zero")]
    not_finite: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    keypoint_names: Option<Vec<&'a str>>,
    people: Vec<Entry>,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

#[derive(Serialize)]
struct Entry {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    score: f32,
    bbox: [f64; 4],
    keypoints: Vec<(f64, f64, f32)>,
}

/// Writes `{"version": 1, "image": path, "width": W, "height": H, "people": [{"score": s, "bbox": [x1, y1, x2, y2], "keypoints":
/// [[x, y, score], ...]}]}` and a line's end. `size` is the upright photo's width and height; coordinates are its
/// pixels, to three decimals; scores are exact. With a `skeleton`, `keypoint_names` are its names.
///
/// People with an id begin with `"id": n`.
///
/// A path that is no UTF-8 text has its bytes as hexadecimal digits in `image_hex`, so that no two paths give the same line;
/// people left out because their numbers are not finite are counted in `not_finite`.
///
/// # Errors
/// [`Error::Io`] if it cannot be written; [`Error::Image`] if a number is not finite, which JSON cannot say.
pub fn write_json_line(
    out: &mut dyn Write,
    image: &Path,
    size: (usize, usize),
    people: &People,
    skeleton: Option<&Skeleton>,
) -> Result<()> {
    write_line(out, &FrameInfo::new(image, size), people, skeleton)
}

fn write_line(
    out: &mut dyn Write,
    frame: &FrameInfo<'_>,
    people: &People,
    skeleton: Option<&Skeleton>,
) -> Result<()> {
    frame.check(people)?;
    let image = frame.image;
    let entries = people
        .iter()
        .map(|p| Entry {
            id: p.id,
            score: p.score,
            bbox: p.bbox.map(rounded),
            keypoints: p.keypoints.iter().map(|k| (rounded(k.x), rounded(k.y), k.score)).collect(),
        })
        .collect();
    let image_hex = image
        .to_str()
        .is_none()
        .then(|| image.as_os_str().as_encoded_bytes().iter().map(|byte| format!("{byte:02x}")).collect());
    let line = Line {
        version: VERSION,
        image: &image.to_string_lossy(),
        image_hex,
        width: frame.width,
        height: frame.height,
        frame: frame.frame,
        time: frame.time,
        not_finite: people.not_finite(),
        keypoint_names: skeleton.map(|skeleton| skeleton.keypoints().collect()),
        people: entries,
    };
    let mut text = serde_json::to_vec(&line).expect("numbers and strings");
    text.push(b'\n');
    out.write_all(&text).map_err(Error::io("cannot write results of", image))
}

/// Lines of JSON, as [`write_json_line`] writes them; a frame of a video has its `frame` and its `time` in seconds behind the size.
pub struct JsonLines {
    out: Box<dyn Output>,
    skeleton: Option<Skeleton>,
}

impl JsonLines {
    /// Lines to `out`, with the names of a skeleton's keypoints if there is one.
    pub fn new(out: Box<dyn Output>, skeleton: Option<Skeleton>) -> JsonLines {
        JsonLines { out, skeleton }
    }
}

impl ResultSink for JsonLines {
    fn frame(&mut self, frame: &FrameInfo<'_>, people: &People) -> Result<()> {
        write_line(&mut self.out, frame, people, self.skeleton.as_ref())?;
        self.out.flush().map_err(Error::io("cannot write results of", frame.image))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.out.commit()
    }
}

/// NaN and infinities are a fault of the numbers, not of the photo; they must not pass silently.
pub(super) fn check_finite(image: &Path, people: &[Person]) -> Result<()> {
    for (i, p) in people.iter().enumerate() {
        let mut numbers = p.bbox.iter().chain([&p.score]).copied();
        let mut joints = p.keypoints.iter().flat_map(|k| [k.x, k.y, k.score]);
        if !(numbers.all(f32::is_finite) && joints.all(f32::is_finite)) {
            return Err(Error::image(image, format!("person {} has a coordinate that is not finite", i + 1)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pose::Keypoint;

    #[test]
    fn only_people_with_an_id_have_one_in_the_line() {
        let person =
            |id| Person { id, ..Person::new(0.5, [1.0, 2.0, 3.0, 4.5], vec![Keypoint::new(1.5, 2.0, 0.25)]) };
        let people = People::from(vec![person(Some(u64::MAX)), person(None)]);
        let mut line = Vec::new();
        write_json_line(&mut line, Path::new("a.jpg"), (8, 6), &people, None).unwrap();
        let rest = r#""score":0.5,"bbox":[1.0,2.0,3.0,4.5],"keypoints":[[1.5,2.0,0.25]]"#;
        let expected = format!(
            r#"{{"version":1,"image":"a.jpg","width":8,"height":6,"people":[{{"id":18446744073709551615,{rest}}},{{{rest}}}]}}"#
        );
        assert_eq!(String::from_utf8(line).unwrap(), expected + "\n");
    }

    const SCHEMA: &str = include_str!("../../docs/people.schema.json");

    /// A line with every field, and one with few.
    fn lines() -> String {
        use super::super::sink::testing::{Memory, person};
        let memory = Memory::default();
        let arm = Skeleton::new("arm", &["elbow", "wrist"], &[]).unwrap();
        for (skeleton, people) in [(Some(arm), vec![person(Some(1), 2), person(None, 2)]), (None, Vec::new())]
        {
            let mut sink = Box::new(JsonLines::new(Box::new(memory.clone()), skeleton));
            let video = FrameInfo::new(Path::new("a.mp4"), (8, 6)).with_frame(30).with_time(1.001);
            sink.frame(&video, &people.clone().into()).unwrap();
            sink.frame(&FrameInfo::new(Path::new("a.jpg"), (8, 6)), &people.into()).unwrap();
            sink.finish().unwrap();
        }
        memory.text()
    }

    #[test]
    fn frames_have_their_number_and_time() {
        let text = lines();
        let [frame, photo, ..] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
        let begins =
            r#"{"version":1,"image":"a.mp4","width":8,"height":6,"frame":30,"time":1.001,"keypoint_names":["#;
        assert!(frame.starts_with(begins), "{frame}");
        assert!(!photo.contains("frame") && !photo.contains("time"), "{photo}");
        let error =
            FrameInfo::new(Path::new("a.mp4"), (8, 6)).with_time(f64::INFINITY).check(&People::default());
        assert!(error.unwrap_err().to_string().contains("a.mp4: time inf: expected a finite number"));
    }

    #[test]
    fn the_schema_knows_every_field() {
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
        let check = |object: &serde_json::Value, schema: &serde_json::Value| {
            let object = object.as_object().unwrap();
            let known = schema["properties"].as_object().unwrap();
            assert!(object.keys().all(|key| known.contains_key(key)), "{object:?}");
            let required = schema["required"].as_array().unwrap();
            assert!(required.iter().all(|key| object.contains_key(key.as_str().unwrap())), "{object:?}");
        };
        for line in lines().lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            check(&line, &schema);
            assert_eq!(line["version"], schema["properties"]["version"]["const"]);
            line["people"]
                .as_array()
                .unwrap()
                .iter()
                .for_each(|person| check(person, &schema["$defs"]["person"]));
        }
    }

    #[test]
    fn lines_are_valid_by_the_schema() {
        use std::process::{Command, Stdio};
        let python = |code: &str| {
            let mut command = Command::new("python3");
            command
                .args(["-c", code, SCHEMA])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped());
            command.spawn()
        };
        let there = python("import jsonschema").and_then(|child| child.wait_with_output());
        if !there.is_ok_and(|done| done.status.success()) {
            println!("not run: there is no python3 with jsonschema");
            return;
        }
        let code = "import json, jsonschema, sys; schema = json.loads(sys.argv[1]); \
             jsonschema.Draft202012Validator.check_schema(schema); \
             [jsonschema.Draft202012Validator(schema).validate(json.loads(line)) for line in sys.stdin]";
        let mut child = python(code).unwrap();
        child.stdin.take().unwrap().write_all(lines().as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}
