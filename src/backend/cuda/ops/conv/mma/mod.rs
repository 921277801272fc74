//! Convolutions with mma.sync, for every GPU: `conv_mma.cu`.

use super::params::ConvStep;
use super::shape::Shape;
use super::tiles::{Choice, Family, Serves, Tile, buffers_needed, chunk_bytes, chunks, halo_bytes};
use crate::backend::cuda::gpu::Caps;
use crate::plan::Act;

struct Mma;

pub static FAMILY: &dyn Family = &Mma;

const USUAL: &[Act] = &[Act::None, Act::Silu, Act::Gelu];
const ALL: &[Act] = &[Act::None, Act::Silu, Act::Gelu, Act::Relu];

/// A kernel by its name's numbers: pixels, channels and channels of a step; weight stages; warps over pixels, over
/// channels, and over slices of K.
const fn tile(
    name: &'static str,
    [bm, bn, bk]: [usize; 3],
    stages: usize,
    parts: [u32; 3],
    serves: Serves,
    variants: [Option<&'static str>; 2],
) -> Tile {
    let threads = parts[0] * parts[1] * parts[2] * 32;
    let [several, relu] = variants;
    let acts = if relu.is_some() { USUAL } else { ALL };
    Tile { name, several, relu, acts, serves, family: &Mma, proven: true, bm, bn, bk, stages, threads, parts }
}

macro_rules! usual {
    ($name:literal, $size:expr, $stages:literal, $parts:expr) => {
        tile(
            $name,
            $size,
            $stages,
            $parts,
            Serves::Usual,
            [Some(concat!($name, "_several")), Some(concat!($name, "_relu"))],
        )
    };
}

#[rustfmt::skip]
static TILES: &[Tile] = &[
    usual!("conv_mma_128x32x16_5_4x1x1", [128, 32, 16], 5, [4, 1, 1]),
    usual!("conv_mma_64x32x32_3_4x1x1", [64, 32, 32], 3, [4, 1, 1]),
    usual!("conv_mma_128x64x32_4_4x2x1", [128, 64, 32], 4, [4, 2, 1]),
    usual!("conv_mma_64x64x64_3_2x2x1", [64, 64, 64], 3, [2, 2, 1]),
    usual!("conv_mma_32x32x64_5_2x1x2", [32, 32, 64], 5, [2, 1, 2]),
    usual!("conv_mma_32x128x64_3_1x4x1", [32, 128, 64], 3, [1, 4, 1]),
    usual!("conv_mma_64x128x64_3_2x4x1", [64, 128, 64], 3, [2, 4, 1]),
    usual!("conv_mma_128x128x64_3_2x2x1", [128, 128, 64], 3, [2, 2, 1]),
    tile("conv_mma_1s2_64x32x32_3_4x1x1", [64, 32, 32], 3, [4, 1, 1], Serves::Points, [None, None]),
    tile("conv_mma_1s2_64x64x64_3_2x2x1", [64, 64, 64], 3, [2, 2, 1], Serves::Points, [None, None]),
    tile("conv_mma_1s2_64x128x64_3_2x4x1", [64, 128, 64], 3, [2, 4, 1], Serves::Points, [None, None]),
    tile("conv_mma_4x4_128x32x16_5_4x1x1", [128, 32, 16], 5, [4, 1, 1], Serves::Cells, [None, None]),
    tile("conv_mma_4x4_64x32x32_3_4x1x1", [64, 32, 32], 3, [4, 1, 1], Serves::Cells, [None, None]),
];

impl Family for Mma {
    fn file(&self) -> &'static str {
        "conv_mma"
    }

    fn tiles(&self) -> &'static [Tile] {
        TILES
    }

    fn runs(&self, _: &Caps, _: usize) -> bool {
        true
    }

    fn can(&self, _: &Shape, _: &Choice) -> bool {
        true
    }

    /// The kernel loads `stages - 1` steps ahead and does not check that a buffer is free. In a 1x1 each step is
    /// another chunk; with larger kernels these steps reach into the next chunk only.
    fn buffers(&self, tile: &Tile, kernel: usize) -> usize {
        if kernel == 1 { tile.stages } else { 2 }
    }

    fn buffers_to_try(&self, shapes: &[Shape], tile: &'static Tile, _: i32, split: usize) -> Vec<usize> {
        let need = |s: &Shape| buffers_needed(s, tile, chunks(s, tile), split);
        vec![shapes.iter().map(need).max().unwrap_or(1)]
    }

    fn shared_bytes(&self, step: &ConvStep, choice: &Choice) -> usize {
        let tile = choice.tile;
        let loads = tile.stages * tile.stage_bytes() + choice.buffers * chunk_bytes(step, tile);
        let partial_sums = (tile.parts[2] as usize * choice.split - 1) * tile.bm * tile.bn * 4;
        loads + halo_bytes(step, tile, tile.threads) + 16 + partial_sums
    }

    fn prefetches(&self) -> bool {
        false
    }
}
