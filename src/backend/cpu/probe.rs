//! Single steps on chosen memory, for tests and benchmarks.

use super::CpuExecutor;
use super::memory::Map;
use super::prepare::GUARD;
use crate::backend::reference::Person;
use crate::backend::{Frame, RunOptions, Survivors};
use crate::plan::{Extent, View};
use crate::pose::Letterbox;
use crate::pose::select::Candidate;
use crate::vision::Photo;
use std::ops::Range;

#[doc(hidden)]
impl CpuExecutor {
    /// Where a view of a map lies in [`CpuExecutor::memory`]; `None` for survivor rows, for maps that no step
    /// touches, and for the network input, which the executor keeps elsewhere, in its own layout.
    pub fn locate(&self, view: View) -> Option<Map> {
        if self.input.is_some_and(|input| input.view.buffer == view.buffer) {
            return None;
        }
        let map = self.maps[view.buffer.0]?;
        Some(Map { offset: map.offset + view.c0, c: view.c, ..map })
    }

    /// All maps and their guard zones, without the memory that kernels have reserved behind them.
    pub fn memory(&mut self) -> &mut [f32] {
        let end = |m: &Map| m.offset + m.pixels() * m.pitch + GUARD;
        let len = self.maps.iter().flatten().map(end).max().unwrap_or(0);
        &mut self.arena[..len]
    }

    /// Fills the threads' scratch with `value`: no kernel may rely on its contents.
    pub fn fill_scratch(&mut self, value: f32) {
        for scratch in &mut self.scratch {
            scratch.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner()).values.fill(value);
        }
    }

    /// Overwrites the network input: `h * w * 3` values.
    ///
    /// # Panics
    /// If the plan has no network input, or `values` are more or fewer than it holds.
    pub fn write_input(&mut self, values: &[f32]) {
        let input = self.input.expect("a plan with a network input");
        let (h, w) = input.size();
        assert_eq!(values.len(), h * w * 3, "values of the network input");
        for (i, pixel) in values.chunks_exact(3).enumerate() {
            self.arena[input.pixel(i / w, i % w)..][..3].copy_from_slice(pixel);
        }
    }

    /// Executes some of the plan's steps on the maps' values. The photo is a single grey pixel. Returns the outputs' values.
    pub fn run_steps(&mut self, steps: Range<usize>, options: &RunOptions) -> Survivors {
        let photo = Photo { width: 1, height: 1, bgr: vec![114; 3] };
        // A plan of a few steps may have no input.
        let (w, h) = self.plan.input_size();
        let letterbox = Letterbox::new((1, 1), (w.max(1), h.max(1)));
        let at = |step: usize| self.phases.partition_point(|phase| phase.step < step);
        let phases = at(steps.start)..at(steps.end);
        self.batch = 1;
        if options.heatmaps {
            // The selection that made room for the survivors may have run without.
            let state = self.state.get_mut();
            state.heatmaps.reserve(state.survivors.len());
        }
        self.execute(phases, Frame::new(&photo, &letterbox), options, &|_| ());
        self.survivors(options)
    }

    /// Names of the kernels that execute a step.
    pub fn kernels(&self, step: usize) -> Vec<&'static str> {
        self.phases.iter().filter(|phase| phase.step == step).map(|phase| phase.kernel).collect()
    }

    /// The survivors of the last selection.
    pub fn people(&mut self) -> Vec<Person> {
        let person = |c: &Candidate| Person {
            level: c.level,
            cell: c.index,
            score: c.score.into(),
            center: c.center.map(f64::from),
            size: c.size.map(f64::from),
            prior: c.prior.map(f64::from),
        };
        self.state.get_mut().survivors.iter().map(person).collect()
    }

    /// A view of survivor rows, `[people, c]`, for reading or writing.
    ///
    /// # Panics
    /// If the view is of a map, or reaches beyond its buffer.
    pub fn rows(&mut self, view: View) -> Vec<&mut [f32]> {
        let buffer = self.plan.buffer_of(view);
        assert_eq!(buffer.extent, Extent::Rows);
        let within = view.c0.checked_add(view.c).is_some_and(|end| end <= buffer.c);
        assert!(within, "channels {} and {} more of {}", view.c0, view.c, buffer.c);
        let state = self.state.get_mut();
        let rows = &state.rows[view.buffer.0];
        let row = |i: usize| {
            // SAFETY: selection made room for every survivor's row; rows do not overlap, and the state is borrowed
            // for as long as they are.
            unsafe { std::slice::from_raw_parts_mut(rows.row(i).add(view.c0), view.c) }
        };
        (0..state.survivors.len()).map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::{CpuOptions, Isa};
    use crate::backend::reference::Reference;
    use crate::backend::{Precision, SelectParams};
    use crate::plan::{BinAxis, BinDecode, GridLevel, Op, Plan, Pose};
    use crate::pose::model::{self, Backbone, Config, Darknet, Dcc, Head, Neck, Stage};
    use crate::weights::Checkpoint;

    /// A selection on one grid cell, and the decoder of one keypoint with two axes of four bins.
    fn executor() -> (CpuExecutor, View) {
        let mut plan = Plan::default();
        let (cls, bbox) = (plan.map("cls", 1, 1, 1), plan.map("bbox", 1, 1, 4));
        plan.push("select", Op::Pose(Pose::Select { levels: vec![GridLevel { cls, bbox, stride: 32 }] }));
        let (src, dst) = (plan.rows("src", 2), plan.rows("dst", 2));
        let mut axis = || BinAxis { bins: 4, weight: plan.tensor("w", &[2, 2], vec![1.0; 4]) };
        let (x, y) = (axis(), axis());
        let decode =
            BinDecode { src, dst, tokens: 1, dim: 2, pe_dim: 2, temperature: 300.0, padding: 1.25, x, y };
        plan.push("bins", Op::Pose(Pose::BinDecode(decode)));
        let options = CpuOptions { threads: 1, keep_maps: true, ..CpuOptions::detect().unwrap() };
        (CpuExecutor::new(plan, options).unwrap(), src)
    }

    fn forced(heatmaps: bool) -> RunOptions {
        RunOptions { select: SelectParams { force: Some(1), ..SelectParams::default() }, heatmaps }
    }

    #[test]
    fn heatmaps_may_be_asked_for_after_the_selection() {
        let (mut cpu, _) = executor();
        cpu.run_steps(0..1, &forced(false));
        assert_eq!(cpu.run_steps(1..2, &forced(true)).heatmaps_x.len(), 4);
    }

    #[test]
    #[should_panic(expected = "channels 268435456 and 4 more of 2")]
    fn rows_end_with_their_buffer() {
        let (mut cpu, src) = executor();
        cpu.run_steps(0..1, &forced(false));
        cpu.rows(View { c0: 1 << 28, c: 4, ..src });
    }

    /// A network of few channels with one of every step, on each instruction set that there is.
    #[test]
    fn a_narrow_network_equals_the_reference() {
        let stage = Stage { channels: 8, mid: 8, blocks: 1 };
        let config = Config {
            keypoints: 2,
            levels: 2,
            backbone: Backbone::Darknet(Darknet { stem: 8, stages: [stage; 4], spp_mid: 8 }),
            neck: Neck { dim: 8, ffn: 9, layers: 1, mid: 8, blocks: 1 },
            head: Head { projected: 16, cls: 8, cls_convs: 1, pose: 18, pose_convs: 2, groups: 2, vector: 5 },
            dcc: Dcc { dim: 8, encoding: 8, bins: (7, 9), expansion: 5, key_dim: 3 },
        };
        let checkpoint = Checkpoint::from_tensors("generated", model::random_tensors(&config, 3));
        let plan = model::build(&checkpoint, (32, 32)).unwrap();
        let input: Vec<f32> = model::noise_image(32, 32, 1).into_iter().map(f32::from).collect();
        let mut reference = Reference::new(plan.clone());
        let expected = reference.run(&input, &forced(true));
        // Under Miri one: it takes more than seven minutes there.
        for isa in Isa::all().take(if cfg!(miri) { 1 } else { usize::MAX }) {
            let options = CpuOptions { threads: 2, isa, precision: Precision::Fp32, keep_maps: true };
            let mut cpu = CpuExecutor::new(plan.clone(), options).unwrap();
            cpu.fill_scratch(f32::NAN);
            cpu.write_input(&input);
            let found = cpu.run_steps(1..plan.steps.len(), &forced(true));
            assert_eq!(found.priors, expected.priors, "{}", isa.name());
            for (a, b) in found.keypoints.iter().zip(&expected.keypoints) {
                // Flat heatmaps of an untrained network: tenths of a pixel, where a wrong index makes several.
                assert!((a[0] - b[0]).hypot(a[1] - b[1]) < 0.3, "{}: {a:?}, expected {b:?}", isa.name());
            }
        }
    }
}
