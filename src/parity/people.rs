//! Differences of people.

use super::{Tolerance, maximum, mean, percentile_99, root_mean_square};
use crate::backend::{SelectParams, Survivors};
use crate::pose::select::iou;
use std::fmt;

/// A person on one side only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stray {
    /// Its score.
    pub score: f32,
    /// `x1, y1, x2, y2` in pixels of the network input.
    pub bbox: [f32; 4],
}

/// Differences of the people.
#[derive(Clone, Debug, Default)]
pub struct PeopleError {
    /// How many there should be.
    pub expected: usize,
    /// People that were not found.
    pub missing: Vec<Stray>,
    /// People that should not be there.
    pub extra: Vec<Stray>,
    /// Absolute, of each person's score.
    pub scores: Vec<f64>,
    /// Absolute, in pixels, of each box side.
    pub boxes: Vec<f64>,
    /// Distances in pixels of each keypoint.
    pub keypoints: Vec<f64>,
    /// Absolute, of each keypoint's score.
    pub visibility: Vec<f64>,
    /// Absolute, of each bin's probability.
    pub heatmaps: Vec<f64>,
    /// Boxes of all that were expected or found.
    everybody: Vec<[f32; 4]>,
}

impl PeopleError {
    /// Compares people of `k` keypoints. `expected` may hold heatmaps of its first people only.
    pub fn between(expected: &Survivors, found: &Survivors, k: usize) -> PeopleError {
        let n = expected.scores.len();
        let mut error = PeopleError { expected: n, ..PeopleError::default() };
        error.everybody.extend(expected.boxes.iter().chain(&found.boxes));
        let stray = |people: &Survivors, i: usize| Stray { score: people.scores[i], bbox: people.boxes[i] };
        let difference = |a: &[f32], b: &[f32]| -> Vec<f64> {
            a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).collect()
        };
        let mut matched = vec![false; found.scores.len()];
        for i in 0..n {
            // A grid point is a person's identity: the points of different levels never coincide.
            let Some(j) = found.priors.iter().position(|prior| *prior == expected.priors[i]) else {
                error.missing.push(stray(expected, i));
                continue;
            };
            matched[j] = true;
            error.scores.push(f64::from((found.scores[j] - expected.scores[i]).abs()));
            error.boxes.extend(difference(&found.boxes[j], &expected.boxes[i]));
            let rows = (&found.visibility[j * k..][..k], &expected.visibility[i * k..][..k]);
            error.visibility.extend(difference(rows.0, rows.1));
            for (f, e) in found.keypoints[j * k..][..k].iter().zip(&expected.keypoints[i * k..][..k]) {
                error.keypoints.push(f64::from(f[0] - e[0]).hypot(f64::from(f[1] - e[1])));
            }
            for (f, e) in
                [(&found.heatmaps_x, &expected.heatmaps_x), (&found.heatmaps_y, &expected.heatmaps_y)]
            {
                let len = f.len() / matched.len();
                match (f.get(j * len..(j + 1) * len), e.get(i * len..(i + 1) * len)) {
                    _ if e.is_empty() => {}
                    (Some(f), Some(e)) if len > 0 => error.heatmaps.extend(difference(f, e)),
                    // Those of further people are not in `expected`.
                    (Some(_), None) if len > 0 => {}
                    _ => error.heatmaps.push(f64::NAN),
                }
            }
        }
        let extra = (0..matched.len()).filter(|&j| !matched[j]);
        error.extra = extra.map(|j| stray(found, j)).collect();
        error
    }

    /// How many people are missing, and how many extra, that the tolerance does not explain. A person on one side only
    /// is explained if
    ///
    /// 1. its score is near the threshold;
    /// 2. or its overlap with another box is near the NMS threshold;
    /// 3. or the other side has a neighbouring grid cell of the same person, with nearly the same score;
    /// 4. or a person that is explained suppresses it on the other side.
    pub fn unexplained(&self, tolerance: &Tolerance) -> (usize, usize) {
        let select = SelectParams::default();
        let (score_thr, nms_thr) = (f64::from(select.score_thr), f64::from(select.nms_thr));
        let overlap = |a: &Stray, b: &[f32; 4]| f64::from(iou(&a.bbox, b));
        let alone = |stray: &Stray, others: &[Stray]| {
            let undecided = f64::from(stray.score) < score_thr + tolerance.undecided;
            let mut all = self.everybody.iter().filter(|b| **b != stray.bbox);
            let close = tolerance.overlap > 0.0
                && all.any(|b| (overlap(stray, b) - nms_thr).abs() < tolerance.overlap);
            let twin = others.iter().any(|other| {
                overlap(stray, &other.bbox) > nms_thr
                    && f64::from((stray.score - other.score).abs()) <= 2.0 * tolerance.score
            });
            undecided || close || twin
        };
        let sides = [&self.missing, &self.extra];
        let mut excused = [0, 1].map(|side: usize| -> Vec<bool> {
            sides[side].iter().map(|stray| alone(stray, sides[1 - side])).collect()
        });
        loop {
            let mut changed = false;
            for side in 0..2 {
                for (i, stray) in sides[side].iter().enumerate() {
                    let mut others = sides[1 - side].iter().zip(&excused[1 - side]);
                    if !excused[side][i] && others.any(|(o, e)| *e && overlap(stray, &o.bbox) > nms_thr) {
                        excused[side][i] = true;
                        changed = true;
                    }
                }
            }
            if !changed {
                let left = excused.map(|side| side.iter().filter(|e| !**e).count());
                return (left[0], left[1]);
            }
        }
    }
}

impl fmt::Display for PeopleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (missing, extra) = (self.missing.len(), self.extra.len());
        writeln!(f, "people   {} expected, {missing} missing, {extra} extra", self.expected)?;
        for (what, strays) in [("missing", &self.missing), ("extra", &self.extra)] {
            for stray in strays {
                let [x1, y1, x2, y2] = stray.bbox;
                let score = stray.score;
                writeln!(f, "         {what}: score {score:.3}, box {x1:.0} {y1:.0} {x2:.0} {y2:.0}")?;
            }
        }
        let parts = [
            ("scores", &self.scores),
            ("boxes", &self.boxes),
            ("keypts", &self.keypoints),
            ("visib.", &self.visibility),
            ("heatmaps", &self.heatmaps),
        ];
        for (name, values) in parts.into_iter().filter(|(_, values)| !values.is_empty()) {
            let (mean, rms) = (mean(values), root_mean_square(values));
            let (most, worst) = (percentile_99(values), maximum(values));
            writeln!(f, "{name:8} mean {mean:.2e}, rms {rms:.2e}, 99 % {most:.2e}, worst {worst:.2e}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;

    /// People of one keypoint, by score and left edge of a box of 100 x 100.
    fn people(list: &[(f32, f32)]) -> Survivors {
        Survivors {
            scores: list.iter().map(|p| p.0).collect(),
            boxes: list.iter().map(|p| [p.1, 0.0, p.1 + 100.0, 100.0]).collect(),
            priors: list.iter().map(|p| [p.1, 0.0]).collect(),
            keypoints: list.iter().map(|p| [p.1 + 50.0, 50.0]).collect(),
            visibility: list.iter().map(|_| 0.5).collect(),
            ..Survivors::default()
        }
    }

    fn unexplained(expected: &[(f32, f32)], found: &[(f32, f32)], tolerance: &Tolerance) -> (usize, usize) {
        PeopleError::between(&people(expected), &people(found), 1).unexplained(tolerance)
    }

    #[test]
    fn people_on_one_side_need_an_excuse() {
        let (fp32, fp16) = (Tolerance::F32, Tolerance::FP16);
        assert_eq!(unexplained(&[(0.9, 0.0)], &[(0.9, 0.0)], &fp32), (0, 0));
        assert_eq!(unexplained(&[(0.9, 0.0)], &[], &fp16), (1, 0));
        assert_eq!(unexplained(&[], &[(0.9, 0.0)], &fp16), (0, 1));
        // A score near the threshold.
        assert_eq!(unexplained(&[(0.11, 0.0)], &[], &fp16), (0, 0));
        assert_eq!(unexplained(&[(0.11, 0.0)], &[], &fp32), (1, 0));
        assert_eq!(unexplained(&[(0.13, 0.0)], &[], &fp16), (1, 0));
        assert_eq!(unexplained(&[(f32::NAN, 0.0)], &[], &fp16), (1, 0));
        // An overlap near the one that suppresses: 100 x 79 of 100 x 121 is 0.653.
        assert_eq!(unexplained(&[(0.9, 0.0), (0.8, 21.0)], &[(0.9, 0.0)], &fp16), (0, 0));
        assert_eq!(unexplained(&[(0.9, 0.0), (0.8, 21.0)], &[(0.9, 0.0)], &fp32), (1, 0));
        assert_eq!(unexplained(&[(0.9, 0.0), (0.8, 40.0)], &[(0.9, 0.0)], &fp16), (1, 0));
        // Another grid of the same person, as good.
        assert_eq!(unexplained(&[(0.9, 0.0)], &[(0.895, 8.0)], &fp16), (0, 0));
        assert_eq!(unexplained(&[(0.9, 0.0)], &[(0.7, 8.0)], &fp16), (1, 1));
        // Suppressed by someone who had an excuse to be missing.
        assert_eq!(unexplained(&[(0.11, 0.0)], &[(0.05, 8.0)], &fp16), (0, 0));
        assert_eq!(unexplained(&[(0.8, 21.0), (0.9, 0.0)], &[(0.9, 0.0), (0.6, 25.0)], &fp16), (0, 0));
    }

    #[test]
    fn differences_are_those_of_the_same_grids() {
        let mut found = people(&[(0.8, 0.0), (0.9, 300.0)]);
        found.keypoints[0] = [53.0, 54.0];
        let error = PeopleError::between(&people(&[(0.9, 300.0), (0.75, 0.0)]), &found, 1);
        assert_eq!(error.keypoints, [0.0, 5.0]);
        assert_abs_diff_eq!(error.scores[1], 0.05, epsilon = 1e-6);
        assert!(error.missing.is_empty() && error.extra.is_empty());
        assert!(error.to_string().contains("2 expected, 0 missing"));
    }
}
