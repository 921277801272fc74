//! How a tracker is set up.

use crate::error::{Error, Result};

/// The longest that a person may be out of sight, in seconds: an hour.
const MOST_UNSEEN: f64 = 3600.0;

/// How a [`Tracker`](super::Tracker) is set up. The defaults suit people who are filmed by a camera that stands still or moves
/// slowly, at any number of frames a second.
///
/// ```
/// use rtmo_engine::{Tracker, TrackerOptions};
///
/// let options = TrackerOptions::default().with_max_unseen(5.0).with_min_score(0.5);
/// let tracker = Tracker::new(options)?;
/// # rtmo_engine::Result::Ok(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TrackerOptions {
    /// How alike a person and what is expected of a track must at least be, 0 to 1 (0.1): the mean of the overlap (IoU) of their
    /// boxes and of the similarity of their keypoints (OKS). Boxes are widened by 0.3 of their size on each side, and by more
    /// where frames are far apart. Where joints are hidden it is the overlap; without keypoints it is half the overlap, so that
    /// from 0.5 on people without keypoints are not tracked. People below [`TrackerOptions::min_score`] must be more alike by 0.2,
    /// others of scores below 0.6 by up to 0.15, and people who were out of sight by up to 0.25.
    pub min_iou: f32,
    /// Seconds that a person may be out of sight and still keep the id, 0 to 3600 (2). With few frames a second it must be
    /// longer than the time between two of them.
    pub max_unseen: f64,
    /// Score from which on a person may begin a track, 0 to 1 (0.3). People of lower scores continue tracks that exist:
    /// somebody who walks behind a tree is such a person for a while.
    pub min_score: f32,
    /// In how many frames a person must be seen before there is an id, at least 1 (2); 1 in the first frame. What is seen once
    /// and never again is mostly no person.
    pub min_hits: usize,
    /// For each keypoint how far it may be off, as OKS defines it; `None`: COCO's for 17 keypoints, CrowdPose's for 14, 0.07
    /// otherwise. Keypoints of people with another number are not compared.
    pub sigmas: Option<Vec<f32>>,
}

impl Default for TrackerOptions {
    fn default() -> TrackerOptions {
        TrackerOptions { min_iou: 0.1, max_unseen: 2.0, min_score: 0.3, min_hits: 2, sigmas: None }
    }
}

impl TrackerOptions {
    /// Sets [`TrackerOptions::min_iou`].
    pub fn with_min_iou(self, min_iou: f32) -> TrackerOptions {
        TrackerOptions { min_iou, ..self }
    }

    /// Sets [`TrackerOptions::max_unseen`], in seconds.
    pub fn with_max_unseen(self, max_unseen: f64) -> TrackerOptions {
        TrackerOptions { max_unseen, ..self }
    }

    /// Sets [`TrackerOptions::min_score`].
    pub fn with_min_score(self, min_score: f32) -> TrackerOptions {
        TrackerOptions { min_score, ..self }
    }

    /// Sets [`TrackerOptions::min_hits`].
    pub fn with_min_hits(self, min_hits: usize) -> TrackerOptions {
        TrackerOptions { min_hits, ..self }
    }

    /// Sets [`TrackerOptions::sigmas`].
    pub fn with_sigmas(self, sigmas: Vec<f32>) -> TrackerOptions {
        TrackerOptions { sigmas: Some(sigmas), ..self }
    }

    /// Whether every value makes sense.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |what: &str, got: String, expected: &str| {
            Err(Error::Usage(format!("tracker: {what} {got}: expected {expected}")))
        };
        for (what, value) in [("min_iou", self.min_iou), ("min_score", self.min_score)] {
            if !(0.0..=1.0).contains(&value) {
                return wrong(what, value.to_string(), "a number from 0 to 1");
            }
        }
        if !(0.0..=MOST_UNSEEN).contains(&self.max_unseen) {
            return wrong("max_unseen", self.max_unseen.to_string(), "seconds from 0 to 3600");
        }
        if self.min_hits == 0 {
            return wrong("min_hits", "0".into(), "a number of frames from 1 on");
        }
        let sigmas = self.sigmas.as_deref().unwrap_or(&[]);
        if let Some(i) = sigmas.iter().position(|s| !(s.is_finite() && *s > 0.0)) {
            return wrong(&format!("sigma {}", i + 1), sigmas[i].to_string(), "a number above 0");
        }
        Ok(())
    }
}
