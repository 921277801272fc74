//! 3x3 convolutions of stride 1 by Winograd's minimal filtering F(4x4, 3x3): 36 products where 144 were.
//!
//! With `d` a 6x6 patch of the input, `g` the 3x3 filter and `y` a 4x4 patch of the output (Lavin and Gray,
//! arXiv 1509.09308),
//!
//! ```text
//! y = A^T [ (G g G^T) * (B^T d B) ] A
//! ```
//!
//! where `*` is, for each of the 36 positions, a matrix product over channels. Interpolation points are
//! `0, +-1/sqrt(2), +-sqrt(2), inf`: rounding errors are smaller than with the usual `0, +-1, +-2, inf`, at the same
//! cost. The filters are transformed in f64 when the layer is packed.
//!
//! An item is a block of output patches: it transforms its input into thread-local scratch, and per panel of output
//! channels runs the 36 products and transforms their results, so that nothing but the layer's input and output
//! leaves the core's cache.

use super::epilogue::Epilogue;
use super::memory::{Block, Map};
use super::micro::{MAX_ROWS, Micros, Tile, max_rows};
use super::pack::{Panel, panels, tiles};
use super::simd::{Kernel, Simd};
use super::work::{Context, Scratch, ScratchSize, Work};

/// Output patch edge.
const M: usize = 4;
/// Input patch edge.
const N: usize = 6;
/// Positions of the transformed patch.
const POSITIONS: usize = N * N;
/// `1 / sqrt(2)` and `sqrt(2)`, the interpolation points.
const P: f64 = std::f64::consts::FRAC_1_SQRT_2;
const Q: f64 = std::f64::consts::SQRT_2;
/// Values between the matrices of two positions, so that they do not fall into the same cache sets.
const GAP: usize = 16;

/// `G`: `[1, p, p^2] / prod over the other finite points (p - p')`, and `[0, 0, 1]` for infinity.
fn filter_matrix() -> [[f64; 3]; N] {
    let points = [0.0, P, -P, Q, -Q];
    let mut g = [[0.0; 3]; N];
    for (i, &p) in points.iter().enumerate() {
        let scale: f64 = points.iter().enumerate().filter(|&(j, _)| j != i).map(|(_, &q)| p - q).product();
        g[i] = [1.0 / scale, p / scale, p * p / scale];
    }
    g[N - 1] = [0.0, 0.0, 1.0];
    g
}

/// `G g G^T` of a row-major 3x3 filter.
fn transform_filter(matrix: &[[f64; 3]; N], g: &[f64; 9]) -> [f64; POSITIONS] {
    let mut half = [[0.0; 3]; N];
    for i in 0..N {
        for j in 0..3 {
            half[i][j] = (0..3).map(|k| matrix[i][k] * g[k * 3 + j]).sum();
        }
    }
    std::array::from_fn(|at| (0..3).map(|k| half[at / N][k] * matrix[at % N][k]).sum())
}

/// One column of `B^T`.
#[inline(always)]
fn transform_input<S: Simd>(s: S, d: [S::V; N]) -> [S::V; N] {
    let (half, two, p, q) = (s.splat(0.5), s.splat(2.0), s.splat(P as f32), s.splat(Q as f32));
    let five_halves = s.splat(2.5);
    // (x^2 - 1/2)(x^2 - 2) = x^4 - 5/2 x^2 + 1, and the same times x for infinity.
    let first = s.neg_mul_add(five_halves, d[2], s.add(d[0], d[4]));
    let last = s.neg_mul_add(five_halves, d[3], s.add(d[1], d[5]));
    let (even, odd) = (s.neg_mul_add(two, d[2], d[4]), s.neg_mul_add(two, d[1], d[3]));
    let (even2, odd2) = (s.neg_mul_add(half, d[2], d[4]), s.neg_mul_add(half, d[1], d[3]));
    [
        first,
        s.mul_add(p, odd, even),
        s.neg_mul_add(p, odd, even),
        s.mul_add(q, odd2, even2),
        s.neg_mul_add(q, odd2, even2),
        last,
    ]
}

/// One column of `A^T`: row i holds the i-th powers of the points; infinity counts for the last.
#[inline(always)]
fn transform_output<S: Simd>(s: S, m: [S::V; N]) -> [S::V; M] {
    let (p, q) = (s.splat(P as f32), s.splat(Q as f32));
    let (half, two) = (s.splat(0.5), s.splat(2.0));
    let (p3, q3) = (s.splat((P * P * P) as f32), s.splat((Q * Q * Q) as f32));
    let (sum, diff) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
    let (sum2, diff2) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
    [
        s.add(m[0], s.add(sum, sum2)),
        s.mul_add(p, diff, s.mul(q, diff2)),
        s.mul_add(half, sum, s.mul(two, sum2)),
        s.mul_add(p3, diff, s.mul_add(q3, diff2, m[5])),
    ]
}

/// How the work is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Output patches a block.
    pub patches: usize,
    /// Ranges of panels that separate items compute.
    pub ranges: usize,
}

/// A 3x3 convolution of stride 1, pad 1, packed for instruction set `S`.
pub struct Winograd<S> {
    simd: S,
    src: Map,
    columns: Vec<Column>,
    weights: Block,
    bias: Block,
    zeros: Block,
    epilogue: Epilogue,
    cut: Cut,
    micro: Micros,
}

struct Column {
    panel: Panel,
    weights: usize,
    bias: usize,
}

impl<S: Simd> Winograd<S> {
    /// Transforms and packs `weight`, `[cout][3][3][cin]`, and `bias`, `[cout]`. `cin` must fill whole vectors.
    pub fn new(simd: S, src: Map, weight: &[f32], bias: &[f32], epilogue: Epilogue, cut: Cut) -> Winograd<S> {
        let (cin, cout) = (src.c, bias.len());
        assert_eq!(weight.len(), cout * 9 * cin, "weights of a 3x3 convolution");
        assert_eq!(cin % S::LANES, 0, "input channels fill whole vectors");
        let matrix = filter_matrix();
        let (mut columns, mut len, mut bias_len) = (Vec::new(), 0, 0);
        for panel in panels::<S>(cout) {
            columns.push(Column { panel, weights: len, bias: bias_len });
            len += POSITIONS * cin * panel.vectors * S::LANES;
            bias_len += panel.vectors * S::LANES;
        }
        let (mut weights, mut packed_bias) = (Block::zeroed(len), Block::zeroed(bias_len));
        for column in &columns {
            let width = column.panel.vectors * S::LANES;
            for j in 0..column.panel.c {
                let out = column.panel.c0 + j;
                packed_bias[column.bias + j] = bias[out];
                for k in 0..cin {
                    let g = std::array::from_fn(|tap| weight[(out * 9 + tap) * cin + k] as f64);
                    for (position, u) in transform_filter(&matrix, &g).into_iter().enumerate() {
                        weights[column.weights + (position * cin + k) * width + j] = u as f32;
                    }
                }
            }
        }
        let widest = columns.iter().map(|c| c.panel.vectors).max().unwrap_or(0);
        let micro = Micros::new(simd, widest);
        let zeros = Block::zeroed(cin);
        Winograd { simd, src, columns, weights, bias: packed_bias, zeros, epilogue, cut, micro }
    }

    fn patches(&self) -> (usize, usize) {
        (self.epilogue.dst.h.div_ceil(M), self.epilogue.dst.w.div_ceil(M))
    }

    /// Patches of the largest block.
    fn block_patches(&self) -> usize {
        let (rows, columns) = self.patches();
        (rows * columns).div_ceil((rows * columns).div_ceil(self.cut.patches))
    }

    fn widest(&self) -> usize {
        self.columns.iter().map(|c| c.panel.vectors).max().unwrap_or(0) * S::LANES
    }
}

/// `B^T d B` of the patches `first .. first + count` for all channels: `out[position * step + patch * cin + channel]`.
struct Input<'a, S> {
    conv: &'a Winograd<S>,
    base: *const f32,
    first: usize,
    count: usize,
    step: usize,
    out: *mut f32,
}

impl<T: Simd> Kernel for Input<'_, T> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let src = &self.conv.src;
        let (_, across) = self.conv.patches();
        for i in 0..self.count {
            let (py, px) = ((self.first + i) / across, (self.first + i) % across);
            // Pixel (row, column) of the patch, or the page of zeros outside the map.
            let mut pixels = [self.conv.zeros.as_ptr(); POSITIONS];
            for row in 0..N {
                let y = (py * M + row).wrapping_sub(1);
                for column in 0..N {
                    let x = (px * M + column).wrapping_sub(1);
                    if y < src.h && x < src.w {
                        // SAFETY: the pixel lies inside the map.
                        pixels[row * N + column] =
                            unsafe { self.base.add(src.offset + (y * src.w + x) * src.pitch) };
                    }
                }
            }
            let mut c = 0;
            while c < src.c {
                // SAFETY: channels c .. c + LANES of a pixel (or of the zeros) are readable; `out` has `src.c` values
                // a patch and position.
                unsafe {
                    let mut half = [[s.splat(0.0); N]; N];
                    for column in 0..N {
                        let mut d = [s.splat(0.0); N];
                        for row in 0..N {
                            d[row] = s.load(pixels[row * N + column].add(c));
                        }
                        let t = transform_input(s, d);
                        for row in 0..N {
                            half[row][column] = t[row];
                        }
                    }
                    let out = self.out.add(i * src.c + c);
                    for row in 0..N {
                        let t = transform_input(s, half[row]);
                        for column in 0..N {
                            s.store(out.add((row * N + column) * self.step), t[column]);
                        }
                    }
                }
                c += S::LANES;
            }
        }
    }
}

/// `A^T m A`, bias, epilogue of the patches `first .. first + count` for one panel.
struct Output<'a, S> {
    conv: &'a Winograd<S>,
    column: &'a Column,
    base: *mut f32,
    first: usize,
    count: usize,
    step: usize,
    products: *const f32,
    /// A patch of results, `[M * M][panel width]`.
    patch: *mut f32,
}

impl<T: Simd> Kernel for Output<'_, T> {
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
                // SAFETY: products hold `width` values a patch and position, the patch M * M rows of them.
                unsafe {
                    let bias = s.load(self.conv.bias.as_ptr().add(self.column.bias + v * S::LANES));
                    let products = self.products.add(i * width + v * S::LANES);
                    let mut half = [[s.splat(0.0); N]; M];
                    for column in 0..N {
                        let mut m = [s.splat(0.0); N];
                        for row in 0..N {
                            m[row] = s.load(products.add((row * N + column) * self.step));
                        }
                        let t = transform_output(s, m);
                        for row in 0..M {
                            half[row][column] = t[row];
                        }
                    }
                    for row in 0..M {
                        let t = transform_output(s, half[row]);
                        for column in 0..M {
                            let at = (row * M + column) * width + v * S::LANES;
                            s.store(self.patch.add(at), s.add(t[column], bias));
                        }
                    }
                }
            }
            for row in 0..M.min(dst.h - py * M) {
                let pixel = (py * M + row) * dst.w + px * M;
                // SAFETY: the pixels lie inside the output; contract of `run`.
                unsafe {
                    let tile = self.patch.add(row * M * width);
                    let columns = M.min(dst.w - px * M);
                    self.conv.epilogue.apply(s, self.base, pixel, columns, c0, c, tile, width);
                }
            }
        }
    }
}

impl<S: Simd> Work for Winograd<S> {
    fn items(&self, _: &Context<'_>) -> usize {
        let (rows, columns) = self.patches();
        (rows * columns).div_ceil(self.cut.patches) * self.cut.ranges
    }

    fn scratch(&self) -> ScratchSize {
        let patches = self.block_patches();
        let values = POSITIONS * (patches * self.src.c + GAP)
            + POSITIONS * (patches * self.widest() + GAP)
            + M * M * self.widest();
        ScratchSize { values, rows: MAX_ROWS }
    }

    unsafe fn run(&self, item: usize, context: &Context<'_>, scratch: &mut Scratch) {
        let (block, range) = (item / self.cut.ranges, item % self.cut.ranges);
        let (rows, columns) = self.patches();
        let patches = rows * columns;
        let blocks = patches.div_ceil(self.cut.patches);
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
                let products = input.add(POSITIONS * input_step);
                (products, products.add(POSITIONS * step))
            };
            for position in 0..POSITIONS {
                tiles(count, max_rows::<S>(vectors), |first, height| {
                    for (r, row) in scratch.rows[..height].iter_mut().enumerate() {
                        // SAFETY: patch first + r of this position's inputs.
                        *row = unsafe { input.add(position * input_step + (first + r) * cin) };
                    }
                    let tile = Tile {
                        rows: scratch.rows.as_ptr(),
                        shift: 0,
                        segments: 1,
                        depth: cin,
                        // SAFETY: packed for every column and position.
                        weights: unsafe {
                            self.weights.as_ptr().add(column.weights + position * cin * width)
                        },
                        init: std::ptr::null(),
                        // SAFETY: room for `count` rows a position.
                        out: unsafe { products.add(position * step + first * width) },
                        pitch: width,
                    };
                    let micro = self.micro.get(height, vectors);
                    // SAFETY: rows and weights hold `cin` values.
                    unsafe { micro(&tile) };
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
