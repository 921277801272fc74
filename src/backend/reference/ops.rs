//! The operations themselves: plain functions of f64 slices, in the layouts of [`crate::plan`].

use crate::plan::Act;

/// Extents and options of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct ConvSpec {
    /// Rows of the input.
    pub h: usize,
    /// Columns of the input.
    pub w: usize,
    /// Channels of the input, all groups.
    pub cin: usize,
    /// Channels of the output, all groups.
    pub cout: usize,
    /// Rows and columns of the window.
    pub kernel: usize,
    /// Step of the window.
    pub stride: usize,
    /// Zeros around the input.
    pub pad: usize,
    /// Groups.
    pub groups: usize,
}

impl ConvSpec {
    /// Rows and columns of the output.
    pub fn output(&self) -> (usize, usize) {
        (self.h.div_ceil(self.stride), self.w.div_ceil(self.stride))
    }
}

/// `[h, w, cin]` to `[h / stride, w / stride, cout]`; `weight` is `[cout, kernel, kernel, cin / groups]`.
pub fn conv(src: &[f64], weight: &[f64], bias: &[f64], spec: ConvSpec) -> Vec<f64> {
    let ConvSpec { h, w, cin, cout, kernel, stride, pad, groups } = spec;
    let (group_in, group_out) = (cin / groups, cout / groups);
    // [group, window, cin, cout]: the innermost loop runs over the outputs.
    let row = kernel * kernel * group_in;
    let mut transposed = vec![0.0; weight.len()];
    for (o, weights) in weight.chunks_exact(row).enumerate() {
        for (i, v) in weights.iter().enumerate() {
            transposed[(o / group_out * row + i) * group_out + o % group_out] = *v;
        }
    }
    let pixel = |y: usize, x: usize, out: &mut [f64]| {
        out.copy_from_slice(bias);
        for ky in 0..kernel {
            for kx in 0..kernel {
                let (y, x) = ((y * stride + ky).wrapping_sub(pad), (x * stride + kx).wrapping_sub(pad));
                if y >= h || x >= w {
                    continue; // in the padding
                }
                let src = &src[(y * w + x) * cin..][..cin];
                for (g, out) in out.chunks_exact_mut(group_out).enumerate() {
                    let at = g * row + (ky * kernel + kx) * group_in;
                    let weights = &transposed[at * group_out..][..group_in * group_out];
                    for (s, weights) in src[g * group_in..].iter().zip(weights.chunks_exact(group_out)) {
                        for (o, v) in out.iter_mut().zip(weights) {
                            *o += s * v;
                        }
                    }
                }
            }
        }
    };
    let (out_h, out_w) = spec.output();
    let mut out = vec![0.0; out_h * out_w * cout];
    parallel_rows(&mut out, out_w * cout, |y, row| {
        row.chunks_exact_mut(cout).enumerate().for_each(|(x, out)| pixel(y, x, out));
    });
    out
}

/// Maximum over `window x window` around every `stride`-th pixel of `[h, w, c]`, NaN where one of them is; pixels outside the map
/// do not count.
pub fn max_pool(src: &[f64], (h, w): (usize, usize), window: usize, stride: usize) -> Vec<f64> {
    let c = src.len() / (h * w);
    let (out_h, out_w) = (h.div_ceil(stride), w.div_ceil(stride));
    let reach =
        |at: usize, n: usize| (at * stride).saturating_sub(window / 2)..(at * stride + window / 2 + 1).min(n);
    let mut out = vec![f64::NEG_INFINITY; out_h * out_w * c];
    for y in 0..out_h {
        for x in 0..out_w {
            let out = &mut out[(y * out_w + x) * c..][..c];
            for sy in reach(y, h) {
                for sx in reach(x, w) {
                    for (o, v) in out.iter_mut().zip(&src[(sy * w + sx) * c..]) {
                        // Not f64::max, which would ignore a NaN.
                        *o = if *v > *o || v.is_nan() { *v } else { *o };
                    }
                }
            }
        }
    }
    out
}

/// `softmax(q k^T) v` of each head; `q`, `k`, `v` are `[tokens, c]`, queries already scaled.
pub fn attention(q: &[f64], k: &[f64], v: &[f64], c: usize, heads: usize) -> Vec<f64> {
    let d = c / heads;
    let mut out = vec![0.0; q.len()];
    parallel_rows(&mut out, c, |i, out| {
        for (head, out) in out.chunks_exact_mut(d).enumerate() {
            let query = &q[i * c + head * d..][..d];
            let logits: Vec<f64> = k.chunks_exact(c).map(|k| dot(query, &k[head * d..][..d])).collect();
            for (p, v) in softmax(&logits).into_iter().zip(v.chunks_exact(c)) {
                out.iter_mut().zip(&v[head * d..]).for_each(|(o, v)| *o += p * v);
            }
        }
    });
    out
}

/// `(x - mean) / sqrt(var + eps) * gamma + beta` over each row of as many channels as `gamma` has.
pub fn layer_norm(src: &[f64], gamma: &[f64], beta: &[f64], eps: f64) -> Vec<f64> {
    let mut out = src.to_vec();
    for row in out.chunks_exact_mut(gamma.len()) {
        let n = row.len() as f64;
        let mean = row.iter().sum::<f64>() / n;
        let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        for (i, v) in row.iter_mut().enumerate() {
            *v = (*v - mean) / (var + eps).sqrt() * gamma[i] + beta[i];
        }
    }
    out
}

/// The activation.
pub fn activate(act: Act, x: f64) -> f64 {
    match act {
        Act::None => x,
        // Not f64::max, which would make 0 of a NaN.
        Act::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Act::Silu => x * sigmoid(x),
        Act::Gelu => x * 0.5 * erfc(-x / std::f64::consts::SQRT_2),
    }
}

/// `1 / (1 + exp(-x))`.
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `exp(x_i) / sum_j exp(x_j)`.
pub fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = logits.iter().map(|l| (l - max).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.into_iter().map(|e| e / sum).collect()
}

/// Sum of products.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `1 - erf(x)`: within 3 of zero by `erf(x) = 2 / sqrt(pi) exp(-x^2) sum_n 2^n x^(2n+1) / (2n+1)!!` (DLMF 7.6.2),
/// beyond by the continued fraction DLMF 7.9.1.
fn erfc(x: f64) -> f64 {
    let scale = (-x * x).exp() / std::f64::consts::PI.sqrt();
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..120 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        return 1.0 - 2.0 * scale * sum;
    }
    let a = x.abs();
    let fraction = (1..=60).rev().fold(a, |tail, n| a + f64::from(n) / 2.0 / tail);
    let tail = scale / fraction;
    if x > 0.0 { tail } else { 2.0 - tail }
}

/// Calls `f(i, row)` for every row of `len` elements, on all cores.
fn parallel_rows(data: &mut [f64], len: usize, f: impl Fn(usize, &mut [f64]) + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let rows = (data.len() / len).div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (part, data) in data.chunks_mut(rows * len).enumerate() {
            let f = &f;
            scope.spawn(move || {
                data.chunks_exact_mut(len).enumerate().for_each(|(i, row)| f(part * rows + i, row));
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;

    #[test]
    fn erfc_equals_known_values() {
        for (x, expected) in [
            (0.0, 1.0),
            (0.5, 0.479_500_122_186_953_5),
            (-0.5, 1.520_499_877_813_046_5),
            (2.0, 0.004_677_734_981_047_266),
            (4.0, 1.541_725_790_028_002e-8),
            (-4.0, 2.0 - 1.541_725_790_028_002e-8),
        ] {
            assert_abs_diff_eq!(erfc(x), expected, epsilon = 1e-14);
        }
        // The two formulas meet.
        assert_abs_diff_eq!(erfc(2.999_999_999), erfc(3.0), epsilon = 1e-12);
    }

    #[test]
    fn conv_equals_a_sum_worked_by_hand() {
        // One channel, 3x3 all-ones window over 1..=6 in two rows, zero padding.
        let spec = ConvSpec { h: 2, w: 3, cin: 1, cout: 1, kernel: 3, stride: 1, pad: 1, groups: 1 };
        let src = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let sums = [12.0, 21.0, 16.0, 12.0, 21.0, 16.0];
        assert_eq!(conv(&src, &[1.0; 9], &[0.0], spec), sums);
        // Stride 2 takes every other one; the bias is added.
        assert_eq!(conv(&src, &[1.0; 9], &[0.5], ConvSpec { stride: 2, ..spec }), [12.5, 16.5]);
        // Two groups of one channel: each output sees its own input only.
        let grouped = ConvSpec { h: 1, w: 1, cin: 2, cout: 4, kernel: 1, stride: 1, pad: 0, groups: 2 };
        assert_eq!(conv(&[2.0, 3.0], &[1.0, 10.0, 1.0, 10.0], &[0.0; 4], grouped), [2.0, 20.0, 3.0, 30.0]);
    }

    #[test]
    fn pooling_windows_end_at_the_border() {
        let src = [5.0, 1.0, 2.0, 4.0, 3.0, -7.0];
        assert_eq!(max_pool(&src, (1, 6), 3, 1), [5.0, 5.0, 4.0, 4.0, 4.0, 3.0]);
        assert_eq!(max_pool(&src, (6, 1), 5, 1), [5.0, 5.0, 5.0, 4.0, 4.0, 4.0]);
        // Windows around pixels 0, 2, 4; of the first five, the last window ends at the border, too.
        assert_eq!(max_pool(&src, (1, 6), 3, 2), [5.0, 4.0, 4.0]);
        assert_eq!(max_pool(&src[1..], (1, 5), 3, 2), [2.0, 4.0, 3.0]);
        assert_eq!(max_pool(&[-3.0, -2.0], (1, 2), 3, 2), [-2.0], "the outside is no zero");
        let nan = max_pool(&[1.0, f64::NAN, 3.0, 2.0, 4.0], (1, 5), 3, 1);
        assert!(nan[..3].iter().all(|v| v.is_nan()) && nan[3..] == [4.0, 4.0], "{nan:?}");
    }
}
