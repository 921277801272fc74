//! Frames out of footage.

use super::Footage;
use super::input::input;
use super::program::{Ffmpeg, Running};
use super::queue::{Popped, Queue};
use super::raw::RawFormat;
use super::told::{Ear, Head, Info, Told};
use rtmo_engine::{Error, Nv12, Photo, Picture, Result, shown};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Frames that wait for the engine: the next one while it works on another.
const AHEAD: usize = 2;

/// How long ffmpeg may take to end once its output has ended.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// The longest pause between two attempts to connect again.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// One picture of footage.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub picture: Picture,
    /// Its number in the source, from 0; of live sources the number of frames read before.
    pub index: u64,
    /// Seconds from the source's beginning to when it is shown.
    pub time: f64,
}

/// Which frames are read, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Every how manieth frame.
    pub every: u64,
    /// Numbers of frames.
    pub range: Range,
    /// Seconds from the beginning.
    pub start: Option<f64>,
    /// Seconds from the beginning.
    pub end: Option<f64>,
    /// Photos and frames of more pixels are refused.
    pub max_pixels: usize,
    /// Threads that decode; ffmpeg's choice if none.
    pub threads: Option<usize>,
    /// ffmpeg's `-hwaccel`.
    pub hwaccel: Option<String>,
    /// Whether frames come as NV12, which a GPU takes as they are; else as photos.
    pub nv12: bool,
    /// Whether a live source that has ended is opened again, for ever.
    pub reconnect: bool,
}

/// Numbers of frames from `first` to before `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    pub first: u64,
    pub end: Option<u64>,
}

/// What [`Reader::next`] found.
pub enum Next {
    Frame(Frame),
    NotYet,
    /// The end; an error where the source is damaged, or gone. What came before it is good.
    End(Result<()>),
}

/// Reads footage in a thread of its own, two frames ahead.
pub struct Reader {
    shared: Arc<Shared>,
}

struct Shared {
    footage: Footage,
    settings: Settings,
    queue: Queue<Frame>,
    /// The program that runs, to be ended from another thread.
    running: Mutex<Option<Running>>,
    told: Arc<Told>,
    end: Mutex<Option<Result<()>>>,
    stopped: AtomicBool,
    /// Frames read.
    frames: AtomicU64,
}

impl Reader {
    /// Starts to read. [`Footage::Stdin`] comes from `stdin`.
    ///
    /// # Errors
    /// If there is no ffmpeg; raw frames need none.
    pub fn open(footage: &Footage, settings: Settings, stdin: Box<dyn Read + Send>) -> Result<Reader> {
        let raw = match footage {
            Footage::Stdin(Some(format)) => Some(*format),
            _ => Ffmpeg::find().map(|_| None)?,
        };
        let live = footage.is_live();
        let shared = Arc::new(Shared {
            footage: footage.clone(),
            settings,
            queue: Queue::new(if live { 1 } else { AHEAD }, live),
            running: Mutex::default(),
            told: Arc::default(),
            end: Mutex::default(),
            stopped: AtomicBool::new(false),
            frames: AtomicU64::new(0),
        });
        let reading = shared.clone();
        thread::spawn(move || {
            let end = match raw {
                Some(format) => reading.read_raw(format, stdin),
                None => reading.read_all(stdin),
            };
            *lock(&reading.end) = Some(end);
            reading.queue.end();
        });
        Ok(Reader { shared })
    }

    /// The next frame, if it comes within `most`.
    pub fn next(&self, most: Duration) -> Next {
        match self.shared.queue.pop(most) {
            Popped::Item(frame) => Next::Frame(frame),
            Popped::NotYet => Next::NotYet,
            Popped::Ended => Next::End(lock(&self.shared.end).take().unwrap_or(Ok(()))),
        }
    }

    /// Tells of the source, also from another thread, and when reading has ended.
    pub fn watch(&self) -> Watch {
        Watch(self.shared.clone())
    }

    /// What is to be told, once.
    pub fn notes(&self) -> Vec<String> {
        self.shared.told.take_notes()
    }

    /// Ends the ffmpeg that hangs, where another one takes its place: of live sources that shall be connected to again.
    pub fn restart(&self, why: &str) -> bool {
        let again = self.shared.settings.reconnect && self.shared.footage.is_live();
        if again {
            self.shared.told.note(self.shared.failure(why).to_string());
            if let Some(running) = lock(&self.shared.running).as_mut() {
                running.kill();
            }
        }
        again
    }

    /// An error of this source.
    pub fn failure(&self, what: impl std::fmt::Display) -> Error {
        self.shared.failure(what)
    }

    /// Frames of a live source that were dropped because newer ones came.
    pub fn dropped(&self) -> u64 {
        self.shared.queue.dropped()
    }
}

/// What a [`Reader`] knows of its source.
#[derive(Clone)]
pub struct Watch(Arc<Shared>);

impl Watch {
    /// What ffmpeg told: all of it once there is a frame.
    pub fn info(&self) -> Info {
        self.0.told.info()
    }

    /// Seconds from a frame to the next, as far as that is known.
    pub fn step(&self) -> f64 {
        self.0.settings.every.max(1) as f64 / self.info().rate.unwrap_or(30.0)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.queue.close();
        if let Some(mut running) = lock(&self.shared.running).take() {
            running.kill();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn failure(&self, what: impl std::fmt::Display) -> Error {
        Error::Device(format!("{}: {what}", shown(&self.footage.name())))
    }

    /// All frames of a source; of a live one that shall be connected to again, for ever.
    fn read_all(self: &Arc<Shared>, stdin: Box<dyn Read + Send>) -> Result<()> {
        let (mut stdin, mut pause) = (Some(stdin), Duration::from_secs(1));
        let began = Instant::now();
        // ffmpeg counts time from each connection.
        let mut connected = 0.0;
        loop {
            let before = self.frames.load(Ordering::SeqCst);
            let end = self.read_once(stdin.take(), connected);
            if self.stopped() || !(self.settings.reconnect && self.footage.is_live()) {
                return end;
            }
            if self.frames.load(Ordering::SeqCst) > before {
                pause = Duration::from_secs(1);
            }
            let why = end.err().unwrap_or_else(|| self.failure("has ended"));
            self.told.note(format!("{why}; again in {} s", pause.as_secs()));
            let step = Duration::from_millis(50);
            let mut waited = Duration::ZERO;
            while waited < pause && !self.stopped() {
                thread::sleep(step);
                waited += step;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            connected = began.elapsed().as_secs_f64();
        }
    }

    fn read_once(self: &Arc<Shared>, stdin: Option<Box<dyn Read + Send>>, connected: f64) -> Result<()> {
        let ffmpeg = Ffmpeg::find()?;
        let mut running =
            Running::start(self.command(ffmpeg)).map_err(Error::io("cannot start", "ffmpeg"))?;
        let (say, heads) = channel();
        let mut ear = Ear::new(self.footage.clone(), self.told.clone(), say, self.nv12(ffmpeg));
        running.read_log(move |line| ear.hear(line));
        let (out, to) = (running.stdout.take(), running.stdin.take());
        *lock(&self.running) = Some(running);
        if self.stopped() {
            // Whoever stopped it came too early to end it.
            lock(&self.running).take();
            return Ok(());
        }
        if let (Some(mut from), Some(mut to)) = (stdin, to) {
            // It ends with its input, or with ffmpeg.
            thread::spawn(move || _ = std::io::copy(&mut from, &mut to).and_then(|_| to.flush()));
        }
        let broken = out.map_or(Ok(()), |out| self.read_frames(out, &heads, connected));
        // Whoever stops takes it and ends it.
        let begun = Instant::now();
        let mut status = None;
        while broken.is_ok() && status.is_none() && !self.stopped() && begun.elapsed() < LAST_WORDS {
            // The lock is not held while it sleeps: another thread may want to end it.
            status = lock(&self.running).as_mut().and_then(|running| running.wait(Duration::ZERO));
            if status.is_none() {
                thread::sleep(Duration::from_millis(2));
            }
        }
        let running = lock(&self.running).take();
        if let Some(mut running) = running {
            running.kill();
            running.join_log();
        }
        broken?;
        match (status, self.told.take_errors()) {
            _ if self.stopped() => Ok(()),
            (Some(status), None) if status.success() => Ok(()),
            (Some(status), None) => Err(self.failure(format!("ffmpeg ended with {status}"))),
            (Some(_), Some(errors)) => Err(self.failure(errors)),
            (None, _) => Err(self.failure("ffmpeg does not end")),
        }
    }

    /// `connected` is the time at which ffmpeg counts 0, in seconds.
    fn read_frames(&self, mut out: impl Read, heads: &Receiver<Head>, connected: f64) -> Result<()> {
        let Range { first, end } = self.settings.range;
        let every = self.settings.every.max(1);
        let mut index = first.div_ceil(every) * every;
        if self.footage.is_live() {
            index = self.frames.load(Ordering::SeqCst) * every;
        }
        let mut last: Option<f64> = None;
        let ffmpeg = Ffmpeg::find()?;
        let (scaled, nv12) = (ffmpeg.keep_sizes().is_none(), self.nv12(ffmpeg));
        let mut first_size = None;
        for Head { time, width, height, colours } in heads {
            let (width, height) =
                if scaled { *first_size.get_or_insert((width, height)) } else { (width, height) };
            if end.is_some_and(|end| index >= end) {
                // ffmpeg would decode the rest for nothing.
                self.stopped.store(true, Ordering::SeqCst);
                return Ok(());
            }
            let pixels = width.checked_mul(height).filter(|&n| n > 0 && n <= self.settings.max_pixels);
            if pixels.is_none() {
                return Err(self.failure(format!(
                    "frames of {width}x{height} pixels: expected at most {} (--max-pixels)",
                    self.settings.max_pixels
                )));
            }
            let mut bytes =
                vec![0; if nv12 { Nv12::bytes(width, height).unwrap_or(0) } else { width * height * 3 }];
            let got = fill(&mut out, &mut bytes);
            if got < bytes.len() {
                // Why it ended is told by ffmpeg, or by its status.
                return match got {
                    0 => Ok(()),
                    _ => Err(self.failure(format!(
                        "frame {index} is cut off: expected {} bytes, got {got}",
                        bytes.len()
                    ))),
                };
            }
            // A frame without a time is shown as long as the one before.
            let rate = self.told.info().rate.unwrap_or(30.0);
            let since = time.unwrap_or(last.map_or(0.0, |last| last + every as f64 / rate));
            last = Some(since);
            let time = connected + self.settings.start.unwrap_or(0.0) + since;
            // ffmpeg counts a frame at the very end as within.
            if self.settings.end.is_some_and(|end| time >= end - 1e-9) {
                self.stopped.store(true, Ordering::SeqCst);
                return Ok(());
            }
            let picture = match nv12 {
                true => Nv12::new(width, height, bytes, colours.map_err(|what| self.failure(what))?)?.into(),
                false => Photo { width, height, bgr: bytes }.into(),
            };
            if !self.queue.push(Frame { picture, index, time }) {
                return Ok(());
            }
            self.frames.fetch_add(1, Ordering::SeqCst);
            index += every;
        }
        match fill(&mut out, &mut [0]) {
            0 => Ok(()),
            _ => Err(self.failure("ffmpeg wrote more than it told of: is it another program?")),
        }
    }

    fn nv12(&self, ffmpeg: &Ffmpeg) -> bool {
        self.settings.nv12 && ffmpeg.tells_colours()
    }

    fn command(&self, ffmpeg: &Ffmpeg) -> Command {
        let settings = &self.settings;
        let mut command = ffmpeg.command();
        if let Some(threads) = settings.threads {
            command.args(["-threads", &threads.to_string(), "-filter_threads", "1"]);
        }
        if let Some(hwaccel) = &settings.hwaccel {
            command.args(["-hwaccel", hwaccel]);
        }
        input(&mut command, &self.footage, settings);
        let mut filters = Vec::new();
        let Range { first, end } = settings.range;
        if settings.every > 1 {
            filters.push(format!("not(mod(n,{}))", settings.every));
        }
        if first > 0 {
            filters.push(format!("gte(n,{first})"));
        }
        if let Some(end) = end {
            // One more, after which reading ends.
            filters.push(format!("lt(n,{})", end.saturating_add(settings.every)));
        }
        let select =
            if filters.is_empty() { String::new() } else { format!("select='{}',", filters.join("*")) };
        command
            .args(["-map", "0:V:0"])
            .args(ffmpeg.passthrough())
            .args(ffmpeg.keep_sizes().into_iter().flatten());
        // Of NV12 it tells behind the conversion, so that it says what these colours mean. Planes of 8 bits are only copied.
        let (convert, format) =
            if self.nv12(ffmpeg) { ("scale=out_range=tv,format=nv12,", "nv12") } else { ("", "bgr24") };
        let filter = format!("{select}{convert}showinfo=checksum=0");
        command.args(["-vf", &filter, "-pix_fmt", format, "-f", "rawvideo", "pipe:1"]);
        let stdin = if matches!(self.footage, Footage::Stdin(_)) { Stdio::piped() } else { Stdio::null() };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Raw frames need no ffmpeg.
    fn read_raw(&self, format: RawFormat, mut stdin: Box<dyn Read + Send>) -> Result<()> {
        if format.width * format.height > self.settings.max_pixels {
            return Err(self.failure(format!(
                "frames of {}x{} pixels: expected at most {} (--max-pixels)",
                format.width, format.height, self.settings.max_pixels
            )));
        }
        self.told.set_rate(format.rate);
        let Settings { every, range, start, end, .. } = &self.settings;
        for index in 0_u64.. {
            let mut bytes = vec![0; format.bytes()];
            match fill(&mut stdin, &mut bytes) {
                0 => break,
                got if got < bytes.len() => {
                    return Err(self.failure(format!(
                        "frame {index} is cut off: expected {} bytes, got {got}",
                        bytes.len()
                    )));
                }
                _ => {}
            }
            let time = index as f64 / format.rate;
            if end.is_some_and(|end| time >= end) || range.end.is_some_and(|end| index >= end) {
                break;
            }
            let wanted =
                index % every.max(&1) == 0 && index >= range.first && start.is_none_or(|start| time >= start);
            if !wanted {
                continue;
            }
            let mut picture = format.picture(bytes)?;
            if !self.settings.nv12 {
                picture = picture.into_photo().into();
            }
            if !self.queue.push(Frame { picture, index, time }) {
                break;
            }
        }
        Ok(())
    }
}

/// Reads until `bytes` are full; returns how many there are at the end.
fn fill(from: &mut impl Read, bytes: &mut [u8]) -> usize {
    let mut got = 0;
    while got < bytes.len() {
        match from.read(&mut bytes[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    got
}
