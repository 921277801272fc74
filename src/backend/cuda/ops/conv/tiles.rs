//! The convolution kernels that exist, and how a convolution is split into their tiles (see `conv.cuh`).

use super::params::{ConvStep, Trigger};
use super::shape::Shape;
use super::{FAMILIES, activation};
use crate::backend::cuda::gpu::Caps;
use crate::backend::cuda::launch::Kernel;
use crate::plan::Act;
use std::fmt;

/// Which convolutions a kernel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// 1x1 of stride 1, 3x3 of stride 1 and 2.
    Usual,
    /// Those of this kernel size among them.
    Size(usize),
    /// 1x1 of stride 2.
    Points,
    /// 4x4 of stride 1, padded with two pixels above and left and one below and right: the photo's cells.
    Cells,
}

impl Serves {
    fn includes(self, kernel: usize, stride: usize) -> bool {
        let usual = matches!((kernel, stride), (1, 1) | (3, 1 | 2));
        match self {
            Serves::Usual => usual,
            Serves::Size(size) => usual && kernel == size,
            Serves::Points => (kernel, stride) == (1, 2),
            Serves::Cells => (kernel, stride) == (4, 1),
        }
    }
}

/// One compiled kernel.
pub struct Tile {
    pub name: &'static str,
    /// The same for launches of several steps, where there is one.
    pub several: Option<&'static str>,
    /// The same for a single step with ReLU, where `acts` has none.
    pub relu: Option<&'static str>,
    /// Activations of the other two.
    pub acts: &'static [Act],
    pub serves: Serves,
    pub family: &'static dyn Family,
    /// Whether a GPU has confirmed it (`benches/record`). If not, it is chosen only where the caller asks for it
    /// (`Caps::unproven`), and after a trial.
    pub proven: bool,
    /// Pixels and channels of a tile, channels of a step, weight stages (at most, if the family counts them for a
    /// launch).
    pub bm: usize,
    pub bn: usize,
    pub bk: usize,
    pub stages: usize,
    pub threads: u32,
    /// Warps, or in families of wgmma warpgroups: over pixels, over channels, over slices of K.
    pub parts: [u32; 3],
}

impl fmt::Debug for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Tile {
    fn eq(&self, other: &Tile) -> bool {
        self.name == other.name
    }
}

impl Eq for Tile {}

impl Tile {
    /// The kernel for a launch of these steps, if there is one.
    pub fn kernel(&self, shapes: &[Shape]) -> Option<Kernel> {
        let usual = shapes.iter().all(|s| self.acts.contains(&s.act));
        let name = match shapes {
            [_] if usual => Some(self.name),
            [one] if one.act == Act::Relu => self.relu,
            _ if usual => self.several,
            _ => None,
        };
        Some(Kernel { file: self.family.file(), name: name? })
    }

    /// Bytes of a weight stage.
    pub fn stage_bytes(&self) -> usize {
        self.bn * self.bk * 2
    }
}

/// All of them.
pub fn tiles() -> impl Iterator<Item = &'static Tile> {
    FAMILIES.iter().flat_map(|family| family.tiles())
}

/// The one of this name.
pub fn tile(name: &str) -> Option<&'static Tile> {
    tiles().find(|tile| tile.name == name)
}

/// Kernels built on one machine instruction, in one file.
pub trait Family: Sync {
    /// Name of the file.
    fn file(&self) -> &'static str;
    fn tiles(&self) -> &'static [Tile];
    /// Whether it may run on this GPU, in a launch of so many steps.
    fn runs(&self, caps: &Caps, steps: usize) -> bool;
    /// Whether its blocks can do tiles `width` wide, or split and buffer as the choice wants, beyond what holds for
    /// all.
    fn can(&self, shape: &Shape, choice: &Choice) -> bool;
    /// Activation buffers without which its pipeline cannot work, however many chunks there are.
    fn buffers(&self, tile: &Tile, kernel: usize) -> usize;
    /// Numbers of activation buffers that are worth measuring; at most as many as there are chunks are of use.
    fn buffers_to_try(&self, shapes: &[Shape], tile: &'static Tile, width: i32, split: usize) -> Vec<usize>;
    /// Dynamic shared memory of a block, in bytes.
    fn shared_bytes(&self, step: &ConvStep, choice: &Choice) -> usize;
    /// Weight stages of a launch; 0 where the kernel knows its own.
    fn stages(&self, _step: &ConvStep, _choice: &Choice) -> usize {
        0
    }
    /// Blocks along x for so many pixel tiles of one step over all images, with `columns` channel tiles beside them.
    fn along(&self, _caps: &Caps, tiles: usize, _columns: usize) -> usize {
        tiles
    }
    /// Cycles of a launch of one step, for families whose blocks do several tiles.
    fn cycles(&self, _caps: &Caps, _step: &Geometry, _images: usize, _choice: &Choice) -> Option<f64> {
        None
    }
    /// Whether a launch keeps its blocks busy enough to be worth measuring.
    fn busy(&self, _caps: &Caps, _step: &Geometry, _images: usize) -> bool {
        true
    }
    /// How many of this family's most promising choices are measured before all others; `None`: in the order of
    /// estimates.
    fn first(&self) -> Option<usize> {
        None
    }
    /// Whether it can pull the next launch's weights into L2.
    fn prefetches(&self) -> bool;
}

/// How a launch is split into tiles: a kernel and its free parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    pub tile: &'static Tile,
    /// Width of the output tile: 0 for 1x1, -1 for flat tiles.
    pub width: i32,
    /// Blocks that share a tile along K.
    pub split: usize,
    /// Activation chunk buffers; of each warpgroup for kernels whose blocks stay.
    pub buffers: usize,
    pub trigger: Trigger,
}

/// Blocks that may share a tile: the kernels divide by shifting.
pub const SPLITS: [usize; 3] = [1, 2, 4];
/// Activation buffers that `conv_wg.cu` has barriers for; no kernel needs more.
const MAX_BUFFERS: usize = 8;
/// Loads of a thread in flight at a time, as in `conv.cuh`.
const LOADS: usize = 4;

/// Geometry of one step under a choice.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// All geometry fields filled in; addresses, pitches and `first_block` are not.
    pub step: ConvStep,
    /// Pixel tiles an image times channel tiles.
    pub tiles: usize,
}

/// Bytes of the table of a tile's halo, which `threads` threads make and read.
pub fn halo_bytes(step: &ConvStep, tile: &Tile, threads: u32) -> usize {
    let round = threads as usize / (tile.bk / 8) * LOADS;
    ((step.halo_h * step.halo_w) as usize).next_multiple_of(round) * 8
}

/// Bytes of a chunk of activations.
pub fn chunk_bytes(step: &ConvStep, tile: &Tile) -> usize {
    step.plane as usize * 16 * (tile.bk / 8)
}

fn magic(d: usize) -> u32 {
    assert!(d >= 2, "a reciprocal of {d}");
    (1u64 << 32).div_ceil(d as u64) as u32
}

/// First channel and number of channels that an `n`-channel tile of a grouped convolution reads, at `n0`.
pub fn window(shape: &Shape, n0: usize, bn: usize) -> (usize, usize) {
    if shape.group == 0 {
        return (0, shape.cin);
    }
    let first = (n0 / shape.group * shape.group) & !7;
    let last = ((n0 + bn).min(shape.cout) - 1) / shape.group;
    (first, (last + 1) * shape.group - first)
}

/// Tiles over a map.
struct Tiling {
    tile_w: usize,
    tile_h: usize,
    halo_w: usize,
    halo_h: usize,
    row: usize,
    tiles_x: usize,
    tiles: usize,
}

impl Tiling {
    /// `None` if the kernel has no tile of this width.
    fn new(shape: &Shape, tile: &Tile, width: i32) -> Option<Tiling> {
        let bm = tile.bm;
        match (shape.kernel, width) {
            (1, 0) => {
                let tiles = (shape.oh * shape.ow).div_ceil(bm);
                Some(Tiling { tile_w: bm, tile_h: 1, halo_w: bm, halo_h: 1, row: bm, tiles_x: tiles, tiles })
            }
            (3, -1) if shape.stride == 1 => {
                let row = shape.ow + 2;
                // positions are divided by `row` with a reciprocal that is exact up to here
                if shape.oh * row >= (1 << 32) / row {
                    return None;
                }
                let tiles = (shape.oh * row - 2).div_ceil(bm);
                let halo_w = bm + 2 * row + 2;
                Some(Tiling { tile_w: bm, tile_h: 1, halo_w, halo_h: 1, row, tiles_x: tiles, tiles })
            }
            (kernel @ (3 | 4), width @ 8..) if bm.is_multiple_of(width as usize) => {
                let tile_w = width as usize;
                let tile_h = bm / tile_w;
                if !tile_w.is_multiple_of(8)
                    || tile_w > shape.ow.next_multiple_of(8)
                    || tile_h > shape.oh.next_multiple_of(8)
                {
                    return None;
                }
                let halo = |n: usize| (n - 1) * shape.stride + kernel;
                let (halo_w, halo_h) = (halo(tile_w), halo(tile_h));
                let tiles_x = shape.ow.div_ceil(tile_w);
                let tiles = tiles_x * shape.oh.div_ceil(tile_h);
                Some(Tiling { tile_w, tile_h, halo_w, halo_h, row: halo_w, tiles_x, tiles })
            }
            _ => None,
        }
    }
}

/// Splits a convolution into tiles; `None` if the kernel cannot do it that way.
pub fn geometry(shape: &Shape, choice: &Choice) -> Option<Geometry> {
    let tile = choice.tile;
    // a choice may come from a file
    if !SPLITS.contains(&choice.split) || choice.buffers > MAX_BUFFERS {
        return None;
    }
    if !tile.serves.includes(shape.kernel, shape.stride) || !tile.family.can(shape, choice) {
        return None;
    }
    let columns = shape.cout.div_ceil(tile.bn);
    let chunks = chunks(shape, tile);
    if choice.split > chunks || choice.buffers < buffers_needed(shape, tile, chunks, choice.split) {
        return None;
    }
    let flat = choice.width == -1;
    let Tiling { tile_w, tile_h, halo_w, halo_h, row, tiles_x, tiles } =
        Tiling::new(shape, tile, choice.width)?;
    // The table of taps is for kernels up to 3x3. The 4x4 kernel computes its taps.
    let mut tap = [0; 9];
    if shape.kernel <= 3 {
        for (i, tap) in tap.iter_mut().enumerate().take(shape.kernel * shape.kernel) {
            let (r, t) = (i / shape.kernel, i % shape.kernel);
            let column = if shape.stride == 1 { t } else { (t & 1) * (tile_w + 1) + (t >> 1) };
            *tap = (r * row + column) as i32;
        }
    }
    let step = ConvStep {
        h: shape.h as i32,
        w: shape.w as i32,
        oh: shape.oh as i32,
        ow: shape.ow as i32,
        cin: shape.cin as i32,
        cout: shape.cout as i32,
        cout_pad: (columns * tile.bn) as i32,
        kernel: shape.kernel as i32,
        stride: shape.stride as i32,
        act: activation::code(shape.act) as i32,
        group: shape.group as i32,
        chunks: chunks as i32,
        flat: i32::from(flat),
        tile_w: tile_w as i32,
        tile_h: tile_h as i32,
        halo_w: halo_w as i32,
        halo_h: halo_h as i32,
        row: row as i32,
        // odd, see conv.cuh
        plane: ((if flat { halo_w } else { halo_h * row }) | 1) as i32,
        tiles_x: tiles_x as i32,
        tiles: tiles as i32,
        tap,
        div_halo_w: magic(halo_w),
        div_tile_w: magic(tile_w),
        div_flat_w: magic(shape.ow + 2),
        div_tiles_x: if tiles_x == 1 { 0 } else { magic(tiles_x) },
        ..ConvStep::default()
    };
    Some(Geometry { step, tiles: tiles * columns })
}

/// The blocks of a launch of these steps, see `conv_block` in `conv.cuh`.
pub fn grid(caps: &Caps, steps: &[Geometry], images: usize, choice: &Choice) -> [u32; 3] {
    let blocks = |g: &Geometry| g.tiles * images;
    match steps {
        [one] => {
            let along = one.step.tiles as usize * images;
            let columns = blocks(one) / along;
            [choice.tile.family.along(caps, along, columns) as u32, columns as u32, choice.split as u32]
        }
        many => [many.iter().map(blocks).sum::<usize>() as u32, 1, choice.split as u32],
    }
}

/// Channel chunks of a convolution: of the widest window among its channel tiles.
pub fn chunks(shape: &Shape, tile: &Tile) -> usize {
    let widths = (0..shape.cout).step_by(tile.bn).map(|n| window(shape, n, tile.bn).1);
    widths.max().unwrap_or(0).div_ceil(tile.bk)
}

/// The fewest activation buffers that a kernel's pipeline works with.
pub fn buffers_needed(shape: &Shape, tile: &Tile, chunks: usize, split: usize) -> usize {
    chunks.div_ceil(split).min(tile.family.buffers(tile, shape.kernel))
}

/// Weight stages of a launch; 0 for kernels that know theirs.
pub fn stages(steps: &[Geometry], choice: &Choice) -> usize {
    steps.iter().map(|g| choice.tile.family.stages(&g.step, choice)).max().unwrap_or(0)
}

/// Dynamic shared memory of a launch with these steps, in bytes.
pub fn shared_bytes(steps: &[Geometry], choice: &Choice) -> usize {
    steps.iter().map(|g| choice.tile.family.shared_bytes(&g.step, choice)).max().unwrap_or(0)
}

/// Whether all shapes can be done that way on this GPU, in one launch.
pub fn possible(caps: &Caps, shapes: &[Shape], choice: &Choice) -> bool {
    let tile = choice.tile;
    if !tile.family.runs(caps, shapes.len()) || tile.kernel(shapes).is_none() {
        return false;
    }
    if !tile.proven && !caps.unproven {
        return false;
    }
    if choice.split > 1 && !caps.sm90 {
        return false;
    }
    let steps: Option<Vec<_>> = shapes.iter().map(|s| geometry(s, choice)).collect();
    steps.is_some_and(|steps| shared_bytes(&steps, choice) <= caps.shared as usize)
}
