//! The matrix micro-kernel under every convolution and linear layer.
//!
//! It computes a tile of `MR` rows (pixels) by `NV` vectors (output channels):
//!
//! ```text
//! out[r][j] = init[j] + sum over segments t, channels k of  a[t][r][k] * b[t][k][j]  (+ addends[r][j])
//! ```
//!
//! Rows are pointers: a segment is one tap of a convolution (or a run of contiguous ones), and a row's pointer is
//! the pixel it reads there, or a page of zeros outside the map. So nothing is ever copied into columns. Per `k` the
//! kernel loads `NV` vectors of packed weights, broadcasts one value a row, and does `MR * NV` multiply-adds, all in
//! registers; so is the activation of most layers. Where the factors are bf16, `k` advances in pairs.

use super::activation::{Activation, Identity, Relu, Silu};
use super::factor::Factor;
use super::prefetch;
use super::simd::{Kernel, Simd};
use crate::plan::Act;
use std::marker::PhantomData;

/// Largest number of rows of a tile.
pub const MAX_ROWS: usize = 6;

/// Groups of `k` an iteration: fewer branches to mispredict at the end of a short sum.
const UNROLL: usize = 4;

/// Groups of `k` from the weights in use to those that are asked for: some hundred cycles, the latency of a shared cache that
/// others use, too.
const AHEAD: usize = 32;

/// Operands of one tile.
#[derive(Clone, Copy)]
pub struct Tile<T = f32> {
    /// `[segments][rows]` pointers to the first value of each row's segment.
    pub rows: *const *const T,
    /// Added to every row pointer (first channel of a group), in values.
    pub shift: usize,
    /// Number of segments.
    pub segments: usize,
    /// Values a segment. The last [`Factor::GROUP`] may reach behind them: what is there meets weights of zero.
    pub depth: usize,
    /// Packed weights: `[segments][depth / GROUP][NV * LANES][GROUP]`, see [`super::pack`].
    pub weights: *const T,
    /// `[NV * LANES]` initial values (the bias), or null for zeros.
    pub init: *const f32,
    /// `[rows]` pointers to what is added at the end, `NV * LANES` values each, or null for nothing.
    pub addends: *const *const f32,
    /// `[rows][pitch]` result.
    pub out: *mut f32,
    /// Values from a row of `out` to the next.
    pub pitch: usize,
}

/// A micro-kernel of fixed height and width.
///
/// # Safety
/// All pointers of the [`Tile`] must be valid for the extents stated there, and the CPU must have the instruction set
/// that the function was made for (see [`select`]).
pub type Micro<T = f32> = unsafe fn(&Tile<T>);

/// Repeats a block for all rows and vectors of a tile, with constant indices. The compiler does not unroll a loop over an
/// activation of its own; then it keeps the sums in memory, and not only there but throughout the kernel.
macro_rules! unrolled {
    ($r:ident $j:ident $body:block) => {
        unrolled!(@rows $r $j $body 0 1 2 3 4 5);
    };
    (@rows $r:ident $j:ident $body:block $($row:literal)*) => {
        $(unrolled!(@row $r $j $body $row 0 1 2 3);)*
    };
    (@row $r:ident $j:ident $body:block $row:literal $($vector:literal)*) => {
        $({
            const $r: usize = $row;
            const $j: usize = $vector;
            $body
        })*
    };
}

struct Multiply<'a, T, A, const MR: usize, const NV: usize>(&'a Tile<T>, PhantomData<A>);

impl<T: Factor, A: Activation, const MR: usize, const NV: usize> Kernel for Multiply<'_, T, A, MR, NV> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        const { assert!(MR <= MAX_ROWS && MAX_ROWS == 6 && NV <= 4, "what `unrolled` repeats is the whole tile") };
        let t = self.0;
        // SAFETY: the extents of every operand are promised by the caller of the `Micro`.
        unsafe {
            let mut acc = [[s.splat(0.0); NV]; MR];
            if !t.init.is_null() {
                for (j, lane) in (0..NV).map(|j| (j, s.load(t.init.add(j * S::LANES)))) {
                    for row in &mut acc {
                        row[j] = lane;
                    }
                }
            }
            let mut b = t.weights;
            let vectors = NV * S::LANES * T::GROUP;
            let groups = t.depth.div_ceil(T::GROUP);
            for segment in 0..t.segments {
                let mut a = [std::ptr::null(); MR];
                for (r, p) in a.iter_mut().enumerate() {
                    *p = (*t.rows.add(segment * MR + r)).add(t.shift);
                }
                let mut k = 0;
                while k + UNROLL <= groups {
                    for u in 0..UNROLL {
                        let ahead = b.wrapping_add((AHEAD + u) * vectors);
                        prefetch::read(ahead, vectors * size_of::<T>());
                        T::rank(s, &mut acc, &a, (k + u) * T::GROUP, b.add(u * vectors));
                    }
                    b = b.add(UNROLL * vectors);
                    k += UNROLL;
                }
                while k < groups {
                    T::rank(s, &mut acc, &a, k * T::GROUP, b);
                    b = b.add(vectors);
                    k += 1;
                }
            }
            if !t.addends.is_null() {
                for (r, row) in acc.iter_mut().enumerate() {
                    let addends = *t.addends.add(r);
                    for (j, v) in row.iter_mut().enumerate() {
                        *v = s.add(*v, s.load(addends.add(j * S::LANES)));
                    }
                }
            }
            unrolled!(R J {
                if R < MR && J < NV {
                    s.store(t.out.add(R * t.pitch + J * S::LANES), A::apply::<S, T>(s, acc[R][J]));
                }
            });
        }
    }
}

/// Compiled entry of one tile shape; only handed out by [`select`], which had the token.
unsafe fn entry<S: Simd, T: Factor, A: Activation, const MR: usize, const NV: usize>(tile: &Tile<T>) {
    if NV <= widest::<S>() && MR <= max_rows::<S>(NV) {
        // SAFETY: `select` was shown a token, so the CPU has the instructions.
        unsafe { S::assume() }.vectorize(Multiply::<T, A, MR, NV>(tile, PhantomData))
    }
}

/// Rows of the tallest tile of `vectors`: the sums, the weights of one `k` and one broadcast value stay in registers,
/// and one register is left to the compiler (without it, 4 by 3 of 16 ran at half the speed of 6 by 2).
pub const fn max_rows<S: Simd>(vectors: usize) -> usize {
    let rows = (S::REGISTERS - 2 - vectors) / vectors;
    if rows < MAX_ROWS { rows } else { MAX_ROWS }
}

/// Vectors of the widest tile, and so of the widest [panel](super::pack::panels).
pub const fn widest<S: Simd>() -> usize {
    // Panels of two leave an odd vector over, which makes one of three.
    if S::PANEL == 2 { 3 } else { S::PANEL }
}

/// The micro-kernel of `rows` by `vectors` for the instruction set whose token is shown; it applies the activation `A` to its
/// sums.
///
/// # Panics
/// If there is none of that shape.
pub fn select<S: Simd, T: Factor, A: Activation>(_: S, rows: usize, vectors: usize) -> Micro<T> {
    assert!(
        vectors <= widest::<S>() && rows <= max_rows::<S>(vectors),
        "a tile of {rows} by {vectors} does not fit the registers"
    );
    macro_rules! table {
        ($($mr:literal: $($nv:literal)*;)*) => {
            match (rows, vectors) {
                $($(($mr, $nv) => entry::<S, T, A, $mr, $nv>,)*)*
                _ => panic!("no micro-kernel of {rows} rows by {vectors} vectors"),
            }
        };
    }
    table! {
        1: 1 2 3 4;
        2: 1 2 3 4;
        3: 1 2 3 4;
        4: 1 2 3 4;
        5: 1 2 3 4;
        6: 1 2 3 4;
    }
}

/// All micro-kernels up to a width, by `[vectors][rows]`.
pub struct Micros<T = f32>(Vec<[Option<Micro<T>>; MAX_ROWS + 1]>);

impl<T: Factor> Micros<T> {
    /// Micro-kernels of 1 to `widest` vectors, whose results are sums.
    pub fn new<S: Simd>(simd: S, widest: usize) -> Micros<T> {
        Micros::make::<S, Identity>(simd, widest)
    }

    /// Those that apply an activation to the sums; `None` for GELU, which few layers have and which is long: they apply it in
    /// a second pass.
    pub fn activating<S: Simd>(simd: S, widest: usize, act: Act) -> Option<Micros<T>> {
        match act {
            Act::None => Some(Micros::make::<S, Identity>(simd, widest)),
            Act::Relu => Some(Micros::make::<S, Relu>(simd, widest)),
            Act::Silu => Some(Micros::make::<S, Silu>(simd, widest)),
            Act::Gelu => None,
        }
    }

    fn make<S: Simd, A: Activation>(simd: S, widest: usize) -> Micros<T> {
        let shapes = |v: usize| {
            let rows = if v == 0 { 0 } else { max_rows::<S>(v) };
            std::array::from_fn(|r| (r > 0 && r <= rows).then(|| select::<S, T, A>(simd, r, v)))
        };
        Micros((0..=widest).map(shapes).collect())
    }

    /// The one for a tile of `rows` by `vectors`.
    ///
    /// # Panics
    /// If there is none.
    #[inline(always)]
    pub fn get(&self, rows: usize, vectors: usize) -> Micro<T> {
        self.0[vectors][rows].expect("a tile shape that the instruction set supports")
    }
}
