//! What the executor needs of a GPU. Two things provide it: a device behind the CUDA driver (`device.rs`) and, in
//! tests, the host emulator of `tests/cuda_emu/`.

use super::launch::Launch;
use crate::error::Result;
use crate::vision::DeviceStream;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// What kernels may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caps {
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Bytes of shared memory a block may have.
    pub shared: u32,
    /// The loaded kernels have clusters and programmatic dependent launch.
    pub sm90: bool,
    /// The loaded kernels include those for warpgroup matrix products.
    pub wgmma: bool,
    /// Kernels that no GPU has confirmed may be chosen.
    pub unproven: bool,
}

/// What a device buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Weights: written once, before the first launch.
    Constant,
    /// Everything else.
    Working,
}

/// Streams of a GPU, which run side by side: while one computes, the other uploads.
pub(super) const STREAMS: usize = 2;

/// A copy from the host's memory to the device's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Upload {
    /// Address on the host.
    pub from: u64,
    /// Address on the device.
    pub to: u64,
    pub bytes: usize,
}

/// A copy of a picture's rows within the device's memory, where they follow one another then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fetch {
    pub from: u64,
    /// Bytes from one row to the next there.
    pub stride: usize,
    pub to: u64,
    /// Bytes of a row.
    pub row: usize,
    pub rows: usize,
    /// The stream in which they are written.
    pub stream: DeviceStream,
}

/// What a [`Program`] does each time it runs: an upload, then kernels in order. On a GPU it becomes a CUDA graph.
#[derive(Debug, Default)]
pub(super) struct GraphRecipe {
    /// Index of its stream, below [`STREAMS`]. Programs of one stream run one after the other.
    pub stream: usize,
    /// An upload before the kernels that is timed with them. Usually `None`: then [`Program::start`] is given the
    /// upload, so that photos of all sizes share one program.
    pub upload: Option<Upload>,
    /// Each depends on the one before.
    pub launches: Vec<Launch>,
    /// Ends of stages, each as the number of launches before it, in order; 0 is the end of the upload. The device
    /// records the time at the start and at each mark. Kernels do not overlap across a mark. Usually empty.
    pub marks: Vec<usize>,
}

/// A [`GraphRecipe`] ready to run. Dropping it waits for the end of its last run.
pub(super) trait Program: Send {
    /// Enqueues an upload, copies of pictures on the device, and the kernels, and returns at once. The copies wait for the streams
    /// in which the pictures are written. Until [`Program::wait`] has returned:
    ///
    /// 1. nothing that the program reads or writes may be touched (see [`Gpu::compile`]);
    /// 2. it must not be started again.
    ///
    /// # Safety
    /// 1. Until [`Program::wait`] has returned, both addresses of the upload have `bytes` bytes, the host's bytes are
    ///    initialised, and nothing writes to them.
    /// 2. The same holds of the rows of each fetch, but for what was enqueued in its stream before; the stream exists.
    unsafe fn start(&self, upload: Option<Upload>, fetches: &[Fetch]) -> Result<()>;
    /// Waits until everything in its stream has run.
    fn wait(&self) -> Result<()>;
    /// Runs it, without an upload, and waits for its end.
    fn run(&self) -> Result<()> {
        // SAFETY: nothing is copied.
        unsafe { self.start(None, &[]) }?;
        self.wait()
    }
    /// Runs it and waits for its end; the device's time of each stage.
    fn run_staged(&self) -> Result<Vec<Duration>>;
    /// Runs it repeatedly; returns the time that each launch adds.
    fn run_timed(&self) -> Result<Vec<Duration>>;
}

/// A GPU as one executor sees it. A second executor opens the GPU again and has its own streams.
pub(super) trait Gpu: Send + Sync {
    fn caps(&self) -> Caps;
    /// For people: name, ordinal, driver.
    fn describe(&self) -> String;
    /// Name, driver and kernels, for the file of measured tiles.
    fn identity(&self) -> String;
    /// The command that tries kernels on this GPU in a process of its own, see `ops/conv/trial.rs`; `None` if there is
    /// none.
    fn trial(&self) -> Option<Command> {
        None
    }
    /// The handle of a stream, for others that write what it reads.
    fn stream(&self, _index: usize) -> Option<u64> {
        None
    }
    /// That its kernels can read memory at an address of the caller's.
    ///
    /// # Errors
    /// If the memory is not CUDA's, or another GPU's.
    fn reaches(&self, _address: u64) -> Result<()> {
        Ok(())
    }
    /// At least 256-byte aligned.
    fn alloc(&self, bytes: usize, purpose: Purpose) -> Result<u64>;
    /// # Safety
    /// The address comes from `alloc`, and nothing uses it any more.
    unsafe fn free(&self, address: u64);
    /// Pinned host memory: its address on the host and on the device.
    fn alloc_host(&self, bytes: usize) -> Result<(u64, u64)>;
    /// # Safety
    /// The host's address comes from `alloc_host`, and nothing uses the block any more.
    unsafe fn free_host(&self, host: u64);
    /// Copies to the device.
    ///
    /// # Safety
    /// From `to` on as many bytes as the slice has belong to one allocation that lives.
    unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<()>;
    /// Sets `bytes` bytes on the device.
    ///
    /// # Safety
    /// From `to` on as many bytes belong to one allocation that lives.
    unsafe fn fill(&self, to: u64, value: u8, bytes: usize) -> Result<()>;
    /// Copies from the device.
    ///
    /// # Safety
    /// From `from` on as many bytes as the slice has belong to one allocation that lives.
    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()>;
    /// Makes a program of a recipe.
    ///
    /// # Safety
    /// 1. As long as the program lives, every address of the recipe is valid: the upload's on the host for its `bytes`,
    ///    initialised; those on the device for everything that the kernels and the upload read and write.
    /// 2. Between [`Program::start`] and the end of [`Program::wait`] nothing else writes what the program reads, or
    ///    touches what it writes.
    unsafe fn compile(&self, recipe: GraphRecipe) -> Result<Box<dyn Program>>;
}

/// A device buffer.
pub(super) struct Memory {
    gpu: Arc<dyn Gpu>,
    /// Device address, for kernels.
    pub address: u64,
    /// Size.
    pub bytes: usize,
}

impl Memory {
    pub fn new(gpu: &Arc<dyn Gpu>, bytes: usize, purpose: Purpose) -> Result<Memory> {
        let bytes = bytes.max(16);
        Ok(Memory { gpu: gpu.clone(), address: gpu.alloc(bytes, purpose)?, bytes })
    }

    /// Copies into it, from byte `at` on.
    pub fn write(&self, at: usize, from: &[u8]) -> Result<()> {
        let to = self.part(at, from.len());
        // SAFETY: these bytes are the buffer's, which lives as long as `self`.
        unsafe { self.gpu.upload(to, from) }
    }

    /// Sets all its bytes.
    pub fn fill(&self, value: u8) -> Result<()> {
        // SAFETY: these bytes are the buffer's, which lives as long as `self`.
        unsafe { self.gpu.fill(self.address, value, self.bytes) }
    }

    /// Copies what is there from byte `at` on.
    pub fn read(&self, at: usize, to: &mut [u8]) -> Result<()> {
        let from = self.part(at, to.len());
        // SAFETY: these bytes are the buffer's, which lives as long as `self`.
        unsafe { self.gpu.download(from, to) }
    }

    /// The address of `len` bytes from byte `at` on.
    ///
    /// # Panics
    /// If they are not within the buffer.
    fn part(&self, at: usize, len: usize) -> u64 {
        assert!(at <= self.bytes && len <= self.bytes - at, "{len} bytes from {at} on of {}", self.bytes);
        self.address + at as u64
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `new` allocated it, and programs that know the address are dropped before (see `Gpu::compile`).
        unsafe { self.gpu.free(self.address) };
    }
}

/// Pinned host memory that kernels can write to.
pub(super) struct HostMemory {
    gpu: Arc<dyn Gpu>,
    host: u64,
    /// Address for kernels.
    pub device: u64,
    bytes: usize,
}

impl HostMemory {
    pub fn new(gpu: &Arc<dyn Gpu>, bytes: usize) -> Result<HostMemory> {
        let (host, device) = gpu.alloc_host(bytes.max(16))?;
        let memory = HostMemory { gpu: gpu.clone(), host, device, bytes: bytes.max(16) };
        // SAFETY: the block was just allocated with this many bytes, and nothing else knows it.
        unsafe { std::ptr::write_bytes(host as *mut u8, 0, memory.bytes) };
        Ok(memory)
    }

    /// Address on the host.
    pub fn address(&self) -> u64 {
        self.host
    }

    /// What it holds. Must not be called while a [`Program`] that writes there is in flight.
    pub fn read(&self) -> &[u8] {
        // SAFETY: `host` points to `bytes` initialised bytes for as long as `self` lives; the executor waits for a
        // program before it reads what that has written.
        unsafe { std::slice::from_raw_parts(self.host as *const u8, self.bytes) }
    }

    /// The same, to be written.
    pub fn write(&mut self) -> &mut [u8] {
        // SAFETY: as in `read`, and `&mut self` makes the borrow exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.host as *mut u8, self.bytes) }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: `new` allocated it, and programs that know its addresses are dropped before (see `Gpu::compile`).
        unsafe { self.gpu.free_host(self.host) };
    }
}
