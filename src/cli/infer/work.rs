//! From decoded photos to numbers and pictures.

use super::budget::Share;
use super::clip::Clips;
use super::identities::Identities;
use super::pictures::{Done, Drawing, Pictures};
use super::reading::{At, FrameSource, Photos, Read};
use super::results::Results;
use super::stopped;
use super::turns::Turns;
use crate::cli::files::Files;
use crate::cli::terminal::Terminal;
use rtmo_engine::output::FrameInfo;
use rtmo_engine::{Engine, Error, People, Picture, Result, shown};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Instant;

/// What photos become.
pub struct Work<'a> {
    pub pictures: Option<&'a mut Pictures>,
    pub files: &'a mut Files,
    pub identities: Option<&'a mut Identities>,
    pub results: &'a mut Results,
    pub tally: &'a mut Tally,
    pub terminal: &'a Terminal,
    /// Threads that draw, each every so many photos.
    pub to_draw: Vec<SyncSender<Done>>,
    /// Photos given to them.
    pub drawn: usize,
    /// Photos that came before those at hand.
    pub before: usize,
    /// Whether one of them has ended early.
    pub broken: bool,
}

/// What becomes of a source's pictures.
pub trait Deliver {
    /// Takes a picture whose people are known, and the milliseconds it took; false where no more are wanted.
    fn deliver(&mut self, given: Given, picture: Picture, people: People, ms: f64) -> Result<bool>;
}

/// A picture that the engine works on.
pub struct Given {
    pub path: PathBuf,
    /// How many pictures of its source came before it, unreadable ones among them.
    pub place: usize,
    pub share: Option<Share>,
    pub at: Option<At>,
}

/// What [`pump`] has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pumped {
    /// Pictures that came, unreadable ones among them.
    pub came: usize,
    /// Those that could not be read.
    pub failed: usize,
}

/// Sends a source's pictures through the engine, in order. Tells of those with a flaw, and of those that cannot be read, when it is
/// their turn.
///
/// # Errors
/// If the engine fails, or `to` does.
pub fn pump(
    engine: &mut Engine,
    batch: usize,
    source: &mut dyn FrameSource,
    terminal: &Terminal,
    to: &mut dyn Deliver,
) -> Result<Pumped> {
    let mut begun: VecDeque<Begun> = VecDeque::new();
    let (mut done, mut last) = (Pumped::default(), Instant::now());
    let turns = source.turns();
    loop {
        // As many batches ahead as the engine takes, but nothing waits for a picture while people are to be had.
        while begun.len() < engine.queue_depth() && !stopped() && (begun.is_empty() || source.ready()) {
            let pictures = source.next_batch(batch);
            source.notes().into_iter().for_each(|note| terminal.note(note));
            let Some(pictures) = pictures else { break };
            let first = done.came;
            done.came += pictures.len();
            let _turn = turns.engine();
            begun.push_back(Begun::new(engine, pictures, first)?);
        }
        let Some(Begun { given, complaints, start }) = begun.pop_front() else { return Ok(done) };
        for (path, complaint) in complaints {
            match complaint {
                Ok(warning) => terminal.complain("warning", format!("{}: {warning}", shown(&path))),
                Err(error) => {
                    terminal.complain("error", error);
                    terminal.advance();
                    done.failed += 1;
                }
            }
        }
        if given.is_empty() {
            continue;
        }
        let collected = {
            let _turn = turns.engine();
            engine.collect_pictures()?
        };
        let Some((photos, found)) = collected else { return Ok(done) };
        // A GPU works on two batches at a time: the time of this one begins when the one before it has ended.
        let ms = start.max(last).elapsed().as_secs_f64() * 1e3 / photos.len() as f64;
        last = Instant::now();
        for ((given, photo), people) in given.into_iter().zip(photos).zip(found) {
            if !to.deliver(given, photo, people, ms)? {
                // What has been submitted is collected, so that the engine is free.
                while engine.collect_pictures()?.is_some() {}
                return Ok(done);
            }
        }
    }
}

impl Deliver for Work<'_> {
    fn deliver(&mut self, given: Given, picture: Picture, people: People, ms: f64) -> Result<bool> {
        let mut people = people;
        if self.files.is_written(&given.path)
            || self.pictures.as_ref().is_some_and(|pictures| pictures.has_drawn(&given.path))
        {
            let what = "is no photo of this run, but what it writes";
            self.terminal.complain("error", format!("{}: {what}", shown(&given.path)));
            self.terminal.advance();
            self.tally.failed += 1;
            return Ok(true);
        }
        if let Some(identities) = &mut self.identities {
            let followed = identities.follow_photo(&mut people, self.before + given.place);
            self.tally.failed += forgive(self.terminal, followed)?;
        }
        let mut done = Done { photo: picture.into_photo(), people, picture: None, share: given.share };
        self.finish(&given.path, &mut done, ms)?;
        self.drawn += 1;
        let to = &self.to_draw[self.drawn % self.to_draw.len()];
        // Where the other end has failed, it tells why itself.
        self.broken = to.send(done).is_err();
        Ok(!self.broken)
    }
}

impl Work<'_> {
    /// Does all photos and clips. Returns how many there were.
    ///
    /// # Errors
    /// What ends the whole run.
    pub fn run(&mut self, engine: &mut Engine, mut photos: Photos, clips: &Clips<'_>) -> Result<usize> {
        let mut listed = 0;
        loop {
            let terminal = self.terminal;
            let Pumped { came, failed } = pump(engine, clips.batch, &mut photos, terminal, self)?;
            listed += came;
            self.before += came;
            self.tally.failed += failed;
            match photos.clip().filter(|_| !stopped() && !self.broken) {
                Some(clip) => {
                    listed += 1;
                    clips.run(clip, engine, self)?;
                }
                None => return Ok(listed),
            }
        }
    }

    /// Writes and tells who is on a photo, and gives its picture a place.
    fn finish(&mut self, path: &Path, done: &mut Done, ms: f64) -> Result<()> {
        self.files.reads(path, "a photo of this run");
        let place = self.pictures.as_mut().map(|pictures| pictures.place(path, self.files)).transpose();
        let renamed = match place {
            Ok(place) => place.and_then(|place| {
                done.picture = Some(place.path);
                place.renamed
            }),
            Err(error) => {
                self.terminal.complain("error", error);
                self.tally.failed += 1;
                None
            }
        };
        let Done { photo, people, .. } = &*done;
        if people.not_finite() > 0 {
            self.terminal.complain("warning", not_finite(path, people.not_finite()));
        }
        let added = self.results.frame(&FrameInfo::new(path, (photo.width, photo.height)), people);
        self.tally.failed += forgive(self.terminal, added)?;
        self.tally.photos += 1;
        self.tally.people += people.len();
        let (n, noun) = (people.len(), if people.len() == 1 { "person" } else { "people" });
        let mut line = format!("{}: {n} {noun}, {ms:.1} ms", shown(path));
        if let Some(picture) = renamed {
            line += &format!(" -> {}", shown(&picture));
        }
        self.terminal.say(line)?;
        self.terminal.advance();
        Ok(())
    }
}

/// What is said where the network's numbers are no numbers.
pub fn not_finite(path: &Path, places: usize) -> String {
    let noun = if places == 1 { "place" } else { "places" };
    format!(
        "{}: the network's numbers for {places} {noun} are not finite: the weights are broken, or too large for this precision",
        shown(path)
    )
}

/// A batch that the engine works on.
struct Begun {
    /// The pictures that could be read.
    given: Vec<Given>,
    /// What is to be told of photos when it is their turn: warnings, and why one could not be read.
    complaints: Vec<(PathBuf, Result<String>)>,
    start: Instant,
}

impl Begun {
    fn new(engine: &mut Engine, batch: Vec<Read>, first: usize) -> Result<Begun> {
        let (mut given, mut photos, mut complaints) = (Vec::new(), Vec::new(), Vec::new());
        for (i, Read { path, decoded, share, at }) in batch.into_iter().enumerate() {
            match decoded {
                Ok((photo, warnings)) => {
                    if !warnings.is_empty() {
                        complaints.push((path.clone(), Ok(warnings.join("; "))));
                    }
                    given.push(Given { path, place: first + i, share, at });
                    photos.push(photo);
                }
                Err(error) => complaints.push((path, Err(error))),
            }
        }
        let start = Instant::now();
        if !photos.is_empty() {
            engine.submit_pictures(photos)?;
        }
        Ok(Begun { given, complaints, start })
    }
}

/// What has been done.
#[derive(Default)]
pub struct Tally {
    pub photos: usize,
    /// Frames of clips.
    pub frames: usize,
    pub people: usize,
    pub failed: usize,
}

impl Tally {
    /// Photos and frames, in words.
    pub fn done(&self) -> String {
        let count = |n: usize, noun: &str| format!("{n} {noun}{}", if n == 1 { "" } else { "s" });
        match (self.photos, self.frames) {
            (photos, 0) => count(photos, "photo"),
            (0, frames) => count(frames, "frame"),
            (photos, frames) => format!("{} and {}", count(photos, "photo"), count(frames, "frame")),
        }
    }
}

/// Draws what comes; returns how many pictures failed.
pub fn draw_all(
    from: Receiver<Done>,
    drawing: Drawing<'_>,
    turns: &Turns,
    terminal: &Terminal,
) -> Result<usize> {
    let mut failed = 0;
    for done in from {
        let _turn = turns.others();
        failed += forgive(terminal, drawing.draw(done))?;
    }
    Ok(failed)
}

/// Tells of a photo's failure and counts it; failures that will meet every other photo too end the work.
pub fn forgive(terminal: &Terminal, result: Result<()>) -> Result<usize> {
    match result {
        Ok(()) => Ok(0),
        Err(Error::Io { path, action, source })
            if matches!(
                source.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::BrokenPipe
            ) =>
        {
            Err(Error::Io { path, action, source })
        }
        Err(error) => {
            terminal.complain("error", error);
            Ok(1)
        }
    }
}
