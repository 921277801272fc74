//! COCO keypoint results: what `pycocotools` loads and evaluates.
//!
//! Format: <https://cocodataset.org/#format-results>, and "Data format" there for annotations.

use super::json::check_finite;
use super::python_json::PythonJson;
use super::rounded;
use super::sink::{FrameInfo, Output, ResultSink};
use crate::error::{Error, Result, shown};
use crate::pose::{People, Person};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

#[derive(Serialize)]
struct Detection {
    image_id: u64,
    category_id: u32,
    keypoints: Vec<f64>,
    score: f32,
    bbox: [f64; 4],
    #[serde(skip_serializing_if = "Option::is_none")]
    track_id: Option<u64>,
}

/// Image ids of photos: what detections and annotations of one image have in common.
#[derive(Clone, Debug, Default)]
pub struct ImageIds {
    /// Annotations and the ids of their files; none: numbers in names.
    listed: Option<(PathBuf, HashMap<String, Id>)>,
}

/// What annotations say of a file's id.
#[derive(Clone, Debug, PartialEq)]
enum Id {
    Number(u64),
    /// Why it has none.
    Wrong(String),
}

#[derive(Deserialize)]
struct Annotations {
    images: Vec<Image>,
}

#[derive(Deserialize)]
struct Image {
    id: serde_json::Value,
    file_name: String,
}

impl Id {
    /// A whole number from 0 on, also written as 5.0.
    fn of(value: &serde_json::Value) -> Id {
        // Beyond 2^53 the numbers of f64 have gaps.
        let whole = |id: &f64| id.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(id);
        match value.as_u64().or_else(|| value.as_f64().filter(whole).map(|id| id as u64)) {
            Some(id) => Id::Number(id),
            None => Id::Wrong(format!("the id {value}, expected a whole number from 0 on")),
        }
    }
}

impl ImageIds {
    /// Numbers in names, as COCO names its images: `000000000785.jpg`, `COCO_val2014_000000000785.jpg`. Other names have none:
    /// the digits at their end may mean anything.
    pub fn from_names() -> ImageIds {
        ImageIds::default()
    }

    /// As a file of COCO annotations says: `{"images": [{"id": 785, "file_name": "kitchen.jpg"}, ...]}`; what else it
    /// holds does not matter. NaN and Infinity are read, as Python's `json` writes them. A file with two ids, or with one that
    /// is no whole number, has none.
    ///
    /// # Errors
    /// If it cannot be read, or has no such list.
    pub fn from_annotations(path: impl AsRef<Path>) -> Result<ImageIds> {
        let path = path.as_ref();
        let file = File::open(path).map_err(Error::io("cannot read", path))?;
        ImageIds::read(BufReader::new(file), path)
    }

    /// As [`ImageIds::from_annotations`], from a file that is open; `path` names it in messages.
    ///
    /// # Errors
    /// As there.
    pub fn read(mut file: impl BufRead, path: &Path) -> Result<ImageIds> {
        let mark = file.fill_buf().map_err(Error::io("cannot read", path))?.starts_with(b"\xef\xbb\xbf");
        file.consume(if mark { 3 } else { 0 });
        let json = BufReader::new(PythonJson::new(file));
        let Annotations { images } = serde_json::from_reader(json).map_err(|error| {
            let what = format!("not COCO annotations with images, their ids and names: {error}");
            Error::Usage(format!("{}: {what}", shown(path)))
        })?;
        let mut ids: HashMap<String, Id> = HashMap::new();
        for Image { id, file_name } in images {
            let id = Id::of(&id);
            match ids.get(&file_name) {
                Some(Id::Number(other)) if id != Id::Number(*other) => {
                    let Id::Number(id) = id else { continue };
                    ids.insert(file_name, Id::Wrong(format!("two ids, {other} and {id}")));
                }
                Some(Id::Wrong(_)) if !matches!(id, Id::Number(_)) => {}
                Some(Id::Wrong(what)) if what.starts_with("two") => {}
                _ => _ = ids.insert(file_name, id),
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
            let none = "has no COCO image id: its name is no number, nor COCO_..._ and a number, and no annotations name it";
            return number(image).ok_or_else(|| Error::image(image, none));
        };
        // The longest name first: a/1.jpg and b/1.jpg are different images.
        let whole = std::path::absolute(image).unwrap_or_else(|_| image.to_path_buf());
        let parts: Vec<_> = whole.iter().map(|part| part.to_string_lossy()).collect();
        let id = (0..parts.len()).find_map(|first| ids.get(&parts[first..].join("/")));
        let annotations = shown(annotations);
        match id {
            Some(Id::Number(id)) => Ok(*id),
            Some(Id::Wrong(what)) => {
                Err(Error::image(image, format!("has no COCO image id: {annotations} gives it {what}")))
            }
            None => {
                let what = format!("has no COCO image id: {annotations} lists no image of this name");
                Err(Error::image(image, what))
            }
        }
    }
}

/// The number that a stem is, or that follows `COCO_` and a split in it.
fn number(image: &Path) -> Option<u64> {
    let stem = image.file_stem()?.to_str()?;
    let digits = match stem.strip_prefix("COCO_") {
        Some(rest) => rest.split_once('_')?.1,
        None => stem,
    };
    let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if all { digits.parse().ok() } else { None }
}

/// Writes an array of detections, one a line, image by image.
#[derive(Debug)]
pub struct CocoWriter<W: Write> {
    out: W,
    ids: ImageIds,
    /// Images that have been added, by id.
    added: HashMap<u64, PathBuf>,
    empty: bool,
}

impl<W: Write> CocoWriter<W> {
    /// Begins an array; `ids` tells images apart.
    pub fn new(out: W, ids: ImageIds) -> CocoWriter<W> {
        CocoWriter { out, ids, added: HashMap::new(), empty: true }
    }

    /// Adds the people of one image: category 1, keypoints as `x, y, score` in a row, box as `x, y, width, height`;
    /// photo pixels to three decimals, keypoint scores to six but none to 0; the person's score, which ranks, is exact. A person
    /// with an id has it as `track_id`, which is not part of COCO's format; its readers take no notice.
    ///
    /// # Errors
    /// [`Error::Image`] if the image has no id, or another image's, or a number is not finite; [`Error::Io`] if it cannot be
    /// written.
    pub fn add(&mut self, image: &Path, people: &[Person]) -> Result<()> {
        let id = self.ids.of(image)?;
        check_finite(image, people)?;
        self.claim(id, image)?;
        self.write(id, image, people)
    }

    /// No two images have one id.
    fn claim(&mut self, id: u64, image: &Path) -> Result<()> {
        if let Some(other) = self.added.get(&id) {
            return Err(Error::image(image, format!("has the same COCO image id as {}, {id}", shown(other))));
        }
        self.added.insert(id, image.to_path_buf());
        Ok(())
    }

    fn write(&mut self, id: u64, image: &Path, people: &[Person]) -> Result<()> {
        let mut text = Vec::new();
        for person in people {
            let [x1, y1, x2, y2] = person.bbox.map(|v| v as f64);
            let detection = Detection {
                image_id: id,
                category_id: 1,
                keypoints: person
                    .keypoints
                    .iter()
                    .flat_map(|k| [rounded(k.x), rounded(k.y), rounded_score(k.score)])
                    .collect(),
                score: person.score,
                // In f64: the width of a box of finite sides may be infinite in f32.
                bbox: [x1, y1, x2 - x1, y2 - y1].map(rounded),
                track_id: person.id,
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

/// To six decimals. A score above 0 stays above it: judges leave out people who have none.
fn rounded_score(score: f32) -> f64 {
    let score = f64::from(score);
    let rounded = (score * 1e6).round() / 1e6;
    if rounded == 0.0 { score } else { rounded }
}

/// COCO results as a [`ResultSink`]. A photo's id is as [`ImageIds`] says, that of a frame of a video is the frame's number; the
/// frames of one video only, and not beside photos, for their ids would not be told apart.
pub struct CocoResults {
    writer: CocoWriter<Box<dyn Output>>,
    /// The video, and the number of its last frame.
    video: Option<(PathBuf, u64)>,
}

impl CocoResults {
    /// Begins an array; `ids` tells photos apart.
    pub fn new(out: Box<dyn Output>, ids: ImageIds) -> CocoResults {
        CocoResults { writer: CocoWriter::new(out, ids), video: None }
    }

    /// The number of the next frame of the only video.
    fn next_frame(&mut self, image: &Path, frame: u64) -> Result<()> {
        let wrong = match &self.video {
            Some((video, _)) if video != image => {
                Some(format!("the frames of {} have the same", shown(video)))
            }
            Some((_, last)) if *last >= frame => Some(format!("frame {last} came before")),
            None if !self.writer.added.is_empty() => Some("photos may have the same".into()),
            _ => None,
        };
        if let Some(why) = wrong {
            let what = format!("the number {frame} of a frame cannot be its COCO image id: {why}");
            return Err(Error::image(image, what));
        }
        self.video = Some((image.to_path_buf(), frame));
        Ok(())
    }
}

impl ResultSink for CocoResults {
    fn frame(&mut self, frame: &FrameInfo<'_>, people: &People) -> Result<()> {
        frame.check(people)?;
        match (frame.frame, &self.video) {
            (None, None) => self.writer.add(frame.image, people),
            (None, Some((video, _))) => {
                let what = format!(
                    "a photo beside the video {}: their COCO image ids may be the same",
                    shown(video)
                );
                Err(Error::image(frame.image, what))
            }
            (Some(index), _) => {
                self.next_frame(frame.image, index)?;
                self.writer.write(index, frame.image, people)
            }
        }
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.writer.finish().map_err(Error::io("cannot write", "COCO results"))?.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_numbers_have_ids() {
        for (name, id) in [
            ("000000000785.jpg", Some(785)),
            ("x/7.png", Some(7)),
            ("COCO_val2014_000000000785.jpg", Some(785)),
            ("photo_7.jpg", None),
            ("000000000785_jpg.rf.0a1b9.jpg", None),
            ("COCO_7.jpg", None),
            ("COCO_val_x7.jpg", None),
            ("99999999999999999999.jpg", None),
            (".jpg", None),
            ("-7.jpg", None),
        ] {
            assert_eq!(number(Path::new(name)), id, "{name}");
        }
    }

    #[test]
    fn no_score_becomes_zero() {
        for (score, written) in [(0.0, 0.0), (0.123_456_7, 0.123_457), (1.0, 1.0), (4e-7, f64::from(4e-7f32))]
        {
            assert_eq!(rounded_score(score), written);
        }
    }

    #[test]
    fn annotations_as_python_writes_them() {
        let json = r#"{"info": [NaN, -Infinity, Infinity, "NaN \" Infinity", -1, null, "\\"], "images": [
            {"id": 5.0, "file_name": "five.jpg", "w": NaN}, {"id": 81, "file_name": "NaN.jpg"},
            {"id": 5.5, "file_name": "half.jpg"}, {"id": NaN, "file_name": "none.jpg"}, {"id": -1, "file_name": "minus.jpg"},
            {"id": 1, "file_name": "two.jpg"}, {"id": 2, "file_name": "two.jpg"}, {"id": 3, "file_name": "same.jpg"},
            {"id": 3, "file_name": "same.jpg"}]}"#;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), json).unwrap();
        let ids = ImageIds::from_annotations(file.path()).unwrap();
        let of = |name: &str| ids.of(Path::new(name));
        assert_eq!((of("five.jpg").unwrap(), of("NaN.jpg").unwrap(), of("same.jpg").unwrap()), (5, 81, 3));
        for (name, part) in [
            ("half.jpg", "the id 5.5, expected a whole number"),
            ("none.jpg", "the id null"),
            ("minus.jpg", "the id -1"),
            ("two.jpg", "two ids, 1 and 2"),
            ("other.jpg", "lists no image of this name"),
        ] {
            let error = of(name).unwrap_err().to_string();
            assert!(error.starts_with(name) && error.contains(part), "{error}");
        }
        for wrong in ["", "{", "[NaN]", r#"{"images": 3}"#, "Nan", "-Infinit", "NaNNaN"] {
            std::fs::write(file.path(), wrong).unwrap();
            assert!(ImageIds::from_annotations(file.path()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn frames_of_one_video_have_their_numbers_as_ids() {
        use super::super::sink::testing::{Memory, person};
        let memory = Memory::default();
        let mut sink = Box::new(CocoResults::new(Box::new(memory.clone()), ImageIds::from_names()));
        let (video, other) = (Path::new("a.mp4"), Path::new("b.mp4"));
        let mut add = |image, frame: Option<u64>| {
            let info = FrameInfo { frame, ..FrameInfo::new(image, (9, 9)) };
            sink.frame(&info, &vec![person(Some(3), 1)].into()).map_err(|error| error.to_string())
        };
        add(video, Some(0)).unwrap();
        add(video, Some(5)).unwrap();
        assert!(add(video, Some(5)).unwrap_err().contains("a.mp4: the number 5 of a frame"));
        assert!(add(other, Some(6)).unwrap_err().contains("the frames of a.mp4 have the same"));
        assert!(add(Path::new("7.jpg"), None).unwrap_err().contains("7.jpg: a photo beside the video a.mp4"));
        sink.finish().unwrap();
        let rows: Vec<serde_json::Value> = serde_json::from_str(&memory.text()).unwrap();
        assert_eq!(rows.iter().map(|row| row["image_id"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 5]);
        assert_eq!(rows[0]["track_id"], 3);
        let mut sink = CocoResults::new(Box::new(Memory::default()), ImageIds::from_names());
        sink.frame(&FrameInfo::new(Path::new("7.jpg"), (9, 9)), &People::default()).unwrap();
        assert!(sink.frame(&FrameInfo::new(video, (9, 9)).with_frame(7), &People::default()).is_err());
    }
}
