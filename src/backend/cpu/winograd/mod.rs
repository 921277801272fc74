//! 3x3 convolutions by Winograd's minimal filtering: fewer products, for additions in their stead.
//!
//! With `d` a patch of the input, `g` the 3x3 filter and `y` a 4x4 patch of the output,
//!
//! ```text
//! y = A^T [ (G g G^T) * (B^T d B) ] A
//! ```
//!
//! where `*` is, for each position of the transformed patch, a matrix product over channels. With stride 1 there are 36
//! positions where the plain sum has 144 products, with stride 2 there are 81 ([`scheme`]). The filters are transformed
//! in f64 when the layer is packed.
//!
//! An item is a block of output patches: it transforms its input into thread-local scratch, and per panel of output
//! channels runs the products of all positions and transforms their results, so that nothing but the layer's input and
//! output leaves the core's cache.

pub mod scheme;

use super::epilogue::{Epilogue, Region};
use super::memory::{Block, Map};
use super::micro::{MAX_ROWS, Micros, Tile, max_rows};
use super::pack::{Panel, panels, tiles};
use super::simd::{Kernel, Simd};
use super::work::{Context, Scratch, ScratchSize, Work};
use scheme::{MAX, Scheme};
use std::marker::PhantomData;

/// Values between the matrices of two positions, so that they do not fall into the same cache sets.
const GAP: usize = 16;

/// `G g G^T` of a row-major 3x3 filter, `[DISTINCT][DISTINCT]`.
fn transform_filter(matrix: &[[f64; 3]], g: &[f64; 9], out: &mut [f64]) {
    let mut half = [[0.0; 3]; MAX];
    for (half, row) in half.iter_mut().zip(matrix) {
        *half = std::array::from_fn(|j| row[0] * g[j] + row[1] * g[3 + j] + row[2] * g[6 + j]);
    }
    for (out, half) in out.chunks_exact_mut(matrix.len()).zip(&half) {
        for (out, row) in out.iter_mut().zip(matrix) {
            *out = half[0] * row[0] + half[1] * row[1] + half[2] * row[2];
        }
    }
}

/// How the work is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Output patches a block.
    pub patches: usize,
    /// Ranges of panels that separate items compute.
    pub ranges: usize,
}

/// A 3x3 convolution with one pixel of padding by scheme `W`, packed for instruction set `S`.
pub struct Winograd<S, W> {
    simd: S,
    src: Map,
    columns: Vec<Column>,
    weights: Block,
    bias: Block,
    zeros: Block,
    epilogue: Epilogue,
    cut: Cut,
    micro: Micros,
    /// Positions of the transformed patch and their weights, those of the same weights next to each other.
    products: Vec<(usize, usize)>,
    scheme: PhantomData<W>,
}

/// A panel, and where its weights and bias begin.
struct Column {
    panel: Panel,
    weights: usize,
    bias: usize,
}

impl<S: Simd, W: Scheme> Winograd<S, W> {
    const POSITIONS: usize = W::POINTS * W::POINTS;

    /// Transforms and packs `weight`, `[cout][3][3][cin]`, and `bias`, `[cout]`. `cin` must fill whole vectors.
    pub fn new(simd: S, src: Map, weight: &[f32], bias: &[f32], epilogue: Epilogue, cut: Cut) -> Self {
        let (cin, cout) = (src.c, bias.len());
        assert_eq!(weight.len(), cout * 9 * cin, "weights of a 3x3 convolution");
        assert_eq!(cin % S::LANES, 0, "input channels fill whole vectors");
        let matrix = W::filter();
        let distinct = W::DISTINCT * W::DISTINCT;
        let (mut columns, mut len, mut bias_len) = (Vec::new(), 0, 0);
        for panel in panels::<S>(cout) {
            columns.push(Column { panel, weights: len, bias: bias_len });
            len += distinct * cin * panel.vectors * S::LANES;
            bias_len += panel.vectors * S::LANES;
        }
        let (mut weights, mut packed_bias) = (Block::zeroed(len), Block::zeroed(bias_len));
        let mut transformed = vec![0.0; distinct];
        for column in &columns {
            let width = column.panel.vectors * S::LANES;
            for k in 0..cin {
                for j in 0..column.panel.c {
                    let out = column.panel.c0 + j;
                    packed_bias[column.bias + j] = bias[out];
                    let g = std::array::from_fn(|tap| f64::from(weight[(out * 9 + tap) * cin + k]));
                    transform_filter(&matrix, &g, &mut transformed);
                    for (u, value) in transformed.iter().enumerate() {
                        weights[column.weights + (u * cin + k) * width + j] = *value as f32;
                    }
                }
            }
        }
        let widest = columns.iter().map(|c| c.panel.vectors).max().unwrap_or(0);
        let weight_of = |p: usize| W::weight_of(p / W::POINTS) * W::DISTINCT + W::weight_of(p % W::POINTS);
        let mut products: Vec<_> = (0..Self::POSITIONS).map(|p| (p, weight_of(p))).collect();
        products.sort_by_key(|&(_, weight)| weight);
        Winograd {
            simd,
            src,
            columns,
            weights,
            bias: packed_bias,
            zeros: Block::zeroed(cin),
            epilogue,
            cut,
            micro: Micros::new(simd, widest),
            products,
            scheme: PhantomData,
        }
    }

    /// Rows and columns of patches.
    fn patches(&self) -> (usize, usize) {
        (self.epilogue.dst.h.div_ceil(W::OUT), self.epilogue.dst.w.div_ceil(W::OUT))
    }

    fn blocks(&self) -> usize {
        let (rows, columns) = self.patches();
        (rows * columns).div_ceil(self.cut.patches)
    }

    /// Patches of the largest block.
    fn block_patches(&self) -> usize {
        let (rows, columns) = self.patches();
        (rows * columns).div_ceil(self.blocks())
    }

    fn widest(&self) -> usize {
        self.columns.iter().map(|c| c.panel.vectors).max().unwrap_or(0) * S::LANES
    }
}

/// `B^T d B` of the patches `first .. first + count` for all channels: `out[position * step + patch * cin + channel]`.
struct Input<'a, S, W> {
    conv: &'a Winograd<S, W>,
    base: *const f32,
    first: usize,
    count: usize,
    step: usize,
    out: *mut f32,
}

impl<T: Simd, W: Scheme> Kernel for Input<'_, T, W> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let src = &self.conv.src;
        let (_, across) = self.conv.patches();
        let reach = W::OUT * W::STRIDE;
        for i in 0..self.count {
            let (py, px) = ((self.first + i) / across, (self.first + i) % across);
            // Pixel (row, column) of the patch, or the page of zeros outside the map.
            let mut pixels = [self.conv.zeros.as_ptr(); MAX * MAX];
            for row in 0..W::WINDOW {
                let y = (py * reach + row).wrapping_sub(1);
                for column in 0..W::WINDOW {
                    let x = (px * reach + column).wrapping_sub(1);
                    if y < src.h && x < src.w {
                        // SAFETY: the pixel lies inside the map.
                        pixels[row * MAX + column] =
                            unsafe { self.base.add(src.offset + (y * src.w + x) * src.pitch) };
                    }
                }
            }
            for c in (0..src.c).step_by(S::LANES) {
                // SAFETY: channels c .. c + LANES of a pixel (or of the zeros) are readable; `out` has `src.c` values
                // a patch and position.
                unsafe {
                    let mut half = [[s.splat(0.0); MAX]; MAX];
                    for column in 0..W::WINDOW {
                        let mut d = [s.splat(0.0); MAX];
                        for (row, d) in d.iter_mut().enumerate().take(W::WINDOW) {
                            *d = s.load(pixels[row * MAX + column].add(c));
                        }
                        let t = W::input(s, &d);
                        for (half, t) in half.iter_mut().zip(t).take(W::POINTS) {
                            half[column] = t;
                        }
                    }
                    let out = self.out.add(i * src.c + c);
                    for (row, half) in half.iter().enumerate().take(W::POINTS) {
                        let t = W::input(s, half);
                        for (column, t) in t.iter().enumerate().take(W::POINTS) {
                            s.store(out.add((row * W::POINTS + column) * self.step), *t);
                        }
                    }
                }
            }
        }
    }
}

/// `A^T m A`, bias, epilogue of the patches `first .. first + count` for one panel.
struct Output<'a, S, W> {
    conv: &'a Winograd<S, W>,
    column: &'a Column,
    base: *mut f32,
    first: usize,
    count: usize,
    step: usize,
    products: *const f32,
    /// A patch of results, `[OUT * OUT][panel width]`.
    patch: *mut f32,
}

impl<T: Simd, W: Scheme> Kernel for Output<'_, T, W> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let dst = &self.conv.epilogue.dst;
        let (_, across) = self.conv.patches();
        let Panel { c0, c, vectors } = self.column.panel;
        let width = vectors * S::LANES;
        for i in 0..self.count {
            let (py, px) = ((self.first + i) / across, (self.first + i) % across);
            for v in 0..vectors {
                // SAFETY: products hold `width` values a patch and position, the patch OUT * OUT rows of them.
                unsafe {
                    let bias = s.load(self.conv.bias.as_ptr().add(self.column.bias + v * S::LANES));
                    let products = self.products.add(i * width + v * S::LANES);
                    let mut half = [[s.splat(0.0); MAX]; MAX];
                    for column in 0..W::POINTS {
                        let mut m = [s.splat(0.0); MAX];
                        for (row, m) in m.iter_mut().enumerate().take(W::POINTS) {
                            *m = s.load(products.add((row * W::POINTS + column) * self.step));
                        }
                        let t = W::output(s, &m);
                        for (half, t) in half.iter_mut().zip(t).take(W::OUT) {
                            half[column] = t;
                        }
                    }
                    for (row, half) in half.iter().enumerate().take(W::OUT) {
                        let t = W::output(s, half);
                        for (column, t) in t.iter().enumerate().take(W::OUT) {
                            let at = (row * W::OUT + column) * width + v * S::LANES;
                            s.store(self.patch.add(at), s.add(*t, bias));
                        }
                    }
                }
            }
            for row in 0..W::OUT.min(dst.h - py * W::OUT) {
                // SAFETY: the pixels lie inside the output; contract of `run`.
                unsafe {
                    let region = Region {
                        first: (py * W::OUT + row) * dst.w + px * W::OUT,
                        rows: W::OUT.min(dst.w - px * W::OUT),
                        c: c0,
                        n: c,
                        tile: self.patch.add(row * W::OUT * width),
                        pitch: width,
                    };
                    self.conv.epilogue.apply(s, self.base, region);
                }
            }
        }
    }
}

impl<S: Simd, W: Scheme> Work for Winograd<S, W> {
    fn items(&self, _: &Context<'_>) -> usize {
        self.blocks() * self.cut.ranges
    }

    fn scratch(&self) -> ScratchSize {
        let (patches, width) = (self.block_patches(), self.widest());
        let values = Self::POSITIONS * (patches * (self.src.c + width) + 2 * GAP) + W::OUT * W::OUT * width;
        ScratchSize { values, rows: 0 }
    }

    unsafe fn run(&self, item: usize, context: &Context<'_>, scratch: &mut Scratch) {
        let (block, range) = (item / self.cut.ranges, item % self.cut.ranges);
        let (rows, columns) = self.patches();
        let (patches, blocks) = (rows * columns, self.blocks());
        let (first, end) = (patches * block / blocks, patches * (block + 1) / blocks);
        let count = end - first;
        let cin = self.src.c;
        let input_step = count * cin + GAP;
        let input = scratch.values.as_mut_ptr();
        self.simd.vectorize(Input {
            conv: self,
            base: context.base,
            first,
            count,
            step: input_step,
            out: input,
        });
        let n = self.columns.len();
        for column in &self.columns[n * range / self.cut.ranges..n * (range + 1) / self.cut.ranges] {
            let vectors = column.panel.vectors;
            let width = vectors * S::LANES;
            let step = count * width + GAP;
            // SAFETY: the scratch holds inputs, products and one patch, see `scratch`.
            let (products, patch) = unsafe {
                let products = input.add(Self::POSITIONS * input_step);
                (products, products.add(Self::POSITIONS * step))
            };
            for &(position, weight) in &self.products {
                // SAFETY: inside the scratch and the packed weights.
                let (input, products, weights) = unsafe {
                    (
                        input.add(position * input_step),
                        products.add(position * step),
                        self.weights.as_ptr().add(column.weights + weight * cin * width),
                    )
                };
                tiles(count, max_rows::<S>(vectors), |first, height| {
                    // SAFETY: row first + r of this position's inputs and products; weights hold `cin` rows.
                    unsafe {
                        let rows: [*const f32; MAX_ROWS] = std::array::from_fn(|r| {
                            input.add((first + r.min(height - 1)) * cin).cast_const()
                        });
                        self.micro.get(height, vectors)(&Tile {
                            rows: rows.as_ptr(),
                            shift: 0,
                            segments: 1,
                            depth: cin,
                            weights,
                            init: std::ptr::null(),
                            out: products.add(first * width),
                            pitch: width,
                        });
                    }
                });
            }
            self.simd.vectorize(Output {
                conv: self,
                column,
                base: context.base,
                first,
                count,
                step,
                products,
                patch,
            });
        }
    }
}
