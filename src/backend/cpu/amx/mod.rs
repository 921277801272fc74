//! Convolutions in bf16 and bf16x3 on a [tile unit](super::tile_unit): Intel's AMX, or plain Rust in its place for tests.
//!
//! ```text
//! conv       a layer: blocks of 32 pixels by 32 channels, and the epilogue
//!   round    its input in bf16
//!   unit     a block's sum, in tile registers of 16 rows of 64 bytes
//! ```

pub mod conv;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod emulator;
mod round;
pub mod unit;

pub use unit::Unit;

use super::isa::Isa;
use super::ops::conv::Unpacked;
use super::simd::Simd;
use super::tile_unit::{Prepared, TileUnit};
use crate::backend::Precision;
use conv::TileConv;

/// The precisions, how many bf16 numbers an element is the sum of, and the names of 1x1, other and grouped layers. Without its
/// row here a precision is refused.
const PRECISIONS: &[(Precision, usize, [&str; 3])] = &[
    (Precision::Bf16, 1, ["1x1 amx bf16", "direct amx bf16", "grouped amx bf16"]),
    (Precision::Bf16x3, 2, ["1x1 amx bf16x3", "direct amx bf16x3", "grouped amx bf16x3"]),
];

impl TileUnit for Unit {
    fn of(isa: Isa) -> Option<Unit> {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => unit::Amx::new().map(Unit::Amx),
            Isa::Portable16Amx => Some(Unit::Portable),
            _ => None,
        }
    }

    fn supports(self, precision: Precision) -> bool {
        PRECISIONS.iter().any(|row| row.0 == precision)
    }

    fn convolution<S: Simd>(
        self,
        simd: S,
        layer: Unpacked,
        precision: Precision,
        threads: usize,
    ) -> Prepared {
        let &(_, parts, names) =
            PRECISIONS.iter().find(|row| row.0 == precision).expect("a precision that `supports` has");
        let name = layer.shape.pick(names);
        let Unpacked { src, shape, weight, bias, epilogue, .. } = layer;
        let make = move || TileConv::new((simd, self, parts), src, shape, &weight, &bias, epilogue, threads);
        (name, Box::new(|| Box::new(make())))
    }

    fn exercise(self) -> u64 {
        self.exercise_tiles()
    }
}
