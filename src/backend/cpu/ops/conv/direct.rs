//! Convolution without intermediate storage: every tap is a segment of the microkernel's sum (implicit GEMM).
//!
//! For 1x1 layers, stems of 7x7 (and of 6x6 in bf16), and 3x3 layers that suit no Winograd algorithm. The work is partitioned
//! into blocks of output pixels and ranges of output channels. A block's row pointers are computed once and used for all its
//! panels. With bf16 the block's input is converted first, once for all its taps and panels.

use super::epilogue::{Addition, Epilogue, Region};
use crate::backend::cpu::element::{Convert, Element};
use crate::backend::cpu::memory::{Block, Map};
use crate::backend::cpu::microkernel::{MAX_ROWS, Microkernels, SHARES, Tile, max_rows, share};
use crate::backend::cpu::pack::{Panel, pack, panels_for, tiles};
use crate::backend::cpu::phase::{Context, Scratch, ScratchSize, Work};
use crate::backend::cpu::prefetch;
use crate::backend::cpu::simd::Simd;
use std::ops::Range;

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

impl Shape {
    /// Whether an output pixel reads only the input pixel at the same place.
    fn keeps_pixels(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.pad == 0
    }

    /// The name of this layer among those of a 1x1, another dense, and a grouped one.
    pub fn pick(&self, names: [&'static str; 3]) -> &'static str {
        match (self.kernel, self.groups) {
            (1, _) => names[0],
            (_, 1) => names[1],
            _ => names[2],
        }
    }
}

/// Prefetch distance, in output pixels: two tiles, which take at least about 100 cycles.
const AHEAD: usize = 2 * MAX_ROWS;

/// Bytes of weights that stay in L1 while pixels and results pass through it: half of the smallest L1, 32 KiB.
const TOGETHER: usize = 16 << 10;

/// The work partition: items are blocks of pixels by ranges of panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Output pixels a block.
    pub pixels: usize,
    /// Ranges of panels.
    pub ranges: usize,
}

/// Some taps of the kernel whose input values are contiguous.
#[derive(Clone, Copy, Debug)]
struct Segment {
    dy: isize,
    dx: isize,
}

/// Segments of the largest kernel, 7x7.
const MAX_SEGMENTS: usize = 49;

/// One panel of a group.
struct Column {
    panel: Panel,
    /// First input channel of the group.
    shift: usize,
    weights: usize,
    bias: usize,
}

/// A direct convolution of elements `T`, packed for instruction set `S`.
pub struct Direct<S, T> {
    simd: S,
    src: Map,
    shape: Shape,
    /// Columns of the output.
    across: usize,
    segments: Vec<Segment>,
    /// Output pixels whose input pixel is in `pad .. pad + inner` have all taps inside the map.
    inner_h: usize,
    inner_w: usize,
    depth: usize,
    columns: Vec<Column>,
    /// Panels computed for one pixel tile before the next tile starts. More than one keeps the results' cache lines in L1.
    together: usize,
    weights: Block,
    bias: Block,
    zeros: Block,
    epilogue: Epilogue,
    partition: Partition,
    microkernels: Microkernels<T>,
    /// Microkernels that apply the epilogue to panels of whole vectors, if they can.
    finishing: Option<Microkernels<T>>,
    /// Values from a converted pixel to the next.
    converted_pixel: usize,
    /// Values of the largest block's converted input.
    converted_len: usize,
}

/// Input pixels that a block reads.
struct Window {
    rows: Range<usize>,
    columns: Range<usize>,
}

/// Where a block's input lies.
struct Source<T> {
    /// The window's first pixel.
    first: *const T,
    /// Its row and column in the map.
    at: (usize, usize),
    /// Values from a row to the next.
    row: usize,
    /// Values from a pixel to the next.
    pixel: usize,
}

impl<S: Simd, T: Element> Direct<S, T> {
    /// Packs `weight`, `[cout][kernel][kernel][cin / groups]`, and `bias`, `[cout]`.
    pub fn new(
        simd: S,
        mut src: Map,
        shape: Shape,
        weight: &[f32],
        bias: &[f32],
        epilogue: Epilogue,
        partition: Partition,
    ) -> Direct<S, T> {
        let Shape { kernel, groups, .. } = shape;
        let (cin, cout) = (src.c / groups, bias.len() / groups);
        let total = kernel * kernel * cin;
        assert_eq!(weight.len(), bias.len() * total, "weights of a {shape:?} convolution");
        let mut across = epilogue.dst.w;
        if shape.keeps_pixels() {
            // All pixels as one row, so that a block is one run of pixels.
            across = src.pixels();
            src = Map { h: 1, w: src.pixels(), ..src };
        }
        // Where pixels are contiguous, the taps of a row are too, and are one segment. That needs the padding in the input, as
        // the network input has it: elsewhere single taps of a row may lie outside the map.
        let whole_rows = groups == 1 && kernel > 1 && src.pitch == src.c && shape.pad == 0;
        let mut segments = Vec::new();
        for ky in 0..kernel {
            for kx in (0..kernel).step_by(if whole_rows { kernel } else { 1 }) {
                let (dy, dx) = (ky as isize - shape.pad as isize, kx as isize - shape.pad as isize);
                segments.push(Segment { dy, dx });
            }
        }
        assert!(segments.len() <= MAX_SEGMENTS, "a kernel of {kernel}x{kernel}");
        let depth = if whole_rows { kernel * cin } else { cin };
        let ranges = partition.ranges.div_ceil(groups);
        let outputs: Vec<Panel> = (0..groups)
            .flat_map(|group| {
                panels_for::<S>(cout, ranges).into_iter().map(move |p| Panel { c0: group * cout + p.c0, ..p })
            })
            .collect();
        let (weights, starts) =
            pack::<S, T>(&outputs, (segments.len(), depth), |out, k| weight[out * total + k]);
        let (mut columns, mut biases) = (Vec::new(), Vec::new());
        for (panel, weights) in outputs.into_iter().zip(starts) {
            let shift = panel.c0 / cout * cin;
            columns.push(Column { panel, shift, weights, bias: biases.len() });
            let of = |j: usize| if j < panel.c { bias[panel.c0 + j] } else { 0.0 };
            biases.extend((0..panel.vectors * S::LANES).map(of));
        }
        let widest = columns.iter().map(|c| c.panel.vectors).max().unwrap_or(0);
        // With bf16 and an odd depth the last group reads one value more, which is a zero behind each pixel. Contiguous taps
        // leave no room for it; their last group reads the next pixel, whose weights are 0.
        let pixel = if whole_rows { cin } else { src.c + depth % T::GROUP };
        let finishing = match epilogue.addition() {
            Some(Addition::None | Addition::BeforeActivation) => {
                Microkernels::activating(simd, widest, epilogue.act)
            }
            _ => None,
        };
        // All panels of a pixel tile are computed together if the weights of all stay in L1 and all tiles have the same height.
        let alike = columns.iter().all(|c| max_rows::<S>(c.panel.vectors) == max_rows::<S>(widest));
        let few = alike && weight.len() * size_of::<T>() < TOGETHER;
        let mut direct = Direct {
            simd,
            src,
            shape,
            across,
            segments,
            inner_h: (src.h + 1).saturating_sub(kernel),
            inner_w: (src.w + 1).saturating_sub(kernel),
            depth,
            together: if few { columns.len() } else { 1 },
            columns,
            weights,
            bias: Block::from_slice(&biases),
            zeros: Block::zeroed_of::<T>(src.c.max(depth) + S::LANES),
            epilogue,
            partition,
            microkernels: Microkernels::new(simd, widest),
            finishing,
            converted_pixel: pixel,
            converted_len: 0,
        };
        if !T::IN_PLACE {
            let window = |block| {
                let Range { start, end } = direct.block(block);
                let window = direct.window(start, end);
                window.rows.len() * window.columns.len()
            };
            let largest = (0..direct.blocks()).map(window).max().unwrap_or(0);
            direct.converted_len = largest * pixel + T::GROUP;
        }
        direct
    }

    fn blocks(&self) -> usize {
        self.epilogue.dst.pixels().div_ceil(self.partition.pixels)
    }

    /// Output pixels of a block.
    fn block(&self, index: usize) -> Range<usize> {
        let (pixels, blocks) = (self.epilogue.dst.pixels(), self.blocks());
        pixels * index / blocks..pixels * (index + 1) / blocks
    }

    /// Input pixels that the output pixels `p0 .. p1` read.
    fn window(&self, p0: usize, p1: usize) -> Window {
        let Shape { kernel, stride, pad, .. } = self.shape;
        let (first, last) = (p0 / self.across, (p1 - 1) / self.across);
        let within =
            if first == last { (p0 % self.across, (p1 - 1) % self.across) } else { (0, self.across - 1) };
        let reach = |first: usize, last: usize, len: usize| {
            (first * stride).saturating_sub(pad).min(len)
                ..(last * stride + kernel).saturating_sub(pad).min(len)
        };
        Window { rows: reach(first, last, self.src.h), columns: reach(within.0, within.1, self.src.w) }
    }

    /// The input of the output pixels `p0 .. p1` as elements. If maps hold another type they are converted into `room`.
    ///
    /// # Safety
    /// `base` must be the arena of `src`, and `room` as large as `scratch` says.
    unsafe fn source(&self, base: *const f32, p0: usize, p1: usize, room: *mut T) -> Source<T> {
        let src = &self.src;
        let (row, pixel) = (src.w * src.pitch, src.pitch);
        // SAFETY: windows lie inside the map.
        unsafe {
            if T::IN_PLACE {
                return Source { first: base.add(src.offset).cast(), at: (0, 0), row, pixel };
            }
            let Window { rows, columns } = self.window(p0, p1);
            self.simd.vectorize(Convert {
                src: base.add(src.offset + rows.start * row + columns.start * pixel),
                row,
                pixel,
                rows: rows.len(),
                columns: columns.len(),
                c: src.c,
                out: room,
                pitch: self.converted_pixel,
            });
            let at = (rows.start, columns.start);
            Source { first: room, at, row: columns.len() * self.converted_pixel, pixel: self.converted_pixel }
        }
    }

    /// Row pointers of the tiles of pixels `p0 .. p1`: `[tile][segment][row]`.
    ///
    /// # Safety
    /// `source` must be the input of these pixels, and `rows` writable for one pointer a pixel and segment.
    unsafe fn row_pointers(&self, source: &Source<T>, p0: usize, p1: usize, max: usize, rows: *mut *const T) {
        if self.shape.keeps_pixels() {
            for (i, x) in (p0..p1).enumerate() {
                // SAFETY: the pixel lies inside the map, and so inside the window; `rows` by contract.
                unsafe { *rows.add(i) = source.first.add((x - source.at.1) * source.pixel) };
            }
            return;
        }
        let (src, stride) = (&self.src, self.shape.stride);
        let (mut y, mut x) = (p0 / self.across, p0 % self.across);
        // Values from the input pixel of an output pixel to the first of each segment.
        let mut offsets = [0; MAX_SEGMENTS];
        for (offset, Segment { dy, dx }) in offsets.iter_mut().zip(&self.segments) {
            *offset = dy * source.row as isize + dx * source.pixel as isize;
        }
        let mut at = 0;
        tiles(p1 - p0, max, |_, height| {
            for r in 0..height {
                let (iy, ix) = (y * stride, x * stride);
                let pixel = (iy as isize - source.at.0 as isize) * source.row as isize
                    + (ix as isize - source.at.1 as isize) * source.pixel as isize;
                let inner = iy.wrapping_sub(self.shape.pad) < self.inner_h
                    && ix.wrapping_sub(self.shape.pad) < self.inner_w;
                for (t, segment) in self.segments.iter().enumerate() {
                    let inside = inner
                        || (iy.wrapping_add_signed(segment.dy) < src.h
                            && ix.wrapping_add_signed(segment.dx) < src.w);
                    // SAFETY: the pixel lies inside the map, and so inside the window; `rows` by contract.
                    unsafe {
                        *rows.add(at + t * height + r) = if inside {
                            source.first.offset(pixel + offsets[t])
                        } else {
                            self.zeros.as_ptr().cast()
                        };
                    }
                }
                x += 1;
                if x == self.across {
                    (y, x) = (y + 1, 0);
                }
            }
            at += height * self.segments.len();
        });
    }
}

impl<S: Simd, T: Element> Direct<S, T> {
    /// Sums of the largest tile.
    const TILE: usize = MAX_ROWS * 8 * S::LANES;

    /// Computes `height` output pixels from `pixel` on of a column. Their row pointers are `rows`, `later` is
    /// [`Tile::later`], and `sums` is room for a tile that the microkernel does not finish.
    ///
    /// # Safety
    /// As [`Work::run`]; `rows` and `sums` must be a tile's.
    unsafe fn tile(
        &self,
        base: *mut f32,
        column: &Column,
        (pixel, height): (usize, usize),
        rows: *const *const T,
        later: *const T,
        sums: *mut f32,
    ) {
        let Panel { c0, c, vectors } = column.panel;
        let width = vectors * S::LANES;
        let mut tile = Tile {
            rows,
            shift: column.shift,
            segments: self.segments.len(),
            depth: self.depth,
            weights: std::ptr::null(),
            later,
            init: std::ptr::null(),
            addends: std::ptr::null(),
            out: sums,
            pitch: width,
        };
        let mut addends = [std::ptr::null(); MAX_ROWS];
        // SAFETY: packed blocks hold every column's weights and bias; rows hold `depth` values each (or are the page of
        // zeros), and another one where that is odd; pixels and channels lie inside the output, and `sums` has room.
        unsafe {
            tile.weights = self.weights.as_ptr().cast::<T>().add(column.weights);
            tile.init = self.bias.as_ptr().add(column.bias);
            match &self.finishing {
                Some(finishing) if c == width => {
                    let dst = &self.epilogue.dst;
                    if self.epilogue.addends_of(base, pixel, c0, &mut addends[..height]) {
                        tile.addends = addends.as_ptr();
                    }
                    (tile.out, tile.pitch) = (base.add(dst.offset + pixel * dst.pitch + c0), dst.pitch);
                    finishing.get(height, vectors)(&tile);
                }
                _ => {
                    self.microkernels.get(height, vectors)(&tile);
                    let region = Region { first: pixel, rows: height, c: c0, n: c, tile: sums, pitch: width };
                    self.epilogue.finish(self.simd.f32(), base, region);
                }
            }
        }
    }
}

impl<S: Simd, T: Element> Work for Direct<S, T> {
    unsafe fn items(&self, _: &Context<'_>) -> usize {
        self.blocks() * self.partition.ranges
    }

    fn scratch(&self) -> ScratchSize {
        let converted = (self.converted_len * size_of::<T>()).div_ceil(size_of::<f32>());
        ScratchSize { values: Self::TILE + converted, rows: self.partition.pixels * self.segments.len() }
    }

    unsafe fn run(&self, item: usize, context: &Context<'_>, scratch: &mut Scratch) {
        // Blocks count first, so that a thread's consecutive items use the same weights.
        let (block, range) = (item % self.blocks(), item / self.blocks());
        let Range { start: p0, end: p1 } = self.block(block);
        let columns = self.columns.len();
        let (c0, c1) =
            (columns * range / self.partition.ranges, columns * (range + 1) / self.partition.ranges);
        let tile = scratch.values.as_mut_ptr();
        // SAFETY: contract of `run`; the scratch holds a tile, then the converted input.
        let source = unsafe { self.source(context.base, p0, p1, tile.add(Self::TILE).cast()) };
        let pointers: *mut *const T = scratch.rows.as_mut_ptr().cast();
        let mut pointed = 0;
        // The first weights of the panels after this one, and after the last those of the next block.
        let packed = |column: &Column| self.weights.as_ptr().cast::<T>().wrapping_add(column.weights);
        let mut upcoming = self.columns[c0..c1].iter().step_by(self.together).cycle().skip(1).map(packed);
        for columns in self.columns[c0..c1].chunks(self.together) {
            let upcoming = upcoming.next().unwrap_or(std::ptr::null());
            let share = share::<S, T>(self.segments.len(), self.depth, columns[0].panel.vectors);
            let mut shares = (0..SHARES).map(|i| upcoming.wrapping_add(i * share));
            let max = max_rows::<S>(columns[0].panel.vectors);
            if pointed != max {
                // SAFETY: the source of these pixels; the scratch has room for their pointers.
                unsafe { self.row_pointers(&source, p0, p1, max, pointers) };
            }
            // Only 1x1 layers prefetch input, and only for the first panels: a 3x3 layer's next row finds its taps in cache.
            let prefetch_input = pointed == 0 && self.segments.len() == 1 && T::IN_PLACE;
            pointed = max;
            let Map { offset, pitch, .. } = self.epilogue.dst;
            let out = context.base.wrapping_add(offset + p0 * pitch + columns[0].panel.c0);
            let channels: usize = columns.iter().map(|column| column.panel.c).sum();
            let mut rows = pointers.cast_const();
            tiles(p1 - p0, max, |first, height| {
                for later in (first + AHEAD..first + AHEAD + height).take_while(|&later| later < p1 - p0) {
                    if prefetch_input {
                        // SAFETY: one pointer a pixel, and this is one of the block's.
                        prefetch::read(unsafe { *pointers.add(later) }, self.depth * size_of::<T>());
                    }
                    prefetch::write(out.wrapping_add(later * pitch), channels * size_of::<f32>());
                }
                let later = shares.next();
                for column in columns {
                    let later = later.unwrap_or_else(|| packed(column));
                    // SAFETY: contract of `run`; the pointers of this tile, and scratch for its sums.
                    unsafe { self.tile(context.base, column, (p0 + first, height), rows, later, tile) };
                }
                // SAFETY: stays within the pointers written above.
                rows = unsafe { rows.add(height * self.segments.len()) };
            });
        }
    }
}
