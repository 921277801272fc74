//! Reads hyper-parameters off the names and shapes of a checkpoint's tensors.

use super::limits::{CHANNELS, LAYERS};
use crate::error::{Error, Result};
use crate::weights::Checkpoint;

/// Looks up extents and counts layers.
pub(super) struct Probe<'a> {
    checkpoint: &'a Checkpoint,
}

impl Probe<'_> {
    pub fn new(checkpoint: &Checkpoint) -> Probe<'_> {
        Probe { checkpoint }
    }

    fn complaint<T>(&self, tensor: &str, expected: String, got: String) -> Result<T> {
        let path = self.checkpoint.path().to_path_buf();
        Err(Error::Tensor { path, tensor: tensor.into(), expected, got })
    }

    /// An error about the whole file.
    pub fn refuse<T>(&self, what: String) -> Result<T> {
        Err(Error::weights(self.checkpoint.path(), what))
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.checkpoint.contains(name)
    }

    /// Extent `axis` of a tensor that must be there: 1 to `most`.
    pub fn extent_up_to(&self, name: &str, axis: usize, most: usize) -> Result<usize> {
        let dimensions = format!("a tensor of at least {} dimensions, none empty", axis + 1);
        let Some(shape) = self.checkpoint.shape(name) else {
            return self.complaint(name, dimensions, "no such tensor".into());
        };
        match shape.get(axis) {
            None | Some(0) => self.complaint(name, dimensions, format!("shape {shape:?}")),
            Some(&n) if n > most => self.complaint(
                name,
                format!("at most {most} in dimension {axis}"),
                format!("shape {shape:?}"),
            ),
            Some(&n) => Ok(n),
        }
    }

    /// Extent `axis` of a tensor that must be there: 1 to [`CHANNELS`].
    pub fn extent(&self, name: &str, axis: usize) -> Result<usize> {
        self.extent_up_to(name, axis, CHANNELS)
    }

    /// As [`Probe::extent`], a multiple of `divisor`.
    pub fn multiple(&self, name: &str, axis: usize, divisor: usize) -> Result<usize> {
        let n = self.extent(name, axis)?;
        if n.is_multiple_of(divisor) {
            return Ok(n);
        }
        let what = if axis == 0 { "output" } else { "input" };
        self.complaint(name, format!("{what} channels divisible by {divisor}"), n.to_string())
    }

    /// How many of `name(0), name(1), ...` there are: 1 to [`LAYERS`].
    pub fn count(&self, name: impl Fn(usize) -> String) -> Result<usize> {
        self.extent(&name(0), 0)?;
        match (1..=LAYERS).find(|&i| !self.has(&name(i))) {
            Some(count) => Ok(count),
            None => self.complaint(&name(LAYERS), format!("at most {LAYERS} of its kind"), "more".into()),
        }
    }
}
