//! A clip, camera or stream: frames through the engine, into numbers and an annotated clip.

mod annotate;

use super::footage::FootageOptions;
use super::pictures::Drawing;
use super::reading::{At, FrameSource, Read};
use super::sources::Clip;
use super::stopped;
use super::work::{Deliver, Given, Work, forgive, not_finite, pump};
use crate::cli::terminal::{Terminal, clock_time};
use crate::cli::video::{Footage, Frame, Next, Range, Reader, Target, Writer};
pub use annotate::Annotator;
use annotate::Refused;
use rtmo_engine::output::FrameInfo;
use rtmo_engine::{Engine, Error, People, Picture, Result, shown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How often a thread that waits looks whether the run has been stopped.
const LOOK: Duration = Duration::from_millis(20);

/// How the clips of a run are done.
pub struct Clips<'a> {
    pub options: &'a FootageOptions,
    pub drawing: Drawing<'a>,
    pub batch: usize,
    pub max_pixels: usize,
    /// Numbers of frames, of a run that does a part of one clip.
    pub range: Range,
    /// Whether the CPU computes.
    pub cpu: bool,
}

impl Clips<'_> {
    /// Does one clip. What fails only this one is told and counted.
    ///
    /// # Errors
    /// What ends the whole run: the engine fails, or results cannot be written.
    pub fn run(&self, clip: Clip, engine: &mut Engine, work: &mut Work<'_>) -> Result<()> {
        let done = self.run_one(clip, engine, work);
        work.tally.failed += forgive(work.terminal, done)?;
        work.terminal.advance();
        Ok(())
    }

    fn run_one(&self, clip: Clip, engine: &mut Engine, work: &mut Work<'_>) -> Result<()> {
        let Clip { footage, stdin } = clip;
        let name = footage.name();
        if let Footage::File(path) = &footage {
            if work.files.is_written(path) {
                let what =
                    format!("{}: the list names it as a clip, and it is what this run writes", shown(path));
                return Err(Error::Usage(what));
            }
            work.files.reads(path, "a clip of this run");
        }
        let place =
            work.pictures.as_mut().map(|pictures| pictures.place_clip(&footage, work.files)).transpose()?;
        let settings = self.options.settings(self.range, self.max_pixels, self.cpu);
        let reader =
            Reader::open(&footage, settings.clone(), stdin.unwrap_or_else(|| Box::new(std::io::empty())))?;
        let watch = reader.watch();
        let target = place.clone().map(|path| Target {
            path,
            threads: settings.threads,
            patience: self.options.patience(),
        });
        let annotator = (target.is_some() || self.options.show).then(|| {
            let begin = if footage.is_live() { 0.0 } else { self.options.begin() };
            Annotator::new(
                self.drawing,
                target,
                self.options.show.then(|| shown(&name).to_string()),
                begin,
                watch.clone(),
            )
        });
        let terminal = work.terminal;
        if let Some(identities) = &mut work.identities {
            identities.reset();
        }
        let start = Instant::now();
        let mut frames = Frames::new(reader, self.options, footage.is_live(), terminal);
        let mut counts = Counts { start, frames: 0, people: 0, failed: 0, last: 0.0, broken: 0 };
        let (pumped, annotated) = thread::scope(|scope| {
            let annotator = annotator.as_ref();
            let thread = annotator.map(|annotator| scope.spawn(|| annotator.run(terminal)));
            let live = footage.is_live();
            let mut to = ClipWork { clip: self, name: &name, live, annotator, counts: &mut counts, work };
            let pumped = pump(engine, self.batch, &mut frames, terminal, &mut to);
            annotator.inspect(|annotator| annotator.end());
            let annotated =
                thread.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            (pumped, annotated.unwrap_or(Ok(None)))
        });
        terminal.clip_ends();
        pumped?;
        work.tally.frames += counts.frames;
        work.tally.people += counts.people;
        let info = watch.info();
        let dropped = frames.reader.dropped();
        let end = frames.end.take().unwrap_or(Ok(()));
        let told = frames.reader.notes();
        told.into_iter().for_each(|note| terminal.note(note));
        drop(frames);
        let written = annotated.and_then(|writer| {
            let written = writer.is_some();
            // A camera's sound is not recorded, and standard input cannot be read twice.
            let again = matches!(footage, Footage::File(_))
                || matches!(footage, Footage::Address(_)) && !footage.is_live();
            let sound = info.audio.as_deref().filter(|_| again).map(|codec| (&footage, &settings, codec));
            writer.map_or(Ok(()), |writer: Writer| writer.finish(sound)).map(|()| written)
        });
        self.conclude(
            &name,
            &counts,
            dropped,
            end,
            written.map(|written| place.filter(|_| written)),
            terminal,
        )
    }

    /// Tells how a clip went.
    fn conclude(
        &self,
        name: &Path,
        counts: &Counts,
        dropped: u64,
        end: Result<()>,
        written: Result<Option<PathBuf>>,
        terminal: &Terminal,
    ) -> Result<()> {
        let Counts { frames, people, last, .. } = *counts;
        let noun = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
        if frames > 0 {
            let rate = frames as f64 / counts.start.elapsed().as_secs_f64();
            let (frames, people) = (noun(frames, "frame", "frames"), noun(people, "person", "people"));
            let mut line = format!("{}: {frames}, {people}, {rate:.1} frames/s", shown(name));
            if dropped > 0 {
                line += &format!(", {} dropped for newer ones", noun(dropped as usize, "frame", "frames"));
            }
            if let Ok(Some(path)) = &written {
                line += &format!(" -> {}", shown(path));
            }
            terminal.say(line)?;
        }
        // Both ends may have failed; the first is told here, the second by the caller.
        let end = match end {
            Err(error) if frames > 0 => {
                let done = noun(frames, "frame", "frames");
                Err(Error::Device(format!(
                    "{error}; damaged or cut off after {}, the {done} before it are done",
                    clock_time(last)
                )))
            }
            Ok(()) if frames == 0 && !stopped() => {
                Err(Error::Device(format!("{}: no frame in what was asked for", shown(name))))
            }
            end => end,
        };
        let failed = counts.failed > 0;
        match (end, written) {
            (Err(end), Err(written)) => {
                terminal.complain("error", end);
                Err(written)
            }
            (Err(error), _) | (_, Err(error)) => Err(error),
            _ if failed => Err(Error::Device(format!(
                "{}: {} could not be written",
                shown(name),
                noun(counts.failed, "frame", "frames")
            ))),
            _ => Ok(()),
        }
    }
}

/// What has been done of a clip.
struct Counts {
    start: Instant,
    frames: usize,
    people: usize,
    /// Frames whose numbers could not be written.
    failed: usize,
    /// Seconds at which the last frame is shown.
    last: f64,
    /// Places whose numbers were not finite.
    broken: usize,
}

/// Frames as the engine takes them.
pub struct Frames<'a> {
    reader: Reader,
    options: &'a FootageOptions,
    live: bool,
    /// Frames still wanted.
    left: u64,
    seen: Option<Frame>,
    end: Option<Result<()>>,
    /// Whether a frame has come, and with it what is known of the clip.
    begun: bool,
    terminal: &'a Terminal,
}

impl<'a> Frames<'a> {
    pub fn new(
        reader: Reader,
        options: &'a FootageOptions,
        live: bool,
        terminal: &'a Terminal,
    ) -> Frames<'a> {
        let left = options.max_frames.unwrap_or(u64::MAX);
        Frames { reader, options, live, left, seen: None, end: None, begun: false, terminal }
    }

    fn look(&mut self, most: Duration) {
        if self.seen.is_none() && self.end.is_none() {
            match self.reader.next(most) {
                Next::Frame(frame) => self.seen = Some(frame),
                Next::End(end) => self.end = Some(end),
                Next::NotYet => {}
            }
        }
    }
}

impl FrameSource for Frames<'_> {
    fn ready(&mut self) -> bool {
        self.look(Duration::ZERO);
        self.seen.is_some() || self.end.is_some()
    }

    fn next_batch(&mut self, most: usize) -> Option<Vec<Read>> {
        let (mut batch, mut since) = (Vec::new(), Instant::now());
        while batch.len() < most && self.left > 0 && !stopped() {
            self.look(LOOK);
            if let Some(Frame { picture, index, time }) = self.seen.take() {
                if !self.begun {
                    self.begun = true;
                    let info = self.reader.watch().info();
                    self.terminal.clip_begins(self.options.begin(), self.options.until(info.duration));
                }
                let decoded = Ok((picture, Vec::new()));
                batch.push(Read {
                    path: PathBuf::new(),
                    decoded,
                    share: None,
                    at: Some(At { frame: index, time }),
                });
                self.left -= 1;
                since = Instant::now();
            } else if self.end.is_some() || self.live && !batch.is_empty() {
                break;
            } else if since.elapsed() > self.options.patience() {
                let seconds = self.options.patience().as_secs_f64();
                let what = format!("ffmpeg has given no frame for {seconds:.1} s");
                match self.reader.restart(&what) {
                    true => since = Instant::now(),
                    false => self.end = Some(Err(self.reader.failure(what))),
                }
            }
        }
        (!batch.is_empty()).then_some(batch)
    }

    fn notes(&mut self) -> Vec<String> {
        self.reader.notes()
    }
}

/// What becomes of a clip's frames.
struct ClipWork<'a, 'b, 'c> {
    clip: &'a Clips<'a>,
    name: &'a Path,
    live: bool,
    annotator: Option<&'a Annotator<'a>>,
    counts: &'a mut Counts,
    work: &'b mut Work<'c>,
}

impl Deliver for ClipWork<'_, '_, '_> {
    fn deliver(&mut self, given: Given, picture: Picture, mut people: People, _: f64) -> Result<bool> {
        let (name, terminal) = (self.name, self.work.terminal);
        let at = given.at.unwrap_or(At { frame: 0, time: 0.0 });
        if people.not_finite() > 0 {
            if self.counts.broken == 0 {
                terminal.complain("warning", not_finite(name, people.not_finite()));
            }
            self.counts.broken += people.not_finite();
        }
        if let Some(identities) = &mut self.work.identities {
            let followed = identities.follow(&mut people, at.time);
            self.counts.failed += forgive(terminal, followed)?;
        }
        let info = FrameInfo::new(name, picture.size()).with_frame(at.frame).with_time(at.time);
        let added = self.work.results.frame(&info, &people);
        self.counts.failed += forgive(terminal, added)?;
        self.counts.frames += 1;
        self.counts.people += people.len();
        self.counts.last = at.time;
        terminal.clip_at(at.time, self.counts.frames);
        let Some(annotator) = self.annotator else { return Ok(true) };
        match annotator.push(picture, people, at.time, self.clip.options.patience()) {
            Ok(()) => Ok(true),
            // A window that is closed ends what would go on for ever.
            Err(Refused::WindowClosed) => Ok(!self.live),
            // Why it failed is told at the end; numbers are worth going on for.
            Err(Refused::Failed) => Ok(self.work.results.any()),
        }
    }
}
