//! COCO keypoint results: what `pycocotools` loads and evaluates.
//!
//! Format: <https://cocodataset.org/#format-results>, and "Data format" there for annotations.

use super::json::check_finite;
use super::rounded;
use crate::error::{Error, Result};
use crate::pose::Person;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

#[derive(Serialize)]
struct Detection {
    image_id: u64,
    category_id: u32,
    keypoints: Vec<f64>,
    score: f32,
    bbox: [f64; 4],
}

/// Image ids of photos: what detections and annotations of one image have in common.
#[derive(Clone, Debug, Default)]
pub struct ImageIds {
    /// Annotations and the ids of their files; none: numbers at the end of names.
    listed: Option<(PathBuf, HashMap<String, u64>)>,
}

#[derive(Deserialize)]
struct Annotations {
    images: Vec<Image>,
}

#[derive(Deserialize)]
struct Image {
    id: u64,
    file_name: String,
}

impl ImageIds {
    /// The number at the end of a file's name, as COCO names its images: `000000000785.jpg`,
    /// `COCO_val2014_000000000785.jpg`.
    pub fn from_names() -> ImageIds {
        ImageIds::default()
    }

    /// As a file of COCO annotations says: `{"images": [{"id": 785, "file_name": "kitchen.jpg"}, ...]}`; what else it
    /// holds does not matter.
    ///
    /// # Errors
    /// If it cannot be read, has no such list, or gives one file two ids.
    pub fn from_annotations(path: impl AsRef<Path>) -> Result<ImageIds> {
        let path = path.as_ref();
        let wrong = |what: String| Error::Usage(format!("{}: {what}", path.display()));
        let file = File::open(path).map_err(Error::io("cannot read", path))?;
        let Annotations { images } = serde_json::from_reader(BufReader::new(file)).map_err(|error| {
            wrong(format!("not COCO annotations with images, their ids and names: {error}"))
        })?;
        let mut ids = HashMap::new();
        for Image { id, file_name } in images {
            if let Some(other) = ids.insert(file_name.clone(), id).filter(|&other| other != id) {
                return Err(wrong(format!("image '{file_name}' has two ids, {other} and {id}")));
            }
        }
        Ok(ImageIds { listed: Some((path.to_path_buf(), ids)) })
    }

    /// The id of a photo. Annotations may name it with or without the folders that it lies in.
    ///
    /// # Errors
    /// [`Error::Image`] if it has none.
    pub fn of(&self, image: &Path) -> Result<u64> {
        let Some((annotations, ids)) = &self.listed else {
            let none = "has no COCO image id: its name does not end in a number, and no annotations name it";
            return number(image).ok_or_else(|| Error::image(image, none));
        };
        // The longest name first: a/1.jpg and b/1.jpg are different images.
        let whole = std::path::absolute(image).unwrap_or_else(|_| image.to_path_buf());
        let parts: Vec<_> = whole.iter().map(|part| part.to_string_lossy()).collect();
        let id = (0..parts.len()).find_map(|first| ids.get(&parts[first..].join("/")));
        id.copied().ok_or_else(|| {
            let what = format!("has no COCO image id: {} lists no image of this name", annotations.display());
            Error::image(image, what)
        })
    }
}

fn number(image: &Path) -> Option<u64> {
    let stem = image.file_stem()?.to_str()?;
    let digits = stem.len() - stem.bytes().rev().take_while(u8::is_ascii_digit).count();
    stem[digits..].parse().ok()
}

/// Writes an array of detections, one a line, image by image.
#[derive(Debug)]
pub struct CocoWriter<W: Write> {
    out: W,
    ids: ImageIds,
    empty: bool,
}

impl<W: Write> CocoWriter<W> {
    /// Begins an array; `ids` tells images apart.
    pub fn new(out: W, ids: ImageIds) -> CocoWriter<W> {
        CocoWriter { out, ids, empty: true }
    }

    /// Adds the people of one image: category 1, keypoints as `x, y, score` in a row, box as `x, y, width, height`;
    /// photo pixels to three decimals, keypoint scores to six; the person's score, which ranks, is exact.
    ///
    /// # Errors
    /// [`Error::Image`] if the image has no id or a number is not finite; [`Error::Io`] if it cannot be written.
    pub fn add(&mut self, image: &Path, people: &[Person]) -> Result<()> {
        let id = self.ids.of(image)?;
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
