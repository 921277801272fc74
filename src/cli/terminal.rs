//! Lines for people.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rtmo_engine::printable_lines;
use rtmo_engine::{Error, Result};
use std::fmt::Display;
use std::io::Write;

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
}

impl Terminal {
    /// A terminal without a progress bar.
    pub fn new(data_on_stdout: bool, quiet: bool) -> Terminal {
        Terminal { data_on_stdout, quiet, bar: ProgressBar::hidden() }
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
        self.bar.suspend(|| match self.data_on_stdout {
            true => {
                writeln!(std::io::stderr(), "{}", printable_lines(line)).ok();
                Ok(())
            }
            false => print(line),
        })
    }

    /// A line of data, for standard output.
    pub fn data(&self, line: impl Display) -> Result<()> {
        self.bar.suspend(|| print_data(line))
    }

    /// Something worth knowing, for standard error; a quiet command leaves it out.
    pub fn note(&self, message: impl Display) {
        if !self.quiet {
            self.complain("note", message);
        }
    }

    /// A warning or an error, for standard error.
    pub fn complain(&self, label: &str, message: impl Display) {
        self.bar.suspend(|| complain(label, message));
    }
}
