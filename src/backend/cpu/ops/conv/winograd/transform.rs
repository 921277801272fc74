//! The transforms of Winograd's algorithms for blocks of patches: from the input to elements, from products to the output.

use super::scheme::{MAX, MAX_OUT, Scheme};
use super::{Column, Winograd};
use crate::backend::cpu::activation::{Activation, Relu, Silu};
use crate::backend::cpu::element::Element;
use crate::backend::cpu::memory::Map;
use crate::backend::cpu::ops::conv::epilogue::{Addition, Epilogue, Region};
use crate::backend::cpu::pack::Panel;
use crate::backend::cpu::prefetch;
use crate::backend::cpu::simd::{Kernel, Simd};
use crate::plan::Act;
use std::mem::MaybeUninit;

/// `B^T d B` of the patches `first .. first + count` for all channels, and zeros up to whole vectors:
/// `out[position * step + patch * pitch + channel]`.
pub(super) struct Input<'a, S, W, T> {
    pub(super) conv: &'a Winograd<S, W, T>,
    pub(super) base: *const f32,
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) step: usize,
    pub(super) out: *mut T,
}

/// Pixel `(row, column)` of a patch at `row * MAX + column`.
type Pixels = [*const f32; MAX * MAX];

impl<S0: Simd, W: Scheme, T: Element> Input<'_, S0, W, T> {
    /// Prefetches the next vector of a patch's pixels, or the first of the next patch, `offset` values from each of `pixels`.
    /// They are more streams than the hardware prefetches. It gains where a vector is a cache line (with half a line, every
    /// other prefetch repeats the one before) and with stride 1 (with 2, patches have twice as many pixels and overlap less).
    #[inline(always)]
    fn prefetch_next(&self, pixels: &Pixels, offset: usize) {
        for row in 0..W::WINDOW {
            for pixel in &pixels[row * MAX..row * MAX + W::WINDOW] {
                prefetch::read(pixel.wrapping_add(offset), 1);
            }
        }
    }

    /// One vector of channels, from channel `c` on; `load` reads it from a pixel.
    ///
    /// # Safety
    /// `load` must be allowed to read each pixel, and `out` be writable for a vector at each position.
    #[inline(always)]
    unsafe fn channels<S: Simd>(
        &self,
        s: S,
        pixels: &Pixels,
        out: *mut T,
        load: impl Fn(*const f32) -> S::V,
    ) {
        // Not initialised: that would take as long as the transform.
        let mut half = [[MaybeUninit::<S::V>::uninit(); MAX]; MAX];
        for column in 0..W::WINDOW {
            let mut d = [s.splat(0.0); MAX];
            for (row, d) in d.iter_mut().enumerate().take(W::WINDOW) {
                *d = load(pixels[row * MAX + column]);
            }
            let t = W::input(s, &d);
            for (half, t) in half.iter_mut().zip(t).take(W::POINTS) {
                half[column].write(t);
            }
        }
        for (row, half) in half.iter().enumerate().take(W::POINTS) {
            let mut d = [s.splat(0.0); MAX];
            for (d, half) in d.iter_mut().zip(half).take(W::WINDOW) {
                // SAFETY: written above, for each of these rows and columns.
                *d = unsafe { half.assume_init() };
            }
            let t = W::input(s, &d);
            for (column, t) in t.iter().enumerate().take(W::POINTS) {
                // SAFETY: contract of this function.
                unsafe { T::store(s, out.add((row * W::POINTS + column) * self.step), *t, S::LANES) };
            }
        }
    }
}

impl<S0: Simd, W: Scheme, T: Element> Kernel for Input<'_, S0, W, T> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let src = &self.conv.src;
        let (_, across) = self.conv.patches();
        let reach = W::OUT * W::STRIDE;
        let whole = src.c / S::LANES * S::LANES;
        for i in 0..self.count {
            let (py, px) = ((self.first + i) / across, (self.first + i) % across);
            // Pixels outside the map are the page of zeros.
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
            // SAFETY: all channels of a pixel (or of the zeros) are readable; `out` has `pitch` values a patch and
            // position.
            unsafe {
                let out = self.out.add(i * self.conv.pitch());
                for c in (0..whole).step_by(S::LANES) {
                    if W::STRIDE == 1 && S::LANES * size_of::<f32>() >= prefetch::LINE {
                        let last = c + S::LANES >= whole;
                        self.prefetch_next(&pixels, if last { reach * src.pitch } else { c + S::LANES });
                    }
                    self.channels(s, &pixels, out.add(c), |pixel| s.load(pixel.add(c)));
                }
                if whole < src.c {
                    let n = src.c - whole;
                    self.channels(s, &pixels, out.add(whole), |pixel| s.load_first(pixel.add(whole), n));
                }
            }
        }
    }
}

/// `A^T m A`, bias, epilogue of the patches `first .. first + count` for one panel.
pub(super) struct Output<'a, S, W, T> {
    pub(super) conv: &'a Winograd<S, W, T>,
    pub(super) column: &'a Column,
    pub(super) base: *mut f32,
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) step: usize,
    pub(super) products: *const f32,
    /// A patch of results, `[OUT * OUT][panel width]`.
    pub(super) patch: *mut f32,
}

impl<S0: Simd, W: Scheme, T: Element> Output<'_, S0, W, T> {
    /// `A^T m A` and bias of one patch and vector, given to `sink` with the row and column inside the patch.
    ///
    /// # Safety
    /// `products` must be readable for a vector at each position, `bias` for one.
    #[inline(always)]
    unsafe fn patch<S: Simd>(
        &self,
        s: S,
        products: *const f32,
        bias: *const f32,
        mut sink: impl FnMut(usize, usize, S::V),
    ) {
        // SAFETY: contract of this function.
        unsafe {
            let bias = s.load(bias);
            // Not initialised, as in the input's transform. Only values written before are read.
            let mut half = [[MaybeUninit::<S::V>::uninit(); MAX]; MAX_OUT];
            for column in 0..W::POINTS {
                let mut m = [s.splat(0.0); MAX];
                for (row, m) in m.iter_mut().enumerate().take(W::POINTS) {
                    let at = products.add((row * W::POINTS + column) * self.step);
                    // Products of the vector after the next one, or of the next patch: more streams than the hardware prefetches.
                    prefetch::read(at.wrapping_add(2 * S::LANES), 1);
                    *m = s.load(at);
                }
                let t = W::output(s, &m);
                for (half, t) in half.iter_mut().zip(t).take(W::OUT) {
                    half[column].write(t);
                }
            }
            for (row, half) in half.iter().enumerate().take(W::OUT) {
                let mut m = [s.splat(0.0); MAX];
                for (m, half) in m.iter_mut().zip(half).take(W::POINTS) {
                    *m = half.assume_init();
                }
                let t = W::output(s, &m);
                for (column, t) in t.iter().enumerate().take(W::OUT) {
                    sink(row, column, s.add(*t, bias));
                }
            }
        }
    }

    /// Prefetches the pixels that the epilogue of a patch reads and writes.
    #[inline(always)]
    fn prefetch_output<const RESIDUAL: bool>(&self, patch: usize) {
        let Epilogue { dst, post, .. } = &self.conv.epilogue;
        let (_, across) = self.conv.patches();
        let Panel { c0, c, .. } = self.column.panel;
        let bytes = c * size_of::<f32>();
        for pixel in 0..W::OUT * W::OUT {
            let (y, x) = (patch / across * W::OUT + pixel / W::OUT, patch % across * W::OUT + pixel % W::OUT);
            let at = |m: &Map| self.base.wrapping_add(m.offset + (y * m.w + x) * m.pitch + c0);
            prefetch::write(at(dst), bytes);
            if let (true, Some(post)) = (RESIDUAL, post) {
                prefetch::read(at(post), bytes);
            }
        }
    }

    /// All patches. If `fused`, patches inside the output get the activation `A`, and then the addend if `RESIDUAL`, in
    /// registers. The others go to memory, and the epilogue makes a second pass over them.
    #[inline(always)]
    fn patches<S: Simd, A: Activation, const RESIDUAL: bool>(self, s: S, fused: bool) {
        let Epilogue { dst, post, .. } = &self.conv.epilogue;
        let (_, across) = self.conv.patches();
        let Panel { c0, c, vectors } = self.column.panel;
        let width = vectors * S::LANES;
        for i in 0..self.count {
            let (py, px) = ((self.first + i) / across, (self.first + i) % across);
            let (height, breadth) = (W::OUT.min(dst.h - py * W::OUT), W::OUT.min(dst.w - px * W::OUT));
            let first = py * W::OUT * dst.w + px * W::OUT;
            let inside = fused && (height, breadth) == (W::OUT, W::OUT);
            if i + 1 < self.count {
                self.prefetch_output::<RESIDUAL>(self.first + i + 1);
            }
            for v in 0..vectors {
                let lane = v * S::LANES;
                // SAFETY: products hold `width` values a patch and position, the patch OUT * OUT rows of them; pixels of
                // a patch inside the output lie inside its maps, and so do whole vectors of channels.
                unsafe {
                    let bias = self.conv.bias.as_ptr().add(self.column.bias + lane);
                    let products = self.products.add(i * width + lane);
                    if inside {
                        let out = self.base.add(dst.offset + first * dst.pitch + c0 + lane);
                        let (residual, pitch) = match post {
                            Some(m) => (self.base.add(m.offset + first * m.pitch + c0 + lane), m.pitch),
                            None => (out, dst.pitch),
                        };
                        self.patch(s, products, bias, |row, column, x| {
                            let pixel = row * dst.w + column;
                            let mut x = A::apply::<S, T>(s, x);
                            if RESIDUAL {
                                x = s.add(x, s.load(residual.add(pixel * pitch)));
                            }
                            s.store(out.add(pixel * dst.pitch), x);
                        });
                    } else {
                        self.patch(s, products, bias, |row, column, x| {
                            s.store(self.patch.add((row * W::OUT + column) * width + lane), x);
                        });
                    }
                }
            }
            if inside {
                continue;
            }
            for row in 0..height {
                // SAFETY: the pixels lie inside the output; contract of `run`.
                unsafe {
                    let region = Region {
                        first: first + row * dst.w,
                        rows: breadth,
                        c: c0,
                        n: c,
                        tile: self.patch.add(row * W::OUT * width),
                        pitch: width,
                    };
                    self.conv.epilogue.finish(self.conv.simd.f32(), self.base, region);
                }
            }
        }
    }
}

impl<S0: Simd, W: Scheme, T: Element> Kernel for Output<'_, S0, W, T> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let epilogue = &self.conv.epilogue;
        let panel = self.column.panel;
        let whole = panel.c == panel.vectors * S::LANES;
        // The epilogues of nearly all 3x3 layers. Each row compiles another copy of the transform.
        match (epilogue.act, epilogue.addition()) {
            (Act::Silu, Some(Addition::AfterActivation)) => self.patches::<S, Silu, true>(s, whole),
            (Act::Relu, Some(Addition::None)) => self.patches::<S, Relu, false>(s, whole),
            other => {
                let fused = whole && other == (Act::Silu, Some(Addition::None));
                self.patches::<S, Silu, false>(s, fused);
            }
        }
    }
}
