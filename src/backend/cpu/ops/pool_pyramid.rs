//! The pyramid of max pools: three of the same window, one after the other.

use crate::backend::cpu::memory::Map;
use crate::backend::cpu::phase::{Context, Scratch, ScratchSize, Work};
use crate::backend::cpu::prepare::Builder;
use crate::backend::cpu::simd::{Kernel, Simd};
use crate::plan::{Plan, View};

/// Three max pools of the same window, one after the other. NaN in a window gives NaN.
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
                            m = s.max_or_nan(m, s.load(plane.add((y * w + i) * S::LANES)));
                        }
                        s.store(rows.add((y * w + x) * S::LANES), m);
                    }
                }
                for y in 0..h {
                    let (y0, y1) = (y.saturating_sub(reach), (y + reach).min(h - 1));
                    for x in 0..w {
                        let mut m = s.load(rows.add((y0 * w + x) * S::LANES));
                        for i in y0 + 1..=y1 {
                            m = s.max_or_nan(m, s.load(rows.add((i * w + x) * S::LANES)));
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

/// Adds the step's phase.
pub(in crate::backend::cpu) fn prepare<S: Simd>(
    builder: &mut Builder<'_, S>,
    plan: &Plan,
    step: usize,
    (src, dst): (View, View),
    window: usize,
) {
    let simd = builder.simd.f32();
    let (src, dst) = (builder.map(plan, src), builder.map(plan, dst));
    builder.push(step, "pool", PoolPyramid { simd, src, dst, window });
}
