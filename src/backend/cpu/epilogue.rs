//! The end of every convolution: pre-activation addend, activation, residual, store into a channel slice. The bias
//! is in already: it is the accumulators' initial value.

use super::math;
use super::memory::{Block, Map};
use super::simd::Simd;
use crate::plan::Act;

/// An activation as a type, so that loops are compiled for each.
trait Activation {
    /// Implementations must be `#[inline(always)]`.
    fn apply<S: Simd>(s: S, x: S::V) -> S::V;
}

struct Identity;
struct Silu;
struct Gelu;

impl Activation for Identity {
    #[inline(always)]
    fn apply<S: Simd>(_: S, x: S::V) -> S::V {
        x
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
    #[allow(clippy::too_many_arguments)] // plain numbers of a hot inner function
    pub unsafe fn apply<S: Simd>(
        &self,
        s: S,
        base: *mut f32,
        first: usize,
        rows: usize,
        c: usize,
        n: usize,
        tile: *const f32,
        pitch: usize,
    ) {
        // SAFETY: contract of this function.
        unsafe {
            match self.act {
                Act::None => self.rows::<S, Identity>(s, base, first, rows, c, n, tile, pitch),
                Act::Silu => self.rows::<S, Silu>(s, base, first, rows, c, n, tile, pitch),
                Act::Gelu => self.rows::<S, Gelu>(s, base, first, rows, c, n, tile, pitch),
            }
        }
    }

    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // as `apply`
    unsafe fn rows<S: Simd, A: Activation>(
        &self,
        s: S,
        base: *mut f32,
        first: usize,
        rows: usize,
        c: usize,
        n: usize,
        tile: *const f32,
        pitch: usize,
    ) {
        for row in 0..rows {
            let pixel = first + row;
            // SAFETY: pixel and channels lie inside the maps; partial vectors are read and written partially.
            unsafe {
                let sums = tile.add(row * pitch);
                let dst = base.add(self.dst.offset + pixel * self.dst.pitch + c);
                let pre = match &self.pre {
                    Addend::None => std::ptr::null(),
                    Addend::Same(m) => base.add(m.offset + pixel * m.pitch + c).cast_const(),
                    Addend::Upsampled(m) => {
                        let (y, x) = (pixel / self.dst.w, pixel % self.dst.w);
                        base.add(m.offset + (y / 2 * m.w + x / 2) * m.pitch + c).cast_const()
                    }
                    Addend::Table(t) => t.as_ptr().add(pixel * self.dst.c + c),
                };
                let post = match &self.post {
                    None => std::ptr::null(),
                    Some(m) => base.add(m.offset + pixel * m.pitch + c).cast_const(),
                };
                let mut j = 0;
                while j + S::LANES <= n {
                    let mut x = s.load(sums.add(j));
                    if !pre.is_null() {
                        x = s.add(x, s.load(pre.add(j)));
                    }
                    x = A::apply(s, x);
                    if !post.is_null() {
                        x = s.add(x, s.load(post.add(j)));
                    }
                    s.store(dst.add(j), x);
                    j += S::LANES;
                }
                if j < n {
                    let mut x = s.load(sums.add(j));
                    if !pre.is_null() {
                        x = s.add(x, s.load_first(pre.add(j), n - j));
                    }
                    x = A::apply(s, x);
                    if !post.is_null() {
                        x = s.add(x, s.load_first(post.add(j), n - j));
                    }
                    s.store_first(dst.add(j), x, n - j);
                }
            }
        }
    }
}
