//! Layer norm over the channels of each pixel.

use crate::backend::cpu::memory::{Block, Map};
use crate::backend::cpu::phase::{Context, Scratch, Work};
use crate::backend::cpu::prepare::Builder;
use crate::backend::cpu::simd::{Kernel, Simd};
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

/// One pixel.
struct Normalise<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    eps: f32,
}

impl Kernel for Normalise<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Normalise { x, y, gamma, beta, eps } = self;
        let count = x.len() as f32;
        let (vectors, rest) = x.split_at(x.len() / S::LANES * S::LANES);
        let vectors = vectors.chunks_exact(S::LANES);
        let mut sum = s.splat(0.0);
        for x in vectors.clone() {
            sum = s.add(sum, s.load_slice(x));
        }
        let mut tail = 0.0;
        for x in rest {
            tail += x;
        }
        let mean = (s.reduce_add(sum) + tail) / count;
        let mut squares = s.splat(0.0);
        for x in vectors {
            let d = s.sub(s.load_slice(x), s.splat(mean));
            squares = s.mul_add(d, d, squares);
        }
        let mut tail = 0.0;
        for x in rest {
            tail += (x - mean) * (x - mean);
        }
        let scale = 1.0 / ((s.reduce_add(squares) + tail) / count + eps).sqrt();
        let at = x.len() - rest.len();
        let constants = gamma.chunks_exact(S::LANES).zip(beta.chunks_exact(S::LANES));
        for ((y, x), (gamma, beta)) in
            y.chunks_exact_mut(S::LANES).zip(x.chunks_exact(S::LANES)).zip(constants)
        {
            let d = s.mul(s.sub(s.load_slice(x), s.splat(mean)), s.splat(scale));
            s.store_slice(y, s.mul_add(d, s.load_slice(gamma), s.load_slice(beta)));
        }
        for (((y, x), gamma), beta) in y[at..].iter_mut().zip(rest).zip(&gamma[at..]).zip(&beta[at..]) {
            *y = (x - mean) * scale * gamma + beta;
        }
    }
}

impl<S: Simd> Work for LayerNorm<S> {
    unsafe fn items(&self, _: &Context<'_>) -> usize {
        self.src.pixels().div_ceil(NORM_PIXELS)
    }

    unsafe fn run(&self, item: usize, context: &Context<'_>, _: &mut Scratch) {
        let pixels = item * NORM_PIXELS..((item + 1) * NORM_PIXELS).min(self.src.pixels());
        let (gamma, beta, eps) = (&self.gamma, &self.beta, self.eps);
        for pixel in pixels {
            // SAFETY: the arena of `run`'s contract; only this item writes these pixels, and the input is complete.
            let (x, y) =
                unsafe { (self.src.pixel(context.base, pixel), self.dst.pixel_mut(context.base, pixel)) };
            self.simd.vectorize(Normalise { x, y, gamma, beta, eps });
        }
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
    let simd = builder.simd.f32();
    let (src, dst) = (builder.map(plan, src), builder.map(plan, dst));
    let (gamma, beta) =
        (Block::from_slice(&builder.take(plan, gamma)), Block::from_slice(&builder.take(plan, beta)));
    builder.push(step, "layer norm", LayerNorm { simd, src, dst, gamma, beta, eps });
}
