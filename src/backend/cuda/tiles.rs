//! The convolution kernels that exist, and how a convolution is cut into their tiles (see `kernels/conv.cuh`).

use super::gpu::Caps;
use super::params::ConvStep;
use crate::plan::Act;

/// Which machine instruction a kernel is built on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// mma.sync; the number of slices of K among its warps.
    Mma {
        /// Warps over pixels times warps over channels.
        warps: u32,
        /// Slices of K.
        slices: u32,
    },
    /// wgmma; warpgroups over pixels and over channels, for this kernel size only.
    Wgmma { kernel: usize, across: u32, along: u32 },
    /// wgmma in blocks that stay until all tiles are done; warpgroups with a tile each, for this kernel size only and for
    /// launches of one step.
    PingPong { kernel: usize, warpgroups: u32 },
}

/// One compiled kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    pub name: &'static str,
    /// The same for launches of several steps.
    pub several: &'static str,
    pub unit: Unit,
    /// Pixels and channels of a tile, channels of a step, weight stages (at most, for [`Unit::PingPong`]).
    pub bm: usize,
    pub bn: usize,
    pub bk: usize,
    pub stages: usize,
}

macro_rules! mma {
    ($name:literal, [$bm:literal, $bn:literal, $bk:literal], $stages:literal, $warps:literal, $slices:literal) => {
        Tile {
            name: $name,
            several: concat!($name, "_several"),
            unit: Unit::Mma { warps: $warps, slices: $slices },
            bm: $bm,
            bn: $bn,
            bk: $bk,
            stages: $stages,
        }
    };
}

macro_rules! wg {
    ($name:literal, $kernel:literal, $across:literal x $along:literal, [$bn:literal, $bk:literal], $stages:literal) => {
        Tile {
            name: $name,
            several: concat!($name, "_several"),
            unit: Unit::Wgmma { kernel: $kernel, across: $across, along: $along },
            bm: $across * 64,
            bn: $bn,
            bk: $bk,
            stages: $stages,
        }
    };
}

macro_rules! pp {
    ($name:literal, $kernel:literal, $warpgroups:literal, [$bn:literal, $bk:literal]) => {
        Tile {
            name: $name,
            several: $name,
            unit: Unit::PingPong { kernel: $kernel, warpgroups: $warpgroups },
            bm: 64,
            bn: $bn,
            bk: $bk,
            stages: PP_STAGES,
        }
    };
}

/// Every convolution kernel of `conv_mma.cu`, `conv_wg.cu` and `conv_pp.cu`.
pub(super) const TILES: &[Tile] = &[
    mma!("conv_mma_128x32x16_5_4x1x1", [128, 32, 16], 5, 4, 1),
    mma!("conv_mma_64x32x32_3_4x1x1", [64, 32, 32], 3, 4, 1),
    mma!("conv_mma_128x64x32_4_4x2x1", [128, 64, 32], 4, 8, 1),
    mma!("conv_mma_64x64x64_3_2x2x1", [64, 64, 64], 3, 4, 1),
    mma!("conv_mma_32x32x64_5_2x1x2", [32, 32, 64], 5, 2, 2),
    mma!("conv_mma_32x128x64_3_1x4x1", [32, 128, 64], 3, 4, 1),
    mma!("conv_mma_64x128x64_3_2x4x1", [64, 128, 64], 3, 8, 1),
    mma!("conv_mma_128x128x64_3_2x2x1", [128, 128, 64], 3, 4, 1),
    wg!("conv_wg_1_1x1_64x64_4", 1, 1 x 1, [64, 64], 4),
    wg!("conv_wg_1_1x2_64x64_4", 1, 1 x 2, [64, 64], 4),
    wg!("conv_wg_1_1x2_128x64_3", 1, 1 x 2, [128, 64], 3),
    wg!("conv_wg_1_1x4_256x64_3", 1, 1 x 4, [256, 64], 3),
    wg!("conv_wg_3_1x1_32x64_8", 3, 1 x 1, [32, 64], 8),
    wg!("conv_wg_3_1x1_64x64_8", 3, 1 x 1, [64, 64], 8),
    wg!("conv_wg_3_1x2_128x64_6", 3, 1 x 2, [128, 64], 6),
    wg!("conv_wg_3_1x2_256x64_3", 3, 1 x 2, [256, 64], 3),
    wg!("conv_wg_3_2x2_128x64_6", 3, 2 x 2, [128, 64], 6),
    wg!("conv_wg_3_4x1_32x32_4", 3, 4 x 1, [32, 32], 4),
    wg!("conv_wg_3_4x1_64x32_4", 3, 4 x 1, [64, 32], 4),
    wg!("conv_wg_3_4x1_64x64_4", 3, 4 x 1, [64, 64], 4),
    pp!("conv_pp_1_3_128x64", 1, 3, [128, 64]),
    pp!("conv_pp_1_2_256x64", 1, 2, [256, 64]),
    pp!("conv_pp_3_3_64x16", 3, 3, [64, 16]),
    pp!("conv_pp_3_3_64x64", 3, 3, [64, 64]),
    pp!("conv_pp_3_3_128x32", 3, 3, [128, 32]),
    pp!("conv_pp_3_3_128x64", 3, 3, [128, 64]),
    pp!("conv_pp_3_2_256x32", 3, 2, [256, 32]),
];

/// Threads of a wgmma kernel that load activations.
const LOADERS: u32 = 128;
/// Weight stages and activation buffers that a block of `conv_pp.cu` can have.
const PP_STAGES: usize = 24;
const PP_BUFFERS: usize = 16;
/// Blocks that may share a tile: the kernels divide by shifting.
pub(super) const SPLITS: [usize; 3] = [1, 2, 4];
/// Activation buffers that `conv_wg.cu` has barriers for; no kernel needs more.
const MAX_BUFFERS: usize = 8;
/// Shared memory of a block on all GPUs that have wgmma.
const PP_SHARED: usize = 227 << 10;
/// Loads of a thread under way at a time, as in `kernels/conv.cuh`.
const LOADS: usize = 4;

impl Tile {
    /// The kernel's name for a launch of this many steps.
    pub fn kernel(&self, steps: usize) -> &'static str {
        if steps == 1 { self.name } else { self.several }
    }

    pub fn threads(&self) -> u32 {
        match self.unit {
            Unit::Mma { warps, slices } => warps * slices * 32,
            Unit::Wgmma { across, along, .. } => across * along * 128 + LOADERS + 32,
            Unit::PingPong { warpgroups, .. } => warpgroups * 128 + 128,
        }
    }
}

/// A convolution, as far as tiling is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub kernel: usize,
    pub stride: usize,
    pub cin: usize,
    pub cout: usize,
    /// Input and output maps.
    pub h: usize,
    pub w: usize,
    pub oh: usize,
    pub ow: usize,
    /// Channels a group, 0: dense.
    pub group: usize,
    pub act: Act,
}

/// When the next kernel may start, `Trigger` in `params.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trigger {
    Early = 0,
    Late = 1,
    Mid = 2,
}

/// How a launch is cut: a kernel and its free parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Index into [`TILES`].
    pub tile: usize,
    /// Width of the output tile: 0 for 1x1, -1 for flat tiles.
    pub width: i32,
    /// Blocks that share a tile along K.
    pub split: usize,
    /// Activation chunk buffers; of each warpgroup for [`Unit::PingPong`].
    pub buffers: usize,
    pub trigger: Trigger,
}

/// Geometry of one step under a choice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    /// All geometry fields filled in; addresses, pitches and `first_block` are not.
    pub step: ConvStep,
    /// Pixel tiles an image times channel tiles.
    pub tiles: usize,
}

fn magic(d: usize) -> u32 {
    assert!(d >= 2, "a reciprocal of {d}");
    (1u64 << 32).div_ceil(d as u64) as u32
}

/// First channel and number of channels that an `n`-channel tile of a grouped convolution reads, at `n0`.
pub(super) fn window(shape: &Shape, n0: usize, bn: usize) -> (usize, usize) {
    if shape.group == 0 {
        return (0, shape.cin);
    }
    let first = (n0 / shape.group * shape.group) & !7;
    let last = ((n0 + bn).min(shape.cout) - 1) / shape.group;
    (first, (last + 1) * shape.group - first)
}

/// Cuts a convolution; `None` if the kernel cannot do it that way.
pub(super) fn geometry(shape: &Shape, choice: &Choice) -> Option<Geometry> {
    let tile = &TILES[choice.tile];
    // a choice may come from a file
    if !SPLITS.contains(&choice.split) || choice.buffers > MAX_BUFFERS {
        return None;
    }
    if let Unit::Wgmma { kernel, .. } | Unit::PingPong { kernel, .. } = tile.unit
        && (kernel != shape.kernel || shape.act == Act::Gelu)
    {
        return None;
    }
    if let Unit::PingPong { warpgroups, .. } = tile.unit
        && (choice.split != 1 || warpgroups as usize * choice.buffers > PP_BUFFERS)
    {
        return None;
    }
    let columns = shape.cout.div_ceil(tile.bn);
    let chunks = chunks(shape, tile);
    if choice.split > chunks || choice.buffers < buffers_needed(shape, tile, chunks, choice.split) {
        return None;
    }
    let mut s = ConvStep {
        h: shape.h as i32,
        w: shape.w as i32,
        oh: shape.oh as i32,
        ow: shape.ow as i32,
        cin: shape.cin as i32,
        cout: shape.cout as i32,
        cout_pad: (columns * tile.bn) as i32,
        kernel: shape.kernel as i32,
        stride: shape.stride as i32,
        act: shape.act as i32,
        group: shape.group as i32,
        chunks: chunks as i32,
        ..ConvStep::default()
    };
    let (tile_w, tile_h, halo_w, halo_h, row, tiles_x, tiles);
    match (shape.kernel, choice.width) {
        (1, 0) => {
            (tile_w, tile_h, halo_w, halo_h, row) = (tile.bm, 1, tile.bm, 1, tile.bm);
            tiles = (shape.oh * shape.ow).div_ceil(tile.bm);
            tiles_x = tiles;
        }
        (3, -1) if shape.stride == 1 => {
            s.flat = 1;
            row = shape.ow + 2;
            // positions are divided by `row` with a reciprocal that is exact up to here
            if shape.oh * row >= (1 << 32) / row {
                return None;
            }
            (tile_w, tile_h, halo_h) = (tile.bm, 1, 1);
            halo_w = tile.bm + 2 * row + 2;
            tiles = (shape.oh * row - 2).div_ceil(tile.bm);
            tiles_x = tiles;
        }
        (3, width @ 8..) if tile.bm.is_multiple_of(width as usize) => {
            tile_w = width as usize;
            tile_h = tile.bm / tile_w;
            if tile_w % 8 != 0
                || tile_w > shape.ow.next_multiple_of(8)
                || tile_h > shape.oh.next_multiple_of(8)
            {
                return None;
            }
            (halo_w, halo_h) = ((tile_w - 1) * shape.stride + 3, (tile_h - 1) * shape.stride + 3);
            // wgmma steps through the tile in groups of 8 pixels at one distance: rows of exactly 8
            if !matches!(tile.unit, Unit::Mma { .. }) && tile_w != 8 {
                return None;
            }
            row = halo_w;
            tiles_x = shape.ow.div_ceil(tile_w);
            tiles = tiles_x * shape.oh.div_ceil(tile_h);
        }
        _ => return None,
    }
    s.tile_w = tile_w as i32;
    s.tile_h = tile_h as i32;
    s.halo_w = halo_w as i32;
    s.halo_h = halo_h as i32;
    s.row = row as i32;
    s.plane = ((if s.flat == 1 { halo_w } else { halo_h * row }) | 1) as i32;
    s.tiles_x = tiles_x as i32;
    s.tiles = tiles as i32;
    s.div_halo_w = magic(halo_w);
    s.div_tile_w = magic(tile_w);
    s.div_flat_w = magic(shape.ow + 2);
    s.div_tiles_x = if tiles_x == 1 { 0 } else { magic(tiles_x) };
    for r in 0..shape.kernel {
        for t in 0..shape.kernel {
            let at = match shape.stride {
                1 => r * row + t,
                _ => r * row + (t & 1) * (tile_w + 1) + (t >> 1),
            };
            s.tap[r * shape.kernel + t] = at as i32;
        }
    }
    Some(Geometry { step: s, tiles: tiles * columns })
}

/// The blocks of a launch of these steps, see `conv_block` in `kernels/conv.cuh`; of [`Unit::PingPong`], as many as this
/// GPU has room for, see `rounds_of_block` in `kernels/conv_pp.cu`.
pub(super) fn grid(caps: &Caps, steps: &[Geometry], images: usize, choice: &Choice) -> [u32; 3] {
    let blocks = |g: &Geometry| g.tiles * images;
    match steps {
        [one] if matches!(TILES[choice.tile].unit, Unit::PingPong { .. }) => {
            let along = one.step.tiles as usize * images;
            let columns = blocks(one) / along;
            // a block takes more than half of an SM's registers
            let room = (caps.sms as usize / columns).max(1);
            [along.min(room) as u32, columns as u32, 1]
        }
        [one] => {
            let along = one.step.tiles as usize * images;
            [along as u32, (blocks(one) / along) as u32, choice.split as u32]
        }
        many => [many.iter().map(blocks).sum::<usize>() as u32, 1, choice.split as u32],
    }
}

/// Channel chunks of a convolution: of the widest window among its channel tiles.
pub(super) fn chunks(shape: &Shape, tile: &Tile) -> usize {
    let widths = (0..shape.cout).step_by(tile.bn).map(|n| window(shape, n, tile.bn).1);
    widths.max().unwrap_or(0).div_ceil(tile.bk)
}

/// The fewest activation buffers that a kernel's pipeline can live with. conv_mma loads `stages - 1` steps ahead without
/// asking whether a buffer is free: that is another chunk every step of a 1x1, but only the next chunk of a 3x3.
pub(super) fn buffers_needed(shape: &Shape, tile: &Tile, chunks: usize, split: usize) -> usize {
    let most = match (tile.unit, shape.kernel) {
        (Unit::Mma { .. }, 1) => tile.stages,
        (Unit::Mma { .. }, _) => 2,
        (Unit::Wgmma { .. } | Unit::PingPong { .. }, _) => 2, // a buffer is released once the next chunk has begun
    };
    chunks.div_ceil(split).min(most)
}

/// Weight stages of a launch of [`Unit::PingPong`]: all steps of a tile if they fit, else what fits. The kernel needs two,
/// and a third to load meanwhile. 0 for other kernels, which know theirs.
pub(super) fn stages(steps: &[Geometry], choice: &Choice) -> usize {
    let tile = &TILES[choice.tile];
    let (Unit::PingPong { .. }, [one]) = (tile.unit, steps) else { return 0 };
    let all = (one.step.chunks * one.step.kernel * one.step.kernel) as usize;
    let room = PP_SHARED.saturating_sub(beside_weights(&one.step, choice)) / (tile.bn * tile.bk * 2);
    all.min(tile.stages).min(room.max(3))
}

/// Shared memory of [`Unit::PingPong`] but for the weights: barriers, activations, bias.
fn beside_weights(s: &ConvStep, choice: &Choice) -> usize {
    let tile = &TILES[choice.tile];
    let Unit::PingPong { warpgroups, .. } = tile.unit else { return 0 };
    let chunk = s.plane as usize * 2 * tile.bk;
    16 * (PP_STAGES + PP_BUFFERS) + warpgroups as usize * choice.buffers * chunk + tile.bn * 4
}

/// Dynamic shared memory of a launch with these steps, in bytes.
pub(super) fn shared_bytes(steps: &[Geometry], choice: &Choice) -> usize {
    let tile = &TILES[choice.tile];
    if let (Unit::PingPong { .. }, [one]) = (tile.unit, steps) {
        return beside_weights(&one.step, choice) + stages(steps, choice) * tile.bn * tile.bk * 2;
    }
    let of = |g: &Geometry| {
        let s = &g.step;
        let plane = s.plane as usize;
        let loaders = match tile.unit {
            Unit::Mma { .. } => tile.threads(),
            _ => LOADERS,
        };
        let round = loaders as usize / (tile.bk / 8) * LOADS;
        let halo = ((s.halo_h * s.halo_w) as usize).next_multiple_of(round) * 8;
        let base =
            tile.stages * tile.bn * tile.bk * 2 + choice.buffers * plane * 16 * (tile.bk / 8) + halo + 16;
        base + match tile.unit {
            Unit::Mma { slices, .. } => (slices as usize * choice.split - 1) * tile.bm * tile.bn * 4,
            Unit::Wgmma { across, along, .. } => {
                let groups = tile.bn / along as usize / 32;
                let consumers = (across * along) as usize * 128;
                384 + tile.bn * 4 + (choice.split - 1) * groups.div_ceil(choice.split) * consumers * 64
            }
            Unit::PingPong { .. } => unreachable!("launched with one step only"),
        }
    };
    steps.iter().map(of).max().unwrap_or(0)
}
