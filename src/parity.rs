//! Comparison of an [`Executor`] with a dump of the authors' PyTorch, as `tools/dump_reference.py` writes them.

use crate::backend::{Executor, Frame, RunOptions, SelectParams, Survivors};
use crate::error::{Error, Result};
use crate::model::{self, Variant};
use crate::plan::{BufferId, Op, Plan, View};
use crate::vision::{Letterbox, Photo};
use crate::weights::Checkpoint;
use std::fmt;
use std::path::Path;

/// Stage maps that a dump may hold, by buffer name; `cls.i` and `bbox.i` are level `i` of [`Op::Select`].
const MAPS: [&str; 12] =
    ["c3", "c4", "c5", "p3", "p4", "p5", "cls.0", "cls.1", "cls.2", "bbox.0", "bbox.1", "bbox.2"];

/// What PyTorch computed for one network input.
pub struct Dump {
    tensors: Checkpoint,
    /// The size of the network.
    pub variant: Variant,
    /// `K`.
    pub keypoints: usize,
    /// Head levels.
    pub levels: usize,
    /// The network input, as a photo that needs no letterboxing.
    pub photo: Photo,
    seed: u64,
}

impl Dump {
    /// Opens a dump.
    ///
    /// # Errors
    /// If the file is none.
    pub fn open(path: impl AsRef<Path>) -> Result<Dump> {
        let tensors = Checkpoint::open(path.as_ref())?;
        let case: Vec<usize> = tensors.tensor("case", &[7])?.into_iter().map(|v| v as usize).collect();
        let [arch, keypoints, levels, width, height, seed, picture] = case[..] else {
            unreachable!("7 values")
        };
        let Some(&variant) = Variant::ALL.get(arch) else {
            return Err(Error::weights(
                path,
                format!("tensor 'case': arch {arch} of {}", Variant::ALL.len()),
            ));
        };
        let bgr = match tensors.contains("input") {
            true => tensors.tensor("input", &[height, width, 3])?.into_iter().map(|v| v as u8).collect(),
            false => model::noise_image(width, height, picture as u64),
        };
        let photo = Photo { width, height, bgr };
        Ok(Dump { tensors, variant, keypoints, levels, photo, seed: seed as u64 })
    }

    /// The generated weights that the dump was made with. (A dump of a photo was made with a checkpoint file.)
    pub fn weights(&self) -> Checkpoint {
        model::random(self.variant, self.keypoints, self.levels, self.seed)
    }

    /// The network of some weights at the dump's input size.
    ///
    /// # Errors
    /// If the weights are not of the dump's kind of network.
    pub fn plan(&self, weights: &Checkpoint) -> Result<Plan> {
        let plan = model::build(weights, (self.photo.width, self.photo.height))?;
        match plan.keypoints == self.keypoints {
            true => Ok(plan),
            false => Err(Error::weights(
                weights.path(),
                format!("a network of {} keypoints, but the dump has {}", plan.keypoints, self.keypoints),
            )),
        }
    }

    /// Runs the dump's input with the default thresholds, and compares.
    ///
    /// # Errors
    /// If the executor fails, or was not prepared with all buffers kept.
    pub fn compare(&self, executor: &mut dyn Executor) -> Result<Report> {
        let size = (self.photo.width, self.photo.height);
        let frame = Frame { photo: &self.photo, letterbox: &Letterbox::new(size, size) };
        let options = RunOptions { heatmaps: true, ..RunOptions::default() };
        let people = executor.run(&[frame], &options)?.pop().unwrap_or_default();
        let mut report = Report { people: self.compare_people(&people)?, maps: Vec::new() };
        for name in MAPS {
            if let (true, Some(view)) = (self.tensors.contains(name), stage(executor.plan(), name)) {
                let found = executor.read(view, 0)?;
                report.maps.push(self.compare_map(name, &found)?);
            }
        }
        Ok(report)
    }

    fn all(&self, name: &str) -> Result<Vec<f32>> {
        self.tensors.tensor(name, self.tensors.shape(name).unwrap_or_default())
    }

    fn compare_map(&self, name: &str, found: &[f32]) -> Result<MapError> {
        let expected = self.all(name)?;
        let rms = f64::from(self.tensors.tensor(&format!("{name}.rms"), &[1])?[0]);
        let index: Vec<usize> = match self.tensors.contains(&format!("{name}.index")) {
            true => self.all(&format!("{name}.index"))?.into_iter().map(|i| i as usize).collect(),
            false => (0..found.len()).collect(),
        };
        let at = |i: usize| f64::from(*found.get(i).unwrap_or(&f32::NAN));
        let errors: Vec<f64> =
            index.iter().zip(&expected).map(|(&i, e)| (at(i) - f64::from(*e)).abs() / rms).collect();
        let complete = index.len() == expected.len();
        Ok(MapError {
            name: name.into(),
            relative: if complete { root_mean_square(&errors) } else { f64::NAN },
            worst: maximum(&errors),
        })
    }

    fn compare_people(&self, found: &Survivors) -> Result<PeopleError> {
        let k = self.keypoints;
        let scores = self.all("scores")?;
        let n = scores.len();
        let priors = self.tensors.tensor("priors", &[n, 2])?;
        let boxes = self.tensors.tensor("boxes", &[n, 4])?;
        let keypoints = self.tensors.tensor("keypoints", &[n, k, 2])?;
        let visibility = self.tensors.tensor("visibility", &[n, k])?;
        let (heatmap_x, heatmap_y) = (self.all("heatmap_x")?, self.all("heatmap_y")?);
        let with_heatmaps = self.tensors.shape("heatmap_x").map_or(0, |s| s[0]);
        let mut error = PeopleError { expected: n, ..PeopleError::default() };
        let mut matched = vec![false; found.scores.len()];
        for i in 0..n {
            // A grid point is a person's identity: the points of different levels never coincide.
            let place = |p: &[f32; 2]| p[0] == priors[2 * i] && p[1] == priors[2 * i + 1];
            let Some(j) = found.priors.iter().position(place) else {
                error.missing.push(scores[i]);
                continue;
            };
            matched[j] = true;
            let difference = |a: &[f32], b: &[f32]| -> Vec<f64> {
                assert_eq!(a.len(), b.len(), "values a person");
                a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).collect()
            };
            let size = [self.photo.width as f32, self.photo.height as f32];
            let clamped: Vec<f32> = (0..4).map(|c| found.boxes[j][c].clamp(0.0, size[c % 2])).collect();
            error.scores.push(f64::from((found.scores[j] - scores[i]).abs()));
            error.boxes.extend(difference(&clamped, &boxes[4 * i..][..4]));
            error.visibility.extend(difference(&found.visibility[j * k..][..k], &visibility[i * k..][..k]));
            for (f, e) in found.keypoints[j * k..][..k].iter().zip(keypoints[2 * i * k..].chunks_exact(2)) {
                error.keypoints.push(f64::from(f[0] - e[0]).hypot(f64::from(f[1] - e[1])));
            }
            if i < with_heatmaps {
                for (found, expected) in [(&found.heatmaps_x, &heatmap_x), (&found.heatmaps_y, &heatmap_y)] {
                    let len = expected.len() / with_heatmaps;
                    error.heatmaps.extend(difference(&found[j * len..][..len], &expected[i * len..][..len]));
                }
            }
        }
        error.extra = found.scores.iter().zip(matched).filter(|(_, m)| !m).map(|(s, _)| *s).collect();
        Ok(error)
    }
}

/// The view of a stage map of [`MAPS`].
fn stage(plan: &Plan, name: &str) -> Option<View> {
    if let Some((kind, level)) = name.split_once('.') {
        let levels = plan.steps.iter().find_map(|step| match &step.op {
            Op::Select { levels } => Some(levels),
            _ => None,
        })?;
        let level = levels.get(level.parse::<usize>().ok()?)?;
        return Some(if kind == "cls" { level.cls } else { level.bbox });
    }
    let id = plan.buffers.iter().position(|b| b.name == name)?;
    Some(View { buffer: BufferId(id), c0: 0, c: plan.buffers[id].c })
}

fn root_mean_square(values: &[f64]) -> f64 {
    (values.iter().map(|v| v * v).sum::<f64>() / values.len().max(1) as f64).sqrt()
}

/// NaN if any is.
fn maximum(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, |a, b| if a >= b { a } else { b })
}

/// Differences of one stage map.
#[derive(Clone, Debug)]
pub struct MapError {
    /// Which.
    pub name: String,
    /// Root mean square of the difference over that of the map.
    pub relative: f64,
    /// Largest difference over the map's root mean square.
    pub worst: f64,
}

/// Differences of the people.
#[derive(Clone, Debug, Default)]
pub struct PeopleError {
    /// How many there should be.
    pub expected: usize,
    /// Scores of people that were not found.
    pub missing: Vec<f32>,
    /// Scores of people that should not be there.
    pub extra: Vec<f32>,
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
}

/// How an executor differs from PyTorch.
#[derive(Clone, Debug)]
pub struct Report {
    /// Stage maps, in order of computation.
    pub maps: Vec<MapError>,
    /// The result.
    pub people: PeopleError,
}

/// Largest differences that are let pass.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Relative error of a stage map.
    pub map: f64,
    /// Score of a person, and of a keypoint.
    pub score: f64,
    /// A person may be missing or extra if its score is less than this above the threshold.
    pub undecided: f64,
    /// Mean distance of keypoints in pixels of the network input.
    pub keypoint_mean: f64,
    /// Largest distance of a keypoint.
    pub keypoint: f64,
    /// Side of a box in pixels.
    pub bbox: f64,
    /// Probability of a bin.
    pub heatmap: f64,
}

impl Tolerance {
    /// The project's promise for f32. Boxes are held to what keypoints are.
    pub const F32: Tolerance = Tolerance {
        map: 1e-4,
        score: 1e-4,
        undecided: 0.0,
        keypoint_mean: 0.05,
        keypoint: 0.2,
        bbox: 0.05,
        heatmap: 1e-3,
    };
}

impl Tolerance {
    /// For bf16: people may come and go within 0.02 of the threshold. Generated weights, which are random, amplify the
    /// rounding of each layer tenfold on the way to the last maps and turn that into pixels of people a hundred wide.
    pub const BF16: Tolerance = Tolerance {
        map: 5e-2,
        score: 4e-2,
        undecided: 2e-2,
        keypoint_mean: 1.5,
        keypoint: 20.0,
        bbox: 4.0,
        heatmap: 0.3,
    };
}

impl Report {
    /// Everything that is beyond the tolerance, one line each.
    ///
    /// # Errors
    /// If anything is.
    pub fn check(&self, tolerance: &Tolerance) -> std::result::Result<(), String> {
        let mut beyond = Vec::new();
        let mut limit = |what: &str, value: f64, limit: f64| {
            if value.is_nan() || value > limit {
                beyond.push(format!("{what} differs by {value:.2e}, allowed {limit:.0e}"));
            }
        };
        for map in &self.maps {
            limit(&map.name, map.relative, tolerance.map);
        }
        let p = &self.people;
        let mean = p.keypoints.iter().sum::<f64>() / p.keypoints.len().max(1) as f64;
        limit("a score", maximum(&p.scores), tolerance.score);
        limit("a visibility", maximum(&p.visibility), tolerance.score);
        limit("a box side (px)", maximum(&p.boxes), tolerance.bbox);
        limit("the mean keypoint (px)", mean, tolerance.keypoint_mean);
        limit("a keypoint (px)", maximum(&p.keypoints), tolerance.keypoint);
        limit("a heatmap", maximum(&p.heatmaps), tolerance.heatmap);
        let threshold = f64::from(SelectParams::default().score_thr);
        let decided = |score: &&f32| f64::from(**score) >= threshold + tolerance.undecided;
        let (missing, extra) =
            (p.missing.iter().filter(decided).count(), p.extra.iter().filter(decided).count());
        if missing + extra > 0 {
            beyond.push(format!("of {} people {missing} are missing, and {extra} are extra", p.expected));
        }
        if self.maps.is_empty() {
            beyond.push("no map was compared".into());
        }
        if beyond.is_empty() { Ok(()) } else { Err(beyond.join("\n")) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for map in &self.maps {
            writeln!(f, "{:8} relative error {:.2e}, worst {:.2e}", map.name, map.relative, map.worst)?;
        }
        let p = &self.people;
        writeln!(
            f,
            "people   {} expected, {} missing, {} extra",
            p.expected,
            p.missing.len(),
            p.extra.len()
        )?;
        let parts = [
            ("scores", &p.scores),
            ("boxes", &p.boxes),
            ("keypts", &p.keypoints),
            ("visib.", &p.visibility),
            ("heatmaps", &p.heatmaps),
        ];
        for (name, values) in parts {
            writeln!(f, "{name:8} rms {:.2e}, worst {:.2e}", root_mean_square(values), maximum(values))?;
        }
        Ok(())
    }
}
