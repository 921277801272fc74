//! The CUDA backend: handwritten fp16 kernels (`kernels/`), one CUDA graph from photos to people.
//!
//! ```text
//! plan -> schedule.rs (what runs together, where buffers live) -> lower.rs (addresses, tiles, packed constants)
//!      -> launches -> one graph per shape of input -> people in pinned host memory
//! ```
//!
//! Maps are stored in fp16 NHWC and summed in fp32; predictions, boxes, and everything about survivors is fp32. The
//! kernels know operations, `tiles.rs` and `tune.rs` which convolution kernel suits which shape. `gpu.rs` is all that
//! the executor needs of a device, so that tests run the same code on the host, with the kernels under an emulator.

mod device;
mod frames;
mod gpu;
mod images;
mod launch;
mod lower;
mod pack;
mod params;
mod schedule;
mod tiles;
mod tune;

#[cfg(test)]
mod emulator;
#[cfg(test)]
mod tests;

pub use device::{DeviceInfo, devices};
pub use images::compiled_archs;

use self::frames::{Layout, SURVIVOR_BYTES};
use self::gpu::{Caps, Gpu, HostMemory, Memory, Program, Purpose, Sequence};
use self::launch::{Launch, Params};
use self::lower::{Constants, Lowering, Place, cells};
use self::params::Count;
use self::schedule::{Schedule, Storage};
use self::tiles::{Choice, Shape};
use self::tune::Cache;
use super::{Executor, Frame, RunOptions, StageTimes, StepTime, Survivors};
use crate::error::{Error, Result};
use crate::plan::{Op, Plan, View};
use half::f16;
use std::sync::Arc;
use std::time::Duration;

/// How a plan is prepared for a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Keep every buffer intact until the end of a run, for [`Executor::read`]. Takes more memory.
    pub keep_all: bool,
    /// Measure tiles for shapes that the user's cache does not know yet; otherwise the built-in table serves.
    pub tune: bool,
    /// Independent convolutions share a launch.
    pub group: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { keep_all: false, tune: true, group: true }
    }
}

/// Largest batch that runs as one program; longer lists of frames run in turns.
const MAX_BATCH: usize = 64;
/// Survivors an image of a batch can have. A frame that has more runs again alone, where all grids fit.
const BATCH_CAPACITY: usize = 256;
/// Batch sizes kept ready, and programs kept for each.
const KEPT: (usize, usize) = (2, 8);
/// Uploads are whole multiples of this, so that photos of many sizes share few programs.
const UPLOAD: usize = 256 << 10;

/// Executes a plan on a GPU.
pub struct CudaExecutor {
    // Programs use memory that follows them here, and are dropped before it.
    setups: Vec<Setup>,
    constants: Constants,
    plan: Plan,
    schedule: Schedule,
    gpu: Arc<dyn Gpu>,
    options: Options,
    cache: Cache,
    /// Image of the last run's batch size, for `read`.
    last: usize,
    /// The last whole run: its images, and what was uploaded and asked for.
    held: Option<(usize, Key, RunOptions)>,
}

/// Everything for one batch size.
struct Setup {
    programs: Vec<(Key, Box<dyn Program>)>,
    images: usize,
    capacity: usize,
    arena: Memory,
    rows: Memory,
    survivors: Memory,
    counts: Memory,
    boxes: Memory,
    keys: Memory,
    heat: Option<[Memory; 2]>,
    input: Memory,
    staging: HostMemory,
    host_counts: HostMemory,
    host_rows: HostMemory,
    launches: Vec<Launch>,
}

/// What a program depends on besides its setup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    /// Bytes; 0: what the device holds is used again.
    upload: usize,
    heatmaps: bool,
    /// Stages are timed.
    staged: bool,
}

impl CudaExecutor {
    /// Prepares a plan for GPU `ordinal`: packs weights, chooses kernels, allocates memory for one image.
    ///
    /// # Errors
    /// Without a driver or that GPU, if the build carries no kernels for it, if a step is beyond the kernels, or if the
    /// memory does not suffice.
    pub fn new(plan: Plan, ordinal: usize, options: Options) -> Result<CudaExecutor> {
        let device = device::Device::open(ordinal)?;
        CudaExecutor::on(Arc::new(device::CudaGpu(device)), plan, options)
    }

    fn on(gpu: Arc<dyn Gpu>, plan: Plan, options: Options) -> Result<CudaExecutor> {
        let schedule = Schedule::new(&plan, options.keep_all, options.group)?;
        let cache = if options.tune { Cache::open(&gpu.identity()) } else { Cache::default() };
        let constants = Constants::new(&gpu);
        let mut executor = CudaExecutor {
            setups: vec![],
            constants,
            plan,
            schedule,
            gpu,
            options,
            cache,
            last: 0,
            held: None,
        };
        executor.setup(1)?;
        Ok(executor)
    }

    /// Index of the setup for a batch size, made if need be.
    fn setup(&mut self, images: usize) -> Result<usize> {
        if let Some(i) = self.setups.iter().position(|s| s.images == images) {
            return Ok(i);
        }
        if self.setups.len() >= KEPT.0 {
            // the setup for single images stays; it also serves overflowing frames
            let i = self.setups.iter().position(|s| s.images != 1).unwrap_or(0);
            self.setups.remove(i);
        }
        let (cells, slots) = cells(&self.plan);
        let capacity = if images == 1 { cells } else { cells.min(BATCH_CAPACITY) }.max(1);
        let gpu = &self.gpu;
        let working = |bytes: usize| Memory::new(gpu, bytes, Purpose::Working);
        let people = images * capacity;
        let (w, h) = self.plan.input_size;
        let input_bytes = images * (w * h * 3 + 64 * (w + h));
        let setup = Setup {
            programs: vec![],
            images,
            capacity,
            arena: working(images * self.schedule.image * 2)?,
            rows: working(people * self.schedule.row * 4)?,
            survivors: working(people * SURVIVOR_BYTES)?,
            counts: working(images * size_of::<Count>())?,
            boxes: working(images * slots * 16)?,
            keys: working(images * slots * 8)?,
            heat: None,
            input: working(input_bytes)?,
            staging: HostMemory::new(gpu, input_bytes)?,
            host_counts: HostMemory::new(gpu, images * size_of::<Count>())?,
            host_rows: HostMemory::new(gpu, people * self.fields() * 4)?,
            launches: vec![],
        };
        self.setups.push(setup);
        let i = self.setups.len() - 1;
        if let Err(e) = self.lower(i) {
            self.setups.truncate(i);
            return Err(e);
        }
        Ok(i)
    }

    /// Floats of a person in the results.
    fn fields(&self) -> usize {
        7 + 3 * self.plan.keypoints
    }

    /// (Re)makes a setup's launches; addresses or tiles have changed.
    fn lower(&mut self, index: usize) -> Result<()> {
        let setup = &mut self.setups[index];
        setup.programs.clear();
        let place = Place {
            images: setup.images,
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
            heat: setup.heat.as_ref().map_or([0; 2], |h| [h[0].address, h[1].address]),
        };
        let (caps, images) = (self.gpu.caps(), setup.images);
        let mut unknown: Vec<Vec<Shape>> = Vec::new();
        let cache = &self.cache;
        let mut choose = |shapes: &[Shape]| -> Choice {
            cache.get(&caps, shapes, images).unwrap_or_else(|| {
                unknown.push(shapes.to_vec());
                tune::built_in(&caps, shapes, images)
            })
        };
        if self.options.tune {
            // what the cache does not know is measured before weights are packed for it
            for group in &self.schedule.groups {
                if let schedule::Group::Conv(steps) = group {
                    let convs = steps.iter().map(|&s| &self.plan.steps[s].op);
                    let shapes: Vec<Shape> = convs
                        .filter_map(|op| {
                            if let Op::Conv(c) = op { Some(lower::shape(&self.plan, c)) } else { None }
                        })
                        .collect();
                    choose(&shapes);
                }
            }
            let unknown = std::mem::take(&mut unknown);
            self.measure(&unknown, images)?;
        }
        let cache = &self.cache;
        let mut choose = |shapes: &[Shape]| -> Choice {
            cache.get(&caps, shapes, images).unwrap_or_else(|| tune::built_in(&caps, shapes, images))
        };
        let (plan, schedule, constants) = (&self.plan, &self.schedule, &mut self.constants);
        let launches = Lowering { plan, schedule, constants, place, choose: &mut choose }.launches()?;
        self.setups[index].launches = launches;
        Ok(())
    }

    /// Times every candidate for each of these launches on scratch memory, and remembers the fastest.
    fn measure(&mut self, unknown: &[Vec<Shape>], images: usize) -> Result<()> {
        let caps = self.gpu.caps();
        // In a chain, as in a run; shorter for batches, which take long enough.
        let repeats = (24 / images).clamp(4, 20);
        for shapes in unknown {
            if self.cache.get(&caps, shapes, images).is_some() {
                continue;
            }
            let bench = Bench::new(&self.gpu, shapes, images)?;
            let mut best: Option<(Duration, Choice)> = None;
            let first = tune::built_in(&caps, shapes, images);
            let candidates = std::iter::once(first).chain(tune::ranked(&caps, shapes, images));
            for choice in candidates {
                let Some(launch) = bench.launch(shapes, &choice) else { continue };
                let launches = vec![launch; repeats];
                let program = self.gpu.compile(Sequence { upload: None, launches, marks: vec![repeats] })?;
                program.run()?; // caches warm
                let mut time = Duration::MAX;
                for _ in 0..5 {
                    time = time.min(program.run_staged()?.iter().sum());
                    // no run of the winner will be that much slower than its best
                    if best.is_some_and(|b| time > b.0.mul_f64(1.25)) {
                        break;
                    }
                }
                // a challenger must be clearly faster than the built-in choice
                let margin = if best.is_some_and(|b| b.1 == first) { 0.97 } else { 1.0 };
                if best.is_none_or(|b| time.as_secs_f64() < b.0.as_secs_f64() * margin) {
                    best = Some((time, choice));
                }
            }
            if let Some((_, choice)) = best {
                self.cache.insert(shapes, images, choice);
            }
        }
        self.cache.save();
        Ok(())
    }

    /// Runs frames that fit into one batch; `None` for an image whose survivors did not fit.
    fn run_batch(&mut self, frames: &[Frame<'_>], options: &RunOptions) -> Result<Vec<Option<Survivors>>> {
        let (index, key) = self.prepare(frames, options)?;
        self.program(index, key)?.run()?;
        self.held = Some((frames.len(), key, *options));
        self.results(index, options)
    }

    /// A setup's program, made if need be.
    fn program(&mut self, index: usize, key: Key) -> Result<&dyn Program> {
        self.last = index;
        let setup = &mut self.setups[index];
        let place = match setup.programs.iter().position(|p| p.0 == key) {
            Some(i) => i,
            None => {
                if setup.programs.len() >= KEPT.1 {
                    setup.programs.remove(0);
                }
                let program = self.gpu.compile(setup.sequence(key, &self.plan))?;
                setup.programs.push((key, program));
                setup.programs.len() - 1
            }
        };
        Ok(setup.programs[place].1.as_ref())
    }

    /// Writes the frames where the program will look for them; returns the setup's index and the program's key.
    fn prepare(&mut self, frames: &[Frame<'_>], options: &RunOptions) -> Result<(usize, Key)> {
        let layout = Layout::new(frames, self.plan.input_size)?;
        self.held = None;
        let index = self.setup(frames.len())?;
        let mut changed = false;
        if layout.bytes > self.setups[index].input.bytes {
            let bytes = layout.bytes.next_multiple_of(1 << 20);
            let input = Memory::new(&self.gpu, bytes, Purpose::Working)?;
            let staging = HostMemory::new(&self.gpu, bytes)?;
            let setup = &mut self.setups[index];
            setup.programs.clear();
            (setup.input, setup.staging) = (input, staging);
            changed = true;
        }
        if options.heatmaps && self.setups[index].heat.is_none() {
            let setup = &self.setups[index];
            let bytes = bins(&self.plan).map(|n| setup.images * setup.capacity * self.plan.keypoints * n * 4);
            let memory = |bytes: usize| Memory::new(&self.gpu, bytes, Purpose::Working);
            self.setups[index].heat = Some([memory(bytes[0])?, memory(bytes[1])?]);
            changed = true;
        }
        if changed {
            self.lower(index)?;
        }
        layout.write(frames, &options.select, self.setups[index].staging.write());
        let upload = layout.bytes.next_multiple_of(UPLOAD).min(self.setups[index].input.bytes);
        Ok((index, Key { upload, heatmaps: options.heatmaps, staged: false }))
    }

    /// What the last run of a setup left in the host's memory.
    fn results(&self, index: usize, options: &RunOptions) -> Result<Vec<Option<Survivors>>> {
        let setup = &self.setups[index];
        let (k, fields) = (self.plan.keypoints, self.fields());
        let counts: &[Count] =
            bytemuck::cast_slice(&setup.host_counts.read()[..setup.images * size_of::<Count>()]);
        let rows: &[f32] =
            bytemuck::cast_slice(&setup.host_rows.read()[..setup.images * setup.capacity * fields * 4]);
        let mut all = Vec::with_capacity(setup.images);
        for (image, count) in counts.iter().enumerate() {
            if count.lost != 0 {
                all.push(None);
                continue;
            }
            let people = count.people as usize;
            let mut s = Survivors::default();
            for row in rows[image * setup.capacity * fields..].chunks_exact(fields).take(people) {
                s.scores.push(row[0]);
                s.boxes.push([row[1], row[2], row[3], row[4]]);
                s.priors.push([row[5], row[6]]);
                s.keypoints.extend(row[7..7 + 2 * k].chunks_exact(2).map(|p| [p[0], p[1]]));
                s.visibility.extend_from_slice(&row[7 + 2 * k..]);
            }
            if let (true, Some(heat)) = (options.heatmaps, &setup.heat) {
                let read = |axis: usize, n: usize| -> Result<Vec<f32>> {
                    let mut values = vec![0f32; people * k * n];
                    let from = heat[axis].address + (image * setup.capacity * k * n * 4) as u64;
                    self.gpu.download(from, bytemuck::cast_slice_mut(&mut values))?;
                    Ok(values)
                };
                let [x, y] = bins(&self.plan);
                (s.heatmaps_x, s.heatmaps_y) = (read(0, x)?, read(1, y)?);
            }
            all.push(Some(s));
        }
        Ok(all)
    }
}

/// Bins of x and y.
fn bins(plan: &Plan) -> [usize; 2] {
    let of = |op: &Op| if let Op::BinDecode(b) = op { Some([b.x.bins, b.y.bins]) } else { None };
    plan.steps.iter().find_map(|s| of(&s.op)).unwrap_or([0; 2])
}

impl Setup {
    fn sequence(&self, key: Key, plan: &Plan) -> Sequence {
        let mut launches = self.launches.clone();
        for l in &mut launches {
            if let (Params::BinDecode(p), false) = (&mut l.params, key.heatmaps) {
                p.heat = [0; 2];
            }
        }
        let marks = if key.staged { stages(plan, &launches) } else { vec![] };
        let upload = (key.upload > 0).then(|| (self.staging.address(), self.input.address, key.upload));
        Sequence { upload, launches, marks }
    }
}

/// Ends of the stages, as launches before them: upload, letterbox, network, select, DCC, download.
fn stages(plan: &Plan, launches: &[Launch]) -> Vec<usize> {
    let first =
        |matches: &dyn Fn(&Launch) -> bool| launches.iter().position(matches).unwrap_or(launches.len());
    let is = |launch: &Launch, of: fn(&Op) -> bool| launch.steps.iter().any(|&s| of(&plan.steps[s].op));
    let letterbox = |l: &Launch| is(l, |op| matches!(op, Op::Letterbox { .. }));
    let collect = first(&|l| l.steps.is_empty());
    let select = first(&|l| is(l, |op| matches!(op, Op::Select { .. }))).min(collect);
    let network = first(&|l| !letterbox(l)).min(select);
    vec![0, network, select, (select + 1).min(collect), collect, launches.len()]
}

impl Executor for CudaExecutor {
    fn run(&mut self, frames: &[Frame<'_>], options: &RunOptions) -> Result<Vec<Survivors>> {
        let mut all = Vec::with_capacity(frames.len());
        for batch in frames.chunks(MAX_BATCH) {
            for (i, people) in self.run_batch(batch, options)?.into_iter().enumerate() {
                let people = match people {
                    Some(people) => Some(people),
                    None => self.run_batch(&batch[i..=i], options)?.pop().flatten(),
                };
                all.push(people.ok_or_else(|| Error::Device("more survivors than grid cells".into()))?);
            }
        }
        Ok(all)
    }

    fn run_again(&mut self, frames: &[Frame<'_>], options: &RunOptions) -> Result<Vec<Survivors>> {
        let Some((images, key, _)) = self.held.filter(|h| (h.0, h.2) == (frames.len(), *options)) else {
            return self.run(frames, options);
        };
        let index = self.setup(images)?;
        self.program(index, Key { upload: 0, ..key })?.run()?;
        match self.results(index, options)?.into_iter().collect() {
            Some(people) => Ok(people),
            None => self.run(frames, options),
        }
    }

    fn run_staged(
        &mut self,
        frames: &[Frame<'_>],
        options: &RunOptions,
    ) -> Result<(Vec<Survivors>, StageTimes)> {
        let (mut times, mut all) = (StageTimes::default(), Vec::with_capacity(frames.len()));
        for batch in frames.chunks(MAX_BATCH) {
            let (index, key) = self.prepare(batch, options)?;
            let stages = self.program(index, Key { staged: true, ..key })?.run_staged()?;
            let into = [
                &mut times.upload,
                &mut times.letterbox,
                &mut times.network,
                &mut times.select,
                &mut times.dcc,
                &mut times.download,
            ];
            into.into_iter().zip(stages).for_each(|(sum, time)| *sum += time);
            match self.results(index, options)?.into_iter().collect::<Option<Vec<_>>>() {
                Some(people) => all.extend(people),
                // some frame has more people than fit: its repetition is not timed
                None => all.extend(self.run(batch, options)?),
            }
        }
        Ok((all, times))
    }

    fn launches(&self) -> Option<usize> {
        self.setups.first().map(|setup| setup.launches.len())
    }

    fn run_timed(&mut self, frame: Frame<'_>, options: &RunOptions) -> Result<(Survivors, Vec<StepTime>)> {
        let (index, key) = self.prepare(&[frame], options)?;
        let setup = &self.setups[index];
        let sequence = setup.sequence(key, &self.plan);
        let launches: Vec<(Vec<usize>, &'static str)> =
            sequence.launches.iter().map(|l| (l.steps.clone(), l.kernel)).collect();
        let times = self.gpu.compile(sequence)?.run_timed()?;
        self.last = index;
        let people = self.results(index, options)?.pop().flatten();
        let people = people.ok_or_else(|| Error::Device("more survivors than grid cells".into()))?;
        // A launch of several steps counts for the first; the others show the kernel they went with, and no time.
        let mut steps = Vec::new();
        for ((of, kernel), time) in launches.into_iter().zip(times) {
            for (i, step) in of.iter().enumerate() {
                let time = if i == 0 { time } else { Duration::ZERO };
                let with = if i == 0 { String::new() } else { format!(" (with step {})", of[0]) };
                steps.push(StepTime { step: *step, kernel: format!("{kernel}{with}"), time });
            }
        }
        steps.sort_by_key(|s| s.step);
        Ok((people, steps))
    }

    fn read(&mut self, view: View, image: usize) -> Result<Vec<f32>> {
        let setup = &self.setups[self.last.min(self.setups.len() - 1)];
        let buffer = self.plan.buffers.get(view.buffer.0).filter(|b| view.c0 + view.c <= b.c);
        let buffer = buffer.ok_or_else(|| Error::Usage(format!("view {view:?} is not of this plan")))?;
        if image >= setup.images {
            let n = setup.images;
            return Err(Error::Usage(format!("image {image} of a batch of {n}")));
        }
        let pixels = buffer.extent.pixels();
        let offset = self.schedule.offsets[view.buffer.0] * 2 + image * self.schedule.image * 2;
        let load = |bytes: usize| -> Result<Vec<u8>> {
            let mut data = vec![0; bytes];
            self.gpu.download(setup.arena.address + offset as u64, &mut data)?;
            Ok(data)
        };
        let half = |b: &[u8]| f16::from_le_bytes([b[0], b[1]]).to_f32();
        let take = |values: Vec<f32>, pitch: usize| -> Vec<f32> {
            values.chunks_exact(pitch).flat_map(|p| &p[view.c0..view.c0 + view.c]).copied().collect()
        };
        match self.schedule.storage[view.buffer.0] {
            Storage::Half { pitch } => {
                Ok(take(load(pixels * pitch * 2)?.chunks_exact(2).map(half).collect(), pitch))
            }
            Storage::Float { pitch } => {
                let float = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                Ok(take(load(pixels * pitch * 4)?.chunks_exact(4).map(float).collect(), pitch))
            }
            Storage::Cells => {
                let data: Vec<f32> = load(pixels * 8)?.chunks_exact(2).map(half).collect();
                let (w, h) = self.plan.input_size;
                let at = |y: usize, x: usize, c: usize| {
                    data[(y / 2 * (w / 2) + x / 2) * 16 + (y % 2 * 2 + x % 2) * 3 + c]
                };
                let values = (0..h).flat_map(|y| (0..w).flat_map(move |x| (0..3).map(move |c| (y, x, c))));
                Ok(take(values.map(|(y, x, c)| at(y, x, c)).collect(), 3))
            }
            Storage::Rows { .. } => {
                Err(Error::Usage(format!("{} holds survivor rows, not a map", buffer.name)))
            }
        }
    }

    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn describe(&self) -> String {
        let launches = self.setups.first().map_or(0, |s| s.launches.len());
        format!("{}, fp16, {launches} launches a run", self.gpu.describe())
    }
}

/// Floating-point operations a second, two a multiply-add, that the tensor cores of a GPU do in fp16 products with sums
/// in fp32 when nothing else holds them up: measured, takes some milliseconds.
///
/// # Errors
/// As [`CudaExecutor::new`].
pub fn tensor_peak(ordinal: usize) -> Result<f64> {
    let gpu: Arc<dyn Gpu> = Arc::new(device::CudaGpu(device::Device::open(ordinal)?));
    let values: Vec<f16> =
        (0..512u32).map(|i| f16::from_f32(((i * 37 % 101) as f32 - 50.0) / 64.0)).collect();
    let mut best: f64 = 0.0;
    for _ in 0..3 {
        let (_, rate) = measure_peak(&gpu, bytemuck::cast_slice(&values), 4096)?;
        best = best.max(rate);
    }
    Ok(best)
}

/// Runs the GPU's peak kernel on 512 halves; returns what it wrote, and operations a second.
fn measure_peak(gpu: &Arc<dyn Gpu>, values: &[u8], iterations: i32) -> Result<(Vec<f32>, f64)> {
    let Caps { sms, wgmma, .. } = gpu.caps();
    // blocks, shared memory, operations of a block and iteration
    let (kernel, blocks, shared, flops) = match wgmma {
        true => ("peak_wg", sms, 32 << 10, 2 * 4 * (64 * 128 * 16 * 2)),
        false => ("peak_mma", 2 * sms, 0, 8 * 4 * 8 * (16 * 8 * 16 * 2)),
    };
    let data = Memory::new(gpu, values.len(), Purpose::Constant)?;
    gpu.upload(data.address, values)?;
    let mut sums = vec![0f32; blocks as usize * 256];
    let out = Memory::new(gpu, sums.len() * 4, Purpose::Working)?;
    let params = params::PeakLaunch { data: data.address, out: out.address, iterations, reserved: 0 };
    let params = Params::Peak(params);
    let (grid, cluster, threads) = ([blocks, 1, 1], 1, 256);
    let launches = vec![Launch { kernel, grid, cluster, threads, shared, params, steps: vec![] }];
    let program = gpu.compile(Sequence { upload: None, launches, marks: vec![1] })?;
    program.run()?;
    let time: Duration = program.run_staged()?.iter().sum();
    gpu.download(out.address, bytemuck::cast_slice_mut(&mut sums))?;
    let operations = f64::from(blocks) * f64::from(flops) * f64::from(iterations);
    Ok((sums, operations / time.as_secs_f64().max(1e-9)))
}

/// Scratch memory to time a launch of convolutions on.
struct Bench {
    images: usize,
    src: Memory,
    dst: Memory,
    weight: Memory,
    bias: Memory,
}

impl Bench {
    fn new(gpu: &Arc<dyn Gpu>, shapes: &[Shape], images: usize) -> Result<Bench> {
        let most = |of: &dyn Fn(&Shape) -> usize| shapes.iter().map(of).max().unwrap_or(1);
        let zeroed = |bytes: usize, purpose| -> Result<Memory> {
            let memory = Memory::new(gpu, bytes, purpose)?;
            gpu.upload(memory.address, &vec![0; memory.bytes])?;
            Ok(memory)
        };
        let padded = |s: &Shape| s.kernel * s.kernel * (s.cin + 64) * s.cout.next_multiple_of(256) * 2;
        Ok(Bench {
            images,
            src: zeroed(images * most(&|s| s.h * s.w * s.cin * 2), Purpose::Working)?,
            dst: zeroed(shapes.len() * images * most(&|s| s.oh * s.ow * s.cout * 2), Purpose::Working)?,
            weight: zeroed(most(&padded), Purpose::Constant)?,
            bias: zeroed(most(&|s| (s.cout + 256) * 4), Purpose::Constant)?,
        })
    }

    /// The launch under a choice; images overlap in `src`, which costs nothing and saves memory.
    fn launch(&self, shapes: &[Shape], choice: &Choice) -> Option<Launch> {
        let tile = &tiles::TILES[choice.tile];
        let mut params = params::ConvLaunch {
            steps: shapes.len() as i32,
            images: self.images as i32,
            split: choice.split as i32,
            buffers: choice.buffers as i32,
            trigger: choice.trigger as i32,
            image: shapes.iter().map(|s| s.h * s.w * s.cin.max(s.cout)).max()? as i64,
            ..Default::default()
        };
        let (mut blocks, mut cut) = (0, Vec::new());
        let part = self.dst.bytes / shapes.len();
        params.image =
            params.image.min((part / self.images / 2) as i64).min((self.src.bytes / self.images / 2) as i64);
        params.image &= !7;
        for (i, (shape, slot)) in shapes.iter().zip(&mut params.step).enumerate() {
            let g = tiles::geometry(shape, choice)?;
            *slot = params::ConvStep {
                src: self.src.address,
                dst: self.dst.address + (i * part / 256 * 256) as u64,
                weight: self.weight.address,
                bias: self.bias.address,
                src_pitch: shape.cin as i32,
                dst_pitch: shape.cout as i32,
                first_block: blocks,
                ..g.step
            };
            blocks += (g.tiles * self.images) as i32;
            cut.push(g);
        }
        Some(Launch {
            kernel: tile.name,
            grid: [blocks as u32, 1, choice.split as u32],
            cluster: choice.split as u32,
            threads: tile.threads(),
            shared: tiles::shared_bytes(&cut, choice) as u32,
            params: Params::Conv(Box::new(params)),
            steps: vec![],
        })
    }
}
