//! Limits of what a checkpoint may ask for. A file may come from anywhere, and its shapes determine the size of
//! everything that is computed with it. So each extent, each count, and the memory that follows from them has a limit.
//!
//! | | at most | published |
//! |---|---|---|
//! | channels and other widths | [`CHANNELS`] | 2048 |
//! | layers, blocks or convolutions in a row | [`LAYERS`] | 9 |
//! | keypoints | [`KEYPOINTS`] | 17 |
//! | bins of a coordinate | [`BINS`] | 256 |
//! | input that a file sets, a side in pixels | `weights::MAX_FILE_INPUT` | 640 |
//! | input that a caller sets | [`INPUT`] | 640 |
//! | a person's rows | [`ROW`] | 18 kB |
//! | constants after folding, as f32 | the weights as f32, and [`FOLDED`] | the weights and 1 MB |
//! | maps that live at the same time, as f32 | the weights as f32, and [`MAPS`] | 39 MB (RTMO-l) |

use super::source::Shapes;
use crate::error::{Error, Result};
use crate::plan::{Extent, Plan};
use std::path::Path;

pub(super) const CHANNELS: usize = 1 << 14;
pub(super) const LAYERS: usize = 64;
pub(super) const KEYPOINTS: usize = 1 << 10;
pub(super) const BINS: usize = 1 << 12;
pub(super) const INPUT: usize = 8192;
/// Bytes.
const ROW: u64 = 1 << 20;
/// Bytes that folding may add: linear layers that follow each other become one, positions become a table.
const FOLDED: u64 = 16 << 20;
/// Bytes of maps that are granted besides the weights' size: small networks have large maps.
const MAPS: u64 = 32 << 20;

/// Checks the memory that a network would take, before it is allocated: `plan` was built with `shapes`, without values.
/// A caller that asks for a larger input than 640x640 grants as many times more for what grows with it.
///
/// # Errors
/// What takes too much, how much, and what is granted.
pub(super) fn check_memory(path: &Path, plan: &Plan, shapes: &Shapes, asked: bool) -> Result<()> {
    let bytes = |shape: &[usize]| shape.iter().fold(4u64, |n, &extent| n.saturating_mul(extent as u64));
    let sum = |sizes: &mut dyn Iterator<Item = u64>| sizes.fold(0, u64::saturating_add);
    let weights = sum(&mut shapes.tensors.iter().map(|(_, shape)| bytes(shape)));
    let constants = sum(&mut plan.tensors.iter().map(|tensor| bytes(&tensor.shape)));
    let rows = plan.buffers.iter().filter(|buffer| buffer.extent == Extent::Rows);
    let rows = sum(&mut rows.map(|buffer| bytes(&[buffer.c])));
    let maps = bytes(&[plan.arena(1, 0, false).len]);
    let (w, h) = plan.input_size();
    let times = if asked { (w * h).div_ceil(640 * 640) as u64 } else { 1 };
    for (what, takes, granted) in [
        ("rows of a person", rows, ROW),
        ("constants", constants, weights.saturating_add(FOLDED * times)),
        ("maps", maps, weights.saturating_add(MAPS).saturating_mul(times)),
    ] {
        if takes > granted {
            let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
            return Err(Error::weights(
                path,
                format!(
                    "the network's {what} would take {} MB at an input of {w}x{h}: expected at most {} MB for \
                     weights of {} MB",
                    megabytes(takes),
                    megabytes(granted),
                    megabytes(weights)
                ),
            ));
        }
    }
    Ok(())
}
