//! A graph recipe as a CUDA graph.

use super::device::{Device, failed};
use super::gpu::{Fetch, GraphRecipe, Program, Upload};
use crate::error::Result;
use crate::vision::DeviceStream;
use cudarc::driver::{result, sys};
use std::sync::Arc;
use std::time::Duration;

pub(super) struct Graph {
    exec: sys::CUgraphExec,
    events: Events,
    recipe: GraphRecipe,
    device: Arc<Device>,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Graph {}

impl Graph {
    /// Captures a recipe on its stream.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// As of [`Gpu::compile`](super::gpu::Gpu::compile).
    pub unsafe fn capture(device: Arc<Device>, recipe: GraphRecipe) -> Result<Graph> {
        let _entered = device.enter()?;
        let stream = device.stream(recipe.stream);
        for item in &recipe.launches {
            device.function(item.kernel)?; // modules cannot be loaded during capture
        }
        // `Events` owns each event at once, so that a failure destroys those created before.
        let mut events = Events(Vec::new());
        if !recipe.marks.is_empty() {
            for _ in 0..=recipe.marks.len() {
                events.0.push(
                    result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed("event"))?,
                );
            }
        }
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream belongs to this context, and is this executor's alone.
        unsafe { result::stream::begin_capture(stream, mode) }.map_err(failed("capturing a graph"))?;
        // SAFETY: the context was entered above; addresses are the caller's promise.
        let enqueued = unsafe { enqueue_all(&device, &recipe, &events.0) };
        // SAFETY: ends the capture begun above, whatever was enqueued.
        let graph = unsafe { result::stream::end_capture(stream) };
        let instantiated = enqueued.and_then(|()| {
            let graph = graph.map_err(failed("capturing a graph"))?;
            let mut exec = std::ptr::null_mut();
            // SAFETY: `graph` was just captured; it is destroyed below.
            unsafe { sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0) }
                .result()
                .map_err(failed("making a graph"))?;
            Ok(exec)
        });
        if let Ok(graph) = graph {
            // SAFETY: not used after; the executable graph is independent of it.
            unsafe { sys::cuGraphDestroy(graph) };
        }
        let graph = Graph { device, exec: instantiated?, events, recipe };
        // SAFETY: as above.
        unsafe { sys::cuGraphUpload(graph.exec, stream) }.result().map_err(failed("uploading a graph"))?;
        graph.device.synchronize(graph.recipe.stream)?;
        Ok(graph)
    }
}

/// Enqueues a recipe for capture, with an event at the start and at each mark (none for no events).
///
/// # Safety
/// The device's context is current, and the recipe's addresses are valid whenever the graph runs.
unsafe fn enqueue_all(device: &Device, recipe: &GraphRecipe, events: &[sys::CUevent]) -> Result<()> {
    let mut marks = recipe.marks.iter().peekable();
    let mut events = events.iter();
    let mut record = || -> Result<()> {
        let Some(event) = events.next() else { return Ok(()) };
        // Only an external record becomes a node of the graph; a plain one would be an edge, and never happen.
        let external = sys::CUevent_record_flags::CU_EVENT_RECORD_EXTERNAL as u32;
        // SAFETY: event and stream belong to the current context.
        unsafe { sys::cuEventRecordWithFlags(*event, device.stream(recipe.stream), external) }
            .result()
            .map_err(failed("recording an event"))
    };
    record()?;
    if let Some(upload) = recipe.upload {
        // SAFETY: the caller's promise.
        unsafe { device.enqueue_upload(upload, recipe.stream) }?;
    }
    // The first kernel follows a copy, an event, or the end of another graph: a full dependence.
    let mut dependent = false;
    for done in 0..=recipe.launches.len() {
        while marks.next_if_eq(&&done).is_some() {
            record()?;
            dependent = false;
        }
        let Some(item) = recipe.launches.get(done) else { break };
        // SAFETY: the caller's promise.
        unsafe { device.enqueue(item, recipe.stream, dependent) }?;
        dependent = true;
    }
    Ok(())
}

/// Events of the current context, which must be current when they are destroyed: dropped, or by `destroy`.
struct Events(Vec<sys::CUevent>);

impl Drop for Events {
    fn drop(&mut self) {
        self.destroy();
    }
}

impl Events {
    fn destroy(&mut self) {
        for event in self.0.drain(..) {
            // SAFETY: created by this process, not used after; whatever recorded it has been waited for.
            let _ = unsafe { result::event::destroy(event) };
        }
    }

    /// Time from each event to the next; all have happened.
    fn elapsed(&self) -> Result<Vec<Duration>> {
        let between = |pair: &[sys::CUevent]| {
            // SAFETY: both were recorded, and the stream was waited for.
            let ms = unsafe { result::event::elapsed(pair[0], pair[1]) }.map_err(failed("reading events"))?;
            Ok(Duration::from_secs_f64(f64::from(ms.max(0.0)) / 1e3))
        };
        self.0.windows(2).map(between).collect()
    }
}

impl Program for Graph {
    unsafe fn start(&self, upload: Option<Upload>, fetches: &[Fetch]) -> Result<()> {
        let stream = self.recipe.stream;
        // Before the device's own context is entered: the caller's default streams are those of the caller's context.
        let mut followed: Vec<DeviceStream> = Vec::new();
        for fetch in fetches {
            if !followed.contains(&fetch.stream) {
                // SAFETY: the caller's promise.
                unsafe { self.device.follow(fetch.stream, stream) }?;
                followed.push(fetch.stream);
            }
        }
        let _entered = self.device.enter()?;
        let start = || {
            if let Some(upload) = upload {
                // SAFETY: entered; the caller's promise.
                unsafe { self.device.enqueue_upload(upload, stream) }?;
            }
            for fetch in fetches {
                // SAFETY: as above.
                unsafe { self.device.enqueue_fetch(fetch, stream) }?;
            }
            // SAFETY: `exec` is valid, its buffers are owned by the executor that owns this program.
            unsafe { sys::cuGraphLaunch(self.exec, self.device.stream(stream)) }
                .result()
                .map_err(failed("launching a graph"))
        };
        let started = start();
        if started.is_err() {
            // The caller waits only for runs that were started, so copies must end here.
            let _ = self.device.synchronize(stream);
        }
        started
    }

    fn wait(&self) -> Result<()> {
        let _entered = self.device.enter()?;
        self.device.synchronize(self.recipe.stream)
    }

    fn run_staged(&self) -> Result<Vec<Duration>> {
        self.run()?;
        self.events.elapsed()
    }

    /// Kernels overlap, so one alone has no time of its own. What each adds is the difference between the graph that
    /// ends with it and the one that ends before it.
    fn run_timed(&self) -> Result<Vec<Duration>> {
        let (device, whole) = (&self.device, &self.recipe);
        let _entered = device.enter()?;
        if let Some(upload) = whole.upload {
            // SAFETY: entered; this program's addresses are valid as long as it lives, and it is waited for at once.
            unsafe { device.enqueue_upload(upload, whole.stream) }?;
            device.synchronize(whole.stream)?;
        }
        let mut ends = Vec::with_capacity(whole.launches.len() + 1);
        for count in 0..=whole.launches.len() {
            let part = GraphRecipe {
                stream: whole.stream,
                upload: None,
                launches: whole.launches[..count].to_vec(),
                marks: vec![count],
            };
            // SAFETY: all its addresses are this program's, which outlives it.
            let graph = unsafe { Graph::capture(device.clone(), part) }?;
            let mut times = Vec::with_capacity(REPLAYS);
            for _ in 0..REPLAYS {
                times.push(graph.run_staged()?.iter().sum::<Duration>());
            }
            times.sort();
            ends.push(times[REPLAYS / 2]);
        }
        Ok(ends.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect())
    }
}

/// Replays of a graph whose median [`Graph::run_timed`] takes.
const REPLAYS: usize = 25;

impl Drop for Graph {
    fn drop(&mut self) {
        let Ok(_entered) = self.device.enter() else { return };
        let _ = self.device.synchronize(self.recipe.stream);
        // SAFETY: every launch of the graph has ended.
        unsafe { sys::cuGraphExecDestroy(self.exec) };
        self.events.destroy();
    }
}
