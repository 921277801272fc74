//! Weights that are not on this machine: from a server, or the demonstration model of the program.

use super::options::Network;
use super::terminal::Terminal;
use clap::Args;
use clap::builder::FalseyValueParser;
use rtmo_engine::Result;
use rtmo_engine::shown;
use rtmo_engine::weights::registry::Published;
use rtmo_engine::weights::{Checkpoint, DownloadOptions, Notices, Progress, Wanted, download};
use std::path::{Path, PathBuf};

/// Which server checkpoints come from.
#[derive(Args, Clone)]
pub struct Server {
    /// Address of a folder on another server that has the files under their official names
    #[arg(long, value_name = "URL", env = "RTMO_MIRROR", hide_env_values = true, help_heading = "Fetching")]
    mirror: Option<String>,
    /// Permit a server without encryption (http://): others on the way see what is fetched, and can change it
    #[arg(long, env = "RTMO_ALLOW_HTTP", value_parser = FalseyValueParser::new(), hide_env_values = true, help_heading = "Fetching")]
    allow_http: bool,
}

impl Server {
    fn options(&self) -> DownloadOptions {
        let mirror = self.mirror.clone().filter(|mirror| !mirror.is_empty());
        DownloadOptions { mirror, allow_http: self.allow_http, ..Default::default() }
    }

    /// Fetches a checkpoint into a folder, with a bar that shows how far it is.
    ///
    /// # Errors
    /// As [`download`].
    pub fn fetch(
        &self,
        model: &Published,
        folder: &Path,
        adapt: impl FnOnce(&mut DownloadOptions),
        terminal: &mut Terminal,
    ) -> Result<PathBuf> {
        let mut options = self.options();
        adapt(&mut options);
        let path = download(model, folder, &options, &mut |progress| {
            Notices::progress(terminal, model, progress);
        });
        terminal.finish();
        path
    }
}

/// What to do about weights that are not here.
#[derive(Args, Clone)]
pub struct Fetch {
    /// Fetch no weights from a server
    #[arg(long, env = "RTMO_OFFLINE", value_parser = FalseyValueParser::new(), hide_env_values = true, help_heading = "Fetching")]
    offline: bool,
    #[command(flatten)]
    server: Server,
}

impl Fetch {
    /// The weights asked for, as [`Wanted::checkpoint`] finds or fetches them.
    ///
    /// # Errors
    /// As there.
    pub fn checkpoint(&self, network: &Network, terminal: &mut Terminal) -> Result<Checkpoint> {
        let wanted = Wanted { offline: self.offline, download: self.server.options(), ..network.wanted() };
        wanted.checkpoint(terminal)
    }
}

impl Notices for Terminal {
    fn current_folder(&self, weights: &Path) -> Result<()> {
        self.say(format_args!("weights of the current folder: {}", shown(weights)))
    }

    fn fetching(&self, model: &Published, address: &str, folder: &Path) -> Result<()> {
        let size =
            model.content.map_or(String::new(), |(_, bytes)| format!(" ({:.1} MB)", bytes as f64 / 1e6));
        let folder = shown(folder);
        self.say(format!(
            "fetching {}{size} from {address} into {folder}; --offline forbids that",
            model.name
        ))
    }

    fn progress(&mut self, model: &Published, progress: Progress) {
        match progress {
            Progress::Bytes(come, of) => self.bytes(model.name, come, of),
            Progress::Waiting => {
                self.complain("note", format!("another process fetches {}: waiting for it", model.name));
            }
        }
    }

    fn ended(&mut self) {
        self.finish();
    }

    fn warn(&self, what: &str) {
        self.complain("warning", what);
    }
}
