//! `rtmo-engine bench`

mod threads;
mod video;

use super::files::Files;
use super::options::{Network, ends_in};
use super::plot;
use super::sweep::Sweep;
use super::table::{Align, Table};
use super::terminal::Terminal;
use super::{Ended, Outcome};
use clap::Args;
use rtmo_engine::atomic_file::AtomicFile;
use rtmo_engine::backend::cpu::{
    self, Isa,
    peak::{bf16_peak, fma_peak},
};
use rtmo_engine::backend::{Device, Precision, StageTimes, StepTime, cuda, device};
use rtmo_engine::plan::{Extent, Plan, Step};
use rtmo_engine::shown;
use rtmo_engine::{Engine, EngineOptions, Error, Photo, Result};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use threads::Scaling;

/// Measure latency, stage by stage
///
/// Measures the time from a decoded photo to its people, stage by stage. Needs no weights: if the model's are not here, it
/// generates random ones, which take the same time.
#[derive(Args)]
#[command(after_help = "\
Times are wall-clock times on this machine, which should be otherwise idle. 'letterbox' is the photo to the network \
input, 'network' the dense network (backbone, neck, heads), 'select' threshold and NMS, 'DCC' the people's keypoints, \
'total' all of it and the bookkeeping between. With --decode the photo's file is read in every run: 'decode' is the file \
to pixels.

On a GPU the stages are the device's own times, with 'upload' and 'download' between its memory and the host's; 'total' \
is the wall-clock time from a photo in the host's memory, and 'resident' from one that is in the device's already, to people \
in the host's.

Examples:
  rtmo-engine bench --model rtmo-t
  rtmo-engine bench --people 0 && rtmo-engine bench --people 100     do people cost time?
  rtmo-engine bench --model rtmo-l --layers --iters 20
  rtmo-engine bench --image photo.jpg --decode                       from the file to people
  rtmo-engine bench --threads 1,2,4,8                                what more threads gain
  rtmo-engine bench --video walk.mp4 --threads 2                     what a clip costs beside the network
  rtmo-engine bench --json bench.json --plot bench.svg
  rtmo-engine bench --sweep --plot sweep.svg                          all sizes of the model, alone and in batches")]
#[command(mut_arg("threads", |threads| threads.value_name("N,N,..").value_delimiter(',').help("CPU threads; several numbers make a \
table of how the time falls [default: one for each physical core that the process may use]")))]
pub struct Bench {
    #[command(flatten)]
    network: Network,
    /// Timed runs
    #[arg(short, long, value_name = "N", default_value_t = 50, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    iters: u32,
    /// Runs before the timed ones, to warm up
    #[arg(long, value_name = "N", default_value_t = 5, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    warmup: u32,
    /// Photos in each run (the batch size)
    #[arg(short, long, value_name = "N", default_value_t = 1, allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// Find N people: sets the score threshold so that the network finds as many on the photo. If it cannot, and in a sweep,
    /// they are forced
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    people: Option<u16>,
    /// Make the best N grids people, without threshold and suppression; sorts all grids, which no use does
    #[arg(long, requires = "people")]
    forced: bool,
    /// Photo to run on [default: a generated one of 1280x720]
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Read and decode the photo's file in every run, too
    #[arg(long, requires = "image", conflicts_with_all = ["batch", "sweep"])]
    decode: bool,
    /// Clip to run on: what reading, drawing and writing cost beside the engine, over its first --iters frames
    #[arg(long, value_name = "FILE", conflicts_with_all = ["image", "batch", "layers", "sweep", "plot", "network_only"])]
    video: Option<PathBuf>,
    /// End with the network's time instead of the total
    #[arg(long)]
    network_only: bool,
    /// Add a row a step of the network: kernel, time, GFLOP/s
    #[arg(short, long)]
    layers: bool,
    /// Run every size of the model (or the one of --model or --weights) at every batch size, as far as memory allows
    #[arg(long, conflicts_with_all = ["batch", "layers", "network_only"])]
    sweep: bool,
    /// Batch sizes of a sweep [default: 1,2,4,8 on a CPU, to 64 on a GPU]
    #[arg(long, value_name = "N,N,..", allow_negative_numbers = true, requires = "sweep", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1024))]
    batches: Vec<u16>,
    /// Write all figures as JSON; '-' for standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the distribution of the total; of a sweep, the curves
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

impl Bench {
    pub fn run(self) -> Ended {
        let to_stdout = self.json.as_deref() == Some(Path::new("-"));
        let mut terminal = Terminal::new(to_stdout, false);
        self.check_files()?;
        if self.network.threads.len() > 1
            && (self.layers
                || self.sweep
                || self.people.is_some()
                || self.plot.is_some()
                || self.decode
                || self.video.is_some())
        {
            let what = "--threads with several numbers makes a table of its own, without --decode, --layers, --people, --plot, --sweep or --video";
            return Err(Error::Usage(what.into()));
        }
        // Before the long work.
        let json = self.json.as_deref().filter(|_| !to_stdout).map(AtomicFile::create).transpose()?;
        let plot = self.plot.as_deref().map(AtomicFile::create).transpose()?;

        let (photo, photo_name) = match &self.image {
            Some(path) => (Photo::open(path)?, shown(path).to_string()),
            None => (generated_photo(1280, 720), "generated".into()),
        };
        let fallback = self.network.fallback();
        if let Some(fallback) = &fallback {
            terminal.say(fallback)?;
        }
        if self.sweep {
            let sweep = Sweep {
                network: &self.network,
                batches: &self.batches,
                people: self.people.map(usize::from),
                runs: (self.warmup, self.iters),
            };
            return self.write(sweep.run(&photo, &terminal)?, (json, plot), &terminal);
        }
        let checkpoint = self.network.any_checkpoint(&terminal)?;
        let mut options = EngineOptions::default().with_placement(self.network.placement());
        options.input_size = self.network.size;
        let weights = shown(checkpoint.path()).to_string();
        let mut photos = vec![photo; self.batch.into()];
        if self.network.threads.len() > 1 {
            let (network, runs) = (&self.network, (self.warmup, self.iters));
            let figures =
                Scaling { network, options, photos: &photos, runs }.run(&checkpoint, &mut terminal)?;
            return self.write((figures, String::new()), (json, plot), &terminal);
        }
        let mut engine = Engine::from_checkpoint(&checkpoint, options)?;
        drop(checkpoint);
        let (w, h) = engine.input_size();
        terminal.say(format!("rtmo-engine {}", env!("CARGO_PKG_VERSION")))?;
        terminal.say(format!(
            "model    {}, {} keypoints, {w}x{h}; {weights}",
            engine.name(),
            engine.keypoints()
        ))?;
        terminal.say(format!("machine  {}", cpu::name()))?;
        terminal.say(format!("backend  {}", engine.describe()))?;
        if let (None, Device::Auto, Device::Cpu, Err(why)) =
            (&fallback, self.network.device, engine.options().placement.device, device::cuda())
        {
            terminal.say(format!("         ({why})"))?;
        }
        if let Some(warning) = self.network.crowded() {
            terminal.complain("warning", warning);
        }
        if cfg!(debug_assertions) {
            terminal.complain("warning", "this is an unoptimised build; use cargo build --release");
        }

        if let Some(clip) = &self.video {
            let cpu = engine.options().placement.device == Device::Cpu;
            let figures = video::measure(&mut engine, clip, self.iters.into(), cpu, &terminal)?;
            terminal.say(figures.tables())?;
            let mut all = figures.json();
            all["version"] = env!("CARGO_PKG_VERSION").into();
            all["model"] = json!({ "name": engine.name(), "weights": weights, "input": [w, h] });
            all["machine"] = json!({ "cpu": cpu::name(), "backend": engine.describe() });
            return self.write((all, String::new()), (json, plot), &terminal);
        }
        let forced = match self.people.map(usize::from) {
            Some(n) if self.forced => {
                engine.set_selection(None, Some(n))?;
                true
            }
            Some(n) => !find_people(&mut engine, &photos[0], n)?,
            None => false,
        };
        terminal.progress(Some((self.warmup + self.iters) as usize), "runs");
        let gpu = engine.options().placement.device != Device::Cpu;
        let mut people = 0;
        for _ in 0..self.warmup {
            engine.infer(&photos)?;
            terminal.advance();
        }
        let mut runs = Vec::with_capacity(self.iters as usize);
        for _ in 0..self.iters {
            let start = Instant::now();
            if let (true, Some(path)) = (self.decode, &self.image) {
                photos[0] = Photo::open(path)?;
            }
            let decode = if self.decode { start.elapsed() } else { Duration::ZERO };
            let (found, timings) = engine.infer_timed(&photos)?;
            let mut run =
                Run { decode, stages: timings.stages, total: timings.total, resident: Duration::ZERO };
            // A GPU is slower while its stages are timed.
            if gpu {
                let start = Instant::now();
                engine.infer(&photos)?;
                run.total = start.elapsed();
                let start = Instant::now();
                engine.infer_again(&photos)?;
                run.resident = start.elapsed();
            }
            run.total += decode;
            people = found[0].len();
            runs.push(run);
            terminal.advance();
        }
        terminal.finish();
        let peak = peak(&engine)?;
        let layers = if self.layers {
            Some(Layers::measure(&mut engine, &photos[0], self.iters.min(if gpu { 3 } else { 20 }))?)
        } else {
            None
        };

        let report = Report { runs, batch: self.batch.into(), flops: engine.flops(), peak, gpu };
        let (pw, ph) = (photos[0].width, photos[0].height);
        let people_told = told(people, self.people.map(usize::from), forced);
        terminal.say(format!("photo    {pw}x{ph}, {photo_name}; {people_told}"))?;
        if let Some(launches) = engine.executor().launches() {
            terminal.say(format!("launches {launches} a run"))?;
        }
        if let Some(bytes) = engine.executor().device_memory() {
            terminal.say(format!("memory   {:.0} MB on the device", bytes as f64 / 1e6))?;
        }
        terminal.say(format!(
            "runs     {} after {} to warm up, batch {}\n",
            self.iters, self.warmup, self.batch
        ))?;
        if let Some(layers) = &layers {
            terminal.say(format!("{}\n", layers.table(&engine, people, peak)))?;
            if gpu {
                terminal.say("(what each launch adds to a graph of all those before it)\n")?;
            }
        }
        terminal.say(format!("{}\n", report.table()))?;
        terminal.say(report.rates())?;

        let mut all = report.json();
        all["version"] = env!("CARGO_PKG_VERSION").into();
        all["model"] = json!({ "name": engine.name(), "weights": weights, "keypoints": engine.keypoints(),
            "input": [w, h], "gflop": engine.flops() as f64 / 1e9 });
        let placement = engine.options().placement;
        all["machine"] = json!({ "cpu": cpu::name(), "backend": engine.describe(),
            "device": placement.device.to_string(), "precision": placement.precision.unwrap_or_default().name(),
            "threads": placement.threads, "fallback": fallback });
        all["photo"] = json!({ "name": photo_name, "width": pw, "height": ph, "people": people,
            "forced": forced });
        all["warmup"] = self.warmup.into();
        if let Some(layers) = &layers {
            all["layers"] = layers.json(&engine, people);
        }
        if let Some(launches) = engine.executor().launches() {
            all["launches"] = launches.into();
        }
        if let Some(bytes) = engine.executor().device_memory() {
            all["device_memory"] = bytes.into();
        }
        let title = format!("{} at {w}x{h}", engine.name());
        let subtitle = format!("{}; {}", cpu::name(), engine.describe());
        let total: Vec<f64> = report.runs.iter().map(|t| milliseconds(t.total)).collect();
        let svg = plot::distribution(&title, &subtitle, &total);
        self.write((all, svg), (json, plot), &terminal)?;
        if gpu {
            terminal.say(format!("resident p50 {:.3} ms", report.statistics(|t| t.resident).p50))?;
        }
        let (what, stage): (_, Stage) =
            if self.network_only { ("network", |t| t.stages.network) } else { ("total", |t| t.total) };
        terminal.say(format!("{what} p50 {:.3} ms", report.statistics(stage).p50))?;
        Ok(Outcome::Done)
    }

    /// That the results replace neither an input nor each other.
    fn check_files(&self) -> Result<()> {
        let mut files = Files::default();
        self.image.iter().for_each(|image| files.reads(image, "the photo to run on"));
        self.video.iter().for_each(|clip| files.reads(clip, "the clip to run on"));
        let networks = if self.sweep { Sweep::networks(&self.network) } else { vec![self.network.clone()] };
        for network in networks {
            network.file()?.iter().for_each(|weights| files.reads(weights, "the weights"));
        }
        self.json.iter().try_for_each(|path| files.writes(path, "--json"))?;
        let Some(plot) = &self.plot else { return Ok(()) };
        ends_in(plot, "svg", "--plot")?;
        files.writes(plot, "--plot")
    }

    /// Writes the figures and the picture where they were asked for.
    fn write(
        &self,
        (all, svg): (Value, String),
        (json, plot): (Option<AtomicFile>, Option<AtomicFile>),
        terminal: &Terminal,
    ) -> Ended {
        match json {
            Some(mut file) => {
                let path = self.json.clone().unwrap_or_default();
                writeln!(file, "{all:#}").map_err(Error::io("cannot write", path))?;
                file.commit()?;
            }
            None if self.json.is_some() => terminal.data(&all)?,
            None => {}
        }
        if let Some(mut file) = plot {
            let path = self.plot.clone().unwrap_or_default();
            file.write_all(svg.as_bytes()).map_err(Error::io("cannot write", path))?;
            file.commit()?;
        }
        Ok(Outcome::Done)
    }
}

/// Sets the score threshold so that the network finds `n` people on a photo, as it finds them in use. Where no threshold
/// does that, forces the best `n` grids and returns false.
fn find_people(engine: &mut Engine, photo: &Photo, n: usize) -> Result<bool> {
    let photo = std::slice::from_ref(photo);
    engine.set_selection(Some(0.0), None)?;
    let scores: Vec<f32> = engine.infer(photo)?[0].iter().map(|person| person.score).collect();
    // A threshold between two scores lets the better ones pass: whom they suppress does not depend on the others.
    let threshold = match (n.checked_sub(1).map(|last| scores.get(last)), scores.get(n)) {
        (None, _) => Some(1.0),
        (Some(None), _) => None,
        (Some(Some(_)), None) => Some(0.0),
        (Some(Some(last)), Some(next)) => Some(last.midpoint(*next)),
    };
    if let Some(threshold) = threshold {
        engine.set_selection(Some(threshold), None)?;
        if engine.infer(photo)?[0].len() == n {
            return Ok(true);
        }
    }
    engine.set_selection(None, Some(n))?;
    Ok(false)
}

/// How many people were found, and why that differs from the number asked for.
fn told(people: usize, asked: Option<usize>, forced: bool) -> String {
    let how = if forced { ", forced (the best grids, without threshold and suppression)" } else { "" };
    match asked.filter(|&asked| asked > people) {
        Some(asked) => format!("{people} people of {asked}: the grid has no more{how}"),
        None if people == 1 => format!("1 person{how}"),
        None => format!("{people} people{how}"),
    }
}

/// The peak to compare with, in operations a second, and its name: a CPU's multiply-adds, a GPU's tensor cores.
fn peak(engine: &Engine) -> Result<Option<(f64, &'static str)>> {
    let placement = engine.options().placement;
    Ok(match (placement.device, placement.precision, placement.threads, Isa::choose()) {
        (Device::Cpu, Some(Precision::Fp32), Some(n), Ok(isa)) => Some((fma_peak(isa, n), "FMA peak")),
        (Device::Cpu, Some(Precision::Bf16), Some(n), Ok(isa)) => Some((bf16_peak(isa, n), "bf16 peak")),
        // three products for one
        (Device::Cpu, Some(Precision::Bf16x3), Some(n), Ok(isa)) => {
            Some((bf16_peak(isa, n) / 3.0, "bf16x3 peak"))
        }
        (Device::Cuda(ordinal), ..) => Some((cuda::tensor_peak(ordinal)?, "tensor peak")),
        _ => None,
    })
}

/// Times of one run.
struct Run {
    /// From the file to its pixels, if that is part of the run.
    decode: Duration,
    stages: StageTimes,
    /// From pixels in the host's memory, or from the file, to people.
    total: Duration,
    /// Total of a photo that is in a GPU's memory already.
    resident: Duration,
}

/// Selects one time of a run.
type Stage = fn(&Run) -> Duration;

/// Stages that take no time on a device are left out.
const STAGES: [(&str, Stage); 9] = [
    ("decode", |t| t.decode),
    ("upload", |t| t.stages.upload),
    ("letterbox", |t| t.stages.letterbox),
    ("network", |t| t.stages.network),
    ("select", |t| t.stages.select),
    ("DCC", |t| t.stages.dcc),
    ("download", |t| t.stages.download),
    ("total", |t| t.total),
    ("resident", |t| t.resident),
];

/// All runs, and what to compare them with.
struct Report {
    runs: Vec<Run>,
    batch: usize,
    /// Operations of the network, a photo.
    flops: u64,
    peak: Option<(f64, &'static str)>,
    gpu: bool,
}

/// Times of one stage in all runs, in milliseconds.
struct Statistics {
    p50: f64,
    p90: f64,
    p99: f64,
    mean: f64,
    min: f64,
}

impl Report {
    fn statistics(&self, stage: Stage) -> Statistics {
        let mut ms: Vec<f64> = self.runs.iter().map(|t| milliseconds(stage(t))).collect();
        ms.sort_by(f64::total_cmp);
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|q| plot::quantile(&ms, q));
        Statistics { p50, p90, p99, mean: ms.iter().sum::<f64>() / ms.len() as f64, min: ms[0] }
    }

    /// Those that take any time.
    fn stages(&self) -> impl Iterator<Item = (&'static str, Stage)> {
        STAGES.into_iter().filter(|(_, stage)| self.runs.iter().any(|run| !stage(run).is_zero()))
    }

    fn table(&self) -> Table {
        const ALIGN: &[Align] =
            &[Align::Left, Align::Right, Align::Right, Align::Right, Align::Right, Align::Right];
        let unit = if self.batch == 1 { "ms".into() } else { format!("ms a batch of {}", self.batch) };
        let mut table = Table::new(&[&unit, "p50", "p90", "p99", "mean", "min"], ALIGN);
        for (name, stage) in self.stages() {
            let s = self.statistics(stage);
            let figures = [s.p50, s.p90, s.p99, s.mean, s.min].map(|ms| format!("{ms:.3}"));
            table.row(std::iter::once(name.to_string()).chain(figures));
        }
        table
    }

    fn images_per_second(&self) -> f64 {
        1e3 * self.batch as f64 / self.statistics(|t| t.total).mean
    }

    /// Operations a second of the median run of the network.
    fn flops_per_second(&self) -> f64 {
        1e3 * (self.flops * self.batch as u64) as f64 / self.statistics(|t| t.stages.network).p50
    }

    fn rates(&self) -> String {
        let (flop, rate) = (self.flops as f64 / 1e9, self.flops_per_second());
        let mut text = format!("{:.1} images/s\n", self.images_per_second());
        text += &format!("network: {flop:.2} GFLOP an image, {:.1} GFLOP/s", rate / 1e9);
        if let Some((peak, what)) = self.peak {
            let share = 100.0 * rate / peak;
            text += &format!(", {share:.0} % of the measured {what} of {:.1}", peak / 1e9);
        }
        if !self.gpu {
            text += "\n         (Winograd convolutions do less arithmetic than is counted here)";
        }
        text
    }

    fn json(&self) -> Value {
        let stages = self.stages().map(|(name, stage)| {
            let s = self.statistics(stage);
            let value = json!({ "p50": s.p50, "p90": s.p90, "p99": s.p99, "mean": s.mean, "min": s.min });
            (name.to_lowercase(), value)
        });
        let total: Vec<f64> = self.runs.iter().map(|t| milliseconds(t.total)).collect();
        json!({
            "batch": self.batch,
            "runs": self.runs.len(),
            "ms": Value::Object(stages.collect()),
            "total_ms": total,
            "images_per_second": self.images_per_second(),
            "network_gflops": self.flops_per_second() / 1e9,
            "peak_gflops": self.peak.map(|p| p.0 / 1e9),
        })
    }
}

pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Median time of every step.
struct Layers {
    steps: Vec<(StepTime, f64)>,
}

impl Layers {
    fn measure(engine: &mut Engine, photo: &Photo, iters: u32) -> Result<Layers> {
        let runs = (0..iters.max(1)).map(|_| engine.step_times(photo)).collect::<Result<Vec<_>>>()?;
        let median = |i: usize| {
            let mut ms: Vec<f64> = runs.iter().map(|run| milliseconds(run[i].time)).collect();
            ms.sort_by(f64::total_cmp);
            plot::quantile(&ms, 0.5)
        };
        Ok(Layers { steps: runs[0].iter().enumerate().map(|(i, step)| (step.clone(), median(i))).collect() })
    }

    fn table(&self, engine: &Engine, people: usize, peak: Option<(f64, &str)>) -> Table {
        const ALIGN: &[Align] =
            &[Align::Left, Align::Left, Align::Right, Align::Right, Align::Right, Align::Right, Align::Right];
        let share = if peak.is_some() { "% of peak" } else { "" };
        let mut table = Table::new(&["step", "kernel", "output", "ms", "% of time", "GFLOP/s", share], ALIGN);
        let plan = engine.plan();
        let all: f64 = self.steps.iter().map(|(_, ms)| ms).sum();
        for (step, ms) in &self.steps {
            let flops = flops(plan, &plan.steps[step.step], people) as f64;
            let rate = flops / ms * 1e3;
            let or_empty = |shown: bool, text: String| if shown { text } else { String::new() };
            table.row([
                plan.steps[step.step].name.clone(),
                step.kernel.clone(),
                output(plan, &plan.steps[step.step]),
                format!("{ms:.4}"),
                format!("{:.1}", 100.0 * ms / all),
                or_empty(flops > 0.0, format!("{:.1}", rate / 1e9)),
                peak.map_or(String::new(), |(peak, _)| {
                    or_empty(flops > 0.0, format!("{:.0}", 100.0 * rate / peak))
                }),
            ]);
        }
        table
    }

    fn json(&self, engine: &Engine, people: usize) -> Value {
        let plan = engine.plan();
        let row = |(time, ms): &(StepTime, f64)| {
            let step = &plan.steps[time.step];
            json!({ "step": step.name, "kernel": time.kernel, "output": output(plan, step), "ms": ms,
                "gflop": flops(plan, step, people) as f64 / 1e9 })
        };
        self.steps.iter().map(row).collect()
    }
}

/// Operations of a step in a run that finds so many people.
fn flops(plan: &Plan, step: &Step, people: usize) -> u64 {
    let rows = step.op.writes().is_some_and(|view| plan.buffer_of(view).extent == Extent::Rows);
    plan.flops(step) * if rows { people as u64 } else { 1 }
}

/// Extents of what a step writes.
fn output(plan: &Plan, step: &Step) -> String {
    let Some(view) = step.op.writes() else { return String::new() };
    match plan.buffer_of(view).extent {
        Extent::Map { h, w } => format!("{h}x{w}x{}", view.c),
        Extent::Rows => format!("nx{}", view.c),
    }
}

/// A generated photo without people: gradients, blocks and noise, the same on every machine.
fn generated_photo(width: usize, height: usize) -> Photo {
    let mut photo = Photo::filled(width, height, [0; 3]);
    let mut state = 1u32;
    for (i, byte) in photo.bgr.iter_mut().enumerate() {
        let (x, y, c) = (i / 3 % width, i / 3 / width, i % 3);
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let block = ((x / 80 * 37 + y / 90 * 91 + c * 53) % 160) as u32;
        let ramp = ((x + y) * 64 / (width + height)) as u32;
        *byte = (16 + block + ramp + (state >> 28)) as u8;
    }
    photo
}
