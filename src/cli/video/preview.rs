//! A window that shows frames while they are made.

use super::matroska;
use super::program::{Ffmpeg, Running};
use rtmo_engine::{Error, Photo, Result};
use std::io::BufWriter;
use std::process::{ChildStdin, Stdio};

/// The program ffplay, to which frames go.
pub struct Preview {
    to: BufWriter<ChildStdin>,
    size: (usize, usize),
    last: f64,
    _running: Running,
}

impl Preview {
    /// Opens a window for frames of `size`.
    ///
    /// # Errors
    /// If ffplay cannot be started.
    pub fn open(size: (usize, usize), title: &str) -> Result<Preview> {
        let mut command = Ffmpeg::find()?.ffplay();
        command.args([
            "-hide_banner",
            "-loglevel",
            "quiet",
            "-autoexit",
            "-fflags",
            "nobuffer",
            "-framedrop",
        ]);
        command.args(["-window_title", title, "-f", "matroska", "-i", "pipe:0"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let started = Running::start(command);
        let mut running = started.map_err(|error| {
            Error::Device(format!("--show needs the program ffplay, which comes with ffmpeg: {error}"))
        })?;
        let to = running.stdin.take().ok_or_else(|| Error::Device("ffplay has no standard input".into()))?;
        let mut to = BufWriter::with_capacity(1 << 16, to);
        matroska::begin(&mut to, size.0, size.1).map_err(Error::io("cannot write", "ffplay"))?;
        Ok(Preview { to, size, last: f64::NEG_INFINITY, _running: running })
    }

    /// Width and height of the frames.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }

    /// Shows a frame; false when the window has been closed.
    pub fn show(&mut self, time: f64, photo: &Photo) -> bool {
        let time = time.max(self.last + 1e-4).max(0.0);
        self.last = time;
        matroska::frame(&mut self.to, time, &photo.bgr).is_ok()
    }
}
