//! The time of a launch by a model: what it moves and computes, each with a price fitted to the record.

use super::chip::{Blocks, SMS};
use crate::backend::cuda::launch::Launch;
use crate::backend::cuda::ops::conv::params::ConvLaunch;
use crate::backend::cuda::ops::conv::tiles;
use crate::plan::{Op, Plan, View};

/// What a launch moves and computes, in megabytes and microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Maps read and written once.
    pub maps: f64,
    /// Maps and weights as the blocks load them: many blocks load the same.
    pub loads: f64,
    /// Packed weights.
    pub weights: f64,
    /// Matrix products of the multiprocessor that has most of them, at 790 TFLOP/s.
    pub products: f64,
    /// Whether blocks share tiles.
    pub split: bool,
}

const MB: f64 = 1e6;

/// Of a launch of convolutions; `None` for others.
pub fn convolution(launch: &Launch, plan: &Plan) -> Option<Work> {
    let p = *launch.params.clone().get_mut::<ConvLaunch>()?;
    let name = Some(launch.kernel.name);
    let tile = tiles::tiles().find(|t| [Some(t.name), t.several, t.relu].contains(&name))?;
    let (images, split) = (p.images as usize, p.split as usize);
    let mut work = Work { split: split > 1, maps: maps(launch, plan, images), ..Work::default() };
    let mut cycles = 0.0f64;
    for s in &p.step[..p.steps as usize] {
        let [chunks, columns, tiles, taps] =
            [s.chunks, s.cout_pad / tile.bn as i32, s.tiles, s.kernel * s.kernel].map(|v| v as usize);
        let (blocks, deep) = (tiles * columns * images, chunks * tile.bk);
        let halo = (s.halo_h * s.halo_w) as usize;
        work.loads += (blocks * deep * 2 * (halo + taps * tile.bn)) as f64 / MB;
        work.weights += (s.cout_pad as usize * taps * deep * 2) as f64 / MB;
        cycles += (blocks * deep * taps * tile.bm * tile.bn * 2) as f64;
    }
    // Blocks are dealt evenly; the last round may be short.
    let blocks = (launch.grid[0] * launch.grid[1] * launch.grid[2]) as usize;
    let rounds = blocks.div_ceil(SMS) as f64;
    work.products = cycles / blocks as f64 * rounds / (790e12 / SMS as f64) * 1e6;
    Some(work)
}

fn maps(launch: &Launch, plan: &Plan, images: usize) -> f64 {
    let bytes = |v: View| plan.buffer_of(v).extent.pixels() * v.c * 2;
    let of = |op: &Op| op.reads().into_iter().chain(op.writes()).map(bytes).sum::<usize>();
    let all: usize = launch.steps.iter().map(|&s| of(&plan.steps[s].op)).sum();
    (all * images) as f64 / MB
}

/// Microseconds: of a launch; of a megabyte of maps, loads and weights; of a microsecond of products; of a cluster's sums.
/// Least squares, none below zero, over the 148 launches of rtmo-s and rtmo-l in the record of 2026-11-23 (`by layer`)
/// that take the same kernel here; root mean square of the differences 1.2. In the same fit a launch that finds room
/// beside the one before it is not faster than others, so the model pays nothing for that.
const PRICES: [f64; 6] = [2.15, 0.548, 0.063, 0.743, 0.321, 1.03];

/// Microseconds at batch 1 of launches that are no convolutions, by kernel: their means in that record.
const OTHERS: &[(&str, f64)] =
    &[("attention", 8.7), ("layer_norm", 1.9), ("pool_pyramid", 5.6), ("predict", 5.1)];

/// Microseconds that a launch adds to a run.
pub fn time(launch: &Launch, plan: &Plan, blocks: Blocks) -> f64 {
    match convolution(launch, plan) {
        Some(w) => {
            let terms = [1.0, w.maps, w.loads, w.weights, w.products, f64::from(u8::from(w.split))];
            terms.iter().zip(PRICES).map(|(t, price)| t * price).sum()
        }
        None => {
            let known = OTHERS.iter().find(|o| o.0 == launch.kernel.name);
            known.map_or(2.0, |o| o.1) * blocks.waves() as f64
        }
    }
}
