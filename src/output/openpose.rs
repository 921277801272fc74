//! OpenPose's JSON: one file a photo or frame, joints in OpenPose's order.
//!
//! Format: `doc/02_output.md` of OpenPose, version 1.3.

use super::rounded;
use super::sink::{FrameInfo, ResultSink};
use crate::atomic_file::AtomicFile;
use crate::error::{Error, Result, shown};
use crate::pose::{Keypoint, People, Skeleton};
use serde::Serialize;
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// In which order the joints of a person come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum JointOrder {
    /// BODY_25, OpenPose's own default: with the middle of the hips and six joints of the feet.
    #[default]
    Body25,
    /// COCO, 18 joints.
    Coco18,
}

impl FromStr for JointOrder {
    type Err = Error;

    /// `body25` or `coco18`.
    fn from_str(text: &str) -> Result<JointOrder> {
        match text {
            "body25" => Ok(JointOrder::Body25),
            "coco18" => Ok(JointOrder::Coco18),
            _ => Err(Error::Usage(format!("order of joints '{text}': expected body25 or coco18"))),
        }
    }
}

/// The joints that both orders begin with, and those that follow in either. `neck` and `mid_hip` are means, and names that a
/// skeleton does not have are missing.
const ARMS: [&str; 8] = [
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
];
const LEGS: [&str; 6] = ["right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle"];
const FACE: [&str; 4] = ["right_eye", "left_eye", "right_ear", "left_ear"];
const FEET: [&str; 6] =
    ["left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel"];

impl JointOrder {
    fn names(self) -> Vec<&'static str> {
        match self {
            JointOrder::Body25 => [&ARMS[..], &["mid_hip"], &LEGS, &FACE, &FEET].concat(),
            JointOrder::Coco18 => [&ARMS[..], &LEGS, &FACE].concat(),
        }
    }
}

/// Where a joint of OpenPose's comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Origin {
    Keypoint(usize),
    /// The mean of two.
    Between(usize, usize),
    Missing,
}

impl Origin {
    fn of(name: &str, skeleton: &Skeleton) -> Origin {
        let find = |name: &str| skeleton.keypoints().position(|keypoint| keypoint == name);
        let parents = match name {
            "neck" => ["left_shoulder", "right_shoulder"],
            "mid_hip" => ["left_hip", "right_hip"],
            _ => ["", ""],
        };
        match (find(name), find(parents[0]), find(parents[1])) {
            (Some(k), ..) => Origin::Keypoint(k),
            (None, Some(a), Some(b)) => Origin::Between(a, b),
            _ => Origin::Missing,
        }
    }
}

#[derive(Serialize)]
struct File {
    version: f64,
    people: Vec<Entry>,
}

/// OpenPose writes all of these, also where it has looked for none.
#[derive(Serialize)]
struct Entry {
    person_id: [i64; 1],
    pose_keypoints_2d: Vec<f64>,
    face_keypoints_2d: [f64; 0],
    hand_left_keypoints_2d: [f64; 0],
    hand_right_keypoints_2d: [f64; 0],
    pose_keypoints_3d: [f64; 0],
    face_keypoints_3d: [f64; 0],
    hand_left_keypoints_3d: [f64; 0],
    hand_right_keypoints_3d: [f64; 0],
}

/// Writes `STEM_keypoints.json` for a photo and `STEM_000000000012_keypoints.json` for frame 12 of a video, into one folder.
///
/// A person is `x, y, score` a joint, in pixels to three decimals. A joint that the model does not have or that scores below the
/// threshold is `0, 0, 0`. The neck and the middle of the hips are the means of shoulders and hips where both are seen, with the
/// lesser score. `person_id` is the person's id, -1 without one.
#[derive(Debug)]
pub struct OpenPose {
    folder: PathBuf,
    keypoints: usize,
    joints: Vec<Origin>,
    keypoint_thr: f32,
    /// What was written last for each stem: from which photo or video, and up to which frame.
    written: HashMap<String, (PathBuf, Option<u64>)>,
}

impl OpenPose {
    /// Files in `folder`, which is made if it is missing. `skeleton` names the keypoints of the people who come.
    ///
    /// # Errors
    /// If the folder cannot be made; if the threshold is not from 0 to 1; if the skeleton has none of OpenPose's joints.
    pub fn new(
        folder: impl Into<PathBuf>,
        skeleton: &Skeleton,
        order: JointOrder,
        keypoint_thr: f32,
    ) -> Result<OpenPose> {
        if !(0.0..=1.0).contains(&keypoint_thr) {
            return Err(Error::Usage(format!(
                "threshold of keypoints {keypoint_thr}: expected a number from 0 to 1"
            )));
        }
        let joints: Vec<Origin> = order.names().into_iter().map(|name| Origin::of(name, skeleton)).collect();
        if joints.iter().all(|joint| *joint == Origin::Missing) {
            let what = "has none of OpenPose's joints (nose, left_shoulder, right_hip, ...)";
            return Err(Error::Usage(format!("the skeleton '{}' {what}", skeleton.name())));
        }
        let folder = folder.into();
        fs::create_dir_all(&folder).map_err(Error::io("cannot make the folder", &folder))?;
        Ok(OpenPose { folder, keypoints: skeleton.len(), joints, keypoint_thr, written: HashMap::new() })
    }

    /// The file of a frame. No two frames have the same.
    fn path(&mut self, frame: &FrameInfo<'_>) -> Result<PathBuf> {
        let stem = frame.image.file_stem().unwrap_or_default();
        let stem = stem.to_str().ok_or_else(|| {
            Error::image(frame.image, "its name is no UTF-8 text, as the names of OpenPose's files must be")
        })?;
        let name = match frame.frame {
            Some(index) => format!("{stem}_{index:012}_keypoints.json"),
            None => format!("{stem}_keypoints.json"),
        };
        if let Some((image, last)) = self.written.get(stem) {
            let again = *last >= frame.frame;
            if image != frame.image || again {
                let before = last.map_or(String::new(), |last| format!(", frame {last}"));
                let what = format!("{name} would replace or mix with the file of {}{before}", shown(image));
                return Err(Error::image(frame.image, what));
            }
        }
        self.written.insert(stem.to_string(), (frame.image.to_path_buf(), frame.frame));
        Ok(self.folder.join(name))
    }

    /// `x, y, score` of a joint.
    fn joint(&self, origin: Origin, keypoints: &[Keypoint]) -> [f64; 3] {
        let seen = |k: usize| Some(keypoints[k]).filter(|keypoint| keypoint.score >= self.keypoint_thr);
        let found = match origin {
            Origin::Keypoint(k) => seen(k).map(|k| [f64::from(k.x), f64::from(k.y), f64::from(k.score)]),
            Origin::Between(a, b) => seen(a).zip(seen(b)).map(|(a, b)| {
                let mean = |a: f32, b: f32| (f64::from(a) + f64::from(b)) / 2.0;
                [mean(a.x, b.x), mean(a.y, b.y), a.score.min(b.score).into()]
            }),
            Origin::Missing => None,
        };
        found.map_or([0.0; 3], |[x, y, score]| [rounded(x), rounded(y), (score * 1e6).round() / 1e6])
    }
}

impl ResultSink for OpenPose {
    fn frame(&mut self, frame: &FrameInfo<'_>, people: &People) -> Result<()> {
        frame.check(people)?;
        let mut entries = Vec::new();
        for (i, person) in people.iter().enumerate() {
            check_keypoints(frame.image, i, person.keypoints.len(), self.keypoints)?;
            let id = person.id.map_or(Ok(-1), |id| {
                let what = || format!("person {} has the id {id}: expected at most {}", i + 1, i64::MAX);
                i64::try_from(id).map_err(|_| Error::image(frame.image, what()))
            })?;
            let joints = self.joints.iter().flat_map(|&origin| self.joint(origin, &person.keypoints));
            entries.push(Entry {
                person_id: [id],
                pose_keypoints_2d: joints.collect(),
                face_keypoints_2d: [],
                hand_left_keypoints_2d: [],
                hand_right_keypoints_2d: [],
                pose_keypoints_3d: [],
                face_keypoints_3d: [],
                hand_left_keypoints_3d: [],
                hand_right_keypoints_3d: [],
            });
        }
        let path = self.path(frame)?;
        let mut file = AtomicFile::create(&path)?;
        let mut text =
            serde_json::to_vec(&File { version: 1.3, people: entries }).expect("numbers and names");
        text.push(b'\n');
        file.write_all(&text).map_err(Error::io("cannot write", &path))?;
        file.commit()
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// All people of a table have the same keypoints.
pub(super) fn check_keypoints(image: &Path, index: usize, got: usize, expected: usize) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::image(image, format!("person {}: {got} keypoints, expected {expected}", index + 1)))
}

#[cfg(test)]
mod tests {
    use super::super::sink::testing::person;
    use super::*;
    use serde_json::Value;

    fn write(order: JointOrder, keypoints: usize, change: impl Fn(&mut [Keypoint])) -> Value {
        let folder = tempfile::tempdir().unwrap();
        let skeleton = Skeleton::of(keypoints).unwrap();
        let mut sink = Box::new(OpenPose::new(folder.path().join("made"), skeleton, order, 0.3).unwrap());
        let mut people = People::from(vec![person(Some(4), keypoints), person(None, keypoints)]);
        change(&mut people[0].keypoints);
        sink.frame(&FrameInfo::new(Path::new("a/b.mp4"), (64, 48)).with_frame(12), &people).unwrap();
        sink.finish().unwrap();
        let file = folder.path().join("made/b_000000000012_keypoints.json");
        serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
    }

    fn joints(file: &Value, person: usize) -> Vec<[f64; 3]> {
        let numbers: Vec<f64> =
            serde_json::from_value(file["people"][person]["pose_keypoints_2d"].clone()).unwrap();
        numbers.chunks(3).map(|joint| joint.try_into().unwrap()).collect()
    }

    #[test]
    fn joints_come_in_openposes_order() {
        let file = write(JointOrder::Body25, 17, |_| ());
        assert_eq!(file["version"], 1.3);
        assert_eq!(
            (&file["people"][0]["person_id"][0], &file["people"][1]["person_id"][0]),
            (&4.into(), &(-1).into())
        );
        let coco = |k: usize| [10.0 * k as f64, 10.0 * k as f64 + 0.5, 0.75];
        // COCO's shoulders are 5 and 6, its hips 11 and 12; -1 stands for what is missing.
        let (neck, hips, none) = ([55.0, 55.5, 0.75], [115.0, 115.5, 0.75], [0.0; 3]);
        let body = [0, 0, 6, 8, 10, 5, 7, 9, 0, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3].map(coco);
        let mut expected = body.to_vec();
        (expected[1], expected[8]) = (neck, hips);
        expected.resize(25, none);
        assert_eq!(joints(&file, 0), expected);
        expected.remove(8);
        expected.truncate(18);
        assert_eq!(joints(&write(JointOrder::Coco18, 17, |_| ()), 1), expected);
    }

    #[test]
    fn what_is_not_seen_is_zero() {
        let file = write(JointOrder::Body25, 17, |keypoints| {
            keypoints[5].score = 0.29;
            keypoints[11].score = 0.4;
        });
        let joints = joints(&file, 0);
        // The left shoulder and with it the neck; the middle of the hips has the lesser score.
        assert_eq!((joints[5], joints[1], joints[8]), ([0.0; 3], [0.0; 3], [115.0, 115.5, 0.4]));
        assert_eq!(joints[2], [60.0, 60.5, 0.75]);
    }

    #[test]
    fn crowdpose_has_a_neck_and_no_face() {
        let joints = joints(&write(JointOrder::Body25, 14, |_| ()), 0);
        assert_eq!((joints[0], joints[1], joints[8]), ([0.0; 3], [130.0, 130.5, 0.75], [65.0, 65.5, 0.75]));
        assert_eq!(joints[15..], [[0.0; 3]; 10]);
    }

    #[test]
    fn no_file_replaces_another_of_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let coco = Skeleton::of(17).unwrap();
        let mut sink = OpenPose::new(folder.path(), coco, JointOrder::Coco18, 0.3).unwrap();
        let nobody = People::default();
        let photo = |name| FrameInfo::new(Path::new(name), (64, 48));
        sink.frame(&photo("a/1.jpg"), &nobody).unwrap();
        let error = sink.frame(&photo("b/1.png"), &nobody).unwrap_err().to_string();
        assert!(
            error.contains("b/1.png: 1_keypoints.json would replace") && error.contains("a/1.jpg"),
            "{error}"
        );
        sink.frame(&photo("v.mp4").with_frame(0), &nobody).unwrap();
        sink.frame(&photo("v.mp4").with_frame(1), &nobody).unwrap();
        assert!(
            sink.frame(&photo("v.mp4").with_frame(1), &nobody).unwrap_err().to_string().contains("frame 1")
        );
        let text = fs::read_to_string(folder.path().join("v_000000000001_keypoints.json")).unwrap();
        assert_eq!(text, "{\"version\":1.3,\"people\":[]}\n");

        let few = People::from(vec![person(None, 14)]);
        let error = sink.frame(&photo("w.jpg"), &few).unwrap_err().to_string();
        assert!(error.contains("person 1: 14 keypoints, expected 17"), "{error}");
        assert!(!folder.path().join("w_keypoints.json").exists());
        let arm = Skeleton::new("arm", &["elbow"], &[]).unwrap();
        let error = OpenPose::new(folder.path(), &arm, JointOrder::Coco18, 0.3).unwrap_err().to_string();
        assert!(error.contains("'arm' has none of OpenPose's joints"), "{error}");
        assert!(OpenPose::new(folder.path(), coco, JointOrder::Coco18, f32::NAN).is_err());
        assert!("body_25".parse::<JointOrder>().is_err());
    }
}
