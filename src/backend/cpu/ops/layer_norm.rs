//! Layer norm over the channels of each pixel.

use crate::backend::cpu::memory::{Block, Map};
use crate::backend::cpu::prepare::Builder;
use crate::backend::cpu::simd::{Kernel, Simd};
use crate::backend::cpu::work::{Context, Scratch, Work};
use crate::plan::{Plan, TensorId, View};

/// Pixels an item of [`LayerNorm`].
const NORM_PIXELS: usize = 32;

/// Layer norm over the channels of each pixel.
pub struct LayerNorm<S> {
    /// Token.
    pub simd: S,
    /// Input.
    pub src: Map,
    /// Output.
    pub dst: Map,
    /// Gains.
    pub gamma: Block,
    /// Offsets.
    pub beta: Block,
    /// Added to the variance.
    pub eps: f32,
}

struct Normalise<'a, T> {
    norm: &'a LayerNorm<T>,
    base: *mut f32,
    pixels: std::ops::Range<usize>,
}

impl<T: Simd> Kernel for Normalise<'_, T> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let LayerNorm { src, dst, gamma, beta, eps, .. } = self.norm;
        let whole = src.c / S::LANES * S::LANES;
        for pixel in self.pixels {
            // SAFETY: pixels and channels lie inside both maps.
            unsafe {
                let x = self.base.add(src.offset + pixel * src.pitch).cast_const();
                let y = self.base.add(dst.offset + pixel * dst.pitch);
                let mut sum = s.splat(0.0);
                let mut tail = 0.0;
                for c in (0..whole).step_by(S::LANES) {
                    sum = s.add(sum, s.load(x.add(c)));
                }
                for c in whole..src.c {
                    tail += *x.add(c);
                }
                let mean = (s.reduce_add(sum) + tail) / src.c as f32;
                let mut squares = s.splat(0.0);
                let mut tail = 0.0;
                for c in (0..whole).step_by(S::LANES) {
                    let d = s.sub(s.load(x.add(c)), s.splat(mean));
                    squares = s.mul_add(d, d, squares);
                }
                for c in whole..src.c {
                    tail += (*x.add(c) - mean) * (*x.add(c) - mean);
                }
                let scale = 1.0 / ((s.reduce_add(squares) + tail) / src.c as f32 + eps).sqrt();
                for c in (0..whole).step_by(S::LANES) {
                    let d = s.mul(s.sub(s.load(x.add(c)), s.splat(mean)), s.splat(scale));
                    s.store(
                        y.add(c),
                        s.mul_add(d, s.load(gamma.as_ptr().add(c)), s.load(beta.as_ptr().add(c))),
                    );
                }
                for c in whole..src.c {
                    *y.add(c) = (*x.add(c) - mean) * scale * gamma[c] + beta[c];
                }
            }
        }
    }
}

impl<S: Simd> Work for LayerNorm<S> {
    unsafe fn items(&self, _: &Context<'_>) -> usize {
        self.src.pixels().div_ceil(NORM_PIXELS)
    }

    unsafe fn run(&self, item: usize, context: &Context<'_>, _: &mut Scratch) {
        let pixels = item * NORM_PIXELS..((item + 1) * NORM_PIXELS).min(self.src.pixels());
        self.simd.vectorize(Normalise { norm: self, base: context.base, pixels });
    }
}

/// Adds the step's phase.
pub(in crate::backend::cpu) fn prepare<S: Simd>(
    builder: &mut Builder<'_, S>,
    plan: &mut Plan,
    step: usize,
    (src, dst): (View, View),
    (gamma, beta): (TensorId, TensorId),
    eps: f32,
) {
    let simd = builder.simd;
    let (src, dst) = (builder.map(plan, src), builder.map(plan, dst));
    let (gamma, beta) =
        (Block::from_slice(&builder.take(plan, gamma)), Block::from_slice(&builder.take(plan, beta)));
    builder.push(step, "layer norm", LayerNorm { simd, src, dst, gamma, beta, eps });
}
