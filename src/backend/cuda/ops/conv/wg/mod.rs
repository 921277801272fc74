//! Convolutions with wgmma, for Hopper: `conv_wg.cu`.

use super::params::ConvStep;
use super::shape::Shape;
use super::tiles::{Choice, Family, Serves, Tile, chunk_bytes, halo_bytes};
use crate::backend::cuda::gpu::Caps;
use crate::plan::Act;

struct Wgmma;

pub static FAMILY: &dyn Family = &Wgmma;

const USUAL: &[Act] = &[Act::None, Act::Silu];
const ALL: &[Act] = &[Act::None, Act::Silu, Act::Relu];

/// Threads that load activations, beside one warp that loads weights.
const LOADERS: u32 = 128;

/// A kernel by its name's numbers: warpgroups over pixels and over channels, channels and channels of a step, weight
/// stages.
const fn tile(
    name: &'static str,
    serves: Serves,
    [across, along]: [u32; 2],
    [bn, bk]: [usize; 2],
    stages: usize,
    variants: [Option<&'static str>; 2],
) -> Tile {
    let threads = across * along * 128 + LOADERS + 32;
    let [several, relu] = variants;
    let acts = if relu.is_some() { USUAL } else { ALL };
    let (bm, parts) = (across as usize * 64, [across, along, 1]);
    Tile { name, several, relu, acts, serves, family: &Wgmma, proven: true, bm, bn, bk, stages, threads, parts }
}

macro_rules! usual {
    ($name:literal, $kernel:literal, $parts:expr, $size:expr, $stages:literal) => {
        tile(
            $name,
            Serves::Size($kernel),
            $parts,
            $size,
            $stages,
            [Some(concat!($name, "_several")), Some(concat!($name, "_relu"))],
        )
    };
}

/// A kernel with fewer registers and weight stages, so that blocks of the next kernel find room beside it. No GPU has run
/// these yet.
macro_rules! lean {
    ($name:literal, $kernel:literal, $parts:expr, $size:expr, $stages:literal) => {
        Tile {
            proven: false,
            acts: USUAL,
            ..tile(
                $name,
                Serves::Size($kernel),
                $parts,
                $size,
                $stages,
                [Some(concat!($name, "_several")), None],
            )
        }
    };
}

/// A kernel for GELU. No GPU has run these yet.
const fn gelu(name: &'static str, parts: [u32; 2], size: [usize; 2], stages: usize) -> Tile {
    Tile { proven: false, acts: &[Act::Gelu], ..tile(name, Serves::Size(1), parts, size, stages, [None, None]) }
}

#[rustfmt::skip]
static TILES: &[Tile] = &[
    usual!("conv_wg_1_1x1_64x64_4", 1, [1, 1], [64, 64], 4),
    usual!("conv_wg_1_1x2_64x64_4", 1, [1, 2], [64, 64], 4),
    usual!("conv_wg_1_1x2_128x64_3", 1, [1, 2], [128, 64], 3),
    usual!("conv_wg_1_1x4_256x64_3", 1, [1, 4], [256, 64], 3),
    usual!("conv_wg_3_1x1_32x64_8", 3, [1, 1], [32, 64], 8),
    usual!("conv_wg_3_1x1_64x64_8", 3, [1, 1], [64, 64], 8),
    usual!("conv_wg_3_1x2_128x64_6", 3, [1, 2], [128, 64], 6),
    usual!("conv_wg_3_1x2_256x64_3", 3, [1, 2], [256, 64], 3),
    usual!("conv_wg_3_2x2_128x64_6", 3, [2, 2], [128, 64], 6),
    usual!("conv_wg_3_4x1_32x32_4", 3, [4, 1], [32, 32], 4),
    usual!("conv_wg_3_4x1_64x32_4", 3, [4, 1], [64, 32], 4),
    usual!("conv_wg_3_4x1_64x64_4", 3, [4, 1], [64, 64], 4),
    tile("conv_wg_1s2_1x2_64x64_4", Serves::Points, [1, 2], [64, 64], 4, [None, None]),
    tile("conv_wg_1s2_1x2_128x64_3", Serves::Points, [1, 2], [128, 64], 3, [None, None]),
    tile("conv_wg_1s2_1x4_256x64_3", Serves::Points, [1, 4], [256, 64], 3, [None, None]),
    lean!("conv_wg_1_1x1_64x64_4_lean", 1, [1, 1], [64, 64], 4),
    lean!("conv_wg_1_1x2_64x64_4_lean", 1, [1, 2], [64, 64], 4),
    lean!("conv_wg_1_1x2_128x64_3_lean", 1, [1, 2], [128, 64], 3),
    lean!("conv_wg_3_1x1_32x64_8_lean", 3, [1, 1], [32, 64], 8),
    lean!("conv_wg_3_1x1_64x64_5_lean", 3, [1, 1], [64, 64], 5),
    lean!("conv_wg_3_1x2_128x64_4_lean", 3, [1, 2], [128, 64], 4),
    gelu("conv_wg_1_1x2_64x64_4_gelu", [1, 2], [64, 64], 4),
    gelu("conv_wg_1_1x2_128x64_3_gelu", [1, 2], [128, 64], 3),
];

/// wgmma steps through a tile in groups of 8 pixels at one distance: rows of exactly 8.
pub fn rows_fit(choice: &Choice) -> bool {
    choice.width <= 8
}

impl Family for Wgmma {
    fn file(&self) -> &'static str {
        "conv_wg"
    }

    fn tiles(&self) -> &'static [Tile] {
        TILES
    }

    fn runs(&self, caps: &Caps, _: usize) -> bool {
        caps.wgmma
    }

    fn can(&self, _: &Shape, choice: &Choice) -> bool {
        rows_fit(choice)
    }

    /// A buffer is released once the next chunk has begun.
    fn buffers(&self, _: &Tile, _: usize) -> usize {
        2
    }

    fn buffers_to_try(&self, shapes: &[Shape], _: &'static Tile, _: i32, _: usize) -> Vec<usize> {
        if shapes.iter().all(|s| s.kernel == 1) { vec![4, 8] } else { vec![2] }
    }

    fn shared_bytes(&self, step: &ConvStep, choice: &Choice) -> usize {
        const BARRIERS: usize = 384;
        let tile = choice.tile;
        let [across, along, _] = tile.parts;
        let loads = tile.stages * tile.stage_bytes() + choice.buffers * chunk_bytes(step, tile);
        // sums of the other blocks of a cluster, for the groups of 32 channels that this one finishes
        let groups = tile.bn / along as usize / 32;
        let consumers = (across * along) as usize * 128;
        let sums = (choice.split - 1) * groups.div_ceil(choice.split) * consumers * 64;
        BARRIERS + loads + tile.bn * 4 + halo_bytes(step, tile, LOADERS) + 16 + sums
    }

    fn prefetches(&self) -> bool {
        true
    }
}
