//! Annotated clips.

use super::input::input;
use super::log::Level;
use super::program::{Ffmpeg, Running, file_argument};
use super::reader::Settings;
use super::{Footage, matroska};
use rtmo_engine::atomic_file::{keep_track, lose_track};
use rtmo_engine::{Error, Photo, Result, shown};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tempfile::TempPath;

/// In the clip's metadata, by which it is known that an earlier run drew it.
const COMMENT: &str = "drawn by rtmo-engine";

/// Where the comment is looked for: the index, which holds it at its end, is written behind the pictures.
const TAIL: u64 = 1 << 16;

/// To close a clip, or to put sound beside it, ffmpeg may be silent for so many times its usual patience.
const CLOSING: u32 = 5;

/// Sound that a clip of this kind takes as it is; other sound is encoded again.
const COPIED: [&str; 6] = ["aac", "mp3", "ac3", "eac3", "opus", "alac"];

/// Where an annotated clip goes, and how it is made.
#[derive(Clone, Debug)]
pub struct Target {
    /// A path that ends in `.mp4`.
    pub path: PathBuf,
    /// Threads that encode; ffmpeg's choice if none.
    pub threads: Option<usize>,
    /// How long ffmpeg may do nothing.
    pub patience: Duration,
}

/// Makes a clip of frames. The file appears when it is complete.
pub struct Writer {
    target: Target,
    to: BufWriter<ChildStdin>,
    running: Arc<Mutex<Option<Running>>>,
    errors: Arc<Mutex<Vec<String>>>,
    temporary: TempPath,
    size: (usize, usize),
    /// Seconds of the last frame.
    last: f64,
}

/// Ends a [`Writer`]'s ffmpeg from another thread, where it hangs.
#[derive(Clone)]
pub struct Stop(Arc<Mutex<Option<Running>>>);

impl Stop {
    pub fn kill(&self) {
        if let Some(running) = lock(&self.0).as_mut() {
            running.kill();
        }
    }
}

impl Writer {
    /// Begins a clip of frames of `size`, the last of which is shown for `step` seconds.
    ///
    /// # Errors
    /// If ffmpeg cannot be started or has no encoder; if the folder cannot be written.
    pub fn create(target: Target, size: (usize, usize), step: f64) -> Result<Writer> {
        let ffmpeg = Ffmpeg::find()?;
        let temporary = temporary(&target.path)?;
        let encoder = ffmpeg.encoder()?;
        // MPEG-4 part 2 counts in at most 65535 units a second.
        let units = if encoder[0] == "mpeg4" { 60_000 } else { 90_000 };
        let unit = units.to_string();
        let mut command = ffmpeg.command();
        command.args(["-y", "-f", "matroska", "-i", "pipe:0", "-map", "0:v"]);
        // Its pixels come in twos.
        command.args(["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2"]).args(ffmpeg.passthrough());
        command.args(["-enc_time_base", &format!("1:{unit}"), "-c:v"]).args(encoder);
        if let Some(threads) = target.threads {
            command.args(["-threads", &threads.to_string(), "-filter_threads", "1"]);
        }
        command.args(["-pix_fmt", "yuv420p", "-video_track_timescale", &unit]);
        command.args(ffmpeg.lasting((step * f64::from(units)).round().max(1.0) as u64).into_iter().flatten());
        command
            .args(["-metadata", &format!("comment={COMMENT}"), "-f", "mp4"])
            .arg(file_argument(&temporary));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let (mut running, errors) = start(command)?;
        let to = running.stdin.take().ok_or_else(|| Error::Device("ffmpeg has no standard input".into()))?;
        let mut to = BufWriter::with_capacity(1 << 16, to);
        let running = Arc::new(Mutex::new(Some(running)));
        let (width, height) = size;
        let begun = matroska::begin(&mut to, width, height);
        let mut writer = Writer { target, to, running, errors, temporary, size, last: f64::NEG_INFINITY };
        begun.map_err(|error| writer.failure(&error))?;
        Ok(writer)
    }

    /// Ends ffmpeg from another thread.
    pub fn stop(&self) -> Stop {
        Stop(self.running.clone())
    }

    /// Width and height of the frames.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }

    /// Adds a frame of [`Writer::size`] that is shown from `time` on, in seconds. Times that do not rise are set a little
    /// later than the one before.
    ///
    /// # Errors
    /// If ffmpeg has ended.
    pub fn frame(&mut self, time: f64, photo: &Photo) -> Result<()> {
        let time = time.max(self.last + 1e-4).max(0.0);
        self.last = time;
        matroska::frame(&mut self.to, time, &photo.bgr).map_err(|error| self.failure(&error))
    }

    /// Completes the clip and puts it at its place, with the sound of `sound` if it has any.
    ///
    /// # Errors
    /// If ffmpeg fails, or the system refuses; then nothing is at that place.
    pub fn finish(self, sound: Option<(&Footage, &Settings, &str)>) -> Result<()> {
        let Writer { target, to, running, errors, mut temporary, last, .. } = self;
        // Its end closes the clip.
        drop(to.into_inner());
        complete(&running, &errors, &target, &temporary)?;
        if let Some((footage, settings, codec)) = sound {
            let with_sound = self::temporary(&target.path)?;
            let ffmpeg = Ffmpeg::find()?;
            let mut command = ffmpeg.command();
            command.args(["-y", "-i"]).arg(file_argument(&temporary));
            // As long as the pictures: a run that was stopped has fewer of them.
            let end = settings.start.unwrap_or(0.0) + last.max(0.0) + 0.05;
            let settings =
                Settings { end: Some(settings.end.map_or(end, |given| given.min(end))), ..settings.clone() };
            input(&mut command, footage, &settings);
            command.args(["-map", "0:v", "-map", "1:a:0?", "-c:v", "copy", "-c:a"]);
            command.arg(if COPIED.contains(&codec) { "copy" } else { "aac" });
            command.args(["-map_metadata", "0", "-video_track_timescale", "90000", "-f", "mp4"]);
            command
                .arg(file_argument(&with_sound))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped());
            let (running, errors) = start(command)?;
            complete(&Mutex::new(Some(running)), &errors, &target, &with_sound)?;
            temporary = with_sound;
        }
        let name = temporary.to_path_buf();
        temporary
            .persist(&target.path)
            .map_err(|error| Error::io("cannot write", &target.path)(error.error))?;
        lose_track(&name);
        Ok(())
    }

    /// What ffmpeg said, if it said anything; else that writing failed.
    fn failure(&mut self, error: &std::io::Error) -> Error {
        if let Some(mut running) = lock(&self.running).take() {
            running.kill();
            running.join_log();
        }
        let said = lock(&self.errors).join("; ");
        let what =
            if said.is_empty() { format!("ffmpeg has ended ({error})") } else { format!("ffmpeg: {said}") };
        Error::Device(format!("{}: cannot write the clip: {what}", shown(&self.target.path)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts an ffmpeg that writes; its first complaints are kept.
fn start(command: std::process::Command) -> Result<(Running, Arc<Mutex<Vec<String>>>)> {
    let mut running = Running::start(command).map_err(Error::io("cannot start", "ffmpeg"))?;
    let errors = Arc::new(Mutex::new(Vec::new()));
    let heard = errors.clone();
    running.read_log(move |line| {
        let mut errors = lock(&heard);
        if line.level == Level::Error && errors.len() < 3 {
            errors.push(line.text.to_string());
        }
    });
    Ok((running, errors))
}

/// Waits for an ffmpeg whose input has ended, as long as the file that it writes grows.
fn complete(
    running: &Mutex<Option<Running>>,
    errors: &Mutex<Vec<String>>,
    target: &Target,
    file: &Path,
) -> Result<()> {
    let running = lock(running).take();
    let Some(mut running) = running else { return Ok(()) };
    let length = || file.metadata().map_or(0, |file| file.len());
    let (most, mut before) = (target.patience * CLOSING, length());
    let status = loop {
        let status = running.wait(most);
        let now = length();
        if status.is_some() || now == before {
            break status;
        }
        before = now;
    };
    running.kill();
    running.join_log();
    let said = lock(errors).join("; ");
    let what = match status {
        Some(status) if status.success() => return Ok(()),
        _ if !said.is_empty() => format!("ffmpeg: {said}"),
        Some(status) => format!("ffmpeg ended with {status}"),
        None => format!("ffmpeg has done nothing for {:.0} s", most.as_secs_f64()),
    };
    Err(Error::Device(format!("{}: cannot write the clip: {what}", shown(&target.path))))
}

/// A file beside `path`, which vanishes unless it is put in its place.
fn temporary(path: &Path) -> Result<TempPath> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".rtmo-engine-").suffix(".mp4");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder.tempfile_in(folder).map_err(Error::io("cannot create", path))?;
    let temporary = file.into_temp_path();
    keep_track(&temporary);
    Ok(temporary)
}

/// Whether a file is a clip that an earlier run drew.
pub fn is_earlier(path: &Path) -> bool {
    let tail = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut tail = Vec::new();
        file.take(TAIL).read_to_end(&mut tail)?;
        Ok(tail)
    };
    tail().is_ok_and(|tail| memchr::memmem::find(&tail, COMMENT.as_bytes()).is_some())
}
