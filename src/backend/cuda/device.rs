//! A GPU behind the CUDA driver: memory, modules, and programs as CUDA graphs. The driver is loaded at run time; a
//! machine without one gets an error, not a crash.

use super::gpu::{Caps, Gpu, Program, Purpose, Sequence};
use super::images::{self, IMAGES};
use super::launch::{Launch, launch};
use crate::error::{Error, Result};
use cudarc::driver::{result, sys};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A GPU of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The `1` of `--device cuda:1`.
    pub ordinal: usize,
    /// For instance "NVIDIA H100 80GB HBM3".
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Highest clock of these in MHz.
    pub clock: u32,
    /// Bytes of device memory.
    pub memory: usize,
    /// Highest CUDA version that the driver supports, for instance `(13, 0)`.
    pub driver: (i32, i32),
    /// Which of the compiled kernels run on it; `None`: none do.
    pub arch: Option<&'static str>,
}

fn failed(what: impl std::fmt::Display) -> impl FnOnce(result::DriverError) -> Error {
    move |e| Error::Device(format!("CUDA: {what}: {e}"))
}

fn start() -> Result<()> {
    // SAFETY: only tries to load the driver's library, whose initialisers are the system's own.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::Device("no CUDA driver on this machine (libcuda.so.1 is not there)".into()));
    }
    result::init().map_err(failed("the driver does not start"))
}

/// The GPUs of this machine.
///
/// # Errors
/// If there is no driver or it does not answer.
pub fn devices() -> Result<Vec<DeviceInfo>> {
    start()?;
    let count = result::device::get_count().map_err(failed("counting devices"))?;
    (0..count.max(0) as usize).map(device_info).collect()
}

fn device_info(ordinal: usize) -> Result<DeviceInfo> {
    use sys::CUdevice_attribute as A;
    let device = result::device::get(ordinal as i32).map_err(failed(format!("device {ordinal}")))?;
    // SAFETY: `device` was just obtained from the driver.
    let attribute =
        |a| unsafe { result::device::get_attribute(device, a) }.map_err(failed("device attribute"));
    let capability = (
        attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    let mut driver = 0;
    // SAFETY: writes one integer.
    unsafe { sys::cuDriverGetVersion(&mut driver) }.result().map_err(failed("driver version"))?;
    Ok(DeviceInfo {
        ordinal,
        name: result::device::get_name(device).map_err(failed("device name"))?,
        capability,
        sms: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
        clock: (attribute(A::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)? / 1000) as u32,
        // SAFETY: as above.
        memory: unsafe { result::device::total_mem(device) }.map_err(failed("device memory"))?,
        driver: (driver / 1000, driver % 1000 / 10),
        arch: images::arch_for(capability.0, capability.1),
    })
}

/// The context of one GPU, a stream of its own, and the kernels loaded so far.
pub(super) struct Device {
    info: DeviceInfo,
    arch: &'static str,
    shared: u32,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    modules: HashMap<String, sys::CUmodule>,
    functions: HashMap<&'static str, sys::CUfunction>,
}

// SAFETY: the driver's handles may be used from any thread; calls that need the context make it current first, and the
// maps are behind a mutex.
unsafe impl Send for Device {}
// SAFETY: as above; the driver is thread-safe.
unsafe impl Sync for Device {}

impl Device {
    /// Opens GPU `ordinal`.
    ///
    /// # Errors
    /// Without a driver, without that GPU, or if none of the compiled kernels run on it.
    pub fn open(ordinal: usize) -> Result<Arc<Device>> {
        if IMAGES.is_empty() {
            let how =
                "build with nvcc (the CUDA toolkit, or the nvidia-cuda-nvcc package) in PATH or CUDA_HOME";
            return Err(Error::Device(format!("this build carries no CUDA kernels; {how}")));
        }
        let all = devices()?;
        let info = all.get(ordinal).cloned().ok_or_else(|| {
            Error::Device(format!("cuda:{ordinal}: no such device, this machine has {} of them", all.len()))
        })?;
        let (major, minor) = info.capability;
        let arch = info.arch.ok_or_else(|| {
            let archs = images::compiled_archs().join(", ");
            Error::Device(format!(
                "{}: compute capability {major}.{minor}, but kernels were compiled for {archs}",
                info.name
            ))
        })?;
        let device = result::device::get(ordinal as i32).map_err(failed("device"))?;
        // SAFETY: `device` is valid; the primary context is released in `drop`.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed("creating a context"))?;
        // SAFETY: `context` was just retained.
        unsafe { result::ctx::set_current(context) }.map_err(failed("entering the context"))?;
        let stream =
            result::stream::create(result::stream::StreamKind::NonBlocking).map_err(failed("stream"))?;
        let optin = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        // SAFETY: `device` is valid.
        let shared =
            unsafe { result::device::get_attribute(device, optin) }.map_err(failed("attribute"))? as u32;
        Ok(Arc::new(Device { info, arch, shared, device, context, stream, loaded: Mutex::default() }))
    }

    fn enter(&self) -> Result<()> {
        // SAFETY: the context is retained for as long as `self` lives.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("entering the context"))
    }

    fn function(&self, kernel: &'static str) -> Result<sys::CUfunction> {
        let mut loaded = self.loaded.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(f) = loaded.functions.get(kernel) {
            return Ok(*f);
        }
        let file = images::file_of(kernel);
        let module = match loaded.modules.get(file) {
            Some(m) => *m,
            None => {
                let image =
                    IMAGES.iter().find(|i| i.file == file && i.arch == self.arch).ok_or_else(|| {
                        Error::Device(format!("kernel {kernel}: not compiled for {}", self.arch))
                    })?;
                // PTX is text and must end with a zero; machine code does not mind one.
                let mut code = image.code.to_vec();
                code.push(0);
                // SAFETY: `code` is a complete image made by nvcc, followed by a zero.
                let module =
                    unsafe { result::module::load_data(code.as_ptr() as *const c_void) }.map_err(|e| {
                        let (major, minor) = self.info.driver;
                        let hint = "a driver older than the compiler cannot load its code";
                        failed(format!(
                            "loading {file} for {} (the driver is for CUDA {major}.{minor}; {hint})",
                            self.arch
                        ))(e)
                    })?;
                loaded.modules.insert(file.to_string(), module);
                module
            }
        };
        let name = CString::new(kernel).expect("kernel names hold no zero");
        // SAFETY: `module` is loaded.
        let function = unsafe { result::module::get_function(module, name) }.map_err(failed(kernel))?;
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: `function` is valid; kernels have no static shared memory, so all of it may be dynamic.
        unsafe { sys::cuFuncSetAttribute(function, attribute, self.shared as i32) }
            .result()
            .map_err(failed(format!("kernel {kernel}: {} bytes of shared memory", self.shared)))?;
        loaded.functions.insert(kernel, function);
        Ok(function)
    }

    fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }.map_err(failed("running the kernels"))
    }

    fn enqueue(&self, item: &Launch, dependent: bool) -> Result<()> {
        let function = self.function(item.kernel)?;
        // SAFETY: `function` and the stream belong to this context; addresses in the parameters are buffers of the
        // executor that owns the program, which outlives it; `dependent` is set for sm_90 code only.
        unsafe { launch(function, self.stream, item, dependent && self.caps().sm90) }
    }

    fn enqueue_upload(&self, (from, to, bytes): (u64, u64, usize)) -> Result<()> {
        // SAFETY: host memory and device memory of at least `bytes`, which the caller keeps until the copy is done.
        unsafe { sys::cuMemcpyHtoDAsync_v2(to, from as *const c_void, bytes, self.stream) }
            .result()
            .map_err(failed("upload"))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        let loaded = self.loaded.get_mut().unwrap_or_else(|e| e.into_inner());
        // SAFETY: programs hold an `Arc` of the device, so nothing runs any more and the handles are used no longer.
        unsafe {
            let _ = result::stream::destroy(self.stream);
            for module in loaded.modules.values() {
                let _ = result::module::unload(*module);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

/// [`Device`] with the handle that programs share.
pub(super) struct CudaGpu(pub Arc<Device>);

impl Device {
    fn caps(&self) -> Caps {
        let sm90 = self.arch.starts_with("sm_9");
        Caps { sms: self.info.sms, shared: self.shared, sm90, wgmma: self.arch == "sm_90a" }
    }
}

impl Gpu for CudaGpu {
    fn caps(&self) -> Caps {
        self.0.caps()
    }

    fn describe(&self) -> String {
        let DeviceInfo { ordinal, name, driver: (major, minor), clock, .. } = &self.0.info;
        let arch = self.0.arch;
        format!("{name} (cuda:{ordinal}, up to {clock} MHz, driver for CUDA {major}.{minor}, {arch} kernels)")
    }

    fn identity(&self) -> String {
        let DeviceInfo { name, driver, sms, .. } = &self.0.info;
        let code = images::fingerprint(self.0.arch);
        format!("{name} {sms} SMs, CUDA {}.{}, {} {code:016x}", driver.0, driver.1, self.0.arch)
    }

    fn alloc(&self, bytes: usize, _: Purpose) -> Result<u64> {
        self.0.enter()?;
        // SAFETY: plain allocation; freed by `free`.
        unsafe { result::malloc_sync(bytes) }.map_err(failed(format!("{bytes} bytes of device memory")))
    }

    fn free(&self, address: u64) {
        if self.0.enter().is_ok() {
            // SAFETY: `address` comes from `alloc`, and its owner is being dropped.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    fn alloc_host(&self, bytes: usize) -> Result<(u64, u64)> {
        self.0.enter()?;
        let mut host = std::ptr::null_mut();
        let mut device = 0;
        // SAFETY: both calls write one address; the block is mapped into the context and freed by `free_host`.
        unsafe {
            sys::cuMemHostAlloc(&mut host, bytes, sys::CU_MEMHOSTALLOC_DEVICEMAP)
                .result()
                .map_err(failed(format!("{bytes} bytes of pinned memory")))?;
            sys::cuMemHostGetDevicePointer_v2(&mut device, host, 0)
                .result()
                .map_err(failed("mapping pinned memory"))?;
        }
        Ok((host as u64, device))
    }

    fn free_host(&self, host: u64) {
        if self.0.enter().is_ok() {
            // SAFETY: `host` comes from `alloc_host`, and its owner is being dropped.
            let _ = unsafe { sys::cuMemFreeHost(host as *mut c_void) };
        }
    }

    // Copies go through the kernels' own stream: the driver's synchronous copy from pageable memory may return before
    // the data has arrived, and no other stream that is not the default one would wait for it.
    fn upload(&self, to: u64, from: &[u8]) -> Result<()> {
        self.0.enter()?;
        self.0.enqueue_upload((from.as_ptr() as u64, to, from.len()))?;
        self.0.synchronize()
    }

    fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        self.0.enter()?;
        // SAFETY: the caller's buffer holds that many bytes, and the slice lives until the copy is done, below.
        unsafe { sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, to.len(), self.0.stream) }
            .result()
            .map_err(failed("download"))?;
        self.0.synchronize()
    }

    fn compile(&self, sequence: Sequence) -> Result<Box<dyn Program>> {
        let device = self.0.clone();
        device.enter()?;
        for item in &sequence.launches {
            device.function(item.kernel)?; // modules cannot be loaded during capture
        }
        // In an `Events` from the first one on, so that a failure leaves none behind.
        let mut events = Events(Vec::new());
        if !sequence.marks.is_empty() {
            for _ in 0..=sequence.marks.len() {
                events.0.push(
                    result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed("event"))?,
                );
            }
        }
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is idle (every program waits for its own end) and belongs to this context.
        unsafe { result::stream::begin_capture(device.stream, mode) }.map_err(failed("capturing a graph"))?;
        let enqueued = enqueue_all(&device, &sequence, &events.0);
        // SAFETY: ends the capture begun above, whatever was enqueued.
        let graph = unsafe { result::stream::end_capture(device.stream) };
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
            // SAFETY: not used after; what was made of it is independent.
            unsafe { sys::cuGraphDestroy(graph) };
        }
        let graph = Graph { device, exec: instantiated?, events, sequence };
        // SAFETY: as above.
        unsafe { sys::cuGraphUpload(graph.exec, graph.device.stream) }
            .result()
            .map_err(failed("uploading a graph"))?;
        graph.device.synchronize()?;
        Ok(Box::new(graph))
    }
}

/// Enqueues a sequence for capture, with an event at the start and at each mark (none for no events).
fn enqueue_all(device: &Device, sequence: &Sequence, events: &[sys::CUevent]) -> Result<()> {
    let mut marks = sequence.marks.iter().peekable();
    let mut events = events.iter();
    let mut record = || -> Result<()> {
        let Some(event) = events.next() else { return Ok(()) };
        // Only an external record becomes a node of the graph; a plain one would be an edge, and never happen.
        let external = sys::CUevent_record_flags::CU_EVENT_RECORD_EXTERNAL as u32;
        // SAFETY: event and stream belong to the current context.
        unsafe { sys::cuEventRecordWithFlags(*event, device.stream, external) }
            .result()
            .map_err(failed("recording an event"))
    };
    record()?;
    if let Some(upload) = sequence.upload {
        device.enqueue_upload(upload)?;
    }
    // The first kernel follows a copy, an event, or the end of another graph: a full dependence.
    let mut dependent = false;
    for done in 0..=sequence.launches.len() {
        while marks.next_if_eq(&&done).is_some() {
            record()?;
            dependent = false;
        }
        let Some(item) = sequence.launches.get(done) else { break };
        device.enqueue(item, dependent)?;
        dependent = true;
    }
    Ok(())
}

/// Events of the current context; dropped with it current.
struct Events(Vec<sys::CUevent>);

impl Drop for Events {
    fn drop(&mut self) {
        for event in self.0.drain(..) {
            // SAFETY: created by this process, not used after; whatever recorded it has been waited for.
            let _ = unsafe { result::event::destroy(event) };
        }
    }
}

impl Events {
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

/// A sequence as a CUDA graph.
struct Graph {
    exec: sys::CUgraphExec,
    events: Events,
    sequence: Sequence,
    device: Arc<Device>,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Graph {}

impl Program for Graph {
    fn run(&self) -> Result<()> {
        self.device.enter()?;
        // SAFETY: `exec` is valid, its buffers are owned by the executor that owns this program.
        unsafe { sys::cuGraphLaunch(self.exec, self.device.stream) }
            .result()
            .map_err(failed("launching a graph"))?;
        self.device.synchronize()
    }

    fn run_staged(&self) -> Result<Vec<Duration>> {
        self.run()?;
        self.events.elapsed()
    }

    fn run_timed(&self) -> Result<Vec<Duration>> {
        let device = &self.device;
        device.enter()?;
        let mut events = Events(Vec::new());
        for _ in 0..=self.sequence.launches.len() {
            events
                .0
                .push(result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed("event"))?);
        }
        // SAFETY: events and stream belong to this context.
        let record = |e| unsafe { result::event::record(e, device.stream) }.map_err(failed("event"));
        let enqueue = || -> Result<()> {
            if let Some(upload) = self.sequence.upload {
                device.enqueue_upload(upload)?;
            }
            record(events.0[0])?;
            for (item, event) in self.sequence.launches.iter().zip(&events.0[1..]) {
                device.enqueue(item, false)?;
                record(*event)?;
            }
            Ok(())
        };
        let enqueued = enqueue();
        // Also after a failure: what has been enqueued uses the executor's memory.
        device.synchronize()?;
        enqueued?;
        events.elapsed()
    }
}

impl Drop for Graph {
    // The events go after this, with the context still current, and the device after them.
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: every launch of the graph has been waited for.
            unsafe { sys::cuGraphExecDestroy(self.exec) };
        }
    }
}
