//! The file that results are appended to as they come, so that an interrupted run goes on where it was.
//!
//! Lines of JSON: first the settings that made it, then one an image. Numbers are exact, so that a run that was interrupted
//! gives the same AP as one that was not.

use rtmo_engine::{Error, Keypoint, Person, Result, shown};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What makes results what they are, in words, by name.
pub type Settings = BTreeMap<String, String>;

/// First line of a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    rtmo_engine_eval: u32,
    settings: Settings,
}

/// Of a later format.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    image_id: u64,
    /// The engine's time for the image.
    ms: f64,
    people: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    score: f32,
    bbox: [f32; 4],
    /// x, y and score of each.
    keypoints: Vec<[f32; 3]>,
}

/// The people of an image.
pub struct Found {
    pub image: u64,
    pub ms: f64,
    pub people: Vec<Person>,
}

/// A file of results, and what it holds.
pub struct Record {
    path: PathBuf,
    file: File,
    pub found: Vec<Found>,
}

impl Record {
    /// Opens a file that was made with these settings, or begins one. The rest of a line that was being written when the
    /// program was ended is cut off. With `restart` what is there is deleted, if it is such a file.
    ///
    /// # Errors
    /// [`Error::Usage`] if it is another file, or was made with other settings, which are named; if another process writes
    /// it; [`Error::Json`] if a line of it is damaged; [`Error::Io`] if it cannot be read or written.
    pub fn open(path: &Path, settings: &Settings, restart: bool) -> Result<Record> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(Error::io("cannot write", path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Usage(format!(
                    "{}: another process writes its results there",
                    shown(path)
                )));
            }
            // Some file systems have no locks.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let mut record = Record { path: path.into(), file, found: Vec::new() };
        let end = record.read(settings, restart)?;
        record.file.set_len(end).map_err(Error::io("cannot write", path))?;
        record.file.seek(SeekFrom::Start(end)).map_err(Error::io("cannot write", path))?;
        if end == 0 {
            record.write(&Header { rtmo_engine_eval: FORMAT, settings: settings.clone() })?;
        }
        Ok(record)
    }

    /// Reads what is there; returns where its whole lines end.
    fn read(&mut self, settings: &Settings, restart: bool) -> Result<u64> {
        let io = |error| Error::io("cannot read", &self.path)(error);
        let mut lines = BufReader::new(&self.file);
        let mut line = Vec::new();
        let mut end = lines.read_until(b'\n', &mut line).map_err(io)? as u64;
        if end == 0 {
            return Ok(0);
        }
        let header: Header = serde_json::from_slice(&line).map_err(|_| self.foreign())?;
        if header.rtmo_engine_eval != FORMAT || line.last() != Some(&b'\n') {
            return Err(self.foreign());
        }
        if restart {
            return Ok(0);
        }
        if let Some(what) = difference(&header.settings, settings) {
            return Err(Error::Usage(format!(
                "{}: these results were made with {what}; name another file with --out, or begin this one anew with \
                 --restart",
                shown(&self.path)
            )));
        }
        let mut seen = HashSet::new();
        for number in 2.. {
            line.clear();
            lines.read_until(b'\n', &mut line).map_err(io)?;
            if line.last() != Some(&b'\n') {
                break;
            }
            let damaged = |what: String| {
                Error::json(&self.path, format!("line {number}: {what}; --restart begins anew"))
            };
            let found: Line = serde_json::from_slice(&line).map_err(|error| damaged(error.to_string()))?;
            if !seen.insert(found.image_id) {
                return Err(damaged(format!("the image of id {} is there twice", found.image_id)));
            }
            if !(found.ms.is_finite() && found.ms >= 0.0) {
                return Err(damaged(format!("{} ms", found.ms)));
            }
            end += line.len() as u64;
            self.found.push(Found::from(found));
        }
        Ok(end)
    }

    fn foreign(&self) -> Error {
        Error::Usage(format!(
            "{}: is no file of results of 'rtmo-engine eval', and is left as it is; name another with --out",
            shown(&self.path)
        ))
    }

    /// Adds an image.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add(&mut self, image: u64, ms: f64, people: Vec<Person>) -> Result<()> {
        let entry = |person: &Person| Entry {
            score: person.score,
            bbox: person.bbox,
            keypoints: person.keypoints.iter().map(|k| [k.x, k.y, k.score]).collect(),
        };
        self.write(&Line { image_id: image, ms, people: people.iter().map(entry).collect() })?;
        self.found.push(Found { image, ms, people });
        Ok(())
    }

    fn write(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(line).expect("numbers and texts");
        text.push(b'\n');
        self.file.write_all(&text).map_err(Error::io("cannot write", &self.path))
    }
}

impl From<Line> for Found {
    fn from(line: Line) -> Found {
        let person = |entry: Entry| {
            let keypoints =
                entry.keypoints.into_iter().map(|[x, y, score]| Keypoint::new(x, y, score)).collect();
            Person::new(entry.score, entry.bbox, keypoints)
        };
        let people = line.people.into_iter().map(person).collect();
        Found { image: line.image_id, ms: line.ms, people }
    }
}

/// What two runs differ in: `precision fp32, and this run has bf16`.
fn difference(there: &Settings, here: &Settings) -> Option<String> {
    let names = there.keys().chain(here.keys().filter(|name| !there.contains_key(*name)));
    let of = |settings: &Settings, name: &String| settings.get(name).map_or("none".into(), String::clone);
    let parts: Vec<String> = names
        .filter(|name| there.get(*name) != here.get(*name))
        .map(|name| format!("{name} {}, and this run has {}", of(there, name), of(here, name)))
        .collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn settings(precision: &str) -> Settings {
        [("precision", precision), ("input", "640x640")].map(|(k, v)| (k.to_string(), v.to_string())).into()
    }

    fn person(score: f32) -> Person {
        Person::new(score, [0.1, 1.0 / 3.0, 2e30, 4.0], vec![Keypoint::new(1.0 / 7.0, -3.25, 1e-9); 2])
    }

    #[test]
    fn what_was_interrupted_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        let mut record = Record::open(&path, &settings("fp32"), false).unwrap();
        record.add(7, 12.5, vec![person(0.3), person(0.2)]).unwrap();
        let busy = Record::open(&path, &settings("fp32"), false).err().unwrap().to_string();
        assert!(busy.contains("another process"), "{busy}");
        record.add(8, 11.0, vec![]).unwrap();
        drop(record);
        // The program ends within a line.
        let whole = fs::read(&path).unwrap();
        for cut in [&b"{\"image_id\":9,"[..], b"{\"image_id\":9,\"ms\":1,\"people\":[]}", b""] {
            fs::write(&path, [&whole, cut].concat()).unwrap();
            let record = Record::open(&path, &settings("fp32"), false).unwrap();
            let ids: Vec<u64> = record.found.iter().map(|found| found.image).collect();
            assert_eq!(ids, [7, 8]);
            assert_eq!(
                (record.found[0].ms, &record.found[0].people),
                (12.5, &vec![person(0.3), person(0.2)])
            );
            drop(record);
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
        // A head that was cut off is begun again.
        fs::write(&path, "").unwrap();
        assert!(Record::open(&path, &settings("fp32"), false).unwrap().found.is_empty());
    }

    #[test]
    fn other_settings_and_other_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        let mut record = Record::open(&path, &settings("fp32"), false).unwrap();
        record.add(7, 12.5, vec![]).unwrap();
        drop(record);
        let before = fs::read(&path).unwrap();
        let error = Record::open(&path, &settings("bf16"), false).err().unwrap().to_string();
        assert!(error.contains("made with precision fp32, and this run has bf16; name another"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), before);
        let mut more = settings("fp32");
        more.insert("max people".into(), "3".into());
        let error = Record::open(&path, &more, false).err().unwrap().to_string();
        assert!(error.contains("max people none, and this run has 3"), "{error}");
        assert!(Record::open(&path, &settings("bf16"), true).unwrap().found.is_empty());

        for other in ["important\n", "{}\n", "[1]", r#"{"rtmo_engine_eval":2,"settings":{}}"#] {
            fs::write(&path, other).unwrap();
            for restart in [false, true] {
                let error = Record::open(&path, &settings("fp32"), restart).err().unwrap().to_string();
                assert!(error.contains("is no file of results"), "{error}");
                assert_eq!(fs::read_to_string(&path).unwrap(), other);
            }
        }
        for (line, part) in [
            ("{\"image_id\":7,\"ms\":1,\"people\":[]}\n", "line 3: the image of id 7 is there twice"),
            ("{\"image_id\":8,\"ms\":-1,\"people\":[]}\n", "line 3: -1 ms"),
            ("{\"image_id\":8,\"ms\":1,\"people\":[{}]}\n", "line 3: missing field"),
        ] {
            fs::write(&path, [&before, line.as_bytes()].concat()).unwrap();
            let error = Record::open(&path, &settings("fp32"), false).err().unwrap().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
