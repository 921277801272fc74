//! Runs nvcc: one file of machine code (or PTX) for each kernel file and architecture.

use crate::kernels::{Kernels, Unit, read};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs};

/// What was compiled.
pub struct Image {
    /// Name of the kernel file.
    pub kernel: String,
    pub arch: String,
    pub path: PathBuf,
}

/// Options besides architecture and files. ptxas lists registers and spills of each kernel; the list is kept in
/// `<image>.log` for `tools/nvcc_ci.sh`.
const OPTIONS: &[&str] = &["-std=c++17", "-O3", "-Xptxas", "-v"];

/// nvcc in `NVCC`, `CUDA_HOME/bin`, `CUDA_PATH/bin`, `PATH` or `/usr/local/cuda/bin`.
pub fn find() -> Option<PathBuf> {
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

/// Those of `archs` that this nvcc compiles for. One that does not say is an old one, and knows the older half.
pub fn known(nvcc: &Path, archs: &[&str]) -> Vec<String> {
    let listed = Command::new(nvcc).arg("--list-gpu-code").output().ok().filter(|o| o.status.success());
    let listed = listed.map_or_else(String::new, |o| String::from_utf8_lossy(&o.stdout).into_owned());
    let listed: Vec<&str> = listed.split_whitespace().collect();
    let knows = |arch: &&&str| {
        let newer = arch.starts_with("sm_1");
        !newer || listed.contains(*arch)
    };
    archs.iter().filter(knows).map(|arch| arch.to_string()).collect()
}

/// Compiles what has changed.
///
/// # Panics
/// With nvcc's messages, if a kernel does not compile.
pub fn compile(nvcc: &Path, kernels: &Kernels, archs: &[String], out: &Path) -> Vec<Image> {
    let version = match Command::new(nvcc).arg("--version").output() {
        Ok(v) if v.status.success() => v.stdout,
        Ok(v) => panic!("{} --version: {}", nvcc.display(), String::from_utf8_lossy(&v.stderr)),
        Err(e) => panic!("{}: {e}", nvcc.display()),
    };
    let mut options: Vec<&str> = OPTIONS.to_vec();
    if env::var_os("RTMO_LATE_READS").is_some() {
        options.push("-DRTMO_LATE_READS");
    }
    let mut jobs: Vec<(&Unit, &String, PathBuf)> = Vec::new();
    for unit in &kernels.units {
        let texts: Vec<String> =
            std::iter::once(&unit.path).chain(&unit.includes).map(|path| read(path)).collect();
        for arch in archs.iter().filter(|&arch| unit.only.as_ref().is_none_or(|only| only == arch)) {
            let mut hash = DefaultHasher::new();
            (&version, &texts, arch, &options).hash(&mut hash);
            jobs.push((unit, arch, out.join(format!("{}.{arch}.{:016x}", unit.name, hash.finish()))));
        }
    }
    // Removes results of earlier versions of the kernels.
    for entry in fs::read_dir(out).expect("OUT_DIR").flatten() {
        let path = entry.path();
        let image =
            if path.extension().is_some_and(|e| e == "log") { path.with_extension("") } else { path.clone() };
        let ours = image.file_name().is_some_and(|name| name.to_string_lossy().matches('.').count() == 2);
        if ours && !jobs.iter().any(|j| j.2 == image) {
            let _ = fs::remove_file(path);
        }
    }
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get()).min(jobs.len());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((unit, arch, target)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !target.is_file() {
                        let error = one(nvcc, &options, unit, arch, target, &kernels.folders).err();
                        failures.lock().expect("no worker panics while holding it").extend(error);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("workers have ended");
    assert!(failures.is_empty(), "nvcc failed:\n{}", failures.join("\n"));
    jobs.into_iter()
        .map(|(unit, arch, path)| Image { kernel: unit.name.clone(), arch: arch.clone(), path })
        .collect()
}

fn one(
    nvcc: &Path,
    options: &[&str],
    unit: &Unit,
    arch: &str,
    target: &Path,
    folders: &[PathBuf],
) -> Result<(), String> {
    let suffixed = |suffix: &str| PathBuf::from(format!("{}.{suffix}", target.display()));
    let (partial, log) = (suffixed("partial"), suffixed("log"));
    let kind = if arch.starts_with("compute") { "-ptx" } else { "-cubin" };
    let mut command = Command::new(nvcc);
    command.args(options).args([kind, &format!("-arch={arch}")]);
    for folder in folders {
        command.arg("-I").arg(folder);
    }
    let run = command
        .arg("-o")
        .arg(&partial)
        .arg(&unit.path)
        .output()
        .map_err(|e| format!("{}: {e}", nvcc.display()))?;
    let said = String::from_utf8_lossy(&run.stderr);
    if !run.status.success() {
        return Err(format!("{} for {arch}:\n{said}", unit.path.display()));
    }
    let kept = fs::write(&log, said.as_bytes()).and_then(|()| fs::rename(&partial, target));
    kept.map_err(|e| format!("{}: {e}", target.display()))
}
