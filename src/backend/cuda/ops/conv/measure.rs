//! Measures on this GPU which choices are right, and which of them are fastest.

use super::cache::Cache;
use super::judge::{self, Bench, Output, Verdict};
use super::scratch::Scratch;
use super::shape::Shape;
use super::tiles::Choice;
use super::{trial, tune};
use crate::backend::cuda::gpu::{Caps, Gpu, GraphRecipe};
use crate::backend::cuda::launch::Launch;
use crate::error::Result;
use crate::plan::Act;
use std::sync::Arc;
use std::time::Duration;

/// Launches, each with the choices that were nearly as fast as the one that was kept, and their times.
pub type RunnersUp = Vec<(Vec<Shape>, Vec<(Duration, Choice)>)>;

/// Tries and times every candidate for each of these launches, and remembers the fastest right one; returns those that
/// came close. The GPU should have nothing else to do.
///
/// Kernels that no GPU has confirmed first run in a process of their own ([`trial`]).
///
/// # Errors
/// Failures of the device. What has been found until then is in the cache's file.
pub fn tiles(
    gpu: &Arc<dyn Gpu>,
    cache: &mut Cache,
    unknown: &[Vec<Shape>],
    images: usize,
) -> Result<RunnersUp> {
    let caps = gpu.caps();
    rehearse(gpu, cache, unknown, images);
    let mut runners_up = Vec::new();
    // Launches form a chain, as in a run. Batches take longer, so their chains are shorter.
    let repeats = (24 / images).clamp(4, 20) as u32;
    let mut interleaved = Interleaved::new(gpu, &caps)?;
    for shapes in unknown {
        if cache.get(&caps, shapes, images).is_some() {
            continue;
        }
        let first = tune::built_in(&caps, shapes, images);
        let reference = tune::fallback(&caps, shapes, images);
        let allowed = |c: &Choice| match cache.verdict(shapes, images, c) {
            Some(verdict) => verdict == Verdict::Good,
            None => c.tile.proven,
        };
        let mut others = tune::ranked(&caps, shapes, images);
        others.retain(allowed);
        let first = if allowed(&first) { first } else { reference };
        // Without memory to try on, the table must do.
        let Ok(scratch) = Scratch::new(gpu, shapes, images) else {
            cache.insert(shapes, images, first, Duration::ZERO);
            continue;
        };
        let mut bench = OnDevice { gpu, scratch, interleaved: &mut interleaved, repeats };
        let mut bad = |choice: &Choice| {
            cache.judge(shapes, images, choice, Verdict::Bad);
            cache.save();
        };
        let chosen = judge::choose(&mut bench, reference, first, &others, &mut bad)?;
        cache.insert(shapes, images, chosen.choice, chosen.time);
        runners_up.push((shapes.clone(), chosen.close));
    }
    cache.save();
    Ok(runners_up)
}

/// Has the candidates that no GPU has confirmed, and that are not known here yet, tried in another process.
fn rehearse(gpu: &Arc<dyn Gpu>, cache: &mut Cache, unknown: &[Vec<Shape>], images: usize) {
    let caps = gpu.caps();
    let mut jobs = Vec::new();
    for shapes in unknown {
        for choice in tune::ranked(&caps, shapes, images) {
            let hung = cache.hung(choice.tile);
            if !choice.tile.proven && !hung && cache.verdict(shapes, images, &choice).is_none() {
                jobs.push(trial::Job { shapes: shapes.clone(), images, choice });
            }
        }
    }
    if jobs.is_empty() {
        return;
    }
    let verdicts = trial::run(&jobs, &mut || gpu.trial(), trial::LIMITS);
    for (job, verdict) in jobs.iter().zip(verdicts) {
        if let Some(verdict) = verdict {
            cache.judge(&job.shapes, images, &job.choice, verdict);
        }
    }
    cache.save();
}

/// Candidates on a GPU.
///
/// A candidate is timed in alternation with a launch of another kind, as in a network. After itself it would find its
/// code in the caches and free shared memory for its first loads, and be measured too fast.
struct OnDevice<'a> {
    gpu: &'a Arc<dyn Gpu>,
    scratch: Scratch,
    interleaved: &'a mut Interleaved,
    repeats: u32,
}

impl Bench for OnDevice<'_> {
    fn output(&mut self, choice: &Choice) -> Result<Output> {
        self.scratch.output(choice)
    }

    fn time(&mut self, choice: &Choice, best: Option<Duration>) -> Result<Duration> {
        let pair = [self.interleaved.launch.clone(), self.scratch.launch(choice)?];
        let launches = vec![pair; self.repeats as usize].concat();
        let chain = self.interleaved.time * self.repeats;
        let best = best.map(|best| best * self.repeats + chain);
        // SAFETY: addresses are those of `scratch` and `interleaved`.
        let time = unsafe { fastest(self.gpu, launches, best) }?.saturating_sub(chain);
        Ok(time / self.repeats)
    }
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
    _memory: Scratch,
}

impl Interleaved {
    fn new(gpu: &Arc<dyn Gpu>, caps: &Caps) -> Result<Interleaved> {
        let (h, w, act) = (40, 40, Act::Silu);
        let shape = Shape { kernel: 3, stride: 1, cin: 64, cout: 128, h, w, oh: h, ow: w, group: 0, act };
        let mut memory = Scratch::new(gpu, &[shape], 1)?;
        let launch = memory.launch(&tune::built_in(caps, &[shape], 1))?;
        let count = 20;
        // SAFETY: addresses are those of `memory`.
        let time = unsafe { fastest(gpu, vec![launch.clone(); count], None) }? / count as u32;
        Ok(Interleaved { launch, time, _memory: memory })
    }
}
