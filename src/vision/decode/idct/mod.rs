//! The inverse DCT of JPEG: libjpeg's accurate integer method ("islow"), with the overflows of libjpeg-turbo's SSE2 and
//! AVX2 code.
//!
//! Libjpeg's own C code and its SIMD code give the same pixels for every file that an encoder writes. They differ where
//! damage, or data that ends too early, gives coefficients out of range. This one function decodes everywhere, so pixels
//! depend neither on the machine nor on whether an assembler was there at build time, and equal those of OpenCV's builds
//! for x86-64.

#[cfg(target_arch = "x86_64")]
mod sse2;

/// One row or column number of eight transforms at once.
type Lanes = [i16; 8];

/// Eight rows, or eight columns.
type Block = [Lanes; 8];

/// Fractional bits of the constants.
const CONST_BITS: u32 = 13;

/// Fractional bits that pass 1 keeps for pass 2.
const PASS1_BITS: u32 = 2;

/// The constants of Loeffler, Ligtenberg and Moschytz (ICASSP 1989), times 2^13, named as in libjpeg's jidctint.c.
const F_0_298: i32 = 2446;
const F_0_390: i32 = 3196;
const F_0_541: i32 = 4433;
const F_0_765: i32 = 6270;
const F_0_899: i32 = 7373;
const F_1_175: i32 = 9633;
const F_1_501: i32 = 12299;
const F_1_847: i32 = 15137;
const F_1_961: i32 = 16069;
const F_2_053: i32 = 16819;
const F_2_562: i32 = 20995;
const F_3_072: i32 = 25172;

/// Eight rows of eight samples from 64 coefficients and their quantization steps, both in natural order, row by row.
#[inline(always)]
pub fn idct(coefficients: &[i16; 64], steps: &[u16; 64]) -> [[u8; 8]; 8] {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    return sse2::idct(coefficients, steps);
    #[cfg(any(not(target_arch = "x86_64"), miri))]
    portable(coefficients, steps)
}

/// The same without vector instructions, which says in plain arithmetic what [`sse2`] computes.
#[cfg_attr(all(target_arch = "x86_64", not(miri)), allow(dead_code))]
fn portable(coefficients: &[i16; 64], steps: &[u16; 64]) -> [[u8; 8]; 8] {
    let mut columns: Block = [[0; 8]; 8];
    for (k, lanes) in columns.iter_mut().enumerate() {
        for (x, lane) in lanes.iter_mut().enumerate() {
            *lane = coefficients[k * 8 + x].wrapping_mul(steps[k * 8 + x] as i16);
        }
    }
    let rows = if coefficients[8..].iter().all(|&c| c == 0) {
        [columns[0].map(|dc| dc << PASS1_BITS); 8]
    } else {
        pass::<{ CONST_BITS - PASS1_BITS }>(&columns)
    };
    // Pass 2 also divides by 8, as the definition of the transform asks.
    let samples = transposed(&pass::<{ CONST_BITS + PASS1_BITS + 3 }>(&transposed(&rows)));
    samples.map(|row| row.map(|v| (v.clamp(-128, 127) + 128) as u8))
}

/// Eight one-dimensional transforms side by side; sums are divided by `2^SHIFT` and rounded.
#[inline(always)]
fn pass<const SHIFT: u32>(input: &Block) -> Block {
    let mut output: Block = [[0; 8]; 8];
    for lane in 0..8 {
        let wide = |k: usize| input[k][lane] as i32;
        // Sums of two inputs wrap at 16 bits, all others at 32.
        let sum = |a: usize, b: usize| input[a][lane].wrapping_add(input[b][lane]) as i32;
        let difference = |a: usize, b: usize| input[a][lane].wrapping_sub(input[b][lane]) as i32;

        // Even part.
        let (z2, z3) = (wide(2), wide(6));
        let tmp2 = z2 * F_0_541 + z3 * (F_0_541 - F_1_847);
        let tmp3 = z2 * (F_0_541 + F_0_765) + z3 * F_0_541;
        let (tmp0, tmp1) = (sum(0, 4) << CONST_BITS, difference(0, 4) << CONST_BITS);
        let even = [tmp0 + tmp3, tmp1 + tmp2, tmp1 - tmp2, tmp0 - tmp3];

        // Odd part.
        let (z3, z4) = (sum(7, 3), sum(5, 1));
        let (z3, z4) = (z3 * (F_1_175 - F_1_961) + z4 * F_1_175, z3 * F_1_175 + z4 * (F_1_175 - F_0_390));
        let (in1, in3, in5, in7) = (wide(1), wide(3), wide(5), wide(7));
        let odd = [
            (in1 * (F_1_501 - F_0_899) - in7 * F_0_899).wrapping_add(z4),
            (in3 * (F_3_072 - F_2_562) - in5 * F_2_562).wrapping_add(z3),
            (in5 * (F_2_053 - F_2_562) - in3 * F_2_562).wrapping_add(z4),
            (in7 * (F_0_298 - F_0_899) - in1 * F_0_899).wrapping_add(z3),
        ];

        let scaled = |v: i32| {
            (v.wrapping_add(1 << (SHIFT - 1)) >> SHIFT).clamp(i16::MIN as i32, i16::MAX as i32) as i16
        };
        for k in 0..4 {
            output[k][lane] = scaled(even[k].wrapping_add(odd[k]));
            output[7 - k][lane] = scaled(even[k].wrapping_sub(odd[k]));
        }
    }
    output
}

#[inline(always)]
fn transposed(block: &Block) -> Block {
    let mut turned: Block = [[0; 8]; 8];
    for i in 0..8 {
        for j in 0..8 {
            turned[i][j] = block[j][i];
        }
    }
    turned
}

#[cfg(test)]
mod tests {
    use super::{idct, portable};
    use proptest::prelude::*;

    /// The definition (ITU-T T.81, A.3.3), in f64.
    fn exact(coefficients: &[i16; 64], steps: &[u16; 64]) -> [[f64; 8]; 8] {
        let basis = |k: usize, x: usize| {
            let scale = if k == 0 { 0.5_f64.sqrt() } else { 1.0 };
            scale * ((2 * x + 1) as f64 * k as f64 * std::f64::consts::PI / 16.0).cos()
        };
        std::array::from_fn(|y| {
            std::array::from_fn(|x| {
                let term =
                    |i: usize| coefficients[i] as f64 * steps[i] as f64 * basis(i / 8, y) * basis(i % 8, x);
                (0..64).map(term).sum::<f64>() / 4.0 + 128.0
            })
        })
    }

    proptest! {
        /// Within the range of 8-bit photos the result is off by less than one: half for rounding, and what 13-bit
        /// constants lose.
        #[test]
        fn it_is_the_inverse_dct(
            coefficients in prop::array::uniform32(-60..60i16),
            step in 1..20u16,
        ) {
            let mut block = [0; 64];
            block[..32].copy_from_slice(&coefficients);
            let want = exact(&block, &[step; 64]);
            for (row, want) in idct(&block, &[step; 64]).iter().zip(want) {
                for (&got, want) in row.iter().zip(want) {
                    prop_assert!((got as f64 - want.clamp(0.0, 255.0)).abs() < 1.0, "{got}, not {want}");
                }
            }
        }

        /// Any numbers give samples, the same with vector instructions and without; nothing overflows in a way that Rust refuses.
        #[test]
        fn any_numbers_are_transformed(
            coefficients in prop::array::uniform32(any::<i16>()),
            steps in prop::array::uniform32(any::<u16>()),
        ) {
            let (mut block, mut table) = ([0; 64], [1; 64]);
            block[..32].copy_from_slice(&coefficients);
            block[32..].copy_from_slice(&coefficients);
            table[16..48].copy_from_slice(&steps);
            prop_assert_eq!(idct(&block, &table), portable(&block, &table));
        }

        /// Data that a block ends early with: few coefficients, and none below the first row.
        #[test]
        fn sparse_blocks_are_transformed_alike(
            at in prop::array::uniform4(0..64usize),
            values in prop::array::uniform4(any::<i16>()),
            first_row in any::<bool>(),
            steps in prop::array::uniform32(1..256u16),
        ) {
            let (mut block, mut table) = ([0; 64], [1; 64]);
            for (at, value) in at.into_iter().zip(values) {
                block[if first_row { at % 8 } else { at }] = value;
            }
            table[..32].copy_from_slice(&steps);
            prop_assert_eq!(idct(&block, &table), portable(&block, &table));
        }
    }

    #[test]
    fn a_block_of_one_colour() {
        let mut block = [0; 64];
        block[0] = 10;
        assert_eq!(idct(&block, &[16; 64]), [[148; 8]; 8]);
        // 8 * 4096 wraps to -32768 with 16 bits, and that to 0 where pass 1 multiplies by four.
        block[0] = 8;
        assert_eq!(idct(&block, &[4096; 64]), [[128; 8]; 8]);
    }
}
