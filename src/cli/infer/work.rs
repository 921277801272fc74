//! From decoded photos to numbers and pictures.

use super::budget::Share;
use super::pictures::{Done, Drawing, Pictures};
use super::reading::{Photos, Read};
use super::results::Results;
use super::stopped;
use crate::cli::files::Files;
use crate::cli::terminal::Terminal;
use rtmo_engine::vision::decode::Decoded;
use rtmo_engine::{Engine, Error, Result, shown};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Instant;

/// What photos become.
pub struct Work<'a> {
    pub pictures: Option<&'a mut Pictures>,
    pub files: &'a mut Files,
    pub results: &'a mut Results,
    pub tally: &'a mut Tally,
    pub terminal: &'a Terminal,
}

impl Work<'_> {
    /// From decoded photos to numbers, and to what is drawn. Returns how many photos were listed.
    pub fn run(
        &mut self,
        engine: &mut Engine,
        batch: usize,
        mut incoming: Photos,
        to_draw: Vec<SyncSender<Done>>,
    ) -> Result<usize> {
        let mut begun: VecDeque<Begun> = VecDeque::new();
        let (mut listed, mut drawn) = (0, 0);
        loop {
            // As many batches ahead as the engine takes, but nothing waits for a photo while people are to be had.
            while begun.len() < engine.queue_depth() && !stopped() && (begun.is_empty() || incoming.ready()) {
                let photos = incoming.next_batch(batch);
                for note in incoming.notes() {
                    self.terminal.note(note);
                }
                let Some(photos) = photos else { break };
                listed += photos.len();
                begun.push_back(Begun::new(engine, photos)?);
            }
            let Some(Begun { given, complaints, start }) = begun.pop_front() else { return Ok(listed) };
            for (path, complaint) in complaints {
                self.complain(&path, complaint);
            }
            if given.is_empty() {
                continue;
            }
            let Some((photos, found)) = engine.collect()? else { return Ok(listed) };
            let ms = start.elapsed().as_secs_f64() * 1e3 / photos.len() as f64;
            for (((path, share), photo), people) in given.into_iter().zip(photos).zip(found) {
                let mut done = Done { photo, people, picture: None, share };
                self.finish(&path, &mut done, ms)?;
                drawn += 1;
                if to_draw[drawn % to_draw.len()].send(done).is_err() {
                    // The other end has failed, and tells why itself.
                    return Ok(listed);
                }
            }
        }
    }

    /// Tells of a photo with a flaw, or of one that cannot be read.
    fn complain(&mut self, path: &Path, complaint: Result<String>) {
        match complaint {
            Ok(warning) => self.terminal.complain("warning", format!("{}: {warning}", shown(path))),
            Err(error) => {
                self.terminal.complain("error", error);
                self.terminal.advance();
                self.tally.failed += 1;
            }
        }
    }

    /// Writes and tells who is on a photo, and gives its picture a place.
    fn finish(&mut self, path: &Path, done: &mut Done, ms: f64) -> Result<()> {
        if self.files.is_written(path) {
            let what =
                format!("{}: the list names it as a photo, and it is what this run writes", shown(path));
            return Err(Error::Usage(what));
        }
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
            let n = people.not_finite();
            self.terminal.complain(
                "warning",
                format!(
                    "{}: the network's numbers for {n} {} are not finite: the weights are broken, or too large for this precision",
                    shown(path),
                    if n == 1 { "place" } else { "places" }
                ),
            );
        }
        let added = self.results.add(path, (photo.width, photo.height), people);
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

/// A batch that the engine works on.
struct Begun {
    /// The photos that could be read, and what they take of the budget.
    given: Vec<(PathBuf, Share)>,
    /// What is to be told of photos when it is their turn: warnings, and why one could not be read.
    complaints: Vec<(PathBuf, Result<String>)>,
    start: Instant,
}

impl Begun {
    fn new(engine: &mut Engine, batch: Vec<Read>) -> Result<Begun> {
        let (mut given, mut photos, mut complaints) = (Vec::new(), Vec::new(), Vec::new());
        for Read { path, decoded, share, .. } in batch {
            match decoded {
                Ok(Decoded { photo, warnings }) => {
                    if !warnings.is_empty() {
                        complaints.push((path.clone(), Ok(warnings.join("; "))));
                    }
                    given.push((path, share));
                    photos.push(photo);
                }
                Err(error) => complaints.push((path, Err(error))),
            }
        }
        let start = Instant::now();
        if !photos.is_empty() {
            engine.submit(photos)?;
        }
        Ok(Begun { given, complaints, start })
    }
}

/// What has been done.
#[derive(Default)]
pub struct Tally {
    pub photos: usize,
    pub people: usize,
    pub failed: usize,
}

/// Draws what comes; returns how many pictures failed.
pub fn draw_all(from: Receiver<Done>, drawing: Drawing<'_>, terminal: &Terminal) -> Result<usize> {
    let mut failed = 0;
    for done in from {
        failed += forgive(terminal, drawing.draw(done))?;
    }
    Ok(failed)
}

/// Tells of a photo's failure and counts it; failures that will meet every other photo too end the work.
fn forgive(terminal: &Terminal, result: Result<()>) -> Result<usize> {
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
