//! A GPU behind the CUDA driver: memory, modules, streams. The driver is loaded at run time; a machine without one gets
//! an error, not a crash.

use super::gpu::{Caps, Fetch, Gpu, GraphRecipe, Program, Purpose, STREAMS, Upload};
use super::graph::Graph;
use super::images::{self, IMAGES};
use super::launch::{Kernel, Launch, launch};
use super::ops::conv::trial;
use crate::backend::device::Kernels;
use crate::error::{Error, Result};
use crate::vision::DeviceStream;
use cudarc::driver::{result, sys};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::marker::PhantomData;
use std::process::Command;
use std::sync::{Arc, Mutex};

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

pub(super) fn failed(what: impl std::fmt::Display) -> impl FnOnce(result::DriverError) -> Error {
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

/// The context of one GPU, its streams, and the kernels loaded so far.
pub(super) struct Device {
    info: DeviceInfo,
    arch: &'static str,
    caps: Caps,
    device: sys::CUdevice,
    context: sys::CUcontext,
    /// Null before `open` has created it.
    streams: [sys::CUstream; STREAMS],
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    modules: HashMap<String, sys::CUmodule>,
    functions: HashMap<Kernel, sys::CUfunction>,
}

// SAFETY: the driver's handles may be used from any thread; calls that need the context make it current first, and the
// maps are behind a mutex.
unsafe impl Send for Device {}
// SAFETY: as above; the driver is thread-safe.
unsafe impl Sync for Device {}

/// A context on top of this thread's stack of contexts.
pub(super) struct Entered {
    /// Each thread has its own stack, so the guard must not move to another one.
    of_this_thread: PhantomData<*const ()>,
}

impl Entered {
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// The context lives until the guard is dropped.
    unsafe fn new(context: sys::CUcontext) -> Result<Entered> {
        // SAFETY: the caller's promise.
        unsafe { sys::cuCtxPushCurrent_v2(context) }.result().map_err(failed("entering the context"))?;
        Ok(Entered { of_this_thread: PhantomData })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut context = std::ptr::null_mut();
        // SAFETY: writes one handle; takes off what `enter` put on this thread's stack, since guards are dropped in
        // reverse order.
        let _ = unsafe { sys::cuCtxPopCurrent_v2(&mut context) };
    }
}

impl Device {
    /// Opens GPU `ordinal`, to choose among these kernels.
    ///
    /// # Errors
    /// Without a driver, without that GPU, or if none of the compiled kernels run on it.
    pub fn open(ordinal: usize, kernels: Kernels) -> Result<Arc<Device>> {
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
        Device::with_kernels(info, arch, kernels)
    }

    /// Opens a GPU of [`devices`] for kernels of an architecture.
    ///
    /// # Errors
    /// What the driver says.
    pub fn with_kernels(info: DeviceInfo, arch: &'static str, kernels: Kernels) -> Result<Arc<Device>> {
        let device = result::device::get(info.ordinal as i32).map_err(failed("device"))?;
        let optin = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        // SAFETY: `device` is valid.
        let shared =
            unsafe { result::device::get_attribute(device, optin) }.map_err(failed("attribute"))? as u32;
        let caps = caps(arch, info.sms, shared, kernels);
        // SAFETY: `device` is valid; the primary context is released in `drop`.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed("creating a context"))?;
        // If a later step fails, dropping `opened` releases the context and the streams created so far.
        let (streams, loaded) = ([std::ptr::null_mut(); STREAMS], Mutex::default());
        let mut opened = Device { info, arch, caps, device, context, streams, loaded };
        let entered = opened.enter()?;
        for stream in &mut opened.streams {
            let kind = result::stream::StreamKind::NonBlocking;
            *stream = result::stream::create(kind).map_err(failed("stream"))?;
        }
        drop(entered);
        Ok(Arc::new(opened))
    }

    /// Makes the context this thread's current one until the guard is dropped. Then the previous one is current again,
    /// so that a program that uses CUDA itself keeps its own context.
    pub fn enter(&self) -> Result<Entered> {
        // SAFETY: the context is retained for as long as `self` lives.
        unsafe { Entered::new(self.context) }
    }

    pub fn function(&self, kernel: Kernel) -> Result<sys::CUfunction> {
        let Kernel { file, name } = kernel;
        let mut loaded = self.loaded.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(f) = loaded.functions.get(&kernel) {
            return Ok(*f);
        }
        let module = match loaded.modules.get(file) {
            Some(m) => *m,
            None => {
                let image = IMAGES
                    .iter()
                    .find(|i| i.file == file && i.arch == self.arch)
                    .ok_or_else(|| Error::Device(format!("kernel {name}: not compiled for {}", self.arch)))?;
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
        let symbol = CString::new(name).expect("kernel names hold no zero");
        // SAFETY: `module` is loaded.
        let function = unsafe { result::module::get_function(module, symbol) }.map_err(failed(name))?;
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: `function` is valid; kernels have no static shared memory, so all of it may be dynamic.
        unsafe { sys::cuFuncSetAttribute(function, attribute, self.caps.shared as i32) }
            .result()
            .map_err(failed(format!("kernel {name}: {} bytes of shared memory", self.caps.shared)))?;
        // The same split between L1 and shared memory for every kernel: a multiprocessor must be empty before it can
        // change it, which would keep a dependent kernel from starting early.
        let carveout = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
        // SAFETY: `function` is valid; the value is in percent.
        unsafe { sys::cuFuncSetAttribute(function, carveout, 100) }.result().map_err(failed(name))?;
        loaded.functions.insert(kernel, function);
        Ok(function)
    }

    /// The stream of this index, below [`STREAMS`].
    pub fn stream(&self, index: usize) -> sys::CUstream {
        self.streams[index]
    }

    pub fn synchronize(&self, stream: usize) -> Result<()> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.streams[stream]) }.map_err(failed("running the kernels"))
    }

    /// Enqueues a kernel. `dependent`: on sm_90 and later it may start before the previous kernel has ended.
    ///
    /// # Safety
    /// The context is current, and every address in the parameters is valid on the device whenever the kernel runs.
    pub unsafe fn enqueue(&self, item: &Launch, stream: usize, dependent: bool) -> Result<()> {
        let function = self.function(item.kernel)?;
        // SAFETY: `function` and the stream belong to this context, addresses are the caller's promise; `dependent` is
        // set for sm_90 code only.
        unsafe { launch(function, self.streams[stream], item, dependent && self.caps.sm90) }
    }

    /// Enqueues a copy.
    ///
    /// # Safety
    /// 1. The context is current.
    /// 2. While the copy runs, both addresses have `bytes` bytes.
    /// 3. While the copy runs, the host's bytes are initialised and nothing writes to them.
    pub unsafe fn enqueue_upload(&self, upload: Upload, stream: usize) -> Result<()> {
        let Upload { from, to, bytes } = upload;
        // SAFETY: the caller's promise; the stream belongs to the context.
        unsafe { sys::cuMemcpyHtoDAsync_v2(to, from as *const c_void, bytes, self.streams[stream]) }
            .result()
            .map_err(failed("upload"))
    }
}

impl Device {
    /// Makes a stream of this device wait for what was enqueued in one of the caller's. The host waits for nothing. The
    /// calling thread's context must be the caller's, or none.
    ///
    /// # Errors
    /// What the driver says, for instance while the caller's stream is being captured.
    ///
    /// # Safety
    /// A [`DeviceStream::Handle`] is the handle of a stream that exists.
    pub unsafe fn follow(&self, theirs: DeviceStream, stream: usize) -> Result<()> {
        let theirs = match theirs {
            DeviceStream::Ready => return Ok(()),
            DeviceStream::Legacy => 1,
            DeviceStream::PerThread => 2,
            DeviceStream::Handle(handle) => handle,
        } as usize as sys::CUstream;
        let (mut current, mut context) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: writes one handle.
        unsafe { sys::cuCtxGetCurrent(&mut current) }.result().map_err(failed("the caller's context"))?;
        let _primary = if current.is_null() { Some(self.enter()?) } else { None };
        // SAFETY: the stream exists, and writes one handle. For default streams it is the context that is current.
        unsafe { sys::cuStreamGetCtx(theirs, &mut context) }
            .result()
            .map_err(failed("the context of the caller's stream"))?;
        // An event is recorded in the context that it was made in.
        // SAFETY: a context lives at least as long as its streams, and as long as it is current.
        let _theirs = unsafe { Entered::new(context) }?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
            .map_err(failed("an event for the caller's stream"))?;
        // SAFETY: event and stream belong to the context just entered.
        let recorded = unsafe { result::event::record(event, theirs) }.map_err(failed("the caller's stream"));
        let waiting = recorded.and_then(|()| {
            let _entered = self.enter()?;
            // SAFETY: an event of any context may be waited for; the stream lives as long as `self`.
            unsafe { sys::cuStreamWaitEvent(self.streams[stream], event, 0) }
                .result()
                .map_err(failed("waiting for the caller's stream"))
        });
        // SAFETY: its context is current; the driver keeps what the stream still needs of it.
        let _ = unsafe { result::event::destroy(event) };
        waiting
    }

    /// Enqueues a copy of a picture on the device.
    ///
    /// # Safety
    /// 1. The context is current.
    /// 2. Until the copy is done, the rows on both sides are memory that the device can reach, and nothing but what the
    ///    stream waits for writes to them.
    pub unsafe fn enqueue_fetch(&self, fetch: &Fetch, stream: usize) -> Result<()> {
        let Fetch { from, stride, to, row, rows, .. } = *fetch;
        let stream = self.streams[stream];
        let done = if stride == row || rows == 1 {
            // SAFETY: the caller's promise; the stream belongs to the context.
            unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, row * rows, stream) }
        } else {
            let copy = sys::CUDA_MEMCPY2D {
                srcXInBytes: 0,
                srcY: 0,
                // The driver finds out where it is: device memory or managed memory.
                srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_UNIFIED,
                srcHost: std::ptr::null(),
                srcDevice: from,
                srcArray: std::ptr::null_mut(),
                srcPitch: stride,
                dstXInBytes: 0,
                dstY: 0,
                dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
                dstHost: std::ptr::null_mut(),
                dstDevice: to,
                dstArray: std::ptr::null_mut(),
                dstPitch: row,
                WidthInBytes: row,
                Height: rows,
            };
            // SAFETY: as above; the description is read before the call returns.
            unsafe { sys::cuMemcpy2DAsync_v2(&copy, stream) }
        };
        done.result()
            .map_err(failed(format!("copying a picture of {rows} rows of {row} bytes, {stride} apart")))
    }

    /// An attribute of a pointer of the caller's.
    fn pointer_attribute(&self, address: u64, attribute: sys::CUpointer_attribute) -> Result<u32> {
        let mut value = 0u32;
        // SAFETY: the attributes that are asked for have at most 4 bytes; the driver looks addresses up and reads none.
        unsafe { sys::cuPointerGetAttribute((&raw mut value).cast(), attribute, address) }.result().map_err(
            |_| Error::Usage(format!("a photo in GPU memory: at {address:#x} there is no memory of CUDA's")),
        )?;
        Ok(value)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Ok(_entered) = self.enter() {
            let loaded = self.loaded.get_mut().unwrap_or_else(|e| e.into_inner());
            // SAFETY: programs hold an `Arc` of the device, so nothing runs any more and the handles are used no
            // longer.
            unsafe {
                for stream in self.streams.into_iter().filter(|stream| !stream.is_null()) {
                    let _ = result::stream::destroy(stream);
                }
                for module in loaded.modules.values() {
                    let _ = result::module::unload(*module);
                }
            }
        }
        // SAFETY: `open` retained the context once, and every `enter` has been undone.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// [`Device`] with the handle that programs share.
pub(super) struct CudaGpu(pub Arc<Device>);

/// What kernels compiled for `arch` may use on a GPU with `sms` multiprocessors and `shared` bytes a block.
fn caps(arch: &str, sms: u32, shared: u32, kernels: Kernels) -> Caps {
    let (sm90, wgmma) = (images::version(arch) >= (9, 0), arch == "sm_90a");
    Caps { sms, shared, sm90, wgmma, unproven: kernels == Kernels::All }
}

impl Gpu for CudaGpu {
    fn caps(&self) -> Caps {
        self.0.caps
    }

    fn describe(&self) -> String {
        let DeviceInfo { ordinal, name, driver: (major, minor), clock, .. } = &self.0.info;
        let arch = self.0.arch;
        format!("{name} (cuda:{ordinal}, up to {clock} MHz, driver for CUDA {major}.{minor}, {arch} kernels)")
    }

    fn identity(&self) -> String {
        let DeviceInfo { name, driver, sms, .. } = &self.0.info;
        let code = images::fingerprint(self.0.arch);
        let all = if self.0.caps.unproven { " all" } else { "" };
        format!("{name} {sms} SMs, CUDA {}.{}, {} {code:016x}{all}", driver.0, driver.1, self.0.arch)
    }

    fn trial(&self) -> Option<Command> {
        trial::command(self.0.info.ordinal)
    }

    fn stream(&self, index: usize) -> Option<u64> {
        Some(self.0.streams[index] as u64)
    }

    fn reaches(&self, address: u64) -> Result<()> {
        use sys::CUpointer_attribute as A;
        let _entered = self.0.enter()?;
        let of = |attribute| self.0.pointer_attribute(address, attribute);
        let kind = of(A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE)?;
        // Managed and pinned memory is within reach of every GPU.
        if kind != sys::CUmemorytype::CU_MEMORYTYPE_DEVICE as u32
            || of(A::CU_POINTER_ATTRIBUTE_IS_MANAGED)? != 0
        {
            return Ok(());
        }
        let (owner, own) = (of(A::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)?, self.0.info.ordinal);
        if owner as usize != own {
            return Err(Error::Usage(format!(
                "a photo in the memory of GPU {owner}: this engine computes on GPU {own}"
            )));
        }
        Ok(())
    }

    fn alloc(&self, bytes: usize, _: Purpose) -> Result<u64> {
        let _entered = self.0.enter()?;
        // SAFETY: plain allocation; freed by `free`.
        unsafe { result::malloc_sync(bytes) }.map_err(failed(format!("{bytes} bytes of device memory")))
    }

    unsafe fn free(&self, address: u64) {
        if let Ok(_entered) = self.0.enter() {
            // SAFETY: entered; the caller's promise.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    fn alloc_host(&self, bytes: usize) -> Result<(u64, u64)> {
        let _entered = self.0.enter()?;
        let mut host = std::ptr::null_mut();
        let mut device = 0;
        // SAFETY: writes one address; the block is mapped into the context and freed by `free_host`.
        unsafe { sys::cuMemHostAlloc(&mut host, bytes, sys::CU_MEMHOSTALLOC_DEVICEMAP) }
            .result()
            .map_err(failed(format!("{bytes} bytes of pinned memory")))?;
        // SAFETY: writes one address; `host` was just allocated.
        let mapped = unsafe { sys::cuMemHostGetDevicePointer_v2(&mut device, host, 0) }.result();
        if mapped.is_err() {
            // SAFETY: just allocated, and nothing else has its address.
            unsafe { self.free_host(host as u64) };
        }
        mapped.map_err(failed("mapping pinned memory"))?;
        Ok((host as u64, device))
    }

    unsafe fn free_host(&self, host: u64) {
        if let Ok(_entered) = self.0.enter() {
            // SAFETY: entered; the caller's promise.
            let _ = unsafe { sys::cuMemFreeHost(host as *mut c_void) };
        }
    }

    // Copies go through a stream of the kernels: the driver's synchronous copy from pageable memory may return before
    // the data has arrived, and no stream but the default one would wait for it.
    unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<()> {
        let _entered = self.0.enter()?;
        let upload = Upload { from: from.as_ptr() as u64, to, bytes: from.len() };
        // SAFETY: entered; the slice lives until the copy is done, below; the caller's promise.
        unsafe { self.0.enqueue_upload(upload, 0) }?;
        self.0.synchronize(0)
    }

    unsafe fn fill(&self, to: u64, value: u8, bytes: usize) -> Result<()> {
        let _entered = self.0.enter()?;
        // SAFETY: entered; the caller's promise.
        unsafe { sys::cuMemsetD8Async(to, value, bytes, self.0.streams[0]) }
            .result()
            .map_err(failed("fill"))?;
        self.0.synchronize(0)
    }

    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        let _entered = self.0.enter()?;
        // SAFETY: entered; the slice lives until the copy is done, below; the caller's promise.
        unsafe { sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, to.len(), self.0.streams[0]) }
            .result()
            .map_err(failed("download"))?;
        self.0.synchronize(0)
    }

    unsafe fn compile(&self, recipe: GraphRecipe) -> Result<Box<dyn Program>> {
        // SAFETY: the caller's promise is the same.
        Ok(Box::new(unsafe { Graph::capture(self.0.clone(), recipe) }?))
    }
}
