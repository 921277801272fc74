//! Finding and fetching weights, in a thread of its own: so Ctrl-C is heeded while a server lets one wait.

use crate::errors::{OrRaise, usage};
use crate::words::in_python;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rtmo_engine::weights::registry::{self, PUBLISHED, Published};
use rtmo_engine::weights::{
    Checkpoint, DEMO, DownloadOptions, Notices, Progress, Standing, Wanted, download as fetch, standing,
};
use rtmo_engine::{Error, Result, shown};
use std::ffi::OsString;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// How often Ctrl-C is looked for.
const TICK: Duration = Duration::from_millis(100);

/// Which weights, and from where: what Python passes on.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Request {
    model: Option<String>,
    weights: Option<PathBuf>,
    offline: bool,
    mirror: Option<String>,
    allow_http: bool,
}

impl Request {
    /// As the program finds or fetches them.
    ///
    /// # Errors
    /// As [`Wanted::checkpoint`].
    pub fn checkpoint(&self, teller: &mut Teller) -> Result<Checkpoint> {
        if let Some(path) = self.weights.as_ref().filter(|path| !path.exists()) {
            let source = std::io::ErrorKind::NotFound.into();
            return Err(Error::Io { path: path.clone(), action: "no such weights file", source });
        }
        let download = DownloadOptions {
            mirror: self.mirror.clone(),
            allow_http: self.allow_http,
            ..DownloadOptions::default()
        };
        let weights = self.weights.as_deref();
        Wanted { model: self.model.as_deref(), weights, offline: self.offline, download }.checkpoint(teller)
    }

    /// Whether the demonstration model was asked for.
    pub fn names_demo(&self) -> bool {
        self.model.as_deref() == Some(DEMO) || self.weights.is_some()
    }
}

/// What the thread has to tell.
enum Event {
    Warning(String),
    Bytes(u64, Option<u64>),
}

/// Tells Python's thread what happens. When that has been interrupted, this one ends at its next word.
pub struct Teller(Sender<Event>);

impl Teller {
    /// Something that the user should know.
    pub fn warning(&self, text: &str) {
        self.tell(Event::Warning(in_python(text)));
    }

    fn tell(&self, event: Event) {
        if self.0.send(event).is_err() {
            resume_unwind(Box::new("interrupted"));
        }
    }
}

impl Notices for Teller {
    fn current_folder(&self, weights: &Path) -> Result<()> {
        self.warning(&format!("weights of the current folder: {}", shown(weights)));
        Ok(())
    }

    fn fetching(&self, model: &Published, address: &str, folder: &Path) -> Result<()> {
        let size =
            model.content.map_or(String::new(), |(_, bytes)| format!(" ({:.1} MB)", bytes as f64 / 1e6));
        let (name, folder) = (model.name, shown(folder));
        self.warning(&format!(
            "fetching {name}{size} from {address} into {folder}; offline=True forbids that"
        ));
        Ok(())
    }

    fn progress(&mut self, model: &Published, progress: Progress) {
        self.tell(match progress {
            Progress::Bytes(come, of) => Event::Bytes(come, of),
            Progress::Waiting => {
                Event::Warning(format!("another process fetches {}: waiting for it", model.name))
            }
        });
    }

    fn ended(&mut self) {}

    fn warn(&self, what: &str) {
        self.warning(what);
    }
}

/// Does work in a thread and waits for it, with Python's lock released; warnings go to the logger `rtmo_engine`.
///
/// # Errors
/// The work's own; what a signal's handler raises, such as `KeyboardInterrupt`.
pub fn interruptible<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce(&mut Teller) -> Result<T> + Send + 'static,
) -> PyResult<T> {
    watched(py, work, None)
}

fn watched<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce(&mut Teller) -> Result<T> + Send + 'static,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<T> {
    let (tell, told) = channel();
    let told = Mutex::new(told);
    let worker = thread::spawn(move || work(&mut Teller(tell)));
    loop {
        let event = py.detach(|| {
            told.lock().map_or(Err(RecvTimeoutError::Disconnected), |told| told.recv_timeout(TICK))
        });
        match event {
            Ok(Event::Warning(text)) => {
                py.import("logging")?
                    .call_method1("getLogger", ("rtmo_engine",))?
                    .call_method1("warning", ("%s", text))?;
            }
            Ok(Event::Bytes(come, of)) => {
                progress.map(|progress| progress.call1((come, of))).transpose()?;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        py.check_signals()?;
    }
    match py.detach(|| worker.join()) {
        Ok(result) => result.or_raise(),
        Err(panic) => resume_unwind(panic),
    }
}

fn published(name: &str) -> PyResult<&'static Published> {
    registry::find(name).ok_or_else(|| usage(registry::not_published(name)))
}

/// Fetches a published checkpoint that is not here, and returns its path.
#[pyfunction]
pub fn download(
    py: Python<'_>,
    name: &str,
    folder: Option<PathBuf>,
    mirror: Option<String>,
    allow_http: bool,
    force: bool,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<OsString> {
    let model = published(name)?;
    let installed = if folder.is_none() { model.installed().filter(|_| !force) } else { None };
    if let Some(path) = installed {
        let whole = py.detach(|| standing(model, &path)).or_raise()?;
        if !matches!(whole, Standing::Different(_)) {
            return Ok(path.into_os_string());
        }
    }
    let Some(folder) = folder.or_else(registry::cache_folder) else {
        return Err(usage("the environment names no cache folder (HOME is not set): give a folder"));
    };
    let options = DownloadOptions { mirror, allow_http, force, ..DownloadOptions::default() };
    let work = move |teller: &mut Teller| {
        fetch(model, &folder, &options, &mut |progress| teller.progress(model, progress))
    };
    watched(py, work, progress).map(PathBuf::into_os_string)
}

/// What is known of each published checkpoint, as arguments of the class `Model`.
#[pyfunction]
pub fn models(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    PUBLISHED
        .iter()
        .map(|model| {
            let about = PyDict::new(py);
            about.set_item("name", model.name)?;
            about.set_item("aliases", model.aliases)?;
            about.set_item("url", model.url)?;
            about.set_item("keypoints", model.keypoints)?;
            about.set_item("input_size", model.input_size)?;
            about.set_item("training_data", model.training_data)?;
            about.set_item("benchmark", model.benchmark)?;
            about.set_item("ap", model.ap)?;
            about.set_item("path", model.installed().map(PathBuf::into_os_string))?;
            Ok(about)
        })
        .collect()
}

/// The published checkpoint's name that a name, an alias or mmpose's config name stands for.
#[pyfunction]
pub fn find(name: &str) -> Option<&'static str> {
    registry::find(name).map(|model| model.name)
}
