//! Steps that touch each value a few times: layer norm, the pyramid of max pools.

use super::memory::{Block, Map};
use super::simd::{Kernel, Simd};
use super::work::{Context, Scratch, ScratchSize, Work};

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

/// Three max pools of the same window, one after the other.
pub struct PoolPyramid<S> {
    /// Token.
    pub simd: S,
    /// `c` channels.
    pub src: Map,
    /// `3 c` channels.
    pub dst: Map,
    /// Odd window.
    pub window: usize,
}

struct Pool<'a, T> {
    pool: &'a PoolPyramid<T>,
    base: *mut f32,
    c: usize,
    /// Two planes of `h * w` vectors.
    scratch: *mut f32,
}

impl<T: Simd> Kernel for Pool<'_, T> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let PoolPyramid { src, dst, window, .. } = self.pool;
        let (h, w, reach) = (src.h, src.w, window / 2);
        let n = (src.c - self.c).min(S::LANES);
        // SAFETY: the planes hold `h * w` vectors each; maps as in the other kernels, partial vectors partially.
        unsafe {
            let (plane, rows) = (self.scratch, self.scratch.add(h * w * S::LANES));
            for p in 0..h * w {
                let x = self.base.add(src.offset + p * src.pitch + self.c);
                let v = if n == S::LANES { s.load(x) } else { s.load_first(x, n) };
                s.store(plane.add(p * S::LANES), v);
            }
            for level in 0..3 {
                for y in 0..h {
                    for x in 0..w {
                        let (x0, x1) = (x.saturating_sub(reach), (x + reach).min(w - 1));
                        let mut m = s.load(plane.add((y * w + x0) * S::LANES));
                        for i in x0 + 1..=x1 {
                            m = s.max(m, s.load(plane.add((y * w + i) * S::LANES)));
                        }
                        s.store(rows.add((y * w + x) * S::LANES), m);
                    }
                }
                for y in 0..h {
                    let (y0, y1) = (y.saturating_sub(reach), (y + reach).min(h - 1));
                    for x in 0..w {
                        let mut m = s.load(rows.add((y0 * w + x) * S::LANES));
                        for i in y0 + 1..=y1 {
                            m = s.max(m, s.load(rows.add((i * w + x) * S::LANES)));
                        }
                        s.store(plane.add((y * w + x) * S::LANES), m);
                        let out = dst.offset + (y * w + x) * dst.pitch + level * src.c + self.c;
                        if n == S::LANES {
                            s.store(self.base.add(out), m);
                        } else {
                            s.store_first(self.base.add(out), m, n);
                        }
                    }
                }
            }
        }
    }
}

impl<S: Simd> Work for PoolPyramid<S> {
    unsafe fn items(&self, _: &Context<'_>) -> usize {
        self.src.c.div_ceil(S::LANES)
    }

    fn scratch(&self) -> ScratchSize {
        ScratchSize { values: 2 * self.src.pixels() * S::LANES, rows: 0 }
    }

    unsafe fn run(&self, item: usize, context: &Context<'_>, scratch: &mut Scratch) {
        let scratch = scratch.values.as_mut_ptr();
        self.simd.vectorize(Pool { pool: self, base: context.base, c: item * S::LANES, scratch });
    }
}
