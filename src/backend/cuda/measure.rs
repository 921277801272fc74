//! Times on this GPU: which tiles are fastest, and what its tensor cores can do at most.

use super::device::{CudaGpu, Device};
use super::gpu::{Caps, Gpu, Memory, Purpose, Sequence};
use super::launch::{Launch, Params};
use super::params;
use super::tiles::{self, Choice, Shape};
use super::tune::{self, Cache};
use crate::error::Result;
use crate::plan::Act;
use half::f16;
use std::sync::Arc;
use std::time::Duration;

/// Launches, and what was nearly as fast as the choice that was remembered for them, with the time it took.
pub(super) type Rivals = Vec<(Vec<Shape>, Vec<(Duration, Choice)>)>;

/// Times every candidate for each of these launches on scratch memory, and remembers the fastest; returns those that came
/// close. The GPU should have nothing else to do.
///
/// A candidate alternates with a launch of another kind, as in a network: after itself a kernel would find its code in the
/// caches, and room beside it for its first loads.
///
/// # Errors
/// Failures of the device.
pub(super) fn tiles(
    gpu: &Arc<dyn Gpu>,
    cache: &mut Cache,
    unknown: &[Vec<Shape>],
    images: usize,
) -> Result<Rivals> {
    /// How many that came close, and how close.
    const CLOSE: (usize, f64) = (4, 1.25);
    let mut rivals = Vec::new();
    let caps = gpu.caps();
    // In a chain, as in a run; shorter for batches, which take long enough.
    let repeats = (24 / images).clamp(4, 20);
    let between = Between::new(gpu, &caps)?;
    for shapes in unknown {
        if cache.get(&caps, shapes, images).is_some() {
            continue;
        }
        let bench = Bench::new(gpu, shapes, images)?;
        let mut best: Option<(Duration, Choice)> = None;
        let mut all: Vec<(Duration, Choice)> = Vec::new();
        let first = tune::built_in(&caps, shapes, images);
        let candidates = std::iter::once(first).chain(tune::ranked(&caps, shapes, images));
        for choice in candidates {
            let Some(launch) = bench.launch(shapes, &choice) else { continue };
            let launches = vec![[between.launch.clone(), launch]; repeats].concat();
            let chain = between.time * repeats as u32;
            // SAFETY: addresses are those of `bench` and `between`.
            let time = unsafe { fastest(gpu, launches, best.map(|b| b.0 + chain)) }?.saturating_sub(chain);
            all.push((time, choice));
            // a challenger must be clearly faster than the built-in choice
            let margin = if best.is_some_and(|b| b.1 == first) { 0.97 } else { 1.0 };
            if best.is_none_or(|b| time.as_secs_f64() < b.0.as_secs_f64() * margin) {
                best = Some((time, choice));
            }
        }
        if let Some((time, choice)) = best {
            cache.insert(shapes, images, choice, time / repeats as u32);
            all.retain(|c| c.1 != choice && c.0 < time.mul_f64(CLOSE.1));
            all.sort_by_key(|c| c.0);
            let close = all.into_iter().take(CLOSE.0).map(|(t, c)| (t / repeats as u32, c));
            rivals.push((shapes.clone(), close.collect()));
        }
    }
    cache.save();
    Ok(rivals)
}

/// Time of a whole network, from its first convolution to its predictions, whatever is in its memory.
///
/// # Errors
/// Failures of the device.
///
/// # Safety
/// The launches' addresses are valid, and nobody else uses them meanwhile.
pub(super) unsafe fn network(gpu: &Arc<dyn Gpu>, launches: Vec<Launch>) -> Result<Duration> {
    let body = launches.into_iter().filter(|l| {
        use Params::{Attention, Conv, LayerNorm, Pool, Predict};
        matches!(l.params, Conv(_) | Attention(_) | LayerNorm(_) | Pool(_) | Predict(_))
    });
    let launches: Vec<Launch> = body.collect();
    let marks = vec![launches.len()];
    // SAFETY: the caller's promise; the program ends here.
    let program = unsafe { gpu.compile(Sequence { launches, marks, ..Sequence::default() }) }?;
    program.run()?;
    let mut times = Vec::new();
    for _ in 0..15 {
        times.push(program.run_staged()?.iter().sum());
    }
    times.sort();
    Ok(times[times.len() / 3])
}

/// The shortest of a few runs; fewer if they are clearly slower than the best so far.
///
/// # Safety
/// As of [`network`].
unsafe fn fastest(gpu: &Arc<dyn Gpu>, launches: Vec<Launch>, best: Option<Duration>) -> Result<Duration> {
    let marks = vec![launches.len()];
    // SAFETY: the caller's promise; the program ends here.
    let program = unsafe { gpu.compile(Sequence { launches, marks, ..Sequence::default() }) }?;
    program.run()?; // caches warm
    let mut time = Duration::MAX;
    for _ in 0..6 {
        time = time.min(program.run_staged()?.iter().sum());
        // no run of the winner will be that much slower than its best
        if best.is_some_and(|best| time > best.mul_f64(1.2)) {
            break;
        }
    }
    Ok(time)
}

/// What runs between the candidates: a small convolution, with most of an SM's shared memory where it can have it.
struct Between {
    launch: Launch,
    /// Of one such launch in a chain of its own.
    time: Duration,
    _memory: Bench,
}

impl Between {
    fn new(gpu: &Arc<dyn Gpu>, caps: &Caps) -> Result<Between> {
        let (h, w, act) = (40, 40, Act::Silu);
        let shape = Shape { kernel: 3, stride: 1, cin: 64, cout: 128, h, w, oh: h, ow: w, group: 0, act };
        let memory = Bench::new(gpu, &[shape], 1)?;
        let choice = tune::built_in(caps, &[shape], 1);
        let launch = memory.launch(&[shape], &choice).expect("the built-in choice can be launched");
        let count = 20;
        // SAFETY: addresses are those of `memory`.
        let time = unsafe { fastest(gpu, vec![launch.clone(); count], None) }? / count as u32;
        Ok(Between { launch, time, _memory: memory })
    }
}

/// Floating-point operations a second, two a multiply-add, that the tensor cores of a GPU do in fp16 products with sums
/// in fp32 when nothing else holds them up: measured, takes some milliseconds.
///
/// # Errors
/// As [`super::CudaExecutor::new`].
pub fn tensor_peak(ordinal: usize) -> Result<f64> {
    let gpu: Arc<dyn Gpu> = Arc::new(CudaGpu(Device::open(ordinal)?));
    let values: Vec<f16> =
        (0..512u32).map(|i| f16::from_f32(((i * 37 % 101) as f32 - 50.0) / 64.0)).collect();
    let mut best: f64 = 0.0;
    for _ in 0..3 {
        let (_, rate) = peak(&gpu, bytemuck::cast_slice(&values), 4096)?;
        best = best.max(rate);
    }
    Ok(best)
}

/// Runs the GPU's peak kernel on 512 halves; returns what it wrote, and operations a second.
pub(super) fn peak(gpu: &Arc<dyn Gpu>, values: &[u8], iterations: i32) -> Result<(Vec<f32>, f64)> {
    let Caps { sms, wgmma, .. } = gpu.caps();
    // blocks, shared memory, operations of a block and iteration
    let (kernel, blocks, shared, flops) = match wgmma {
        true => ("peak_wg", sms, 32 << 10, 2 * 4 * (64 * 128 * 16 * 2)),
        false => ("peak_mma", 2 * sms, 0, 8 * 4 * 8 * (16 * 8 * 16 * 2)),
    };
    let data = Memory::new(gpu, values.len(), Purpose::Constant)?;
    data.write(0, values)?;
    let mut sums = vec![0f32; blocks as usize * 256];
    let out = Memory::new(gpu, sums.len() * 4, Purpose::Working)?;
    let params = params::PeakLaunch { data: data.address, out: out.address, iterations, reserved: 0 };
    let params = Params::Peak(params);
    let (grid, cluster, threads) = ([blocks, 1, 1], 1, 256);
    let launches = vec![Launch { kernel, grid, cluster, threads, shared, params, steps: vec![] }];
    // SAFETY: addresses are those of `data` and `out`, which live until the program is dropped.
    let program = unsafe { gpu.compile(Sequence { launches, marks: vec![1], ..Sequence::default() }) }?;
    program.run()?;
    let time: Duration = program.run_staged()?.iter().sum();
    out.read(0, bytemuck::cast_slice_mut(&mut sums))?;
    let operations = f64::from(blocks) * f64::from(flops) * f64::from(iterations);
    Ok((sums, operations / time.as_secs_f64().max(1e-9)))
}

/// Scratch memory to time a launch of convolutions on.
struct Bench {
    caps: Caps,
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
            memory.write(0, &vec![0; memory.bytes])?;
            Ok(memory)
        };
        let padded = |s: &Shape| s.kernel * s.kernel * (s.cin + 64) * s.cout.next_multiple_of(256) * 2;
        Ok(Bench {
            caps: gpu.caps(),
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
        params.stages = tiles::stages(&cut, choice) as i32;
        Some(Launch {
            kernel: tile.kernel(shapes.len()),
            grid: tiles::grid(&self.caps, &cut, self.images, choice),
            cluster: choice.split as u32,
            threads: tile.threads(),
            shared: tiles::shared_bytes(&cut, choice) as u32,
            params: Params::Conv(Box::new(params)),
            steps: vec![],
        })
    }
}
