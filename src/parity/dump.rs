//! What the authors' PyTorch computed, as `tools/dump_reference.py` writes it.

use super::{Kind, MAPS, MapError, PeopleError, Report, stage};
use crate::backend::{Executor, Frame, RunOptions, Survivors};
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::pose::Letterbox;
use crate::pose::model::{self, Variant};
use crate::vision::Photo;
use crate::weights::Checkpoint;
use std::path::Path;

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
        match plan.keypoints() == self.keypoints {
            true => Ok(plan),
            false => Err(Error::weights(
                weights.path(),
                format!("a network of {} keypoints, but the dump has {}", plan.keypoints(), self.keypoints),
            )),
        }
    }

    /// Runs the dump's input with the default thresholds, and compares.
    ///
    /// # Errors
    /// If the executor fails, or was not prepared with all buffers kept.
    pub fn compare(&self, executor: &mut dyn Executor) -> Result<Report> {
        let size = (self.photo.width, self.photo.height);
        let letterbox = Letterbox::new(size, size);
        let frame = Frame::new(&self.photo, &letterbox);
        let options = RunOptions { heatmaps: true, ..RunOptions::default() };
        let mut people = executor.run(&[frame], &options)?.pop().unwrap_or_default();
        // PyTorch's boxes end at the input's border.
        let size = [size.0 as f32, size.1 as f32];
        for corners in &mut people.boxes {
            (0..4).for_each(|i| corners[i] = corners[i].clamp(0.0, size[i % 2]));
        }
        let people = PeopleError::between(&self.people()?, &people, self.keypoints);
        let mut report = Report { people, maps: Vec::new() };
        for name in MAPS.into_iter().filter(|name| self.tensors.contains(name)) {
            let view = stage(executor.plan(), name).ok_or_else(|| {
                Error::Usage(format!("the dump has the map {name}, which the network has not"))
            })?;
            let found = executor.read(view, 0)?;
            let (_, w) = executor.plan().hw(view);
            report.maps.push(self.compare_map(name, &found, (w, view.c))?);
        }
        Ok(report)
    }

    fn all(&self, name: &str) -> Result<Vec<f32>> {
        self.tensors.tensor(name, self.tensors.shape(name).unwrap_or_default())
    }

    fn compare_map(&self, name: &'static str, found: &[f32], (w, c): (usize, usize)) -> Result<MapError> {
        let expected = self.all(name)?;
        let rms = f64::from(self.tensors.tensor(&format!("{name}.rms"), &[1])?[0]);
        let index: Vec<usize> = match self.tensors.contains(&format!("{name}.index")) {
            true => self.all(&format!("{name}.index"))?.into_iter().map(|i| i as usize).collect(),
            false => (0..found.len()).collect(),
        };
        let at = |i: usize| f64::from(*found.get(i).unwrap_or(&f32::NAN));
        let errors = index.iter().zip(&expected).map(|(&i, e)| (i, (at(i) - f64::from(*e)) / rms));
        let mut error = MapError::new(name.into(), Kind::of(name), errors, (w, c));
        if index.len() != expected.len() {
            error.relative = f64::NAN;
        }
        Ok(error)
    }

    /// The people of the dump; heatmaps of the first ones only.
    fn people(&self) -> Result<Survivors> {
        let scores = self.all("scores")?;
        let (n, k) = (scores.len(), self.keypoints);
        let pairs = |values: Vec<f32>| values.chunks_exact(2).map(|p| [p[0], p[1]]).collect();
        let boxes = self.tensors.tensor("boxes", &[n, 4])?;
        Ok(Survivors {
            scores,
            boxes: boxes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]).collect(),
            priors: pairs(self.tensors.tensor("priors", &[n, 2])?),
            keypoints: pairs(self.tensors.tensor("keypoints", &[n, k, 2])?),
            visibility: self.tensors.tensor("visibility", &[n, k])?,
            heatmaps_x: self.all("heatmap_x")?,
            heatmaps_y: self.all("heatmap_y")?,
            not_finite: 0,
        })
    }
}
