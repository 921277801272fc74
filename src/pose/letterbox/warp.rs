//! `cv2.warpAffine(INTER_LINEAR, borderValue=114)` with mmpose's matrix, to the bit.
//!
//! OpenCV computes where an output pixel lies in the photo in 1/1024 px, rounds that to 1/32 px, and blends the four
//! pixels around with weights of 1/1024 (stored times 32, in 2^-15, which changes no result). A pixel outside the
//! photo counts as 114.

use super::BORDER;
use crate::vision::Image;
use std::ops::Range;

/// Fixed-point coordinates of mmpose's letterbox.
///
/// The network input's pixel `(x, y)` lies at `X = columns[rows[y].columns + x]`, `Y = rows[y].y` in units of 1/32
/// photo pixel. With `i = X >> 5`, `a = X & 31`, `j = Y >> 5`, `b = Y & 31` (shifts round down), each channel is
///
/// ```text
/// ((32 - b) * ((32 - a) * p[j][i] + a * p[j][i + 1]) + b * ((32 - a) * p[j + 1][i] + a * p[j + 1][i + 1]) + 512) >> 10
/// ```
///
/// where `p` is 114 outside the photo.
#[derive(Clone, Debug, PartialEq)]
pub struct Warp {
    /// Horizontal positions, one for each column of the input; more than one row of numbers if ties in OpenCV's
    /// rounding fall differently in different rows.
    pub columns: Vec<i32>,
    /// One for each row of the input.
    pub rows: Vec<WarpRow>,
    /// For each row of numbers in `columns`.
    spans: Vec<Spans>,
    /// mmpose's `input_size`, `input_scale`, `input_center - 0.5 * input_scale`: from network input to photo.
    back: [[f64; 3]; 2],
}

/// Where a row of the network input lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct WarpRow {
    /// Index of its first column in [`Warp::columns`]: a multiple of the input's width, nearly always 0.
    pub columns: u32,
    /// Vertical position in 1/32 photo pixel.
    pub y: i32,
}

/// Columns that need the same treatment.
#[derive(Clone, Debug, PartialEq)]
struct Spans {
    /// Columns that touch the photo.
    touching: Range<usize>,
    /// Columns whose left pixel has two more pixels to its right: eight bytes from there on are inside the row.
    inside: Range<usize>,
}

impl Spans {
    fn new(columns: &[i32], width: usize) -> Spans {
        let width = width as i32;
        let range = |low: i32, high: i32| {
            let start = columns.partition_point(|x| x >> 5 < low);
            start..columns.partition_point(|x| x >> 5 < high).max(start)
        };
        Spans { touching: range(-1, width), inside: range(0, width - 2) }
    }
}

impl Warp {
    pub(super) fn new((width, height): (usize, usize), (input_w, input_h): (usize, usize)) -> Warp {
        let (w, h, iw, ih) = (width as f64, height as f64, input_w as f64, input_h as f64);
        // BottomupResize: the fitted size, not rounded; scale is the photo area that the whole input covers.
        let ratio = w / h;
        let (fitted_w, fitted_h) = (iw.min(ih * ratio), ih.min(iw / ratio));
        let scale = [(w * iw / fitted_w) as f32, (h * ih / fitted_h) as f32];
        let center = [(w / 2.0) as f32, (h / 2.0) as f32];
        // get_warp_matrix: the centre, the middle of the left edge, and that turned by a right angle about it.
        let edge = [(center[0] as f64 + scale[0] as f64 * -0.5) as f32, center[1]];
        let from = [center, edge, third_point(center, edge)];
        let (middle, edge) = ([(iw * 0.5) as f32, (ih * 0.5) as f32], [0.0, (ih * 0.5) as f32]);
        let to = [middle, edge, third_point(middle, edge)];
        let m = invert(affine(from, to));

        // warpAffine, in 1/1024 px and then 1/32 px. Without rotation m[0][1] and m[1][0] are rounding errors of the
        // solution, around 1e-16: the first can still tip a tie in a row's x; the second, times 1024 * column, always
        // rounds to zero. OpenCV has 32 bits here; positions that do not fit are far outside the photo, and clamping
        // keeps them there.
        let fixed = |v: f64| (v * 1024.0).round_ties_even() as i64;
        let to_32nds = |v: i64| ((v + 16) >> 5).clamp(-(1 << 30), 1 << 30) as i32;
        let deltas: Vec<i64> = (0..input_w).map(|x| fixed(m[0][0] * x as f64)).collect();
        debug_assert_eq!(fixed(m[1][0] * iw), 0);
        let mut origins: Vec<i64> = Vec::with_capacity(1);
        let mut rows = Vec::with_capacity(input_h);
        for y in 0..input_h {
            let [x0, y0] = m.map(|m| fixed(m[1] * y as f64 + m[2]));
            let at = origins.iter().position(|&o| o == x0).unwrap_or_else(|| {
                origins.push(x0);
                origins.len() - 1
            });
            rows.push(WarpRow { columns: (at * input_w) as u32, y: to_32nds(y0) });
        }
        let columns: Vec<i32> =
            origins.iter().flat_map(|o| deltas.iter().map(move |d| to_32nds(o + d))).collect();
        let spans = columns.chunks_exact(input_w).map(|c| Spans::new(c, width)).collect();

        let shift = |c: f32, s: f32| (c - 0.5 * s) as f64;
        let back = [
            [iw, scale[0] as f64, shift(center[0], scale[0])],
            [ih, scale[1] as f64, shift(center[1], scale[1])],
        ];
        Warp { columns, rows, spans, back }
    }

    pub(super) fn sample_row(&self, photo: Image<'_>, y: usize, row: &mut [u8]) {
        let (input_w, WarpRow { columns: at, y }) = (row.len() / 3, self.rows[y]);
        let columns = &self.columns[at as usize..][..input_w];
        let Spans { touching, inside } = &self.spans[at as usize / input_w];
        let (j, b) = (y >> 5, (y & 31) as u32);
        let Range { start, end } = if j < -1 || j >= photo.height() as i32 { 0..0 } else { touching.clone() };
        row[..start * 3].fill(BORDER);
        row[end * 3..].fill(BORDER);
        let between_rows = j >= 0 && j + 1 < photo.height() as i32;
        let inside = if between_rows { inside.clone() } else { start..start };
        for x in (start..inside.start).chain(inside.end..end) {
            row[x * 3..x * 3 + 3].copy_from_slice(&blend_at_edge(photo, columns[x], y));
        }
        if !inside.is_empty() {
            let (upper, lower) = (photo.row(j as usize), photo.row(j as usize + 1));
            blend_row(&columns[inside.clone()], upper, lower, b, &mut row[inside.start * 3..inside.end * 3]);
        }
    }

    /// mmpose's `BaseBottomUp.add_pred_to_datasample`: `xy / input_size * input_scale + center - 0.5 * input_scale`,
    /// which numpy computes in f64.
    pub(super) fn to_photo(&self, xy: [f32; 2]) -> [f32; 2] {
        [0, 1].map(|i| {
            let [size, scale, shift] = self.back[i];
            (xy[i] as f64 / size * scale + shift) as f32
        })
    }
}

/// Any pixel that touches the photo, by its definition.
fn blend_at_edge(photo: Image<'_>, x: i32, y: i32) -> [u8; 3] {
    let (i, j) = (x >> 5, y >> 5);
    let pixel = |i: i32, j: i32| {
        let inside = i >= 0 && j >= 0 && i < photo.width() as i32 && j < photo.height() as i32;
        if inside { photo.pixel(i as usize, j as usize) } else { [BORDER; 3] }
    };
    let corners = [pixel(i, j), pixel(i + 1, j), pixel(i, j + 1), pixel(i + 1, j + 1)];
    let (a, b) = ((x & 31) as u32, (y & 31) as u32);
    let weights = [(32 - a) * (32 - b), a * (32 - b), (32 - a) * b, a * b];
    [0, 1, 2].map(|c| {
        let sum: u32 = corners.iter().zip(weights).map(|(p, w)| p[c] as u32 * w).sum();
        ((sum + 512) >> 10) as u8
    })
}

/// Pixels inside the photo: `columns` are positions whose left pixel has two more to its right.
fn blend_row(columns: &[i32], upper: &[u8], lower: &[u8], b: u32, out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the machine has AVX2, the only feature that the function asks for.
        return unsafe { avx2::blend_row(columns, upper, lower, b, out) };
    }
    blend_row_portable(columns, upper, lower, b, out);
}

/// Eight bytes: the two pixels around a position, and two bytes of the next.
fn two_pixels(row: &[u8], x: i32) -> u64 {
    let at = (x >> 5) as usize * 3;
    u64::from_le_bytes(row[at..at + 8].try_into().expect("eight bytes"))
}

/// One register holds the three channels, 21 bits each: sums stay below 2^18.
fn blend_row_portable(columns: &[i32], upper: &[u8], lower: &[u8], b: u32, out: &mut [u8]) {
    let spread = |p: u64| p & 0xff | (p & 0xff00) << 13 | (p & 0xff_0000) << 26;
    const HALF: u64 = 512 | 512 << 21 | 512 << 42;
    let b = b as u64;
    for (&x, out) in columns.iter().zip(out.chunks_exact_mut(3)) {
        let a = (x & 31) as u64;
        let across = |p: u64| spread(p) * (32 - a) + spread(p >> 24) * a;
        let sum = across(two_pixels(upper, x)) * (32 - b) + across(two_pixels(lower, x)) * b + HALF;
        out.copy_from_slice(&[(sum >> 10) as u8, (sum >> 31) as u8, (sum >> 52) as u8]);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::blend_row_portable;
    use std::arch::x86_64::*;

    /// Four pixels at a time: 16 bits a channel across, 32 bits down.
    #[target_feature(enable = "avx2")]
    pub fn blend_row(columns: &[i32], upper: &[u8], lower: &[u8], b: u32, out: &mut [u8]) {
        assert!(upper.len() == lower.len() && upper.len() >= 8 && out.len() == columns.len() * 3);
        let both = |lane: __m128i| _mm256_broadcastsi128_si256(lane);
        // Two pixels in each half: b0 g0 r0 b1 g1 r1 x x -> b0 b1 g0 g1 r0 r1 0 0.
        let pair = both(_mm_setr_epi8(0, 3, 1, 4, 2, 5, -1, -1, 8, 11, 9, 12, 10, 13, -1, -1));
        // The low 16 bits of each 64, four times.
        let four_times = both(_mm_setr_epi8(0, 1, 0, 1, 0, 1, 0, 1, 8, 9, 8, 9, 8, 9, 8, 9));
        // b g r 0 b g r 0 -> b g r b g r.
        let close = both(_mm_setr_epi8(0, 1, 2, 4, 5, 6, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
        let down = _mm256_set1_epi32(((32 - b) | b << 16) as i32);
        let half = _mm256_set1_epi32(512);
        let last = _mm_set1_epi32((upper.len() - 8) as i32);

        // Each step writes two bytes too many, so the last few pixels are left to the end.
        let vectors = columns.len().saturating_sub(1) / 4;
        for v in 0..vectors {
            // SAFETY: 4 * v + 4 <= columns.len().
            let x = unsafe { _mm_loadu_si128(columns.as_ptr().add(4 * v).cast()) };
            let a = _mm_and_si128(x, _mm_set1_epi32(31));
            let i = _mm_srai_epi32::<5>(x);
            // `min` changes nothing for the columns that this is called with; it makes the loads safe for all.
            let at = _mm_min_epu32(_mm_add_epi32(i, _mm_add_epi32(i, i)), last);
            let at = [
                _mm_extract_epi32::<0>(at) as u32 as usize,
                _mm_extract_epi32::<1>(at) as u32 as usize,
                _mm_extract_epi32::<2>(at) as u32 as usize,
                _mm_extract_epi32::<3>(at) as u32 as usize,
            ];
            let four = |row: &[u8]| {
                // SAFETY: both rows have the length that `last` comes from, and each offset is at most that less 8.
                let q = at.map(|at| unsafe { row.as_ptr().add(at).cast::<i64>().read_unaligned() });
                _mm256_setr_epi64x(q[0], q[1], q[2], q[3])
            };
            // Left and right weight of each pixel: (32 - a) | a << 8.
            let weights = _mm_add_epi32(_mm_sub_epi32(_mm_set1_epi32(32), a), _mm_slli_epi32::<8>(a));
            let weights = _mm256_shuffle_epi8(_mm256_cvtepu32_epi64(weights), four_times);
            let u = _mm256_maddubs_epi16(_mm256_shuffle_epi8(four(upper), pair), weights);
            let l = _mm256_maddubs_epi16(_mm256_shuffle_epi8(four(lower), pair), weights);
            let blend =
                |ul: __m256i| _mm256_srli_epi32::<10>(_mm256_add_epi32(_mm256_madd_epi16(ul, down), half));
            let sum =
                _mm256_packs_epi32(blend(_mm256_unpacklo_epi16(u, l)), blend(_mm256_unpackhi_epi16(u, l)));
            let bytes = _mm256_shuffle_epi8(_mm256_packus_epi16(sum, sum), close);
            let out = &mut out[12 * v..12 * v + 14];
            out[..8].copy_from_slice(&_mm256_extract_epi64::<0>(bytes).to_le_bytes());
            out[6..].copy_from_slice(&_mm256_extract_epi64::<2>(bytes).to_le_bytes());
        }
        let done = vectors * 4;
        blend_row_portable(&columns[done..], upper, lower, b, &mut out[done * 3..]);
    }
}

/// mmpose's `_get_3rd_point`, in f32: `a - b` turned by a right angle, from `b`.
fn third_point(a: [f32; 2], b: [f32; 2]) -> [f32; 2] {
    [b[0] - (a[1] - b[1]), b[1] + (a[0] - b[0])]
}

/// `cv2.getAffineTransform`: six equations, Gaussian elimination with OpenCV's order of operations, whose rounding
/// errors are part of the result.
#[allow(clippy::needless_range_loop)] // the textbook's indices
fn affine(from: [[f32; 2]; 3], to: [[f32; 2]; 3]) -> [[f64; 3]; 2] {
    let mut a = [[0.0; 6]; 6];
    let mut b = [0.0; 6];
    for i in 0..3 {
        let [x, y] = from[i].map(f64::from);
        a[2 * i] = [x, y, 1.0, 0.0, 0.0, 0.0];
        a[2 * i + 1] = [0.0, 0.0, 0.0, x, y, 1.0];
        [b[2 * i], b[2 * i + 1]] = to[i].map(f64::from);
    }
    for i in 0..6 {
        let mut pivot = i;
        for j in i + 1..6 {
            if a[j][i].abs() > a[pivot][i].abs() {
                pivot = j;
            }
        }
        a.swap(i, pivot);
        b.swap(i, pivot);
        let d = -1.0 / a[i][i];
        for j in i + 1..6 {
            let alpha = a[j][i] * d;
            for k in i + 1..6 {
                a[j][k] += alpha * a[i][k];
            }
            b[j] += alpha * b[i];
        }
    }
    for i in (0..6).rev() {
        for k in i + 1..6 {
            b[i] -= a[i][k] * b[k];
        }
        b[i] /= a[i][i];
    }
    [[b[0], b[1], b[2]], [b[3], b[4], b[5]]]
}

/// As `warpAffine` inverts its matrix.
fn invert(m: [[f64; 3]; 2]) -> [[f64; 3]; 2] {
    let d = 1.0 / (m[0][0] * m[1][1] - m[0][1] * m[1][0]);
    let (a, b, c, e) = (m[1][1] * d, m[0][1] * -d, m[1][0] * -d, m[0][0] * d);
    [[a, b, -a * m[0][2] - b * m[1][2]], [c, e, -c * m[0][2] - e * m[1][2]]]
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn avx2_equals_portable() {
        if !is_x86_feature_detected!("avx2") {
            // Not `eprintln`: what a passing test prints is not shown.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), b"not run: this machine has no AVX2\n");
            return;
        }
        let noise = |seed: u32| move |i: u32| ((i ^ seed).wrapping_mul(0x9e37_79b1) >> 24) as u8;
        let (upper, lower): (Vec<u8>, Vec<u8>) =
            ((0..300).map(noise(1)).collect(), (0..300).map(noise(2)).collect());
        for len in 0..40 {
            for b in 0..32 {
                // From the first pixel to the last that has two more to its right, all fractions.
                let columns: Vec<i32> = (0..len).map(|x| x * (97 * 32 + 31) / 39 + b as i32 % 2).collect();
                let (mut fast, mut slow) = (vec![0; len as usize * 3], vec![0; len as usize * 3]);
                // SAFETY: checked above.
                unsafe { avx2::blend_row(&columns, &upper, &lower, b, &mut fast) };
                blend_row_portable(&columns, &upper, &lower, b, &mut slow);
                assert_eq!(fast, slow, "{len} columns, b = {b}");
            }
        }
    }
}
