//! Convolutions with wgmma in persistent blocks, for maps of many tiles: `conv_pp.cu`. No GPU
//! has run them yet, so they are chosen only where the caller asks for it (`Caps::unproven`).

use super::params::{ConvStep, Trigger};
use super::shape::Shape;
use super::tiles::{Choice, Family, Geometry, Serves, Tile, chunk_bytes, geometry};
use super::wg::rows_fit;
use crate::backend::cuda::gpu::Caps;
use crate::plan::Act;

#[cfg(test)]
mod tests;

struct PingPong;

pub static FAMILY: &dyn Family = &PingPong;

/// Weight stages and activation buffers that a block can have.
const STAGES: usize = 24;
const BUFFERS: usize = 16;
/// Shared memory of a block on all GPUs that have wgmma.
const SHARED: usize = 227 << 10;

/// A kernel by its name's numbers: kernel size, warpgroups with a tile each, channels and channels of a step.
const fn tile(name: &'static str, kernel: usize, warpgroups: u32, [bn, bk]: [usize; 2]) -> Tile {
    Tile {
        name,
        several: None,
        relu: None,
        acts: &[Act::None, Act::Silu],
        serves: Serves::Size(kernel),
        family: &PingPong,
        proven: false,
        bm: 64,
        bn,
        bk,
        stages: STAGES,
        threads: warpgroups * 128 + 128,
        parts: [warpgroups, 1, 1],
    }
}

static TILES: &[Tile] = &[
    tile("conv_pp_1_3_128x64", 1, 3, [128, 64]),
    tile("conv_pp_1_2_256x64", 1, 2, [256, 64]),
    tile("conv_pp_3_3_64x16", 3, 3, [64, 16]),
    tile("conv_pp_3_3_64x64", 3, 3, [64, 64]),
    tile("conv_pp_3_3_128x32", 3, 3, [128, 32]),
    tile("conv_pp_3_3_128x64", 3, 3, [128, 64]),
    tile("conv_pp_3_2_256x32", 3, 2, [256, 32]),
];

/// Steps of a tile along K.
fn steps(step: &ConvStep) -> usize {
    (step.chunks * step.kernel * step.kernel) as usize
}

/// Shared memory without the weights: barriers, activations, bias.
fn beside_weights(step: &ConvStep, choice: &Choice) -> usize {
    let tile = choice.tile;
    let activations = tile.parts[0] as usize * choice.buffers * chunk_bytes(step, tile);
    16 * (STAGES + BUFFERS) + activations + tile.bn * 4
}

impl Family for PingPong {
    fn file(&self) -> &'static str {
        "conv_pp"
    }

    fn tiles(&self) -> &'static [Tile] {
        TILES
    }

    fn runs(&self, caps: &Caps, steps: usize) -> bool {
        caps.wgmma && steps == 1
    }

    fn can(&self, _: &Shape, choice: &Choice) -> bool {
        let buffers = choice.tile.parts[0] as usize * choice.buffers;
        rows_fit(choice) && choice.split == 1 && buffers <= BUFFERS
    }

    /// A buffer is released once the next chunk has begun.
    fn buffers(&self, _: &Tile, _: usize) -> usize {
        2
    }

    /// As many as leave enough room for the weights.
    fn buffers_to_try(&self, shapes: &[Shape], tile: &'static Tile, width: i32, _: usize) -> Vec<usize> {
        const WEIGHTS: usize = 112 << 10;
        let leaves_room = |&buffers: &usize| {
            let choice = Choice { tile, width, split: 1, buffers, trigger: Trigger::Mid };
            geometry(&shapes[0], &choice).is_some_and(|g| {
                let stages = self.stages(&g.step, &choice);
                stages == steps(&g.step) || stages * tile.stage_bytes() >= WEIGHTS
            })
        };
        vec![[4, 3].into_iter().find(leaves_room).unwrap_or(2)]
    }

    fn shared_bytes(&self, step: &ConvStep, choice: &Choice) -> usize {
        beside_weights(step, choice) + self.stages(step, choice) * choice.tile.stage_bytes()
    }

    /// All steps of a tile if they fit, else what fits. The kernel needs two, and a third to load meanwhile.
    fn stages(&self, step: &ConvStep, choice: &Choice) -> usize {
        let room = SHARED.saturating_sub(beside_weights(step, choice)) / choice.tile.stage_bytes();
        steps(step).min(STAGES).min(room.max(3))
    }

    /// As many as this GPU has room for, see `rounds_of_block` in `conv_pp.cu`: a block takes more than half of a
    /// multiprocessor's registers.
    fn along(&self, caps: &Caps, tiles: usize, columns: usize) -> usize {
        tiles.min((caps.sms as usize / columns).max(1))
    }

    fn cycles(&self, caps: &Caps, one: &Geometry, images: usize, choice: &Choice) -> Option<f64> {
        let (s, tile, warpgroups) = (&one.step, choice.tile, choice.tile.parts[0] as usize);
        let tiles = s.tiles as usize * images;
        let along = tiles.div_ceil(self.along(caps, tiles, one.tiles / s.tiles as usize));
        let all = steps(s);
        // Of a tile: products, bytes from L2, epilogue.
        let stay = self.stages(s, choice) == all;
        let weights = if stay { 0 } else { all * tile.stage_bytes() / warpgroups };
        let activations = (s.halo_w * s.halo_h * s.chunks) as usize * tile.bk * 2;
        // Products of 64 channels read shared memory as fast as it can be read; a step takes a warpgroup 200 cycles at
        // least.
        let slower = if tile.bn == 64 { 1.25 } else { 1.1 };
        let step = ((tile.bm * tile.bn * tile.bk) as f64 / 2048.0 * slower).max(200.0 / warpgroups as f64);
        let products = all as f64 * step;
        let bytes = (weights + activations) as f64 / 40.0;
        Some(4000.0 + along as f64 * products.max(bytes).max((tile.bm * tile.bn) as f64 / 12.0))
    }

    /// At least two tiles a block.
    fn busy(&self, caps: &Caps, one: &Geometry, images: usize) -> bool {
        let tiles = one.step.tiles as usize * images;
        tiles >= 2 * self.along(caps, tiles, one.tiles / one.step.tiles as usize)
    }

    /// A few are always measured: their estimate is not comparable with that of other families.
    fn first(&self) -> Option<usize> {
        Some(3)
    }

    fn prefetches(&self) -> bool {
        true
    }
}
