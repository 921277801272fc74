//! One JSON object a line and image.

use super::rounded;
use crate::error::{Error, Result};
use crate::pose::Person;
use serde::Serialize;
use std::io::Write;
use std::path::Path;

#[derive(Serialize)]
struct Line<'a> {
    image: &'a str,
    width: usize,
    height: usize,
    people: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    score: f32,
    bbox: [f64; 4],
    keypoints: Vec<(f64, f64, f32)>,
}

/// Writes `{"image": path, "width": W, "height": H, "people": [{"score": s, "bbox": [x1, y1, x2, y2], "keypoints":
/// [[x, y, score], ...]}]}` and a line's end. `size` is the upright photo's width and height; coordinates are its
/// pixels, to three decimals; scores are exact.
///
/// # Errors
/// [`Error::Io`] if it cannot be written; [`Error::Image`] if a number is not finite, which JSON cannot say.
pub fn write_json_line(
    out: &mut dyn Write,
    image: &Path,
    (width, height): (usize, usize),
    people: &[Person],
) -> Result<()> {
    check_finite(image, people)?;
    let people = people
        .iter()
        .map(|p| Entry {
            score: p.score,
            bbox: p.bbox.map(rounded),
            keypoints: p.keypoints.iter().map(|k| (rounded(k.x), rounded(k.y), k.score)).collect(),
        })
        .collect();
    let line = Line { image: &image.to_string_lossy(), width, height, people };
    let mut text = serde_json::to_vec(&line).expect("numbers and strings");
    text.push(b'\n');
    out.write_all(&text).map_err(Error::io("cannot write results of", image))
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
