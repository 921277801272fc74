//! `rtmo-engine info`

use super::{Ended, Outcome, terminal};
use clap::Args;
use rtmo_engine::backend::cpu::{Isa, peak::fma_peak};
use rtmo_engine::backend::{cpu, device};
use rtmo_engine::shown;
use rtmo_engine::weights::registry::Search;

/// Say what this build and this machine can do
///
/// Says what this build and this machine can do: version, CPU, instruction sets, GPU, and where weights are looked for.
#[derive(Args)]
pub struct Info {}

impl Info {
    pub fn run(self) -> Ended {
        let row = |key: &str, value: String| terminal::print(format!("{key:<10}{value}"));
        row("version", format!("rtmo-engine {}, {}", env!("CARGO_PKG_VERSION"), target()))?;
        row("CPU", cpu::name())?;
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        row("threads", format!("{threads}, of {} physical cores (--threads)", cpu::cores()))?;
        let isas: Vec<&str> =
            Isa::all().map(Isa::name).filter(|name| !name.starts_with("portable1")).collect();
        let isa = Isa::choose()?;
        row("ISA", format!("{} (here: {}; RTMO_ISA=NAME forces one)", isa.name(), isas.join(", ")))?;
        row(
            "FMA peak",
            format!("{:.0} GFLOP/s in fp32, measured on all threads", fma_peak(isa, threads) / 1e9),
        )?;
        row(
            "precision",
            "fp32 on every CPU, bf16 on one with AVX512-BF16 or AMX, bf16x3 with AMX, fp16 on a GPU".into(),
        )?;
        row("CUDA", device::cuda().unwrap_or_else(|why| why.to_string()))?;
        row("kernels", device::compiled_for())?;
        let search = Search::from_environment();
        let mut places: Vec<String> = search.folders.iter().map(|folder| shown(folder).to_string()).collect();
        places.insert(
            0,
            match &search.variable {
                Some(path) if path.exists() => format!("{} ($RTMO_WEIGHTS)", shown(path)),
                Some(path) => format!("{} ($RTMO_WEIGHTS, does not exist)", shown(path)),
                None => "$RTMO_WEIGHTS (not set)".into(),
            },
        );
        row("weights", places.join(", "))?;
        Ok(Outcome::Done)
    }
}

fn target() -> String {
    let build = if cfg!(debug_assertions) { ", unoptimised build" } else { "" };
    format!("{} {}{build}", std::env::consts::ARCH, std::env::consts::OS)
}
