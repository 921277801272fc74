//! `rtmo-engine infer`

mod budget;
mod pictures;
mod reading;
mod results;

use super::fetch::Fetch;
use super::files::Files;
use super::options::{Network, fraction};
use super::terminal::Terminal;
use super::{Ended, Outcome};
use budget::{Budget, Share};
use clap::Args;
use pictures::{Done, Pictures};
use reading::{Photos, Read, decode_ahead};
use results::{Results, image_ids};
use rtmo_engine::DrawOptions;
use rtmo_engine::Skeleton;
use rtmo_engine::atomic_file::remove_unfinished;
use rtmo_engine::backend::device;
use rtmo_engine::shown;
use rtmo_engine::vision::decode::{Decoded, Limits, MAX_PIXELS};
use rtmo_engine::vision::sources;
use rtmo_engine::weights::Checkpoint;
use rtmo_engine::{Compat, Engine, EngineOptions, Error, Result};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

/// Find the people on photos; draw them, or write them as JSON
///
/// Photos are files, folders and patterns. People are drawn into copies of the photos in a folder, and on request written as
/// lines of JSON or as COCO results. A file that is no photo is reported and does not stop the rest.
#[derive(Args)]
#[command(after_help = "\
JSON is one object a line and photo, people by falling score, in the photo's own pixels:
  {\"image\": path, \"width\": W, \"height\": H, \"people\": [
    {\"score\": s, \"bbox\": [x1, y1, x2, y2], \"keypoints\": [[x, y, score], ...]}]}

Without --model and --weights the first published checkpoint that is here is taken: rtmo-s, else the others in the order \
of 'rtmo-engine models'. If none is here, rtmo-s is fetched once from the authors' server, as one that is named with \
--model is; without a network the demonstration model is taken. The first line tells which.

Files appear complete or not at all, and none replaces what the run reads. A photo that cannot be read is reported, the others are done, and the exit status \
is 1. The milliseconds shown are from decoded photo to people, while other photos are read, written and, on a GPU, \
computed; 'rtmo-engine bench' measures properly.

Examples:
  rtmo-engine infer family.jpg
  rtmo-engine infer photos/ 'more/**/*.png' --no-draw --json people.jsonl
  rtmo-engine infer crowd.jpg --model rtmo-l --size 1280x960 --boxes --heatmaps
  find . -name '*.jpg' | rtmo-engine infer - --json - --no-draw | jq '.people | length'")]
pub struct Infer {
    /// Photos: files, folders (not their subfolders), patterns like '*.jpg' or 'folder/**/*'; '-' reads a list from
    /// standard input, a path a line
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    fetch: Fetch,
    /// Photos that are computed together
    #[arg(short, long, value_name = "N", default_value_t = 1, allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// Refuse photos of more pixels, before memory is taken for them; photos that are read, computed and drawn at the same
    /// time take 1 GB together, a larger one is alone
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_pixels as u64, allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(1..=MAX_PIXELS as u64))]
    max_pixels: u64,
    /// Score that a person must exceed [default: 0.1, with --compat rtmlib 0.7, of the demonstration model at least 0.5]
    #[arg(long, value_name = "0..1", value_parser = fraction, allow_negative_numbers = true, help_heading = "People")]
    score_thr: Option<f32>,
    /// Overlap (IoU) from which on the lesser of two people is dropped [default: 0.65, with --compat rtmlib 0.45]
    #[arg(long, value_name = "0..1", value_parser = fraction, allow_negative_numbers = true, help_heading = "People")]
    nms_thr: Option<f32>,
    /// At most N people a photo, best first
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "People")]
    max_people: Option<usize>,
    /// Whose geometry and thresholds: mmpose or rtmlib
    #[arg(long, value_name = "WHOSE", default_value = "mmpose", help_heading = "People")]
    compat: Compat,
    /// Folder for pictures; of what is there only earlier pictures are replaced
    #[arg(short, long, value_name = "DIR", default_value = "rtmo-out", help_heading = "Output")]
    out: PathBuf,
    /// Draw nothing
    #[arg(long, help_heading = "Output", conflicts_with_all = ["heatmaps", "boxes", "kpt_thr"])]
    no_draw: bool,
    /// Draw keypoints of at least this score
    #[arg(long, value_name = "0..1", value_parser = fraction, allow_negative_numbers = true, default_value_t = DrawOptions::default().keypoint_thr, help_heading = "Output")]
    kpt_thr: f32,
    /// Draw boxes and scores, too
    #[arg(long, help_heading = "Output")]
    boxes: bool,
    /// Draw another picture for each person: the 1-D heatmaps of the keypoints
    #[arg(long, help_heading = "Output")]
    heatmaps: bool,
    /// Write JSON lines: FILE is replaced when the run is complete; '-' gives them to standard output as they come
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    json: Option<PathBuf>,
    /// Write a COCO results array ('-' for standard output); an image's id is the number at the end of its name, as in 000000000785.jpg
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    coco: Option<PathBuf>,
    /// Take the ids for --coco from COCO annotations: the 'id' and 'file_name' of their 'images'
    #[arg(long, value_name = "FILE", help_heading = "Output", requires = "coco")]
    coco_images: Option<PathBuf>,
    /// Print warnings and errors only
    #[arg(short, long, help_heading = "Output")]
    quiet: bool,
}

/// Set by Ctrl-C.
static STOP: AtomicBool = AtomicBool::new(false);

fn stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// The first Ctrl-C ends the work in an orderly way after the photo at hand, the second at once.
fn catch_interrupts() -> Result<()> {
    let handler = || {
        if STOP.swap(true, Ordering::Relaxed) {
            remove_unfinished();
            std::process::exit(130);
        }
        super::terminal::complain("interrupted", "ending after the photo at hand; again to end at once");
    };
    ctrlc::set_handler(handler).map_err(|e| Error::Device(format!("cannot catch Ctrl-C: {e}")))
}

impl Infer {
    pub fn run(self) -> Ended {
        let mut terminal = Terminal::new(self.outputs().any(|(_, path)| path == Path::new("-")), self.quiet);
        let (photos, failed) = self.photos(&terminal)?;
        // What can fail for all photos fails before the first, and leaves nothing behind.
        let weights = self.fetch.checkpoint(&self.network, &mut terminal)?;
        let files = self.files(&photos, weights.path())?;
        let pictures = if self.no_draw { None } else { Some(self.pictures(&photos, &files)?) };
        let ids = self.coco.as_ref().map(|_| image_ids(self.coco_images.as_deref(), &photos)).transpose()?;
        catch_interrupts()?;

        let start = Instant::now();
        let mut tally = Tally { failed, ..Default::default() };
        let worked = thread::scope(|scope| -> Result<Results> {
            let workers = self.workers();
            let limits = Limits { max_pixels: self.max_pixels as usize };
            let incoming = decode_ahead(scope, &photos, workers, limits, self.budget());
            // While the first photo is decoded.
            let mut engine = self.engine(weights, &terminal)?;
            pictures.as_ref().map_or(Ok(()), Pictures::make_folder)?;
            // Perhaps in that folder.
            let mut results = Results::create(self.json.as_deref(), self.coco.as_deref().zip(ids))?;
            if photos.len() > 1 {
                terminal.progress(photos.len(), "photos");
            }
            let skeleton = Skeleton::of(engine.keypoints());
            let (terminal, pictures) = (&terminal, pictures.as_ref());
            let mut drawing = Vec::new();
            let to_draw = (0..workers).map(|_| {
                let (to_draw, outgoing) = sync_channel(1);
                drawing.push(scope.spawn(move || draw_all(outgoing, pictures, skeleton, terminal)));
                to_draw
            });
            let to_draw = to_draw.collect();
            let mut work =
                Work { paths: &photos, pictures, results: &mut results, tally: &mut tally, terminal };
            let worked = work.run(&mut engine, self.batch.into(), incoming, to_draw);
            for thread in drawing {
                let drawn = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                tally.failed += drawn?;
            }
            worked.map(|()| results)
        });
        terminal.finish();
        let results = worked?;
        if stopped() {
            terminal.complain("interrupted", self.interruption(&tally, photos.len()));
            return Ok(Outcome::Interrupted);
        }
        results.finish()?;
        self.conclude(&tally, (photos.len(), failed), start, &terminal)
    }

    /// The photos that the arguments mean, and how many arguments mean none, which is told.
    fn photos(&self, terminal: &Terminal) -> Result<(Vec<PathBuf>, usize)> {
        let sources = sources::expand(&self.paths, &mut std::io::stdin().lock());
        if !self.quiet {
            sources.notes.iter().for_each(|note| terminal.complain("note", note));
        }
        let mut errors = sources.errors.into_iter();
        let last = if sources.files.is_empty() { errors.next_back() } else { None };
        let failed = errors.len();
        errors.for_each(|error| terminal.complain("error", error));
        match last {
            Some(last) => Err(last),
            None if sources.files.is_empty() => Err(Error::Usage("the list names no photo".into())),
            None => Ok((sources.files, failed)),
        }
    }

    /// Options that name what they write.
    fn outputs(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let named = [("--json", &self.json), ("--coco", &self.coco)];
        named.into_iter().filter_map(|(option, path)| Some((option, path.as_deref()?)))
    }

    /// All files of the run but pictures.
    fn files(&self, photos: &[PathBuf], weights: &Path) -> Result<Files> {
        let mut files = Files::default();
        photos.iter().for_each(|photo| files.reads(photo, "a photo of this run"));
        files.reads(weights, "the weights");
        self.coco_images.iter().for_each(|annotations| files.reads(annotations, "what --coco-images reads"));
        self.outputs().try_for_each(|(option, path)| files.writes(path, option))?;
        Ok(files)
    }

    fn pictures(&self, photos: &[PathBuf], files: &Files) -> Result<Pictures> {
        let draw = DrawOptions::default().with_keypoint_thr(self.kpt_thr).with_boxes(self.boxes);
        Pictures::plan(&self.out, photos, draw, self.heatmaps, files)
    }

    /// What is done when the user has stopped the work, and what not.
    fn interruption(&self, tally: &Tally, photos: usize) -> String {
        let mut message = format!("{} of {photos} photos done", tally.photos);
        for (option, path) in self.outputs().filter(|(_, path)| *path != Path::new("-")) {
            message += &format!("; {} is not written", shown(path));
            if option == "--json" {
                message += " ('--json -' gives every line as it comes)";
            }
        }
        message
    }

    /// Last lines, and the exit status.
    fn conclude(
        &self,
        tally: &Tally,
        (photos, arguments_failed): (usize, usize),
        start: Instant,
        terminal: &Terminal,
    ) -> Ended {
        let Tally { photos: done, people, failed } = *tally;
        if photos > 1 {
            let (seconds, noun) = (start.elapsed().as_secs_f64(), if done == 1 { "photo" } else { "photos" });
            terminal.say(format!("{done} {noun}, {people} people, {seconds:.1} s"))?;
        }
        if done > 0 && !self.no_draw {
            terminal.say(format!("pictures are in {}", shown(&self.out.join(""))))?;
        }
        if failed > 0 {
            terminal.complain("error", format!("{failed} of {} failed", photos + arguments_failed));
            return Ok(Outcome::Incomplete);
        }
        Ok(Outcome::Done)
    }

    /// Threads that read photos, and as many that draw: one where the CPU computes, which needs its cores; where a GPU
    /// does, as many as it takes to keep that busy.
    fn workers(&self) -> usize {
        let threads = thread::available_parallelism().map_or(1, |n| n.get());
        let gpu = self.network.on_gpu(|| device::cuda().is_ok());
        if gpu { threads.clamp(1, 8) } else { 1 }
    }

    /// 1 GB; in large batches room for 8 megapixels a photo.
    fn budget(&self) -> Arc<Budget> {
        Budget::new((1 << 30).max(usize::from(self.batch) * (24 << 20)))
    }

    fn engine(&self, checkpoint: Checkpoint, terminal: &Terminal) -> Result<Engine> {
        let mut options = EngineOptions::default()
            .with_placement(self.network.placement())
            .with_compat(self.compat)
            .with_heatmaps(self.heatmaps);
        options.input_size = self.network.size;
        options.score_thr = Network::score_thr(&checkpoint, self.score_thr, self.compat);
        options.nms_thr = self.nms_thr;
        options.max_people = self.max_people;
        let engine = Engine::from_checkpoint(&checkpoint, options)?;
        for warning in self.network.fallback().into_iter().chain(self.network.crowded()) {
            terminal.complain("warning", warning);
        }
        let (w, h) = engine.input_size();
        let weights = shown(checkpoint.path());
        terminal.say(format!("{} {w}x{h}, {}, {weights}", engine.name(), engine.describe()))?;
        if let Some(remark) = Network::remark(&checkpoint, self.score_thr, self.compat) {
            terminal.say(remark)?;
        }
        Ok(engine)
    }
}

/// What photos become.
struct Work<'a> {
    paths: &'a [PathBuf],
    pictures: Option<&'a Pictures>,
    results: &'a mut Results,
    tally: &'a mut Tally,
    terminal: &'a Terminal,
}

impl Work<'_> {
    /// From decoded photos to numbers, and to what is drawn.
    fn run(
        &mut self,
        engine: &mut Engine,
        batch: usize,
        mut incoming: Photos,
        to_draw: Vec<SyncSender<Done>>,
    ) -> Result<()> {
        let mut begun: VecDeque<Begun> = VecDeque::new();
        loop {
            // As many batches ahead as the engine takes, but nobody waits for a photo while people are to be had.
            while begun.len() < engine.queue_depth() && !stopped() && (begun.is_empty() || incoming.ready()) {
                let Some(photos) = incoming.next_batch(batch) else { break };
                begun.push_back(Begun::new(engine, photos)?);
            }
            let Some(Begun { shares, complaints, start }) = begun.pop_front() else { return Ok(()) };
            complaints.into_iter().for_each(|(index, complaint)| self.complain(index, complaint));
            if shares.is_empty() {
                continue;
            }
            let Some((photos, found)) = engine.collect()? else { return Ok(()) };
            let ms = start.elapsed().as_secs_f64() * 1e3 / photos.len() as f64;
            for (((index, share), photo), people) in shares.into_iter().zip(photos).zip(found) {
                let done = Done { index, photo, people, share };
                self.note(&done, ms)?;
                if to_draw[index % to_draw.len()].send(done).is_err() {
                    // The other end has failed, and tells why itself.
                    return Ok(());
                }
            }
        }
    }

    /// Tells of a photo with a flaw, or of one that cannot be read.
    fn complain(&mut self, index: usize, complaint: Result<String>) {
        match complaint {
            Ok(warning) => {
                self.terminal.complain("warning", format!("{}: {warning}", shown(&self.paths[index])));
            }
            Err(error) => {
                self.terminal.complain("error", error);
                self.terminal.advance();
                self.tally.failed += 1;
            }
        }
    }

    /// Writes and tells who is on a photo.
    fn note(&mut self, Done { index, photo, people, .. }: &Done, ms: f64) -> Result<()> {
        let path = &self.paths[*index];
        let added = self.results.add(path, (photo.width, photo.height), people);
        self.tally.failed += forgive(self.terminal, added)?;
        self.tally.photos += 1;
        self.tally.people += people.len();
        let (n, noun) = (people.len(), if people.len() == 1 { "person" } else { "people" });
        let mut line = format!("{}: {n} {noun}, {ms:.1} ms", shown(path));
        if let Some(picture) = self.pictures.and_then(|pictures| pictures.renamed(*index)) {
            line += &format!(" -> {}", shown(&picture));
        }
        self.terminal.say(line)?;
        self.terminal.advance();
        Ok(())
    }
}

/// A batch that the engine works on.
struct Begun {
    /// Places in the list of the photos that could be read, and what they take of the budget.
    shares: Vec<(usize, Share)>,
    /// What is to be told of photos when it is their turn: warnings, and why one could not be read.
    complaints: Vec<(usize, Result<String>)>,
    start: Instant,
}

impl Begun {
    fn new(engine: &mut Engine, batch: Vec<Read>) -> Result<Begun> {
        let (mut shares, mut photos, mut complaints) = (Vec::new(), Vec::new(), Vec::new());
        for Read { index, decoded, share } in batch {
            match decoded {
                Ok(Decoded { photo, warnings }) => {
                    if !warnings.is_empty() {
                        complaints.push((index, Ok(warnings.join("; "))));
                    }
                    shares.push((index, share));
                    photos.push(photo);
                }
                Err(error) => complaints.push((index, Err(error))),
            }
        }
        let start = Instant::now();
        if !photos.is_empty() {
            engine.submit(photos)?;
        }
        Ok(Begun { shares, complaints, start })
    }
}

/// What has been done.
#[derive(Default)]
struct Tally {
    photos: usize,
    people: usize,
    failed: usize,
}

/// Draws what comes; returns how many pictures failed.
fn draw_all(
    from: Receiver<Done>,
    pictures: Option<&Pictures>,
    skeleton: Option<&Skeleton>,
    terminal: &Terminal,
) -> Result<usize> {
    let mut failed = 0;
    for done in from {
        let drawn = pictures.map_or(Ok(()), |pictures| pictures.draw(done, skeleton));
        failed += forgive(terminal, drawn)?;
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
