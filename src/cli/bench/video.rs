//! What a clip costs beside the network.

use crate::cli::infer::clip::{Annotator, Frames};
use crate::cli::infer::footage::FootageOptions;
use crate::cli::infer::pictures::Drawing;
use crate::cli::infer::reading::FrameSource;
use crate::cli::infer::work::{Deliver, Given, pump};
use crate::cli::table::{Align, Table};
use crate::cli::terminal::Terminal;
use crate::cli::video::{Footage, Frame, Next, Range, Reader, Target, Writer};
use rtmo_engine::output::draw::draw_people;
use rtmo_engine::vision::decode::MAX_PIXELS;
use rtmo_engine::{DrawOptions, Engine, Error, People, Picture, Result, Skeleton};
use serde_json::{Value, json};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Frames that are kept in memory, to run the bare network on.
const KEPT: usize = 16;

/// Rounds in which the bare network and the pipelines take turns: a machine's speed changes with time.
const ROUNDS: usize = 3;

/// Milliseconds a frame.
#[derive(Clone, Copy, Default)]
pub struct Figures {
    size: (usize, usize),
    frames: usize,
    /// The engine on frames in memory, nothing else at work.
    bare: f64,
    /// From the file to people.
    numbers: f64,
    /// And to an annotated clip.
    annotated: f64,
    /// From starting ffmpeg to the first frame, once a clip.
    start: f64,
    /// People a frame, who are drawn.
    found: f64,
    decode: f64,
    letterbox: f64,
    network: f64,
    people: f64,
    draw: f64,
    encode: f64,
}

/// Measures on the first frames of a clip.
///
/// # Errors
/// If it cannot be read or written, or the engine fails.
pub fn measure(
    engine: &mut Engine,
    clip: &Path,
    frames: u64,
    cpu: bool,
    terminal: &Terminal,
) -> Result<Figures> {
    let options = FootageOptions::first(frames);
    let footage = Footage::File(clip.into());
    let settings = options.settings(Range::default(), MAX_PIXELS, cpu);
    let open = || Reader::open(&footage, settings.clone(), Box::new(std::io::empty()));
    let mut all = Figures::default();

    // Each part alone.
    let (kept, decode) = decoded(&open()?, frames)?;
    all.decode = decode;
    let first = kept.first().ok_or_else(|| Error::image(clip, "has no frame"))?;
    all.size = first.picture.size();
    let mut people = Vec::new();
    for frame in &kept {
        let (found, timings) = engine.infer_timed(std::slice::from_ref(&frame.picture))?;
        let stages = timings.stages;
        all.letterbox += milliseconds(stages.letterbox + stages.upload) / kept.len() as f64;
        all.network += milliseconds(stages.network) / kept.len() as f64;
        all.people += milliseconds(stages.select + stages.dcc + stages.download) / kept.len() as f64;
        people.extend(found);
    }
    all.found = people.iter().map(|people| people.len()).sum::<usize>() as f64 / kept.len() as f64;
    let folder =
        tempfile::tempdir().map_err(Error::io("cannot make a folder", "the system's temporary files"))?;
    let target = Target {
        path: folder.path().join("bench.mp4"),
        threads: settings.threads,
        patience: options.patience(),
    };
    let drawing = Drawing {
        options: DrawOptions::default(),
        heatmaps: false,
        skeleton: Skeleton::of(engine.keypoints()),
    };
    (all.draw, all.encode) = drawn(&kept, &people, &drawing, target.clone())?;

    // All together, in turns with the bare network.
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for i in 0..frames as usize {
            engine.infer(std::slice::from_ref(&kept[i % kept.len()].picture))?;
        }
        all.bare += milliseconds(start.elapsed()) / frames as f64 / ROUNDS as f64;
        for annotated in [false, true] {
            let reader = open()?;
            let target = annotated.then(|| target.clone());
            let annotator =
                target.map(|target| Annotator::new(drawing, Some(target), None, 0.0, reader.watch()));
            let mut source = Frames::new(reader, &options, false, terminal);
            // A clip of an hour does not wait for ffmpeg's start: that is a part of its own.
            let opened = Instant::now();
            while !source.ready() && opened.elapsed() < options.patience() {
                thread::sleep(Duration::from_micros(200));
            }
            all.start += milliseconds(opened.elapsed()) / (2 * ROUNDS) as f64;
            let start = Instant::now();
            all.frames = thread::scope(|scope| -> Result<usize> {
                let annotator = annotator.as_ref();
                let thread = annotator.map(|annotator| scope.spawn(|| annotator.run(terminal)));
                let mut to = Through { annotator, patience: options.patience() };
                let done = pump(engine, 1, &mut source, terminal, &mut to);
                annotator.inspect(|annotator| annotator.end());
                let writer = thread
                    .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
                if let Some(writer) = writer.transpose()?.flatten() {
                    writer.finish(None)?;
                }
                done.map(|done| done.came)
            })?;
            let took = milliseconds(start.elapsed()) / all.frames.max(1) as f64 / ROUNDS as f64;
            *(if annotated { &mut all.annotated } else { &mut all.numbers }) += took;
        }
        terminal.clip_ends();
    }
    Ok(all)
}

/// The first frames of a clip, and the milliseconds that it takes to decode one of them.
fn decoded(reader: &Reader, frames: u64) -> Result<(Vec<Frame>, f64)> {
    let (mut kept, mut count, mut begun) = (Vec::new(), 0_u64, None);
    loop {
        match reader.next(Duration::from_secs(60)) {
            Next::Frame(frame) => {
                count += 1;
                // ffmpeg has started, and has opened the file.
                begun.get_or_insert_with(Instant::now);
                if kept.len() < KEPT {
                    kept.push(frame);
                }
                if count == frames {
                    break;
                }
            }
            Next::End(end) => {
                end?;
                break;
            }
            Next::NotYet => return Err(reader.failure("ffmpeg has given no frame for 60 s")),
        }
    }
    let took = begun.map_or(0.0, |begun| milliseconds(begun.elapsed()));
    Ok((kept, took / (count.max(2) - 1) as f64))
}

/// Milliseconds to draw a frame, and to encode one.
fn drawn(frames: &[Frame], people: &[People], drawing: &Drawing<'_>, target: Target) -> Result<(f64, f64)> {
    let size = frames[0].picture.size();
    let (mut draw, mut photos) = (Duration::ZERO, Vec::new());
    for (frame, people) in frames.iter().zip(people) {
        let picture = frame.picture.clone();
        let start = Instant::now();
        let mut photo = picture.into_photo();
        draw_people(&mut photo, people, drawing.skeleton, &drawing.options);
        draw += start.elapsed();
        photos.push(photo);
    }
    let mut writer = Writer::create(target, size, 1.0 / 30.0)?;
    let start = Instant::now();
    for (i, photo) in photos.iter().enumerate().filter(|(_, photo)| (photo.width, photo.height) == size) {
        writer.frame(i as f64 / 30.0, photo)?;
    }
    writer.finish(None)?;
    let encode = start.elapsed();
    Ok((milliseconds(draw) / photos.len() as f64, milliseconds(encode) / photos.len() as f64))
}

/// Frames whose people are known go to the annotated clip, if there is one.
struct Through<'a> {
    annotator: Option<&'a Annotator<'a>>,
    patience: Duration,
}

impl Deliver for Through<'_> {
    fn deliver(&mut self, given: Given, picture: Picture, people: People, _: f64) -> Result<bool> {
        let time = given.at.map_or(0.0, |at| at.time);
        Ok(self
            .annotator
            .is_none_or(|annotator| annotator.push(picture, people, time, self.patience).is_ok()))
    }
}

impl Figures {
    /// Two tables: the whole beside the bare network, and the parts.
    pub fn tables(&self) -> String {
        let ms = |value: f64| format!("{value:.2}");
        let mut whole =
            Table::new(&["a frame of the clip", "ms", "of bare"], &[Align::Left, Align::Right, Align::Right]);
        for (name, value) in self.whole() {
            whole.row([name.into(), ms(value), format!("{:.3}", value / self.bare)]);
        }
        let mut parts = Table::new(&["each part alone", "ms"], &[Align::Left, Align::Right]);
        for (name, value) in self.parts() {
            parts.row([name.into(), ms(value)]);
        }
        let (w, h) = self.size;
        format!(
            "clip     {w}x{h}, {} frames, {:.1} people a frame, {ROUNDS} rounds in turns\n\n{whole}\n\n{parts}\n\n\
             ffmpeg's start, once a clip: {:.0} ms",
            self.frames, self.found, self.start
        )
    }

    pub fn json(&self) -> Value {
        let object = |figures: &[(&str, f64)]| {
            figures.iter().map(|(name, ms)| (name.to_string(), json!(ms))).collect::<serde_json::Map<_, _>>()
        };
        json!({ "width": self.size.0, "height": self.size.1, "frames": self.frames, "people": self.found,
            "start_milliseconds": self.start,
            "milliseconds": object(&self.whole()), "parts": object(&self.parts()) })
    }

    fn whole(&self) -> [(&'static str, f64); 3] {
        [
            ("engine alone", self.bare),
            ("file to people", self.numbers),
            ("file to annotated clip", self.annotated),
        ]
    }

    fn parts(&self) -> [(&'static str, f64); 6] {
        [
            ("decode", self.decode),
            ("letterbox", self.letterbox),
            ("network", self.network),
            ("people", self.people),
            ("draw", self.draw),
            ("encode", self.encode),
        ]
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
