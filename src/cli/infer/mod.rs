//! `rtmo-engine infer`

pub(in crate::cli) mod budget;
pub(in crate::cli) mod clip;
pub(in crate::cli) mod footage;
mod identities;
mod list;
pub(in crate::cli) mod pictures;
pub(in crate::cli) mod reading;
mod results;
pub(in crate::cli) mod sources;
pub(in crate::cli) mod turns;
pub(in crate::cli) mod work;

use super::fetch::Fetch;
use super::files::Files;
use super::options::{Network, PeopleOptions, fraction};
use super::terminal::Terminal;
use super::video::{Footage, Range, count_frames, end_all};
use super::{Ended, Outcome};
use budget::Budget;
use clap::Args;
use clip::Clips;
use footage::{FootageOptions, Shard};
use identities::IdentityOptions;
use pictures::{Drawing, Pictures};
use reading::decode_ahead;
use results::{About, Format, Results, image_ids};
use rtmo_engine::atomic_file::remove_unfinished;
use rtmo_engine::backend::device;
use rtmo_engine::output::ImageIds;
use rtmo_engine::vision::decode::{Limits, MAX_PIXELS};
use rtmo_engine::weights::{Checkpoint, score_thr};
use rtmo_engine::{DrawOptions, Engine, Error, Result, Skeleton, shown};
use sources::{Item, Known, Sources};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;
use turns::Turns;
use work::{Tally, Work, draw_all};

/// Find the people on photos and in videos; draw them, or write them as JSON
///
/// Photos and clips are files, folders and patterns; cameras and streams have names such as cam:0 and rtsp://host/path. People
/// are drawn into copies in a folder, and on request written as JSON and in other formats. A file that is neither
/// photo nor clip is reported and does not stop the rest. Videos need the program ffmpeg.
#[derive(Args)]
#[command(after_help = "\
--format says what is written; docs/formats.md describes each format. JSON is one object a line and photo or frame, people by \
falling score, in the photo's own pixels:
  {\"version\": 1, \"image\": path, \"width\": W, \"height\": H, \"people\": [
    {\"score\": s, \"bbox\": [x1, y1, x2, y2], \"keypoints\": [[x, y, score], ...]}]}
Frames of clips also have \"frame\", their number from 0, and \"time\" in seconds; with --track people have an \"id\". \
With --skeleton, \"keypoint_names\" are the names. A path that is no UTF-8 text also has its bytes, in \"image_hex\". \
\"not_finite\" counts people whose numbers are not finite: then the weights are broken.

Without --model and --weights the first published checkpoint that is here is taken: rtmo-s, else the others in the order \
of 'rtmo-engine models'. If none is here, rtmo-s is fetched once from the authors' server, as one that is named with \
--model is; without a network the demonstration model is taken. The first line tells which.

Frames keep the times that they have in the file, also where the rate varies; phone clips are upright. An annotated clip \
has the times, the sound and the length of its source. Of a camera or stream the newest frame is taken, and how many were \
dropped for it is said. Ctrl-C ends a clip after the frame at hand, and what is written plays. RTMO_FFMPEG names another \
ffmpeg than the one on PATH.

Files appear complete or not at all, and none replaces what the run reads. A photo that cannot be read is reported, the others are done, and the exit status \
is 1. The milliseconds shown are from decoded photo to people, while other photos are read, written and, on a GPU, \
computed; 'rtmo-engine bench' measures properly.

Examples:
  rtmo-engine infer family.jpg
  rtmo-engine infer photos/ 'more/**/*.png' --no-draw --json people.jsonl
  rtmo-engine infer crowd.jpg --model rtmo-l --size 1280x960 --boxes --heatmaps
  rtmo-engine infer walk.mp4 --track --smooth --json people.jsonl
  rtmo-engine infer cam:0 --show --no-draw
  ffmpeg -i x.mov -f rawvideo -pix_fmt bgr24 - | rtmo-engine infer - --raw 1280x720:bgr24@30 --json -
  find . -name '*.jpg' | rtmo-engine infer - --json - --no-draw | jq '.people | length'
  find . -name '*.jpg' -print0 | rtmo-engine infer - --null
  curl -s https://example.org/a.jpg | rtmo-engine infer -")]
pub struct Infer {
    /// Photos and clips: files, folders, patterns like '*.jpg' or 'folder/**'; cam:N, rtsp://... and other addresses; '-' reads
    /// a list from standard input, a path a line, and does each as its line arrives; or the photo or clip that it holds
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Take photos and clips of subfolders, too
    #[arg(short, long)]
    recursive: bool,
    /// Names in the list end in zero bytes, as 'find -print0' writes them
    #[arg(short = '0', long)]
    null: bool,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    fetch: Fetch,
    #[command(flatten)]
    footage: FootageOptions,
    #[command(flatten)]
    identities: IdentityOptions,
    /// Photos that are computed together
    #[arg(short, long, value_name = "N", default_value_t = 1, allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// Refuse photos of more pixels, before memory is taken for them; photos that are read, computed and drawn at the same
    /// time take 1 GB together, a larger one is alone
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_pixels as u64, allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(1..=MAX_PIXELS as u64))]
    max_pixels: u64,
    #[command(flatten)]
    people: PeopleOptions,
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
    /// Write a COCO results array ('-' for standard output); an image's id is the number that its name is, as in
    /// 000000000785.jpg and COCO_val2014_000000000785.jpg
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    coco: Option<PathBuf>,
    /// Write results in these formats, each to its own file in the folder of --out
    #[arg(long, value_name = "FORMAT,..", help_heading = "Output", value_delimiter = ',')]
    format: Vec<Format>,
    /// Take the ids of COCO results from COCO annotations: the 'id' and 'file_name' of their 'images'
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    coco_images: Option<PathBuf>,
    /// Take the skeleton from a JSON file: names of keypoints, bones and colours for drawing, and names in JSON lines. Read are
    /// {"keypoints": ["wrist", ...], "bones": [["wrist", "elbow"], ...]} and an entry of COCO's 'categories'
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    skeleton: Option<PathBuf>,
    /// Print warnings and errors only
    #[arg(short, long, help_heading = "Output")]
    quiet: bool,
}

/// Set by Ctrl-C.
static STOP: AtomicBool = AtomicBool::new(false);

pub(in crate::cli) fn stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// The first Ctrl-C ends the work in an orderly way after the photo at hand, the second at once.
pub(in crate::cli) fn catch_interrupts() -> Result<()> {
    let handler = || {
        if STOP.swap(true, Ordering::Relaxed) {
            end_all();
            remove_unfinished();
            std::process::exit(130);
        }
        super::terminal::complain("interrupted", "ending after the photo at hand; again to end at once");
    };
    ctrlc::set_handler(handler).map_err(|e| Error::Device(format!("cannot catch Ctrl-C: {e}")))
}

impl Infer {
    pub fn run(self) -> Ended {
        // Lines for people go to standard error: standard output is for data.
        let mut terminal = Terminal::new(true, self.quiet);
        let draw = !self.no_draw;
        let Expanded { known, items, waits, failed } = self.photos(&terminal)?;
        let clips = known.iter().any(Known::is_clip);
        // What can fail for all photos fails before the first, and leaves nothing behind.
        self.footage.check(draw, clips)?;
        self.identities.check(known.iter().any(|known| !known.is_clip()))?;
        let mut identities = self.identities.begin()?;
        let skeleton = self.skeleton.as_deref().map(Skeleton::open).transpose()?;
        let weights = self.fetch.checkpoint(&self.network, &mut terminal)?;
        let mut files = self.files(&known, weights.path())?;
        let plan = || Pictures::plan(&self.out, &known, self.heatmaps, &files);
        let mut pictures = draw.then(plan).transpose()?;
        let ids = self.ids(&known)?;
        catch_interrupts()?;

        let start = Instant::now();
        let workers = self.network.workers();
        let limits = Limits { max_pixels: self.max_pixels as usize };
        let turns = Arc::new(Turns::new(self.network.needs_all_cpus()));
        let budget = Budget::of_batch(self.batch.into());
        let photos = decode_ahead(items, waits, workers, limits, budget, turns.clone());
        // While the first photo is decoded.
        let mut engine = self.engine(weights, &terminal)?;
        if let Some(skeleton) = skeleton.as_ref().filter(|skeleton| skeleton.len() != engine.keypoints()) {
            let (path, n) = (self.skeleton.as_deref().unwrap_or(Path::new("")), skeleton.len());
            let expected = engine.keypoints();
            let what = format!("{}: {n} keypoints, expected {expected}, as the model has", shown(path));
            return Err(Error::Usage(what));
        }
        pictures.as_ref().map_or(Ok(()), Pictures::make_folder)?;
        // Perhaps in that folder.
        if !self.format.is_empty() {
            std::fs::create_dir_all(&self.out).map_err(Error::io("cannot make the folder", &self.out))?;
        }
        let about =
            About { keypoints: engine.keypoints(), own: skeleton.as_ref(), keypoint_thr: self.kpt_thr };
        let mut results = Results::default();
        for (_, format, path) in self.outputs() {
            let ids = ids.clone().filter(|_| format == Format::Coco);
            results.add(format, &path, ids, &about)?;
        }
        match known.len() {
            // A list may go on for ever.
            0 => terminal.progress(None, "photos"),
            1 => {}
            n => terminal.progress(Some(n), "photos"),
        }
        let drawing = Drawing {
            options: DrawOptions::default().with_keypoint_thr(self.kpt_thr).with_boxes(self.boxes),
            heatmaps: self.heatmaps,
            skeleton: skeleton.as_ref().or_else(|| Skeleton::of(engine.keypoints())),
        };
        let range = self.range(&known)?;
        if self.heatmaps && clips {
            terminal.note("--heatmaps draws pages of photos; clips get none");
        }
        let clips = Clips {
            options: &self.footage,
            drawing,
            batch: self.batch.into(),
            max_pixels: self.max_pixels as usize,
            range,
            cpu: !self.network.on_gpu(|| device::cuda().is_ok()),
        };
        let mut tally = Tally { failed, ..Default::default() };
        let worked = thread::scope(|scope| -> Result<usize> {
            let (terminal, turns) = (&terminal, &*turns);
            let mut threads = Vec::new();
            let to_draw = (0..workers).map(|_| {
                let (to_draw, outgoing) = sync_channel(1);
                threads.push(scope.spawn(move || draw_all(outgoing, drawing, turns, terminal)));
                to_draw
            });
            let to_draw = to_draw.collect();
            let (results, tally) = (&mut results, &mut tally);
            let (pictures, files) = (pictures.as_mut(), &mut files);
            let mut work = Work {
                pictures,
                files,
                identities: identities.as_mut(),
                results,
                tally,
                terminal,
                to_draw,
                drawn: 0,
                before: 0,
                broken: false,
            };
            let worked = work.run(&mut engine, photos, &clips);
            // The threads that draw end with their senders.
            work.to_draw.clear();
            for thread in threads {
                let drawn = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                work.tally.failed += drawn?;
            }
            worked
        });
        terminal.finish();
        let listed = worked?;
        if stopped() {
            terminal.complain("interrupted", self.interruption(&tally, listed.max(known.len())));
            return Ok(Outcome::Interrupted);
        }
        if listed == 0 {
            return Err(Error::Usage("the list names no photo and no clip".into()));
        }
        results.finish()?;
        self.conclude(&tally, listed + failed, start, &terminal)
    }

    /// The photos that the arguments mean. Arguments that mean none are told, unless a list is among them: that is read while
    /// the photos are done.
    fn photos(&self, terminal: &Terminal) -> Result<Expanded> {
        let waits = Arc::new(AtomicBool::new(false));
        let stdin = || -> Box<dyn std::io::Read + Send> { Box::new(std::io::stdin()) };
        let (recursive, null) = (self.recursive, self.null);
        let raw = self.footage.raw;
        let options = sources::Options { recursive, null, raw, stdin, waits: waits.clone() };
        let sources = Sources::new(&self.paths, options);
        if self.paths.iter().any(|path| path == Path::new("-")) {
            let items: Box<dyn Iterator<Item = Item> + Send> = match self.footage.shard {
                Some(shard) => Box::new(part(sources, shard)),
                None => Box::new(sources),
            };
            return Ok(Expanded { known: Vec::new(), items, waits, failed: 0 });
        }
        for (given, option, what) in
            [(self.null, "--null", "the list"), (raw.is_some(), "--raw", "the frames")]
        {
            if given {
                return Err(Error::Usage(format!(
                    "{option} is for {what} that '-' reads, and no PATH is '-'"
                )));
            }
        }
        let (mut known, mut errors) = (Vec::new(), Vec::new());
        for item in sources {
            match item {
                Item::File(path) => known.push(Known::Photo(path)),
                Item::Clip(clip) => known.push(Known::Clip(clip.footage)),
                Item::Error(error) => errors.push(error),
                Item::Note(note) => terminal.note(note),
                Item::Photo(_) => unreachable!("no argument is standard input"),
            }
        }
        // Of one clip, frames are the parts.
        let one_clip = matches!(&known[..], [Known::Clip(Footage::File(_))]);
        if let Some(shard) = self.footage.shard.filter(|_| !one_clip && !known.is_empty()) {
            let mut index = 0..;
            known.retain(|_| index.next().is_some_and(|index| shard.has(index)));
            if known.is_empty() && errors.is_empty() {
                return Err(Error::Usage(
                    "--shard: this part has no photo: there are fewer photos than parts".into(),
                ));
            }
        }
        let mut errors = errors.into_iter();
        let last = if known.is_empty() { errors.next_back() } else { None };
        let failed = errors.len();
        errors.for_each(|error| terminal.complain("error", error));
        match last {
            Some(last) => Err(last),
            None => {
                let items: Vec<Item> = known.iter().map(Known::item).collect();
                let items = Box::new(items.into_iter());
                Ok(Expanded { known, items, waits, failed })
            }
        }
    }

    /// The frames of this part, where a run does a part of one clip.
    fn range(&self, known: &[Known]) -> Result<Range> {
        match (self.footage.shard, known) {
            (Some(shard), [Known::Clip(footage @ Footage::File(_))]) => {
                let settings = self.footage.settings(Range::default(), self.max_pixels as usize, true);
                Ok(shard.range(count_frames(footage, &settings)?))
            }
            _ => Ok(Range::default()),
        }
    }

    /// Options that name what they write.
    fn outputs(&self) -> impl Iterator<Item = (&'static str, Format, PathBuf)> {
        let named = [("--json", Format::Jsonl, &self.json), ("--coco", Format::Coco, &self.coco)];
        let named =
            named.into_iter().filter_map(|(option, format, path)| Some((option, format, path.clone()?)));
        named.chain(self.format.iter().map(|format| ("--format", *format, format.path(&self.out))))
    }

    /// Ids of images, if there are to be COCO results.
    ///
    /// # Errors
    /// If no photo has one; if ids could not be told apart.
    fn ids(&self, known: &[Known]) -> Result<Option<ImageIds>> {
        if !self.outputs().any(|(_, format, _)| format == Format::Coco) {
            return match self.coco_images {
                Some(_) => Err(Error::Usage(
                    "--coco-images is for COCO results: add --coco FILE or --format coco".into(),
                )),
                None => Ok(None),
            };
        }
        if let Some(Known::Clip(clip)) =
            known.iter().find(|known| known.is_clip()).filter(|_| known.len() > 1)
        {
            return Err(Error::Usage(format!(
                "{}: in COCO results a frame's id is its number, so that they hold the frames of one clip and nothing else",
                shown(&clip.name())
            )));
        }
        let photos: Vec<PathBuf> = known.iter().filter(|known| !known.is_clip()).map(Known::path).collect();
        image_ids(self.coco_images.as_deref(), &photos).map(Some)
    }

    /// All files of the run but pictures.
    fn files(&self, known: &[Known], weights: &Path) -> Result<Files> {
        let mut files = Files::default();
        for known in known {
            match known {
                Known::Photo(photo) => files.reads(photo, "a photo of this run"),
                Known::Clip(Footage::File(clip)) => files.reads(clip, "a clip of this run"),
                Known::Clip(_) => {}
            }
        }
        files.reads(weights, "the weights");
        self.coco_images.iter().for_each(|annotations| files.reads(annotations, "what --coco-images reads"));
        self.outputs().try_for_each(|(option, _, path)| files.writes(&path, option))?;
        Ok(files)
    }

    /// What is done when the user has stopped the work, and what not.
    fn interruption(&self, tally: &Tally, photos: usize) -> String {
        let mut message = match tally.frames {
            0 => format!("{} of {photos} photos done", tally.photos),
            _ => format!("{} done", tally.done()),
        };
        // OpenPose's files are one a photo, and there.
        let whole = |format| !matches!(format, Format::Openpose | Format::OpenposeCoco);
        for (_, format, path) in
            self.outputs().filter(|(_, format, path)| path != Path::new("-") && whole(*format))
        {
            message += &format!("; {} is not written", shown(&path));
            if format == Format::Jsonl {
                message += " ('--json -' gives every line as it comes)";
            }
        }
        message
    }

    /// Last lines, and the exit status. `listed` counts photos, and arguments that mean none.
    fn conclude(&self, tally: &Tally, listed: usize, start: Instant, terminal: &Terminal) -> Ended {
        let Tally { photos, frames, people, failed } = *tally;
        let seconds = start.elapsed().as_secs_f64();
        if listed > 1 {
            let done = tally.done();
            terminal.say(format!("{done}, {people} people, {seconds:.1} s"))?;
        }
        if photos + frames > 0 && !self.no_draw {
            terminal.say(format!("pictures are in {}", shown(&self.out.join(""))))?;
        }
        if failed > 0 {
            terminal.complain("error", format!("{failed} of {listed} failed"));
            return Ok(Outcome::Incomplete);
        }
        Ok(Outcome::Done)
    }

    fn engine(&self, checkpoint: Checkpoint, terminal: &Terminal) -> Result<Engine> {
        let PeopleOptions { score_thr: asked, compat, .. } = self.people;
        let mut options = self.people.engine(&self.network).with_heatmaps(self.heatmaps);
        options.score_thr = score_thr(&checkpoint, asked, compat);
        let engine = Engine::from_checkpoint(&checkpoint, options)?;
        for warning in self.network.fallback().into_iter().chain(self.network.crowded()) {
            terminal.complain("warning", warning);
        }
        let (w, h) = engine.input_size();
        let weights = shown(checkpoint.path());
        terminal.say(format!("{} {w}x{h}, {}, {weights}", engine.name(), engine.describe()))?;
        if let Some(remark) = Network::remark(&checkpoint, asked, compat) {
            terminal.say(remark)?;
        }
        Ok(engine)
    }
}

/// The items of a part of a list; errors and notes belong to each.
fn part(items: Sources, shard: Shard) -> impl Iterator<Item = Item> + Send {
    let mut index = 0..;
    items.filter(move |item| match item {
        Item::File(_) | Item::Photo(_) | Item::Clip(_) => index.next().is_some_and(|index| shard.has(index)),
        Item::Error(_) | Item::Note(_) => true,
    })
}

/// What the arguments of a run mean.
struct Expanded {
    /// The photos and clips, where they are known before the run begins.
    known: Vec<Known>,
    /// All that is to be done.
    items: Box<dyn Iterator<Item = Item> + Send>,
    /// True while a list has nothing to be read and has not ended.
    waits: Arc<AtomicBool>,
    /// Arguments that mean no photo, and have been told.
    failed: usize,
}
