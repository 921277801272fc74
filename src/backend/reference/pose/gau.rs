//! The Gated Attention Unit over a survivor's keypoint tokens.

use crate::backend::reference::Reference;
use crate::backend::reference::ops::{activate, dot};
use crate::plan::{Act, Gau};

impl Reference {
    /// The formulas of [`Gau`], survivor by survivor.
    pub(super) fn gau(&mut self, gau: &Gau) {
        let Gau { tokens, dim, expansion: e, key_dim: s, .. } = *gau;
        let norm_gain = self.tensor(gau.norm_gain)[0];
        let (uv, out, residual_gain) =
            (self.tensor(gau.uv), self.tensor(gau.out), self.tensor(gau.residual_gain));
        let (q_gain, q_bias) = (self.tensor(gau.q_gain), self.tensor(gau.q_bias));
        let (k_gain, k_bias) = (self.tensor(gau.k_gain), self.tensor(gau.k_bias));
        let mut result = Vec::new();
        for x in self.map(gau.src).chunks_exact(tokens * dim) {
            let (mut u, mut v, mut q, mut k) = (vec![], vec![], vec![], vec![]);
            for (i, x) in x.chunks_exact(dim).enumerate() {
                let norm = dot(x, x).sqrt() / (dim as f64).sqrt();
                // Not f64::max, which would make 1e-5 of a NaN.
                let norm = if norm < 1e-5 { 1e-5 } else { norm };
                let n: Vec<f64> = x.iter().map(|x| x / norm * norm_gain).collect();
                let z: Vec<f64> = uv.chunks_exact(dim).map(|row| activate(Act::Silu, dot(row, &n))).collect();
                let (base, bias) = (&z[2 * e..], i * s);
                u.push(z[..e].to_vec());
                v.push(z[e..2 * e].to_vec());
                q.push((0..s).map(|j| base[j] * q_gain[j] + q_bias[bias + j]).collect::<Vec<_>>());
                k.push((0..s).map(|j| base[j] * k_gain[j] + k_bias[bias + j]).collect::<Vec<_>>());
            }
            for i in 0..tokens {
                let mut gated = vec![0.0; e];
                for j in 0..tokens {
                    let a = (dot(&q[i], &k[j]) / (s as f64).sqrt()).max(0.0).powi(2);
                    gated.iter_mut().zip(&v[j]).for_each(|(g, v)| *g += a * v);
                }
                gated.iter_mut().zip(&u[i]).for_each(|(g, u)| *g *= u);
                let x = &x[i * dim..][..dim];
                result.extend((0..dim).map(|c| dot(&out[c * e..][..e], &gated) + x[c] * residual_gain[c]));
            }
        }
        self.set_map(gau.dst, &result);
    }
}
