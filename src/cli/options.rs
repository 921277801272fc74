//! Options that several commands have.

use super::terminal::Terminal;
use clap::{ArgAction, Args};
use rtmo_engine::backend::cpu::cores;
use rtmo_engine::backend::{Device, Kernels, Placement, Precision, device};
use rtmo_engine::pose::model;
use rtmo_engine::shown;
use rtmo_engine::weights::registry::{self, Search};
use rtmo_engine::weights::{self, Checkpoint, Wanted};
use rtmo_engine::{Compat, EngineOptions, Error, Result, Variant};
use std::path::{Path, PathBuf};

/// Which network, and where it runs.
#[derive(Args, Clone)]
pub struct Network {
    /// Published model, e.g. rtmo-t, rtmo-s-coco, rtmo-l-crowdpose; see 'rtmo-engine models'; or a size without
    /// published weights, rtmo-r50, for bench and files of one's own [default: rtmo-s; infer without it takes another that
    /// is here]
    #[arg(short, long, value_name = "NAME")]
    pub model: Option<String>,
    /// Weights file, .pth, .safetensors or .onnx; or a folder that holds the model's
    #[arg(short, long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Network input in pixels, multiples of 32; larger finds smaller people [default: the model's own]
    #[arg(short, long, value_name = "WxH", value_parser = size)]
    pub size: Option<(usize, usize)>,
    /// auto, cpu, cuda or cuda:N
    #[arg(short, long, default_value = "auto")]
    pub device: Device,
    /// Arithmetic: fp32, bf16, bf16x3 (nearly fp32, by AMX) or fp16, which becomes fp32 where there is no GPU
    /// [default: fp32 on a CPU, fp16 on a GPU]
    #[arg(short, long)]
    pub precision: Option<Precision>,
    /// The same as --precision fp16
    #[arg(long, conflicts_with = "precision")]
    pub fp16: bool,
    /// CPU threads [default: one for each physical core that the process may use]
    // One number, but for bench, which takes several.
    #[arg(short, long, value_name = "N", num_args = 1, action = ArgAction::Set, allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Vec<u16>,
    /// GPU kernels to choose among: proven, or all, with those that no GPU has confirmed, each tried in a process of its
    /// own first
    #[arg(long, default_value = "proven", value_name = "WHICH")]
    pub kernels: Kernels,
}

/// Which of the people found count, and where they are.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "People")]
pub struct PeopleOptions {
    /// Score that a person must exceed [default: 0.1, with --compat rtmlib 0.7; infer with the demonstration model at least 0.5]
    #[arg(long, value_name = "0..1", value_parser = fraction, allow_negative_numbers = true)]
    pub score_thr: Option<f32>,
    /// Overlap (IoU) from which on the lesser of two people is dropped [default: 0.65, with --compat rtmlib 0.45]
    #[arg(long, value_name = "0..1", value_parser = fraction, allow_negative_numbers = true)]
    pub nms_thr: Option<f32>,
    /// At most N people a photo, best first
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub max_people: Option<usize>,
    /// Whose geometry and thresholds: mmpose or rtmlib
    #[arg(long, value_name = "WHOSE", default_value = "mmpose")]
    pub compat: Compat,
}

impl PeopleOptions {
    /// The same for an engine of this network.
    pub fn engine(&self, network: &Network) -> EngineOptions {
        let mut options =
            EngineOptions::default().with_placement(network.placement()).with_compat(self.compat);
        options.input_size = network.size;
        options.score_thr = self.score_thr;
        options.nms_thr = self.nms_thr;
        options.max_people = self.max_people;
        options
    }
}

impl Network {
    pub fn placement(&self) -> Placement {
        let threads = self.threads.first().map(|&threads| threads.into());
        let precision = if self.fp16 { Some(Precision::Fp16) } else { self.precision };
        Placement { device: self.device, precision, threads, kernels: self.kernels }
    }

    /// The weights asked for, by default [`registry::DEFAULT_MODEL`]'s; for a model of the paper that is not here,
    /// generated ones of its shape.
    ///
    /// # Errors
    /// If what was asked for is not here, cannot be read, or is another model.
    pub fn any_checkpoint(&self, terminal: &Terminal) -> Result<Checkpoint> {
        let search = Search::from_environment();
        if let Some(path) = self.look(&search)? {
            return self.wanted().open(&path, &search, terminal);
        }
        let name = self.model.as_deref().unwrap_or(registry::DEFAULT_MODEL);
        let published = registry::find(name).map(|published| (published.variant(), published.keypoints));
        // No weights of RTMO-r50 are public.
        let unpublished = || Variant::ALL.into_iter().find(|v| v.name() == name).map(|v| (v, 17));
        match published.or_else(unpublished).filter(|_| self.weights.is_none()) {
            Some((variant, keypoints)) => Ok(model::random(variant, keypoints, 2, SEED)),
            None => Checkpoint::open(search.resolve(self.model.as_deref(), self.weights.as_deref())?),
        }
    }

    /// The weights file of [`Network::any_checkpoint`], if there is one.
    ///
    /// # Errors
    /// If a path that was named does not exist.
    pub fn file(&self) -> Result<Option<PathBuf>> {
        self.look(&Search::from_environment())
    }

    /// Whether the user named one network, by an option or by a file in `$RTMO_WEIGHTS`.
    pub fn is_named(&self) -> bool {
        let file = Search::from_environment().variable.is_some_and(|path| !path.is_dir());
        self.model.is_some() || self.weights.is_some() || file
    }

    fn look(&self, search: &Search) -> Result<Option<PathBuf>> {
        let default = (!self.is_named()).then_some(registry::DEFAULT_MODEL);
        search.look(self.model.as_deref().or(default), self.weights.as_deref())
    }

    /// Which weights the user asked for.
    pub fn wanted(&self) -> Wanted<'_> {
        Wanted { model: self.model.as_deref(), weights: self.weights.as_deref(), ..Default::default() }
    }

    /// The line to print for the demonstration model.
    pub fn remark(checkpoint: &Checkpoint, asked: Option<f32>, compat: Compat) -> Option<String> {
        let threshold = match weights::score_thr(checkpoint, asked, compat) {
            Some(threshold) if asked.is_none() => {
                format!(", with people above {threshold} unless --score-thr says otherwise")
            }
            _ => String::new(),
        };
        weights::is_demo(checkpoint).then(|| {
            format!(
                "this is the small demonstration model{threshold}; 'rtmo-engine download' fetches the authors'"
            )
        })
    }

    /// Whether a GPU will compute, given whether one is usable: where the choice is left open, it takes fp16 only.
    pub fn on_gpu(&self, usable: impl FnOnce() -> bool) -> bool {
        let Placement { device, precision, .. } = self.placement();
        match device {
            Device::Cpu => false,
            Device::Auto => matches!(precision, None | Some(Precision::Fp16)) && usable(),
            _ => true,
        }
    }

    /// Threads that read photos, and as many that draw. One where the CPU computes, and leaves a CPU to it. As many as keep a GPU
    /// busy. One for each CPU where they take turns with the engine.
    pub fn workers(&self) -> usize {
        let gpu = self.on_gpu(|| device::cuda().is_ok());
        if gpu || self.needs_all_cpus() { cpus().clamp(1, 8) } else { 1 }
    }

    /// Whether the engine has a thread for every CPU that the process may use.
    pub fn needs_all_cpus(&self) -> bool {
        let threads = self.placement().threads.unwrap_or_else(cores);
        !self.on_gpu(|| device::cuda().is_ok()) && threads >= cpus()
    }

    /// Says so, if fp16 is asked for and the CPU computes in fp32 instead, since no GPU can be used.
    pub fn fallback(&self) -> Option<String> {
        let Placement { device: Device::Auto, precision: Some(Precision::Fp16), .. } = self.placement()
        else {
            return None;
        };
        let why = device::cuda().err()?;
        Some(format!("fp16 needs a GPU that can be used: computing in fp32 on the CPU instead ({why})"))
    }

    /// A warning, if a CPU is to run more threads than it can at once.
    pub fn crowded(&self) -> Option<String> {
        let cpus = cpus();
        let threads = *self.threads.iter().max().filter(|_| !matches!(self.device, Device::Cuda(_)))?;
        (usize::from(threads) > cpus).then(|| {
            let noun = if cpus == 1 { "CPU" } else { "CPUs" };
            format!("{threads} threads on {cpus} {noun} wait for each other: --threads {cpus} is faster")
        })
    }
}

/// CPUs that the process may use.
fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Seed of generated weights.
const SEED: u64 = 0;

/// `960x544`, or `640` for a square.
pub fn size(text: &str) -> Result<(usize, usize)> {
    let side = |s: &str| s.parse::<usize>().ok().filter(|&n| n > 0 && n % 32 == 0);
    let (w, h) = text.split_once(['x', 'X']).unwrap_or((text, text));
    match (side(w), side(h)) {
        (Some(w), Some(h)) => Ok((w, h)),
        _ => Err(Error::Usage("expected width x height, both multiples of 32, such as 960x544".into())),
    }
}

/// A score or an overlap.
pub fn fraction(text: &str) -> Result<f32> {
    match text.parse::<f32>() {
        Ok(x) if (0.0..=1.0).contains(&x) => Ok(x),
        _ => Err(Error::Usage("expected a number from 0 to 1".into())),
    }
}

/// That the file an option or argument writes says what it is.
pub fn ends_in(path: &Path, suffix: &str, what: &str) -> Result<()> {
    match path.extension().is_some_and(|found| found.eq_ignore_ascii_case(suffix)) {
        true => Ok(()),
        false => Err(Error::Usage(format!("{}: {what} needs a name that ends in .{suffix}", shown(&path)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        network: Network,
    }

    fn on_gpu(arguments: &str) -> bool {
        let arguments = std::iter::once("x").chain(arguments.split_whitespace());
        Command::parse_from(arguments).network.on_gpu(|| true)
    }

    #[test]
    fn a_gpu_is_left_out_where_the_cpu_computes() {
        for gpu in ["", "--fp16", "--precision fp16", "--device cuda:1"] {
            assert!(on_gpu(gpu), "{gpu}");
        }
        for cpu in ["--device cpu", "--precision fp32", "--precision bf16", "--precision bf16x3"] {
            assert!(!on_gpu(cpu), "{cpu}");
        }
    }
}
