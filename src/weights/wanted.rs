//! From what is asked for to a checkpoint: a file that is here, one from the server, or the demonstration model.

use super::registry::{self, DEFAULT_MODEL, Published, Search};
use super::{Architecture, Checkpoint, DEMO, DownloadOptions, Progress, address, demo, download};
use crate::error::{Error, Result, shown};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long to try to connect to a server that the user did not ask for.
const UNASKED: Duration = Duration::from_secs(5);

/// Which weights are asked for, and whether they may be fetched.
#[derive(Clone, Debug, Default)]
pub struct Wanted<'a> {
    /// A model's name; `None`: any.
    pub model: Option<&'a str>,
    /// A weights file, or a folder that holds the model's.
    pub weights: Option<&'a Path>,
    /// Forbids to fetch.
    pub offline: bool,
    /// Where from and how to fetch.
    pub download: DownloadOptions,
}

/// Who is told what happens while weights are looked for and fetched.
pub trait Notices {
    /// Weights of the current folder are taken, which may be someone else's.
    ///
    /// # Errors
    /// If it cannot be told.
    fn current_folder(&self, weights: &Path) -> Result<()>;

    /// A checkpoint is about to be fetched.
    ///
    /// # Errors
    /// If it cannot be told.
    fn fetching(&self, model: &Published, address: &str, folder: &Path) -> Result<()>;

    /// How far that is.
    fn progress(&mut self, model: &Published, progress: Progress);

    /// It has ended, well or not.
    fn ended(&mut self);

    /// Something is not as it should be.
    fn warn(&self, what: &str);
}

impl Wanted<'_> {
    /// The weights asked for, fetched if they are not here. If none were asked for: the first published ones that are
    /// here, else the default model's from the server, else the demonstration model's.
    ///
    /// # Errors
    /// If what was asked for is not here and cannot be fetched, cannot be read, or is another model; if none was asked for,
    /// and the program has no demonstration model either.
    pub fn checkpoint(&self, notices: &mut dyn Notices) -> Result<Checkpoint> {
        let search = Search::from_environment();
        let (model, weights) = (self.model, self.weights);
        if let Some(path) = search.look(model, weights)? {
            return self.open(&path, &search, notices);
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
            return self.open(&path, &search, notices);
        };
        let why = if self.offline {
            if model.is_some() {
                return self.open(&search.resolve(model, weights)?, &search, notices);
            }
            "--offline or RTMO_OFFLINE forbids to fetch it".into()
        } else {
            match self.fetch(published, notices) {
                Ok(path) => return self.open(&path, &search, notices),
                Err(error) if model.is_some() => return Err(error),
                Err(error) => {
                    notices.warn(&format!("{} is not fetched: {error}", published.name));
                    "it could not be fetched".into()
                }
            }
        };
        match search.look(Some(DEMO), None)? {
            Some(path) => self.open(&path, &search, notices),
            None => demo().map_err(|_| no_model(published, why)),
        }
    }

    /// Opens a file that the search found, and checks that it holds the model of its name. A file of the current folder is
    /// named before it is opened, since the folder may be someone else's.
    ///
    /// # Errors
    /// If it cannot be read, or is another model.
    pub fn open(&self, path: &Path, search: &Search, notices: &dyn Notices) -> Result<Checkpoint> {
        if self.weights.is_none() && path.is_relative() && search.variable.as_deref() != Some(path) {
            notices.current_folder(&std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()))?;
        }
        let by_variable = self.weights.is_none() && search.variable.as_deref() == Some(path);
        let checkpoint = Checkpoint::open(path).map_err(|error| match error {
            Error::Weights { path, what } if by_variable => {
                Error::Weights { path, what: format!("{what} (RTMO_WEIGHTS names it)") }
            }
            Error::Io { path, source, .. } if by_variable => {
                Error::Io { path, action: "cannot open the weights that RTMO_WEIGHTS names", source }
            }
            error => error,
        })?;
        let by_path = by_variable || self.weights == Some(path);
        match self.model {
            Some(name) => agree(&checkpoint, &format!("model {name}"), registry::find(name))?,
            None if by_path => {}
            None => agree(&checkpoint, "its name", registry::find_by_file(path))?,
        }
        for warning in checkpoint.warnings() {
            notices.warn(&format!("{}: {warning}", shown(&path)));
        }
        Ok(checkpoint)
    }

    /// Fetches into the user's cache folder, and says so.
    fn fetch(&self, model: &Published, notices: &mut dyn Notices) -> Result<PathBuf> {
        let folder = registry::cache_folder().ok_or_else(no_cache_folder)?;
        let mut options = self.download.clone();
        notices.fetching(model, &address(model, &options), &folder)?;
        if self.model.is_none() {
            options.connect = UNASKED;
        }
        let path = download(model, &folder, &options, &mut |progress| notices.progress(model, progress));
        notices.ended();
        path
    }
}

/// That a file holds the model that `claim` promises.
fn agree(checkpoint: &Checkpoint, claim: &str, promised: Option<&Published>) -> Result<()> {
    let architecture = Architecture::of(checkpoint);
    // A file that is no RTMO gets a more detailed error when its network is built.
    let (Some(promised), Some(_), Some(keypoints)) = (promised, architecture.width, architecture.keypoints)
    else {
        return Ok(());
    };
    let (expected, got) = (promised.variant().name(), architecture.to_string());
    if expected == got && promised.keypoints == keypoints {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "{}: by {claim} expected {expected} of {} keypoints, got {got} of {keypoints}",
        shown(checkpoint.path()),
        promised.keypoints
    )))
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
