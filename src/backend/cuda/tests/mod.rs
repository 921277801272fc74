//! Every kernel against the f64 reference, on the host emulator and, where there is one, on a GPU.

#[path = "../../../../tests/common/mod.rs"]
mod common;
pub(super) mod conv;
mod driver;
mod early;
mod forecast;
mod machine;
mod maps;
mod network;
mod people;

use super::emulator::{Emulator, HOPPER, TURING};
use super::gpu::{Caps, Gpu, GraphRecipe, Memory, Program, Purpose};
use super::lower::{Lowering, WorkspaceAddresses};
use super::ops::conv::{shape::Shape, tiles::Choice, tune};
use super::pose::params::{Count, Survivor};
use super::schedule::Storage;
use super::{CudaExecutor, Options, device};
use crate::backend::Executor;
use crate::backend::device::Kernels;
use crate::backend::reference::{Person, Reference};
use crate::error::{Error, Result};
use crate::plan::*;
use crate::pose::Letterbox;
use crate::vision::Photo;
use half::f16;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
pub(super) fn gpus(seeds: &[u64]) -> Vec<Arc<dyn Gpu>> {
    let mut all: Vec<Arc<dyn Gpu>> = seeds.iter().filter_map(|&s| Emulator::start(HOPPER, s)).collect();
    all.extend(real());
    all
}

/// Those of [`gpus`], each also with a single multiprocessor, so that a block does several tiles; and one that is
/// older, with less shared memory.
fn gpus_of_all_sizes(seed: u64) -> Vec<Arc<dyn Gpu>> {
    let large = gpus(&[seed]);
    let small = large.iter().map(|gpu| Limited::new(gpu.clone(), 1) as Arc<dyn Gpu>);
    let small: Vec<_> = small.chain(Emulator::start(TURING, seed)).collect();
    [large, small].concat()
}

fn real() -> Option<Arc<dyn Gpu>> {
    match device::Device::open(0, Kernels::All) {
        Ok(d) => Some(Arc::new(device::CudaGpu(d))),
        Err(e) => {
            static SAID: std::sync::Once = std::sync::Once::new();
            SAID.call_once(|| eprintln!("no GPU, kernels run under the emulator only: {e}"));
            None
        }
    }
}

/// A GPU that pretends to have fewer multiprocessors and buffers.
pub(super) struct Limited {
    gpu: Arc<dyn Gpu>,
    /// Multiprocessors: where there are few, blocks that stay until all tiles are done have many.
    sms: u32,
    /// Device buffers that can still be had.
    buffers: AtomicUsize,
    /// Programs made.
    programs: AtomicUsize,
}

impl Limited {
    pub fn new(gpu: Arc<dyn Gpu>, sms: u32) -> Arc<Limited> {
        Arc::new(Limited { gpu, sms, buffers: AtomicUsize::new(usize::MAX), programs: AtomicUsize::new(0) })
    }
}

impl Gpu for Limited {
    fn caps(&self) -> Caps {
        Caps { sms: self.sms, ..self.gpu.caps() }
    }
    fn describe(&self) -> String {
        self.gpu.describe()
    }
    fn identity(&self) -> String {
        self.gpu.identity()
    }
    fn alloc(&self, bytes: usize, purpose: Purpose) -> Result<u64> {
        let take = |left: usize| left.checked_sub(1);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.buffers.fetch_update(set, fetch, take).map_err(|_| Error::Device("no memory".into()))?;
        self.gpu.alloc(bytes, purpose)
    }
    unsafe fn free(&self, address: u64) {
        // SAFETY: the caller's promise.
        unsafe { self.gpu.free(address) };
    }
    fn alloc_host(&self, bytes: usize) -> Result<(u64, u64)> {
        self.gpu.alloc_host(bytes)
    }
    unsafe fn free_host(&self, host: u64) {
        // SAFETY: the caller's promise.
        unsafe { self.gpu.free_host(host) };
    }
    unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.gpu.upload(to, from) }
    }
    unsafe fn fill(&self, to: u64, value: u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.gpu.fill(to, value, bytes) }
    }
    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.gpu.download(from, to) }
    }
    unsafe fn compile(&self, recipe: GraphRecipe) -> Result<Box<dyn Program>> {
        self.programs.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { self.gpu.compile(recipe) }
    }
}

const OPTIONS: Options = Options { keep_all: true, tune: false, group: true, kernels: Kernels::All };

/// A 1x1 convolution and nothing else.
fn linear(src: View, dst: View, weight: TensorId, bias: TensorId) -> Conv {
    let (pre_add, act, post_add) = (PreAdd::None, Act::None, None);
    Conv { src, dst, weight, bias, kernel: 1, stride: 1, pad: 0, groups: 1, pre_add, act, post_add }
}

/// A plan on a GPU and in the reference, side by side.
struct Rig {
    gpu: Arc<dyn Gpu>,
    x: CudaExecutor,
    r: Reference,
    /// Index of the workspace that runs, and the image of its batch that is filled and read.
    workspace: usize,
    image: usize,
    /// Where [`Pose::BinDecode`] leaves its probabilities, if anywhere.
    heat: Option<[Memory; 2]>,
}

impl Rig {
    fn new(gpu: &Arc<dyn Gpu>, plan: &Plan) -> Rig {
        let x = CudaExecutor::on(gpu.clone(), plan.clone(), OPTIONS).unwrap();
        let r = Reference::new(plan.clone());
        let mut rig = Rig { gpu: gpu.clone(), x, r, workspace: 0, image: 0, heat: None };
        rig.batch(1);
        rig
    }

    /// From now on batches of so many images run.
    fn batch(&mut self, images: usize) {
        self.workspace = self.x.workspace(images, 0).unwrap();
        (self.x.last, self.image) = (self.workspace, 0);
        let s = &self.x.workspaces[self.workspace];
        for m in [&s.arena, &s.rows] {
            m.write(0, &vec![0xFF; m.bytes]).unwrap(); // NaNs everywhere
        }
    }

    fn plan(&self) -> &Plan {
        self.r.plan()
    }

    /// Memory and byte of element 0 of the first pixel or row of a view.
    fn place(&self, view: View) -> (&Memory, usize) {
        let (s, workspace) = (&self.x.schedule, &self.x.workspaces[self.workspace]);
        let offset = s.offsets[view.buffer.0];
        let map = (offset + self.image * s.image) * 2;
        match s.storage[view.buffer.0] {
            Storage::Half { .. } | Storage::Cells => (&workspace.arena, map + view.c0 * 2),
            Storage::Float { .. } => (&workspace.arena, map + view.c0 * 4),
            Storage::Rows { .. } => (&workspace.rows, (offset * workspace.capacity + view.c0) * 4),
        }
    }

    /// Overwrites a view on both sides with values that fp16 represents (fp32 for predictions and rows).
    fn set(&mut self, view: View, values: &[f32]) {
        let (memory, at) = self.place(view);
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
            memory.write(at + i * pitch * size, &bytes).unwrap();
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
        let workspace = &self.x.workspaces[0];
        assert!(people.len() <= workspace.capacity);
        workspace.survivors.write(0, bytemuck::cast_slice(&list)).unwrap();
        let count = Count { people: people.len() as i32, ..Count::default() };
        workspace.counts.write(0, bytemuck::bytes_of(&count)).unwrap();
        self.r.set_people(people.to_vec());
    }

    /// Values of rows.
    fn rows(&self, view: View) -> Vec<f32> {
        let Storage::Rows { pitch } = self.x.schedule.storage[view.buffer.0] else { panic!("rows") };
        let n = self.r.people().len();
        let mut values = vec![0f32; n * pitch];
        let (memory, at) = self.place(View { c0: 0, ..view });
        memory.read(at, bytemuck::cast_slice_mut(&mut values)).unwrap();
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
        let workspace = &self.x.workspaces[self.workspace];
        let heat = self.heat.as_ref().map_or([0; 2], |h| [h[0].address, h[1].address]);
        let addresses = WorkspaceAddresses { heat, ..workspace.addresses() };
        let (plan, schedule) = (&self.x.plan, &self.x.schedule);
        let constants = &mut self.x.constants;
        let launches =
            Lowering { plan, schedule, constants, workspace: addresses, choose: &mut choose }.launches()?;
        let snapshot = |m: &Memory| {
            let mut data = vec![0; m.bytes];
            m.read(0, &mut data).unwrap();
            data
        };
        let before = [snapshot(&workspace.arena), snapshot(&workspace.rows)];
        // SAFETY: addresses are those of the executor and of `heat`, which outlive the program.
        unsafe { self.gpu.compile(GraphRecipe { launches, ..GraphRecipe::default() }) }?.run()?;
        let after = [snapshot(&workspace.arena), snapshot(&workspace.rows)];
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
            let start = self.place(view).1; // of the first image
            let c = if schedule.storage[view.buffer.0] == Storage::Cells { 4 } else { view.c };
            let pixels = if which == 1 { workspace.capacity } else { buffer.extent.pixels() };
            for image in 0..if which == 1 { 1 } else { workspace.images } {
                for p in 0..pixels {
                    let at = start + image * schedule.image * 2 + p * pitch * size;
                    allowed[which][at..at + c * size].fill(true);
                }
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
            Extent::Map { .. } => self.x.read(view, self.image).unwrap(),
            Extent::Rows => self.rows(view),
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

fn fill(rig: &mut Rig, views: &[View], rng: &mut Rng) {
    for &v in views {
        let n = rig.plan().buffer_of(v).extent.pixels() * v.c;
        let values = rng.normals(n, 1.0);
        rig.set(v, &values);
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
