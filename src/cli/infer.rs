//! `rtmo-engine infer`

use super::options::{DEMO_SCORE_THR, Network};
use super::terminal::Terminal;
use super::{Ended, Outcome};
use clap::Args;
use rtmo_engine::atomic_file::{AtomicFile, remove_unfinished};
use rtmo_engine::backend::{Device, device};
use rtmo_engine::output::{CocoWriter, ImageIds, write_json_line};
use rtmo_engine::vision::decode::{self, Decoded};
use rtmo_engine::vision::draw::{DrawOptions, draw_heatmaps, draw_people};
use rtmo_engine::vision::{Skeleton, encode, sources};
use rtmo_engine::{Compat, Engine, EngineOptions, Error, Person, Photo, Result};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{BufWriter, ErrorKind, Stdout};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

/// Finds the people on photos: draws them into a folder, and writes them as JSON or COCO results.
#[derive(Args)]
#[command(after_help = "\
JSON is one object a line and photo, people by falling score, in the photo's own pixels:
  {\"image\": path, \"width\": W, \"height\": H, \"people\": [
    {\"score\": s, \"bbox\": [x1, y1, x2, y2], \"keypoints\": [[x, y, score], ...]}]}

Files appear complete or not at all. A photo that cannot be read is reported, the others are done, and the exit status \
is 1. The milliseconds shown are from decoded photo to people, while other photos are read, written and, on a GPU, \
computed; 'rtmo-engine bench' measures properly.

Examples:
  rtmo-engine infer family.jpg
  rtmo-engine infer photos/ 'more/**/*.png' --no-draw --json people.jsonl
  rtmo-engine infer crowd.jpg --model rtmo-l --size 1280x960 --boxes --heatmaps
  find . -name '*.jpg' | rtmo-engine infer - --json - --no-draw | jq '.people | length'")]
pub struct Infer {
    /// Photos: files, folders, patterns like '*.jpg'; '-' reads a list from standard input
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    network: Network,
    /// Photos that are computed together
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// Score that a person must exceed [default: 0.1, with --compat rtmlib 0.7]
    #[arg(long, value_name = "0..1", help_heading = "People")]
    score_thr: Option<f32>,
    /// Overlap (IoU) from which on the lesser of two people is dropped [default: 0.65, with --compat rtmlib 0.45]
    #[arg(long, value_name = "0..1", help_heading = "People")]
    nms_thr: Option<f32>,
    /// At most N people a photo, best first
    #[arg(long, value_name = "N", help_heading = "People")]
    max_people: Option<usize>,
    /// Whose geometry and thresholds: mmpose or rtmlib
    #[arg(long, value_name = "WHOSE", default_value = "mmpose", help_heading = "People")]
    compat: Compat,
    /// Folder for pictures
    #[arg(short, long, value_name = "DIR", default_value = "rtmo-out", help_heading = "Output")]
    out: PathBuf,
    /// Draw nothing
    #[arg(long, help_heading = "Output", conflicts_with_all = ["heatmaps", "boxes", "kpt_thr"])]
    no_draw: bool,
    /// Draw keypoints of at least this score
    #[arg(long, value_name = "0..1", default_value_t = DrawOptions::default().keypoint_thr, help_heading = "Output")]
    kpt_thr: f32,
    /// Draw boxes and scores, too
    #[arg(long, help_heading = "Output")]
    boxes: bool,
    /// Draw another picture for each person: the 1-D heatmaps of the keypoints
    #[arg(long, help_heading = "Output")]
    heatmaps: bool,
    /// Write JSON lines; '-' for standard output
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    json: Option<PathBuf>,
    /// Write a COCO results array; an image's id is the number at the end of its name, as in 000000000785.jpg
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
        let json_to_stdout = self.json.as_deref() == Some(Path::new("-"));
        let mut terminal = Terminal::new(json_to_stdout, self.quiet);
        let sources = sources::expand(&self.paths, &mut std::io::stdin().lock());
        let mut errors = sources.errors.into_iter();
        if sources.files.is_empty() {
            let Some(last) = errors.next_back() else {
                return Err(Error::Usage("the list names no photo".into()));
            };
            errors.for_each(|error| terminal.complain("error", error));
            return Err(last);
        }
        let (failed, asked) = (errors.len(), errors.len() + sources.files.len());
        errors.for_each(|error| terminal.complain("error", error));

        // What can fail for all photos fails before the first.
        let files = sources.files;
        let pictures = if self.no_draw { None } else { Some(Pictures::new(&self, &files)?) };
        let mut results = Results::new(&self, &files)?;
        catch_interrupts()?;

        let start = Instant::now();
        let mut tally = Tally { failed, ..Default::default() };
        let done = thread::scope(|scope| -> Result<()> {
            let workers = self.workers();
            let incoming = decode_ahead(scope, &files, workers);
            // While the first photo is decoded.
            let mut engine = self.engine(&terminal)?;
            if files.len() > 1 {
                terminal.progress(files.len());
            }
            let skeleton = Skeleton::of(engine.keypoints());
            let (terminal, pictures) = (&terminal, pictures.as_ref());
            let mut drawing = Vec::new();
            let to_draw = (0..workers).map(|_| {
                let (to_draw, outgoing) = sync_channel(1);
                drawing.push(scope.spawn(move || draw_all(outgoing, pictures, skeleton, terminal)));
                to_draw
            });
            let ends = (incoming, to_draw.collect());
            let worked = self.work(&mut engine, &files, ends, &mut results, &mut tally, terminal);
            for thread in drawing {
                let drawn = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                tally.failed += drawn?;
            }
            worked
        });
        terminal.finish();
        done?;
        let Tally { photos, people, failed } = tally;
        if stopped() {
            let mut message = format!("{photos} of {} photos done", files.len());
            for path in [&self.json, &self.coco].into_iter().flatten().filter(|path| *path != Path::new("-"))
            {
                message += &format!("; {} is not written", path.display());
            }
            terminal.complain("interrupted", message);
            return Ok(Outcome::Interrupted);
        }
        results.finish()?;
        if files.len() > 1 {
            let (seconds, noun) =
                (start.elapsed().as_secs_f64(), if photos == 1 { "photo" } else { "photos" });
            terminal.say(format!("{photos} {noun}, {people} people, {seconds:.1} s"))?;
        }
        if photos > 0 && pictures.is_some() {
            terminal.say(format!("pictures are in {}", self.out.join("").display()))?;
        }
        if failed > 0 {
            terminal.complain("error", format!("{failed} of {asked} failed"));
            return Ok(Outcome::Incomplete);
        }
        Ok(Outcome::Done)
    }

    /// From decoded photos to numbers, and to what is drawn.
    fn work(
        &self,
        engine: &mut Engine,
        files: &[PathBuf],
        (mut incoming, to_draw): (Photos, Vec<SyncSender<Done>>),
        results: &mut Results,
        tally: &mut Tally,
        terminal: &Terminal,
    ) -> Result<()> {
        let mut begun: VecDeque<Begun> = VecDeque::new();
        loop {
            // As many batches ahead as the engine takes, but nobody waits for a photo while people are to be had.
            while begun.len() < engine.ahead() && !stopped() && (begun.is_empty() || incoming.ready()) {
                let Some(batch) = next_batch(&mut incoming, self.batch.into()) else { break };
                begun.push_back(Begun::new(engine, batch)?);
            }
            let Some(Begun { indices, complaints, start }) = begun.pop_front() else { return Ok(()) };
            for (index, complaint) in complaints {
                match complaint {
                    Ok(warning) => {
                        terminal.complain("warning", format!("{}: {warning}", files[index].display()));
                    }
                    Err(error) => {
                        terminal.complain("error", error);
                        terminal.advance();
                        tally.failed += 1;
                    }
                }
            }
            if indices.is_empty() {
                continue;
            }
            let Some((photos, found)) = engine.collect()? else { return Ok(()) };
            let ms = start.elapsed().as_secs_f64() * 1e3 / photos.len() as f64;
            for ((index, photo), people) in indices.into_iter().zip(photos).zip(found) {
                let path = &files[index];
                let size = (photo.width, photo.height);
                tally.failed += forgive(terminal, results.add(path, size, &people))?;
                tally.photos += 1;
                tally.people += people.len();
                let (n, noun) = (people.len(), if people.len() == 1 { "person" } else { "people" });
                terminal.say(format!("{}: {n} {noun}, {ms:.1} ms", path.display()))?;
                terminal.advance();
                if to_draw[index % to_draw.len()].send(Done { index, photo, people }).is_err() {
                    // The other end has failed, and tells why itself.
                    return Ok(());
                }
            }
        }
    }

    /// Threads that read photos, and as many that draw: one where the CPU computes, which needs its cores; where a GPU
    /// does, as many as it takes to keep that busy.
    fn workers(&self) -> usize {
        let cpu = self.network.device == Device::Cpu || device::cuda().is_err();
        let threads = thread::available_parallelism().map_or(1, |n| n.get());
        if cpu { 1 } else { threads.clamp(1, 8) }
    }

    /// Ids of all the photos for COCO results, each with one of its own.
    fn image_ids(&self, files: &[PathBuf]) -> Result<ImageIds> {
        let ids = match &self.coco_images {
            Some(annotations) => ImageIds::from_annotations(annotations)?,
            None => ImageIds::from_names(),
        };
        let mut taken = HashMap::new();
        for file in files {
            let id = ids.of(file).map_err(|error| match self.coco_images {
                Some(_) => Error::Usage(error.to_string()),
                None => Error::Usage(format!(
                    "{}: --coco takes an image's id from the number at the end of its name, and there is none; \
                     --coco-images FILE takes ids from COCO annotations",
                    file.display()
                )),
            })?;
            if let Some(other) = taken.insert(id, file) {
                let (other, file) = (other.display(), file.display());
                return Err(Error::Usage(format!("{other} and {file} have the same COCO image id, {id}")));
            }
        }
        Ok(ids)
    }

    fn engine(&self, terminal: &Terminal) -> Result<Engine> {
        let (checkpoint, warning) = self.network.checkpoint()?;
        let options = EngineOptions {
            input_size: self.network.size,
            placement: self.network.placement(),
            compat: self.compat,
            score_thr: self.score_thr.or(Network::is_demo(&checkpoint).then_some(DEMO_SCORE_THR)),
            nms_thr: self.nms_thr,
            max_people: self.max_people,
            force_people: None,
            heatmaps: self.heatmaps,
        };
        let engine = Engine::from_checkpoint(&checkpoint, options)?;
        if let Some(warning) = warning {
            terminal.complain("warning", warning);
        }
        let (w, h) = engine.input_size();
        let weights = checkpoint.path().display();
        terminal.say(format!("{} {w}x{h}, {}, {weights}", engine.name(), engine.describe()))?;
        if let Some(remark) = Network::remark(&checkpoint) {
            terminal.say(remark)?;
        }
        Ok(engine)
    }
}

/// A batch that the engine works on.
struct Begun {
    /// Places in the list of the photos that could be read.
    indices: Vec<usize>,
    /// What is to be told of photos when it is their turn: warnings, and why one could not be read.
    complaints: Vec<(usize, Result<String>)>,
    start: Instant,
}

impl Begun {
    fn new(engine: &mut Engine, batch: Vec<(usize, Result<Decoded>)>) -> Result<Begun> {
        let (mut indices, mut photos, mut complaints) = (Vec::new(), Vec::new(), Vec::new());
        for (index, decoded) in batch {
            match decoded {
                Ok(Decoded { photo, warning }) => {
                    complaints.extend(warning.map(|w| (index, Ok(w))));
                    indices.push(index);
                    photos.push(photo);
                }
                Err(error) => complaints.push((index, Err(error))),
            }
        }
        let start = Instant::now();
        if !photos.is_empty() {
            engine.submit(photos)?;
        }
        Ok(Begun { indices, complaints, start })
    }
}

/// A photo whose people are known.
struct Done {
    index: usize,
    photo: Photo,
    people: Vec<Person>,
}

/// What has been done.
#[derive(Default)]
struct Tally {
    photos: usize,
    people: usize,
    failed: usize,
}

/// Starts threads that read the photos, each every so many, and hold at most two until somebody wants them.
fn decode_ahead<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    files: &'scope [PathBuf],
    workers: usize,
) -> Photos {
    let worker = |first: usize| {
        let (to, from) = sync_channel(1);
        scope.spawn(move || {
            for (index, path) in files.iter().enumerate().skip(first).step_by(workers) {
                if stopped() || to.send((index, decode::open(path))).is_err() {
                    return;
                }
            }
        });
        from
    };
    Turns { from: (0..workers).map(worker).collect(), next: 0, seen: None }
}

/// What is read, with its place in the list.
type Photos = Turns<(usize, Result<Decoded>)>;

/// What several threads send, one after the other in turn: as ordered as if one had sent all.
struct Turns<T> {
    from: Vec<Receiver<T>>,
    next: usize,
    /// What has been taken to see whether it is there.
    seen: Option<T>,
}

impl<T> Turns<T> {
    /// Whether there is a next one, and it is there.
    fn ready(&mut self) -> bool {
        if self.seen.is_none() {
            self.seen = self.from[self.next].try_recv().ok();
        }
        self.seen.is_some()
    }
}

impl<T> Iterator for Turns<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let next = self.seen.take().or_else(|| self.from[self.next].recv().ok());
        self.next = (self.next + 1) % self.from.len();
        next
    }
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

/// The next `most` photos, fewer at the end.
fn next_batch<T>(from: &mut Turns<T>, most: usize) -> Option<Vec<T>> {
    let batch: Vec<T> = from.take(most).collect();
    if batch.is_empty() { None } else { Some(batch) }
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

/// Where each photo's picture goes.
struct Pictures {
    paths: Vec<PathBuf>,
    options: DrawOptions,
    heatmaps: bool,
}

impl Pictures {
    /// Makes the folder, and gives every photo a picture of its own, which is no photo.
    fn new(options: &Infer, files: &[PathBuf]) -> Result<Pictures> {
        let folder = &options.out;
        std::fs::create_dir_all(folder).map_err(Error::io("cannot make the folder", folder))?;
        // Whether it can be written is known only by writing.
        drop(AtomicFile::create(folder.join(".rtmo-engine"))?);
        let folder = folder.canonicalize().map_err(Error::io("cannot find the folder", folder))?;
        let mut taken = HashSet::new();
        let mut paths = Vec::with_capacity(files.len());
        for file in files {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy();
            let png = file.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("png"));
            let suffix = if png { "png" } else { "jpg" };
            let names = (1..).map(|n| match n {
                1 => format!("{stem}.{suffix}"),
                _ => format!("{stem}-{n}.{suffix}"),
            });
            let mut names = names.filter(|name| taken.insert(name.to_lowercase()));
            let path = folder.join(names.next().expect("endless"));
            if let (Ok(photo), Ok(picture)) = (file.canonicalize(), path.canonicalize())
                && photo == picture
            {
                let what =
                    format!("{}: the picture would replace the photo; give another --out", file.display());
                return Err(Error::Usage(what));
            }
            paths.push(path);
        }
        let draw = DrawOptions { keypoint_thr: options.kpt_thr, boxes: options.boxes, ..Default::default() };
        Ok(Pictures { paths, options: draw, heatmaps: options.heatmaps })
    }

    fn draw(&self, done: Done, skeleton: Option<&Skeleton>) -> Result<()> {
        let Done { index, mut photo, people } = done;
        let path = &self.paths[index];
        if self.heatmaps {
            for (i, person) in people.iter().enumerate() {
                if let Some(page) = draw_heatmaps(&photo, person, skeleton) {
                    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                    encode::save(&page, path.with_file_name(format!("{stem}.person{}.png", i + 1)))?;
                }
            }
        }
        draw_people(&mut photo, &people, skeleton, &self.options);
        encode::save(&photo, path)
    }
}

/// Where numbers go.
struct Results {
    json: Option<Json>,
    coco: Option<(PathBuf, CocoWriter<AtomicFile>)>,
}

enum Json {
    Stdout(BufWriter<Stdout>),
    File(AtomicFile),
}

impl Results {
    fn new(options: &Infer, files: &[PathBuf]) -> Result<Results> {
        let json = match options.json.as_deref() {
            Some(path) if path == Path::new("-") => Some(Json::Stdout(BufWriter::new(std::io::stdout()))),
            Some(path) => Some(Json::File(AtomicFile::create(path)?)),
            None => None,
        };
        let coco = options.coco.as_ref().map(|path| -> Result<_> {
            let ids = options.image_ids(files)?;
            Ok((path.clone(), CocoWriter::new(AtomicFile::create(path)?, ids)))
        });
        Ok(Results { json, coco: coco.transpose()? })
    }

    fn add(&mut self, path: &Path, size: (usize, usize), people: &[Person]) -> Result<()> {
        match &mut self.json {
            Some(Json::Stdout(out)) => {
                write_json_line(out, path, size, people)?;
                std::io::Write::flush(out).map_err(Error::io("cannot write", "standard output"))?;
            }
            Some(Json::File(file)) => write_json_line(file, path, size, people)?,
            None => {}
        }
        match &mut self.coco {
            Some((_, coco)) => coco.add(path, people),
            None => Ok(()),
        }
    }

    fn finish(self) -> Result<()> {
        if let Some(Json::File(file)) = self.json {
            file.commit()?;
        }
        if let Some((path, coco)) = self.coco {
            coco.finish().map_err(Error::io("cannot write", path))?.commit()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn photos_come_in_order_however_many_threads_read_them() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = (1..=11).map(|i| folder.path().join(format!("{i}.png"))).collect();
        for (i, file) in files.iter().enumerate() {
            match i {
                3 => std::fs::write(file, b"no photo").unwrap(),
                // The first ones take longest.
                _ => encode::save(&Photo::filled(i + 1, 600 - 50 * i, [9; 3]), file).unwrap(),
            }
        }
        for workers in [1, 2, 3, 16] {
            thread::scope(|scope| {
                let mut turns = decode_ahead(scope, &files, workers);
                let mut seen = 0;
                loop {
                    // To ask whether the next is there loses none.
                    turns.ready();
                    let Some(batch) = next_batch(&mut turns, 4) else { break };
                    for (index, decoded) in batch {
                        assert_eq!(index, seen, "{workers} workers");
                        assert_eq!(decoded.map(|d| d.photo.width).ok(), (index != 3).then_some(index + 1));
                        seen += 1;
                    }
                }
                assert_eq!(seen, files.len());
                // Whoever wants no more leaves nobody waiting: the scope ends.
                drop(decode_ahead(scope, &files, workers).next());
            });
        }
    }
}
