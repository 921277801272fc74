//! From a name, a path or bytes to a checkpoint.

use crate::status::Outcome;
#[cfg(not(feature = "download"))]
use rtmo_engine::weights::registry;
use rtmo_engine::weights::{Checkpoint, DEMO};
use std::ffi::{c_char, c_void};
use std::path::Path;

/// Is told, by the thread that calls, what a user should know: `text` in English and UTF-8, without a line end, which holds
/// until it returns. `user` is what was given beside it. It must not throw or jump, nor call the library.
#[allow(non_camel_case_types)]
pub type rtmo_log = Option<unsafe extern "C" fn(text: *const c_char, user: *mut c_void)>;

/// A callback and what it is called with.
#[derive(Clone, Copy)]
pub struct Log {
    pub call: rtmo_log,
    pub user: *mut c_void,
}

impl Log {
    /// Tells something.
    pub fn tell(&self, text: &str) {
        let Some(call) = self.call else { return };
        let text = crate::status::c_text(&crate::words::in_c(text));
        // SAFETY: the caller gave a function of this type and promises that it may be called with `user`; `text` ends with a
        // NUL and outlives the call.
        unsafe { call(text.as_ptr(), self.user) };
    }
}

/// Whether a text is a path and no model's name: names have no slashes and no suffix of a file.
pub fn is_path(model: &str) -> bool {
    let suffix = [".pth", ".safetensors", ".onnx", ".zip"].iter().any(|suffix| model.ends_with(suffix));
    suffix || model.starts_with('.') || model.contains(['/', std::path::MAIN_SEPARATOR])
}

/// How weights are found and fetched.
pub struct Source<'a> {
    /// A name, a path, or `None` for any model that is here.
    pub model: Option<&'a str>,
    #[cfg_attr(not(feature = "download"), expect(dead_code, reason = "nothing is fetched"))]
    pub offline: bool,
    #[cfg_attr(not(feature = "download"), expect(dead_code, reason = "nothing is fetched"))]
    pub mirror: Option<&'a str>,
    #[cfg_attr(not(feature = "download"), expect(dead_code, reason = "nothing is fetched"))]
    pub allow_http: bool,
    pub log: Log,
}

impl Source<'_> {
    /// Whether the demonstration model was asked for.
    pub fn names_demo(&self) -> bool {
        self.model.is_some_and(|model| model == DEMO || is_path(model))
    }

    fn path(&self) -> Option<&Path> {
        self.model.filter(|model| is_path(model)).map(Path::new)
    }

    /// Finds, or fetches, and opens the weights.
    #[cfg(feature = "download")]
    pub fn checkpoint(&self) -> Outcome<Checkpoint> {
        use rtmo_engine::weights::{DownloadOptions, Wanted};
        if let Some(path) = self.path() {
            return Ok(self.warned(Checkpoint::open(path)?));
        }
        let mirror = self.mirror.map(str::to_string).or_else(|| variable("RTMO_MIRROR"));
        let allow_http = self.allow_http || is_true("RTMO_ALLOW_HTTP");
        let download = DownloadOptions { mirror, allow_http, ..DownloadOptions::default() };
        let offline = self.offline || is_true("RTMO_OFFLINE");
        let wanted = Wanted { model: self.model, weights: None, offline, download };
        Ok(wanted.checkpoint(&mut Teller(self.log))?)
    }

    /// Finds and opens the weights.
    #[cfg(not(feature = "download"))]
    pub fn checkpoint(&self) -> Outcome<Checkpoint> {
        if let Some(path) = self.path() {
            return Ok(self.warned(Checkpoint::open(path)?));
        }
        let search = registry::Search::from_environment();
        let found = search.look(self.model, None)?;
        match (found, self.model) {
            (Some(path), _) => Ok(self.warned(Checkpoint::open(path)?)),
            (None, None | Some(DEMO)) => Ok(rtmo_engine::weights::demo()?),
            (None, model) => Ok(Checkpoint::open(search.resolve(model, None)?)?),
        }
    }

    fn warned(&self, checkpoint: Checkpoint) -> Checkpoint {
        for warning in checkpoint.warnings() {
            self.log.tell(&format!("{}: {warning}", rtmo_engine::shown(checkpoint.path())));
        }
        checkpoint
    }
}

/// A variable of the environment that is neither missing nor empty.
#[cfg(feature = "download")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether a variable of the environment is set to something that does not mean no; the program reads it so, too.
#[cfg(feature = "download")]
pub fn is_true(name: &str) -> bool {
    let value = variable(name).unwrap_or_default().to_ascii_lowercase();
    !["", "0", "f", "false", "n", "no", "off"].contains(&&value[..])
}

/// Passes on what happens while weights are looked for and fetched.
#[cfg(feature = "download")]
struct Teller(Log);

#[cfg(feature = "download")]
impl rtmo_engine::weights::Notices for Teller {
    fn current_folder(&self, weights: &Path) -> rtmo_engine::Result<()> {
        self.0.tell(&format!("weights of the current folder: {}", rtmo_engine::shown(weights)));
        Ok(())
    }

    fn fetching(
        &self,
        model: &rtmo_engine::weights::registry::Published,
        address: &str,
        folder: &Path,
    ) -> rtmo_engine::Result<()> {
        let size =
            model.content.map_or(String::new(), |(_, bytes)| format!(" ({:.1} MB)", bytes as f64 / 1e6));
        let (name, folder) = (model.name, rtmo_engine::shown(folder));
        self.0.tell(&format!("fetching {name}{size} from {address} into {folder}; 'offline' forbids that"));
        Ok(())
    }

    fn progress(
        &mut self,
        model: &rtmo_engine::weights::registry::Published,
        progress: rtmo_engine::weights::Progress,
    ) {
        if matches!(progress, rtmo_engine::weights::Progress::Waiting) {
            self.0.tell(&format!("another process fetches {}: waiting for it", model.name));
        }
    }

    fn ended(&mut self) {}

    fn warn(&self, what: &str) {
        self.0.tell(what);
    }
}
