//! The reference: every operation of a [`Plan`] in f64, written as its definition reads. It is slow, and the other
//! backends are compared with it.
//!
//! All buffers stay intact after a run. To execute a single step on given inputs, call [`Reference::set_map`] for its
//! inputs, [`Reference::run_steps`], then [`Reference::map`] for its output.

pub mod ops;
mod pose;

pub use pose::Person;

use super::{Executor, Frame, Profiler, RunOptions, StepTime, Survivors};
use crate::error::{Error, Result};
use crate::plan::{BufferId, Conv, Extent, KEYPOINTS, Op, Plan, Pose, PreAdd, TensorId, VISIBILITY, View};
use ops::{ConvSpec, activate, sigmoid};
use std::ops::Range;
use std::time::Instant;

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
            Op::Conv(c) => self.conv(c),
            Op::PoolPyramid { src, dst, window } => self.pool_pyramid(*src, *dst, *window),
            Op::MaxPool { src, dst, window, stride, .. } => {
                let pooled = ops::max_pool(&self.map(*src), self.plan.hw(*src), *window, *stride);
                self.set_map(*dst, &pooled);
            }
            Op::Attention { qkv, dst, heads } => self.attention(*qkv, *dst, *heads),
            Op::LayerNorm { src, dst, gamma, beta, eps } => self.layer_norm(*src, *dst, *gamma, *beta, *eps),
            Op::Pose(pose) => self.pose(pose),
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
        let input = pose::letterbox(frame, (w, h));
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
