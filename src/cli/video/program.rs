//! The programs `ffmpeg` and `ffplay`: finding them, starting them, and never leaving one behind.

use super::log::{self, Line};
use rtmo_engine::{Error, Result, printable};
use std::ffi::OsString;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Names the ffmpeg program, instead of the one on PATH.
const VARIABLE: &str = "RTMO_FFMPEG";

/// How to get the program.
const INSTALL: &str = "'apt install ffmpeg', 'brew install ffmpeg' or 'winget install ffmpeg' installs it";

/// What is known of the ffmpeg program.
pub struct Ffmpeg {
    path: PathBuf,
    /// Major and minor; `None` of builds from source, which have no number and are new.
    version: Option<(u32, u32)>,
}

impl Ffmpeg {
    /// The ffmpeg program, which is asked for its version once.
    ///
    /// # Errors
    /// If there is none: the error says how to get it.
    pub fn find() -> Result<&'static Ffmpeg> {
        static FOUND: OnceLock<std::result::Result<Ffmpeg, String>> = OnceLock::new();
        FOUND.get_or_init(Ffmpeg::look).as_ref().map_err(|what| Error::Device(what.clone()))
    }

    fn look() -> std::result::Result<Ffmpeg, String> {
        let named = std::env::var_os(VARIABLE).filter(|name| !name.is_empty());
        let path = PathBuf::from(named.clone().unwrap_or_else(|| "ffmpeg".into()));
        let out = output(&path, &["-hide_banner", "-version"]).map_err(|error| match named {
            Some(_) => {
                format!("videos need the program ffmpeg: {VARIABLE}={}: {error}", printable(path.display()))
            }
            None => format!("videos need the program ffmpeg, and it cannot be started: {error}; {INSTALL}"),
        })?;
        Ok(Ffmpeg { path, version: version(&out) })
    }

    /// Begins a command line.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        // Every line says how serious it is, and none is about progress.
        command.args(["-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+info"]);
        command
    }

    fn is_at_least(&self, version: (u32, u32)) -> bool {
        self.version.is_none_or(|found| found >= version)
    }

    /// The option by which frames keep their times, and none is made or dropped.
    pub fn passthrough(&self) -> [&'static str; 2] {
        [if self.is_at_least((5, 1)) { "-fps_mode" } else { "-vsync" }, "passthrough"]
    }

    /// The option by which frames keep their sizes where these change; `None` where this ffmpeg always scales to the first.
    pub fn keep_sizes(&self) -> Option<[&'static str; 2]> {
        self.is_at_least((4, 4)).then_some(["-autoscale", "0"])
    }

    /// Whether it says of each frame what its colours mean, without which NV12 cannot be read.
    pub fn tells_colours(&self) -> bool {
        self.is_at_least((4, 4))
    }

    /// The option by which a clip's last frame is shown for so many units of time: raw frames have no end of their own.
    pub fn lasting(&self, units: u64) -> Option<[String; 2]> {
        self.is_at_least((4, 4)).then(|| ["-bsf:v".into(), format!("setts=pts=PTS:dts=DTS:duration={units}")])
    }

    /// The best encoder of a small choice that this ffmpeg has, with its options.
    ///
    /// # Errors
    /// If the list of encoders cannot be read, or has none of them.
    pub fn encoder(&self) -> Result<&'static [&'static str]> {
        static ENCODER: OnceLock<Option<&'static [&'static str]>> = OnceLock::new();
        // Without B-frames a frame's place in the file is its time's, also where the rate varies.
        const CHOICE: [&[&str]; 4] = [
            &["libx264", "-preset", "veryfast", "-crf", "20", "-bf", "0"],
            &["libopenh264", "-b:v", "6M"],
            &["h264_videotoolbox", "-q:v", "65", "-bf", "0"],
            &["mpeg4", "-q:v", "3"],
        ];
        let found = ENCODER.get_or_init(|| {
            let text = output(&self.path, &["-hide_banner", "-encoders"]).unwrap_or_default();
            let has = |name: &str| text.lines().any(|line| line.split_whitespace().nth(1) == Some(name));
            CHOICE.into_iter().find(|options| has(options[0]))
        });
        found.ok_or_else(|| {
            let names: Vec<&str> = CHOICE.iter().map(|options| options[0]).collect();
            Error::Device(format!(
                "this ffmpeg can encode no video that is written here ({}); --no-draw needs none",
                names.join(", ")
            ))
        })
    }

    /// The program ffplay, which comes with ffmpeg: beside it, or on PATH.
    pub fn ffplay(&self) -> Command {
        let mut name = OsString::from("ffplay");
        name.push(std::env::consts::EXE_SUFFIX);
        let beside = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let beside = beside.map(|folder| folder.join(&name)).filter(|path| path.is_file());
        Command::new(beside.map_or(name, PathBuf::into_os_string))
    }
}

/// The version that the first line tells of.
fn version(text: &str) -> Option<(u32, u32)> {
    let number = text.split_whitespace().nth(2)?.trim_start_matches('n');
    let mut parts = number.split(['.', '-']);
    let major = parts.next()?.parse().ok()?;
    // Some builds are named by their date.
    (major < 1000).then(|| (major, parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
}

/// What a program prints when it is asked for something that takes it no time.
fn output(program: &Path, arguments: &[&str]) -> std::result::Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped());
    let mut child = Running::start(command).map_err(|error| error.to_string())?;
    let out = child.stdout.take();
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(out) = out {
            // No answer is longer than some 20 kB.
            std::io::Read::read_to_end(&mut std::io::Read::take(out, 1 << 20), &mut text).ok();
        }
        String::from_utf8_lossy(&text).into_owned()
    });
    let status = child.wait(Duration::from_secs(10)).ok_or("it does not answer within 10 s")?;
    let text = reader.join().unwrap_or_default();
    if status.success() { Ok(text) } else { Err(format!("it ended with {status}")) }
}

/// Programs that run now.
static CHILDREN: Mutex<Vec<Weak<Mutex<Child>>>> = Mutex::new(Vec::new());

/// Ends every program that runs: for the moment before this one exits on a signal.
pub fn end_all() {
    for child in CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        if let Some(child) = child.upgrade() {
            lock(&child).kill().ok();
        }
    }
}

fn lock(child: &Mutex<Child>) -> MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A program that runs, and is ended at the latest when this value is dropped.
pub struct Running {
    child: Arc<Mutex<Child>>,
    pub stdin: Option<ChildStdin>,
    pub stdout: Option<ChildStdout>,
    log: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts it. It does not hear of a Ctrl-C, which is for the engine: files that are being written shall be closed.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(mut command: Command) -> std::io::Result<Running> {
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let child = Arc::new(Mutex::new(child));
        let mut children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
        children.retain(|child| child.strong_count() > 0);
        children.push(Arc::downgrade(&child));
        Ok(Running { child, stdin, stdout, log: None })
    }

    /// Has a thread read what it says, line by line.
    pub fn read_log(&mut self, heard: impl FnMut(Line<'_>) + Send + 'static) {
        let stderr = lock(&self.child).stderr.take();
        if let Some(stderr) = stderr {
            self.log = Some(thread::spawn(move || log::read(BufReader::new(stderr), heard)));
        }
    }

    /// Waits for its end; `None` if it does not end in time, or the system refuses.
    pub fn wait(&mut self, most: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        loop {
            // The lock is held for a moment only.
            if let Some(status) = lock(&self.child).try_wait().ok()? {
                return Some(status);
            }
            if start.elapsed() > most {
                return None;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until all that it said has been read; it must have ended.
    pub fn join_log(&mut self) {
        if let Some(log) = self.log.take() {
            log.join().ok();
        }
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        // Neither can fail but where it has ended.
        let mut child = lock(&self.child);
        child.kill().ok();
        child.wait().ok();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stdin = None;
        self.kill();
    }
}

/// A path as an argument that no program takes for an option, a pattern or an address.
pub fn file_argument(path: &Path) -> OsString {
    let mut argument = OsString::from("file:");
    argument.push(path);
    argument
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, expected) in [
            ("ffmpeg version 5.1.9-0+deb12u1 Copyright", Some((5, 1))),
            ("ffmpeg version 4.4.2-0ubuntu0.22.04.1 Copyright", Some((4, 4))),
            ("ffmpeg version n7.1 Copyright", Some((7, 1))),
            ("ffmpeg version 6 Copyright", Some((6, 0))),
            ("ffmpeg version N-113007-g8d24a28d06 Copyright", None),
            ("ffmpeg version 2024-01-01-git Copyright", None),
            ("", None),
        ] {
            assert_eq!(version(text), expected, "{text}");
        }
    }
}
