//! The seam for a tile unit: hardware that multiplies matrices, beside the vectors. It computes convolutions below fp32.
//!
//! Code outside `amx` uses [`Unit`] through [`TileUnit`] only. To leave AMX out, make [`Unit`] the alias of [`NoUnit`] (and
//! drop `mod amx`): then the instruction sets that come with a unit are not available, nor is the precision bf16x3.

use super::isa::Isa;
use super::ops::conv::Unpacked;
use super::prepare::Make;
use super::simd::Simd;
use crate::backend::Precision;

/// The tile unit of this build.
pub type Unit = super::amx::Unit;

/// A layer's kernel: its name, and a function that packs its weights.
pub type Prepared = (&'static str, Make);

/// Hardware that computes convolutions below fp32 in place of vectors.
pub trait TileUnit: Copy + Send + Sync + 'static {
    /// The unit that an instruction set comes with, if the CPU has it and the system grants it.
    fn of(isa: Isa) -> Option<Self>;

    /// Whether it computes in this precision.
    fn supports(self, precision: Precision) -> bool;

    /// Prepares a convolution in a supported precision, for `threads` threads.
    fn convolution<S: Simd>(self, simd: S, layer: Unpacked, precision: Precision, threads: usize)
    -> Prepared;

    /// Does as many products as take a fraction of a millisecond, on registers. Returns their floating-point operations.
    fn exercise(self) -> u64;
}

/// No unit.
#[derive(Clone, Copy, Debug)]
pub enum NoUnit {}

impl TileUnit for NoUnit {
    fn of(_: Isa) -> Option<NoUnit> {
        None
    }

    fn supports(self, _: Precision) -> bool {
        match self {}
    }

    fn convolution<S: Simd>(self, _: S, _: Unpacked, _: Precision, _: usize) -> Prepared {
        match self {}
    }

    fn exercise(self) -> u64 {
        match self {}
    }
}
