//! COCO keypoint results: what `pycocotools` loads and evaluates.

use super::json::check_finite;
use super::rounded;
use crate::error::{Error, Result};
use crate::vision::Person;
use serde::Serialize;
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

#[derive(Serialize)]
struct Detection {
    image_id: u64,
    category_id: u32,
    keypoints: Vec<f64>,
    score: f32,
    bbox: [f64; 4],
}

/// Writes an array of detections, one a line, image by image.
#[derive(Debug)]
pub struct CocoWriter<W: Write> {
    out: W,
    ids: HashMap<String, u64>,
    empty: bool,
}

impl<W: Write> CocoWriter<W> {
    /// `ids` gives image ids by file name (without folders); other images get their id from their name, see
    /// [`image_id`].
    pub fn new(out: W, ids: HashMap<String, u64>) -> CocoWriter<W> {
        CocoWriter { out, ids, empty: true }
    }

    /// Adds the people of one image: category 1, keypoints as `x, y, score` in a row, box as `x, y, width, height`;
    /// photo pixels to three decimals, keypoint scores to six; the person's score, which ranks, is exact.
    ///
    /// # Errors
    /// [`Error::Image`] if the image has no id or a number is not finite; [`Error::Io`] if it cannot be written.
    pub fn add(&mut self, image: &Path, people: &[Person]) -> Result<()> {
        let name = image.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
        let id = self.ids.get(name.as_ref()).copied().or_else(|| image_id(image));
        let id = id.ok_or_else(|| {
            Error::image(
                image,
                "has no COCO image id: its name does not end in a number, and no annotation names it",
            )
        })?;
        check_finite(image, people)?;
        let mut text = Vec::new();
        for person in people {
            let [x1, y1, x2, y2] = person.bbox.map(|v| v as f64);
            let detection = Detection {
                image_id: id,
                category_id: 1,
                keypoints: person
                    .keypoints
                    .iter()
                    .flat_map(|k| [rounded(k.x), rounded(k.y), (k.score as f64 * 1e6).round() / 1e6])
                    .collect(),
                score: person.score,
                bbox: [x1, y1, x2 - x1, y2 - y1].map(|v| rounded(v as f32)),
            };
            text.extend_from_slice(if self.empty { b"[\n" } else { b",\n" });
            self.empty = false;
            serde_json::to_writer(&mut text, &detection).expect("numbers");
        }
        self.out.write_all(&text).map_err(Error::io("cannot write COCO results of", image))
    }

    /// Ends the array and returns what was written to, for example to commit it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> std::io::Result<W> {
        self.out.write_all(if self.empty { b"[]\n" } else { b"\n]\n" })?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// The number at the end of a file's name, as COCO names its images: `000000000785.jpg`,
/// `COCO_val2014_000000000785.jpg`.
pub fn image_id(image: &Path) -> Option<u64> {
    let stem = image.file_stem()?.to_str()?;
    let digits = stem.len() - stem.bytes().rev().take_while(u8::is_ascii_digit).count();
    stem[digits..].parse().ok()
}
