//! `rtmo-engine download`

use super::fetch::Server;
use super::terminal::{Terminal, complain, print};
use super::{Ended, Outcome};
use clap::Args;
use rtmo_engine::atomic_file::remove_unfinished;
use rtmo_engine::shown;
use rtmo_engine::weights::registry::{self, DEFAULT_MODEL, PUBLISHED, Published};
use rtmo_engine::weights::{DownloadOptions, Standing, no_cache_folder, standing};
use rtmo_engine::{Error, Result};
use std::path::{Path, PathBuf};

/// Fetch published checkpoints from the authors' server
///
/// Downloads checkpoints that the authors of RTMO published, to where all commands find them. A file is kept only if its
/// SHA-256 is right: of rtmo-s and rtmo-l all of it is known, of the others the 32 bits in the file's name, and from the
/// second download on all bits of the first file. One that is here already, and whole, is not fetched again; one that was
/// cut is continued.
#[derive(Args)]
#[command(after_help = "\
Examples:
  rtmo-engine download                             rtmo-s, which infer then takes by itself
  rtmo-engine download rtmo-t rtmo-l --to weights
  HTTPS_PROXY=http://proxy:8080 rtmo-engine download --all")]
pub struct Download {
    /// Names as 'rtmo-engine models' lists them [default: rtmo-s]
    #[arg(value_name = "MODEL")]
    models: Vec<String>,
    /// All published checkpoints
    #[arg(long, conflicts_with = "models")]
    all: bool,
    /// Folder to keep them in [default: rtmo-engine/ in the user's cache folder]
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
    #[command(flatten)]
    server: Server,
    /// Fetch also what is here already
    #[arg(long)]
    force: bool,
}

impl Download {
    pub fn run(self) -> Ended {
        let models = self.published()?;
        let folder = self.to.clone().or_else(registry::cache_folder).ok_or_else(no_cache_folder)?;
        // On file systems without nameless files a temporary file exists, which Ctrl-C must remove.
        let stop = || {
            remove_unfinished();
            std::process::exit(130);
        };
        ctrlc::set_handler(stop).map_err(|e| Error::Device(format!("cannot catch Ctrl-C: {e}")))?;
        let mut outcome = Outcome::Done;
        for model in models {
            match self.have(model, &folder) {
                Ok(line) => print(format_args!("{}: {line}", model.name))?,
                Err(error) => {
                    complain("error", error);
                    outcome = Outcome::Incomplete;
                }
            }
        }
        Ok(outcome)
    }

    /// Fetches a checkpoint if it is not here; returns the line to print.
    fn have(&self, model: &Published, folder: &Path) -> Result<String> {
        // If the user names a folder, only that folder is searched.
        let there = Some(folder.join(model.file_name())).filter(|path| path.is_file());
        let here = if self.to.is_some() { there } else { model.installed() };
        if let Some(path) = here.filter(|_| !self.force) {
            match standing(model, &path)? {
                Standing::Different(what) => {
                    let first =
                        if path.parent() == Some(folder) { "" } else { "; delete it, it is found first" };
                    complain(
                        "warning",
                        format_args!("{}: not the published file{first}: {what}", shown(&path)),
                    );
                }
                _ => return Ok(format!("here already, {}", shown(&path))),
            }
        }
        let mut terminal = Terminal::new(false, false);
        let adapt = |options: &mut DownloadOptions| options.force = self.force;
        let path = self.server.fetch(model, folder, adapt, &mut terminal)?;
        let bits = match model.content {
            Some(_) => "",
            None => " (of its SHA-256 only 32 bits are published; this file's is noted beside it)",
        };
        Ok(format!("{}{bits}", shown(&path)))
    }

    /// The checkpoints asked for, each once.
    fn published(&self) -> Result<Vec<&'static Published>> {
        if self.all {
            return Ok(PUBLISHED.iter().collect());
        }
        let default = [DEFAULT_MODEL.to_string()];
        let names = if self.models.is_empty() { &default[..] } else { &self.models };
        let mut models = vec![];
        for name in names {
            let model = registry::find(name).ok_or_else(|| Error::Usage(registry::not_published(name)))?;
            if !models.contains(&model) {
                models.push(model);
            }
        }
        Ok(models)
    }
}
