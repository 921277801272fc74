//! Multi-head self-attention over the pixels of a small map: `softmax(q k^T) v`, head by head.
//!
//! The first phase packs keys and values as the weights of two matrix products. The second computes, for blocks of queries,
//! the first product, the softmax and the second product in thread-local scratch.

use crate::backend::cpu::math;
use crate::backend::cpu::memory::Map;
use crate::backend::cpu::microkernel::{MAX_ROWS, Microkernels, Tile, max_rows};
use crate::backend::cpu::pack::{Panel, panels, tiles};
use crate::backend::cpu::phase::{Context, Scratch, ScratchSize, Work};
use crate::backend::cpu::prepare::Builder;
use crate::backend::cpu::simd::{Kernel, Simd};
use crate::plan::{Plan, View};

/// Queries an item.
const QUERIES: usize = 24;

/// Extents and memory that both phases share.
#[derive(Clone)]
pub struct Layout {
    /// `[q, k, v]`.
    pub qkv: Map,
    /// Output.
    pub dst: Map,
    /// Heads.
    pub heads: usize,
    /// Arena element of the packed keys and values, [`Layout::packed_len`] values.
    pub packed: usize,
}

impl Layout {
    fn head_dim(&self) -> usize {
        self.dst.c / self.heads
    }

    /// Values of one head's packed keys, then of its packed values.
    fn head_lens<S: Simd>(&self) -> (usize, usize) {
        let (t, d) = (self.qkv.pixels(), self.head_dim());
        (d * t.next_multiple_of(S::LANES), t * d.next_multiple_of(S::LANES))
    }

    /// Values that the packed keys and values of all heads take.
    pub fn packed_len<S: Simd>(&self) -> usize {
        let (k, v) = self.head_lens::<S>();
        self.heads * (k + v)
    }
}

/// Packs keys and values; an item is a head.
pub struct Pack<S> {
    /// Token.
    pub simd: S,
    /// Shared extents.
    pub layout: Layout,
}

impl<S: Simd> Work for Pack<S> {
    unsafe fn items(&self, _: &Context<'_>) -> usize {
        self.layout.heads
    }

    unsafe fn run(&self, item: usize, context: &Context<'_>, _: &mut Scratch) {
        let Layout { qkv, dst, .. } = self.layout;
        let (t, d) = (qkv.pixels(), self.layout.head_dim());
        let (k_len, v_len) = self.layout.head_lens::<S>();
        let (keys, values) = (qkv.channels(dst.c + item * d, d), qkv.channels(2 * dst.c + item * d, d));
        let start = self.layout.packed + item * (k_len + v_len);
        // SAFETY: the arena of `run`'s contract has room for every head's packed keys and values, and only this item writes
        // those of its head.
        let out = unsafe { std::slice::from_raw_parts_mut(context.base.add(start), k_len + v_len) };
        // SAFETY: the arena of `run`'s contract; the input is complete.
        let pixel = |map: &Map, pixel: usize| unsafe { map.pixel(context.base, pixel) };
        let (mut packed_keys, mut packed_values) = out.split_at_mut(k_len);
        for panel in panels::<S>(t) {
            let width = panel.vectors * S::LANES;
            let (out, rest) = packed_keys.split_at_mut(d * width);
            // For the lanes without a key.
            out.fill(0.0);
            for j in 0..panel.c {
                for (out, value) in out.chunks_exact_mut(width).zip(pixel(&keys, panel.c0 + j)) {
                    out[j] = *value;
                }
            }
            packed_keys = rest;
        }
        for panel in panels::<S>(d) {
            let width = panel.vectors * S::LANES;
            let (out, rest) = packed_values.split_at_mut(t * width);
            for (k, out) in out.chunks_exact_mut(width).enumerate() {
                let (out, padding) = out.split_at_mut(panel.c);
                out.copy_from_slice(&pixel(&values, k)[panel.c0..][..panel.c]);
                padding.fill(0.0);
            }
            packed_values = rest;
        }
    }
}

/// Computes the attention; an item is a block of queries of one head.
pub struct Attend<S> {
    simd: S,
    layout: Layout,
    keys: Vec<Panel>,
    channels: Vec<Panel>,
    microkernels: Microkernels,
}

impl<S: Simd> Attend<S> {
    /// Prepares for a layout.
    pub fn new(simd: S, layout: Layout) -> Attend<S> {
        let keys = panels::<S>(layout.qkv.pixels());
        let channels = panels::<S>(layout.head_dim());
        let widest = keys.iter().chain(&channels).map(|p| p.vectors).max().unwrap_or(0);
        Attend { simd, layout, keys, channels, microkernels: Microkernels::new(simd, widest) }
    }

    fn blocks(&self) -> usize {
        self.layout.qkv.pixels().div_ceil(QUERIES)
    }

    /// Values from a query's scores to the next.
    fn score_pitch(&self) -> usize {
        self.layout.qkv.pixels().next_multiple_of(S::LANES) + 16
    }

    fn out_pitch(&self) -> usize {
        self.layout.head_dim().next_multiple_of(S::LANES)
    }
}

/// `p = exp(x - max x)` over the first `n` values of a row, which is as long as whole vectors take. Returns `1 / sum p`. A NaN
/// among the values makes the result NaN.
struct Softmax<'a> {
    row: &'a mut [f32],
    n: usize,
}

impl Kernel for Softmax<'_> {
    type Output = f32;
    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> f32 {
        let Softmax { row, n } = self;
        row[n..].fill(f32::NEG_INFINITY);
        let mut max = s.splat(f32::NEG_INFINITY);
        for x in row.chunks_exact(S::LANES) {
            max = s.max(max, s.load_slice(x));
        }
        let max = s.splat(s.reduce_max(max));
        let (whole, last) = row.split_at_mut(n / S::LANES * S::LANES);
        let mut sum = s.splat(0.0);
        for x in whole.chunks_exact_mut(S::LANES) {
            let p = math::exp(s, s.sub(s.load_slice(x), max));
            sum = s.add(sum, p);
            s.store_slice(x, p);
        }
        let mut tail = 0.0;
        if !last.is_empty() {
            s.store_slice(last, math::exp(s, s.sub(s.load_slice(last), max)));
            tail = last[..n % S::LANES].iter().sum();
        }
        1.0 / (s.reduce_add(sum) + tail)
    }
}

impl<S: Simd> Work for Attend<S> {
    unsafe fn items(&self, _: &Context<'_>) -> usize {
        self.layout.heads * self.blocks()
    }

    fn scratch(&self) -> ScratchSize {
        ScratchSize { values: QUERIES * (self.score_pitch() + self.out_pitch()), rows: 0 }
    }

    unsafe fn run(&self, item: usize, context: &Context<'_>, scratch: &mut Scratch) {
        let Layout { qkv, dst, .. } = self.layout;
        let (t, d) = (qkv.pixels(), self.layout.head_dim());
        let (head, block) = (item / self.blocks(), item % self.blocks());
        let (q0, q1) = (t * block / self.blocks(), t * (block + 1) / self.blocks());
        let (k_len, v_len) = self.layout.head_lens::<S>();
        let (score_pitch, out_pitch) = (self.score_pitch(), self.out_pitch());
        let (scores, results) = scratch.values.split_at_mut(QUERIES * score_pitch);
        let product = |panels: &[Panel],
                       mut weights: *const f32,
                       depth: usize,
                       row: &dyn Fn(usize) -> *const f32,
                       out: *mut f32,
                       pitch: usize| {
            for panel in panels {
                tiles(q1 - q0, max_rows::<S>(panel.vectors), |first, height| {
                    let mut rows = [std::ptr::null(); MAX_ROWS];
                    for (r, p) in rows[..height].iter_mut().enumerate() {
                        *p = row(first + r);
                    }
                    // SAFETY: rows hold `depth` values; the packed region holds every panel; `out` is scratch for QUERIES
                    // rows of `pitch` values, which no panel exceeds.
                    unsafe {
                        self.microkernels.get(height, panel.vectors)(&Tile {
                            rows: rows.as_ptr(),
                            shift: 0,
                            segments: 1,
                            depth,
                            weights,
                            later: weights,
                            init: std::ptr::null(),
                            addends: std::ptr::null(),
                            out: out.add(first * pitch + panel.c0),
                            pitch,
                        });
                    }
                });
                // SAFETY: stays within the packed region.
                weights = unsafe { weights.add(depth * panel.vectors * S::LANES) };
            }
        };
        // SAFETY: the packed region, which the phase before filled, lies inside the arena.
        let packed = unsafe { context.base.add(self.layout.packed + head * (k_len + v_len)).cast_const() };
        let queries = qkv.channels(head * d, d);
        // SAFETY: the arena of `run`'s contract; the input is complete.
        let query = |r: usize| unsafe { queries.pixel(context.base, q0 + r) }.as_ptr();
        product(&self.keys, packed, d, &query, scores.as_mut_ptr(), score_pitch);
        let mut scale = [0.0; QUERIES];
        let vectors = t.next_multiple_of(S::LANES);
        for (row, scale) in scores.chunks_exact_mut(score_pitch).zip(&mut scale[..q1 - q0]) {
            *scale = self.simd.vectorize(Softmax { row: &mut row[..vectors], n: t });
        }
        let weights = |r: usize| scores[r * score_pitch..][..t].as_ptr();
        // SAFETY: the values lie behind the keys.
        let packed_values = unsafe { packed.add(k_len) };
        product(&self.channels, packed_values, t, &weights, results.as_mut_ptr(), out_pitch);
        let channels = dst.channels(head * d, d);
        for (r, (row, scale)) in results.chunks_exact(out_pitch).zip(&scale[..q1 - q0]).enumerate() {
            // SAFETY: the arena of `run`'s contract; only this item writes these channels of its queries.
            let out = unsafe { channels.pixel_mut(context.base, q0 + r) };
            for (out, value) in out.iter_mut().zip(row) {
                *out = value * scale;
            }
        }
    }
}

/// Adds the step's two phases.
pub(in crate::backend::cpu) fn prepare<S: Simd>(
    builder: &mut Builder<'_, S>,
    plan: &Plan,
    step: usize,
    (qkv, dst): (View, View),
    heads: usize,
) {
    let simd = builder.simd.f32();
    let mut layout = Layout { qkv: builder.map(plan, qkv), dst: builder.map(plan, dst), heads, packed: 0 };
    layout.packed = builder.reserve(layout.packed_len::<S>());
    builder.push(step, "pack", Pack { simd, layout: layout.clone() });
    builder.push(step, "attend", Attend::new(simd, layout));
}
