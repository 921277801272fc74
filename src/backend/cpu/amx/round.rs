//! Values of f32 maps as the sum of one or two numbers of bf16.

use super::unit::DEPTH;
use crate::backend::cpu::memory::Map;
use crate::backend::cpu::simd::Simd;
use half::bf16;

/// Where rounded values go.
#[derive(Clone, Copy)]
pub struct Target {
    /// `bf16(x)`.
    to: *mut bf16,
    /// `bf16(x - bf16(x))` goes this many values further; with 0 it is not written.
    rest: usize,
}

impl Target {
    /// # Safety
    /// The values that its methods write must be writable from `to` on and, unless `rest` is 0, also from `to + rest` on.
    pub unsafe fn new(to: *mut bf16, rest: usize) -> Target {
        Target { to, rest }
    }

    /// `n` values further.
    #[inline(always)]
    pub fn at(self, n: usize) -> Target {
        Target { to: self.to.wrapping_add(n), ..self }
    }

    /// Writes the first `n` lanes.
    #[inline(always)]
    fn store<S: Simd>(self, s: S, v: S::V, n: usize) {
        // SAFETY: contract of `new`; a bf16 is its 16 bits. Values read back behind the first `n` lanes are not used; they lie
        // in a tile's margin at most.
        unsafe {
            s.store_bf16(self.to.cast(), v, n);
            if self.rest > 0 {
                let rest = s.sub(v, s.load_bf16(self.to.cast()));
                s.store_bf16(self.to.add(self.rest).cast(), rest, n);
            }
        }
    }

    /// Writes `n` zeros.
    #[inline(always)]
    pub fn clear(self, n: usize) {
        // SAFETY: contract of `new`; the bits of zero are zeros.
        unsafe {
            std::ptr::write_bytes(self.to, 0, n);
            if self.rest > 0 {
                std::ptr::write_bytes(self.to.add(self.rest), 0, n);
            }
        }
    }

    /// Writes the whole vectors of `n` values. Returns how many values they are.
    ///
    /// # Safety
    /// They must be readable.
    #[inline(always)]
    unsafe fn vectors<S: Simd>(self, s: S, from: *const f32, n: usize) -> usize {
        let whole = n / S::LANES * S::LANES;
        for k in (0..whole).step_by(S::LANES) {
            // SAFETY: k + LANES <= n.
            self.at(k).store(s, unsafe { s.load(from.add(k)) }, S::LANES);
        }
        whole
    }

    /// Writes `n` neighbouring pixels of a map, `pixel` values each: as many as there are channels or the next multiple of
    /// [`DEPTH`]. Behind their channels they get zeros.
    ///
    /// # Safety
    /// The pixels must be readable.
    #[inline(always)]
    pub unsafe fn pixels<S: Simd>(self, s: S, from: *const f32, map: &Map, n: usize, pixel: usize) {
        debug_assert!(pixel == map.c || pixel == map.c.next_multiple_of(DEPTH));
        let (n, c, pitch, pixel) = match (map.pitch, pixel) == (map.c, map.c) {
            true => (1, n * map.c, 0, n * map.c),
            false => (n, map.c, map.pitch, pixel),
        };
        for x in 0..n {
            // SAFETY: contract of this function.
            unsafe {
                let (from, to) = (from.add(x * pitch), self.at(x * pixel));
                let whole = to.vectors(s, from, c);
                // Zeros by vectors: a call of memset for a few bytes of every pixel would take longer than the conversion.
                if whole < c {
                    let last = s.load_first(from.add(whole), c - whole);
                    to.at(whole).store(s, last, (pixel - whole).min(S::LANES));
                }
                for k in (c.next_multiple_of(S::LANES)..pixel).step_by(S::LANES) {
                    to.at(k).store(s, s.splat(0.0), S::LANES);
                }
            }
        }
    }
}
