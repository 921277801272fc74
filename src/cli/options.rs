//! Options that several commands have.

use clap::Args;
use rtmo_engine::backend::{Device, Placement, Precision};
use rtmo_engine::model::{self, Variant};
use rtmo_engine::weights::Checkpoint;
use rtmo_engine::weights::registry::{self, Search};
use rtmo_engine::{Error, Result};
use std::path::PathBuf;

/// Which network, and where it runs.
#[derive(Args, Clone)]
pub struct Network {
    /// Published model, e.g. rtmo-t, rtmo-s-coco, rtmo-l-crowdpose; see 'rtmo-engine models' [default: rtmo-s]
    #[arg(short, long, value_name = "NAME")]
    pub model: Option<String>,
    /// Weights file, .pth or .safetensors; or a folder that holds the model's
    #[arg(short, long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Network input in pixels, multiples of 32; larger finds smaller people [default: the model's own]
    #[arg(short, long, value_name = "WxH", value_parser = size)]
    pub size: Option<(usize, usize)>,
    /// auto, cpu, cuda or cuda:N
    #[arg(short, long, default_value = "auto")]
    pub device: Device,
    /// Arithmetic: fp32, bf16, bf16x3 (nearly fp32, by AMX) or fp16 [default: fp32 on a CPU, fp16 on a GPU]
    #[arg(short, long)]
    pub precision: Option<Precision>,
    /// The same as --precision fp16
    #[arg(long, conflicts_with = "precision")]
    pub fp16: bool,
    /// CPU threads [default: all that the process may use]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

impl Network {
    pub fn placement(&self) -> Placement {
        let threads = self.threads.map(usize::from);
        let precision = if self.fp16 { Some(Precision::Fp16) } else { self.precision };
        Placement { device: self.device, precision, threads }
    }

    /// The weights asked for. If nobody asked for any, the default model's; without those, the demonstration's; without
    /// those, generated ones, with a warning to show.
    pub fn checkpoint(&self) -> Result<(Checkpoint, Option<String>)> {
        let (model, weights) = (self.model.as_deref(), self.weights.as_deref());
        let found = match registry::resolve(model, weights) {
            Err(_) if self.nothing_asked() => registry::resolve(Some(DEMO), None),
            found => found,
        };
        match found {
            Ok(path) => Ok((Checkpoint::open(path)?, None)),
            Err(_) if self.nothing_asked() => {
                let url = registry::find(registry::DEFAULT_MODEL).map_or("", |published| published.url);
                let warning = format!(
                    "no weights found: these are random ones of rtmo-t, and the people they find mean nothing; put \
                     {url} into weights/, or see 'rtmo-engine models'"
                );
                Ok((model::random(Variant::T, 17, 2, SEED), Some(warning)))
            }
            Err(error) => Err(error),
        }
    }

    /// The weights asked for; for a published model that is not here, generated ones of its shape.
    pub fn any_checkpoint(&self) -> Result<Checkpoint> {
        let (model, weights) = (self.model.as_deref(), self.weights.as_deref());
        let published = registry::find(model.unwrap_or(registry::DEFAULT_MODEL));
        let variant = published.and_then(|published| {
            Some((Variant::ALL.into_iter().find(|v| published.name[5..].starts_with(v.letter()))?, published))
        });
        match (registry::resolve(model, weights), variant) {
            (Ok(path), _) => Checkpoint::open(path),
            (Err(_), Some((variant, published))) if weights.is_none() => {
                Ok(model::random(variant, published.keypoints, 2, SEED))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// The weights file of [`Network::any_checkpoint`], if there is one.
    pub fn file(&self) -> Option<PathBuf> {
        registry::resolve(self.model.as_deref(), self.weights.as_deref()).ok()
    }

    /// Whether these are the demonstration's weights.
    pub fn is_demo(checkpoint: &Checkpoint) -> bool {
        checkpoint.path().file_stem().is_some_and(|stem| stem == DEMO)
    }

    /// What to say of them then.
    pub fn remark(checkpoint: &Checkpoint) -> Option<String> {
        Network::is_demo(checkpoint).then(|| {
            let url = registry::find(registry::DEFAULT_MODEL).map_or("", |published| published.url);
            format!(
                "this is the demonstration model, trained mostly on rendered scenes, with people above {DEMO_SCORE_THR} unless \
                 --score-thr says otherwise; for photos put {url} into weights/, or see 'rtmo-engine models'"
            )
        })
    }

    fn nothing_asked(&self) -> bool {
        self.model.is_none() && self.weights.is_none() && Search::from_environment().variable.is_none()
    }
}

/// A small model that may lie beside the program, for a first look.
const DEMO: &str = "rtmo-t-demo";

/// Its doubles and false people mostly score less.
pub const DEMO_SCORE_THR: f32 = 0.5;

/// Of generated weights.
const SEED: u64 = 0;

/// `960x544`, or `640` for a square.
fn size(text: &str) -> Result<(usize, usize)> {
    let side = |s: &str| s.parse::<usize>().ok().filter(|&n| n > 0 && n % 32 == 0);
    let (w, h) = text.split_once(['x', 'X']).unwrap_or((text, text));
    match (side(w), side(h)) {
        (Some(w), Some(h)) => Ok((w, h)),
        _ => Err(Error::Usage("expected width x height, both multiples of 32, such as 960x544".into())),
    }
}
