//! Average precision: how well a network finds people, by annotations that people made (feature `eval`).
//!
//! Found and annotated people are matched by object keypoint similarity (OKS), which is 1 where all keypoints agree and falls
//! with their distance, measured by the person's size. Precision over recall, averaged over thresholds of OKS from 0.5 to
//! 0.95, is the AP that papers quote. The numbers are those of `pycocotools` and `xtcocotools`; `docs/evaluation.md` of the
//! repository says what each means.
//!
//! ```no_run
//! use rtmo_engine::eval::{Annotations, Benchmark, Results, Rule, evaluate};
//!
//! let annotations = Annotations::open("person_keypoints_val2017.json", Benchmark::Coco)?;
//! let results = Results::open("results.json", &annotations)?;
//! for (name, value) in evaluate(&annotations, &results, Rule::default())?.iter() {
//!     println!("{name}: {value:?}");
//! }
//! # rtmo_engine::Result::Ok(())
//! ```
//!
//! [`Results::add`] takes the people that an [`Engine`](crate::Engine) found, without a file.

mod annotations;
mod entry;
mod metrics;
mod reading;
mod results;

pub use annotations::{AnnotatedImage, Annotations};
pub use metrics::{Metrics, evaluate};
pub use results::Results;

use crate::error::{Error, Result};
use std::str::FromStr;

/// Whose people are judged, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Benchmark {
    /// 17 keypoints; a person's size is the annotated area.
    #[default]
    Coco,
    /// 14 keypoints; a person's size is 0.53 times that of the annotated box, since there is no area. AP is also given for
    /// images by how crowded they are.
    CrowdPose,
}

impl Benchmark {
    /// Keypoints of a person.
    pub fn keypoints(self) -> usize {
        self.sigmas().len()
    }

    /// How far apart two people place each keypoint, as a share of the person's size: the tolerance of OKS.
    pub fn sigmas(self) -> &'static [f64] {
        // Quotients, as the reference has them: 0.26 / 10 and 0.026 are different numbers.
        const COCO: [f64; 17] = [
            0.26 / 10.0,
            0.25 / 10.0,
            0.25 / 10.0,
            0.35 / 10.0,
            0.35 / 10.0,
            0.79 / 10.0,
            0.79 / 10.0,
            0.72 / 10.0,
            0.72 / 10.0,
            0.62 / 10.0,
            0.62 / 10.0,
            1.07 / 10.0,
            1.07 / 10.0,
            0.87 / 10.0,
            0.87 / 10.0,
            0.89 / 10.0,
            0.89 / 10.0,
        ];
        const CROWDPOSE: [f64; 14] = [
            0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079,
        ];
        match self {
            Benchmark::Coco => &COCO,
            Benchmark::CrowdPose => &CROWDPOSE,
        }
    }
}

/// Whose rules decide which people count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// mmpose's `xtcocotools`, by which RTMO's published figures were made: found people without a keypoint score above 0
    /// are left out; annotated ones count by their labelled keypoints, in CrowdPose by `num_keypoints`.
    #[default]
    Xtcocotools,
    /// The original `pycocotools`: all found people count; annotated ones by `num_keypoints`.
    Pycocotools,
}

impl Rule {
    /// `xtcocotools` or `pycocotools`.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Xtcocotools => "xtcocotools",
            Rule::Pycocotools => "pycocotools",
        }
    }
}

impl FromStr for Rule {
    type Err = Error;

    /// `xtcocotools` or `pycocotools`.
    fn from_str(text: &str) -> Result<Rule> {
        [Rule::Xtcocotools, Rule::Pycocotools]
            .into_iter()
            .find(|rule| rule.name() == text)
            .ok_or_else(|| Error::Usage(format!("rule '{text}': expected xtcocotools or pycocotools")))
    }
}
