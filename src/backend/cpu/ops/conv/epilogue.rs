//! The end of every convolution: pre-activation addend, activation, residual, store into a channel slice. The sums contain
//! the bias already, as their initial value.

use crate::backend::cpu::activation::{Activation, Gelu, Identity, Relu, Silu};
use crate::backend::cpu::memory::{Block, Map};
use crate::backend::cpu::simd::{Kernel, Simd};
use crate::plan::Act;
use std::slice::from_raw_parts;

/// Source of the pre-activation addend.
pub enum Addend {
    /// None.
    None,
    /// A map of the output's extents.
    Same(Map),
    /// A map of half the output's extents.
    Upsampled(Map),
    /// Constants, `[pixels][channels]`.
    Table(Block),
}

/// When the only addend of an epilogue is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addition {
    /// There is none.
    None,
    /// Before the activation, or there is no activation.
    BeforeActivation,
    /// After the activation.
    AfterActivation,
}

/// The steps from a finished sum to the output.
pub struct Epilogue {
    /// Output slice.
    pub dst: Map,
    /// Added before the activation.
    pub pre: Addend,
    /// The activation.
    pub act: Act,
    /// Added after it.
    pub post: Option<Map>,
}

impl Epilogue {
    /// When the only addend is added; `None` if there are two. With one at most, kernels finish whole vectors of sums in
    /// registers.
    pub fn addition(&self) -> Option<Addition> {
        match (&self.pre, &self.post) {
            (Addend::None, None) => Some(Addition::None),
            (Addend::None, Some(_)) if self.act == Act::None => Some(Addition::BeforeActivation),
            (Addend::None, Some(_)) => Some(Addition::AfterActivation),
            (_, None) => Some(Addition::BeforeActivation),
            (_, Some(_)) => None,
        }
    }

    /// Fills `rows` with pointers to the only addend: channels from `c` on of each pixel from `first` on. False if there is
    /// none.
    ///
    /// # Safety
    /// `base` must be the arena that the maps were resolved in, the pixels and channels inside them.
    #[inline(always)]
    pub unsafe fn addends_of(
        &self,
        base: *const f32,
        first: usize,
        c: usize,
        rows: &mut [*const f32],
    ) -> bool {
        let same = match (&self.pre, &self.post) {
            (Addend::None, None) => return false,
            (Addend::None, Some(map)) | (Addend::Same(map), _) => Some(map),
            _ => None,
        };
        let w = self.dst.w;
        for (pixel, row) in (first..).zip(rows) {
            // SAFETY: contract of this function.
            *row = unsafe {
                match same {
                    Some(map) => base.add(map.offset + pixel * map.pitch + c),
                    None => self.addend(base, pixel, (pixel / w, pixel % w), c),
                }
            };
        }
        true
    }

    /// Finishes `n` channels from channel `c` on, of the output pixels `first .. first + rows`, whose sums lie at
    /// `tile[row * pitch]`.
    ///
    /// # Safety
    /// `base` must be the arena that the maps were resolved in, no one else may write these output channels or the
    /// addends meanwhile, and `tile` must be readable for `rows` rows of `n` values rounded up to whole vectors.
    #[inline(always)]
    pub unsafe fn finish<S: Simd>(&self, simd: S, base: *mut f32, region: Region) {
        simd.vectorize(Finish { epilogue: self, base, region });
    }

    /// One loop for each combination of addends.
    #[inline(always)]
    unsafe fn addends<S: Simd, A: Activation>(&self, s: S, base: *mut f32, region: Region) {
        // SAFETY: contract of `finish`.
        unsafe {
            match (&self.pre, &self.post) {
                (Addend::None, None) => self.rows::<S, A, false, false>(s, base, region),
                (Addend::None, Some(_)) => self.rows::<S, A, false, true>(s, base, region),
                (_, None) => self.rows::<S, A, true, false>(s, base, region),
                (_, Some(_)) => self.rows::<S, A, true, true>(s, base, region),
            }
        }
    }

    /// Pointer to the pre-activation addend of channel `c` of a pixel, which is at `(y, x)`.
    #[inline(always)]
    unsafe fn addend(&self, base: *const f32, pixel: usize, (y, x): (usize, usize), c: usize) -> *const f32 {
        // SAFETY: pixel and channel lie inside the maps.
        unsafe {
            match &self.pre {
                Addend::None => std::ptr::null(),
                Addend::Same(m) => base.add(m.offset + pixel * m.pitch + c),
                Addend::Upsampled(m) => base.add(m.offset + (y / 2 * m.w + x / 2) * m.pitch + c),
                Addend::Table(t) => t.as_ptr().add(pixel * self.dst.c + c),
            }
        }
    }

    #[inline(always)]
    unsafe fn rows<S: Simd, A: Activation, const PRE: bool, const POST: bool>(
        &self,
        s: S,
        base: *mut f32,
        Region { first, rows, c, n, tile, pitch }: Region,
    ) {
        let (mut y, mut x) = if PRE { (first / self.dst.w, first % self.dst.w) } else { (0, 0) };
        for row in 0..rows {
            let pixel = first + row;
            // SAFETY: contract of `finish`: pixel and channels lie inside the maps, and sums are whole vectors.
            let (sums, dst, pre, post) = unsafe {
                let sums = from_raw_parts(tile.add(row * pitch), n.next_multiple_of(S::LANES));
                let dst = self.dst.channels(c, n).pixel_mut(base, pixel);
                let pre = if PRE { from_raw_parts(self.addend(base, pixel, (y, x), c), n) } else { &[] };
                let post = match &self.post {
                    Some(map) if POST => map.channels(c, n).pixel(base, pixel),
                    _ => &[],
                };
                (sums, dst, pre, post)
            };
            let vectors = dst.chunks_mut(S::LANES).zip(sums.chunks_exact(S::LANES));
            for (v, (dst, sums)) in vectors.enumerate() {
                let mut x = s.load_slice(sums);
                if PRE {
                    x = s.add(x, s.load_slice(&pre[v * S::LANES..]));
                }
                x = A::apply::<S, f32>(s, x);
                if POST {
                    x = s.add(x, s.load_slice(&post[v * S::LANES..]));
                }
                s.store_slice(dst, x);
            }
            if PRE {
                x += 1;
                if x == self.dst.w {
                    (y, x) = (y + 1, 0);
                }
            }
        }
    }
}

struct Finish<'a> {
    epilogue: &'a Epilogue,
    base: *mut f32,
    region: Region,
}

impl Kernel for Finish<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Finish { epilogue, base, region } = self;
        // SAFETY: made only by `Epilogue::finish`, with the same contract.
        unsafe {
            match epilogue.act {
                Act::None => epilogue.addends::<S, Identity>(s, base, region),
                Act::Relu => epilogue.addends::<S, Relu>(s, base, region),
                Act::Silu => epilogue.addends::<S, Silu>(s, base, region),
                Act::Gelu => epilogue.addends::<S, Gelu>(s, base, region),
            }
        }
    }
}

/// Part of an output, and its sums.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// First output pixel.
    pub first: usize,
    /// Pixels.
    pub rows: usize,
    /// First output channel.
    pub c: usize,
    /// Channels.
    pub n: usize,
    /// Sum of the first pixel and channel.
    pub tile: *const f32,
    /// Values from a pixel's sums to the next.
    pub pitch: usize,
}
