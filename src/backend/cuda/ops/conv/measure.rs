//! Measures on this GPU which tiles are fastest.

use super::cache::Cache;
use super::launch_params;
use super::params::{ConvLaunch, ConvStep};
use super::shape::Shape;
use super::tiles::{self, Choice};
use super::tune;
use crate::backend::cuda::gpu::{Caps, Gpu, GraphRecipe, Memory, Purpose};
use crate::backend::cuda::launch::Launch;
use crate::error::Result;
use crate::plan::Act;
use std::sync::Arc;
use std::time::Duration;

/// Launches, each with the choices that were nearly as fast as the one that was kept, and their times.
pub type RunnersUp = Vec<(Vec<Shape>, Vec<(Duration, Choice)>)>;

/// Times every candidate for each of these launches on scratch memory, and remembers the fastest; returns those that
/// came close. The GPU should have nothing else to do.
///
/// A candidate alternates with a launch of another kind, as in a network. After itself it would find its code in the
/// caches and free shared memory for its first loads, and be measured too fast.
///
/// # Errors
/// Failures of the device.
pub fn tiles(
    gpu: &Arc<dyn Gpu>,
    cache: &mut Cache,
    unknown: &[Vec<Shape>],
    images: usize,
) -> Result<RunnersUp> {
    /// How many that came close, and how close.
    const CLOSE: (usize, f64) = (4, 1.25);
    let mut runners_up = Vec::new();
    let caps = gpu.caps();
    // Launches form a chain, as in a run. Batches take longer, so their chains are shorter.
    let repeats = (24 / images).clamp(4, 20);
    let interleaved = Interleaved::new(gpu, &caps)?;
    for shapes in unknown {
        if cache.get(&caps, shapes, images).is_some() {
            continue;
        }
        let bench = ScratchLaunch::new(gpu, shapes, images)?;
        let mut best: Option<(Duration, Choice)> = None;
        let mut all: Vec<(Duration, Choice)> = Vec::new();
        let first = tune::built_in(&caps, shapes, images);
        let candidates = std::iter::once(first).chain(tune::ranked(&caps, shapes, images));
        for choice in candidates {
            let Some(launch) = bench.launch(shapes, &choice) else { continue };
            let launches = vec![[interleaved.launch.clone(), launch]; repeats].concat();
            let chain = interleaved.time * repeats as u32;
            // SAFETY: addresses are those of `bench` and `interleaved`.
            let time = unsafe { fastest(gpu, launches, best.map(|b| b.0 + chain)) }?.saturating_sub(chain);
            all.push((time, choice));
            // A choice must be 3 % faster than the built-in one to replace it.
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
            runners_up.push((shapes.clone(), close.collect()));
        }
    }
    cache.save();
    Ok(runners_up)
}

/// Time of a network's launches. The content of its memory does not matter.
///
/// # Errors
/// Failures of the device.
///
/// # Safety
/// The launches' addresses are valid, and nothing else uses them meanwhile.
pub unsafe fn network(gpu: &Arc<dyn Gpu>, launches: Vec<Launch>) -> Result<Duration> {
    let marks = vec![launches.len()];
    // SAFETY: the caller's promise; the program ends here.
    let program = unsafe { gpu.compile(GraphRecipe { launches, marks, ..GraphRecipe::default() }) }?;
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
    let program = unsafe { gpu.compile(GraphRecipe { launches, marks, ..GraphRecipe::default() }) }?;
    program.run()?; // caches warm
    let mut time = Duration::MAX;
    for _ in 0..6 {
        time = time.min(program.run_staged()?.iter().sum());
        // No run of the fastest choice is 20 % slower than its best run.
        if best.is_some_and(|best| time > best.mul_f64(1.2)) {
            break;
        }
    }
    Ok(time)
}

/// The launch that alternates with candidates: a small convolution that takes most of an SM's shared memory.
struct Interleaved {
    launch: Launch,
    /// Time of one launch in a chain of this launch alone.
    time: Duration,
    _memory: ScratchLaunch,
}

impl Interleaved {
    fn new(gpu: &Arc<dyn Gpu>, caps: &Caps) -> Result<Interleaved> {
        let (h, w, act) = (40, 40, Act::Silu);
        let shape = Shape { kernel: 3, stride: 1, cin: 64, cout: 128, h, w, oh: h, ow: w, group: 0, act };
        let memory = ScratchLaunch::new(gpu, &[shape], 1)?;
        let choice = tune::built_in(caps, &[shape], 1);
        let launch = memory.launch(&[shape], &choice).expect("the built-in choice can be launched");
        let count = 20;
        // SAFETY: addresses are those of `memory`.
        let time = unsafe { fastest(gpu, vec![launch.clone(); count], None) }? / count as u32;
        Ok(Interleaved { launch, time, _memory: memory })
    }
}

/// Scratch memory to time a launch of convolutions on.
struct ScratchLaunch {
    caps: Caps,
    images: usize,
    src: Memory,
    dst: Memory,
    weight: Memory,
    bias: Memory,
}

impl ScratchLaunch {
    fn new(gpu: &Arc<dyn Gpu>, shapes: &[Shape], images: usize) -> Result<ScratchLaunch> {
        let most = |of: &dyn Fn(&Shape) -> usize| shapes.iter().map(of).max().unwrap_or(1);
        let zeroed = |bytes: usize, purpose| -> Result<Memory> {
            let memory = Memory::new(gpu, bytes, purpose)?;
            memory.write(0, &vec![0; memory.bytes])?;
            Ok(memory)
        };
        let padded = |s: &Shape| s.kernel * s.kernel * (s.cin + 64) * s.cout.next_multiple_of(256) * 2;
        Ok(ScratchLaunch {
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
        let kernel = choice.tile.kernel(shapes)?;
        let part = self.dst.bytes / shapes.len();
        let image = shapes.iter().map(|s| s.h * s.w * s.cin.max(s.cout)).max()?;
        let image = image.min(part / self.images / 2).min(self.src.bytes / self.images / 2) & !7;
        let mut params =
            ConvLaunch { image: image as i64, ..launch_params(shapes.len(), self.images, choice) };
        let (mut blocks, mut geometries) = (0, Vec::new());
        for (i, (shape, slot)) in shapes.iter().zip(&mut params.step).enumerate() {
            let g = tiles::geometry(shape, choice)?;
            *slot = ConvStep {
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
            geometries.push(g);
        }
        params.stages = tiles::stages(&geometries, choice) as i32;
        let grid = tiles::grid(&self.caps, &geometries, self.images, choice);
        Some(Launch {
            cluster: choice.split as u32,
            shared: tiles::shared_bytes(&geometries, choice) as u32,
            ..Launch::new(kernel, grid, choice.tile.threads, params, &[])
        })
    }
}
