//! The Gated Attention Unit over a survivor's keypoint tokens; see [`crate::plan::Gau`] for the maths.

use crate::backend::cpu::math;
use crate::backend::cpu::matrix::Matrix;
use crate::backend::cpu::memory::Block;
use crate::backend::cpu::simd::{Kernel, Simd};
use crate::backend::cpu::work::{Context, Scratch, ScratchSize, Work};

/// A packed unit; an item a survivor.
pub struct Gau<S> {
    /// Token.
    pub simd: S,
    /// Buffer and first channel of the tokens in.
    pub src: (usize, usize),
    /// Buffer and first channel of the tokens out.
    pub dst: (usize, usize),
    /// `K`.
    pub tokens: usize,
    /// `d`.
    pub dim: usize,
    /// `e`.
    pub expansion: usize,
    /// `s`.
    pub key_dim: usize,
    /// ScaleNorm's gain.
    pub norm_gain: f32,
    /// To u, v and base.
    pub uv: Matrix<S>,
    /// `[s]` and `[K, s]`.
    pub q: (Block, Block),
    /// `[s]` and `[K, s]`.
    pub k: (Block, Block),
    /// Back to `d`.
    pub out: Matrix<S>,
    /// `[d]`.
    pub residual_gain: Block,
}

impl<S: Simd> Gau<S> {
    /// Values from a token of u, v, base to the next.
    fn uv_pitch(&self) -> usize {
        self.uv.width()
    }

    fn dim_pitch(&self) -> usize {
        self.out.width()
    }
}

/// `n = x / max(|x| / sqrt(d), 1e-5) * gain`, token by token.
struct ScaleNorm {
    x: *const f32,
    out: *mut f32,
    pitch: usize,
    tokens: usize,
    dim: usize,
    gain: f32,
}

impl Kernel for ScaleNorm {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        for token in 0..self.tokens {
            // SAFETY: `dim` values a token in, `pitch >= dim` out.
            unsafe {
                let x = std::slice::from_raw_parts(self.x.add(token * self.dim), self.dim);
                let out = std::slice::from_raw_parts_mut(self.out.add(token * self.pitch), self.dim);
                let squares: f32 = x.iter().map(|v| v * v).sum();
                let norm = (squares.sqrt() * (self.dim as f32).powf(-0.5)).max(1e-5);
                for (o, v) in out.iter_mut().zip(x) {
                    *o = v / norm * self.gain;
                }
            }
        }
    }
}

/// SiLU of `n` values, rounded up to whole vectors.
struct Activate {
    x: *mut f32,
    n: usize,
}

impl Kernel for Activate {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        for i in (0..self.n).step_by(S::LANES) {
            // SAFETY: the scratch rows are padded to whole vectors.
            unsafe { s.store(self.x.add(i), math::silu(s, s.load(self.x.add(i)))) };
        }
    }
}

/// Scores, squared ReLU, weighted sum and gate of one survivor: `uv` rows in, `u * (A v)` into the u part.
struct Mix<'a> {
    uv: *mut f32,
    pitch: usize,
    tokens: usize,
    expansion: usize,
    key_dim: usize,
    q: (&'a [f32], &'a [f32]),
    k: (&'a [f32], &'a [f32]),
    /// `[tokens, key_dim]` twice, then `[tokens, expansion]`.
    scratch: *mut f32,
}

impl Kernel for Mix<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Mix { uv, pitch, tokens, expansion: e, key_dim, scratch, .. } = self;
        // SAFETY: rows hold 2 e + key_dim values; scratch as stated above.
        unsafe {
            let (queries, keys) = (scratch, scratch.add(tokens * key_dim));
            let mixed = keys.add(tokens * key_dim);
            for t in 0..tokens {
                for j in 0..key_dim {
                    let base = *uv.add(t * pitch + 2 * e + j);
                    *queries.add(t * key_dim + j) = base * self.q.0[j] + self.q.1[t * key_dim + j];
                    *keys.add(t * key_dim + j) = base * self.k.0[j] + self.k.1[t * key_dim + j];
                }
            }
            let whole = key_dim / S::LANES * S::LANES;
            for t in 0..tokens {
                let row = mixed.add(t * e);
                std::slice::from_raw_parts_mut(row, e).fill(0.0);
                for other in 0..tokens {
                    let (q, k) = (queries.add(t * key_dim), keys.add(other * key_dim));
                    let mut sum = s.splat(0.0);
                    for j in (0..whole).step_by(S::LANES) {
                        sum = s.mul_add(s.load(q.add(j)), s.load(k.add(j)), sum);
                    }
                    let mut dot = s.reduce_add(sum);
                    for j in whole..key_dim {
                        dot += *q.add(j) * *k.add(j);
                    }
                    let score = (dot / (key_dim as f32).sqrt()).max(0.0);
                    let weight = score * score;
                    let v = std::slice::from_raw_parts(uv.add(other * pitch + e), e);
                    for (o, v) in std::slice::from_raw_parts_mut(row, e).iter_mut().zip(v) {
                        *o += weight * v;
                    }
                }
            }
            for t in 0..tokens {
                for j in 0..e {
                    *uv.add(t * pitch + j) *= *mixed.add(t * e + j);
                }
            }
        }
    }
}

/// `out += x * gain`, copied to its place.
struct Residual<'a> {
    sum: *const f32,
    pitch: usize,
    x: *const f32,
    out: *mut f32,
    tokens: usize,
    gain: &'a [f32],
}

impl Kernel for Residual<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        let dim = self.gain.len();
        for token in 0..self.tokens {
            for (c, gain) in self.gain.iter().enumerate() {
                // SAFETY: `dim` values a token in x and out, `pitch >= dim` in sum.
                unsafe {
                    *self.out.add(token * dim + c) =
                        *self.sum.add(token * self.pitch + c) + *self.x.add(token * dim + c) * gain;
                }
            }
        }
    }
}

impl<S: Simd> Work for Gau<S> {
    unsafe fn items(&self, context: &Context<'_>) -> usize {
        // SAFETY: selection is an earlier phase.
        unsafe { context.state() }.survivors.len()
    }

    fn scratch(&self) -> ScratchSize {
        let per_token = self.dim_pitch() * 2 + self.uv_pitch() + 2 * self.key_dim + self.expansion;
        ScratchSize { values: self.tokens * per_token + 16, rows: 0 }
    }

    unsafe fn run(&self, item: usize, context: &Context<'_>, scratch: &mut Scratch) {
        let (tokens, dim, pitch) = (self.tokens, self.dim, self.dim_pitch());
        // SAFETY: selection is complete and rows are reserved; scratch is laid out as `scratch` counts it.
        unsafe {
            let state = context.state();
            let x = state.rows[self.src.0].row(item).add(self.src.1).cast_const();
            let out = state.rows[self.dst.0].row(item).add(self.dst.1);
            let normed = scratch.values.as_mut_ptr();
            let sum = normed.add(tokens * pitch);
            let uv = sum.add(tokens * pitch);
            let rest = uv.add(tokens * self.uv_pitch());
            self.simd.vectorize(ScaleNorm { x, out: normed, pitch, tokens, dim, gain: self.norm_gain });
            let row = |t: usize| normed.add(t * pitch).cast_const();
            self.uv.multiply(row, tokens, 0..self.uv.panels(), uv, self.uv_pitch());
            self.simd.vectorize(Activate { x: uv, n: tokens * self.uv_pitch() });
            self.simd.vectorize(Mix {
                uv,
                pitch: self.uv_pitch(),
                tokens,
                expansion: self.expansion,
                key_dim: self.key_dim,
                q: (&self.q.0, &self.q.1),
                k: (&self.k.0, &self.k.1),
                scratch: rest,
            });
            let row = |t: usize| uv.add(t * self.uv_pitch()).cast_const();
            self.out.multiply(row, tokens, 0..self.out.panels(), sum, pitch);
            self.simd.vectorize(Residual { sum, pitch, x, out, tokens, gain: &self.residual_gain });
        }
    }
}
