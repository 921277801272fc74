//! Convolution on a tile unit: implicit GEMM over flattened rows.
//!
//! The input of a block of output rows is converted to bf16 first, with its padding. With stride `s`, row `y` goes to plane
//! `y mod s`, so that the next output row reads the next row of each plane:
//!
//! ```text
//! rows of stride 2     plane 0: 0 2 4 6 ..   plane 1: 1 3 5 7 ..       a row: padding, pixels, padding; width a multiple of s
//! output (y, x)        flattened q = y * across + x, across = width / s
//! tap (ky, kx)         reads at  q * s * pixel + ((ky mod s) plane + ky / s * width + kx) pixel
//! ```
//!
//! Any 16 consecutive `q` are one tile of pixels at a fixed distance, across the ends of rows too. The few `q` that stand for
//! padding are computed and dropped. A 1x1 layer is a column of pixels. Values behind a pixel's last channel (zeros, or the next
//! pixel's) have weights of 0.
//!
//! In bf16x3 an element is the sum of two bf16 numbers, `x = x_0 + x_1` with `x_0 = bf16(x)` and `x_1 = bf16(x - x_0)`: 16 bits
//! instead of 8. Three of the four products count. They are more segments of the same sum:
//!
//! ```text
//! x w = x_0 w_0 + x_0 w_1 + x_1 w_0 + O(2^-17) x w
//! ```

use super::round::Target;
use super::unit::{BLOCK, DEPTH, Product, ROWS, Segment, TILE, Unit, place};
use crate::backend::cpu::memory::{Block, Map};
use crate::backend::cpu::ops::conv::direct::Shape;
use crate::backend::cpu::ops::conv::epilogue::{Epilogue, Region};
use crate::backend::cpu::phase::{Context, Scratch, ScratchSize, Work};
use crate::backend::cpu::simd::{Kernel, Simd};
use half::bf16;
use std::ops::Range;

/// Bytes of converted input of an item at most: a quarter of L2, which has 2 MiB on every CPU with AMX. Weights and results need
/// the rest.
const CONVERTED: usize = 512 << 10;

/// Least rows of an item, if the layer has so many, since two neighbours both convert the rows between them. Of a 1x1 layer:
/// blocks of pixels.
const ROWS_AN_ITEM: usize = 8;

/// Items a thread, if there are enough rows. With several, other threads take items of one that falls behind.
const ITEMS: usize = 3;

/// Bytes of weights from which each thread computes a range of output channels, and reads only their weights. Each thread then
/// converts the whole input, which is a few per cent of such a layer's instructions.
const HEAVY: usize = 1 << 20;

/// Channels of a block in one group.
struct Column {
    /// First output channel, and how many.
    c0: usize,
    c: usize,
    /// First input channel of the group.
    shift: usize,
    weights: usize,
    bias: usize,
}

impl Column {
    /// Tiles of channels.
    fn wide(&self) -> usize {
        self.c.div_ceil(ROWS)
    }
}

/// A convolution packed for a tile unit; `S` converts the input and applies the epilogue.
pub struct TileConv<S> {
    simd: S,
    unit: Unit,
    src: Map,
    shape: Shape,
    epilogue: Epilogue,
    /// Output rows and columns.
    rows: usize,
    columns: usize,
    /// Values of a converted pixel, and pixels of a converted row.
    pixel: usize,
    width: usize,
    /// Rows of a plane.
    plane: usize,
    /// Taps, in values from the output's first one, and their weights; for each product of the elements' parts.
    segments: Vec<Segment>,
    chunks: usize,
    panels: Vec<Column>,
    weights: Block,
    bias: Block,
    blocks: usize,
    ranges: usize,
    /// bf16 numbers that an element is the sum of.
    parts: usize,
}

impl<S: Simd> TileConv<S> {
    /// Packs `weight`, `[cout][kernel][kernel][cin / groups]`, and `bias`, `[cout]`, for `threads` threads; `parts` is 1 or 2.
    pub fn new(
        (simd, unit, parts): (S, Unit, usize),
        mut src: Map,
        shape: Shape,
        weight: &[f32],
        bias: &[f32],
        epilogue: Epilogue,
        threads: usize,
    ) -> TileConv<S> {
        let Shape { kernel, stride, pad, groups } = shape;
        let (cin, cout) = (src.c / groups, bias.len() / groups);
        let total = kernel * kernel * cin;
        assert_eq!(weight.len(), bias.len() * total, "weights of a {shape:?} convolution");
        let (mut rows, mut columns) = (epilogue.dst.h, epilogue.dst.w);
        if (kernel, stride, pad) == (1, 1, 0) {
            (rows, columns) = (src.pixels(), 1);
            src = Map { h: src.pixels(), w: 1, ..src };
        }
        // Taps of a row are one segment where they are contiguous, as in the stem's three-channel input.
        let joined = groups == 1 && kernel > 1 && src.c < DEPTH / 2;
        let (taps_across, depth) = if joined { (1, kernel * cin) } else { (kernel, cin) };
        let chunks = depth.div_ceil(DEPTH);
        let pixel = if joined { cin } else { src.c.next_multiple_of(DEPTH) };
        // Wide enough for the values that the last output's last segment of a row reads.
        let reach = (src.c - cin + chunks * DEPTH).div_ceil(pixel);
        let width =
            ((columns - 1) * stride + taps_across - 1 + reach).max(pad + src.w).next_multiple_of(stride);

        let packed_bytes =
            parts * 2 * kernel * taps_across * chunks * DEPTH * groups * cout.next_multiple_of(ROWS);
        let ranges = if packed_bytes > HEAVY { threads.min(bias.len() / BLOCK).max(1) } else { 1 };
        let most_rows = (CONVERTED / (parts * 2 * width * pixel) / stride).max(1);
        let enough = if columns == 1 { ROWS_AN_ITEM * BLOCK } else { ROWS_AN_ITEM };
        let of_range = threads.div_ceil(ranges);
        let blocks = rows.div_ceil(most_rows).max((ITEMS * of_range).min(rows / enough)).max(1);
        let blocks = blocks.next_multiple_of(of_range).min(rows);
        let plane = ((rows.div_ceil(blocks) - 1) * stride + kernel).div_ceil(stride);
        let tap = |ky: usize, kx: usize| ((ky % stride * plane + ky / stride) * width + kx) * pixel;
        let taps: Vec<usize> =
            (0..kernel).flat_map(|ky| (0..taps_across).map(move |kx| tap(ky, kx))).collect();
        let part = part_len(stride, plane, width, pixel);
        let mut segments = Vec::new();
        for (x, w) in [(0, 0), (0, 1), (1, 0)].into_iter().filter(|(x, w)| x + w < parts) {
            segments.extend(
                taps.iter().enumerate().map(|(t, tap)| Segment {
                    a: (x * part + tap) as isize,
                    b: (w * taps.len() + t) * chunks,
                }),
            );
        }

        let mut panels = Vec::new();
        let (mut weights, mut biases) = (0, 0);
        for (group, c0) in (0..groups).flat_map(|g| (0..cout).step_by(BLOCK).map(move |c| (g, c))) {
            let c = (cout - c0).min(BLOCK);
            let column = Column { c0: group * cout + c0, c, shift: group * cin, weights, bias: biases };
            weights += parts * taps.len() * chunks * column.wide() * TILE;
            biases += column.wide() * ROWS;
            panels.push(column);
        }
        let mut packed = Block::zeroed_of::<bf16>(weights);
        let mut packed_bias = Block::zeroed(biases);
        for p in &panels {
            packed_bias[p.bias..p.bias + p.c].copy_from_slice(&bias[p.c0..p.c0 + p.c]);
            let to = &mut packed.cast_mut::<bf16>()[p.weights..];
            for (j, weight) in weight[p.c0 * total..(p.c0 + p.c) * total].chunks_exact(total).enumerate() {
                for (t, weight) in weight.chunks_exact(depth).enumerate() {
                    for (k, &w) in weight.iter().enumerate() {
                        let mut rest = w;
                        for part in 0..parts {
                            let tile = ((part * taps.len() + t) * chunks + k / DEPTH) * p.wide() + j / ROWS;
                            let rounded = bf16::from_f32(rest);
                            to[tile * TILE + place(k % DEPTH, j % ROWS)] = rounded;
                            rest -= rounded.to_f32();
                        }
                    }
                }
            }
        }
        TileConv {
            simd,
            unit,
            src,
            shape,
            epilogue,
            rows,
            columns,
            pixel,
            width,
            plane,
            segments,
            chunks,
            panels,
            weights: packed,
            bias: packed_bias,
            blocks,
            ranges,
            parts,
        }
    }

    /// Flattened outputs a row.
    fn across(&self) -> usize {
        self.width / self.shape.stride
    }

    /// Output rows of a block.
    fn block(&self, index: usize) -> Range<usize> {
        self.rows * index / self.blocks..self.rows * (index + 1) / self.blocks
    }

    /// Applies the epilogue to a block's sums. Those of one row are neighbouring pixels of the output; sums of padding are
    /// dropped.
    ///
    /// # Safety
    /// `base` must be the arena, `sums` those of the flattened outputs `q` from row `first` on, which no other thread may write.
    #[inline(always)]
    unsafe fn finish(&self, base: *mut f32, first: usize, q: Range<usize>, panel: &Column, sums: *const f32) {
        // Without padding all rows are one run.
        let (across, columns) = match self.across() == self.columns {
            true => (usize::MAX, usize::MAX),
            false => (self.across(), self.columns),
        };
        let mut at = q.start;
        while at < q.end {
            let (y, x) = (at / across, at % across);
            let run = columns.saturating_sub(x).min(q.end - at);
            if run > 0 {
                let region = Region {
                    first: (first + y) * self.columns + x,
                    rows: run,
                    c: panel.c0,
                    n: panel.c,
                    // SAFETY: within the sums.
                    tile: unsafe { sums.add((at - q.start) * BLOCK) },
                    pitch: BLOCK,
                };
                // SAFETY: contract of this function.
                unsafe { self.epilogue.finish(self.simd.f32(), base, region) };
            }
            at = (y + 1).saturating_mul(across);
        }
    }

    /// Values of one part of the converted input.
    fn part(&self) -> usize {
        part_len(self.shape.stride, self.plane, self.width, self.pixel)
    }
}

/// Values of the largest block's converted input, and a margin that tiles read behind it without using the values.
fn part_len(stride: usize, plane: usize, width: usize, pixel: usize) -> usize {
    ((stride * plane * width + BLOCK * stride) * pixel + DEPTH).next_multiple_of(DEPTH)
}

/// The input of a block of output rows, as [`TileConv`] lays it out.
struct Convert<'a, S> {
    conv: &'a TileConv<S>,
    base: *const f32,
    /// Output rows.
    rows: Range<usize>,
    out: Target,
}

impl<T: Simd> Kernel for Convert<'_, T> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Convert { conv: TileConv { src, shape, pixel, width, plane, .. }, base, rows, out } = self;
        let (pixel, row) = (*pixel, width * pixel);
        let first = rows.start * shape.stride;
        // SAFETY: made only by `TileConv::run`: `base` is the arena of `src`, whose pixels are read within the map.
        unsafe {
            if (shape.kernel, src.w, row) == (1, 1, pixel) {
                return out.pixels(s, base.add(src.offset + first * src.pitch), src, rows.len(), pixel);
            }
            for j in 0..(rows.len() - 1) * shape.stride + shape.kernel {
                let to = out.at((j % shape.stride * plane + j / shape.stride) * row);
                let Some(y) = (first + j).checked_sub(shape.pad).filter(|&y| y < src.h) else {
                    to.clear(row);
                    continue;
                };
                let (before, inner) = (shape.pad * pixel, src.w * pixel);
                to.clear(before);
                to.at(before).pixels(s, base.add(src.offset + y * src.w * src.pitch), src, src.w, pixel);
                to.at(before + inner).clear(row - before - inner);
            }
        }
    }
}

impl<S: Simd> Work for TileConv<S> {
    unsafe fn items(&self, _: &Context<'_>) -> usize {
        self.blocks * self.ranges
    }

    fn scratch(&self) -> ScratchSize {
        ScratchSize { values: BLOCK * BLOCK + (self.parts * self.part()).div_ceil(2), rows: 0 }
    }

    unsafe fn run(&self, item: usize, context: &Context<'_>, scratch: &mut Scratch) {
        // Blocks count first, so that a thread's consecutive items use the same weights.
        let (block, range) = (item % self.blocks, item / self.blocks);
        let (rows, across) = (self.block(block), self.across());
        let panels = self.panels.len() * range / self.ranges..self.panels.len() * (range + 1) / self.ranges;
        let sums = scratch.values.as_mut_ptr();
        // SAFETY: the scratch holds a block of sums, then the parts of the converted input.
        let input: *mut bf16 = unsafe { sums.add(BLOCK * BLOCK) }.cast();
        let rest = if self.parts == 2 { self.part() } else { 0 };
        // SAFETY: a part holds the planes of the largest block.
        let out = unsafe { Target::new(input, rest) };
        self.simd.vectorize(Convert { conv: self, base: context.base, rows: rows.clone(), out });
        let end = (rows.len() - 1) * across + self.columns;
        self.unit.with_tiles(|| {
            for panel in &self.panels[panels] {
                for q in (0..end).step_by(BLOCK) {
                    let pixels = (end - q).min(BLOCK);
                    // SAFETY: the product's operands lie in the converted input and its margin, or in packed blocks,
                    // which hold every panel; its sums have room.
                    unsafe {
                        self.unit.multiply(&Product {
                            a: input.add(q * self.shape.stride * self.pixel + panel.shift),
                            pixel: self.shape.stride * self.pixel,
                            segments: &self.segments,
                            chunks: self.chunks,
                            b: self.weights.as_ptr().cast::<bf16>().add(panel.weights),
                            init: self.bias.as_ptr().add(panel.bias),
                            out: sums,
                            tall: pixels.div_ceil(ROWS),
                            wide: panel.wide(),
                        });
                    }
                    // SAFETY: contract of `run`; the sums were just written.
                    unsafe { self.finish(context.base, rows.start, q..q + pixels, panel, sums) };
                }
            }
        });
    }
}
