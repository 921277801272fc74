//! `rtmo-engine check`

use super::options::Network;
use super::table::{Align, Table};
use super::terminal::Terminal;
use super::{Ended, Outcome};
use clap::Args;
use rtmo_engine::backend::reference::Reference;
use rtmo_engine::backend::{Device, Executor, Frame, Placement, Precision, RunOptions, SelectParams, device};
use rtmo_engine::parity::{self, Kind, MapError, Tolerance};
use rtmo_engine::pose::Letterbox;
use rtmo_engine::pose::model;
use rtmo_engine::shown;
use rtmo_engine::weights::{Architecture, score_thr};
use rtmo_engine::{Compat, Error, Photo, Result};
use std::path::PathBuf;

/// Compare a device with the CPU, or the CPU with 64-bit arithmetic, step by step
///
/// Compares every step of a device's computation for a photo with a more exact one: a GPU in fp16 or the CPU in bf16 with
/// the CPU in fp32, and the CPU in fp32 with 64-bit arithmetic.
#[derive(Args)]
#[command(after_help = "\
Without --device and --precision a GPU is checked, and where there is none the CPU in fp32. A map's relative error is the \
root mean square of its difference over that of the map; 'worst' is the largest difference over the same, found at row, \
column and channel 'at'. The stages' maps (c3 to p5, and the head's cls and bbox) and the people are held to what the \
engine promises for the precision (people of scores above 0.1, of the demonstration model above 0.5); the exit status is 1 if anything is beyond it. Weights are generated where the model's \
are not here: then their people mean nothing, and in bf16 and fp16 only the maps are held to anything, in fp16 to 7e-3: generated \
weights amplify rounding.

64-bit arithmetic takes a minute for rtmo-s at 640x640, and some for rtmo-l.

Examples:
  rtmo-engine check photo.jpg --model rtmo-l            the GPU against the CPU
  rtmo-engine check photo.jpg --device cpu --size 320   the CPU against 64-bit arithmetic")]
pub struct Check {
    /// Photo
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    #[command(flatten)]
    network: Network,
    /// Show the stages only, not every step
    #[arg(long)]
    stages: bool,
    /// Hold the stages' maps to this relative error, and the head's to twice that [default: as promised for the precision]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = positive)]
    map_error: Option<f64>,
}

impl Check {
    pub fn run(self) -> Ended {
        let terminal = Terminal::new(false, false);
        if let Some(warning) = self.network.crowded() {
            terminal.complain("warning", warning);
        }
        if let Some(fallback) = self.network.fallback() {
            terminal.say(fallback)?;
        }
        let photo = Photo::open(&self.image)?;
        let checkpoint = self.network.any_checkpoint(&terminal)?;
        let generated = !checkpoint.path().is_file();
        let architecture = Architecture::of(&checkpoint);
        let plan = model::build(&checkpoint, self.network.size)?;
        let input = plan.input_size();

        let asked = self.network.placement();
        let (mut found, taken) = asked.prepare_to_read(plan.clone())?;
        let precision = taken.precision.unwrap_or_default();
        let (mut expected, right): (Box<dyn Executor>, String) = match precision {
            Precision::Fp32 => (Box::new(Reference::new(plan)), "64-bit arithmetic".into()),
            _ => {
                let (device, precision) = (Device::Cpu, Some(Precision::Fp32));
                let (cpu, _) = Placement { device, precision, ..asked }.prepare_to_read(plan)?;
                let name = cpu.describe();
                (cpu, name)
            }
        };
        let mut tolerance = Tolerance::of(precision);
        if generated && matches!(precision, Precision::Bf16 | Precision::Fp16) {
            tolerance = tolerance.generated();
        }
        if let Some(x) = self.map_error {
            (tolerance.map, tolerance.head) = (x, 2.0 * x);
        }

        let (w, h) = input;
        terminal.say(format!("model    {architecture}, {w}x{h}; {}", shown(checkpoint.path())))?;
        terminal.say(format!("photo    {}, {}x{}", shown(&self.image), photo.width, photo.height))?;
        terminal.say(format!("checked  {}", found.describe()))?;
        if let (Device::Auto, Device::Cpu, Err(why)) = (asked.device, taken.device, device::cuda()) {
            terminal.say(format!("         (no GPU is checked: {why})"))?;
        }
        terminal.say(format!("against  {right}\n"))?;
        let mut select = SelectParams::default();
        select.score_thr = score_thr(&checkpoint, None, Compat::Mmpose).unwrap_or(select.score_thr);
        drop(checkpoint);

        let letterbox = Letterbox::new((photo.width, photo.height), input);
        let frame = Frame::new(&photo, &letterbox);
        let options = RunOptions { select, heatmaps: true };
        let report = parity::compare(expected.as_mut(), found.as_mut(), frame, &options)?;
        terminal.say(format!("{}\n", self.table(&report.maps)))?;
        terminal.say(&report.people)?;
        match report.check(&tolerance) {
            Ok(()) => {
                let (what, of) = match tolerance.score.is_infinite() {
                    true => ("the maps are", " for generated weights"),
                    false => ("all is", ""),
                };
                terminal.say(format!("{what} within the bounds of {precision}{of}"))?;
                Ok(Outcome::Done)
            }
            Err(beyond) => {
                for line in beyond.lines() {
                    terminal.complain("beyond the bounds", line);
                }
                Ok(Outcome::Incomplete)
            }
        }
    }

    fn table(&self, maps: &[MapError]) -> Table {
        const ALIGN: &[Align] = &[Align::Left, Align::Left, Align::Right, Align::Right, Align::Right];
        let mut table = Table::new(&["stage", "step", "relative", "worst", "at"], ALIGN);
        for map in maps {
            let [y, x, c] = map.at;
            let (stage, step) = match map.kind {
                Kind::Input => ("input", map.name.as_str()),
                Kind::Stage | Kind::Head => (map.name.as_str(), ""),
                Kind::Inner if self.stages => continue,
                Kind::Inner => ("", map.name.as_str()),
            };
            let at = if map.worst == 0.0 { String::new() } else { format!("{y},{x},{c}") };
            let figures = [map.relative, map.worst].map(|v| format!("{v:.2e}"));
            table.row([stage.to_string(), step.to_string()].into_iter().chain(figures).chain([at]));
        }
        table
    }
}

/// A bound: a number from 0 on. A NaN would let every error pass.
fn positive(text: &str) -> Result<f64> {
    match text.parse::<f64>() {
        Ok(x) if x > 0.0 => Ok(x),
        _ => Err(Error::Usage("expected a number above 0".into())),
    }
}
