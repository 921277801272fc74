//! Gives people in JSON lines their identities: reads what the program writes, with the time of each frame in seconds, and
//! writes the same with an "id" for each person who is tracked.
//!
//!     cargo run --release --example track -- --smooth < people.jsonl > tracked.jsonl
//!
//! A line is {"time": 0.033, "people": [{"score": 0.9, "bbox": [x1, y1, x2, y2], "keypoints": [[x, y, score], ...]}]}; what
//! else it has is passed on. Where a line has no time, --fps N tells it from the number of the line.

use rtmo_engine::{Keypoint, Person, Smoother, SmootherOptions, Tracker, TrackerOptions};
use serde_json::{Value, json};
use std::error::Error;
use std::io::{BufRead, BufWriter, Write};

fn main() -> Result<(), Box<dyn Error>> {
    let (mut fps, mut smoother) = (None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--smooth" => smoother = Some(Smoother::new(SmootherOptions::default())?),
            "--fps" => fps = Some(arguments.next().ok_or("--fps: expected a number")?.parse::<f64>()?),
            _ => return Err("usage: track [--smooth] [--fps N] < LINES > LINES".into()),
        }
    }
    let mut tracker = Tracker::new(TrackerOptions::default())?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    for (index, line) in std::io::stdin().lock().lines().enumerate() {
        let mut frame: Value =
            serde_json::from_str(&line?).map_err(|error| format!("line {}: {error}", index + 1))?;
        let wrong = |what: &str| format!("line {}: {what}", index + 1);
        let time = frame["time"].as_f64().or(fps.map(|fps| index as f64 / fps));
        let time = time.ok_or_else(|| wrong("no \"time\" in seconds; --fps N tells the frames a second"))?;
        let listed = frame["people"].as_array_mut().ok_or_else(|| wrong("no \"people\""))?;
        let people: Option<Vec<Person>> = listed.iter().map(person).collect();
        let mut people = people.ok_or_else(|| wrong("a person without \"score\" or \"bbox\""))?;
        tracker.update(&mut people, time)?;
        if let Some(smoother) = &mut smoother {
            smoother.smooth(&mut people, time)?;
        }
        for (entry, person) in listed.iter_mut().zip(&people) {
            if let Some(id) = person.id {
                entry["id"] = id.into();
            }
            if smoother.is_some() {
                entry["keypoints"] = person.keypoints.iter().map(|k| json!([k.x, k.y, k.score])).collect();
            }
        }
        writeln!(out, "{frame}")?;
    }
    Ok(out.flush()?)
}

/// A person of a line; keypoints may be missing.
fn person(entry: &Value) -> Option<Person> {
    let number = |value: &Value| value.as_f64().map(|v| v as f32);
    let corner = |i: usize| number(&entry["bbox"][i]);
    let bbox = [corner(0)?, corner(1)?, corner(2)?, corner(3)?];
    let joint = |k: &Value| Some(Keypoint::new(number(&k[0])?, number(&k[1])?, number(&k[2])?));
    let keypoints = match &entry["keypoints"] {
        Value::Null => Vec::new(),
        list => list.as_array()?.iter().map(joint).collect::<Option<_>>()?,
    };
    Some(Person::new(number(&entry["score"])?, bbox, keypoints))
}
