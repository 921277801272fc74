//! The end of every convolution: pre-activation addend, activation, residual, store into a channel slice. The bias
//! is in already: it is the accumulators' initial value.

use crate::backend::cpu::math;
use crate::backend::cpu::memory::{Block, Map};
use crate::backend::cpu::simd::{Kernel, Simd};
use crate::plan::Act;

/// An activation as a type, so that loops are compiled for each.
trait Activation {
    /// Implementations must be `#[inline(always)]`.
    fn apply<S: Simd>(s: S, x: S::V) -> S::V;
}

struct Identity;
struct Relu;
struct Silu;
struct Gelu;

impl Activation for Identity {
    #[inline(always)]
    fn apply<S: Simd>(_: S, x: S::V) -> S::V {
        x
    }
}

impl Activation for Relu {
    #[inline(always)]
    fn apply<S: Simd>(s: S, x: S::V) -> S::V {
        // In this order a NaN stays one.
        s.max(s.splat(0.0), x)
    }
}

impl Activation for Silu {
    #[inline(always)]
    fn apply<S: Simd>(s: S, x: S::V) -> S::V {
        math::silu(s, x)
    }
}

impl Activation for Gelu {
    #[inline(always)]
    fn apply<S: Simd>(s: S, x: S::V) -> S::V {
        math::gelu(s, x)
    }
}

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

/// What happens to a finished sum.
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
    /// Finishes `n` channels from channel `c` on, of the output pixels `first .. first + rows`, whose sums lie at
    /// `tile[row * pitch]`.
    ///
    /// # Safety
    /// `base` must be the arena that the maps were resolved in, nobody else may write these output channels or the
    /// addends meanwhile, and `tile` must be readable for `rows` rows of `n` values rounded up to whole vectors.
    #[inline(always)]
    pub unsafe fn apply<S: Simd>(&self, s: S, base: *mut f32, region: Region) {
        // SAFETY: contract of this function.
        unsafe {
            match self.act {
                Act::None => self.addends::<S, Identity>(s, base, region),
                Act::Relu => self.addends::<S, Relu>(s, base, region),
                Act::Silu => self.addends::<S, Silu>(s, base, region),
                Act::Gelu => self.addends::<S, Gelu>(s, base, region),
            }
        }
    }

    /// Whether the activation is SiLU, if whole vectors need nothing but one addend before it, or none: then the
    /// micro-kernel can finish its own sums.
    pub fn in_kernel(&self) -> Option<bool> {
        match (self.act, &self.pre, &self.post) {
            (Act::Silu, _, None) => Some(true),
            (Act::None, Addend::None, _) | (Act::None, _, None) => Some(false),
            _ => None,
        }
    }

    /// Where the addends of channels from `c` on of some pixels from `first` on lie, of an epilogue `in_kernel`; false if
    /// it has none.
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

    /// As [`Epilogue::apply`], from code that is not compiled for the instruction set.
    ///
    /// # Safety
    /// As [`Epilogue::apply`].
    #[inline(always)]
    pub unsafe fn finish<S: Simd>(&self, simd: S, base: *mut f32, region: Region) {
        simd.vectorize(Finish { epilogue: self, base, region });
    }

    /// Compiles the common cases, without one or both addends, on their own.
    #[inline(always)]
    unsafe fn addends<S: Simd, A: Activation>(&self, s: S, base: *mut f32, region: Region) {
        // SAFETY: contract of `apply`.
        unsafe {
            match (&self.pre, &self.post) {
                (Addend::None, None) => self.rows::<S, A, false, false>(s, base, region),
                (Addend::None, Some(_)) => self.rows::<S, A, false, true>(s, base, region),
                (_, None) => self.rows::<S, A, true, false>(s, base, region),
                (_, Some(_)) => self.rows::<S, A, true, true>(s, base, region),
            }
        }
    }

    /// First value of the pre-activation addend of a pixel, which is at `(y, x)`, and channel.
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
            // SAFETY: pixel and channels lie inside the maps; partial vectors are read and written partially.
            unsafe {
                let sums = tile.add(row * pitch);
                let dst = base.add(self.dst.offset + pixel * self.dst.pitch + c);
                let pre = if PRE { self.addend(base, pixel, (y, x), c) } else { std::ptr::null() };
                let post = match &self.post {
                    Some(m) if POST => base.add(m.offset + pixel * m.pitch + c).cast_const(),
                    _ => std::ptr::null(),
                };
                let mut j = 0;
                while j + S::LANES <= n {
                    let mut x = s.load(sums.add(j));
                    if PRE {
                        x = s.add(x, s.load(pre.add(j)));
                    }
                    x = A::apply(s, x);
                    if POST {
                        x = s.add(x, s.load(post.add(j)));
                    }
                    s.store(dst.add(j), x);
                    j += S::LANES;
                }
                if j < n {
                    let mut x = s.load(sums.add(j));
                    if PRE {
                        x = s.add(x, s.load_first(pre.add(j), n - j));
                    }
                    x = A::apply(s, x);
                    if POST {
                        x = s.add(x, s.load_first(post.add(j), n - j));
                    }
                    s.store_first(dst.add(j), x, n - j);
                }
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
        // SAFETY: made only by `Epilogue::finish`, with the same contract.
        unsafe { self.epilogue.apply(s, self.base, self.region) };
    }
}

/// Part of an output, and where its sums are.
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
