//! Where a network's tensors come from. The builders ask a [`Source`] for each tensor where they use it, stating its
//! shape. One pass over the builders yields the plan, the list of tensors, the check of a checkpoint, or generated
//! weights.

use super::signal::Inputs;
use crate::error::{Error, Result};
use crate::weights::Checkpoint;
use std::borrow::Cow;
use std::path::PathBuf;

/// How a tensor's values are generated. Checkpoints have their own.
#[derive(Clone, Debug)]
pub(super) enum Init {
    /// Uniform in a range.
    Uniform(f64, f64),
    /// The tensor's two halves, each uniform in a range.
    Halves([(f64, f64); 2]),
    /// A weight whose outputs have this variance where its inputs have a mean square of 1.
    Weight(f64),
    /// A batch norm's running mean: the output of this weight's layer for the means of its inputs.
    Mean { weight: String, inputs: Inputs },
    /// A bias that subtracts the layer's output for the means of its inputs.
    Unbiased { weight: String, inputs: Inputs, around: Box<Init> },
}

impl Init {
    /// Uniform in `center - half .. center + half`.
    pub const fn around(center: f64, half: f64) -> Init {
        Init::Uniform(center - half, center + half)
    }

    /// Gains of a norm.
    pub const GAIN: Init = Init::around(1.0, 0.2);
    /// Biases, position encodings, and other small numbers.
    pub const SMALL: Init = Init::around(0.0, 0.1);
}

/// What a builder reads its tensors from.
pub(super) trait Source {
    /// The values of a tensor of this shape in row-major order. None at all if the source [has
    /// none](Source::has_values).
    ///
    /// # Errors
    /// If there is no such tensor, or one of another shape.
    fn tensor(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Cow<'_, [f32]>>;

    /// Whether tensors come with values. Without values a network is built for its names and shapes only: no constant
    /// is computed, which takes little time and memory.
    fn has_values(&self) -> bool;

    /// The file, for messages.
    fn path(&self) -> PathBuf;
}

/// The values of a checkpoint that was [checked](super::Config::read).
impl Source for &Checkpoint {
    fn tensor(&mut self, name: &str, shape: &[usize], _: Init) -> Result<Cow<'_, [f32]>> {
        self.values(name, shape)
    }

    fn has_values(&self) -> bool {
        true
    }

    fn path(&self) -> PathBuf {
        Checkpoint::path(self).to_path_buf()
    }
}

/// A list of the names and shapes that the builders ask for.
#[derive(Default)]
pub(super) struct Shapes {
    /// In the order of the builders.
    pub tensors: Vec<(String, Vec<usize>)>,
}

impl Source for Shapes {
    fn tensor(&mut self, name: &str, shape: &[usize], _: Init) -> Result<Cow<'_, [f32]>> {
        self.tensors.push((name.into(), shape.to_vec()));
        Ok(Cow::default())
    }

    fn has_values(&self) -> bool {
        false
    }

    fn path(&self) -> PathBuf {
        PathBuf::new()
    }
}

/// Compares the shapes of a checkpoint with those that the builders ask for. Values are not read.
pub(super) struct Comparison<'a> {
    checkpoint: &'a Checkpoint,
    /// Names compared so far, in the order of the builders.
    pub compared: Vec<String>,
}

impl<'a> Comparison<'a> {
    pub fn new(checkpoint: &'a Checkpoint) -> Comparison<'a> {
        Comparison { checkpoint, compared: Vec::new() }
    }
}

impl Source for Comparison<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize], _: Init) -> Result<Cow<'_, [f32]>> {
        let complaint = |expected: String, got: String| {
            Err(Error::Tensor { path: self.path(), tensor: name.into(), expected, got })
        };
        match self.checkpoint.shape(name) {
            None => complaint(format!("shape {shape:?}"), "no such tensor".into()),
            Some(got) if got != shape => complaint(format!("shape {shape:?}"), format!("{got:?}")),
            Some(got) if got.contains(&0) => complaint("at least one element".into(), format!("{got:?}")),
            Some(_) => {
                self.compared.push(name.into());
                Ok(Cow::default())
            }
        }
    }

    fn has_values(&self) -> bool {
        false
    }

    fn path(&self) -> PathBuf {
        self.checkpoint.path().to_path_buf()
    }
}
