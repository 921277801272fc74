//! The Gated Attention Unit over a survivor's keypoint tokens; see [`crate::plan::Gau`] for the maths.

use crate::backend::cpu::math;
use crate::backend::cpu::matrix::Matrix;
use crate::backend::cpu::memory::Block;
use crate::backend::cpu::phase::{Context, Scratch, ScratchSize, Work};
use crate::backend::cpu::simd::{Kernel, Simd};

/// A packed unit; an item is a survivor.
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

/// `out = x / max(|x| / sqrt(d), 1e-5) * gain`, token by token.
struct ScaleNorm<'a> {
    /// `[tokens, dim]`.
    x: &'a [f32],
    dim: usize,
    /// `[tokens, pitch]`.
    out: &'a mut [f32],
    pitch: usize,
    gain: f32,
}

impl Kernel for ScaleNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        for (x, out) in self.x.chunks_exact(self.dim).zip(self.out.chunks_exact_mut(self.pitch)) {
            let squares: f32 = x.iter().map(|v| v * v).sum();
            let norm = squares.sqrt() * (self.dim as f32).powf(-0.5);
            // Not f32::max, which would make 1e-5 of a NaN.
            let norm = if norm < 1e-5 { 1e-5 } else { norm };
            for (o, v) in out.iter_mut().zip(x) {
                *o = v / norm * self.gain;
            }
        }
    }
}

/// SiLU of whole vectors.
struct Activate<'a>(&'a mut [f32]);

impl Kernel for Activate<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        for x in self.0.chunks_exact_mut(S::LANES) {
            s.store_slice(x, math::silu(s, s.load_slice(x)));
        }
    }
}

/// Scores, squared ReLU, weighted sum and gate of one survivor: `u * (A v)` into the u part of `uv`.
struct Mix<'a> {
    /// `[tokens, pitch]`: u, v, base.
    uv: &'a mut [f32],
    pitch: usize,
    expansion: usize,
    q: (&'a [f32], &'a [f32]),
    k: (&'a [f32], &'a [f32]),
    /// `[tokens, key_dim]` each.
    queries: &'a mut [f32],
    keys: &'a mut [f32],
    /// `[tokens, expansion]`.
    mixed: &'a mut [f32],
}

impl Kernel for Mix<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Mix { uv, pitch, expansion: e, q, k, queries, keys, mixed } = self;
        let key_dim = q.0.len();
        for (out, (gain, bias)) in [(&mut *queries, q), (&mut *keys, k)] {
            let tokens = out.chunks_exact_mut(key_dim).zip(bias.chunks_exact(key_dim));
            for ((out, bias), row) in tokens.zip(uv.chunks_exact(pitch)) {
                let base = &row[2 * e..];
                for (((out, base), gain), bias) in out.iter_mut().zip(base).zip(gain).zip(bias) {
                    *out = base * gain + bias;
                }
            }
        }
        let whole = key_dim / S::LANES * S::LANES;
        for (query, mixed) in queries.chunks_exact(key_dim).zip(mixed.chunks_exact_mut(e)) {
            mixed.fill(0.0);
            for (key, row) in keys.chunks_exact(key_dim).zip(uv.chunks_exact(pitch)) {
                let mut sum = s.splat(0.0);
                for (q, k) in query.chunks_exact(S::LANES).zip(key.chunks_exact(S::LANES)) {
                    sum = s.mul_add(s.load_slice(q), s.load_slice(k), sum);
                }
                let mut dot = s.reduce_add(sum);
                for (q, k) in query[whole..].iter().zip(&key[whole..]) {
                    dot += q * k;
                }
                let score = dot / (key_dim as f32).sqrt();
                // Not f32::max, which would make 0 of a NaN.
                let score = if score < 0.0 { 0.0 } else { score };
                let weight = score * score;
                for (o, v) in mixed.iter_mut().zip(&row[e..2 * e]) {
                    *o += weight * v;
                }
            }
        }
        for (row, mixed) in uv.chunks_exact_mut(pitch).zip(mixed.chunks_exact(e)) {
            for (u, mixed) in row.iter_mut().zip(mixed) {
                *u *= mixed;
            }
        }
    }
}

/// `out = sum + x * gain`.
struct Residual<'a> {
    /// `[tokens, pitch]`.
    sum: &'a [f32],
    pitch: usize,
    /// `[tokens, dim]` each.
    x: &'a [f32],
    out: &'a mut [f32],
    /// `[dim]`.
    gain: &'a [f32],
}

impl Kernel for Residual<'_> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        let dim = self.gain.len();
        let rows = self.out.chunks_exact_mut(dim).zip(self.x.chunks_exact(dim));
        for ((out, x), sum) in rows.zip(self.sum.chunks_exact(self.pitch)) {
            for (((out, x), sum), gain) in out.iter_mut().zip(x).zip(sum).zip(self.gain) {
                *out = sum + x * gain;
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
        let (tokens, dim, pitch, uv_pitch) = (self.tokens, self.dim, self.dim_pitch(), self.uv_pitch());
        // SAFETY: selection is complete.
        let state = unsafe { context.state() };
        // SAFETY: rows are reserved for every survivor; the input is complete, and only this item writes its survivor's
        // output.
        let (x, out) = unsafe {
            let x = state.rows[self.src.0].row(item).add(self.src.1);
            let out = state.rows[self.dst.0].row(item).add(self.dst.1);
            (std::slice::from_raw_parts(x, tokens * dim), std::slice::from_raw_parts_mut(out, tokens * dim))
        };
        let (normed, rest) = scratch.values.split_at_mut(tokens * pitch);
        let (sum, rest) = rest.split_at_mut(tokens * pitch);
        let (uv, rest) = rest.split_at_mut(tokens * uv_pitch);
        let (queries, rest) = rest.split_at_mut(tokens * self.key_dim);
        let (keys, rest) = rest.split_at_mut(tokens * self.key_dim);
        let mixed = &mut rest[..tokens * self.expansion];
        self.simd.vectorize(ScaleNorm { x, dim, out: normed, pitch, gain: self.norm_gain });
        let row = |t: usize| normed[t * pitch..][..dim].as_ptr();
        // SAFETY: rows hold `dim` values, `uv` one of `uv_pitch` for each token.
        unsafe { self.uv.multiply(row, tokens, 0..self.uv.panels(), uv.as_mut_ptr(), uv_pitch) };
        self.simd.vectorize(Activate(uv));
        let (expansion, q, k) = (self.expansion, (&*self.q.0, &*self.q.1), (&*self.k.0, &*self.k.1));
        self.simd.vectorize(Mix { uv, pitch: uv_pitch, expansion, q, k, queries, keys, mixed });
        let row = |t: usize| uv[t * uv_pitch..][..expansion].as_ptr();
        // SAFETY: rows hold `expansion` values, `sum` one of `pitch` for each token.
        unsafe { self.out.multiply(row, tokens, 0..self.out.panels(), sum.as_mut_ptr(), pitch) };
        self.simd.vectorize(Residual { sum, pitch, x, out, gain: &self.residual_gain });
    }
}
