//! A program that uses CUDA itself keeps its context, whatever the engine does, and its streams are waited for. With a driver of
//! our own, `tests/cuda_fake`, in a process of its own: a process loads one driver.

use super::super::gpu::{Fetch, HostMemory, Upload};
use super::*;
use crate::vision::DeviceStream;
use cudarc::driver::sys;
use std::ffi::CStr;
use std::path::Path;
use std::process::Command;

/// Set in the process with the driver of our own.
const INSIDE: &str = "RTMO_TEST_FAKE_DRIVER";

#[test]
fn contexts_of_others_are_left_alone() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join("cuda_fake");
    std::fs::create_dir_all(&folder).unwrap();
    let library = folder.join("libcuda.so");
    let partial = folder.join(format!("libcuda.{}.partial", std::process::id()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda_fake/driver.c");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
        .args([&partial, &source])
        .status();
    if !cfg!(target_os = "linux") || compiled.is_err() {
        assert!(std::env::var_os("CI").is_none(), "no C compiler");
        return;
    }
    assert!(compiled.unwrap().success());
    std::fs::rename(&partial, &library).unwrap();
    let name = "backend::cuda::tests::driver::inside_the_process_with_the_fake_driver";
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("LD_LIBRARY_PATH", &folder)
        .env(INSIDE, &library)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(said.contains("contexts were left alone"), "the test inside did not run:\n{said}");
}

fn current() -> usize {
    let mut context = std::ptr::null_mut();
    // SAFETY: writes one handle.
    unsafe { sys::cuCtxGetCurrent(&mut context) }.result().unwrap();
    context as usize
}

/// Pictures in the device's memory are copied there, each after what was enqueued before in the stream that writes it: an event is
/// recorded in that stream, in its own context, and the engine's stream waits for it.
fn device_pictures(
    gpu: &Arc<dyn Gpu>,
    caller: usize,
    count: &dyn Fn(&str) -> i32,
    set: &dyn Fn(&str, i32),
    log: &dyn Fn() -> String,
) {
    const STRIDE: usize = 10;
    let picture: Vec<u8> = (0..STRIDE as u8 * 4).collect();
    let theirs = Memory::new(gpu, picture.len(), Purpose::Working).unwrap();
    theirs.write(0, &picture).unwrap();
    let ours = Memory::new(gpu, 64, Purpose::Working).unwrap();
    // SAFETY: a recipe of nothing.
    let program = unsafe { gpu.compile(GraphRecipe { stream: 1, ..GraphRecipe::default() }) }.unwrap();
    let fetch = |stride: usize, at: u64, stream: DeviceStream| Fetch {
        from: theirs.address,
        stride,
        to: ours.address + at,
        row: 6,
        rows: 3,
        stream,
    };
    let start = |fetches: &[Fetch]| -> (Result<()>, String) {
        log();
        // SAFETY: both blocks have these rows until the end of this function; copies are done at once.
        let done = unsafe { program.start(None::<Upload>, fetches) };
        program.wait().unwrap();
        assert_eq!((current(), count("fake_events")), (caller, 0), "after a run");
        (done, log())
    };
    // The default stream of a thread without a context is the primary context's.
    let of = if caller == 0 { 0x1000 } else { caller };
    let cases = [
        (DeviceStream::Ready, String::new()),
        (DeviceStream::Legacy, format!("record in 1 of {of:x}; wait for 1; ")),
        (DeviceStream::PerThread, format!("record in 2 of {of:x}; wait for 2; ")),
        (DeviceStream::Handle(0x7005), "record in 7005 of 7000; wait for 7005; ".into()),
        (DeviceStream::Handle(0x9003), "record in 9003 of 9000; wait for 9003; ".into()),
    ];
    for (stream, waits) in cases {
        ours.fill(99).unwrap();
        let (done, log) = start(&[fetch(STRIDE, 0, stream), fetch(6, 20, stream)]);
        done.unwrap();
        assert_eq!(log, format!("{waits}copy 3 rows of 6; copy 18; launch; "), "{stream:?}");
        let mut bytes = [0; 40];
        ours.read(0, &mut bytes).unwrap();
        let rows =
            [&picture[..6], &picture[10..16], &picture[20..26], &[99; 2], &picture[..18], &[99; 2]].concat();
        assert_eq!(bytes[..], rows, "{stream:?}");
    }
    let (done, log) =
        start(&[fetch(6, 0, DeviceStream::Handle(0x7005)), fetch(6, 20, DeviceStream::Handle(0x9003))]);
    done.unwrap();
    assert_eq!(log.matches("wait for").count(), 2, "{log}");
    // A run that does not start has ended its copies: the caller may free the picture then.
    set("fake_fail_launch", 1);
    let before = count("fake_synchronized");
    let (done, _) = start(&[fetch(6, 0, DeviceStream::Handle(0x7005))]);
    set("fake_fail_launch", 0);
    assert!(done.unwrap_err().to_string().contains("launching a graph"));
    // One wait of its own, and one of the test's.
    assert_eq!(count("fake_synchronized"), before + 2);

    gpu.reaches(theirs.address).unwrap();
    let error = gpu.reaches(16).unwrap_err().to_string();
    assert!(error.contains("at 0x10 there is no memory of CUDA's"), "{error}");
    set("fake_owner", 1);
    let error = gpu.reaches(theirs.address).unwrap_err().to_string();
    set("fake_owner", 0);
    assert!(error.contains("in the memory of GPU 1: this engine computes on GPU 0"), "{error}");
    assert!(gpu.stream(0).is_some_and(|stream| gpu.stream(1).is_some_and(|other| stream != other)));
    assert_eq!(current(), caller, "after questions");
}

/// Runs in a process of its own, started by the test above; elsewhere it does nothing.
#[test]
fn inside_the_process_with_the_fake_driver() {
    let Some(library) = std::env::var_os(INSIDE) else { return };
    // SAFETY: the library was compiled from this repository; loaded already, it is the driver's.
    let driver = unsafe { libloading::Library::new(library) }.unwrap();
    let count = |name: &str| -> i32 {
        // SAFETY: an integer of that name, see driver.c.
        unsafe { **driver.get::<*mut i32>(name.as_bytes()).unwrap() }
    };
    let fail_alloc = |fail: i32| {
        // SAFETY: as above.
        unsafe { **driver.get::<*mut i32>(b"fake_fail_alloc").unwrap() = fail };
    };
    const OTHERS: usize = 0x7000;
    for caller in [0, OTHERS] {
        if caller != 0 {
            // SAFETY: a handle that this driver takes as it is.
            unsafe { sys::cuCtxPushCurrent_v2(caller as sys::CUcontext) }.result().unwrap();
        }
        let info = device::devices().unwrap().remove(0);
        assert_eq!((info.name.as_str(), info.capability), ("Fake", (9, 0)));
        let opened = device::Device::with_kernels(info, "sm_90a", Kernels::Proven).unwrap();
        assert_eq!((current(), count("fake_retained")), (caller, 1), "after opening");
        let gpu: Arc<dyn Gpu> = Arc::new(device::CudaGpu(opened));
        let use_it = |caller: usize| {
            let memory = Memory::new(&gpu, 64, Purpose::Working).unwrap();
            assert_eq!(current(), caller, "after an allocation");
            memory.fill(7).unwrap();
            memory.write(8, &[1, 2, 3]).unwrap();
            let mut bytes = [0; 12];
            memory.read(0, &mut bytes).unwrap();
            assert_eq!((bytes[7..].to_vec(), current()), (vec![7, 1, 2, 3, 7], caller), "after copies");
            let host = HostMemory::new(&gpu, 32).unwrap();
            assert_eq!((host.read(), current()), (&[0; 32][..], caller));
            fail_alloc(1);
            assert!(Memory::new(&gpu, 64, Purpose::Working).is_err() && HostMemory::new(&gpu, 64).is_err());
            fail_alloc(0);
            assert_eq!(current(), caller, "after failures");
            drop((memory, host));
            assert_eq!((current(), count("fake_blocks")), (caller, 0), "after freeing");
        };
        let set = |name: &str, value: i32| {
            // SAFETY: as above.
            unsafe { **driver.get::<*mut i32>(name.as_bytes()).unwrap() = value };
        };
        let log = || -> String {
            // SAFETY: a text of that name, see driver.c, which is emptied once it is read; calls to the driver have returned.
            unsafe {
                let text = *driver.get::<*mut std::ffi::c_char>(b"fake_log").unwrap();
                let read = CStr::from_ptr(text).to_str().unwrap().to_string();
                *text = 0;
                read
            }
        };
        let pictures = |caller: usize| device_pictures(&gpu, caller, &count, &set, &log);
        use_it(caller);
        pictures(caller);
        // a thread that never had a context
        std::thread::scope(|scope| scope.spawn(|| (use_it(0), pictures(0))).join().unwrap());
        assert!(count("fake_streams") > 0);
        drop(gpu);
        let left = ["fake_retained", "fake_streams", "fake_blocks", "fake_reset"].map(count);
        assert_eq!((current(), left), (caller, [0; 4]), "after the end");
    }
    println!("contexts were left alone");
}
