//! Weights that are not on this machine: from a server, or the demonstration model of the program.

use super::options::{DEMO, Network};
use super::terminal::Terminal;
use clap::Args;
use clap::builder::FalseyValueParser;
use rtmo_engine::shown;
use rtmo_engine::weights::registry::{self, DEFAULT_MODEL, Published, Search};
use rtmo_engine::weights::{Checkpoint, DownloadOptions, Progress, address, download};
use rtmo_engine::{Error, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long to try to connect to a server that the user did not ask for.
const UNASKED: Duration = Duration::from_secs(5);

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
        let mut progress = |progress| match progress {
            Progress::Bytes(come, of) => terminal.bytes(model.name, come, of),
            Progress::Waiting => {
                terminal.complain("note", format!("another process fetches {}: waiting for it", model.name));
            }
        };
        let path = download(model, folder, &options, &mut progress);
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
    /// The weights asked for, fetched if they are not here. If none were asked for: the first published ones that are
    /// here, else the default model's from the server, else the demonstration model's.
    ///
    /// # Errors
    /// If what was asked for is not here and cannot be fetched, cannot be read, or is another model; if none was asked for,
    /// and the program has no demonstration model either.
    pub fn checkpoint(&self, network: &Network, terminal: &mut Terminal) -> Result<Checkpoint> {
        let search = Search::from_environment();
        let (model, weights) = (network.model.as_deref(), network.weights.as_deref());
        if let Some(path) = search.look(model, weights)? {
            return network.open(&path, &search, terminal);
        }
        let published = match model {
            Some(DEMO) if weights.is_none() => return demo(),
            Some(name) => registry::find(name),
            None => registry::find(DEFAULT_MODEL),
        };
        // Downloads go to the cache, not to a folder that the user named. Only published names are on the server.
        let Some(published) = published.filter(|_| weights.is_none()) else {
            let demo = if model.is_none() { search.look(Some(DEMO), weights)? } else { None };
            let path = demo.map_or_else(|| search.resolve(model, weights), Ok)?;
            return network.open(&path, &search, terminal);
        };
        let why = if self.offline {
            if model.is_some() {
                return network.open(&search.resolve(model, weights)?, &search, terminal);
            }
            "--offline or RTMO_OFFLINE forbids to fetch it".into()
        } else {
            match self.fetch(published, model.is_some(), terminal) {
                Ok(path) => return network.open(&path, &search, terminal),
                Err(error) if model.is_some() => return Err(error),
                Err(error) => {
                    terminal.complain("warning", format!("{} is not fetched: {error}", published.name));
                    "it could not be fetched".into()
                }
            }
        };
        match search.look(Some(DEMO), None)? {
            Some(path) => network.open(&path, &search, terminal),
            None => demo().map_err(|_| no_model(published, why)),
        }
    }

    /// Fetches into the user's cache folder, and says so.
    fn fetch(&self, model: &Published, asked: bool, terminal: &mut Terminal) -> Result<PathBuf> {
        let folder = registry::cache_folder().ok_or_else(no_cache_folder)?;
        let options = self.server.options();
        let size =
            model.content.map_or(String::new(), |(_, bytes)| format!(" ({:.1} MB)", bytes as f64 / 1e6));
        terminal.say(format!(
            "fetching {}{size} from {} into {}; --offline forbids that",
            model.name,
            address(model, &options),
            shown(&folder)
        ))?;
        let adapt = |options: &mut DownloadOptions| {
            if !asked {
                options.connect = UNASKED;
            }
        };
        self.server.fetch(model, &folder, adapt, terminal)
    }
}

/// That there is no place for what is fetched.
pub fn no_cache_folder() -> Error {
    Error::Usage("the environment names no cache folder (HOME is not set): give a folder with --to".into())
}

/// That there is no model at all.
fn no_model(published: &Published, why: String) -> Error {
    let what = format!(
        "no model is here, and {why}. 'rtmo-engine download' fetches {}; or give a file with --weights",
        published.name
    );
    Error::Download { address: published.url.into(), what }
}

/// The demonstration model, which is part of the program where it was built from the repository.
fn demo() -> Result<Checkpoint> {
    #[cfg(demo_model)]
    let file: Option<&[u8]> =
        Some(include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/weights/rtmo-n-demo.safetensors")));
    #[cfg(not(demo_model))]
    let file: Option<&[u8]> = None;
    match file {
        Some(file) => Checkpoint::from_bytes("rtmo-n-demo in the program", file),
        None => Err(Error::Usage(format!("{DEMO}: this program was built without the demonstration model"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_any_model_the_error_says_how_to_get_one() {
        let published = registry::find(DEFAULT_MODEL).unwrap();
        let error = no_model(published, "it could not be fetched".into());
        // Status 1.
        assert!(!matches!(error, Error::Usage(_)));
        let error = error.to_string();
        assert!(
            error.contains("'rtmo-engine download' fetches rtmo-s") && error.contains("--weights"),
            "{error}"
        );
    }
}
