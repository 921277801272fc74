//! The exact rewrites: layers as affine maps in f64, merged before anything is rounded to f32.

/// A convolution with a bias, and no activation of its own: `y = W x + b` at every place of the kernel's window.
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
    /// From PyTorch's layout `[cout, cin, kernel, kernel]` (a linear layer is a kernel of 1).
    pub fn new(weight: &[f64], cout: usize, cin: usize, kernel: usize, bias: Vec<f64>) -> Filter {
        let window = kernel * kernel;
        let mut w = vec![0.0; weight.len()];
        for (to, from) in w.chunks_exact_mut(cin * window).zip(weight.chunks_exact(cin * window)) {
            for c in 0..cin {
                for at in 0..window {
                    to[at * cin + c] = from[c * window + at];
                }
            }
        }
        Filter { cout, cin, kernel, weight: w, bias }
    }

    /// Inputs that one output sees.
    fn row(&self) -> usize {
        self.kernel * self.kernel * self.cin
    }

    /// `bn(W x + b) = s W x + s (b - mean) + beta`, `s = gamma / sqrt(var + eps)`.
    pub fn then_bn(mut self, bn: &BatchNorm) -> Filter {
        let row = self.row();
        for o in 0..self.cout {
            let s = bn.gamma[o] / (bn.var[o] + bn.eps).sqrt();
            self.weight[o * row..][..row].iter_mut().for_each(|w| *w *= s);
            self.bias[o] = s * (self.bias[o] - bn.mean[o]) + bn.beta[o];
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
        let cin = self.cin;
        for (w, v) in self.weight.chunks_exact_mut(9 * cin).zip(other.weight.chunks_exact(cin)) {
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
            let rows = self.weight.chunks_exact(self.cin);
            let weight = rows.flat_map(|row| row[from..to].iter().copied()).collect();
            Filter { cin: to - from, weight, bias, ..*self }
        };
        (part(0, at, vec![0.0; self.cout]), part(at, self.cin, self.bias.clone()))
    }

    /// A 1x1 map of `[a, b]` as a map of `[b, a]`, where `a` has `at` channels.
    pub fn swap_input(mut self, at: usize) -> Filter {
        assert_eq!(self.kernel, 1);
        self.weight.chunks_exact_mut(self.cin).for_each(|row| row.rotate_left(at));
        self
    }

    /// This 1x1 map after another one, as a single one: `W (V x + c) + b = (W V) x + (W c + b)`. Nothing lies between
    /// them, and neither pads, so this holds at the borders too (before a padded convolution it would not: there the
    /// border sees zeros, not the inner bias).
    pub fn after(&self, inner: &Filter) -> Filter {
        assert_eq!((self.kernel, inner.kernel, self.cin), (1, 1, inner.cout));
        let mut bias = self.bias.clone();
        for (b, row) in bias.iter_mut().zip(self.weight.chunks_exact(self.cin)) {
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
        self.weight[range.start * row..range.end * row].iter_mut().for_each(|w| *w *= s);
        self.bias[range].iter_mut().for_each(|b| *b *= s);
    }
}

/// `[m, k] x [k, n]`, row-major.
pub(super) fn matmul(a: &[f64], b: &[f64], k: usize, n: usize) -> Vec<f64> {
    let mut c = vec![0.0; a.len() / k * n];
    for (a, c) in a.chunks_exact(k).zip(c.chunks_exact_mut(n)) {
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
    c
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
