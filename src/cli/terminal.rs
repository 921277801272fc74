//! Lines for people.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rtmo_engine::printable_lines;
use rtmo_engine::{Error, Result};
use std::fmt::Display;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Writes `label: message` to standard error.
pub fn complain(label: &str, message: impl Display) {
    // If that fails, there is no other place to say so.
    writeln!(std::io::stderr(), "{label}: {}", printable_lines(message)).ok();
}

/// Writes a line for people to standard output, at once.
///
/// # Errors
/// A full disk, or a reader that has left.
pub fn print(line: impl Display) -> Result<()> {
    print_data(printable_lines(line))
}

fn print_data(line: impl Display) -> Result<()> {
    check_stdout()?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(Error::io("cannot write", "standard output"))
}

/// Checks that standard output is open.
///
/// # Errors
/// If the program was started with it closed (`>&-`): what is written would be lost without an error, since Rust's runtime
/// opens `/dev/null` in its place.
pub fn check_stdout() -> Result<()> {
    #[cfg(target_os = "linux")]
    if start::STDOUT_CLOSED.load(std::sync::atomic::Ordering::Relaxed) {
        let closed = std::io::Error::from_raw_os_error(libc::EBADF);
        return Err(Error::io("cannot write", "standard output")(closed));
    }
    Ok(())
}

/// Looks at standard output before Rust's runtime begins, which opens `/dev/null` in place of a closed one.
#[cfg(target_os = "linux")]
mod start {
    use std::sync::atomic::{AtomicBool, Ordering};

    pub static STDOUT_CLOSED: AtomicBool = AtomicBool::new(false);

    extern "C" fn look() {
        // SAFETY: F_GETFD reads a flag of the descriptor and touches no memory; a closed descriptor gives -1.
        let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
        STDOUT_CLOSED.store(flags == -1, Ordering::Relaxed);
    }

    // SAFETY: this section holds pointers to functions of the C calling convention, which the loader calls once before
    // `main`; `look` reads none of the arguments that it passes, and needs nothing of Rust's runtime.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static LOOK: extern "C" fn() = look;
}

/// Where a command's lines go: standard output, or standard error if data goes to standard output.
pub struct Terminal {
    data_on_stdout: bool,
    quiet: bool,
    bar: ProgressBar,
    clip: Mutex<Option<ClipBar>>,
}

/// How far a clip is.
struct ClipBar {
    bar: ProgressBar,
    begin: f64,
    /// The last part of its clock.
    end: String,
}

fn millis(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1e3) as u64
}

/// Seconds as `1:02.5`, or `1:00:02` where hours count.
pub fn clock_time(seconds: f64) -> String {
    let tenths = (seconds.max(0.0) * 10.0).round() as u64;
    let (whole, tenth) = (tenths / 10, tenths % 10);
    match whole / 3600 {
        0 => format!("{}:{:02}.{tenth}", whole / 60, whole % 60),
        hours => format!("{hours}:{:02}:{:02}", whole / 60 % 60, whole % 60),
    }
}

impl Terminal {
    /// A terminal without a progress bar.
    pub fn new(data_on_stdout: bool, quiet: bool) -> Terminal {
        Terminal { data_on_stdout, quiet, bar: ProgressBar::hidden(), clip: Mutex::new(None) }
    }

    /// Shows a bar of `len` things, called `noun`, at the bottom, if standard error is a terminal; without `len` their number.
    pub fn progress(&mut self, len: Option<usize>, noun: &'static str) {
        let style = match len {
            Some(_) => "{bar:30} {pos}/{len}  {per_sec}  {eta} left",
            None => "{spinner} {pos}  {per_sec}",
        };
        let style = ProgressStyle::with_template(style).expect("a valid template").progress_chars("━╸─");
        self.bar =
            ProgressBar::with_draw_target(len.map(|len| len as u64), ProgressDrawTarget::stderr_with_hz(10))
                .with_style(style.with_key(
                    "per_sec",
                    move |state: &indicatif::ProgressState, w: &mut dyn std::fmt::Write| {
                        write!(w, "{:.1} {noun}/s", state.per_sec()).ok();
                    },
                ));
    }

    /// Shows how much of a file has come, at the bottom, if standard error is a terminal.
    pub fn bytes(&mut self, name: &str, come: u64, of: Option<u64>) {
        if self.bar.message() != name {
            let template = match of {
                Some(_) => "{msg}  {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left",
                None => "{msg}  {bytes}  {bytes_per_sec}",
            };
            let style = ProgressStyle::with_template(template).expect("a valid template");
            self.bar = ProgressBar::with_draw_target(of, ProgressDrawTarget::stderr_with_hz(10))
                .with_style(style.progress_chars("━╸─"))
                .with_message(name.to_string());
        }
        self.bar.set_position(come);
    }

    /// Shows how far a clip is, from `begin` to `end` in seconds, in place of what else is shown.
    pub fn clip_begins(&self, begin: f64, end: Option<f64>) {
        let length = end.map(|end| millis(end - begin)).filter(|&length| length > 0);
        let template = match length {
            Some(_) => "{bar:30} {msg}  {eta} left",
            None => "{spinner} {msg}",
        };
        let style = ProgressStyle::with_template(template).expect("a valid template").progress_chars("━╸─");
        let end = end.map(|end| format!("/{}", clock_time(end))).unwrap_or_default();
        let bar =
            ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr_with_hz(10)).with_style(style);
        *self.clip() = Some(ClipBar { bar, begin, end });
    }

    /// A clip's frame at `time` is done.
    pub fn clip_at(&self, time: f64, frames: usize) {
        if let Some(ClipBar { bar, begin, end }) = &*self.clip() {
            bar.set_position(millis(time - begin));
            let rate = frames as f64 / bar.elapsed().as_secs_f64().max(1e-3);
            bar.set_message(format!("{}{end}  {frames} frames  {rate:.1} frames/s", clock_time(time)));
        }
    }

    /// Takes the clip's bar away.
    pub fn clip_ends(&self) {
        if let Some(ClipBar { bar, .. }) = self.clip().take() {
            bar.finish_and_clear();
        }
    }

    fn clip(&self) -> MutexGuard<'_, Option<ClipBar>> {
        self.clip.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `f` while no bar is on the screen.
    fn apart<T>(&self, f: impl FnOnce() -> T) -> T {
        let clip = self.clip().as_ref().map(|clip| clip.bar.clone());
        self.bar.suspend(|| match clip {
            Some(clip) => clip.suspend(f),
            None => f(),
        })
    }

    /// One more thing is done.
    pub fn advance(&self) {
        self.bar.inc(1);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// A line of status.
    pub fn say(&self, line: impl Display) -> Result<()> {
        if self.quiet {
            return Ok(());
        }
        self.apart(|| match self.data_on_stdout {
            true => {
                writeln!(std::io::stderr(), "{}", printable_lines(line)).ok();
                Ok(())
            }
            false => print(line),
        })
    }

    /// A line of data, for standard output.
    pub fn data(&self, line: impl Display) -> Result<()> {
        self.apart(|| print_data(line))
    }

    /// Something worth knowing, for standard error; a quiet command leaves it out.
    pub fn note(&self, message: impl Display) {
        if !self.quiet {
            self.complain("note", message);
        }
    }

    /// A warning or an error, for standard error.
    pub fn complain(&self, label: &str, message: impl Display) {
        self.apart(|| complain(label, message));
    }
}
