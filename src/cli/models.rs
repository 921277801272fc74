//! `rtmo-engine models`

use super::{Ended, Outcome, terminal};
use clap::Args;
use rtmo_engine::weights::registry::{PUBLISHED, Published, Search};

/// List the published checkpoints, and which are here
///
/// Lists the checkpoints that the authors of RTMO published: name, network input, keypoints, training data, average
/// precision as published, whether the file is on this machine, and where it can be downloaded.
#[derive(Args)]
#[command(after_help = "\
'rtmo-engine download NAME' fetches one. A file that was downloaded otherwise works as it is: put it into weights/ or \
~/.cache/rtmo-engine/, point $RTMO_WEIGHTS to its folder, or give it with --weights.")]
pub struct Models {
    /// Print names only
    #[arg(long)]
    names: bool,
}

impl Models {
    pub fn run(self) -> Ended {
        // What is wrong with $RTMO_WEIGHTS would make all of them seem to be elsewhere.
        if let Err(error) = Search::from_environment().look(None, None) {
            terminal::complain("warning", error);
        }
        for model in &PUBLISHED {
            match self.names {
                true => terminal::print(model.name)?,
                false => terminal::print(describe(model))?,
            }
        }
        Ok(Outcome::Done)
    }
}

fn describe(model: &Published) -> String {
    let Published { name, keypoints, training_data, benchmark, .. } = model;
    let (w, h) = model.input_size;
    let here = match model.installed() {
        Some(path) => format!("here: {}", path.display()),
        None => "not here".into(),
    };
    let ap = 100.0 * model.ap;
    format!(
        "{name:<22}  {w}x{h}  {keypoints} keypoints  trained on {training_data:<9}  AP {ap:.1} on {benchmark:<14}  \
         {here}\n    {}",
        model.url
    )
}
