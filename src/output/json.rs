//! One JSON object a line and image.

use super::rounded;
use crate::error::{Error, Result};
use crate::pose::{People, Person, Skeleton};
use serde::Serialize;
use std::io::Write;
use std::path::Path;

#[derive(Serialize)]
struct Line<'a> {
    image: &'a str,
    /// The name's bytes where `image` cannot hold them.
    #[serde(skip_serializing_if = "Option::is_none")]
    image_hex: Option<String>,
    width: usize,
    height: usize,
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

/// Writes `{"image": path, "width": W, "height": H, "people": [{"score": s, "bbox": [x1, y1, x2, y2], "keypoints":
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
    (width, height): (usize, usize),
    people: &People,
    skeleton: Option<&Skeleton>,
) -> Result<()> {
    check_finite(image, people)?;
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
        image: &image.to_string_lossy(),
        image_hex,
        width,
        height,
        not_finite: people.not_finite(),
        keypoint_names: skeleton.map(|skeleton| skeleton.keypoints().collect()),
        people: entries,
    };
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
            r#"{{"image":"a.jpg","width":8,"height":6,"people":[{{"id":18446744073709551615,{rest}}},{{{rest}}}]}}"#
        );
        assert_eq!(String::from_utf8(line).unwrap(), expected + "\n");
    }
}
