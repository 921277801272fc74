//! The programs `ffmpeg` and `ffplay`: finding them, starting them, and never leaving one behind.

use super::log::{self, Line};
use rtmo_engine::{Error, Result, printable};
use std::ffi::OsString;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Names the ffmpeg program, instead of the one on PATH.
const VARIABLE: &str = "RTMO_FFMPEG";

/// How to get the program.
const INSTALL: &str = "'apt install ffmpeg', 'brew install ffmpeg' or 'winget install ffmpeg' installs it";

/// What is known of the ffmpeg program.
pub struct Ffmpeg {
    path: PathBuf,
    /// Whether it knows `-fps_mode`, as version 5.1 and later do; before, the option was `-vsync`.
    fps_mode: bool,
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
        Ok(Ffmpeg { path, fps_mode: knows_fps_mode(&out) })
    }

    /// Begins a command line.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        // Every line says how serious it is, and none is about progress.
        command.args(["-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+info"]);
        command
    }

    /// The option by which frames keep their times, and none is made or dropped.
    pub fn passthrough(&self) -> [&'static str; 2] {
        if self.fps_mode { ["-fps_mode", "passthrough"] } else { ["-vsync", "passthrough"] }
    }

    /// The best encoder of a small choice that this ffmpeg has, with its options.
    ///
    /// # Errors
    /// If the list of encoders cannot be read, or has none of them.
    pub fn encoder(&self) -> Result<&'static [&'static str]> {
        static ENCODER: OnceLock<Option<&'static [&'static str]>> = OnceLock::new();
        const CHOICE: [&[&str]; 4] = [
            &["libx264", "-preset", "veryfast", "-crf", "20"],
            &["libopenh264", "-b:v", "6M"],
            &["h264_videotoolbox", "-q:v", "65"],
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

/// Whether the first line tells of version 5.1 or later; builds from source have no number, and are new.
fn knows_fps_mode(version: &str) -> bool {
    let number = version.split_whitespace().nth(2).unwrap_or("");
    let mut parts = number.trim_start_matches('n').split(['.', '-']).map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (5, 1),
        (Some(Ok(major)), _) => major > 5,
        _ => true,
    }
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

/// A program that runs, and is ended at the latest when this value is dropped.
pub struct Running {
    child: Child,
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
        Ok(Running { child, stdin, stdout, log: None })
    }

    /// Has a thread read what it says, line by line.
    pub fn read_log(&mut self, heard: impl FnMut(Line<'_>) + Send + 'static) {
        if let Some(stderr) = self.child.stderr.take() {
            self.log = Some(thread::spawn(move || log::read(BufReader::new(stderr), heard)));
        }
    }

    /// Waits for its end; `None` if it does not end in time, or the system refuses.
    pub fn wait(&mut self, most: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().ok()? {
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
        self.child.kill().ok();
        self.child.wait().ok();
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
    fn versions_tell_which_option_is_known() {
        for (version, knows) in [
            ("ffmpeg version 5.1.9-0+deb12u1 Copyright", true),
            ("ffmpeg version 4.4.2-0ubuntu0.22.04.1 Copyright", false),
            ("ffmpeg version 5.0.1 Copyright", false),
            ("ffmpeg version n7.1 Copyright", true),
            ("ffmpeg version 6 Copyright", true),
            ("ffmpeg version N-113007-g8d24a28d06 Copyright", true),
            ("ffmpeg version 2024-01-01-git Copyright", true),
            ("", true),
        ] {
            assert_eq!(knows_fps_mode(version), knows, "{version}");
        }
    }
}
