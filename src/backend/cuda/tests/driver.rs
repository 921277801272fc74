//! A program that uses CUDA itself keeps its context, whatever the engine does. With a driver of our own,
//! `tests/cuda_fake`, in a process of its own: a process loads one driver.

use super::super::gpu::HostMemory;
use super::*;
use cudarc::driver::sys;
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
        use_it(caller);
        // a thread that never had a context
        std::thread::scope(|scope| scope.spawn(|| use_it(0)).join().unwrap());
        assert!(count("fake_streams") > 0);
        drop(gpu);
        let left = ["fake_retained", "fake_streams", "fake_blocks", "fake_reset"].map(count);
        assert_eq!((current(), left), (caller, [0; 4]), "after the end");
    }
    println!("contexts were left alone");
}
