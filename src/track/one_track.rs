//! One track: what is known of a person.

use super::joints::{Expected, Joints};
use super::kalman::{Motion, Place};
use super::similarity::buffered_iou;
use crate::pose::{Keypoint, Person};

/// Boxes are widened by this share of their size on each side (C-BIoU's), and by as much more as people may get on in the time
/// between two frames.
const BUFFER: f64 = 0.3;
/// Sizes a second.
const FASTEST: f64 = 2.0;
/// No box is widened by more than this share.
const WIDEST: f64 = 3.0;
/// To find how a camera has moved, boxes are widened by this share.
const SWAYING: f64 = 1.0;
/// What a track lacks in likeness that was not seen in the frame before: a person who was is the likelier one.
const UNSEEN: f64 = 0.05;
/// What it lacks besides when it has not been seen for as long as it may: somebody else may stand there by then.
const LONG_UNSEEN: f64 = 0.2;

/// A person at a time.
#[derive(Clone, Debug)]
pub struct Seen {
    pub time: f64,
    pub place: Place,
    pub keypoints: Vec<Keypoint>,
}

impl Seen {
    pub fn new(person: &Person, time: f64) -> Seen {
        Seen { time, place: Place::of(person.bbox), keypoints: person.keypoints.clone() }
    }
}

/// What a track expects in a frame.
pub struct Expectation {
    place: Place,
    joints: Expected,
    /// By which share of their size boxes are widened on each side.
    buffer: f64,
    /// What a pair lacks in likeness.
    lacks: f64,
}

impl Expectation {
    /// How alike a person with these joints is, up to 1, or up to a half where there are no keypoints to compare; 0 where boxes
    /// have nothing in common.
    pub fn similarity(&self, place: &Place, joints: &Joints) -> f64 {
        let iou = buffered_iou(&self.place, place, self.buffer);
        if iou == 0.0 {
            return 0.0;
        }
        let hidden = joints.count() > 0 && joints.count() == self.joints.count();
        let alike = match self.joints.oks(joints) {
            Some(oks) => (iou + oks) / 2.0,
            // Somebody whose joints are hidden is judged by the box; with boxes alone one is easily mistaken.
            None if hidden => iou,
            None => iou / 2.0,
        };
        alike - self.lacks
    }
}

#[derive(Clone, Debug)]
pub struct Track {
    /// Once it has been seen often enough.
    pub id: Option<u64>,
    /// Where the person is expected in the frame at hand.
    motion: Motion,
    /// The motion as it was known when the person was last seen.
    motion_seen: Motion,
    /// When and where that was.
    pub seen: Seen,
    /// Frames in which the person was seen.
    pub hits: usize,
    /// Frames since then in which the person was not.
    pub missed: usize,
}

impl Track {
    pub fn new(seen: Seen) -> Track {
        let motion = Motion::new(&seen.place);
        Track { id: None, motion, motion_seen: motion, seen, hits: 1, missed: 0 }
    }

    /// Whether the person may still be seen again at `time`.
    pub fn lives(&self, time: f64, max_unseen: f64) -> bool {
        // A little more than that: times such as 0.1 and 0.2 are not exact.
        time - self.seen.time <= max_unseen * (1.0 + 1e-9) + 1e-9
    }

    pub fn predict(&mut self, seconds: f64) {
        self.motion.predict(seconds);
    }

    /// Where the person should be in the frame at `time`, `passed` seconds after the one before. `sigmas` gives OKS's constants
    /// for a number of keypoints.
    pub fn expect<'a>(
        &self,
        time: f64,
        passed: f64,
        max_unseen: f64,
        sigmas: impl FnOnce(usize) -> &'a [f32],
    ) -> Expectation {
        let place = self.motion.place();
        let keypoints = &self.seen.keypoints;
        let joints = Expected::new(&self.seen.place, keypoints, &place, sigmas(keypoints.len()));
        let unseen = (time - self.seen.time - passed).max(0.0);
        let lacks = UNSEEN + LONG_UNSEEN * unseen / max_unseen.max(f64::MIN_POSITIVE);
        Expectation {
            place,
            joints,
            buffer: (BUFFER + FASTEST * passed).min(WIDEST),
            lacks: if self.missed == 0 { 0.0 } else { lacks },
        }
    }

    /// How much a person and what is expected here overlap if everything has moved, 0 to 1, and by how much.
    pub fn sway(&self, seen: &Seen) -> (f64, [f64; 2]) {
        let expected = self.motion.place();
        let by = [seen.place.x - expected.x, seen.place.y - expected.y];
        (buffered_iou(&expected, &seen.place, SWAYING), by)
    }

    /// Moves everything that is known, as the camera has moved.
    pub fn shift(&mut self, [x, y]: [f64; 2]) {
        self.motion.shift(x, y);
        self.motion_seen.shift(x, y);
        self.seen.place.x += x;
        self.seen.place.y += y;
    }

    /// Takes in that the person has been seen.
    pub fn take(&mut self, seen: Seen) {
        if self.missed == 0 {
            self.motion.update(&seen.place);
        } else {
            self.motion = self.motion_seen;
            self.bridge(&seen);
        }
        self.motion_seen = self.motion;
        self.seen = seen;
        self.hits += 1;
        self.missed = 0;
    }

    /// OC-SORT's update after a gap: what the filter made up meanwhile is replaced by a straight way from where the person was
    /// last seen to `seen`, in as many steps as frames were missed, up to 30.
    fn bridge(&mut self, seen: &Seen) {
        let steps = (self.missed + 1).min(30);
        let seconds = (seen.time - self.seen.time) / steps as f64;
        for step in 1..=steps {
            self.motion.predict(seconds);
            self.motion.update(&self.seen.place.towards(&seen.place, step as f64 / steps as f64));
        }
    }
}
