//! The reference: every operation of a [`Plan`] in f64, written as its definition reads. Slow, and the measure of all
//! other backends.
//!
//! All buffers stay intact after a run. A single step can be executed on inputs of one's choice: [`Reference::set_map`]
//! its inputs, [`Reference::run_steps`], then [`Reference::map`] its output.

pub mod ops;

use super::{Executor, Frame, Profiler, RunOptions, SelectParams, StepTime, Survivors};
use crate::error::{Error, Result};
use crate::plan::{
    Act, BinAxis, BinDecode, BufferId, Conv, Extent, Gau, GridLevel, Op, Plan, Pose, PreAdd, TensorId, View,
};
use crate::plan::{KEYPOINTS, VISIBILITY};
use ops::{ConvSpec, activate, dot, iou, sigmoid, softmax};
use std::ops::Range;
use std::time::Instant;

/// A survivor of [`Pose::Select`].
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
    /// Probabilities of the last [`Pose::BinDecode`], x and y.
    heatmaps: [Vec<f64>; 2],
    options: RunOptions,
    /// Images of the last [`Executor::run`].
    batch: usize,
}

impl Reference {
    /// Allocates all maps, as zeros.
    pub fn new(plan: Plan) -> Reference {
        let size = |b: &crate::plan::Buffer| match b.extent {
            Extent::Map { h, w } => h * w * b.c,
            Extent::Rows => 0,
        };
        let buffers = plan.buffers.iter().map(|b| vec![0.0; size(b)]).collect();
        Reference {
            plan,
            buffers,
            people: vec![],
            heatmaps: [vec![], vec![]],
            options: RunOptions::default(),
            batch: 1,
        }
    }

    /// Runs the whole plan on a network input: `h * w * 3` values, BGR, 0..255.
    ///
    /// # Panics
    /// If `input` is of another size.
    pub fn run(&mut self, input: &[f32], options: &RunOptions) -> Survivors {
        for step in 0..self.plan.steps.len() {
            if let Op::Pose(Pose::Letterbox { dst }) = self.plan.steps[step].op {
                let values: Vec<f64> = input.iter().map(|&v| f64::from(v)).collect();
                self.set_map(dst, &values);
            }
        }
        self.options = *options;
        self.run_steps(0..self.plan.steps.len());
        self.survivors()
    }

    /// Executes some of the steps on what the buffers hold; [`Pose::Letterbox`] does nothing.
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

    /// Sets the survivors, as [`Pose::Select`] would; empties all survivor rows.
    pub fn set_people(&mut self, people: Vec<Person>) {
        for (buffer, values) in self.plan.buffers.iter().zip(&mut self.buffers) {
            if buffer.extent == Extent::Rows {
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
        let keypoints = outputs(self.plan.output(KEYPOINTS));
        let visibility: Vec<f64> = outputs(self.plan.output(VISIBILITY)).into_iter().map(sigmoid).collect();
        let [x, y] = &self.heatmaps;
        Survivors {
            scores: self.people.iter().map(|p| p.score as f32).collect(),
            boxes: self.people.iter().map(|p| p.corners().map(|v| v as f32)).collect(),
            priors: self.people.iter().map(|p| p.prior.map(|v| v as f32)).collect(),
            keypoints: keypoints.chunks_exact(2).map(|xy| [xy[0] as f32, xy[1] as f32]).collect(),
            visibility: single(&visibility),
            heatmaps_x: if self.options.heatmaps { single(x) } else { vec![] },
            heatmaps_y: if self.options.heatmaps { single(y) } else { vec![] },
            not_finite: 0,
        }
    }

    fn tensor(&self, id: TensorId) -> Vec<f64> {
        self.plan.tensors[id.0].data.iter().map(|&v| f64::from(v)).collect()
    }

    fn execute(&mut self, op: &Op) {
        match op {
            Op::Pose(Pose::Letterbox { .. }) => {}
            Op::Conv(c) => self.conv(c),
            Op::PoolPyramid { src, dst, window } => self.pool_pyramid(*src, *dst, *window),
            Op::MaxPool { src, dst, window, stride, .. } => {
                let pooled = ops::max_pool(&self.map(*src), self.plan.hw(*src), *window, *stride);
                self.set_map(*dst, &pooled);
            }
            Op::Attention { qkv, dst, heads } => self.attention(*qkv, *dst, *heads),
            Op::LayerNorm { src, dst, gamma, beta, eps } => self.layer_norm(*src, *dst, *gamma, *beta, *eps),
            Op::Pose(Pose::Select { levels }) => {
                let people = self.select(levels);
                self.set_people(people);
            }
            Op::Pose(Pose::SurvivorLinear { src, weight, bias, dst }) => {
                self.survivor_linear(src, weight, bias, *dst)
            }
            Op::Pose(Pose::Gau(g)) => self.gau(g),
            Op::Pose(Pose::BinDecode(d)) => self.bin_decode(d),
        }
    }

    fn conv(&mut self, conv: &Conv) {
        let (h, w) = self.plan.hw(conv.src);
        let Conv { kernel, stride, pad, groups, .. } = *conv;
        let spec = ConvSpec { h, w, cin: conv.src.c, cout: conv.dst.c, kernel, stride, pad, groups };
        let (weight, bias) = (self.tensor(conv.weight), self.tensor(conv.bias));
        let mut out = ops::conv(&self.map(conv.src), &weight, &bias, spec);

        let pre_add = match conv.pre_add {
            PreAdd::None => vec![0.0; out.len()],
            PreAdd::Same(view) => self.map(view),
            PreAdd::Table(table) => self.tensor(table),
            PreAdd::Upsampled(view) => {
                let (h, w) = self.plan.hw(conv.dst);
                let half = self.map(view);
                let cells = (0..h).flat_map(|y| (0..w).map(move |x| y / 2 * w.div_ceil(2) + x / 2));
                cells.flat_map(|cell| half[cell * view.c..][..view.c].iter().copied()).collect()
            }
        };
        let post_add = conv.post_add.map_or_else(|| vec![0.0; out.len()], |view| self.map(view));
        for ((o, pre), post) in out.iter_mut().zip(&pre_add).zip(&post_add) {
            *o = activate(conv.act, *o + pre) + post;
        }
        self.set_map(conv.dst, &out);
    }

    fn pool_pyramid(&mut self, src: View, dst: View, window: usize) {
        let mut level = self.map(src);
        for i in 0..3 {
            level = ops::max_pool(&level, self.plan.hw(src), window, 1);
            self.set_map(dst.slice(i * src.c, src.c), &level);
        }
    }

    fn attention(&mut self, qkv: View, dst: View, heads: usize) {
        let c = dst.c;
        let [q, k, v] = [0, 1, 2].map(|i| self.map(qkv.slice(i * c, c)));
        self.set_map(dst, &ops::attention(&q, &k, &v, c, heads));
    }

    fn layer_norm(&mut self, src: View, dst: View, gamma: TensorId, beta: TensorId, eps: f32) {
        let (gamma, beta) = (self.tensor(gamma), self.tensor(beta));
        self.set_map(dst, &ops::layer_norm(&self.map(src), &gamma, &beta, f64::from(eps)));
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
        let all: Result<_> = frames.iter().map(|&frame| Ok(self.run_timed(frame, options)?.0)).collect();
        self.batch = frames.len();
        all
    }

    fn profiler(&mut self) -> &mut dyn Profiler {
        self
    }

    /// Only the last image of a batch is kept.
    fn read(&mut self, view: View, image: usize) -> Result<Vec<f32>> {
        if image + 1 != self.batch {
            let what = format!("image {image} of a batch of {}: only the last one is kept", self.batch);
            return Err(Error::Usage(what));
        }
        match self.plan.buffer_of(view).extent {
            Extent::Map { .. } => Ok(self.map(view).into_iter().map(|v| v as f32).collect()),
            Extent::Rows => {
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

impl Profiler for Reference {
    fn run_timed(&mut self, frame: Frame<'_>, options: &RunOptions) -> Result<(Survivors, Vec<StepTime>)> {
        let (w, h) = self.plan.input_size();
        frame.check((w, h))?;
        self.batch = 1;
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
            if let Op::Pose(Pose::Letterbox { dst }) = self.plan.steps[step].op {
                self.set_map(dst, &input);
            }
            self.run_steps(step..step + 1);
            times.push(StepTime { step, kernel: "reference f64".into(), time: start.elapsed() });
        }
        Ok((self.survivors(), times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two levels of strides 16 and 32 of a 64x32 input; logits and box numbers as given, cell by cell.
    fn select(cells: &[(f64, [f64; 4])], params: SelectParams) -> Vec<Person> {
        let mut plan = Plan::default();
        let mut levels = Vec::new();
        for (h, w, stride) in [(2, 4, 16), (1, 2, 32)] {
            levels.push(GridLevel { cls: plan.map("cls", h, w, 1), bbox: plan.map("bbox", h, w, 4), stride });
        }
        plan.push("select", Op::Pose(Pose::Select { levels: levels.clone() }));
        let mut reference = Reference::new(plan);
        for (level, cells) in levels.iter().zip([&cells[..8], &cells[8..]]) {
            reference.set_map(level.cls, &cells.iter().map(|c| c.0).collect::<Vec<_>>());
            reference.set_map(level.bbox, &cells.iter().flat_map(|c| c.1).collect::<Vec<_>>());
        }
        reference.set_options(&RunOptions { select: params, heatmaps: false });
        reference.run_steps(0..1);
        reference.people().to_vec()
    }

    #[test]
    fn selection_decodes_sorts_and_suppresses() {
        let none = (-9.0, [0.0; 4]);
        let mut cells = vec![none; 10];
        cells[6] = (0.0, [0.5, -0.25, 0.0, 2f64.ln()]);
        // Two boxes of 16x16, 2 pixels apart: intersection 14 * 16, IoU 224 / 288 = 0.78.
        cells[1] = (1.0, [0.0; 4]);
        cells[2] = (2.0, [-1.0 + 2.0 / 16.0, 0.0, 0.0, 0.0]);
        cells[9] = (1.0, [0.0, 0.0, -1.0, -1.0]);
        let params = SelectParams::default();

        let people = select(&cells, params);
        let places: Vec<_> = people.iter().map(|p| (p.level, p.cell)).collect();
        assert_eq!(places, [(0, 2), (1, 1), (0, 6)], "the weaker of the two that overlap is gone");
        assert_eq!((people[2].score, people[2].prior), (0.5, [2.0 * 16.0 + 7.5, 16.0 + 7.5]));
        assert_eq!(people[2].center, [39.5 + 8.0, 23.5 - 4.0]);
        assert_eq!(people[2].corners(), [39.5, 3.5, 55.5, 35.5]);
        assert_eq!(people[1].prior, [32.0 + 15.5, 15.5]);
        assert!((people[1].size[0] - 32.0 / std::f64::consts::E).abs() < 1e-12);

        let places = |params| select(&cells, params).iter().map(|p| (p.level, p.cell)).collect::<Vec<_>>();
        // Among equal scores the grid's order holds; strict thresholds.
        assert_eq!(places(SelectParams { nms_thr: 0.8, ..params }), [(0, 2), (0, 1), (1, 1), (0, 6)]);
        assert_eq!(places(SelectParams { score_thr: 0.5, nms_thr: 0.8, ..params }), [(0, 2), (0, 1), (1, 1)]);
        assert_eq!(places(SelectParams { max_people: Some(2), ..params }), [(0, 2), (1, 1)]);
        assert_eq!(
            places(SelectParams { force: Some(5), ..params }),
            [(0, 2), (0, 1), (1, 1), (0, 6), (0, 0)]
        );
    }

    #[test]
    fn views_are_read_and_written_in_place() {
        let mut plan = Plan::default();
        let whole = plan.map("m", 1, 2, 3);
        let mut reference = Reference::new(plan);
        reference.set_map(whole.slice(1, 2), &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(reference.map(whole), [0.0, 1.0, 2.0, 0.0, 3.0, 4.0]);
        assert_eq!(reference.map(whole.slice(2, 1)), [2.0, 4.0]);
    }
}
