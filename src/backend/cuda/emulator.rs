//! The kernels under the host emulator of `tests/cuda_emu/`, compiled by the system's C++ compiler at test time.

use super::gpu::{Caps, Fetch, Gpu, GraphRecipe, Program, Purpose, Upload};
use super::launch::Launch;
use crate::error::{Error, Result};
use libloading::Library;
use std::collections::hash_map::DefaultHasher;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// The emulator's C interface.
struct Emu {
    /// Never unloaded: it handles the process's signals for memory faults.
    library: &'static Library,
}

fn compiler() -> Option<String> {
    if std::env::var_os("RTMO_TEST_GPU_ONLY").is_some() {
        return None; // for compute-sanitizer, which has no business in the emulator
    }
    let given = std::env::var("CXX").ok();
    let names = ["c++", "g++", "clang++"].map(String::from);
    given
        .into_iter()
        .chain(names)
        .find(|cxx| Command::new(cxx).arg("--version").output().is_ok_and(|o| o.status.success()))
}

fn run(cxx: &str, args: &[&std::ffi::OsStr]) -> std::result::Result<(), String> {
    let out = Command::new(cxx).args(args).output().map_err(|e| format!("{cxx}: {e}"))?;
    if out.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&out.stderr).into_owned()) }
}

/// A kernel file, and the headers of this crate that it includes.
struct Source {
    file: &'static str,
    path: &'static str,
    includes: &'static [&'static str],
    /// The only architecture that it is for.
    only: Option<&'static str>,
}

// Written by `build/main.rs`.
static SOURCES: &[Source] = include!(concat!(env!("OUT_DIR"), "/sources.rs"));
static INCLUDE_FOLDERS: &[&str] = include!(concat!(env!("OUT_DIR"), "/include_folders.rs"));

/// Text of a kernel file.
pub(super) fn source(file: &str) -> String {
    let source = SOURCES.iter().find(|s| s.file == file).unwrap_or_else(|| panic!("no kernel file {file}"));
    std::fs::read_to_string(source.path).unwrap_or_else(|e| panic!("{}: {e}", source.path))
}

/// Compiles the kernels (or the given replacement of one of their files) for the host. Objects are kept by content.
fn build(cxx: &str, replaced: Option<(&str, &str)>) -> std::result::Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = root.join("target").join("cuda_emu");
    std::fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
    let read = |p: &Path| std::fs::read_to_string(p).map_err(|e| format!("{}: {e}", p.display()));
    let emu = root.join("tests").join("cuda_emu");
    let interface = [read(&emu.join("emu.hpp"))?, read(&emu.join("order.hpp"))?].concat();
    // Name, text, and what else the object depends on.
    let mut units = vec![("emu".to_string(), read(&emu.join("emu.cpp"))?, vec![interface.clone()])];
    for source in SOURCES {
        let text = match replaced {
            Some((file, text)) if file == source.file => text.to_string(),
            _ => read(Path::new(source.path))?,
        };
        let mut others = vec![interface.clone()];
        for path in source.includes {
            others.push(read(Path::new(path))?);
        }
        units.push((source.file.to_string(), text, others));
    }
    let mut objects = Vec::new();
    let mut all = DefaultHasher::new();
    let mut jobs = Vec::new();
    for (name, text, others) in units {
        let mut hash = DefaultHasher::new();
        (cxx, &others, &text, 7).hash(&mut hash);
        let object = out.join(format!("{name}-{:016x}.o", hash.finish()));
        object.hash(&mut all);
        if !object.is_file() {
            jobs.push((object.clone(), text, name != "emu"));
        }
        objects.push(object);
    }
    let next = AtomicUsize::new(0);
    let compile = |(object, text, kernels): &(PathBuf, String, bool)| -> std::result::Result<(), String> {
        let unique = format!("{}.{:?}", std::process::id(), std::thread::current().id());
        let (source, partial) =
            (object.with_extension(format!("{unique}.cpp")), object.with_extension(unique));
        std::fs::write(&source, text).map_err(|e| format!("{}: {e}", source.display()))?;
        let flags = [
            "-std=c++17",
            "-O2",
            // lines for errors
            "-g1",
            "-fPIC",
            "-U_FORTIFY_SOURCE",
            "-DRTMO_EMULATOR",
            "-Wall",
            "-Werror",
            "-Wno-unknown-pragmas",
            // a misaligned access traps, as on a GPU
            "-fsanitize=alignment",
            "-fsanitize-undefined-trap-on-error",
        ];
        // Every plain access of a kernel calls a function of emu.cpp.
        let watched = kernels.then_some("-fsanitize=thread");
        let mut args: Vec<&std::ffi::OsStr> = flags.iter().chain(&watched).map(|f| f.as_ref()).collect();
        for folder in std::iter::once(emu.as_os_str()).chain(INCLUDE_FOLDERS.iter().map(|f| f.as_ref())) {
            args.extend(["-I".as_ref(), folder]);
        }
        args.extend(["-c".as_ref(), source.as_os_str(), "-o".as_ref(), partial.as_os_str()]);
        let done = run(cxx, &args);
        let _ = std::fs::remove_file(&source);
        done?;
        std::fs::rename(&partial, object).map_err(|e| format!("{}: {e}", object.display()))
    };
    std::thread::scope(|scope| {
        let worker = || -> std::result::Result<(), String> {
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                compile(job)?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(worker)).collect();
        threads
            .into_iter()
            .try_for_each(|t| t.join().unwrap_or_else(|_| Err("a compiling thread died".into())))
    })?;
    let library = out.join(format!("emu-{:016x}.so", all.finish()));
    if !library.is_file() {
        let partial = library.with_extension(format!("{}.partial", std::process::id()));
        let mut args: Vec<&std::ffi::OsStr> = vec!["-shared".as_ref(), "-o".as_ref(), partial.as_os_str()];
        args.extend(objects.iter().map(|o| o.as_os_str()));
        run(cxx, &args)?;
        std::fs::rename(&partial, &library).map_err(|e| format!("{}: {e}", library.display()))?;
    }
    Ok(library)
}

fn open(cxx: &str, replaced: Option<(&str, &str)>) -> Arc<Emu> {
    let path =
        build(cxx, replaced).unwrap_or_else(|e| panic!("the kernels do not compile for the host:\n{e}"));
    // SAFETY: the library was built from this repository's emulator; its initialisers only register kernels.
    let library = unsafe { Library::new(&path) }.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Arc::new(Emu { library: Box::leak(Box::new(library)) })
}

/// An emulated GPU.
pub(super) struct Emulator {
    library: Arc<Emu>,
    caps: Caps,
    /// Order of threads and of asynchronous work; 0: as late and as regular as possible.
    seed: u64,
}

/// Capabilities of an H100.
pub(super) const HOPPER: Caps = Caps { sms: 132, shared: 227 << 10, sm90: true, wgmma: true, unproven: true };
/// Capabilities of a T4, the least of all supported GPUs.
pub(super) const TURING: Caps =
    Caps { sms: 40, shared: 64 << 10, sm90: false, wgmma: false, unproven: false };

impl Emulator {
    /// `None`, after saying so, on a machine without a C++ compiler. In continuous integration (`CI` is set) that is a
    /// failure.
    pub fn start(caps: Caps, seed: u64) -> Option<Arc<dyn Gpu>> {
        static LIBRARY: OnceLock<Option<Arc<Emu>>> = OnceLock::new();
        let library = LIBRARY.get_or_init(|| compiler().map(|cxx| open(&cxx, None)));
        Emulator::with(library.clone(), caps, seed)
    }

    /// With one kernel file replaced by another text.
    pub fn mutated(file: &str, text: &str, seed: u64) -> Option<Arc<dyn Gpu>> {
        Emulator::with(compiler().map(|cxx| open(&cxx, Some((file, text)))), HOPPER, seed)
    }

    fn with(library: Option<Arc<Emu>>, caps: Caps, seed: u64) -> Option<Arc<dyn Gpu>> {
        let Some(library) = library else {
            assert!(
                std::env::var_os("CI").is_none(),
                "no C++ compiler (CXX, c++, g++, clang++) to test the kernels with"
            );
            // Not `eprintln`: what a passing test prints is not shown.
            let why = "not run: no C++ compiler (CXX, c++, g++, clang++) to run the CUDA kernels on the host with\n";
            let _ = std::io::Write::write_all(&mut std::io::stderr(), why.as_bytes());
            return None;
        };
        Some(Arc::new(Emulator { library, caps, seed }))
    }
}

impl Emu {
    fn launch(&self, item: &Launch, dependent: bool, seed: u64) -> Result<()> {
        type Call = unsafe extern "C" fn(
            *const c_char,
            *const c_uint,
            c_uint,
            c_uint,
            c_uint,
            *const c_void,
            usize,
            c_int,
            u64,
            *mut c_char,
            usize,
        ) -> c_int;
        let name = CString::new(item.kernel.name).expect("no zero in a name");
        let params = item.params.bytes();
        let mut message = [0u8; 1024];
        // SAFETY: the signature is that of emu.cpp; all pointers live during the call, which keeps none of them.
        let code = unsafe {
            let call: libloading::Symbol<'_, Call> = self.library.get(b"emu_launch").expect("emu_launch");
            call(
                name.as_ptr(),
                item.grid.as_ptr(),
                item.cluster,
                item.threads,
                item.shared,
                params.as_ptr().cast(),
                params.len(),
                c_int::from(dependent),
                seed,
                message.as_mut_ptr().cast(),
                message.len(),
            )
        };
        if code == 0 {
            return Ok(());
        }
        let end = message.iter().position(|&b| b == 0).unwrap_or(message.len());
        Err(Error::Device(String::from_utf8_lossy(&message[..end]).into_owned()))
    }

    fn alloc(&self, bytes: usize, constant: bool) -> u64 {
        type Call = unsafe extern "C" fn(usize, c_int) -> *mut c_void;
        // SAFETY: the signature is that of emu.cpp.
        let address = unsafe {
            let call: libloading::Symbol<'_, Call> = self.library.get(b"emu_alloc").expect("emu_alloc");
            call(bytes, c_int::from(constant))
        };
        assert!(!address.is_null(), "{bytes} bytes of emulated device memory");
        address as u64
    }

    /// # Safety
    /// The address comes from `alloc`, and nothing uses it any more.
    unsafe fn free(&self, address: u64) {
        type Call = unsafe extern "C" fn(*mut c_void) -> c_int;
        // SAFETY: the signature is that of emu.cpp; the caller's promise.
        let bad = unsafe {
            let call: libloading::Symbol<'_, Call> = self.library.get(b"emu_free").expect("emu_free");
            call(address as *mut c_void)
        };
        assert!(bad == 0 || std::thread::panicking(), "a kernel wrote just outside a device buffer");
    }
}

impl Gpu for Emulator {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn describe(&self) -> String {
        "emulated GPU".into()
    }

    fn identity(&self) -> String {
        "emulated GPU".into()
    }

    fn alloc(&self, bytes: usize, purpose: Purpose) -> Result<u64> {
        Ok(self.library.alloc(bytes, purpose == Purpose::Constant))
    }

    unsafe fn free(&self, address: u64) {
        // SAFETY: the caller's promise.
        unsafe { self.library.free(address) };
    }

    fn alloc_host(&self, bytes: usize) -> Result<(u64, u64)> {
        let address = self.alloc(bytes, Purpose::Working)?;
        Ok((address, address))
    }

    unsafe fn free_host(&self, host: u64) {
        // SAFETY: the caller's promise; it was allocated by `alloc`.
        unsafe { self.free(host) };
    }

    unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<()> {
        // SAFETY: emulated device memory is the host's, and the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        Ok(())
    }

    unsafe fn fill(&self, to: u64, value: u8, bytes: usize) -> Result<()> {
        // SAFETY: as in `upload`.
        unsafe { std::ptr::write_bytes(to as *mut u8, value, bytes) };
        Ok(())
    }

    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        // SAFETY: as in `upload`.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    unsafe fn compile(&self, recipe: GraphRecipe) -> Result<Box<dyn Program>> {
        let Emulator { library, caps, seed } = self;
        let (in_flight, copies) = (AtomicBool::new(false), Mutex::default());
        let (library, sm90, seed) = (library.clone(), caps.sm90, *seed);
        Ok(Box::new(Emulated { library, sm90, seed, recipe, in_flight, copies }))
    }
}

struct Emulated {
    library: Arc<Emu>,
    sm90: bool,
    seed: u64,
    recipe: GraphRecipe,
    in_flight: AtomicBool,
    /// What is still to be copied before the kernels run.
    copies: Mutex<(Option<Upload>, Vec<Fetch>)>,
}

impl Emulated {
    /// A GPU may do a program's work at any time between start and wait. Odd seeds do it all at the start, even seeds
    /// all at the wait.
    fn eager(&self) -> bool {
        self.seed % 2 == 1
    }
}

impl Program for Emulated {
    unsafe fn start(&self, upload: Option<Upload>, fetches: &[Fetch]) -> Result<()> {
        assert!(!self.in_flight.swap(true, Ordering::Relaxed), "started before it was waited for");
        *self.copies.lock().unwrap_or_else(|e| e.into_inner()) = (upload, fetches.to_vec());
        if self.eager() { self.run_timed().map(|_| ()) } else { Ok(()) }
    }

    fn wait(&self) -> Result<()> {
        let in_flight = self.in_flight.swap(false, Ordering::Relaxed);
        if in_flight && !self.eager() { self.run_timed().map(|_| ()) } else { Ok(()) }
    }

    fn run_staged(&self) -> Result<Vec<Duration>> {
        let times = self.run_timed()?;
        let mut start = 0;
        let stage = |&end: &usize| times[std::mem::replace(&mut start, end)..end].iter().sum();
        Ok(self.recipe.marks.iter().map(stage).collect())
    }

    fn run_timed(&self) -> Result<Vec<Duration>> {
        let (given, fetches) = std::mem::take(&mut *self.copies.lock().unwrap_or_else(|e| e.into_inner()));
        for Upload { from, to, bytes } in given.into_iter().chain(self.recipe.upload) {
            // SAFETY: both blocks belong to the executor and have at least that many bytes.
            unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
        }
        for Fetch { from, stride, to, row, rows, .. } in fetches {
            for y in 0..rows {
                let (from, to) = (from as usize + y * stride, to as usize + y * row);
                // SAFETY: the test's picture, which has these rows; the executor's block has room for them.
                unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, row) };
            }
        }
        let run = |item: &Launch| {
            let special = |s: &Source| s.file == item.kernel.file && s.only.is_some();
            let wgmma = SOURCES.iter().any(special);
            assert!(self.sm90 || item.cluster == 1 && !wgmma, "not for this GPU: {item:?}");
            let start = std::time::Instant::now();
            // Always checked as if dependent: a kernel must be right under both kinds of launch.
            self.library.launch(item, true, self.seed)?;
            Ok(start.elapsed())
        };
        self.recipe.launches.iter().map(run).collect()
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = self.wait();
        }
    }
}
