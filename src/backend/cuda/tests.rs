//! Every kernel against the f64 reference, on the host emulator and, where there is one, on a GPU.

use super::emulator::{AMPERE, Emulator, HOPPER};
use super::frames::SURVIVOR_BYTES;
use super::gpu::{Gpu, Memory, Purpose, Sequence};
use super::launch::{Launch, Params};
use super::lower::{Lowering, Place};
use super::params::{self, Count, Fields, Survivor};
use super::schedule::{Group, Schedule, Storage};
use super::tiles::{Choice, Shape, TILES, Trigger, Unit};
use super::{CudaExecutor, Options, device, images, tune};
use crate::backend::reference::{Person, Reference};
use crate::backend::{Executor, Frame, RunOptions, SelectParams};
use crate::error::Result;
use crate::plan::*;
use crate::vision::{Letterbox, Photo};
use bytemuck::Zeroable;
use half::f16;
use std::sync::Arc;

/// Reproducible numbers, about standard normal.
struct Rng(u64);

impl Rng {
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }
    fn normal(&mut self) -> f32 {
        ((0..6).map(|_| self.unit()).sum::<f32>() - 3.0) * std::f32::consts::SQRT_2
    }
    fn normals(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.normal() * scale).collect()
    }
}

/// The GPUs to test on: the emulator with each seed, and the real one if there is one.
fn gpus(seeds: &[u64]) -> Vec<Arc<dyn Gpu>> {
    let mut all: Vec<Arc<dyn Gpu>> = seeds.iter().filter_map(|&s| Emulator::new(HOPPER, s)).collect();
    all.extend(real());
    all
}

fn real() -> Option<Arc<dyn Gpu>> {
    match device::Device::open(0) {
        Ok(d) => Some(Arc::new(device::CudaGpu(d))),
        Err(e) => {
            static SAID: std::sync::Once = std::sync::Once::new();
            SAID.call_once(|| eprintln!("no GPU, kernels run under the emulator only: {e}"));
            None
        }
    }
}

const OPTIONS: Options = Options { keep_all: true, tune: false, group: true };

/// A plan on a GPU and in the reference, side by side.
struct Rig {
    gpu: Arc<dyn Gpu>,
    x: CudaExecutor,
    r: Reference,
}

impl Rig {
    fn new(gpu: &Arc<dyn Gpu>, plan: &Plan) -> Rig {
        let x = CudaExecutor::on(gpu.clone(), plan.clone(), OPTIONS).unwrap();
        let rig = Rig { gpu: gpu.clone(), x, r: Reference::new(plan.clone()) };
        let s = &rig.x.setups[0];
        for m in [&s.arena, &s.rows] {
            rig.gpu.upload(m.address, &vec![0xFF; m.bytes]).unwrap(); // NaNs everywhere
        }
        rig
    }

    fn plan(&self) -> &Plan {
        self.r.plan()
    }

    /// Address of element 0 of the first pixel or row of a view.
    fn address(&self, view: View) -> u64 {
        let (s, setup) = (&self.x.schedule, &self.x.setups[0]);
        let offset = s.offsets[view.buffer.0];
        match s.storage[view.buffer.0] {
            Storage::Half { .. } | Storage::Cells => setup.arena.address + (offset * 2 + view.c0 * 2) as u64,
            Storage::Float { .. } => setup.arena.address + (offset * 2 + view.c0 * 4) as u64,
            Storage::Rows { .. } => setup.rows.address + ((offset * setup.capacity + view.c0) * 4) as u64,
        }
    }

    /// Overwrites a view on both sides with values that fp16 represents (fp32 for predictions and rows).
    fn set(&mut self, view: View, values: &[f32]) {
        let at = self.address(view);
        let (pitch, size, round) = match self.x.schedule.storage[view.buffer.0] {
            Storage::Half { pitch } => (pitch, 2, true),
            Storage::Float { pitch } | Storage::Rows { pitch } => (pitch, 4, false),
            Storage::Cells => panic!("set the photo instead"),
        };
        let values: Vec<f32> = values.iter().map(|&v| if round { f16::from_f32(v).to_f32() } else { v }).collect();
        for (i, pixel) in values.chunks_exact(view.c).enumerate() {
            let bytes: Vec<u8> = match size {
                2 => pixel.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
                _ => pixel.iter().flat_map(|v| v.to_le_bytes()).collect(),
            };
            self.gpu.upload(at + (i * pitch * size) as u64, &bytes).unwrap();
        }
        self.r.set_map(view, &values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
    }

    fn set_people(&mut self, people: &[Person]) {
        let list: Vec<Survivor> = people
            .iter()
            .map(|p| Survivor {
                level: p.level as i32,
                cell: p.cell as i32,
                score: p.score as f32,
                cx: p.center[0] as f32,
                cy: p.center[1] as f32,
                w: p.size[0] as f32,
                h: p.size[1] as f32,
                gx: p.prior[0] as f32,
                gy: p.prior[1] as f32,
                reserved: 0,
            })
            .collect();
        let setup = &self.x.setups[0];
        assert!(people.len() <= setup.capacity);
        self.gpu.upload(setup.survivors.address, bytemuck::cast_slice(&list)).unwrap();
        let count = Count { people: people.len() as i32, lost: 0 };
        self.gpu.upload(setup.counts.address, bytemuck::bytes_of(&count)).unwrap();
        self.r.set_people(people.to_vec());
    }

    /// Values of rows.
    fn rows(&self, view: View) -> Vec<f32> {
        let Storage::Rows { pitch } = self.x.schedule.storage[view.buffer.0] else { panic!("rows") };
        let n = self.r.people().len();
        let mut values = vec![0f32; n * pitch];
        let at = self.address(View { c0: 0, ..view });
        self.gpu.download(at, bytemuck::cast_slice_mut(&mut values)).unwrap();
        values.chunks_exact(pitch).flat_map(|r| &r[view.c0..view.c0 + view.c]).copied().collect()
    }

    /// Runs all steps on both sides, with these tiles; checks that the kernels wrote nothing but the steps' outputs.
    fn run_with(&mut self, mut choose: impl FnMut(&[Shape]) -> Choice) -> Result<()> {
        let setup = &self.x.setups[0];
        let place = Place {
            images: 1,
            capacity: setup.capacity,
            arena: setup.arena.address,
            rows: setup.rows.address,
            input: setup.input.address,
            survivors: setup.survivors.address,
            counts: setup.counts.address,
            boxes: setup.boxes.address,
            host_counts: setup.host_counts.device,
            host_rows: setup.host_rows.device,
            heat: [0; 2],
        };
        let (plan, schedule) = (&self.x.plan, &self.x.schedule);
        let constants = &mut self.x.constants;
        let launches = Lowering { plan, schedule, constants, place, choose: &mut choose }.launches()?;
        let snapshot = |gpu: &Arc<dyn Gpu>, m: &Memory| {
            let mut data = vec![0; m.bytes];
            gpu.download(m.address, &mut data).unwrap();
            data
        };
        let before = [snapshot(&self.gpu, &setup.arena), snapshot(&self.gpu, &setup.rows)];
        self.gpu.compile(Sequence { upload: None, launches })?.run()?;
        let after = [snapshot(&self.gpu, &setup.arena), snapshot(&self.gpu, &setup.rows)];
        let mut allowed = [vec![false; before[0].len()], vec![false; before[1].len()]];
        for step in &plan.steps {
            let Some(view) = step.op.writes() else { continue };
            let buffer = plan.buffer_of(view);
            let (which, pitch, size) = match schedule.storage[view.buffer.0] {
                Storage::Half { pitch } => (0, pitch, 2),
                Storage::Float { pitch } => (0, pitch, 4),
                Storage::Cells => (0, 4, 2),
                Storage::Rows { pitch } => (1, pitch, 4),
            };
            let base = [setup.arena.address, setup.rows.address][which];
            let start = (self.address(view) - base) as usize;
            let c = if schedule.storage[view.buffer.0] == Storage::Cells { 4 } else { view.c };
            let pixels = if which == 1 { setup.capacity } else { buffer.extent.pixels() };
            for p in 0..pixels {
                let at = start + p * pitch * size;
                allowed[which][at..at + c * size].fill(true);
            }
        }
        for which in 0..2 {
            for (i, (a, b)) in before[which].iter().zip(&after[which]).enumerate() {
                assert!(a == b || allowed[which][i], "byte {i} of {} was overwritten", ["the maps", "the rows"][which]);
            }
        }
        let steps = 0..self.plan().steps.len();
        self.r.run_steps(steps);
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        let caps = self.gpu.caps();
        self.run_with(|shapes| tune::built_in(&caps, shapes, 1))
    }

    /// Relative L2 error and largest absolute error of a view.
    fn error(&mut self, view: View) -> (f64, f64) {
        let got = match self.plan().buffer_of(view).extent {
            Extent::Map { .. } => self.x.read(view, 0).unwrap(),
            Extent::Survivors => self.rows(view),
        };
        let want = self.r.map(view);
        distance(&got, &want)
    }

    fn close(&mut self, view: View, tolerance: f64, what: &str) {
        let (relative, largest) = self.error(view);
        assert!(relative < tolerance, "{what}: relative error {relative:.2e} (largest {largest:.2e}), allowed {tolerance:.1e}");
    }
}

fn distance(got: &[f32], want: &[f64]) -> (f64, f64) {
    assert_eq!(got.len(), want.len());
    let (mut d, mut n, mut m) = (0.0, 0.0, 0.0f64);
    for (g, w) in got.iter().zip(want) {
        let e = f64::from(*g) - w;
        if e.is_nan() {
            return (f64::INFINITY, f64::INFINITY);
        }
        (d, n, m) = (d + e * e, n + w * w, m.max(e.abs()));
    }
    ((d / n.max(1e-30)).sqrt(), m)
}

/// A plan of one convolution with all that may surround it.
struct Case {
    kernel: usize,
    stride: usize,
    cin: usize,
    cout: usize,
    h: usize,
    w: usize,
    groups: usize,
    act: Act,
    /// 0 none, 1 same, 2 upsampled, 3 table.
    pre: usize,
    post: bool,
}

const PLAIN: Case =
    Case { kernel: 3, stride: 1, cin: 16, cout: 32, h: 8, w: 8, groups: 1, act: Act::Silu, pre: 0, post: false };

/// Adds a case's buffers and step; input and output are slices of wider maps. Returns the views to fill and the output.
fn add(plan: &mut Plan, c: &Case, rng: &mut Rng, name: &str) -> (Vec<View>, View) {
    let (oh, ow) = (c.h.div_ceil(c.stride), c.w.div_ceil(c.stride));
    let src = plan.map(format!("{name} src"), c.h, c.w, c.cin + 24).slice(8, c.cin);
    let dst = plan.map(format!("{name} dst"), oh, ow, c.cout + 16).slice(8, c.cout);
    let per = c.cin / c.groups;
    let n = c.cout * c.kernel * c.kernel * per;
    // weights that fp16 represents: what is measured is the kernel, not the rounding of constants
    let round = |v: Vec<f32>| v.into_iter().map(|v| f16::from_f32(v).to_f32()).collect::<Vec<_>>();
    let scale = 1.0 / ((c.kernel * c.kernel * per) as f32).sqrt();
    let weight = plan.tensor("w", &[c.cout, c.kernel, c.kernel, per], round(rng.normals(n, scale)));
    let bias = plan.tensor("b", &[c.cout], rng.normals(c.cout, 0.5));
    let mut inputs = vec![src];
    let pre_add = match c.pre {
        0 => PreAdd::None,
        1 => PreAdd::Same(plan.map(format!("{name} pre"), oh, ow, c.cout + 8).slice(8, c.cout)),
        2 => PreAdd::Upsampled(plan.map(format!("{name} pre"), oh / 2, ow / 2, c.cout + 8).slice(0, c.cout)),
        _ => PreAdd::Table(plan.tensor("table", &[oh, ow, c.cout], round(rng.normals(oh * ow * c.cout, 1.0)))),
    };
    if let PreAdd::Same(v) | PreAdd::Upsampled(v) = pre_add {
        inputs.push(v);
    }
    let post_add = c.post.then(|| plan.map(format!("{name} post"), oh, ow, c.cout + 8).slice(8, c.cout));
    inputs.extend(post_add);
    let (kernel, stride, pad, groups, act) = (c.kernel, c.stride, c.kernel / 2, c.groups, c.act);
    let conv = Conv { src, dst, weight, bias, kernel, stride, pad, groups, pre_add, act, post_add };
    plan.push(name, Op::Conv(conv));
    (inputs, dst)
}

fn fill(rig: &mut Rig, views: &[View], rng: &mut Rng) {
    for &v in views {
        let n = rig.plan().buffer_of(v).extent.pixels() * v.c;
        let values = rng.normals(n, 1.0);
        rig.set(v, &values);
    }
}

/// fp16 output rounding is 2^-11 at most, 2.8e-4 rms; sums of fp16 products in fp32 add nothing of that size, tanh.approx
/// on a GPU adds 2^-11 of the half input.
const CONV: f64 = 6e-4;

fn check_conv(gpu: &Arc<dyn Gpu>, cases: &[Case], choice: Option<Choice>, what: &str) -> bool {
    let mut rng = Rng(7);
    let mut plan = Plan::default();
    let parts: Vec<_> = cases.iter().enumerate().map(|(i, c)| add(&mut plan, c, &mut rng, &format!("conv{i}"))).collect();
    let caps = gpu.caps();
    if let Some(choice) = choice {
        let conv = |s: &Step| if let Op::Conv(c) = &s.op { super::lower::shape(&plan, c) } else { unreachable!() };
        let shapes: Vec<Shape> = plan.steps.iter().map(conv).collect();
        if !tune::possible(&caps, &shapes, &choice) {
            return false;
        }
    }
    let mut rig = Rig::new(gpu, &plan);
    assert_eq!(rig.x.schedule.groups.len(), 1, "independent convolutions share a launch");
    for (inputs, _) in &parts {
        fill(&mut rig, inputs, &mut rng);
    }
    let done = rig.run_with(|shapes| choice.unwrap_or_else(|| tune::built_in(&caps, shapes, 1)));
    done.unwrap_or_else(|e| panic!("{what}: {e}"));
    for (_, dst) in parts {
        rig.close(dst, CONV, what);
    }
    true
}

#[test]
fn every_tile_computes_the_convolution() {
    // odd sizes, tails in pixels and channels, chunks that end early, both strides
    let shapes = [(1, 1, 72, 40, 5, 7), (3, 1, 72, 40, 5, 9), (3, 2, 40, 72, 11, 9), (1, 1, 136, 136, 3, 3)];
    let gpus: Vec<_> = Emulator::new(HOPPER, 1).into_iter().chain(real()).collect();
    for gpu in gpus {
        let mut tested = vec![0; TILES.len()];
        for (tile, t) in TILES.iter().enumerate() {
            for (i, &(kernel, stride, cin, cout, h, w)) in shapes.iter().enumerate() {
                for (width, split, buffers) in [(0, 1, 5), (0, 2, 5), (8, 1, 2), (-1, 2, 2), (16, 1, 2)] {
                    let trigger = [Trigger::Early, Trigger::Mid, Trigger::Late][i % 3];
                    let choice = Choice { tile, width, split, buffers, trigger };
                    let case = Case { kernel, stride, cin, cout, h, w, post: i % 2 == 0, ..PLAIN };
                    let what = format!("{} k{kernel}s{stride} {cin}->{cout} @{h}x{w} {choice:?}", t.name);
                    tested[tile] += usize::from(check_conv(&gpu, &[case], Some(choice), &what));
                }
            }
        }
        if gpu.caps() == HOPPER {
            for (n, t) in tested.iter().zip(TILES) {
                assert!(*n > 0, "{} was never tested", t.name);
            }
        }
    }
}

#[test]
fn threads_in_any_order_compute_the_convolution() {
    for seed in 2..5 {
        let Some(gpu) = Emulator::new(HOPPER, seed) else { return };
        for name in ["conv_mma_64x32x32_3_4x1x1", "conv_mma_32x32x64_5_2x1x2", "conv_wg_3_1x1_32x64_8", "conv_wg_3_1x2_128x64_6"] {
            let tile = TILES.iter().position(|t| t.name == name).unwrap();
            for (width, split) in [(8, 1), (-1, 2), (8, 4)] {
                // more chunks than buffers, more steps than stages
                let case = Case { cin: 264, cout: 40, h: 6, w: 5, ..PLAIN };
                let choice = Choice { tile, width, split, buffers: 2, trigger: Trigger::Mid };
                check_conv(&gpu, &[case], Some(choice), &format!("{name} {choice:?} seed {seed}"));
            }
        }
        let tile = TILES.iter().position(|t| t.name == "conv_wg_1_1x2_64x64_4").unwrap();
        for split in [1, 2, 4] {
            let case = Case { kernel: 1, cin: 520, cout: 72, h: 9, w: 8, ..PLAIN };
            let choice = Choice { tile, width: 0, split, buffers: 2, trigger: Trigger::Early };
            assert!(check_conv(&gpu, &[case], Some(choice), &format!("1x1 split {split} seed {seed}")));
        }
    }
}

#[test]
fn epilogues_add_and_activate() {
    for gpu in gpus(&[3]) {
        for unit in ["conv_mma_64x32x32_3_4x1x1", "conv_wg_3_1x1_64x64_8"] {
            let tile = TILES.iter().position(|t| t.name == unit).unwrap();
            for pre in 0..4 {
                for act in [Act::None, Act::Silu, Act::Gelu] {
                    let case = Case { cin: 32, cout: 48, h: 6, w: 10, act, pre, post: pre % 2 == 1, ..PLAIN };
                    let choice = Choice { tile, width: 8, split: 1, buffers: 2, trigger: Trigger::Mid };
                    let tested = check_conv(&gpu, &[case], Some(choice), &format!("{unit} pre {pre} {act:?}"));
                    assert_eq!(tested, act != Act::Gelu || unit.starts_with("conv_mma"));
                }
            }
        }
    }
}

#[test]
fn grouped_convolutions_read_their_bands() {
    for gpu in gpus(&[4]) {
        for per in [13, 18, 27, 36] {
            let case = || Case { cin: per * 8, cout: per * 8, groups: 8, h: 5, w: 6, ..PLAIN };
            check_conv(&gpu, &[case()], None, &format!("8 groups of {per}"));
            for name in ["conv_mma_64x64x64_3_2x2x1", "conv_mma_64x32x32_3_4x1x1", "conv_wg_3_1x1_32x64_8", "conv_wg_3_1x2_128x64_6"] {
                let tile = TILES.iter().position(|t| t.name == name).unwrap();
                let choice = Choice { tile, width: 8, split: 1, buffers: 2, trigger: Trigger::Mid };
                check_conv(&gpu, &[case()], Some(choice), &format!("8 groups of {per}, {name}"));
            }
        }
    }
}

#[test]
fn independent_convolutions_share_a_launch() {
    for gpu in gpus(&[5]) {
        let cases = [
            Case { cin: 64, cout: 64, h: 10, w: 7, ..PLAIN },
            Case { cin: 144, cout: 144, groups: 8, h: 10, w: 7, post: true, ..PLAIN },
            Case { cin: 64, cout: 64, h: 5, w: 4, act: Act::None, ..PLAIN },
            Case { cin: 144, cout: 144, groups: 8, h: 5, w: 4, pre: 1, ..PLAIN },
        ];
        check_conv(&gpu, &cases, None, "four in one launch");
        for (tile, t) in TILES.iter().enumerate().filter(|(_, t)| t.bk == 64 && t.bm <= 64) {
            if matches!(t.unit, Unit::Wgmma { kernel: 1, .. }) {
                continue;
            }
            let choice = Choice { tile, width: 8, split: 1, buffers: 2, trigger: Trigger::Late };
            check_conv(&gpu, &cases, Some(choice), &format!("four in one launch of {}", t.name));
        }
    }
}

#[test]
fn older_gpus_have_a_tile_for_everything() {
    let Some(gpu) = Emulator::new(AMPERE, 6) else { return };
    for (kernel, stride) in [(1, 1), (3, 1), (3, 2)] {
        for (cin, cout) in [(16, 24), (24, 48), (96, 96), (264, 136)] {
            let case = Case { kernel, stride, cin, cout, h: 9, w: 10, ..PLAIN };
            check_conv(&gpu, &[case], None, &format!("k{kernel}s{stride} {cin}->{cout}"));
        }
    }
}

#[test]
fn parameters_arrive_field_by_field() {
    fn check<T: bytemuck::Pod + Fields + Zeroable>(gpu: &Arc<dyn Gpu>, kernel: &'static str) {
        let mut value = T::zeroed();
        value.number(&mut 1);
        let mut want = Vec::new();
        value.list(&mut want);
        let out = Memory::new(gpu, want.len() * 8, Purpose::Working).unwrap();
        let mut bytes = bytemuck::bytes_of(&value).to_vec();
        bytes.extend(out.address.to_le_bytes());
        let launch = Launch {
            kernel,
            grid: [1; 3],
            cluster: 1,
            threads: 1,
            shared: 0,
            params: Params::Raw(bytes),
            steps: vec![],
        };
        gpu.compile(Sequence { upload: None, launches: vec![launch] }).unwrap().run().unwrap();
        let mut got = vec![0i64; want.len()];
        gpu.download(out.address, bytemuck::cast_slice_mut(&mut got)).unwrap();
        assert_eq!(got, want, "{kernel}");
    }
    for gpu in gpus(&[0]) {
        check::<params::ConvLaunch>(&gpu, "echo_ConvLaunch");
        check::<params::Frame>(&gpu, "echo_Frame");
        check::<params::LetterboxLaunch>(&gpu, "echo_LetterboxLaunch");
        check::<params::PoolLaunch>(&gpu, "echo_PoolLaunch");
        check::<params::AttentionLaunch>(&gpu, "echo_AttentionLaunch");
        check::<params::LayerNormLaunch>(&gpu, "echo_LayerNormLaunch");
        check::<params::PredictLaunch>(&gpu, "echo_PredictLaunch");
        check::<params::Survivor>(&gpu, "echo_Survivor");
        check::<params::SelectLaunch>(&gpu, "echo_SelectLaunch");
        check::<params::SurvivorLinearLaunch>(&gpu, "echo_SurvivorLinearLaunch");
        check::<params::GauLaunch>(&gpu, "echo_GauLaunch");
        check::<params::BinDecodeLaunch>(&gpu, "echo_BinDecodeLaunch");
        check::<params::CollectLaunch>(&gpu, "echo_CollectLaunch");
    }
}
