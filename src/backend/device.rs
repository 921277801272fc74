//! Where a plan runs, and in which arithmetic: from a request to an [`Executor`].

use super::Executor;
use super::cpu::{CpuExecutor, CpuOptions};
use crate::error::{Error, Result};
use crate::plan::Plan;
use std::fmt;
use std::str::FromStr;

/// Where a plan runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// The fastest that is here.
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

/// Arithmetic of the network's convolutions; what is sensitive stays in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// IEEE 754 binary32.
    #[default]
    Fp32,
    /// The upper half of a binary32, accumulated in f32.
    Bf16,
    /// IEEE 754 binary16, accumulated in f32.
    Fp16,
}

impl Precision {
    /// `fp32`, `bf16` or `fp16`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Bf16 => "bf16",
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
            "fp16" | "f16" | "half" => Ok(Precision::Fp16),
            _ => Err(Error::Usage(format!("precision '{text}': expected fp32, bf16 or fp16"))),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A device, an arithmetic, and how many threads a CPU may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Where.
    pub device: Device,
    /// In which arithmetic.
    pub precision: Precision,
    /// Threads on a CPU, the caller's included; `None`: as many as the process may use.
    pub threads: Option<usize>,
}

impl Placement {
    /// Prepares a plan: `Auto` takes the first device that works, and a named one works or gives an error. Returns the
    /// placement that was taken, too, with nothing left open.
    ///
    /// # Errors
    /// [`Error::Device`] if the device is missing or cannot compute in this precision, [`Error::Usage`] if the
    /// environment or the number of threads makes no sense.
    pub fn prepare(&self, plan: Plan) -> Result<(Box<dyn Executor>, Placement)> {
        match self.device {
            Device::Auto | Device::Cpu => self.cpu(plan),
            Device::Cuda(_) => Err(cuda().err().unwrap_or_else(|| Error::Device("no CUDA backend".into()))),
        }
    }

    fn cpu(&self, plan: Plan) -> Result<(Box<dyn Executor>, Placement)> {
        let mut options = CpuOptions::detect()?;
        if let Some(threads) = self.threads {
            if !(1..=MAX_THREADS).contains(&threads) {
                return Err(Error::Usage(format!("{threads} threads: expected 1 to {MAX_THREADS}")));
            }
            options.threads = threads;
        }
        let executor: Box<dyn Executor> = match self.precision {
            Precision::Fp32 => Box::new(CpuExecutor::new(plan, options)?),
            other @ (Precision::Bf16 | Precision::Fp16) => {
                return Err(Error::Device(format!("the CPU computes in fp32 only, not in {other}")));
            }
        };
        let threads = Some(options.threads);
        Ok((executor, Placement { device: Device::Cpu, precision: self.precision, threads }))
    }
}

/// What GPU work can be done here, in a line.
///
/// # Errors
/// Why none can, and how that can be changed.
pub fn cuda() -> Result<String> {
    Err(Error::Device(NO_CUDA.into()))
}

/// More threads than any machine has cores.
const MAX_THREADS: usize = 1024;

const NO_CUDA: &str = "this version has no CUDA backend yet; --device cpu runs on every machine";
