//! 3x3 convolutions by Winograd's minimal filtering: fewer products, more additions.
//!
//! With `d` a patch of the input, `g` the 3x3 filter and `y` a patch of the output,
//!
//! ```text
//! y = A^T [ (G g G^T) * (B^T d B) ] A
//! ```
//!
//! where `*` is a matrix product over channels for each position of the transformed patch. A patch of 4x4 outputs has 36
//! positions with stride 1 and 81 with stride 2, where the plain sum has 144 products; one of 5x5 has 49 and 121, where it has 225
//! ([`scheme`]). The filters are transformed
//! in f64 when the layer is packed. With bf16, transformed filters and inputs are rounded to bf16.
//!
//! An item is a block of output patches. It transforms its input into thread-local scratch. Then it computes the products of all
//! positions, for several panels of output channels at a time, and transforms them to the output. All of that but the layer's
//! input, output and weights stays in the core's cache.

pub mod scheme;
mod transform;

use super::epilogue::Epilogue;
use crate::backend::cpu::element::Element;
use crate::backend::cpu::memory::{Block, Map};
use crate::backend::cpu::microkernel::{MAX_ROWS, Microkernels, SHARES, Tile, max_rows, share};
use crate::backend::cpu::pack::{Panel, panels_for, place, tiles};
use crate::backend::cpu::phase::{Context, Scratch, ScratchSize, Work};
use crate::backend::cpu::simd::Simd;
use scheme::{MAX, Scheme};
use std::array::from_fn;
use std::marker::PhantomData;
use transform::{Input, Output};

/// Bytes between the matrices of two positions, so that they do not fall into the same cache sets.
const GAP: usize = 64;

/// Bytes of products that stay in a core's cache until they are transformed.
const PRODUCTS: usize = 1 << 20;

/// `G g G^T` of a row-major 3x3 filter, `[DISTINCT][DISTINCT]`.
fn transform_filter(matrix: &[[f64; 3]], g: &[f64; 9], out: &mut [f64]) {
    let mut half = [[0.0; 3]; MAX];
    for (half, row) in half.iter_mut().zip(matrix) {
        *half = from_fn(|j| row[0] * g[j] + row[1] * g[3 + j] + row[2] * g[6 + j]);
    }
    for (out, half) in out.chunks_exact_mut(matrix.len()).zip(&half) {
        for (out, row) in out.iter_mut().zip(matrix) {
            *out = half[0] * row[0] + half[1] * row[1] + half[2] * row[2];
        }
    }
}

/// The work partition: items are blocks of patches by ranges of panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Output patches a block.
    pub patches: usize,
    /// Ranges of panels.
    pub ranges: usize,
}

/// A 3x3 convolution with one pixel of padding by scheme `W` with elements `T`, packed for instruction set `S`.
pub struct Winograd<S, W, T> {
    simd: S,
    src: Map,
    columns: Vec<Column>,
    weights: Block,
    bias: Block,
    zeros: Block,
    epilogue: Epilogue,
    partition: Partition,
    microkernels: Microkernels<T>,
    /// Positions of the transformed patch and their weights. Positions that use the same weights follow each other.
    products: Vec<(usize, usize)>,
    /// Values from the weights of a position to the next.
    weights_step: usize,
    /// Channels of a group's input.
    group: usize,
    scheme: PhantomData<W>,
}

/// A panel, the first value of its weights of a position and of its bias, and the first input channel of its group.
struct Column {
    panel: Panel,
    weights: usize,
    bias: usize,
    shift: usize,
}

impl<S: Simd, W: Scheme, T: Element> Winograd<S, W, T> {
    const POSITIONS: usize = W::POINTS * W::POINTS;

    /// Transforms and packs `weight`, `[cout][3][3][cin / groups]`, and `bias`, `[cout]`.
    pub fn new(
        simd: S,
        src: Map,
        groups: usize,
        weight: &[f32],
        bias: &[f32],
        epilogue: Epilogue,
        partition: Partition,
    ) -> Self {
        let (cin, cout) = (src.c / groups, bias.len() / groups);
        assert_eq!(weight.len(), bias.len() * 9 * cin, "weights of a 3x3 convolution");
        let matrix = W::filter();
        let distinct = W::DISTINCT * W::DISTINCT;
        let depth = cin.next_multiple_of(T::GROUP);
        let (mut columns, mut len, mut bias_len) = (Vec::new(), 0, 0);
        for group in 0..groups {
            for panel in panels_for::<S>(cout, partition.ranges.div_ceil(groups)) {
                let panel = Panel { c0: group * cout + panel.c0, ..panel };
                columns.push(Column { panel, weights: len, bias: bias_len, shift: group * cin });
                len += depth * panel.vectors * S::LANES;
                bias_len += panel.vectors * S::LANES;
            }
        }
        let (mut weights, mut packed_bias) = (Block::zeroed_of::<T>(distinct * len), Block::zeroed(bias_len));
        let values = weights.cast_mut::<T>();
        let mut transformed = vec![0.0; distinct];
        for column in &columns {
            let width = column.panel.vectors * S::LANES;
            for k in 0..cin {
                for j in 0..column.panel.c {
                    let out = column.panel.c0 + j;
                    packed_bias[column.bias + j] = bias[out];
                    let g = from_fn(|tap| f64::from(weight[(out * 9 + tap) * cin + k]));
                    transform_filter(&matrix, &g, &mut transformed);
                    for (u, value) in transformed.iter().enumerate() {
                        values[u * len + column.weights + place::<T>(k, j, width)] = T::round(*value as f32);
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
            zeros: Block::zeroed(src.c + S::LANES),
            epilogue,
            partition,
            microkernels: Microkernels::new(simd, widest),
            products,
            weights_step: len,
            group: cin,
            scheme: PhantomData,
        }
    }

    /// Rows and columns of patches.
    fn patches(&self) -> (usize, usize) {
        (self.epilogue.dst.h.div_ceil(W::OUT), self.epilogue.dst.w.div_ceil(W::OUT))
    }

    fn blocks(&self) -> usize {
        let (rows, columns) = self.patches();
        (rows * columns).div_ceil(self.partition.patches)
    }

    /// Patches of the largest block.
    fn block_patches(&self) -> usize {
        let (rows, columns) = self.patches();
        (rows * columns).div_ceil(self.blocks())
    }

    /// Values from a transformed patch to the next.
    fn pitch(&self) -> usize {
        self.src.c.next_multiple_of(S::LANES)
    }

    /// Panels whose products of a position are computed before those of the next position: as many as an item has, while the
    /// products of all its positions take at most [`PRODUCTS`]. They read the position's input while it is in L1, and the
    /// packed weights in the order in which they lie in memory.
    fn together(&self) -> usize {
        let one = self.products(self.block_patches(), self.widest()) * size_of::<f32>();
        (PRODUCTS / one.max(1)).clamp(1, self.columns.len().div_ceil(self.partition.ranges))
    }

    fn widest(&self) -> usize {
        self.columns.iter().map(|c| c.panel.vectors).max().unwrap_or(0) * S::LANES
    }
}

impl<S: Simd, W: Scheme, T: Element> Winograd<S, W, T> {
    /// Values between the matrices of two positions: transformed inputs, and products.
    const GAPS: (usize, usize) = (GAP / size_of::<T>(), GAP / size_of::<f32>());

    /// f32 values that the transformed inputs of `count` patches take.
    fn inputs(&self, count: usize) -> usize {
        Self::POSITIONS * (count * self.pitch() + Self::GAPS.0) * size_of::<T>() / size_of::<f32>()
    }

    /// f32 values that the products of `count` patches take.
    fn products(&self, count: usize, width: usize) -> usize {
        Self::POSITIONS * (count * width + Self::GAPS.1)
    }
}

impl<S: Simd, W: Scheme, T: Element> Work for Winograd<S, W, T> {
    unsafe fn items(&self, _: &Context<'_>) -> usize {
        self.blocks() * self.partition.ranges
    }

    fn scratch(&self) -> ScratchSize {
        let (patches, width) = (self.block_patches(), self.widest());
        let values =
            self.inputs(patches) + self.together() * self.products(patches, width) + W::OUT * W::OUT * width;
        ScratchSize { values, rows: 0 }
    }

    unsafe fn run(&self, item: usize, context: &Context<'_>, scratch: &mut Scratch) {
        let (block, range) = (item / self.partition.ranges, item % self.partition.ranges);
        let (rows, columns) = self.patches();
        let (patches, blocks) = (rows * columns, self.blocks());
        let (first, end) = (patches * block / blocks, patches * (block + 1) / blocks);
        let count = end - first;
        let depth = self.group.next_multiple_of(T::GROUP);
        let pitch = self.pitch();
        let input_step = count * pitch + Self::GAPS.0;
        let values = scratch.values.as_mut_ptr();
        let input: *mut T = values.cast();
        self.simd.vectorize(Input {
            conv: self,
            base: context.base,
            first,
            count,
            step: input_step,
            out: input,
        });
        let n = self.columns.len();
        let columns =
            &self.columns[n * range / self.partition.ranges..n * (range + 1) / self.partition.ranges];
        let (together, room) = (self.together(), self.products(count, self.widest()));
        // SAFETY: the scratch holds inputs, then the products of so many panels, then a patch, see `scratch`.
        let room = |panel: usize| unsafe { values.add(self.inputs(count) + panel * room) };
        for columns in columns.chunks(together) {
            // SAFETY: inside the packed weights.
            let panel = |weight: usize, column: &Column| unsafe {
                self.weights.as_ptr().cast::<T>().add(weight * self.weights_step + column.weights)
            };
            for (order, &(position, weight)) in self.products.iter().enumerate() {
                // Tiles fetch the next panel's weights, then the next position's input. After the last come the next block's first.
                let (after_position, after) = self.products[(order + 1) % self.products.len()];
                let next_input = input.wrapping_add(after_position * input_step).cast_const();
                let mut fetched = 0;
                for (i, column) in columns.iter().enumerate() {
                    let vectors = column.panel.vectors;
                    let width = vectors * S::LANES;
                    // SAFETY: inside the scratch.
                    let (input, products) = unsafe {
                        (
                            input.add(position * input_step + column.shift),
                            room(i).add(position * (count * width + Self::GAPS.1)),
                        )
                    };
                    let weights = panel(weight, column);
                    let later =
                        columns.get(i + 1).map_or_else(|| panel(after, &columns[0]), |c| panel(weight, c));
                    let share = share::<S, T>(1, depth, vectors);
                    let mut tile = 0;
                    tiles(count, max_rows::<S>(vectors), |first, height| {
                        let later = if tile < SHARES {
                            later.wrapping_add(tile * share)
                        } else if fetched < count * pitch {
                            fetched += share;
                            next_input.wrapping_add(fetched - share)
                        } else {
                            weights
                        };
                        // SAFETY: row first + r of this position's inputs and products; weights hold `depth` rows.
                        unsafe {
                            let rows: [*const T; MAX_ROWS] =
                                from_fn(|r| input.add((first + r.min(height - 1)) * pitch).cast_const());
                            self.microkernels.get(height, vectors)(&Tile {
                                rows: rows.as_ptr(),
                                shift: 0,
                                segments: 1,
                                depth,
                                weights,
                                later,
                                init: std::ptr::null(),
                                addends: std::ptr::null(),
                                out: products.add(first * width),
                                pitch: width,
                            });
                        }
                        tile += 1;
                    });
                }
            }
            for (i, column) in columns.iter().enumerate() {
                self.simd.vectorize(Output {
                    conv: self,
                    column,
                    base: context.base,
                    first,
                    count,
                    step: count * column.panel.vectors * S::LANES + Self::GAPS.1,
                    products: room(i),
                    patch: room(together),
                });
            }
        }
    }
}
