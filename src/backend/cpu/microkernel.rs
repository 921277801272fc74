//! The matrix microkernel of every convolution and linear layer.
//!
//! It computes a tile of `MR` rows (pixels) by `NV` vectors (output channels):
//!
//! ```text
//! out[r][j] = act(init[j] + sum over segments t, channels k of  a[t][r][k] * b[t][k][j]  (+ addends[r][j]))
//! ```
//!
//! Rows are pointers. A segment is one tap of a convolution, or a run of contiguous taps. A row's pointer is the pixel that
//! it reads there, or a page of zeros outside the map; no input is copied into a matrix first. For each `k` the kernel loads
//! `NV` vectors of packed weights, broadcasts one value a row, and does `MR * NV` multiply-adds in registers (a rank-1 update).
//! It also applies the activation in registers. With bf16, `k` advances in pairs.

use super::activation::{Activation, Identity, Relu, Silu};
use super::element::Element;
use super::prefetch;
use super::simd::{Kernel, Simd};
use crate::plan::Act;
use std::marker::PhantomData;

/// Largest number of rows of a tile.
pub const MAX_ROWS: usize = 6;

/// Groups of `k` an iteration. Fewer iterations have fewer branches to mispredict at the end of a short sum.
const UNROLL: usize = 4;

/// Prefetch distance, in groups of `k`. 32 groups take about 100 cycles, the latency of a busy shared L3.
const AHEAD: usize = 32;

/// Tiles that together fetch the weights of the next panel into L2. Where weights come from L3 or memory, a panel's first tile
/// alone would wait for all of them: it reads 25 bytes a cycle, which is more than a core gets from there.
pub const SHARES: usize = 4;

/// Operands of one tile.
#[derive(Clone, Copy)]
pub struct Tile<T = f32> {
    /// `[segments][rows]` pointers to the first value of each row's segment.
    pub rows: *const *const T,
    /// Added to every row pointer (first channel of a group), in values.
    pub shift: usize,
    /// Number of segments.
    pub segments: usize,
    /// Values a segment. If they are no multiple of [`Element::GROUP`], the last group reads values behind them, whose weights
    /// are 0.
    pub depth: usize,
    /// Packed weights: `[segments][depth / GROUP][NV * LANES][GROUP]`, see [`super::pack`].
    pub weights: *const T,
    /// Weights of a later tile, of which [`share`] values are fetched into L2 meanwhile. Any address is allowed.
    pub later: *const T,
    /// `[NV * LANES]` initial values (the bias), or null for zeros.
    pub init: *const f32,
    /// `[rows]` pointers to `NV * LANES` values each, added to the sums before the activation; or null.
    pub addends: *const *const f32,
    /// `[rows][pitch]` result.
    pub out: *mut f32,
    /// Values from a row of `out` to the next.
    pub pitch: usize,
}

/// A microkernel of fixed height and width.
///
/// # Safety
/// All pointers of the [`Tile`] must be valid for the extents stated there, and the CPU must have the instruction set
/// that the function was made for (see [`select`]).
pub type Microkernel<T = f32> = unsafe fn(&Tile<T>);

/// Repeats a block for all rows and vectors of a tile, with constant indices. The compiler does not unroll a loop with an
/// activation in it. Indexed by a variable, the sums would have to be in memory, and it would keep them there in the whole
/// kernel.
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

impl<T: Element, A: Activation, const MR: usize, const NV: usize> Kernel for Multiply<'_, T, A, MR, NV> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        const {
            assert!(
                MR <= MAX_ROWS && MAX_ROWS == 6 && NV <= 4,
                "`unrolled` repeats its block for the whole tile"
            )
        };
        let t = self.0;
        // SAFETY: the extents of every operand are promised by the caller of the `Microkernel`.
        unsafe {
            let mut acc = [[T::accumulator(s, s.splat(0.0)); NV]; MR];
            if !t.init.is_null() {
                for (j, init) in (0..NV).map(|j| (j, s.load(t.init.add(j * S::LANES)))) {
                    for row in &mut acc {
                        row[j] = T::accumulator(s, init);
                    }
                }
            }
            let mut b = t.weights;
            let mut later = t.later;
            let vectors = NV * S::LANES * T::GROUP;
            let groups = t.depth.div_ceil(T::GROUP);
            for segment in 0..t.segments {
                let mut a = [std::ptr::null(); MR];
                for (r, p) in a.iter_mut().enumerate() {
                    *p = (*t.rows.add(segment * MR + r)).add(t.shift);
                }
                let mut k = 0;
                while k + UNROLL <= groups {
                    for line in 0..later_lines::<S>(NV) {
                        prefetch::read_later(later.wrapping_byte_add(line * prefetch::LINE));
                    }
                    later = later.wrapping_byte_add(later_lines::<S>(NV) * prefetch::LINE);
                    for u in 0..UNROLL {
                        let ahead = b.wrapping_add((AHEAD + u) * vectors);
                        prefetch::read(ahead, vectors * size_of::<T>());
                        T::rank1_update(s, &mut acc, &a, (k + u) * T::GROUP, b.add(u * vectors));
                    }
                    b = b.add(UNROLL * vectors);
                    k += UNROLL;
                }
                while k < groups {
                    T::rank1_update(s, &mut acc, &a, k * T::GROUP, b);
                    b = b.add(vectors);
                    k += 1;
                }
            }
            // Not by `map`, which passes the sums through memory.
            let mut sums = [[s.splat(0.0); NV]; MR];
            unrolled!(R J {
                if R < MR && J < NV {
                    sums[R][J] = T::sums(s, acc[R][J]);
                }
            });
            if !t.addends.is_null() {
                for (r, row) in sums.iter_mut().enumerate() {
                    let addends = *t.addends.add(r);
                    for (j, v) in row.iter_mut().enumerate() {
                        *v = s.add(*v, s.load(addends.add(j * S::LANES)));
                    }
                }
            }
            unrolled!(R J {
                if R < MR && J < NV {
                    s.store(t.out.add(R * t.pitch + J * S::LANES), A::apply::<S, T>(s, sums[R][J]));
                }
            });
        }
    }
}

/// Compiled entry of one tile shape; [`select`] hands it out, which takes a token.
///
/// # Safety
/// As [`Microkernel`].
unsafe fn entry<S: Simd, T: Element, A: Activation, const MR: usize, const NV: usize>(tile: &Tile<T>) {
    if NV <= widest::<S>() && MR <= max_rows::<S>(NV) {
        // SAFETY: `select` took a token, so the CPU has the instructions.
        unsafe { S::assume() }.vectorize(Multiply::<T, A, MR, NV>(tile, PhantomData))
    }
}

/// Lines of later weights fetched in an iteration of `UNROLL` groups: a quarter of the lines that the iteration reads.
const fn later_lines<S: Simd>(vectors: usize) -> usize {
    let lines = UNROLL * vectors * S::LANES * size_of::<f32>() / prefetch::LINE / SHARES;
    if lines == 0 { 1 } else { lines }
}

/// Values of later weights that a tile fetches.
pub fn share<S: Simd, T: Element>(segments: usize, depth: usize, vectors: usize) -> usize {
    segments * (depth.div_ceil(T::GROUP) / UNROLL) * later_lines::<S>(vectors) * prefetch::LINE
        / size_of::<T>()
}

/// Rows of the tallest tile of `vectors`. The sums, the weights of one `k` and one broadcast value stay in registers, and one
/// register is left to the compiler: without it, 4 by 3 of 16 ran at half the speed of 6 by 2.
pub const fn max_rows<S: Simd>(vectors: usize) -> usize {
    let rows = (S::REGISTERS - 2 - vectors) / vectors;
    if rows < MAX_ROWS { rows } else { MAX_ROWS }
}

/// Vectors of the widest tile and of the widest [panel](super::pack::panels).
pub const fn widest<S: Simd>() -> usize {
    // Panels of two leave an odd vector over, which makes one of three.
    if S::PANEL == 2 { 3 } else { S::PANEL }
}

/// The microkernel of `rows` by `vectors` with activation `A`. The token shows that the CPU has the instruction set.
///
/// # Panics
/// If there is none of that shape.
pub fn select<S: Simd, T: Element, A: Activation>(_: S, rows: usize, vectors: usize) -> Microkernel<T> {
    assert!(
        vectors <= widest::<S>() && rows <= max_rows::<S>(vectors),
        "a tile of {rows} by {vectors} does not fit the registers"
    );
    macro_rules! table {
        ($($mr:literal: $($nv:literal)*;)*) => {
            match (rows, vectors) {
                $($(($mr, $nv) => entry::<S, T, A, $mr, $nv>,)*)*
                _ => panic!("no microkernel of {rows} rows by {vectors} vectors"),
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

/// All microkernels up to a width, by `[vectors][rows]`.
pub struct Microkernels<T = f32>(Vec<[Option<Microkernel<T>>; MAX_ROWS + 1]>);

impl<T: Element> Microkernels<T> {
    /// Microkernels of 1 to `widest` vectors, whose results are sums.
    pub fn new<S: Simd>(simd: S, widest: usize) -> Microkernels<T> {
        Microkernels::make::<S, Identity>(simd, widest)
    }

    /// Microkernels that apply an activation to the sums. `None` for GELU: it is long code for one layer of a network, which
    /// applies it in a second pass.
    pub fn activating<S: Simd>(simd: S, widest: usize, act: Act) -> Option<Microkernels<T>> {
        match act {
            Act::None => Some(Microkernels::make::<S, Identity>(simd, widest)),
            Act::Relu => Some(Microkernels::make::<S, Relu>(simd, widest)),
            Act::Silu => Some(Microkernels::make::<S, Silu>(simd, widest)),
            Act::Gelu => None,
        }
    }

    fn make<S: Simd, A: Activation>(simd: S, widest: usize) -> Microkernels<T> {
        let shapes = |v: usize| {
            let rows = if v == 0 { 0 } else { max_rows::<S>(v) };
            std::array::from_fn(|r| (r > 0 && r <= rows).then(|| select::<S, T, A>(simd, r, v)))
        };
        Microkernels((0..=widest).map(shapes).collect())
    }

    /// The one for a tile of `rows` by `vectors`.
    ///
    /// # Panics
    /// If there is none.
    #[inline(always)]
    pub fn get(&self, rows: usize, vectors: usize) -> Microkernel<T> {
        self.0[vectors][rows].expect("a tile shape that the instruction set supports")
    }
}
