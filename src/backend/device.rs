//! Where a plan runs, and in which arithmetic: from a request to an [`Executor`].

use super::Executor;
use super::cpu::{CpuExecutor, CpuOptions};
#[cfg(feature = "cuda")]
use super::cuda::{self, CudaExecutor};
use crate::error::{Error, Result};
use crate::plan::Plan;
use std::fmt;
use std::str::FromStr;

/// Where a plan runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// The fastest device of this machine.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU, by its number.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = Error;

    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    fn from_str(text: &str) -> Result<Device> {
        match text {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            _ => match text.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(n)) => Ok(Device::Cuda(n)),
                _ => Err(Error::Usage(format!("device '{text}': expected auto, cpu, cuda or cuda:N"))),
            },
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

/// Arithmetic of the network's large convolutions. Buffers of [`crate::plan::DType::F32`] stay in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Precision {
    /// IEEE 754 binary32.
    #[default]
    Fp32,
    /// The upper half of a binary32, accumulated in f32.
    Bf16,
    /// Each operand is the sum of two bf16 numbers, with three products accumulated in f32: close to fp32, on AMX.
    Bf16x3,
    /// IEEE 754 binary16, accumulated in f32.
    Fp16,
}

impl Precision {
    /// `fp32`, `bf16`, `bf16x3` or `fp16`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Bf16 => "bf16",
            Precision::Bf16x3 => "bf16x3",
            Precision::Fp16 => "fp16",
        }
    }
}

impl FromStr for Precision {
    type Err = Error;

    /// [`Precision::name`], or its common other names.
    fn from_str(text: &str) -> Result<Precision> {
        match text {
            "fp32" | "f32" => Ok(Precision::Fp32),
            "bf16" => Ok(Precision::Bf16),
            "bf16x3" => Ok(Precision::Bf16x3),
            "fp16" | "f16" | "half" => Ok(Precision::Fp16),
            _ => Err(Error::Usage(format!("precision '{text}': expected fp32, bf16, bf16x3 or fp16"))),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The kernels that a GPU's are chosen among.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kernels {
    /// Those that a GPU has confirmed.
    #[default]
    Proven,
    /// Also those that no GPU has confirmed yet. Each is tried in a process of its own first, and taken if it is right
    /// there, and faster.
    All,
}

impl Kernels {
    /// `proven` or `all`.
    pub fn name(self) -> &'static str {
        match self {
            Kernels::Proven => "proven",
            Kernels::All => "all",
        }
    }
}

impl FromStr for Kernels {
    type Err = Error;

    /// `proven` or `all`.
    fn from_str(text: &str) -> Result<Kernels> {
        match text {
            "proven" => Ok(Kernels::Proven),
            "all" => Ok(Kernels::All),
            _ => Err(Error::Usage(format!("kernels '{text}': expected proven or all"))),
        }
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A device, an arithmetic, and how many threads a CPU may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Where.
    pub device: Device,
    /// In which arithmetic; `None`: fp32 on a CPU, fp16 on a GPU.
    pub precision: Option<Precision>,
    /// Threads on a CPU, the caller's included; `None`: one for each physical core that the process may use.
    pub threads: Option<usize>,
    /// On a GPU, the kernels to choose among.
    pub kernels: Kernels,
}

impl Placement {
    /// Prepares a plan, and says where it was placed. [`Device::Auto`] takes the first GPU that the compiled kernels
    /// support. It takes the CPU if there is no such GPU, or if fp32 or bf16 is asked for. fp16 without a GPU becomes
    /// fp32 on the CPU: compare the placement that is returned with the one that was asked for.
    ///
    /// # Errors
    /// [`Error::Device`] if the device is missing, cannot compute in this precision, or lacks memory or anything else
    /// that the plan needs; [`Error::Usage`] if the environment, the number of threads or the plan makes no sense.
    pub fn prepare(&self, plan: Plan) -> Result<(Box<dyn Executor>, Placement)> {
        self.place(plan, false)
    }

    /// As [`Placement::prepare`], with every buffer kept intact until the end of a run, for [`Executor::read`]: takes
    /// more memory.
    ///
    /// # Errors
    /// As `prepare`.
    pub fn prepare_to_read(&self, plan: Plan) -> Result<(Box<dyn Executor>, Placement)> {
        self.place(plan, true)
    }

    fn place(&self, plan: Plan, keep: bool) -> Result<(Box<dyn Executor>, Placement)> {
        match self.device {
            Device::Cpu => self.cpu(plan, keep),
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => self.cuda(plan, ordinal, keep),
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => Err(Error::Device(NO_CUDA.into())),
            // fp32 and both kinds of bf16 are for CPUs, fp16 is for GPUs.
            Device::Auto => match self.precision {
                Some(Precision::Fp32 | Precision::Bf16 | Precision::Bf16x3) => self.cpu(plan, keep),
                Some(Precision::Fp16) | None => {
                    #[cfg(feature = "cuda")]
                    if let Ok(gpu) = usable_gpu() {
                        return self.cuda(plan, gpu.ordinal, keep);
                    }
                    Placement { precision: None, ..*self }.cpu(plan, keep)
                }
            },
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, plan: Plan, ordinal: usize, keep: bool) -> Result<(Box<dyn Executor>, Placement)> {
        let precision = self.precision.unwrap_or(Precision::Fp16);
        if precision != Precision::Fp16 {
            return Err(Error::Device(format!("a GPU computes in fp16 only, not in {precision}")));
        }
        let options = cuda::Options { keep_all: keep, kernels: self.kernels, ..Default::default() };
        let executor = Box::new(CudaExecutor::new(plan, ordinal, options)?);
        let taken = Placement { device: Device::Cuda(ordinal), precision: Some(precision), ..*self };
        Ok((executor, taken))
    }

    fn cpu(&self, plan: Plan, keep: bool) -> Result<(Box<dyn Executor>, Placement)> {
        let mut options = CpuOptions::detect()?;
        if let Some(threads) = self.threads {
            if !(1..=MAX_THREADS).contains(&threads) {
                return Err(Error::Usage(format!("{threads} threads: expected 1 to {MAX_THREADS}")));
            }
            options.threads = threads;
        }
        let precision = self.precision.unwrap_or_default();
        options.precision = precision;
        options.keep_maps = keep;
        let executor = Box::new(CpuExecutor::new(plan, options)?);
        let threads = Some(options.threads);
        Ok((executor, Placement { device: Device::Cpu, precision: Some(precision), threads, ..*self }))
    }
}

/// The first GPU that the compiled kernels run on.
#[cfg(feature = "cuda")]
fn usable_gpu() -> Result<cuda::DeviceInfo> {
    if cuda::compiled_archs().is_empty() {
        return Err(Error::Device(NO_KERNELS.into()));
    }
    let devices = cuda::devices()?;
    let found = devices.iter().find(|device| device.arch.is_some()).cloned();
    found.ok_or_else(|| Error::Device("no GPU that the compiled kernels run on".into()))
}

/// One line about the GPUs of this machine and the kernels that they load.
///
/// # Errors
/// Why no GPU can be used, and how that can be changed.
#[cfg(feature = "cuda")]
pub fn cuda() -> Result<String> {
    usable_gpu()?;
    let one = |device: cuda::DeviceInfo| {
        let (major, minor) = device.capability;
        let memory = device.memory as f64 / f64::from(1 << 30);
        let code = device.arch.unwrap_or("no kernels");
        let driver = format!("driver for CUDA {}.{}", device.driver.0, device.driver.1);
        format!(
            "cuda:{} {}, compute capability {major}.{minor}, {memory:.0} GiB, {code}, {driver}",
            device.ordinal, device.name
        )
    };
    let devices: Vec<String> = cuda::devices()?.into_iter().map(one).collect();
    Ok(devices.join("; "))
}

/// What GPU work can be done here: none, for this build leaves GPUs out.
///
/// # Errors
/// Always.
#[cfg(not(feature = "cuda"))]
pub fn cuda() -> Result<String> {
    Err(Error::Device(NO_CUDA.into()))
}

/// The GPU architectures that this build has kernels for, with or without a GPU here.
pub fn compiled_for() -> String {
    #[cfg(feature = "cuda")]
    let archs = cuda::compiled_archs().join(", ");
    #[cfg(not(feature = "cuda"))]
    let archs = String::new();
    match archs {
        none if none.is_empty() => "for CPUs only".into(),
        archs => format!("for CPUs, and GPUs of {archs}"),
    }
}

/// More threads than any machine has cores.
const MAX_THREADS: usize = 1024;

#[cfg(feature = "cuda")]
const NO_KERNELS: &str = "this build has no CUDA kernels: build it where nvcc is (CUDA_HOME or PATH says where) for \
                          --device cuda; --device cpu runs on every machine";

#[cfg(not(feature = "cuda"))]
const NO_CUDA: &str =
    "this build leaves GPUs out (it has no feature `cuda`): --device cpu runs on every machine";
