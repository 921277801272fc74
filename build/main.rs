//! Compiles the CUDA kernels with nvcc, where there is one, and hands the results to `src/backend/cuda/images.rs`.
//!
//! A kernel file is any `.cu` below `src/backend/cuda`, in the folder of its operation; [`kernels`] finds them,
//! [`params`] writes the headers with their parameters, [`nvcc`] compiles. Without nvcc the crate builds for the CPU
//! only, with one warning. `RTMO_CUDA_ARCHS` (for instance `sm_90a` or `sm_86,sm_89`; `none` to leave CUDA out) narrows
//! the list of architectures. `RTMO_LATE_READS` (set to anything) moves reads that kernels make before their wait for the
//! kernel before (`pose/counted.cuh`) behind it, for comparison. Only what changed is compiled again.

mod kernels;
mod nvcc;
mod params;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Machine code for these GPUs, as far as the compiler knows them, and PTX that other new ones compile when they load it.
const ARCHS: &[&str] = &["sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120", "compute_90"];

/// Where the kernels are.
const ROOT: &str = "src/backend/cuda";

fn main() {
    demo_model();
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "RTMO_CUDA_ARCHS", "RTMO_LATE_READS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=build");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed={ROOT}");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let headers = out.join("params");
    params::write_headers(Path::new(ROOT), &headers);
    let kernels = kernels::find(Path::new(ROOT), &headers);

    let asked = asked();
    let images = if asked.as_ref().is_some_and(Vec::is_empty) {
        vec![]
    } else if let Some(nvcc) = nvcc::find() {
        let archs = asked.unwrap_or_else(|| nvcc::known(&nvcc, ARCHS));
        nvcc::compile(&nvcc, &kernels, &archs, &out)
    } else {
        println!(
            "cargo::warning=no nvcc (looked in NVCC, CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda): \
             building without CUDA"
        );
        vec![]
    };
    let mut list = String::from("&[\n");
    for nvcc::Image { kernel, arch, path } in images {
        let path = path.display().to_string();
        let _ = writeln!(
            list,
            "    Image {{ file: {kernel:?}, arch: {arch:?}, code: include_bytes!({path:?}) }},"
        );
    }
    list.push_str("]\n");
    write_if_changed(&out.join("images.rs"), &list);

    // The list of files that the tests' emulator compiles.
    let mut list = String::from("&[\n");
    for kernel in &kernels.units {
        let kernels::Unit { name, path, includes, only } = kernel;
        let _ = writeln!(
            list,
            "    Source {{ file: {name:?}, path: {path:?}, includes: &{includes:?}, only: {only:?} }},"
        );
    }
    list.push_str("]\n");
    write_if_changed(&out.join("sources.rs"), &list);
    write_if_changed(&out.join("include_folders.rs"), &format!("&{:?}\n", kernels.folders));
}

/// Tells the program whether the demonstration model is there to be part of it.
fn demo_model() {
    const MODEL: &str = "weights/rtmo-n-demo.safetensors";
    println!("cargo::rustc-check-cfg=cfg(demo_model)");
    println!("cargo::rerun-if-changed={MODEL}");
    if env::var_os("CARGO_FEATURE_DEMO_MODEL").is_some() && Path::new(MODEL).is_file() {
        println!("cargo::rustc-cfg=demo_model");
    }
}

/// Writes a file only if its text differs: build tools compare modification times.
fn write_if_changed(path: &Path, text: &str) {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return;
    }
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// The architectures of `RTMO_CUDA_ARCHS`, if it is set.
fn asked() -> Option<Vec<String>> {
    let list = env::var("RTMO_CUDA_ARCHS").ok()?;
    let names: Vec<String> =
        list.split([',', ';', ' ']).filter(|a| !a.is_empty() && *a != "none").map(String::from).collect();
    for name in &names {
        let known = name.strip_prefix("sm_").or(name.strip_prefix("compute_"));
        assert!(
            known.is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit())),
            "RTMO_CUDA_ARCHS: expected names like sm_90a or compute_90, got '{name}'"
        );
    }
    Some(names)
}
