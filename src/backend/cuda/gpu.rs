//! What the executor needs of a GPU. Two things provide it: a device behind the CUDA driver (`device.rs`) and, in tests,
//! the host emulator of `tests/cuda_emu/`.

use super::launch::Launch;
use crate::error::Result;
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

/// Queues of a GPU that work side by side: while one computes, the other uploads.
pub(super) const LANES: usize = 2;

/// A copy from the host's memory to the device's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Upload {
    /// Address on the host.
    pub from: u64,
    /// Address on the device.
    pub to: u64,
    pub bytes: usize,
}

/// Work that is repeated: kernels in order.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    /// The queue that it goes to, below [`LANES`]. Programs of one lane run one after the other.
    pub lane: usize,
    /// Comes before the kernels, and belongs to what is timed. Otherwise a program is given what to upload when it starts, so that
    /// photos of all sizes share one program.
    pub upload: Option<Upload>,
    /// Each depends on the one before.
    pub launches: Vec<Launch>,
    /// Ends of stages, as numbers of launches before them, in order; 0 ends after the upload. The device notes the time
    /// there and at the start, and kernels do not overlap across. Usually empty.
    pub marks: Vec<usize>,
}

/// A [`Sequence`] ready to run, on a GPU as one graph. Dropping it waits for its end.
pub(super) trait Program: Send {
    /// Lets it begin, after an upload, and returns at once. Until [`Program::wait`] has returned, nothing that it reads or writes
    /// may be touched, which the caller of [`Gpu::compile`] has promised, and it must not be started again.
    ///
    /// # Safety
    /// Until [`Program::wait`] has returned, both addresses of the upload have as many bytes as it says, those of the host
    /// are initialised, and nothing writes to them.
    unsafe fn start(&self, upload: Option<Upload>) -> Result<()>;
    /// Waits until its lane has nothing left to do.
    fn wait(&self) -> Result<()>;
    /// Runs it, without an upload, and waits for its end.
    fn run(&self) -> Result<()> {
        // SAFETY: there is no upload.
        unsafe { self.start(None) }?;
        self.wait()
    }
    /// Runs it and waits for its end; the device's time of each stage.
    fn run_staged(&self) -> Result<Vec<Duration>>;
    /// Runs it again and again; the time that each launch adds.
    fn run_timed(&self) -> Result<Vec<Duration>>;
}

/// A GPU, for one executor: another one opens it again, and has lanes of its own.
pub(super) trait Gpu: Send + Sync {
    fn caps(&self) -> Caps;
    /// For people: name, ordinal, driver.
    fn describe(&self) -> String;
    /// Name, driver and kernels, for the file of measured tiles.
    fn identity(&self) -> String;
    /// At least 256-byte aligned.
    fn alloc(&self, bytes: usize, purpose: Purpose) -> Result<u64>;
    /// # Safety
    /// The address comes from `alloc`, and nobody uses it any more.
    unsafe fn free(&self, address: u64);
    /// Pinned host memory: its address on the host and on the device.
    fn alloc_host(&self, bytes: usize) -> Result<(u64, u64)>;
    /// # Safety
    /// The host's address comes from `alloc_host`, and nobody uses the block any more.
    unsafe fn free_host(&self, host: u64);
    /// Copies to the device.
    ///
    /// # Safety
    /// From `to` on as many bytes as the slice has belong to one allocation that lives.
    unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<()>;
    /// Copies from the device.
    ///
    /// # Safety
    /// From `from` on as many bytes as the slice has belong to one allocation that lives.
    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()>;
    /// Turns a sequence into a program.
    ///
    /// # Safety
    /// As long as the program lives, every address of the sequence is valid: the host's of the upload for as many bytes,
    /// initialised; the device's for what the kernels and the upload read and write. Between [`Program::start`] and the end of
    /// [`Program::wait`] nobody writes what it reads, or touches what it writes.
    unsafe fn compile(&self, sequence: Sequence) -> Result<Box<dyn Program>>;
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
        let to = self.place(at, from.len());
        // SAFETY: these bytes are the buffer's, which lives as long as `self`.
        unsafe { self.gpu.upload(to, from) }
    }

    /// Copies what is there from byte `at` on.
    pub fn read(&self, at: usize, to: &mut [u8]) -> Result<()> {
        let from = self.place(at, to.len());
        // SAFETY: these bytes are the buffer's, which lives as long as `self`.
        unsafe { self.gpu.download(from, to) }
    }

    /// The address of a part, which must be one.
    fn place(&self, at: usize, len: usize) -> u64 {
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

    /// What it holds. Nobody asks while a [`Program`] is under way that writes there.
    pub fn read(&self) -> &[u8] {
        // SAFETY: `host` points to `bytes` initialised bytes for as long as `self` lives; the executor waits for a
        // program before it looks at what that has written.
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
