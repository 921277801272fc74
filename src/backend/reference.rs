//! The reference: every operation of a [`Plan`] in f64, written as its definition reads. Slow, and the measure of all
//! other backends.
//!
//! All buffers stay intact after a run. A single step can be executed on inputs of one's choice: [`Reference::set_map`]
//! (or [`Reference::set_rows`]) its inputs, [`Reference::run_steps`], then [`Reference::map`] its output.

use super::{Executor, Frame, RunOptions, SelectParams, StepTime, Survivors};
use crate::error::{Error, Result};
use crate::plan::{
    Act, BinAxis, BinDecode, BufferId, Conv, Extent, Gau, GridLevel, Op, Plan, PreAdd, TensorId, View,
};
use std::ops::Range;
use std::time::Instant;

/// A survivor of [`Op::Select`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Person {
    /// Index of the head level.
    pub level: usize,
    /// Row-major index of the grid cell in its level.
    pub cell: usize,
    /// `sigmoid(cls)`.
    pub score: f64,
    /// Box centre in network-input pixels.
    pub center: [f64; 2],
    /// Box width and height in network-input pixels.
    pub size: [f64; 2],
    /// Grid point.
    pub prior: [f64; 2],
}

impl Person {
    /// `x1, y1, x2, y2`.
    pub fn corners(&self) -> [f64; 4] {
        let ([x, y], [w, h]) = (self.center, self.size);
        [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0]
    }
}

/// Executes a plan in f64.
pub struct Reference {
    plan: Plan,
    /// Values of every buffer; of survivor rows, one row a person.
    buffers: Vec<Vec<f64>>,
    people: Vec<Person>,
    /// Probabilities of the last [`Op::BinDecode`], x and y.
    heatmaps: [Vec<f64>; 2],
    options: RunOptions,
}

impl Reference {
    /// Allocates all maps, as zeros.
    pub fn new(plan: Plan) -> Reference {
        let size = |b: &crate::plan::Buffer| match b.extent {
            Extent::Map { h, w } => h * w * b.c,
            Extent::Survivors => 0,
        };
        let buffers = plan.buffers.iter().map(|b| vec![0.0; size(b)]).collect();
        Reference {
            plan,
            buffers,
            people: vec![],
            heatmaps: [vec![], vec![]],
            options: RunOptions::default(),
        }
    }

    /// Runs the whole plan on a network input: `h * w * 3` values, BGR, 0..255.
    ///
    /// # Panics
    /// If `input` is of another size.
    pub fn run(&mut self, input: &[f32], options: &RunOptions) -> Survivors {
        for step in 0..self.plan.steps.len() {
            if let Op::Letterbox { dst } = self.plan.steps[step].op {
                let values: Vec<f64> = input.iter().map(|&v| f64::from(v)).collect();
                self.set_map(dst, &values);
            }
        }
        self.options = *options;
        self.run_steps(0..self.plan.steps.len());
        self.survivors()
    }

    /// Executes some of the steps on what the buffers hold; [`Op::Letterbox`] does nothing.
    pub fn run_steps(&mut self, steps: Range<usize>) {
        for i in steps {
            let op = self.plan.steps[i].op.clone();
            self.execute(&op);
        }
    }

    /// Sets the thresholds for [`Reference::run_steps`].
    pub fn set_options(&mut self, options: &RunOptions) {
        self.options = *options;
    }

    /// Values of a view of a map, `[h, w, c]`, or of survivor rows, `[people, c]`.
    pub fn map(&self, view: View) -> Vec<f64> {
        let pitch = self.plan.buffer_of(view).c;
        let rows = self.buffers[view.buffer.0].chunks_exact(pitch);
        rows.flat_map(|row| &row[view.c0..view.c0 + view.c]).copied().collect()
    }

    /// Overwrites a view of a map, or of survivor rows once there are survivors.
    ///
    /// # Panics
    /// If `values` are more or fewer than the view holds.
    pub fn set_map(&mut self, view: View, values: &[f64]) {
        let pitch = self.plan.buffer_of(view).c;
        let buffer = &mut self.buffers[view.buffer.0];
        let name = &self.plan.buffers[view.buffer.0].name;
        assert_eq!(values.len(), buffer.len() / pitch * view.c, "values for {name}");
        for (to, from) in buffer.chunks_exact_mut(pitch).zip(values.chunks_exact(view.c)) {
            to[view.c0..view.c0 + view.c].copy_from_slice(from);
        }
    }

    /// Sets the survivors, as [`Op::Select`] would; empties all survivor rows.
    pub fn set_people(&mut self, people: Vec<Person>) {
        for (buffer, values) in self.plan.buffers.iter().zip(&mut self.buffers) {
            if buffer.extent == Extent::Survivors {
                *values = vec![0.0; people.len() * buffer.c];
            }
        }
        self.people = people;
    }

    /// The survivors, best first.
    pub fn people(&self) -> &[Person] {
        &self.people
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Probabilities that the last [`BinDecode`] found, `[people, K, bins]` of x and of y.
    pub fn heatmaps(&self) -> &[Vec<f64>; 2] {
        &self.heatmaps
    }

    /// What the plan's outputs hold.
    pub fn survivors(&self) -> Survivors {
        let single = |v: &[f64]| -> Vec<f32> { v.iter().map(|&v| v as f32).collect() };
        let outputs = |view: Option<View>| view.map_or_else(Vec::new, |view| self.map(view));
        let keypoints = outputs(self.plan.keypoint_xy);
        let visibility: Vec<f64> = outputs(self.plan.keypoint_vis).into_iter().map(sigmoid).collect();
        let [x, y] = &self.heatmaps;
        Survivors {
            scores: self.people.iter().map(|p| p.score as f32).collect(),
            boxes: self.people.iter().map(|p| p.corners().map(|v| v as f32)).collect(),
            priors: self.people.iter().map(|p| p.prior.map(|v| v as f32)).collect(),
            keypoints: keypoints.chunks_exact(2).map(|xy| [xy[0] as f32, xy[1] as f32]).collect(),
            visibility: single(&visibility),
            heatmaps_x: if self.options.heatmaps { single(x) } else { vec![] },
            heatmaps_y: if self.options.heatmaps { single(y) } else { vec![] },
        }
    }

    fn tensor(&self, id: TensorId) -> Vec<f64> {
        self.plan.tensors[id.0].data.iter().map(|&v| f64::from(v)).collect()
    }

    fn execute(&mut self, op: &Op) {
        match op {
            Op::Letterbox { .. } => {}
            Op::Conv(c) => self.conv(c),
            Op::PoolPyramid { src, dst, window } => self.pool_pyramid(*src, *dst, *window),
            Op::Attention { qkv, dst, heads } => self.attention(*qkv, *dst, *heads),
            Op::LayerNorm { src, dst, gamma, beta, eps } => self.layer_norm(*src, *dst, *gamma, *beta, *eps),
            Op::Select { levels } => {
                let people = self.select(levels);
                self.set_people(people);
            }
            Op::SurvivorLinear { src, weight, bias, dst } => self.survivor_linear(src, weight, bias, *dst),
            Op::Gau(g) => self.gau(g),
            Op::BinDecode(d) => self.bin_decode(d),
        }
    }

    fn conv(&mut self, conv: &Conv) {
        let (h, w) = self.plan.hw(conv.dst);
        let (src_h, src_w) = self.plan.hw(conv.src);
        let (cin, cout) = (conv.src.c / conv.groups, conv.dst.c / conv.groups);
        let src = self.map(conv.src);
        // [group, kernel, kernel, cin, cout]: the innermost loop runs over outputs.
        let weight = self.tensor(conv.weight);
        let window = conv.kernel * conv.kernel * cin;
        let mut transposed = vec![0.0; weight.len()];
        for (o, row) in weight.chunks_exact(window).enumerate() {
            for (i, v) in row.iter().enumerate() {
                transposed[(o / cout * window + i) * cout + o % cout] = *v;
            }
        }
        let bias = self.tensor(conv.bias);
        let pre_add = match conv.pre_add {
            PreAdd::None => vec![],
            PreAdd::Same(view) | PreAdd::Upsampled(view) => self.map(view),
            PreAdd::Table(table) => self.tensor(table),
        };
        let post_add = conv.post_add.map_or_else(Vec::new, |view| self.map(view));

        let pixel = |y: usize, x: usize, out: &mut [f64]| {
            out.copy_from_slice(&bias);
            for ky in 0..conv.kernel {
                for kx in 0..conv.kernel {
                    let (Some(sy), Some(sx)) = (
                        (y * conv.stride + ky).checked_sub(conv.pad),
                        (x * conv.stride + kx).checked_sub(conv.pad),
                    ) else {
                        continue;
                    };
                    if sy >= src_h || sx >= src_w {
                        continue;
                    }
                    let src = &src[(sy * src_w + sx) * conv.src.c..][..conv.src.c];
                    for (g, (src, out)) in src.chunks_exact(cin).zip(out.chunks_exact_mut(cout)).enumerate() {
                        let at = g * window + (ky * conv.kernel + kx) * cin;
                        let weight = &transposed[at * cout..][..cin * cout];
                        for (s, weight) in src.iter().zip(weight.chunks_exact(cout)) {
                            for (o, w) in out.iter_mut().zip(weight) {
                                *o += s * w;
                            }
                        }
                    }
                }
            }
            let at = (y * w + x) * conv.dst.c;
            let add = match conv.pre_add {
                PreAdd::None => None,
                PreAdd::Same(_) | PreAdd::Table(_) => Some(at),
                PreAdd::Upsampled(_) => Some((y / 2 * (w / 2) + x / 2) * conv.dst.c),
            };
            for (c, o) in out.iter_mut().enumerate() {
                let sum = *o + add.map_or(0.0, |at| pre_add[at + c]);
                *o = activate(conv.act, sum) + post_add.get(at + c).unwrap_or(&0.0);
            }
        };
        let mut out = vec![0.0; h * w * conv.dst.c];
        parallel_rows(&mut out, w * conv.dst.c, |y, row| {
            for (x, out) in row.chunks_exact_mut(conv.dst.c).enumerate() {
                pixel(y, x, out);
            }
        });
        self.set_map(conv.dst, &out);
    }

    fn pool_pyramid(&mut self, src: View, dst: View, window: usize) {
        let (h, w) = self.plan.hw(src);
        let c = src.c;
        let mut level = self.map(src);
        for i in 0..3 {
            let mut pooled = vec![f64::NEG_INFINITY; level.len()];
            let reach = |at: usize, n: usize| at.saturating_sub(window / 2)..(at + window / 2 + 1).min(n);
            for y in 0..h {
                for x in 0..w {
                    let out = &mut pooled[(y * w + x) * c..][..c];
                    for sy in reach(y, h) {
                        for sx in reach(x, w) {
                            let inside = &level[(sy * w + sx) * c..][..c];
                            out.iter_mut().zip(inside).for_each(|(o, v)| *o = o.max(*v));
                        }
                    }
                }
            }
            self.set_map(dst.slice(i * c, c), &pooled);
            level = pooled;
        }
    }

    fn attention(&mut self, qkv: View, dst: View, heads: usize) {
        let c = dst.c;
        let d = c / heads;
        let (q, k, v) = (self.map(qkv.slice(0, c)), self.map(qkv.slice(c, c)), self.map(qkv.slice(2 * c, c)));
        let mut out = vec![0.0; q.len()];
        parallel_rows(&mut out, c, |i, out| {
            for (head, out) in out.chunks_exact_mut(d).enumerate() {
                let of_head = |row: &'_ [f64]| -> Vec<f64> { row[head * d..][..d].to_vec() };
                let query = of_head(&q[i * c..][..c]);
                let logits: Vec<f64> = k.chunks_exact(c).map(|k| dot(&query, &k[head * d..][..d])).collect();
                for (p, v) in softmax(&logits).into_iter().zip(v.chunks_exact(c)) {
                    out.iter_mut().zip(&v[head * d..][..d]).for_each(|(o, v)| *o += p * v);
                }
            }
        });
        self.set_map(dst, &out);
    }

    fn layer_norm(&mut self, src: View, dst: View, gamma: TensorId, beta: TensorId, eps: f32) {
        let (gamma, beta) = (self.tensor(gamma), self.tensor(beta));
        let mut values = self.map(src);
        for row in values.chunks_exact_mut(src.c) {
            let n = row.len() as f64;
            let mean = row.iter().sum::<f64>() / n;
            let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            for (i, v) in row.iter_mut().enumerate() {
                *v = (*v - mean) / (var + f64::from(eps)).sqrt() * gamma[i] + beta[i];
            }
        }
        self.set_map(dst, &values);
    }

    fn select(&self, levels: &[GridLevel]) -> Vec<Person> {
        let SelectParams { score_thr, nms_thr, max_people, force } = self.options.select;
        let mut candidates = Vec::new();
        for (level, grid) in levels.iter().enumerate() {
            let (_, w) = self.plan.hw(grid.cls);
            let stride = grid.stride as f64;
            let boxes = self.map(grid.bbox);
            for (cell, (logit, b)) in self.map(grid.cls).into_iter().zip(boxes.chunks_exact(4)).enumerate() {
                let prior = [cell % w, cell / w].map(|i| i as f64 * stride + (stride - 1.0) / 2.0);
                let center = [prior[0] + b[0] * stride, prior[1] + b[1] * stride];
                let size = [b[2].exp() * stride, b[3].exp() * stride];
                candidates.push(Person { level, cell, score: sigmoid(logit), center, size, prior });
            }
        }
        // A stable sort: among equals, the grid's order.
        candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
        if let Some(n) = force {
            candidates.truncate(n);
            return candidates;
        }
        candidates.retain(|c| c.score > f64::from(score_thr));
        let mut people: Vec<Person> = Vec::new();
        for candidate in candidates {
            if people.iter().all(|p| iou(&p.corners(), &candidate.corners()) <= f64::from(nms_thr)) {
                people.push(candidate);
            }
        }
        people.truncate(max_people.unwrap_or(usize::MAX));
        people
    }

    fn survivor_linear(&mut self, src: &[View], weight: &[TensorId], bias: &[TensorId], dst: View) {
        let mut rows = Vec::new();
        for person in &self.people {
            let view = src[person.level];
            let pitch = self.plan.buffer_of(view).c;
            let x = &self.buffers[view.buffer.0][person.cell * pitch + view.c0..][..view.c];
            let (weight, bias) = (self.tensor(weight[person.level]), self.tensor(bias[person.level]));
            rows.extend(weight.chunks_exact(view.c).zip(&bias).map(|(w, b)| dot(w, x) + b));
        }
        self.set_map(dst, &rows);
    }

    fn gau(&mut self, gau: &Gau) {
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
                let norm = (dot(x, x).sqrt() / (dim as f64).sqrt()).max(1e-5);
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

    fn bin_decode(&mut self, decode: &BinDecode) {
        let features = self.map(decode.src);
        let mut keypoints = vec![0.0; self.people.len() * decode.tokens * 2];
        let axis = |axis: usize, bins: &BinAxis, keypoints: &mut [f64]| -> Vec<f64> {
            let weight = self.tensor(bins.weight);
            let half = decode.pe_dim / 2;
            let period = |j: usize| f64::from(decode.temperature).powf(j as f64 / half as f64);
            let mut heatmaps = Vec::new();
            for (n, person) in self.people.iter().enumerate() {
                let size = f64::from(decode.padding) * person.size[axis];
                let at = |i: usize| {
                    let t = if bins.bins == 1 { -0.5 } else { i as f64 / (bins.bins - 1) as f64 - 0.5 };
                    person.center[axis] - person.prior[axis] + t * size
                };
                let place: Vec<f64> = (0..bins.bins).map(at).collect();
                let code: Vec<Vec<f64>> = place
                    .iter()
                    .map(|x| {
                        let angle = |j| x / period(j);
                        (0..half).map(|j| angle(j).cos()).chain((0..half).map(|j| angle(j).sin())).collect()
                    })
                    .collect();
                for token in 0..decode.tokens {
                    let f = &features[(n * decode.tokens + token) * decode.dim..][..decode.dim];
                    let r: Vec<f64> = weight.chunks_exact(decode.dim).map(|row| dot(row, f)).collect();
                    let logits: Vec<f64> = code.iter().map(|code| dot(&r, code)).collect();
                    let p = softmax(&logits);
                    keypoints[(n * decode.tokens + token) * 2 + axis] = person.prior[axis] + dot(&p, &place);
                    heatmaps.extend(p);
                }
            }
            heatmaps
        };
        let heatmaps = [axis(0, &decode.x, &mut keypoints), axis(1, &decode.y, &mut keypoints)];
        self.heatmaps = heatmaps;
        self.set_map(decode.dst, &keypoints);
    }
}

impl Executor for Reference {
    fn run(&mut self, frames: &[Frame<'_>], options: &RunOptions) -> Result<Vec<Survivors>> {
        frames.iter().map(|&frame| Ok(self.run_timed(frame, options)?.0)).collect()
    }

    fn run_timed(&mut self, frame: Frame<'_>, options: &RunOptions) -> Result<(Survivors, Vec<StepTime>)> {
        let (w, h) = self.plan.input_size;
        let mut row = vec![0; w * 3];
        let mut input = Vec::with_capacity(h * w * 3);
        for y in 0..h {
            frame.letterbox.sample_row(frame.photo, y, &mut row);
            input.extend(row.iter().map(|&v| f64::from(v)));
        }
        self.options = *options;
        let mut times = Vec::new();
        for step in 0..self.plan.steps.len() {
            let start = Instant::now();
            if let Op::Letterbox { dst } = self.plan.steps[step].op {
                self.set_map(dst, &input);
            }
            self.run_steps(step..step + 1);
            times.push(StepTime { step, kernel: "reference f64".into(), time: start.elapsed() });
        }
        Ok((self.survivors(), times))
    }

    /// Only the last image of a batch is kept, whatever its index.
    fn read(&mut self, view: View, _image: usize) -> Result<Vec<f32>> {
        match self.plan.buffer_of(view).extent {
            Extent::Map { .. } => Ok(self.map(view).into_iter().map(|v| v as f32).collect()),
            Extent::Survivors => {
                let BufferId(id) = view.buffer;
                Err(Error::Usage(format!("{} is no map", self.plan.buffers[id].name)))
            }
        }
    }

    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn describe(&self) -> String {
        "reference, f64".into()
    }
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

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = logits.iter().map(|l| (l - max).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.into_iter().map(|e| e / sum).collect()
}

fn activate(act: Act, x: f64) -> f64 {
    match act {
        Act::None => x,
        Act::Silu => x * sigmoid(x),
        Act::Gelu => x * 0.5 * erfc(-x / std::f64::consts::SQRT_2),
    }
}

/// Intersection over union of two boxes of corners.
fn iou(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let area = |b: &[f64; 4]| (b[2] - b[0]) * (b[3] - b[1]);
    let w = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let h = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    w * h / (area(a) + area(b) - w * h)
}

/// `1 - erf(x)` to about 1e-16 of its size near zero and 1e-14 in the tails: for `|x| < 3` by the series
/// `erf(x) = 2 / sqrt(pi) * exp(-x^2) * sum_n 2^n x^(2n+1) / (2n+1)!!` (DLMF 7.6.2), beyond by the continued fraction
/// of DLMF 7.9.1.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erfc_equals_known_values() {
        // Values from NIST's tables (DLMF 7.23).
        for (x, expected) in [
            (0.0, 1.0),
            (0.5, 0.479_500_122_186_953_5),
            (-0.5, 1.520_499_877_813_046_5),
            (2.0, 0.004_677_734_981_047_266),
            (2.999, 2.2228e-5),
            (4.0, 1.541_725_790_028_002e-8),
            (-4.0, 2.0 - 1.541_725_790_028_002e-8),
        ] {
            let tolerance = if x == 2.999 { 1e-4 * expected } else { 1e-14 };
            assert!((erfc(x) - expected).abs() < tolerance, "erfc({x}) = {}", erfc(x));
        }
        // The two formulas meet.
        assert!((erfc(2.999_999_999) - erfc(3.0)).abs() < 1e-12);
    }
}
