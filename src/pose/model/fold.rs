//! The exact rewrites: layers as affine maps in f64, merged before anything is rounded to f32.

/// A convolution with a bias, and no activation of its own: `y = W x + b` at every place of the kernel's window.
///
/// Where a network is built without values, filters have extents only, and `weight` and `bias` are empty. Every rewrite
/// below holds for these too.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    /// Output channels.
    pub cout: usize,
    /// Input channels, of one group.
    pub cin: usize,
    /// Height and width of the window.
    pub kernel: usize,
    /// `[cout, kernel, kernel, cin]`.
    pub weight: Vec<f64>,
    /// `[cout]`.
    pub bias: Vec<f64>,
}

/// Batch normalisation in inference: `y = (x - mean) / sqrt(var + eps) * gamma + beta`.
pub(super) struct BatchNorm {
    pub gamma: Vec<f64>,
    pub beta: Vec<f64>,
    pub mean: Vec<f64>,
    pub var: Vec<f64>,
    pub eps: f64,
}

impl Filter {
    /// From PyTorch's layout `[cout, cin, kernel, kernel]` (a linear layer is a kernel of 1), without a bias.
    pub fn new(weight: &[f32], cout: usize, cin: usize, kernel: usize) -> Filter {
        let window = kernel * kernel;
        let row = (cin * window).max(1);
        let bias = vec![0.0; weight.len() / row];
        if window == 1 {
            let weight = weight.iter().copied().map(f64::from).collect();
            return Filter { cout, cin, kernel, weight, bias };
        }
        let mut w = vec![0.0; weight.len()];
        for (to, from) in w.chunks_exact_mut(row).zip(weight.chunks_exact(row)) {
            for at in 0..window {
                for (c, to) in to[at * cin..][..cin].iter_mut().enumerate() {
                    *to = f64::from(from[c * window + at]);
                }
            }
        }
        Filter { cout, cin, kernel, weight: w, bias }
    }

    /// Inputs that one output sees; 1 if there are none, so that any filter without values can be cut into rows.
    fn row(&self) -> usize {
        (self.kernel * self.kernel * self.cin).max(1)
    }

    /// `W x + bias`.
    pub fn plus_bias(self, bias: Vec<f64>) -> Filter {
        Filter { bias, ..self }
    }

    /// `bn(W x + b) = s W x + s (b - mean) + beta`, `s = gamma / sqrt(var + eps)`.
    pub fn then_bn(mut self, bn: &BatchNorm) -> Filter {
        let row = self.row();
        let rows = self.weight.chunks_exact_mut(row).zip(&mut self.bias);
        for (o, (row, bias)) in rows.enumerate() {
            let s = bn.gamma[o] / (bn.var[o] + bn.eps).sqrt();
            row.iter_mut().for_each(|w| *w *= s);
            *bias = s * (*bias - bn.mean[o]) + bn.beta[o];
        }
        self
    }

    /// Both maps of the same input, outputs one after the other.
    pub fn stack(mut self, other: Filter) -> Filter {
        assert_eq!((self.cin, self.kernel), (other.cin, other.kernel));
        self.cout += other.cout;
        self.weight.extend(other.weight);
        self.bias.extend(other.bias);
        self
    }

    /// A 3x3 plus a 1x1 convolution of the same input: the 1x1 is a 3x3 that sees its centre only. Both pad with
    /// zeros before any bias, so they agree at the borders too.
    pub fn plus_1x1(mut self, other: &Filter) -> Filter {
        assert_eq!((self.kernel, other.kernel, self.cin, self.cout), (3, 1, other.cin, other.cout));
        let (cin, row) = (self.cin, self.row());
        for (w, v) in self.weight.chunks_exact_mut(row).zip(other.weight.chunks_exact(other.row())) {
            w[4 * cin..5 * cin].iter_mut().zip(v).for_each(|(w, v)| *w += v);
        }
        self.bias.iter_mut().zip(&other.bias).for_each(|(b, c)| *b += c);
        self
    }

    /// Splits a 1x1 map of `[a, b]` into one of `a` (the first `at` channels, without bias) and one of `b`: their sum
    /// is the whole.
    pub fn split_input(&self, at: usize) -> (Filter, Filter) {
        assert_eq!(self.kernel, 1);
        let part = |from: usize, to: usize, bias: Vec<f64>| {
            let rows = self.weight.chunks_exact(self.row());
            let weight = rows.flat_map(|row| row[from..to].iter().copied()).collect();
            Filter { cin: to - from, weight, bias, ..*self }
        };
        (part(0, at, vec![0.0; self.bias.len()]), part(at, self.cin, self.bias.clone()))
    }

    /// A 1x1 map of `[a, b]` as a map of `[b, a]`, where `a` has `at` channels.
    pub fn swap_input(mut self, at: usize) -> Filter {
        assert_eq!(self.kernel, 1);
        let row = self.row();
        self.weight.chunks_exact_mut(row).for_each(|row| row.rotate_left(at));
        self
    }

    /// This 1x1 map after another one, as a single one: `W (V x + c) + b = (W V) x + (W c + b)`. Nothing lies between
    /// them, and neither pads, so this holds at the borders too (before a padded convolution it would not: there the
    /// border sees zeros, not the inner bias).
    pub fn after(&self, inner: &Filter) -> Filter {
        assert_eq!((self.kernel, inner.kernel, self.cin), (1, 1, inner.cout));
        let mut bias = self.bias.clone();
        for (b, row) in bias.iter_mut().zip(self.weight.chunks_exact(self.row())) {
            *b += row.iter().zip(&inner.bias).map(|(w, c)| w * c).sum::<f64>();
        }
        let weight = matmul(&self.weight, &inner.weight, self.cin, inner.cin);
        Filter { cout: self.cout, cin: inner.cin, kernel: 1, weight, bias }
    }

    /// A 3x3 convolution of the Focus layer's twelve channels as one 6x6 convolution of stride 2 of the image.
    ///
    /// Focus puts pixel `(2 i + r, 2 j + s)` into channel group `r + 2 s` of cell `(i, j)`
    /// (`backbones/csp_darknet.py`, `Focus.forward`), so cell tap `(u, v)` of that group is image tap
    /// `(2 u + r, 2 v + s)`. A border of one zero cell is one of two zero pixels.
    pub fn unfocus(&self) -> Filter {
        assert_eq!((self.kernel, self.cin % 4), (3, 0));
        let c = self.cin / 4;
        let mut weight = vec![0.0; self.weight.len()];
        for (to, from) in weight.chunks_exact_mut(36 * c).zip(self.weight.chunks_exact(36 * c)) {
            for u in 0..3 {
                for v in 0..3 {
                    for r in 0..2 {
                        for s in 0..2 {
                            let cell = &from[(u * 3 + v) * 4 * c + (r + 2 * s) * c..][..c];
                            to[((2 * u + r) * 6 + 2 * v + s) * c..][..c].copy_from_slice(cell);
                        }
                    }
                }
            }
        }
        Filter { cout: self.cout, cin: c, kernel: 6, weight, bias: self.bias.clone() }
    }

    /// Multiplies outputs `range` by `s`.
    pub fn scale_outputs(&mut self, range: std::ops::Range<usize>, s: f64) {
        let row = self.row();
        let rows = self.weight.chunks_exact_mut(row).zip(&mut self.bias);
        for (row, bias) in rows.skip(range.start).take(range.len()) {
            row.iter_mut().for_each(|w| *w *= s);
            *bias *= s;
        }
    }
}

/// `[m, k] x [k, n]`, row-major, on all cores.
pub(super) fn matmul(a: &[f64], b: &[f64], k: usize, n: usize) -> Vec<f64> {
    if a.is_empty() {
        return Vec::new();
    }
    let m = a.len() / k;
    let mut c = vec![0.0; m * n];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let rows = m.div_ceil(threads).max(16);
    std::thread::scope(|scope| {
        for (a, c) in a.chunks(rows * k).zip(c.chunks_mut(rows * n)) {
            scope.spawn(move || {
                a.chunks_exact(k).zip(c.chunks_exact_mut(n)).for_each(|(a, c)| row_times(a, b, c))
            });
        }
    });
    c
}

/// `c += a B` for one row, four rows of `B` at a time.
fn row_times(a: &[f64], b: &[f64], c: &mut [f64]) {
    let n = c.len();
    let mut a = a.chunks_exact(4);
    let mut b = b.chunks_exact(4 * n);
    for (a, b) in (&mut a).zip(&mut b) {
        let (b0, b) = b.split_at(n);
        let (b1, b) = b.split_at(n);
        let (b2, b3) = b.split_at(n);
        for j in 0..n {
            c[j] += a[0] * b0[j] + a[1] * b1[j] + a[2] * b2[j] + a[3] * b3[j];
        }
    }
    for (a, b) in a.remainder().iter().zip(b.remainder().chunks_exact(n)) {
        c.iter_mut().zip(b).for_each(|(c, b)| *c += a * b);
    }
}

/// The encoder's position encoding of an `h x w` map (mmpose `SinePositionalEncoding`, `spatial_dim = 2`): for each
/// cell, row by row, `[cos(y / T), sin(y / T), cos(x / T), sin(x / T)]` with `T_i = temperature^(4 i / dim)`.
pub(super) fn position_encoding(h: usize, w: usize, dim: usize, temperature: f64) -> Vec<f64> {
    let quarter = dim / 4;
    let period: Vec<f64> = (0..quarter).map(|i| temperature.powf(i as f64 / quarter as f64)).collect();
    let mut code = Vec::with_capacity(h * w * dim);
    for y in 0..h {
        for x in 0..w {
            for at in [y, x] {
                code.extend(period.iter().map(|t| (at as f64 / t).cos()));
                code.extend(period.iter().map(|t| (at as f64 / t).sin()));
            }
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::reference::ops::{self, ConvSpec};

    /// Numbers between -1 and 1 without a pattern.
    fn noise(n: usize, salt: usize) -> Vec<f64> {
        (0..n).map(|i| ((i * 7919 + salt * 104_729 + 17) as f64).sin() * 0.9).collect()
    }

    fn filter(cout: usize, cin: usize, kernel: usize, salt: usize) -> Filter {
        let weight = noise(cout * cin * kernel * kernel, salt);
        Filter { cout, cin, kernel, weight, bias: noise(cout, salt + 1) }
    }

    /// Applies a filter to an `h x w` map, with the padding that keeps its size.
    fn apply(f: &Filter, src: &[f64], h: usize, w: usize, stride: usize, groups: usize) -> Vec<f64> {
        let pad = if f.kernel == 6 { 2 } else { f.kernel / 2 };
        let (cin, cout, kernel) = (f.cin * groups, f.cout, f.kernel);
        ops::conv(src, &f.weight, &f.bias, ConvSpec { h, w, cin, cout, kernel, stride, pad, groups })
    }

    fn assert_close(a: &[f64], b: &[f64]) {
        assert_eq!(a.len(), b.len());
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            assert!((a - b).abs() < 1e-12 * (1.0 + b.abs()), "[{i}]: {a} and {b}");
        }
    }

    fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
        a.iter().zip(b).map(|(a, b)| a + b).collect()
    }

    fn concat(a: &[f64], ca: usize, b: &[f64], cb: usize) -> Vec<f64> {
        let rows = a.chunks_exact(ca).zip(b.chunks_exact(cb));
        rows.flat_map(|(a, b)| a.iter().chain(b).copied()).collect()
    }

    #[test]
    fn layout_is_read_from_pytorch() {
        let f = Filter::new(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], 1, 2, 2);
        assert_eq!(f.weight, [1.0, 5.0, 2.0, 6.0, 3.0, 7.0, 4.0, 8.0]);
    }

    #[test]
    fn batch_norm_after_a_convolution() {
        let (h, w, f) = (4, 5, filter(3, 2, 3, 1));
        let positive = |salt| noise(3, salt).into_iter().map(|v| v.abs() + 0.1).collect();
        let bn = BatchNorm {
            gamma: noise(3, 2),
            beta: noise(3, 3),
            mean: noise(3, 4),
            var: positive(5),
            eps: 1e-3,
        };
        let src = noise(h * w * 2, 6);
        let mut separate = apply(&f, &src, h, w, 1, 1);
        for row in separate.chunks_exact_mut(3) {
            for (c, v) in row.iter_mut().enumerate() {
                *v = (*v - bn.mean[c]) / (bn.var[c] + bn.eps).sqrt() * bn.gamma[c] + bn.beta[c];
            }
        }
        assert_close(&apply(&f.then_bn(&bn), &src, h, w, 1, 1), &separate);
    }

    #[test]
    fn a_1x1_branch_joins_a_3x3_at_the_borders_too() {
        let (h, w) = (3, 4);
        let (wide, narrow) = (filter(3, 2, 3, 1), filter(3, 2, 1, 2));
        let src = noise(h * w * 2, 3);
        let separate = sum(&apply(&wide, &src, h, w, 1, 1), &apply(&narrow, &src, h, w, 1, 1));
        assert_close(&apply(&wide.plus_1x1(&narrow), &src, h, w, 1, 1), &separate);
    }

    #[test]
    fn linear_after_linear() {
        let (outer, inner) = (filter(7, 5, 1, 1), filter(5, 6, 1, 2));
        let src = noise(4 * 6, 3);
        let separate = apply(&outer, &apply(&inner, &src, 2, 2, 1, 1), 2, 2, 1, 1);
        assert_close(&apply(&outer.after(&inner), &src, 2, 2, 1, 1), &separate);
    }

    #[test]
    fn halves_of_a_concat() {
        let (a, b, whole) = (noise(4 * 3, 1), noise(4 * 2, 2), filter(6, 5, 1, 3));
        let expected = apply(&whole, &concat(&a, 3, &b, 2), 2, 2, 1, 1);
        let (of_a, of_b) = whole.split_input(3);
        assert_close(&sum(&apply(&of_a, &a, 2, 2, 1, 1), &apply(&of_b, &b, 2, 2, 1, 1)), &expected);
        assert_close(&apply(&whole.swap_input(3), &concat(&b, 2, &a, 3), 2, 2, 1, 1), &expected);
    }

    #[test]
    fn two_filters_of_one_input() {
        let (f, g, src) = (filter(2, 3, 1, 1), filter(4, 3, 1, 2), noise(4 * 3, 3));
        let separate = concat(&apply(&f, &src, 2, 2, 1, 1), 2, &apply(&g, &src, 2, 2, 1, 1), 4);
        assert_close(&apply(&f.stack(g), &src, 2, 2, 1, 1), &separate);
    }

    #[test]
    fn focus_and_3x3_is_one_6x6() {
        let (h, w, f) = (8, 6, filter(5, 12, 3, 1));
        let image = noise(h * w * 3, 2);
        let mut cells = Vec::new();
        for y in 0..h / 2 {
            for x in 0..w / 2 {
                // `Focus.forward`: top left, bottom left, top right, bottom right.
                for (row, column) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                    cells.extend(&image[((2 * y + row) * w + 2 * x + column) * 3..][..3]);
                }
            }
        }
        assert_close(&apply(&f.unfocus(), &image, h, w, 2, 1), &apply(&f, &cells, h / 2, w / 2, 1, 1));
    }

    #[test]
    fn products_of_all_shapes() {
        for (m, k, n) in [(1, 1, 1), (3, 4, 5), (37, 6, 2), (40, 9, 3)] {
            let (a, b) = (noise(m * k, 1), noise(k * n, 2));
            let entry = |i: usize| (0..k).map(|l| a[i / n * k + l] * b[l * n + i % n]).sum::<f64>();
            assert_close(&matmul(&a, &b, k, n), &(0..m * n).map(entry).collect::<Vec<_>>());
        }
    }
}
