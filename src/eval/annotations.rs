//! Annotations: the images of a benchmark, and the people that somebody marked on them.

use super::entry::{Entries, Entry, Fields, Name, Value, Wrong};
use super::{Benchmark, reading};
use crate::error::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// COCO annotations of people's keypoints: what results are judged against.
///
/// The file is `{"images": [...], "annotations": [...], "categories": [...]}`, as COCO's `person_keypoints_val2017.json` and
/// mmpose's `mmpose_crowdpose_test.json`. Images need an `id`; to run a network on them also a `file_name`. Annotations need
/// `id`, `image_id`, `category_id`, `keypoints` (x, y and visibility of each: 0 not labelled, 1 hidden, 2 visible) and
/// `bbox` (x, y, width, height), in COCO also `area`; `iscrowd` and `num_keypoints` are read where they are there. All people
/// are of one category.
///
/// Other fields may hold anything, also NaN and infinities as Python writes them. Reading takes memory of at most
/// [`Annotations::MEMORY`] times the file's size.
#[derive(Clone, Debug)]
pub struct Annotations {
    path: PathBuf,
    benchmark: Benchmark,
    category: u64,
    images: Vec<AnnotatedImage>,
    pub(super) people: Vec<AnnotatedPerson>,
    /// Ids of all images of the file, and whether they are among `images`.
    known: HashMap<u64, bool>,
}

/// An image that annotations list.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AnnotatedImage {
    /// What detections and annotations of an image have in common.
    pub id: u64,
    /// The photo's file, as the annotations name it.
    pub file_name: Option<String>,
    /// Width and height in pixels, where both are said.
    pub size: Option<(u64, u64)>,
    /// CrowdPose's measure of how much people overlap, 0 to 1.
    pub crowd_index: Option<f64>,
}

/// A person who is marked on an image.
#[derive(Clone, Debug)]
pub(super) struct AnnotatedPerson {
    pub id: u64,
    pub image: u64,
    pub bbox: [f64; 4],
    /// In square pixels; of CrowdPose 0.53 times that of the box.
    pub area: f64,
    /// A group that is marked as one.
    pub crowd: bool,
    /// Keypoints as the file counts them.
    pub said: Option<u32>,
    /// x, y and visibility of each.
    pub keypoints: Vec<f64>,
}

impl AnnotatedPerson {
    /// Keypoints that are marked, hidden or not.
    pub fn labelled(&self) -> u32 {
        self.keypoints.chunks_exact(3).filter(|keypoint| keypoint[2] > 0.0).count() as u32
    }
}

const IMAGE: [&str; 5] = ["id", "file_name", "width", "height", "crowdIndex"];
const PERSON: [&str; 8] =
    ["id", "image_id", "category_id", "keypoints", "bbox", "area", "iscrowd", "num_keypoints"];
const LISTS: [&str; 3] = ["images", "annotations", "categories"];

impl Annotations {
    /// Bytes of memory that reading takes at most for a byte of the file, beyond the first 100,000.
    pub const MEMORY: usize = 40;

    /// Reads a file for a benchmark, which tells how many keypoints a person has.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Json`] if something is missing, of another kind or length, not finite,
    /// twice, or of an image or category that is not listed: the message names place, id and field.
    pub fn open(path: impl AsRef<Path>, benchmark: Benchmark) -> Result<Annotations> {
        let path = path.as_ref();
        let file = File::open(path).map_err(Error::io("cannot read", path))?;
        Annotations::read(BufReader::new(file), path, benchmark)
    }

    /// As [`Annotations::open`], from a file that is open; `path` names it in messages.
    ///
    /// # Errors
    /// As there.
    pub fn read(file: impl BufRead, path: &Path, benchmark: Benchmark) -> Result<Annotations> {
        let parts = reading::json(file, path, Parts { benchmark, ..Parts::default() })?;
        parts.check(path).map_err(|what| Error::json(path, what))
    }

    /// The file that they are from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What they are judged as.
    pub fn benchmark(&self) -> Benchmark {
        self.benchmark
    }

    /// The category of all people.
    pub fn category(&self) -> u64 {
        self.category
    }

    /// The images, in the file's order.
    pub fn images(&self) -> &[AnnotatedImage] {
        &self.images
    }

    /// How many people are marked, groups included.
    pub fn people(&self) -> usize {
        self.people.len()
    }

    /// Leaves only the first `n` images and the people on them.
    pub fn first(self, n: usize) -> Annotations {
        let mut left = n;
        self.only(|_| {
            let keep = left > 0;
            left = left.saturating_sub(1);
            keep
        })
    }

    /// Leaves only the images that `keep` accepts, and the people on them. Results of the others are passed over.
    pub fn only(mut self, mut keep: impl FnMut(&AnnotatedImage) -> bool) -> Annotations {
        let known = &mut self.known;
        self.images.retain(|image| {
            let keep = keep(image);
            known.insert(image.id, keep);
            keep
        });
        self.people.retain(|person| known[&person.image]);
        self
    }

    /// Whether an image is among [`Annotations::images`]; `None` if the file does not list it.
    pub(super) fn has(&self, image: u64) -> Option<bool> {
        self.known.get(&image).copied()
    }
}

/// The lists of a file.
#[derive(Default)]
struct Parts {
    benchmark: Benchmark,
    images: Option<Vec<AnnotatedImage>>,
    known: HashMap<u64, bool>,
    people: Option<Vec<AnnotatedPerson>>,
    ids: HashSet<u64>,
    /// The category of all people, once one is known.
    category: Option<u64>,
    categories: Option<Vec<u64>>,
}

impl<'de> DeserializeSeed<'de> for Parts {
    type Value = Parts;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> std::result::Result<Parts, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Parts {
    type Value = Parts;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("COCO annotations: an object with 'images', 'annotations' and 'categories'")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> std::result::Result<Parts, A::Error> {
        let most = 3 * self.benchmark.keypoints();
        while let Some(list) = map.next_key_seed(Name(&LISTS))? {
            let twice = match list {
                Some(0) => self.images.is_some(),
                Some(1) => self.people.is_some(),
                Some(2) => self.categories.is_some(),
                _ => false,
            };
            if let Some(list) = list.filter(|_| twice) {
                return Err(A::Error::custom(format!("'{}' is there twice", LISTS[list])));
            }
            match list {
                None => _ = map.next_value::<IgnoredAny>()?,
                Some(0) => {
                    let mut images = Vec::new();
                    let take = |place, entry| self.image(place, &entry).map(|image| images.push(image));
                    let fields = Fields { names: IMAGE, most: 0 };
                    map.next_value_seed(Entries { fields, list: "images", take })?;
                    self.images = Some(images);
                }
                Some(1) => {
                    let mut people = Vec::new();
                    let take = |place, entry| self.person(place, entry).map(|person| people.push(person));
                    let fields = Fields { names: PERSON, most };
                    map.next_value_seed(Entries { fields, list: "annotations", take })?;
                    self.people = Some(people);
                }
                Some(_) => {
                    let mut categories = Vec::new();
                    let take = |place, entry: Entry<1>| {
                        let id = entry.id("id").map_err(|what| format!("categories[{place}]: {what}"))?;
                        categories.push(id);
                        Ok(())
                    };
                    let fields = Fields { names: ["id"], most: 0 };
                    map.next_value_seed(Entries { fields, list: "categories", take })?;
                    self.categories = Some(categories);
                }
            }
        }
        Ok(self)
    }
}

impl Parts {
    fn image(
        &mut self,
        place: usize,
        entry: &Entry<{ IMAGE.len() }>,
    ) -> std::result::Result<AnnotatedImage, Wrong> {
        let read = || -> std::result::Result<AnnotatedImage, Wrong> {
            let file_name = match entry.get("file_name") {
                None | Some(Value::Null) => None,
                Some(Value::Text(name)) => Some(name.clone()),
                Some(other) => return Err(format!("'file_name' is {}, expected a text", other.kind())),
            };
            let size = entry.id("width").ok().zip(entry.id("height").ok());
            let crowded = self.benchmark == Benchmark::CrowdPose && entry.get("crowdIndex").is_some();
            let crowd_index = crowded.then(|| entry.number("crowdIndex")).transpose()?;
            Ok(AnnotatedImage { id: entry.id("id")?, file_name, size, crowd_index })
        };
        let label = entry.label("id");
        let image = read().map_err(|what| format!("images[{place}]{label}: {what}"))?;
        match self.known.insert(image.id, true) {
            None => Ok(image),
            Some(_) => Err(format!("images[{place}]{label}: another image has this id")),
        }
    }

    fn person(
        &mut self,
        place: usize,
        entry: Entry<{ PERSON.len() }>,
    ) -> std::result::Result<AnnotatedPerson, Wrong> {
        let label = entry.label("id");
        let benchmark = self.benchmark;
        let read = || -> std::result::Result<(AnnotatedPerson, u64), Wrong> {
            let (id, image, category) = (entry.id("id")?, entry.id("image_id")?, entry.id("category_id")?);
            let bbox = entry.bbox("bbox")?;
            let area = match benchmark {
                Benchmark::Coco => entry.number("area")?,
                // In the order that xtcocotools multiplies in.
                Benchmark::CrowdPose => bbox[2] * bbox[3] * 0.53,
            };
            if area < 0.0 {
                return Err(format!("'area' is {area}, expected a number from 0 on"));
            }
            let most = benchmark.keypoints() as u64;
            let meaning = format!(" ({most} times x, y, visibility)");
            let keypoints = entry.numbers("keypoints", 3 * benchmark.keypoints(), &meaning)?.to_vec();
            let said = entry.get("num_keypoints").map(|_| entry.id("num_keypoints")).transpose()?;
            if let Some(n) = said.filter(|n| *n > most) {
                return Err(format!("'num_keypoints' is {n}, expected at most {most}"));
            }
            let (crowd, said) = (entry.flag("iscrowd")?, said.map(|n| n as u32));
            Ok((AnnotatedPerson { id, image, bbox, area, crowd, said, keypoints }, category))
        };
        let (person, category) = read().map_err(|what| format!("annotations[{place}]{label}: {what}"))?;
        if !self.ids.insert(person.id) {
            return Err(format!("annotations[{place}]{label}: another annotation has this id"));
        }
        match *self.category.get_or_insert(category) {
            one if one == category => Ok(person),
            one => Err(format!(
                "annotations[{place}]{label}: 'category_id' is {category}, expected {one} as of those before it: people \
                 are one category"
            )),
        }
    }

    /// What takes all lists to be seen.
    fn check(self, path: &Path) -> std::result::Result<Annotations, Wrong> {
        let missing = |list| format!("has no list '{list}': these are no COCO annotations");
        let images = self.images.ok_or_else(|| missing("images"))?;
        let people = self.people.ok_or_else(|| missing("annotations"))?;
        let categories = self.categories.ok_or_else(|| missing("categories"))?;
        if images.is_empty() {
            return Err("'images' is empty: there is nothing to judge".into());
        }
        for (place, person) in people.iter().enumerate() {
            if !self.known.contains_key(&person.image) {
                return Err(format!(
                    "annotations[{place}] (id {}): 'image_id' is {}, and 'images' lists no such image",
                    person.id, person.image
                ));
            }
        }
        let category = match self.category {
            Some(category) if !categories.contains(&category) => {
                return Err(format!(
                    "annotations[0] (id {}): 'category_id' is {category}, and 'categories' lists no such category",
                    people[0].id
                ));
            }
            Some(category) => category,
            None => *categories.first().ok_or("'categories' is empty")?,
        };
        let with = images.iter().filter(|image| image.crowd_index.is_some()).count();
        if let Some(image) = images.iter().find(|image| image.crowd_index.is_none()).filter(|_| with > 0) {
            return Err(format!("the image of id {} has no 'crowdIndex', and others have one", image.id));
        }
        let (benchmark, known) = (self.benchmark, self.known);
        Ok(Annotations { path: path.into(), benchmark, category, images, people, known })
    }
}
