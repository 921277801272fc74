//! `rtmo-engine eval`

mod chart;
mod compare;
mod measure;
mod record;
mod report;
mod sweep;
mod work;

use super::fetch::Fetch;
use super::files::Files;
use super::infer::catch_interrupts;
use super::options::{Network, PeopleOptions, ends_in};
use super::terminal::Terminal;
use super::{Ended, Outcome};
use clap::Args;
use measure::{Measured, Ran, Session};
use report::{Judged, Report};
use rtmo_engine::atomic_file::AtomicFile;
use rtmo_engine::eval::{Annotations, Benchmark, Results, Rule, evaluate};
use rtmo_engine::{Compat, EngineOptions, Error, Precision, Result};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use sweep::Axis;

/// Measure average precision (AP) on photos that people have annotated
///
/// Finds the people on annotated photos and counts how well they agree with the annotations, as COCO and CrowdPose do it: the
/// numbers are those of pycocotools and xtcocotools. Beside them stand the published figures of the checkpoint.
#[derive(Args)]
#[command(after_help = "\
AP is the average precision over ten thresholds of agreement (OKS 0.50 to 0.95), from 0 to 1; AP50 and AP75 are that of one \
threshold, APM and APL of people of medium and large size, AR the share of the annotated people that are found. \
docs/evaluation.md explains all of them and says where COCO's photos and annotations are.

People are written to --out as they are found. A run that was interrupted goes on where it was; one with other weights or \
options is an error that names the difference. With --compare and --sweep there is such a file for each run, as \
rtmo-eval.bf16.jsonl. A person must exceed a score of 0.1 unless --score-thr says otherwise, as for the published figures; of an image \
the best 20 are judged.

Examples:
  rtmo-engine eval --annotations person_keypoints_val2017.json --images val2017/ --model rtmo-s
  rtmo-engine eval --annotations person_keypoints_val2017.json --images val2017/ --limit 100
  rtmo-engine eval --annotations mmpose_crowdpose_test.json --images images/ --crowdpose --model rtmo-l-crowdpose
  rtmo-engine eval --annotations person_keypoints_val2017.json --results results.json --rule pycocotools
  rtmo-engine eval --annotations a.json --images photos/ --compare fp32,bf16,fp16
  rtmo-engine eval --annotations a.json --images photos/ --sweep size --values 320,480,640 --plot sweep.svg")]
pub struct Eval {
    /// COCO annotations of people's keypoints
    #[arg(short, long, value_name = "FILE")]
    annotations: PathBuf,
    /// Folder of the photos that the annotations name
    #[arg(short, long, value_name = "DIR", required_unless_present = "results")]
    images: Option<PathBuf>,
    /// Judge a file of COCO results instead of running a network
    #[arg(long, value_name = "FILE", conflicts_with_all = ["images", "compare", "sweep", "out", "restart", "skip_missing"])]
    results: Option<PathBuf>,
    /// The annotations are CrowdPose's: 14 keypoints, areas from boxes, AP by how crowded an image is
    #[arg(long)]
    crowdpose: bool,
    /// Whose rule decides which people count: xtcocotools, by which published figures are made, or pycocotools
    #[arg(long, value_name = "WHOSE", default_value = "xtcocotools")]
    rule: Rule,
    /// Only the first N images of the annotations
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Leave out images whose photos are not in the folder
    #[arg(long)]
    skip_missing: bool,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    fetch: Fetch,
    /// Photos that are computed together
    #[arg(short, long, value_name = "N", default_value_t = 1, allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    #[command(flatten)]
    people: PeopleOptions,
    /// Run in each of these precisions, and tell what each costs in AP and in pixels
    #[arg(long, value_name = "P,P,..", value_delimiter = ',', help_heading = "Several runs", conflicts_with_all = ["sweep", "precision", "fp16"])]
    compare: Vec<Precision>,
    /// Run with several score thresholds or input sizes, and tell AP and speed of each
    #[arg(long, value_name = "WHAT", help_heading = "Several runs")]
    sweep: Option<Axis>,
    /// Values of the sweep: scores as 0.1,0.3, or sizes as 320,640x480 [default: seven scores, five sizes]
    #[arg(
        long,
        value_name = "V,V,..",
        value_delimiter = ',',
        help_heading = "Several runs",
        requires = "sweep"
    )]
    values: Vec<String>,
    /// Draw the sweep: AP against speed
    #[arg(long, value_name = "FILE.svg", help_heading = "Several runs", requires = "sweep")]
    plot: Option<PathBuf>,
    /// File that people are appended to as they are found, and from which an interrupted run goes on
    #[arg(short, long, value_name = "FILE", default_value = "rtmo-eval.jsonl", help_heading = "Output")]
    out: PathBuf,
    /// Begin --out anew
    #[arg(long, help_heading = "Output")]
    restart: bool,
    /// Write all figures as JSON; '-' for standard output
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    json: Option<PathBuf>,
}

impl Eval {
    pub fn run(self) -> Ended {
        let to_stdout = self.json.as_deref() == Some(Path::new("-"));
        let mut terminal = Terminal::new(to_stdout, false);
        let annotations = self.annotations()?;
        match &self.results {
            Some(results) => self.judge(results, &annotations, &terminal),
            None => self.measure(annotations, &mut terminal),
        }
    }

    fn benchmark(&self) -> Benchmark {
        if self.crowdpose { Benchmark::CrowdPose } else { Benchmark::Coco }
    }

    fn annotations(&self) -> Result<Annotations> {
        let annotations = Annotations::open(&self.annotations, self.benchmark())?;
        Ok(match self.limit {
            Some(n) => annotations.first(n as usize),
            None => annotations,
        })
    }

    /// Judges results that are there.
    fn judge(&self, results: &Path, annotations: &Annotations, terminal: &Terminal) -> Ended {
        let mut files = Files::default();
        files.reads(&self.annotations, "the annotations");
        files.reads(results, "the results to judge");
        self.json.iter().try_for_each(|path| files.writes(path, "--json"))?;
        let results = Results::open(results, annotations)?;
        let metrics = evaluate(annotations, &results, self.rule)?;
        let judged = Judged { metrics, found: results.people() };
        let report = Report { annotations, rule: self.rule, judged: &judged, published: None };
        terminal.say(report.heading())?;
        terminal.say(format!("\n{}", report.table()))?;
        self.write(&report.json(), terminal)?;
        Ok(Outcome::Done)
    }

    /// Runs the network, once or several times.
    fn measure(&self, annotations: Annotations, terminal: &mut Terminal) -> Ended {
        let folder = self.images.as_deref().expect("clap demands it");
        let (annotations, photos) = measure::photos(annotations, folder, self.skip_missing, terminal)?;
        let checkpoint = self.fetch.checkpoint(&self.network, terminal)?;
        let mut files = Files::default();
        files.reads(&self.annotations, "the annotations");
        files.reads(checkpoint.path(), "the weights");
        photos.iter().for_each(|photo| files.reads(&photo.path, "a photo of this run"));
        let (precisions, swept) =
            (distinct(&self.compare), self.sweep.map(|axis| sweep::values(self, &checkpoint, axis)));
        let swept = swept.transpose()?;
        let outs: Vec<PathBuf> = match &swept {
            Some(values) => values.iter().map(|(label, _)| self.out_of(label)).collect(),
            None if precisions.is_empty() => vec![self.out.clone()],
            None => precisions.iter().map(|precision| self.out_of(precision.name())).collect(),
        };
        outs.iter().try_for_each(|out| files.writes(out, "--out"))?;
        self.json.iter().try_for_each(|path| files.writes(path, "--json"))?;
        if let Some(plot) = &self.plot {
            ends_in(plot, "svg", "--plot")?;
            files.writes(plot, "--plot")?;
        }
        catch_interrupts()?;
        for warning in self.network.fallback().into_iter().chain(self.network.crowded()) {
            terminal.complain("warning", warning);
        }
        let mut session = Session { eval: self, annotations, photos, checkpoint, terminal };
        if !precisions.is_empty() {
            return compare::run(&mut session, &precisions);
        }
        if let Some((axis, values)) = self.sweep.zip(swept) {
            return sweep::run(&mut session, axis, values);
        }
        match session.run(self.options(), &self.out, "")? {
            Ran::Done(measured) => self.conclude(&session, &measured),
            Ran::Ended(outcome) => Ok(outcome),
        }
    }

    /// The numbers of one run.
    fn conclude(&self, session: &Session<'_>, measured: &Measured) -> Ended {
        let published = report::published(&session.checkpoint, self.benchmark());
        let (annotations, judged) = (&session.annotations, &measured.judged);
        let report = Report { annotations, rule: self.rule, judged, published };
        session.terminal.say(report.heading())?;
        session.terminal.say(measured.speed_in_words())?;
        session.terminal.say(format!("\n{}", report.table()))?;
        let differences = self.differences(session, measured);
        if let Some(published) = published {
            session.terminal.say(report::remark(published, &differences))?;
        }
        let mut json = report.json();
        json["run"] = measured.json();
        json["differs_from_published"] = differences.into();
        self.write(&json, session.terminal)?;
        Ok(Outcome::Done)
    }

    /// What a run does otherwise than the one that published figures are from.
    fn differences(&self, session: &Session<'_>, measured: &Measured) -> Vec<String> {
        let mut differences = Vec::new();
        let (images, all) = (session.annotations.images().len(), report::images(self.benchmark()));
        if images != all {
            differences.push(format!("{images} images, not {all}"));
        }
        let published = report::published(&session.checkpoint, self.benchmark());
        if let Some(published) = published.filter(|published| published.input_size != measured.input) {
            let ((w, h), (width, height)) = (measured.input, published.input_size);
            differences.push(format!("an input of {w}x{h}, not {width}x{height}"));
        }
        let others = [
            (self.people.compat != Compat::Mmpose, "--compat"),
            (self.people.score_thr.is_some(), "--score-thr"),
            (self.people.nms_thr.is_some(), "--nms-thr"),
            (self.people.max_people.is_some(), "--max-people"),
            (self.rule != Rule::Xtcocotools, "--rule"),
        ];
        differences.extend(others.into_iter().filter(|(is, _)| *is).map(|(_, option)| option.to_string()));
        differences
    }

    /// The engine's options, as they were asked for.
    fn options(&self) -> EngineOptions {
        self.people.engine(&self.network)
    }

    /// `rtmo-eval.bf16.jsonl`
    fn out_of(&self, tag: &str) -> PathBuf {
        let stem = self.out.file_stem().unwrap_or_default().to_os_string();
        let mut name = stem;
        name.push(".");
        name.push(tag);
        if let Some(suffix) = self.out.extension() {
            name.push(".");
            name.push(suffix);
        }
        self.out.with_file_name(name)
    }

    /// Writes the figures where they were asked for.
    fn write(&self, all: &Value, terminal: &Terminal) -> Result<()> {
        match &self.json {
            None => Ok(()),
            Some(path) if path == Path::new("-") => terminal.data(format!("{all:#}")),
            Some(path) => {
                let mut file = AtomicFile::create(path)?;
                writeln!(file, "{all:#}").map_err(Error::io("cannot write", path))?;
                file.commit()
            }
        }
    }
}

/// Each precision once.
fn distinct(precisions: &[Precision]) -> Vec<Precision> {
    let mut distinct = Vec::new();
    for precision in precisions {
        if !distinct.contains(precision) {
            distinct.push(*precision);
        }
    }
    distinct
}
