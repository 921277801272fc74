//! The inverse DCT in vectors of eight 16-bit numbers. Every x86-64 CPU has these instructions.

use super::*;
use std::arch::x86_64::*;

type Vectors = [__m128i; 8];

/// [`super::idct`].
#[inline(always)]
pub fn idct(coefficients: &[i16; 64], steps: &[u16; 64]) -> [[u8; 8]; 8] {
    // SAFETY: every x86-64 CPU has SSE2.
    unsafe { transform(coefficients, steps) }
}

#[inline]
#[target_feature(enable = "sse2")]
fn transform(coefficients: &[i16; 64], steps: &[u16; 64]) -> [[u8; 8]; 8] {
    let row = |k: usize| load(coefficients[k * 8..][..8].as_ptr().cast());
    let mut columns: Vectors = std::array::from_fn(row);
    let below = columns[1..].iter().fold(zero(), |any, &row| _mm_or_si128(any, row));
    let flat = _mm_movemask_epi8(_mm_cmpeq_epi16(below, zero())) == 0xffff;
    for (k, column) in columns.iter_mut().enumerate() {
        *column = _mm_mullo_epi16(*column, load(steps[k * 8..][..8].as_ptr().cast()));
    }
    let rows = if flat {
        [_mm_slli_epi16::<{ PASS1_BITS as i32 }>(columns[0]); 8]
    } else {
        pass::<{ (CONST_BITS - PASS1_BITS) as i32 }>(&columns)
    };
    let samples = transposed(&pass::<{ (CONST_BITS + PASS1_BITS + 3) as i32 }>(&transposed(&rows)));
    let mut bytes = [[0; 8]; 8];
    for (bytes, pair) in bytes.chunks_exact_mut(2).zip(samples.chunks_exact(2)) {
        // Saturated to -128 ..= 127, and 128 added by flipping the sign.
        let packed = _mm_xor_si128(_mm_packs_epi16(pair[0], pair[1]), _mm_set1_epi8(i8::MIN));
        // SAFETY: two rows of eight bytes.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), packed) };
    }
    bytes
}

#[inline]
#[target_feature(enable = "sse2")]
fn zero() -> __m128i {
    _mm_setzero_si128()
}

/// Eight numbers of 16 bits, which callers have checked to be there.
#[inline]
#[target_feature(enable = "sse2")]
fn load(p: *const __m128i) -> __m128i {
    // SAFETY: both callers pass the start of a slice of eight numbers.
    unsafe { _mm_loadu_si128(p) }
}

/// Products of 16-bit numbers as 32-bit sums, four lanes each: the lower and the upper half.
#[derive(Clone, Copy)]
struct Wide(__m128i, __m128i);

impl Wide {
    #[inline]
    #[target_feature(enable = "sse2")]
    fn add(self, other: Wide) -> Wide {
        Wide(_mm_add_epi32(self.0, other.0), _mm_add_epi32(self.1, other.1))
    }
    #[inline]
    #[target_feature(enable = "sse2")]
    fn sub(self, other: Wide) -> Wide {
        Wide(_mm_sub_epi32(self.0, other.0), _mm_sub_epi32(self.1, other.1))
    }
    /// `v << CONST_BITS`.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn shifted(v: __m128i) -> Wide {
        const DOWN: i32 = 16 - CONST_BITS as i32;
        Wide(
            _mm_srai_epi32::<DOWN>(_mm_unpacklo_epi16(zero(), v)),
            _mm_srai_epi32::<DOWN>(_mm_unpackhi_epi16(zero(), v)),
        )
    }
    /// Divided by `2^SHIFT`, rounded, and saturated to 16 bits.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn scaled<const SHIFT: i32>(self) -> __m128i {
        let half = _mm_set1_epi32(1 << (SHIFT - 1));
        _mm_packs_epi32(
            _mm_srai_epi32::<SHIFT>(_mm_add_epi32(self.0, half)),
            _mm_srai_epi32::<SHIFT>(_mm_add_epi32(self.1, half)),
        )
    }
}

/// Two vectors, interleaved.
#[derive(Clone, Copy)]
struct Pair(__m128i, __m128i);

impl Pair {
    #[inline]
    #[target_feature(enable = "sse2")]
    fn of(a: __m128i, b: __m128i) -> Pair {
        Pair(_mm_unpacklo_epi16(a, b), _mm_unpackhi_epi16(a, b))
    }
    /// `a p + b q`.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn dot(self, p: i32, q: i32) -> Wide {
        let factors = _mm_set1_epi32((q << 16) | (p & 0xffff));
        Wide(_mm_madd_epi16(self.0, factors), _mm_madd_epi16(self.1, factors))
    }
}

/// [`super::pass`], with its names.
#[inline]
#[target_feature(enable = "sse2")]
fn pass<const SHIFT: i32>(input: &Vectors) -> Vectors {
    let [in0, in1, in2, in3, in4, in5, in6, in7] = *input;

    let even = Pair::of(in2, in6);
    let tmp2 = even.dot(F_0_541, F_0_541 - F_1_847);
    let tmp3 = even.dot(F_0_541 + F_0_765, F_0_541);
    let (tmp0, tmp1) = (Wide::shifted(_mm_add_epi16(in0, in4)), Wide::shifted(_mm_sub_epi16(in0, in4)));
    let even = [tmp0.add(tmp3), tmp1.add(tmp2), tmp1.sub(tmp2), tmp0.sub(tmp3)];

    let z = Pair::of(_mm_add_epi16(in7, in3), _mm_add_epi16(in5, in1));
    let (z3, z4) = (z.dot(F_1_175 - F_1_961, F_1_175), z.dot(F_1_175, F_1_175 - F_0_390));
    let (outer, inner) = (Pair::of(in1, in7), Pair::of(in3, in5));
    let odd = [
        outer.dot(F_1_501 - F_0_899, -F_0_899).add(z4),
        inner.dot(F_3_072 - F_2_562, -F_2_562).add(z3),
        inner.dot(-F_2_562, F_2_053 - F_2_562).add(z4),
        outer.dot(-F_0_899, F_0_298 - F_0_899).add(z3),
    ];

    let mut output = [zero(); 8];
    for k in 0..4 {
        output[k] = even[k].add(odd[k]).scaled::<SHIFT>();
        output[7 - k] = even[k].sub(odd[k]).scaled::<SHIFT>();
    }
    output
}

#[inline]
#[target_feature(enable = "sse2")]
fn transposed(block: &Vectors) -> Vectors {
    // Numbers of rows 0 and 4 side by side, 1 and 5, and so on; three rounds of that turn eight rows.
    let round = |[a, b, c, d, e, f, g, h]: Vectors| -> Vectors {
        [
            _mm_unpacklo_epi16(a, e),
            _mm_unpackhi_epi16(a, e),
            _mm_unpacklo_epi16(b, f),
            _mm_unpackhi_epi16(b, f),
            _mm_unpacklo_epi16(c, g),
            _mm_unpackhi_epi16(c, g),
            _mm_unpacklo_epi16(d, h),
            _mm_unpackhi_epi16(d, h),
        ]
    };
    round(round(round(*block)))
}
