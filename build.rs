//! Compiles `kernels/*.cu` with nvcc, where there is one, and hands the results to `src/backend/cuda/images.rs`.
//!
//! nvcc is looked for in `NVCC`, `CUDA_HOME/bin`, `CUDA_PATH/bin`, `PATH` and `/usr/local/cuda/bin`. Without it the crate
//! builds for the CPU only, with one warning. `RTMO_CUDA_ARCHS` (for instance `sm_90a` or `sm_86,sm_89`; `none`
//! to leave CUDA out) narrows the list of architectures. Only what changed is compiled again.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs};

/// Machine code for these GPUs, and PTX that newer ones compile when they load it.
const ARCHS: &[&str] = &["sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "compute_90"];

fn main() {
    demo_model();
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "RTMO_CUDA_ARCHS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let archs = archs();
    let images = if archs.is_empty() {
        vec![]
    } else if let Some(nvcc) = nvcc() {
        compile(&nvcc, &archs, &out)
    } else {
        println!(
            "cargo::warning=no nvcc (looked in NVCC, CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda): \
             building without CUDA"
        );
        vec![]
    };
    let mut list = String::from("&[\n");
    for (file, arch, path) in images {
        let _ = writeln!(
            list,
            "    Image {{ file: {file:?}, arch: {arch:?}, code: include_bytes!({:?}) }},",
            path.display().to_string()
        );
    }
    list.push_str("]\n");
    fs::write(out.join("images.rs"), list).expect("OUT_DIR is writable");
}

/// Tells the program whether the demonstration model is there to be part of it.
fn demo_model() {
    const MODEL: &str = "weights/rtmo-t-demo.safetensors";
    println!("cargo::rustc-check-cfg=cfg(demo_model)");
    println!("cargo::rerun-if-changed={MODEL}");
    if env::var_os("CARGO_FEATURE_DEMO_MODEL").is_some() && Path::new(MODEL).is_file() {
        println!("cargo::rustc-cfg=demo_model");
    }
}

fn archs() -> Vec<String> {
    let Ok(list) = env::var("RTMO_CUDA_ARCHS") else {
        return ARCHS.iter().map(|a| a.to_string()).collect();
    };
    let names: Vec<String> =
        list.split([',', ';', ' ']).filter(|a| !a.is_empty() && *a != "none").map(String::from).collect();
    for name in &names {
        let known = name.strip_prefix("sm_").or(name.strip_prefix("compute_"));
        assert!(
            known.is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit())),
            "RTMO_CUDA_ARCHS: expected names like sm_90a or compute_90, got '{name}'"
        );
    }
    names
}

fn nvcc() -> Option<PathBuf> {
    let exe = format!("nvcc{}", env::consts::EXE_SUFFIX);
    if let Some(given) = env::var_os("NVCC") {
        let given = PathBuf::from(given);
        assert!(given.is_file(), "NVCC: no file {}", given.display());
        return Some(given);
    }
    let homes =
        ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(|h| PathBuf::from(h).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    homes
        .chain(env::split_paths(&path))
        .chain([PathBuf::from("/usr/local/cuda/bin")])
        .map(|folder| folder.join(&exe))
        .find(|nvcc| nvcc.is_file())
}

/// One file of machine code (or PTX) for each kernel file and architecture: `(kernel file, architecture, path)`.
fn compile(nvcc: &Path, archs: &[String], out: &Path) -> Vec<(String, String, PathBuf)> {
    let version = Command::new(nvcc).arg("--version").output();
    let version = match version {
        Ok(v) if v.status.success() => v.stdout,
        Ok(v) => panic!("{} --version: {}", nvcc.display(), String::from_utf8_lossy(&v.stderr)),
        Err(e) => panic!("{}: {e}", nvcc.display()),
    };
    let mut sources: Vec<PathBuf> =
        fs::read_dir("kernels").expect("kernels/").map(|e| e.expect("kernels/").path()).collect();
    sources.sort();
    let (units, headers): (Vec<_>, Vec<_>) =
        sources.into_iter().partition(|p| p.extension().is_some_and(|e| e == "cu"));
    let headers: Vec<Vec<u8>> = headers.iter().map(|p| fs::read(p).expect("readable header")).collect();

    let mut jobs = Vec::new();
    for unit in &units {
        let source = fs::read(unit).expect("readable kernel");
        let file = unit.file_stem().expect("a name").to_string_lossy().into_owned();
        for arch in archs {
            if ["conv_wg", "conv_pp"].contains(&file.as_str()) && arch != "sm_90a" {
                continue; // wgmma exists on this architecture only
            }
            let mut hash = DefaultHasher::new();
            (&version, &source, &headers, arch, "-O3 1").hash(&mut hash);
            let target = out.join(format!("{file}.{arch}.{:016x}", hash.finish()));
            jobs.push((unit.clone(), file.clone(), arch.clone(), target));
        }
    }
    // Results of earlier versions of the kernels are of no more use.
    for entry in fs::read_dir(out).expect("OUT_DIR").flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().matches('.').count() == 2;
        if ours && !jobs.iter().any(|j| j.3 == path) {
            let _ = fs::remove_file(path);
        }
    }
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get()).min(jobs.len());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((unit, _, arch, target)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if target.is_file() {
                        continue;
                    }
                    let partial = target.with_extension("partial");
                    let kind = if arch.starts_with("compute") { "-ptx" } else { "-cubin" };
                    let run = Command::new(nvcc)
                        .args(["-std=c++17", "-O3", kind, &format!("-arch={arch}"), "-o"])
                        .arg(&partial)
                        .arg(unit)
                        .output();
                    let error = match run {
                        Ok(r) if r.status.success() => {
                            fs::rename(&partial, target).err().map(|e| format!("{}: {e}", target.display()))
                        }
                        Ok(r) => Some(format!(
                            "{} for {arch}:\n{}",
                            unit.display(),
                            String::from_utf8_lossy(&r.stderr)
                        )),
                        Err(e) => Some(format!("{}: {e}", nvcc.display())),
                    };
                    failures.lock().expect("no worker panics while holding it").extend(error);
                }
            });
        }
    });
    let failures = failures.into_inner().expect("workers have ended");
    assert!(failures.is_empty(), "nvcc failed:\n{}", failures.join("\n"));
    jobs.into_iter().map(|(_, file, arch, target)| (file, arch, target)).collect()
}
