//! Max pooling with a stride.

use crate::backend::cpu::memory::Map;
use crate::backend::cpu::phase::{Context, Scratch, Work};
use crate::backend::cpu::prepare::Builder;
use crate::backend::cpu::simd::{Kernel, Simd};
use crate::plan::{Plan, View};

/// Maximum over `window x window` pixels around every `stride`-th; NaN if one of them is. An item is a row of the output.
pub struct MaxPool<S> {
    /// Token.
    pub simd: S,
    /// Input.
    pub src: Map,
    /// Output, of `ceil(in / stride)` rows and columns.
    pub dst: Map,
    /// Odd height and width of a window.
    pub window: usize,
    /// Input pixels from a window to the next.
    pub stride: usize,
}

impl<S> MaxPool<S> {
    /// Input rows of the window of output row `at`; the input has `len` rows. The same for columns.
    fn reach(&self, at: usize, len: usize) -> std::ops::Range<usize> {
        let (centre, reach) = (at * self.stride, self.window / 2);
        centre.saturating_sub(reach)..(centre + reach + 1).min(len)
    }
}

impl<S: Simd> Work for MaxPool<S> {
    unsafe fn items(&self, _: &Context<'_>) -> usize {
        self.dst.h
    }

    unsafe fn run(&self, y: usize, context: &Context<'_>, _: &mut Scratch) {
        let (src, dst) = (&self.src, &self.dst);
        for x in 0..dst.w {
            let pixels =
                self.reach(y, src.h).flat_map(|iy| self.reach(x, src.w).map(move |ix| iy * src.w + ix));
            // SAFETY: the arena of `run`'s contract; only this item writes the row, and the input is complete.
            let (out, mut window) = unsafe {
                (
                    dst.pixel_mut(context.base, y * dst.w + x),
                    pixels.map(|pixel| src.pixel(context.base, pixel)),
                )
            };
            out.copy_from_slice(window.next().expect("a window has a pixel"));
            window.for_each(|values| self.simd.vectorize(Maximum { out: &mut *out, values }));
        }
    }
}

/// `out = max(out, values)`, NaN where either is.
struct Maximum<'a> {
    out: &'a mut [f32],
    values: &'a [f32],
}

impl Kernel for Maximum<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let outs = self.out.chunks_mut(S::LANES);
        for (out, values) in outs.zip(self.values.chunks(S::LANES)) {
            s.store_slice(out, s.max_or_nan(s.load_slice(out), s.load_slice(values)));
        }
    }
}

/// Adds the step's phase.
pub(in crate::backend::cpu) fn prepare<S: Simd>(
    builder: &mut Builder<'_, S>,
    plan: &Plan,
    step: usize,
    (src, dst): (View, View),
    (window, stride): (usize, usize),
) {
    let simd = builder.simd.f32();
    let (src, dst) = (builder.map(plan, src), builder.map(plan, dst));
    builder.push(step, "max pool", MaxPool { simd, src, dst, window, stride });
}
