//! Results: the people that a network found on the images of annotations.

use super::entry::{Entries, Entry, Fields, Value, Wrong};
use super::{Annotations, reading};
use crate::error::{Error, Result};
use crate::pose::Person;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// People found on annotated images: read from a file of COCO results, or added image by image.
///
/// The file is a list of `{"image_id": 785, "category_id": 1, "keypoints": [x, y, score, ...], "score": 0.9}`, in any order,
/// as [`CocoWriter`](crate::output::CocoWriter) and other programs write it. With `bbox` (x, y, width, height) a person's
/// area is the box's, without it that of the smallest box around the keypoints; either all have one or none. Reading takes
/// memory of at most [`Results::MEMORY`] times the file's size.
#[derive(Clone, Debug)]
pub struct Results {
    pub(super) people: Vec<FoundPerson>,
    keypoints: usize,
}

/// A person whom a network found.
#[derive(Clone, Debug)]
pub(super) struct FoundPerson {
    pub image: u64,
    pub score: f64,
    /// In square pixels.
    pub area: f64,
    /// x, y and score of each.
    pub keypoints: Vec<f64>,
}

const PERSON: [&str; 5] = ["image_id", "category_id", "keypoints", "score", "bbox"];

impl Results {
    /// Bytes of memory that reading takes at most for a byte of the file, beyond the first 100,000.
    pub const MEMORY: usize = 12;

    /// No people yet.
    pub fn new(annotations: &Annotations) -> Results {
        Results { people: Vec::new(), keypoints: annotations.benchmark().keypoints() }
    }

    /// Reads a file of COCO results for the images of `annotations`. Those of images that [`Annotations::only`] left out are
    /// passed over.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Json`] if something is missing, of another kind or length, not finite, or
    /// of an image or category that the annotations do not have: the message names place, image and field.
    pub fn open(path: impl AsRef<Path>, annotations: &Annotations) -> Result<Results> {
        let path = path.as_ref();
        let file = File::open(path).map_err(Error::io("cannot read", path))?;
        Results::read(BufReader::new(file), path, annotations)
    }

    /// As [`Results::open`], from a file that is open; `path` names it in messages.
    ///
    /// # Errors
    /// As there.
    pub fn read(file: impl BufRead, path: &Path, annotations: &Annotations) -> Result<Results> {
        let mut results = Results::new(annotations);
        // Whether people have boxes, once one is known.
        let mut boxes = None;
        let take = |place, entry: Entry<{ PERSON.len() }>| {
            let label = entry.label("image_id");
            let person = results.person(&entry, &mut boxes, annotations);
            results.people.extend(person.map_err(|what| format!("results[{place}]{label}: {what}"))?);
            Ok(())
        };
        let fields = Fields { names: PERSON, most: 3 * annotations.benchmark().keypoints() };
        reading::json(file, path, Entries { fields, list: "COCO results", take })?;
        Ok(results)
    }

    /// Adds the people of one image, in its pixels. They are judged as they are, without the rounding that files have.
    ///
    /// # Errors
    /// [`Error::Usage`] if the annotations have no such image, a person has another number of keypoints than theirs, or a
    /// number is not finite.
    pub fn add(&mut self, annotations: &Annotations, image: u64, people: &[Person]) -> Result<()> {
        let wrong = |what: String| Err(Error::Usage(format!("the image of id {image}: {what}")));
        if annotations.has(image) != Some(true) {
            return wrong("the annotations do not list it".into());
        }
        for (i, person) in people.iter().enumerate() {
            if person.keypoints.len() != self.keypoints {
                let (n, expected) = (person.keypoints.len(), self.keypoints);
                return wrong(format!("person {} has {n} keypoints, expected {expected}", i + 1));
            }
            let [x1, y1, x2, y2] = person.bbox.map(f64::from);
            let keypoints: Vec<f64> =
                person.keypoints.iter().flat_map(|k| [k.x, k.y, k.score].map(f64::from)).collect();
            let (score, area) = (f64::from(person.score), (x2 - x1) * (y2 - y1));
            if !keypoints.iter().chain([&score, &area]).all(|number| number.is_finite()) {
                return wrong(format!("person {} has a number that is not finite", i + 1));
            }
            self.people.push(FoundPerson { image, score, area, keypoints });
        }
        Ok(())
    }

    /// How many people were found.
    pub fn people(&self) -> usize {
        self.people.len()
    }

    /// `None` if it is on an image that is left out.
    fn person(
        &self,
        entry: &Entry<{ PERSON.len() }>,
        boxes: &mut Option<bool>,
        annotations: &Annotations,
    ) -> std::result::Result<Option<FoundPerson>, Wrong> {
        let (image, category) = (entry.id("image_id")?, entry.id("category_id")?);
        let Some(wanted) = annotations.has(image) else {
            return Err(format!("'image_id' is {image}, and the annotations list no such image"));
        };
        if category != annotations.category() {
            let expected = annotations.category();
            return Err(format!(
                "'category_id' is {category}, expected {expected}, that of the annotations' people"
            ));
        }
        let meaning = format!(" ({} times x, y, score)", self.keypoints);
        let keypoints = entry.numbers("keypoints", 3 * self.keypoints, &meaning)?.to_vec();
        let score = entry.number("score")?;
        let empty = |value: &Value| {
            matches!(value, Value::Null) || matches!(value, Value::List(list) if list.len == 0)
        };
        let boxed = entry.get("bbox").is_some_and(|value| !empty(value));
        if *boxes.get_or_insert(boxed) != boxed {
            let (this, others) = if boxed { ("a", "none") } else { ("no", "one") };
            return Err(format!("has {this} 'bbox', and those before it have {others}"));
        }
        let area = if boxed {
            let [_, _, w, h] = entry.bbox("bbox")?;
            w * h
        } else {
            extent(&keypoints)
        };
        Ok(wanted.then_some(FoundPerson { image, score, area, keypoints }))
    }
}

/// Area of the smallest box around all keypoints.
fn extent(keypoints: &[f64]) -> f64 {
    let side = |axis: usize| {
        let values = || keypoints.iter().skip(axis).step_by(3).copied();
        values().fold(f64::MIN, f64::max) - values().fold(f64::MAX, f64::min)
    };
    side(0) * side(1)
}
