//! The matrix micro-kernel under every convolution and linear layer.
//!
//! It computes a tile of `MR` rows (pixels) by `NV` vectors (output channels):
//!
//! ```text
//! out[r][j] = init[j] + sum over segments t, channels k of  a[t][r][k] * b[t][k][j]
//! ```
//!
//! Rows are pointers: a segment is one tap of a convolution (or a run of contiguous ones), and a row's pointer is
//! the pixel it reads there, or a page of zeros outside the map. So nothing is ever copied into columns. Per `k` the
//! kernel loads `NV` vectors of packed weights, broadcasts one value a row, and does `MR * NV` multiply-adds, all in
//! registers.

use super::simd::{Kernel, Simd};

/// Largest number of rows of a tile.
pub const MAX_ROWS: usize = 6;

/// Operands of one tile.
#[derive(Clone, Copy)]
pub struct Tile {
    /// `[segments][rows]` pointers to the first value of each row's segment.
    pub rows: *const *const f32,
    /// Added to every row pointer (first channel of a group), in values.
    pub shift: usize,
    /// Number of segments.
    pub segments: usize,
    /// Values a segment.
    pub depth: usize,
    /// Packed weights: `[segments][depth][NV * LANES]`.
    pub weights: *const f32,
    /// `[NV * LANES]` initial values (the bias), or null for zeros.
    pub init: *const f32,
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
pub type Micro = unsafe fn(&Tile);

struct Multiply<'a, const MR: usize, const NV: usize>(&'a Tile);

impl<const MR: usize, const NV: usize> Kernel for Multiply<'_, MR, NV> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
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
            for segment in 0..t.segments {
                let mut a = [std::ptr::null(); MR];
                for (r, p) in a.iter_mut().enumerate() {
                    *p = (*t.rows.add(segment * MR + r)).add(t.shift);
                }
                for k in 0..t.depth {
                    let mut w = [s.splat(0.0); NV];
                    for (j, w) in w.iter_mut().enumerate() {
                        *w = s.load(b.add(j * S::LANES));
                    }
                    for r in 0..MR {
                        let x = s.splat(*a[r].add(k));
                        for j in 0..NV {
                            acc[r][j] = s.mul_add(x, w[j], acc[r][j]);
                        }
                    }
                    b = b.add(NV * S::LANES);
                }
            }
            for (r, row) in acc.iter().enumerate() {
                for (j, &v) in row.iter().enumerate() {
                    s.store(t.out.add(r * t.pitch + j * S::LANES), v);
                }
            }
        }
    }
}

/// Compiled entry of one tile shape; only handed out by [`select`], which had the token.
unsafe fn entry<S: Simd, const MR: usize, const NV: usize>(tile: &Tile) {
    if MR * NV <= S::ACCUMULATORS {
        // SAFETY: `select` was shown a token, so the CPU has the instructions.
        unsafe { S::assume() }.vectorize(Multiply::<MR, NV>(tile))
    }
}

/// Rows of the tallest tile of `vectors`.
pub fn max_rows<S: Simd>(vectors: usize) -> usize {
    (S::ACCUMULATORS / vectors).clamp(1, MAX_ROWS)
}

/// The micro-kernel of `rows` by `vectors` for the instruction set whose token is shown.
///
/// # Panics
/// If there is none of that shape.
pub fn select<S: Simd>(_: S, rows: usize, vectors: usize) -> Micro {
    assert!(rows <= max_rows::<S>(vectors), "a tile of {rows} by {vectors} does not fit the registers");
    macro_rules! table {
        ($($mr:literal: $($nv:literal)*;)*) => {
            match (rows, vectors) {
                $($(($mr, $nv) => entry::<S, $mr, $nv>,)*)*
                _ => panic!("no micro-kernel of {rows} rows by {vectors} vectors"),
            }
        };
    }
    table! {
        1: 1 2 3 4 5;
        2: 1 2 3 4 5;
        3: 1 2 3 4;
        4: 1 2 3 4;
        5: 1 2 3 4;
        6: 1 2 3 4;
    }
}

/// All micro-kernels up to a width, by `[vectors][rows]`.
pub struct Micros(Vec<[Option<Micro>; MAX_ROWS + 1]>);

impl Micros {
    /// Micro-kernels of 1 to `widest` vectors.
    pub fn new<S: Simd>(simd: S, widest: usize) -> Micros {
        let shapes = |v: usize| {
            let rows = if v == 0 { 0 } else { max_rows::<S>(v) };
            std::array::from_fn(|r| (r > 0 && r <= rows).then(|| select(simd, r, v)))
        };
        Micros((0..=widest).map(shapes).collect())
    }

    /// The one for a tile of `rows` by `vectors`.
    ///
    /// # Panics
    /// If there is none.
    #[inline(always)]
    pub fn get(&self, rows: usize, vectors: usize) -> Micro {
        self.0[vectors][rows].expect("a tile shape that the instruction set supports")
    }
}
