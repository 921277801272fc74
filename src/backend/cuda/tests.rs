//! Every kernel against the f64 reference, on the host emulator and, where there is one, on a GPU.

use super::emulator::{AMPERE, Emulator, HOPPER};
use super::frames::SURVIVOR_BYTES;
use super::gpu::{Gpu, Memory, Purpose, Sequence};
use super::launch::{Launch, Params};
use super::lower::{Lowering, Place};
use super::params::{self, Count, Fields, Survivor};
use super::schedule::{Group, Storage};
use super::tiles::{Choice, Shape, TILES, Trigger, Unit};
use super::{CudaExecutor, Options, device, tune};
use crate::backend::cpu::{CpuExecutor, CpuOptions};
use crate::backend::reference::{Person, Reference};
use crate::backend::{Executor, Frame, RunOptions, SelectParams};
use crate::error::Result;
use crate::parity::{self, Tolerance};
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
    let mut all: Vec<Arc<dyn Gpu>> = seeds.iter().filter_map(|&s| Emulator::start(HOPPER, s)).collect();
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
    /// Where [`Op::BinDecode`] leaves its probabilities, if anywhere.
    heat: Option<[Memory; 2]>,
}

impl Rig {
    fn new(gpu: &Arc<dyn Gpu>, plan: &Plan) -> Rig {
        let x = CudaExecutor::on(gpu.clone(), plan.clone(), OPTIONS).unwrap();
        let rig = Rig { gpu: gpu.clone(), x, r: Reference::new(plan.clone()), heat: None };
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
        let values: Vec<f32> =
            values.iter().map(|&v| if round { f16::from_f32(v).to_f32() } else { v }).collect();
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

    /// Runs all steps on both sides, with these tiles.
    fn run_with(&mut self, choose: impl FnMut(&[Shape]) -> Choice) -> Result<()> {
        self.run_device(choose)?;
        self.r.run_steps(0..self.r.plan().steps.len());
        Ok(())
    }

    /// Runs the scheduled launches; checks that the kernels wrote nothing but the steps' outputs.
    fn run_device(&mut self, mut choose: impl FnMut(&[Shape]) -> Choice) -> Result<()> {
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
            keys: setup.keys.address,
            host_counts: setup.host_counts.device,
            host_rows: setup.host_rows.device,
            heat: self.heat.as_ref().map_or([0; 2], |h| [h[0].address, h[1].address]),
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
        self.gpu.compile(Sequence { launches, ..Sequence::default() })?.run()?;
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
                assert!(
                    a == b || allowed[which][i],
                    "byte {i} of {} was overwritten",
                    ["the maps", "the rows"][which]
                );
            }
        }
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
        assert!(
            relative < tolerance,
            "{what}: relative error {relative:.2e} (largest {largest:.2e}), allowed {tolerance:.1e}"
        );
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

const PLAIN: Case = Case {
    kernel: 3,
    stride: 1,
    cin: 16,
    cout: 32,
    h: 8,
    w: 8,
    groups: 1,
    act: Act::Silu,
    pre: 0,
    post: false,
};

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
        _ => {
            PreAdd::Table(plan.tensor("table", &[oh, ow, c.cout], round(rng.normals(oh * ow * c.cout, 1.0))))
        }
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
    let parts: Vec<_> =
        cases.iter().enumerate().map(|(i, c)| add(&mut plan, c, &mut rng, &format!("conv{i}"))).collect();
    let caps = gpu.caps();
    if let Some(choice) = choice {
        let conv =
            |s: &Step| if let Op::Conv(c) = &s.op { super::lower::shape(&plan, c) } else { unreachable!() };
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
    let gpus: Vec<_> = Emulator::start(HOPPER, 1).into_iter().chain(real()).collect();
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
        let Some(gpu) = Emulator::start(HOPPER, seed) else { return };
        for name in [
            "conv_mma_64x32x32_3_4x1x1",
            "conv_mma_32x32x64_5_2x1x2",
            "conv_wg_3_1x1_32x64_8",
            "conv_wg_3_1x2_128x64_6",
        ] {
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
                    let tested =
                        check_conv(&gpu, &[case], Some(choice), &format!("{unit} pre {pre} {act:?}"));
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
            for name in [
                "conv_mma_64x64x64_3_2x2x1",
                "conv_mma_64x32x32_3_4x1x1",
                "conv_wg_3_1x1_32x64_8",
                "conv_wg_3_1x2_128x64_6",
            ] {
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
    let Some(gpu) = Emulator::start(AMPERE, 6) else { return };
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
        gpu.compile(Sequence { launches: vec![launch], ..Sequence::default() }).unwrap().run().unwrap();
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
        check::<params::PeakLaunch>(&gpu, "echo_PeakLaunch");
    }
}

#[test]
fn pyramids_pool() {
    for gpu in gpus(&[1, 2]) {
        for (h, w, window) in [(20, 20, 5), (3, 7, 5), (1, 1, 5), (9, 4, 3)] {
            let mut plan = Plan::default();
            let all = plan.map("all", h, w, 8 + 4 * 24);
            let (src, dst) = (all.slice(8, 24), all.slice(32, 72));
            plan.push("pool", Op::PoolPyramid { src, dst, window });
            let mut rig = Rig::new(&gpu, &plan);
            fill(&mut rig, &[src], &mut Rng(h as u64));
            rig.run().unwrap();
            rig.close(dst, 1e-9, &format!("{h}x{w}, window {window}"));
        }
    }
}

#[test]
fn attention_attends() {
    // below and above one chunk of 512 keys, tails of queries and keys
    for (seed, h, w, scale) in
        [(1, 20, 20, 1.0), (2, 3, 5, 1.0), (3, 1, 1, 1.0), (0, 19, 28, 0.5), (4, 4, 8, 6.0)]
    {
        for gpu in gpus(&[seed]) {
            let heads = if h * w > 300 { 1 } else { 3 };
            let mut plan = Plan::default();
            let qkv = plan.map("qkv", h, w, 3 * heads * 32 + 8).slice(8, 3 * heads * 32);
            let dst = plan.map("out", h, w, heads * 32 + 8).slice(8, heads * 32);
            plan.push("attention", Op::Attention { qkv, dst, heads });
            let mut rig = Rig::new(&gpu, &plan);
            let values = Rng(seed + 9).normals(h * w * qkv.c, scale * 0.6);
            rig.set(qkv, &values);
            rig.run().unwrap();
            // probabilities and results are rounded to fp16
            rig.close(dst, 1e-3, &format!("{h}x{w} tokens, scale {scale}"));
        }
    }
}

#[test]
fn layer_norms_normalise() {
    for gpu in gpus(&[1]) {
        for c in [8, 256, 264, 1024] {
            let mut rng = Rng(c as u64);
            let mut plan = Plan::default();
            let src = plan.map("in", 3, 3, c + 8).slice(8, c);
            let dst = plan.map("out", 3, 3, c);
            let gamma = plan.tensor("gamma", &[c], rng.normals(c, 1.0));
            let beta = plan.tensor("beta", &[c], rng.normals(c, 1.0));
            plan.push("norm", Op::LayerNorm { src, dst, gamma, beta, eps: 1e-5 });
            let mut rig = Rig::new(&gpu, &plan);
            // a large mean: what the two-pass variance is for
            let values: Vec<f32> = rng.normals(9 * c, 1.0).iter().map(|v| v + 50.0).collect();
            rig.set(src, &values);
            rig.run().unwrap();
            rig.close(dst, 5e-4, &format!("{c} channels"));
        }
    }
}

#[test]
fn predictions_stay_in_fp32() {
    for gpu in gpus(&[1, 2]) {
        let mut rng = Rng(5);
        let mut plan = Plan::default();
        let mut outputs = Vec::new();
        let mut inputs = Vec::new();
        for (h, w, cin, cout) in [(5, 7, 264, 1), (5, 7, 144, 4), (2, 3, 8, 1), (2, 3, 512, 3)] {
            let src = plan.map("in", h, w, cin + 8).slice(8, cin);
            let dst = plan.map("out", h, w, cout);
            let w: Vec<f32> =
                rng.normals(cin * cout, 0.1).iter().map(|&v| f16::from_f32(v).to_f32()).collect();
            let weight = plan.tensor("w", &[cout, 1, 1, cin], w);
            let bias = plan.tensor("b", &[cout], rng.normals(cout, 1.0));
            let (pre_add, act, post_add) = (PreAdd::None, Act::None, None);
            let conv = Conv {
                src,
                dst,
                weight,
                bias,
                kernel: 1,
                stride: 1,
                pad: 0,
                groups: 1,
                pre_add,
                act,
                post_add,
            };
            plan.push("predict", Op::Conv(conv));
            inputs.push(src);
            outputs.push(dst);
        }
        let mut rig = Rig::new(&gpu, &plan);
        assert!(matches!(rig.x.schedule.groups[..], [Group::Predict(_)]));
        fill(&mut rig, &inputs, &mut rng);
        rig.run().unwrap();
        for dst in outputs {
            rig.close(dst, 1e-6, "prediction");
        }
    }
}

/// Two head levels with boxes that overlap a good deal, and the selection.
fn selection(shapes: &[(usize, usize, usize)]) -> (Plan, Vec<GridLevel>) {
    let mut plan = Plan { input_size: (32, 32), ..Plan::default() };
    let level = |plan: &mut Plan, &(h, w, stride): &(usize, usize, usize)| {
        let src = plan.map("features", h, w, 8);
        let mut predict = |name: &str, c: usize| {
            let dst = plan.map(name, h, w, c);
            let (weight, bias) =
                (plan.tensor("w", &[c, 1, 1, 8], vec![0.0; c * 8]), plan.tensor("b", &[c], vec![0.0; c]));
            let (pre_add, act, post_add) = (PreAdd::None, Act::None, None);
            let conv = Conv {
                src,
                dst,
                weight,
                bias,
                kernel: 1,
                stride: 1,
                pad: 0,
                groups: 1,
                pre_add,
                act,
                post_add,
            };
            plan.push(name, Op::Conv(conv));
            dst
        };
        let (cls, bbox) = (predict("cls", 1), predict("bbox", 4));
        GridLevel { cls, bbox, stride }
    };
    let levels: Vec<GridLevel> = shapes.iter().map(|s| level(&mut plan, s)).collect();
    plan.push("select", Op::Select { levels: levels.clone() });
    (plan, levels)
}

fn frame_header(select: &SelectParams) -> params::Frame {
    // by way of the real writer
    let photo = Photo { width: 32, height: 32, bgr: vec![0; 32 * 32 * 3] };
    let letterbox = Letterbox::new((32, 32), (32, 32));
    let frames = [Frame { photo: &photo, letterbox: &letterbox }];
    let layout = super::Layout::new(&frames, (32, 32)).unwrap();
    let mut block = vec![0; layout.bytes];
    layout.write(&frames, select, &mut block);
    bytemuck::pod_read_unaligned(&block[..size_of::<params::Frame>()])
}

#[test]
fn selection_is_the_reference_s() {
    let cases = [
        SelectParams::default(),
        SelectParams { score_thr: 0.5, nms_thr: 0.3, ..SelectParams::default() },
        SelectParams { score_thr: 0.0, nms_thr: 1.0, ..SelectParams::default() },
        SelectParams { score_thr: 0.999999, ..SelectParams::default() },
        SelectParams { max_people: Some(3), ..SelectParams::default() },
        SelectParams { force: Some(7), ..SelectParams::default() },
        SelectParams { force: Some(10000), ..SelectParams::default() },
    ];
    for gpu in gpus(&[1]) {
        for shapes in [
            vec![(6, 9, 16), (3, 5, 32)],
            vec![(1, 1, 32)],
            vec![(3, 4, 8), (2, 2, 16), (1, 1, 32)],
            vec![(70, 70, 8)],
        ] {
            // more candidates than shared memory holds, where all of them count
            let many = shapes[0].0 == 70;
            for select in cases.iter().filter(|c| !many || c.score_thr == 0.0 || c.force == Some(10000)) {
                let (plan, levels) = selection(&shapes);
                let mut rig = Rig::new(&gpu, &plan);
                // only the selection runs
                rig.x.schedule.groups.retain(|g| matches!(g, Group::Select(_)));
                let mut rng = Rng(11);
                for l in &levels {
                    let n = plan.buffer_of(l.cls).extent.pixels();
                    let logits = rng.normals(n, 3.0);
                    rig.set(l.cls, &logits);
                    let boxes: Vec<f32> = rng
                        .normals(n * 4, 0.7)
                        .chunks(4)
                        .flat_map(|b| [b[0], b[1], b[2] + 1.0, b[3] + 1.0])
                        .collect();
                    rig.set(l.bbox, &boxes);
                }
                let header = frame_header(select);
                rig.gpu.upload(rig.x.setups[0].input.address, bytemuck::bytes_of(&header)).unwrap();
                rig.r.set_options(&RunOptions { select: *select, heatmaps: false });
                let last = plan.steps.len() - 1;
                rig.run_device(|_| unreachable!("no convolutions")).unwrap();
                let setup = &rig.x.setups[0];
                rig.r.run_steps(last..last + 1);

                let mut count = Count::default();
                gpu.download(setup.counts.address, bytemuck::bytes_of_mut(&mut count)).unwrap();
                let mut list = vec![Survivor::default(); count.people as usize];
                let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut list);
                assert_eq!(bytes.len(), count.people as usize * SURVIVOR_BYTES);
                gpu.download(setup.survivors.address, bytes).unwrap();
                let want = rig.r.people();
                let what = format!("{select:?} on {shapes:?}");
                assert_eq!((count.people as usize, count.lost), (want.len(), 0), "{what}");
                for (g, w) in list.iter().zip(want) {
                    assert_eq!((g.level as usize, g.cell as usize), (w.level, w.cell), "{what}");
                    let got = [g.score, g.cx, g.cy, g.w, g.h, g.gx, g.gy];
                    let want =
                        [w.score, w.center[0], w.center[1], w.size[0], w.size[1], w.prior[0], w.prior[1]];
                    let (relative, _) = distance(&got, &want);
                    assert!(relative < 1e-6, "{what}: {got:?}, expected {want:?}");
                }
            }
        }
    }
}

#[test]
fn peaks_are_measured_on_products_that_happen() {
    let older = Emulator::start(AMPERE, 1);
    for gpu in gpus(&[1]).into_iter().chain(older) {
        let ones = vec![f16::ONE; 512];
        let (sums, rate) = super::measure_peak(&gpu, bytemuck::cast_slice(&ones), 3).unwrap();
        // 3 iterations of 64 along K, in each of a thread's accumulators: 64, or 32 of mma.sync
        let accumulators = if gpu.caps().wgmma { 64.0 } else { 32.0 };
        assert!(sums.iter().all(|&s| s == 3.0 * 64.0 * accumulators), "{:?}", &sums[..4]);
        assert!(rate > 0.0 && rate.is_finite());
    }
}

#[test]
fn survivors_beyond_the_capacity_are_counted() {
    for gpu in gpus(&[1]) {
        let (plan, levels) = selection(&[(3, 3, 16)]);
        let mut rig = Rig::new(&gpu, &plan);
        rig.x.schedule.groups.retain(|g| matches!(g, Group::Select(_)));
        rig.set(levels[0].cls, &[1.0; 9]);
        rig.set(levels[0].bbox, &[0.0; 36]);
        let header = frame_header(&SelectParams { force: Some(7), ..SelectParams::default() });
        rig.gpu.upload(rig.x.setups[0].input.address, bytemuck::bytes_of(&header)).unwrap();
        rig.x.setups[0].capacity = 2;
        rig.run_device(|_| unreachable!("no convolutions")).unwrap();
        let mut count = Count::default();
        gpu.download(rig.x.setups[0].counts.address, bytemuck::bytes_of_mut(&mut count)).unwrap();
        assert_eq!((count.people, count.lost), (2, 5));
    }
}

fn people(n: usize, levels: &[(usize, usize, usize)], rng: &mut Rng) -> Vec<Person> {
    let person = |_| {
        let level = (rng.unit() * levels.len() as f32) as usize;
        let (h, w, stride) = levels[level];
        let cell = (rng.unit() * (h * w) as f32) as usize;
        // what fp32 represents, so that both sides see the same numbers
        let v: Vec<f64> = rng.normals(4, 1.0).iter().map(|&v| f64::from(v)).collect();
        let prior = [(cell % w * stride) as f64 + 7.5, (cell / w * stride) as f64 + 7.5];
        let round = |v: f64| f64::from(v as f32);
        Person {
            level,
            cell,
            score: 0.5,
            center: [round(prior[0] + 9.0 * v[0]), round(prior[1] + 9.0 * v[1])],
            size: [round((v[2] + 4.0).exp()), round((v[3] + 4.5).exp())],
            prior,
        }
    };
    (0..n).map(person).collect()
}

#[test]
fn survivors_get_their_level_s_linear_map() {
    let levels = [(3, 4, 16), (2, 2, 32)];
    for (seed, n, cin, cout) in [(1, 1, 144, 50), (2, 0, 16, 16), (3, 37, 104, 35), (4, 16, 288, 33)] {
        for gpu in gpus(&[seed]) {
            let mut rng = Rng(seed);
            let (mut plan, _) = selection(&[(8, 8, 16)]); // gives room for 64 survivors
            let (mut src, mut weight, mut bias) = (vec![], vec![], vec![]);
            for (h, w, _) in levels {
                src.push(plan.map("features", h, w, cin + 16).slice(8, cin));
                let values: Vec<f32> =
                    rng.normals(cin * cout, 0.1).iter().map(|&v| f16::from_f32(v).to_f32()).collect();
                weight.push(plan.tensor("w", &[cout, cin], values));
                bias.push(plan.tensor("b", &[cout], rng.normals(cout, 1.0)));
            }
            let dst = plan.rows("out", cout);
            plan.push("linear", Op::SurvivorLinear { src: src.clone(), weight, bias, dst });
            let mut rig = survivor_rig(&gpu, &plan);
            fill(&mut rig, &src, &mut rng);
            let list = people(n, &levels, &mut rng);
            rig.set_people(&list);
            run_last(&mut rig);
            rig.close(dst, 1e-6, &format!("{n} survivors, {cin}->{cout}"));
        }
    }
}

/// A rig that runs a plan's last step only, on people given by hand.
fn survivor_rig(gpu: &Arc<dyn Gpu>, plan: &Plan) -> Rig {
    let mut rig = Rig::new(gpu, plan);
    let last = rig.x.schedule.groups.len() - 1;
    rig.x.schedule.groups.drain(..last);
    rig
}

fn run_last(rig: &mut Rig) {
    rig.run_device(|_| unreachable!("no convolutions")).unwrap();
    let steps = rig.r.plan().steps.len();
    rig.r.run_steps(steps - 1..steps);
}

#[test]
fn gated_attention_units_gate() {
    let (d, e, s) = (128, 256, 128);
    for (seed, tokens, n, scale) in [(1, 17, 3, 1.0), (2, 14, 1, 1.0), (3, 1, 2, 30.0), (0, 20, 2, 0.1)] {
        for gpu in gpus(&[seed]) {
            let mut rng = Rng(seed + 20);
            let (mut plan, _) = selection(&[(4, 4, 16)]);
            let src = plan.rows("in", tokens * (d + 1)).slice(0, tokens * d);
            let dst = plan.rows("out", tokens * d);
            let round = |v: Vec<f32>| v.into_iter().map(|v| f16::from_f32(v).to_f32()).collect::<Vec<_>>();
            let gau = Gau {
                src,
                dst,
                tokens,
                dim: d,
                expansion: e,
                key_dim: s,
                norm_gain: plan.tensor("g", &[1], vec![1.3]),
                uv: plan.tensor("uv", &[2 * e + s, d], round(rng.normals((2 * e + s) * d, 0.15))),
                q_gain: plan.tensor("qg", &[s], rng.normals(s, 1.0)),
                q_bias: plan.tensor("qb", &[tokens, s], rng.normals(tokens * s, 1.0)),
                k_gain: plan.tensor("kg", &[s], rng.normals(s, 1.0)),
                k_bias: plan.tensor("kb", &[tokens, s], rng.normals(tokens * s, 1.0)),
                out: plan.tensor("o", &[d, e], round(rng.normals(d * e, 0.1))),
                residual_gain: plan.tensor("r", &[d], rng.normals(d, 1.0)),
            };
            plan.push("gau", Op::Gau(gau));
            let mut rig = survivor_rig(&gpu, &plan);
            let list = people(n, &[(4, 4, 16)], &mut rng);
            rig.set_people(&list);
            let values = rng.normals(n * tokens * d, scale);
            rig.set(src, &values);
            run_last(&mut rig);
            // normalised tokens enter as fp16, and attention squares what comes of it
            rig.close(dst, 2e-3, &format!("{tokens} tokens, {n} people, scale {scale}"));
        }
    }
}

#[test]
fn bins_decode_to_pixels() {
    for (seed, tokens, n, bins, scale) in
        [(1, 17, 3, (192, 256), 0.3), (2, 14, 1, (192, 256), 1.5), (0, 3, 5, (7, 2), 0.3)]
    {
        for gpu in gpus(&[seed]) {
            let mut rng = Rng(seed + 30);
            let (mut plan, _) = selection(&[(40, 40, 16)]);
            let src = plan.rows("in", tokens * 128);
            let dst = plan.rows("out", tokens * 2);
            let mut axis =
                |bins| BinAxis { bins, weight: plan.tensor("w", &[128, 128], rng.normals(128 * 128, 0.1)) };
            let (x, y) = (axis(bins.0), axis(bins.1));
            let (dim, pe_dim, temperature, padding) = (128, 128, 300.0, 1.25);
            let decode = BinDecode { src, dst, tokens, dim, pe_dim, temperature, padding, x, y };
            plan.push("dcc", Op::BinDecode(decode));
            let mut rig = survivor_rig(&gpu, &plan);
            let list = people(n, &[(40, 40, 16)], &mut rng);
            rig.set_people(&list);
            let values = rng.normals(n * tokens * 128, scale);
            rig.set(src, &values);
            let memory = |bins: usize| Memory::new(&gpu, n * tokens * bins * 4, Purpose::Working).unwrap();
            rig.heat = Some([memory(bins.0), memory(bins.1)]);
            run_last(&mut rig);
            for (memory, want) in rig.heat.as_ref().unwrap().iter().zip(rig.r.heatmaps()) {
                let mut got = vec![0f32; want.len()];
                gpu.download(memory.address, bytemuck::cast_slice_mut(&mut got)).unwrap();
                let (relative, _) = distance(&got, want);
                assert!(relative < 2e-4, "{tokens} keypoints, {bins:?} bins: heatmaps {relative:.2e}");
            }
            let (_, largest) = rig.error(dst);
            assert!(largest < 5e-3, "{tokens} keypoints, {bins:?} bins: {largest:.2e} px");
        }
    }
}

/// A photo with some structure, and how it is laid into an input.
fn photo(seed: u64, w: usize, h: usize, input: (usize, usize)) -> (Photo, Letterbox) {
    let mut rng = Rng(seed);
    let noise: Vec<u8> = (0..w * h * 3).map(|_| (rng.unit() * 256.0) as u8).collect();
    let smooth = |i: usize| {
        let (x, y, c) = (i / 3 % w, i / 3 / w, i % 3);
        let wave = ((x * (c + 1)) as f32 / 9.0).sin() + ((y * (3 - c)) as f32 / 7.0).cos();
        (127.0 + 50.0 * wave + f32::from(noise[i]) / 10.0) as u8
    };
    let bgr = (0..w * h * 3).map(smooth).collect();
    (Photo { width: w, height: h, bgr }, Letterbox::new((w, h), input))
}

#[test]
fn letterboxes_are_the_cpu_s_to_the_bit() {
    let input = (64, 32);
    for gpu in gpus(&[1, 2]) {
        let mut plan = Plan { input_size: input, ..Plan::default() };
        let image = plan.map("input", input.1, input.0, 3);
        plan.push("letterbox", Op::Letterbox { dst: image });
        let (weight, bias) =
            (plan.tensor("w", &[8, 6, 6, 3], vec![0.01; 8 * 108]), plan.tensor("b", &[8], vec![0.0; 8]));
        let dst = plan.map("stem", input.1 / 2, input.0 / 2, 8);
        let (pre_add, act, post_add) = (PreAdd::None, Act::None, None);
        let conv = Conv {
            src: image,
            dst,
            weight,
            bias,
            kernel: 6,
            stride: 2,
            pad: 2,
            groups: 1,
            pre_add,
            act,
            post_add,
        };
        plan.push("stem", Op::Conv(conv));
        let mut x = CudaExecutor::on(gpu.clone(), plan, OPTIONS).unwrap();
        let sizes = [(61, 47), (1, 1), (200, 30), (7, 90), (64, 32), (128, 64)];
        let photos: Vec<(Photo, Letterbox)> = sizes
            .iter()
            .flat_map(|&(w, h)| {
                let (p, l) = photo(1, w, h, input);
                [(p.clone(), l), (p, Letterbox::rtmlib((w, h), input))]
            })
            .collect();
        // together as one batch, and one by one
        let frames: Vec<Frame<'_>> =
            photos.iter().map(|(photo, letterbox)| Frame { photo, letterbox }).collect();
        let check = |x: &mut CudaExecutor, image_index: usize, (photo, letterbox): &(Photo, Letterbox)| {
            let mut row = vec![0; input.0 * 3];
            let got = x.read(image, image_index).unwrap();
            for (y, got) in got.chunks_exact(row.len()).enumerate() {
                letterbox.sample_row(photo, y, &mut row);
                let want: Vec<f32> = row.iter().map(|&v| f32::from(v)).collect();
                assert_eq!(got, want, "row {y} of {}x{}", photo.width, photo.height);
            }
        };
        x.run(&frames, &RunOptions::default()).unwrap();
        for (i, p) in photos.iter().enumerate() {
            check(&mut x, i, p);
        }
        for (i, p) in photos.iter().enumerate() {
            x.run(&frames[i..=i], &RunOptions::default()).unwrap();
            check(&mut x, 0, p);
        }
    }
}

#[test]
fn a_whole_network_finds_the_same_people() {
    let Some(emulator) = Emulator::start(HOPPER, 1) else { return };
    let older = Emulator::start(AMPERE, 0);
    for gpu in [Some(emulator), older, real()].into_iter().flatten() {
        let input = (64, 64);
        let checkpoint = crate::model::random(crate::model::Variant::T, 17, 2, 3);
        let plan = crate::model::build(&checkpoint, input).unwrap();
        let mut x = CudaExecutor::on(gpu, plan.clone(), OPTIONS).unwrap();
        let (photo, letterbox) = photo(5, 90, 70, input);
        let frame = Frame { photo: &photo, letterbox: &letterbox };
        let options =
            RunOptions { select: SelectParams { force: Some(4), ..SelectParams::default() }, heatmaps: true };
        let got = x.run(&[frame], &options).unwrap().remove(0);

        let mut r = Reference::new(plan.clone());
        let mut pixels = vec![0u8; input.0 * input.1 * 3];
        for (y, row) in pixels.chunks_exact_mut(input.0 * 3).enumerate() {
            letterbox.sample_row(&photo, y, row);
        }
        let values: Vec<f32> = pixels.iter().map(|&v| f32::from(v)).collect();
        let want = r.run(&values, &options);
        let mut worst = (0.0, String::new());
        for step in &plan.steps {
            let Some(view) = step.op.writes() else { continue };
            if plan.buffer_of(view).extent == Extent::Survivors {
                continue;
            }
            let (relative, _) = distance(&x.read(view, 0).unwrap(), &r.map(view));
            if relative > worst.0 {
                worst = (relative, step.name.clone());
            }
        }
        // the bound on maps that the engine states for fp16
        assert!(worst.0 < 1e-2, "relative error {:.2e} at {}", worst.0, worst.1);
        assert_eq!(got.priors, want.priors, "the same grids, in the same order");
        // Random weights make boxes of any size and some softmaxes with two peaks of the same height, which fp16 may
        // tip: nearly all keypoints, measured by their box.
        let near = got.keypoints.iter().zip(&want.keypoints).enumerate().filter(|(i, (g, w))| {
            let b = want.boxes[i / 17];
            let side = (b[2] - b[0]).max(b[3] - b[1]);
            (g[0] - w[0]).hypot(g[1] - w[1]) < 0.5 + 0.02 * side
        });
        let (near, all) = (near.count(), want.keypoints.len());
        assert!(near * 100 >= all * 80, "{near} of {all} keypoints agree");
        // before the softmaxes nothing tips: keypoint vectors after the attention unit
        let gau =
            plan.steps.iter().find_map(|s| if let Op::Gau(g) = &s.op { Some(g.dst) } else { None }).unwrap();
        let Storage::Rows { pitch } = x.schedule.storage[gau.buffer.0] else { unreachable!("rows") };
        let mut vectors = vec![0f32; want.scores.len() * pitch];
        let at =
            x.setups[0].rows.address + (x.schedule.offsets[gau.buffer.0] * x.setups[0].capacity * 4) as u64;
        x.gpu.download(at, bytemuck::cast_slice_mut(&mut vectors)).unwrap();
        let vectors: Vec<f32> = vectors.chunks_exact(pitch).flat_map(|r| &r[..gau.c]).copied().collect();
        let (relative, _) = distance(&vectors, &r.map(gau));
        assert!(relative < 1e-2, "keypoint vectors differ by {relative:.2e}");
        let wide = |v: &[f32]| -> Vec<f64> { v.iter().map(|&v| f64::from(v)).collect() };
        let (_, visible) = distance(&got.visibility, &wide(&want.visibility));
        assert!(visible < 0.02, "visibility differs by {visible:.3}");
        for (heat, bins) in [(&got.heatmaps_x, 192), (&got.heatmaps_y, 256)] {
            assert_eq!(heat.len(), all * bins);
            assert!(heat.chunks_exact(bins).all(|p| (p.iter().sum::<f32>() - 1.0).abs() < 1e-4));
        }

        // buffers that share memory, launches one by one, batches: the same people. Other launches choose other tiles,
        // which add up in another order.
        let alike = |a: &crate::backend::Survivors| {
            assert_eq!(a.priors, got.priors);
            let (scores, _) = distance(&a.scores, &wide(&got.scores));
            let (boxes, _) = distance(&a.boxes.concat(), &wide(&got.boxes.concat()));
            assert!(scores < 1e-2 && boxes < 1e-2, "scores {scores:.1e} and boxes {boxes:.1e} apart");
        };
        let plain = Options { keep_all: false, tune: false, group: false };
        let mut y = CudaExecutor::on(x.gpu.clone(), plan, plain).unwrap();
        let options = RunOptions { heatmaps: false, ..options };
        let one = y.run(&[frame], &options).unwrap().remove(0);
        alike(&one);
        let (timed, steps) = y.run_timed(frame, &options).unwrap();
        assert_eq!(timed, one);
        assert_eq!(steps.len(), y.plan().steps.len());
        // again on what the device holds, and with the stages timed: nothing changes
        let (staged, times) = y.run_staged(&[frame], &options).unwrap();
        assert_eq!(staged, std::slice::from_ref(&one));
        let stages = [times.letterbox, times.network, times.select, times.dcc, times.download];
        assert!(stages.iter().all(|t| !t.is_zero()) && times.network > times.select, "{times:?}");
        // nothing is held at first: a plain run
        for _ in 0..2 {
            assert_eq!(y.run_again(&[frame], &options).unwrap(), std::slice::from_ref(&one));
            assert!(y.held.is_some());
        }
        let setup = &y.setups[0];
        assert!(setup.programs.iter().any(|(key, _)| key.upload == 0), "no upload");
        if x.gpu.caps() != AMPERE {
            y.run(&[frame, frame], &options).unwrap().iter().for_each(alike);
            // survivors that do not fit into a batch's memory: the frames run again, alone
            let batch = y.setups.iter().position(|s| s.images == 2).unwrap();
            y.setups[batch].capacity = 1;
            y.lower(batch).unwrap();
            for each in y.run(&[frame, frame], &options).unwrap() {
                assert_eq!(each, one);
            }
        }
    }
}

/// What `rtmo-engine check` does: every map of a GPU against the CPU's in fp32, within the bounds that are promised.
#[test]
fn maps_are_within_the_promised_bounds() {
    let input = (96, 64);
    let checkpoint = crate::model::random(crate::model::Variant::T, 17, 2, 3);
    let plan = crate::model::build(&checkpoint, input).unwrap();
    let (photo, letterbox) = photo(5, 90, 70, input);
    let frame = Frame { photo: &photo, letterbox: &letterbox };
    for gpu in gpus(&[1]) {
        let cpu = CpuOptions { threads: 1, keep_maps: true, ..CpuOptions::detect().unwrap() };
        let mut cpu = CpuExecutor::new(plan.clone(), cpu).unwrap();
        let mut x = CudaExecutor::on(gpu, plan.clone(), OPTIONS).unwrap();
        let report = parity::compare(&mut cpu, &mut x, frame, &RunOptions::default()).unwrap();
        let maps = plan.steps.iter().filter_map(|s| s.op.writes());
        let maps = maps.filter(|v| plan.buffer_of(*v).extent != Extent::Survivors).count();
        assert!(report.maps.len() > maps, "each step's, and the stages'");
        println!("{report}");
        report.check(&Tolerance::FP16.maps_only()).unwrap_or_else(|beyond| panic!("{beyond}"));
    }
}

#[test]
fn engines_in_several_threads_do_not_mix() {
    let input = (32, 32);
    let checkpoint = crate::model::random(crate::model::Variant::T, 17, 2, 3);
    let plan = crate::model::build(&checkpoint, input).unwrap();
    let options = RunOptions {
        select: SelectParams { force: Some(2), ..SelectParams::default() },
        ..RunOptions::default()
    };
    let plain = Options { tune: false, ..Options::default() };
    // engines that share a device, and on a GPU also such that have opened it on their own
    for gpus in [gpus(&[1]), real().into_iter().chain(real()).collect()] {
        let Some(first) = gpus.first() else { continue };
        let engine = |i: usize| CudaExecutor::on(gpus[i % gpus.len()].clone(), plan.clone(), plain).unwrap();
        let photos: Vec<(Photo, Letterbox)> = (0..3).map(|i| photo(i, 40 + i as usize, 30, input)).collect();
        let people = |x: &mut CudaExecutor, (photo, letterbox): &(Photo, Letterbox)| {
            x.run(&[Frame { photo, letterbox }], &options).unwrap().remove(0)
        };
        let alone: Vec<_> = photos.iter().map(|p| people(&mut engine(0), p)).collect();
        assert!(alone[0] != alone[1] && alone[1] != alone[2], "on {}", first.describe());
        std::thread::scope(|scope| {
            for i in 0..photos.len() {
                let (photos, alone, engine, people) = (&photos, &alone, &engine, &people);
                scope.spawn(move || {
                    // made here, run here, and once more in another thread
                    let mut x = engine(i);
                    assert_eq!(people(&mut x, &photos[i]), alone[i]);
                    let moved = std::thread::spawn(move || x);
                    let mut x = moved.join().unwrap();
                    let next = (i + 1) % photos.len();
                    assert_eq!(people(&mut x, &photos[next]), alone[next]);
                });
            }
        });
    }
}

/// Each of these mistakes in a kernel must be noticed without a GPU: the tests are worth nothing otherwise.
#[test]
fn mistakes_in_kernels_are_noticed() {
    let Some(_) = Emulator::start(HOPPER, 0) else { return };
    let read = |file: &str| {
        std::fs::read_to_string(format!("{}/kernels/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let mutations: [(&str, &str, &str, &str); 9] = [
        ("conv_mma.cu", "cp_wait<DEPTH - 1>();", "cp_wait<DEPTH>();", "a wait count one too lax"),
        (
            "conv_mma.cu",
            "    cp_wait<DEPTH - 1>();\n    __syncthreads();",
            "    cp_wait<DEPTH - 1>();",
            "no barrier in the loop",
        ),
        (
            "conv_mma.cu",
            "  __syncthreads();   // the halo table is complete",
            "",
            "no barrier after the halo table",
        ),
        ("conv_mma.cu", "  pdl_wait();\n", "", "no wait for the kernel before"),
        ("conv_mma.cu", "(lane >> 4) * p.plane", "(lane >> 3) * p.plane", "a wrong fragment address"),
        ("conv_wg.cu", "mbar_wait(full_w + 8 * slot, phase);", "", "no wait for the weights"),
        (
            "conv_wg.cu",
            "if (c >= l.buffers) mbar_wait(empty_a + 8 * buffer, phase);",
            "",
            "activations overwritten too early",
        ),
        (
            "conv_wg.cu",
            "wgmma_operand(weights + wn * WN * BK * 2, 8, PLANES * 8)",
            "wgmma_operand(weights + wn * WN * BK * 2, PLANES * 8, 8)",
            "swapped strides",
        ),
        (
            "conv_wg.cu",
            "mbar_init(empty_w + 8 * i, NWG);",
            "mbar_init(empty_w + 8 * i, NWG + 1);",
            "a barrier that never completes",
        ),
    ];
    for (file, from, to, what) in mutations {
        let text = read(file);
        assert!(text.contains(from), "{what}: the kernel has changed, and so must the mistake");
        let unit = file.trim_end_matches(".cu");
        let name = if unit == "conv_mma" { "conv_mma_64x32x32_3_4x1x1" } else { "conv_wg_3_1x1_32x64_8" };
        // the mistake's unit alone, with the one kernel that is run: quick to compile
        let kept = if unit == "conv_mma" {
            "CONV_MMA(64, 32, 32, 3, 4, 1, 1)"
        } else {
            "CONV_WG(3, 1, 1, 32, 64, 8)"
        };
        let keep = |line: &&str| !line.starts_with("CONV_") || *line == kept;
        let text: Vec<&str> = text.lines().collect();
        let text: String = text.into_iter().filter(keep).map(|l| format!("{l}\n")).collect();
        let text = text.replace(from, to);
        let tile = TILES.iter().position(|t| t.name == name).unwrap();
        let choice = Choice { tile, width: 8, split: 1, buffers: 2, trigger: Trigger::Mid };
        let mut noticed = false;
        for seed in [0, 1, 2, 3] {
            let Some(gpu) = Emulator::mutated(file, &text, seed) else { return };
            let case = Case { cin: 264, cout: 40, h: 6, w: 5, ..PLAIN };
            let run = std::panic::AssertUnwindSafe(|| check_conv(&gpu, &[case], Some(choice), what));
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(|_| {}));
            noticed |= std::panic::catch_unwind(run).is_err();
            std::panic::set_hook(hook);
        }
        assert!(noticed, "nobody noticed: {what}");
    }
}
