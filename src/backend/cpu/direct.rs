//! Convolution without intermediate storage: every tap is a segment of the micro-kernel's sum (implicit GEMM).
//!
//! Serves 1x1 layers, strided and grouped 3x3 layers, and the 6x6 stem. The work is cut into blocks of output pixels
//! and ranges of output channels. A block's row pointers are computed once and used for all its panels.

use super::epilogue::Epilogue;
use super::memory::{Block, Map};
use super::micro::{MAX_ROWS, Micros, Tile, max_rows};
use super::pack::{Panel, pack, panels, tiles};
use super::simd::{Kernel, Simd};
use super::work::{Context, Scratch, ScratchSize, Work};

/// Shape of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Kernel height and width.
    pub kernel: usize,
    /// Step of the output grid over the input.
    pub stride: usize,
    /// Zeros on each side.
    pub pad: usize,
    /// Channel groups.
    pub groups: usize,
}

/// How the work is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Output pixels a block.
    pub pixels: usize,
    /// Ranges of panels that separate items compute.
    pub ranges: usize,
}

/// Some taps of the kernel whose input values are contiguous.
#[derive(Clone, Copy, Debug)]
struct Segment {
    dy: isize,
    dx: isize,
}

/// One panel of a group.
struct Column {
    panel: Panel,
    /// First input channel of the group.
    shift: usize,
    weights: usize,
    bias: usize,
}

/// A direct convolution, packed for instruction set `S`.
pub struct Direct<S> {
    simd: S,
    src: Map,
    shape: Shape,
    segments: Vec<Segment>,
    depth: usize,
    columns: Vec<Column>,
    weights: Block,
    bias: Block,
    zeros: Block,
    epilogue: Epilogue,
    cut: Cut,
    micro: Micros,
}

impl<S: Simd> Direct<S> {
    /// Packs `weight`, `[cout][kernel][kernel][cin / groups]`, and `bias`, `[cout]`.
    pub fn new(
        simd: S,
        src: Map,
        shape: Shape,
        weight: &[f32],
        bias: &[f32],
        epilogue: Epilogue,
        cut: Cut,
    ) -> Direct<S> {
        let Shape { kernel, groups, .. } = shape;
        let (cin, cout) = (src.c / groups, bias.len() / groups);
        let total = kernel * kernel * cin;
        assert_eq!(weight.len(), bias.len() * total, "weights of a {shape:?} convolution");
        // Taps of a row are contiguous where pixels are, as in the stem's three-channel input; there the padding is
        // part of the input (see `memory`), else each tap may fall outside on its own.
        let whole_rows = groups == 1 && kernel > 1 && src.pitch == src.c && shape.pad == 0;
        let mut segments = Vec::new();
        for ky in 0..kernel {
            for kx in (0..kernel).step_by(if whole_rows { kernel } else { 1 }) {
                segments.push(Segment {
                    dy: ky as isize - shape.pad as isize,
                    dx: kx as isize - shape.pad as isize,
                });
            }
        }
        let depth = if whole_rows { kernel * cin } else { cin };
        let (mut columns, mut blocks, mut biases) = (Vec::new(), Vec::new(), Vec::new());
        let mut len = 0;
        for group in 0..groups {
            let cut = panels::<S>(cout);
            let out0 = group * cout;
            let (block, starts) = pack::<S>(&cut, total, |j, k| weight[(out0 + j) * total + k]);
            for (panel, start) in cut.into_iter().zip(starts) {
                let shift = group * cin;
                let column = Column {
                    panel: Panel { c0: out0 + panel.c0, ..panel },
                    shift,
                    weights: len + start,
                    bias: biases.len(),
                };
                biases.extend(
                    (0..panel.vectors * S::LANES)
                        .map(|j| if j < panel.c { bias[out0 + panel.c0 + j] } else { 0.0 }),
                );
                columns.push(column);
            }
            len += block.len();
            blocks.push(block);
        }
        let mut weights = Block::zeroed(len);
        let mut at = 0;
        for block in blocks {
            weights[at..at + block.len()].copy_from_slice(&block);
            at += block.len();
        }
        let mut packed_bias = Block::zeroed(biases.len());
        packed_bias.copy_from_slice(&biases);
        let widest = columns.iter().map(|c| c.panel.vectors).max().unwrap_or(0);
        let micro = Micros::new(simd, widest);
        let zeros = Block::zeroed(src.c.max(depth) + S::LANES);
        Direct {
            simd,
            src,
            shape,
            segments,
            depth,
            columns,
            weights,
            bias: packed_bias,
            zeros,
            epilogue,
            cut,
            micro,
        }
    }

    /// Row pointers of the tiles of pixels `p0 .. p1`: `[tile][segment][row]`.
    ///
    /// # Safety
    /// `base` must be the arena of `src`.
    unsafe fn row_pointers(
        &self,
        base: *const f32,
        p0: usize,
        p1: usize,
        max: usize,
        rows: &mut [*const f32],
    ) {
        let (src, stride) = (&self.src, self.shape.stride as isize);
        let out_w = self.epilogue.dst.w;
        let mut at = 0;
        tiles(p1 - p0, max, |first, height| {
            for r in 0..height {
                let pixel = p0 + first + r;
                let (y, x) = ((pixel / out_w) as isize * stride, (pixel % out_w) as isize * stride);
                for (t, segment) in self.segments.iter().enumerate() {
                    let (iy, ix) = (y + segment.dy, x + segment.dx);
                    let inside = (0..src.h as isize).contains(&iy) && (0..src.w as isize).contains(&ix);
                    rows[at + t * height + r] = if inside {
                        // SAFETY: the pixel lies inside the map.
                        unsafe { base.add(src.offset + (iy as usize * src.w + ix as usize) * src.pitch) }
                    } else {
                        self.zeros.as_ptr()
                    };
                }
            }
            at += height * self.segments.len();
        });
    }
}

struct Finish<'a> {
    epilogue: &'a Epilogue,
    base: *mut f32,
    first: usize,
    rows: usize,
    panel: Panel,
    tile: *const f32,
}

impl Kernel for Finish<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Panel { c0, c, vectors } = self.panel;
        // SAFETY: made only by `Direct::run`, whose contract covers the arena; the tile was just written.
        unsafe {
            self.epilogue.apply(s, self.base, self.first, self.rows, c0, c, self.tile, vectors * S::LANES);
        }
    }
}

impl<S: Simd> Work for Direct<S> {
    fn items(&self, _: &Context<'_>) -> usize {
        self.epilogue.dst.pixels().div_ceil(self.cut.pixels) * self.cut.ranges
    }

    fn scratch(&self) -> ScratchSize {
        ScratchSize { values: MAX_ROWS * 8 * S::LANES, rows: self.cut.pixels * self.segments.len() }
    }

    unsafe fn run(&self, item: usize, context: &Context<'_>, scratch: &mut Scratch) {
        let (block, range) = (item / self.cut.ranges, item % self.cut.ranges);
        let pixels = self.epilogue.dst.pixels();
        let blocks = pixels.div_ceil(self.cut.pixels);
        let (p0, p1) = (pixels * block / blocks, pixels * (block + 1) / blocks);
        let columns = self.columns.len();
        let (c0, c1) = (columns * range / self.cut.ranges, columns * (range + 1) / self.cut.ranges);
        let mut pointed = 0;
        for column in &self.columns[c0..c1] {
            let vectors = column.panel.vectors;
            let max = max_rows::<S>(vectors);
            if pointed != max {
                // SAFETY: contract of `run`.
                unsafe { self.row_pointers(context.base, p0, p1, max, &mut scratch.rows) };
                pointed = max;
            }
            let mut rows = scratch.rows.as_ptr();
            tiles(p1 - p0, max, |first, height| {
                let tile = Tile {
                    rows,
                    shift: column.shift,
                    segments: self.segments.len(),
                    depth: self.depth,
                    // SAFETY: packed blocks hold every column's weights and bias.
                    weights: unsafe { self.weights.as_ptr().add(column.weights) },
                    // SAFETY: as above.
                    init: unsafe { self.bias.as_ptr().add(column.bias) },
                    out: scratch.values.as_mut_ptr(),
                    pitch: vectors * S::LANES,
                };
                let micro = self.micro.get(height, vectors);
                // SAFETY: rows hold `depth` values each (or are the page of zeros); `out` has room for the tile.
                unsafe { micro(&tile) };
                self.simd.vectorize(Finish {
                    epilogue: &self.epilogue,
                    base: context.base,
                    first: p0 + first,
                    rows: height,
                    panel: column.panel,
                    tile: tile.out,
                });
                // SAFETY: stays within the pointers written above.
                rows = unsafe { rows.add(height * self.segments.len()) };
            });
        }
    }
}
