//! One run of a network on annotated photos.

use super::Eval;
use super::record::{Found, Record, Settings};
use super::report::Judged;
use super::work::{self, Photo};
use crate::cli::Outcome;
use crate::cli::infer::stopped;
use crate::cli::plot::quantile;
use crate::cli::terminal::Terminal;
use rtmo_engine::backend::{Device, cpu};
use rtmo_engine::eval::{Annotations, Benchmark, Results, evaluate};
use rtmo_engine::weights::Checkpoint;
use rtmo_engine::{Engine, EngineOptions, Error, Precision, Result, shown};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Component, Path};

/// What all runs of a command have in common.
pub struct Session<'a> {
    pub eval: &'a Eval,
    pub annotations: Annotations,
    pub photos: Vec<Photo>,
    pub checkpoint: Checkpoint,
    pub terminal: &'a mut Terminal,
}

/// What a run gave.
pub struct Measured {
    pub judged: Judged,
    /// The people, in the annotations' order.
    pub found: Vec<Found>,
    pub model: String,
    pub input: (usize, usize),
    pub backend: String,
    pub precision: Precision,
    weights: String,
}

/// How a run ended.
pub enum Ran {
    Done(Measured),
    /// Without numbers; why has been told.
    Ended(Outcome),
}

/// The photos of annotations in a folder; without those that are not there, if they may be missing.
///
/// # Errors
/// If an image has no file name, or one that leads out of the folder; if photos are missing, or all are.
pub fn photos(
    annotations: Annotations,
    folder: &Path,
    skip_missing: bool,
    terminal: &Terminal,
) -> Result<(Annotations, Vec<Photo>)> {
    if !folder.is_dir() {
        return Err(Error::Usage(format!("{}: no such folder of photos", shown(folder))));
    }
    let mut photos = Vec::new();
    let mut missing = Vec::new();
    for image in annotations.images() {
        let wrong =
            |what: &str| Error::json(annotations.path(), format!("the image of id {}: {what}", image.id));
        let name = image
            .file_name
            .as_deref()
            .ok_or_else(|| wrong("has no 'file_name', by which its photo is found"))?;
        let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if name.is_empty() || !Path::new(name).components().all(inside) {
            return Err(wrong("'file_name' leads out of the folder of photos"));
        }
        let path = folder.join(name);
        match path.exists() {
            true => photos.push(Photo { image: image.id, path, size: image.size }),
            false => missing.push(path),
        }
    }
    let Some(first) = missing.first() else { return Ok((annotations, photos)) };
    let (n, all) = (missing.len(), annotations.images().len());
    if photos.is_empty() || !skip_missing {
        return Err(Error::Usage(format!(
            "{}: no such photo; {n} of {all} are missing{}",
            shown(first),
            if photos.is_empty() {
                ": is --images their folder?"
            } else {
                "; --skip-missing leaves them out"
            }
        )));
    }
    terminal.complain("warning", format!("{n} of {all} photos are missing, and their images are left out"));
    let here: HashSet<u64> = photos.iter().map(|photo| photo.image).collect();
    Ok((annotations.only(|image| here.contains(&image.id)), photos))
}

impl Session<'_> {
    /// Runs the network on all photos that `out` does not have yet, and judges all. `title` begins the line that tells what
    /// runs. Photos that cannot be read are told, and then there are no numbers.
    ///
    /// # Errors
    /// As [`Engine::from_checkpoint`] and [`Record::open`]; if the network has other keypoints than the annotations.
    pub fn run(&mut self, options: EngineOptions, out: &Path, title: &str) -> Result<Ran> {
        let mut engine = Engine::from_checkpoint(&self.checkpoint, options)?;
        self.check(&engine)?;
        let (weights, settings) = self.settings(&engine)?;
        let mut record = Record::open(out, &settings, self.eval.restart)?;
        let done: HashSet<u64> = record.found.iter().map(|found| found.image).collect();
        let todo: Vec<Photo> =
            self.photos.iter().filter(|photo| !done.contains(&photo.image)).cloned().collect();
        let (input, model) = (engine.input_size(), engine.name().to_string());
        let backend = engine.describe();
        let path = shown(self.checkpoint.path());
        self.terminal.say(format!("{title}{model} {}x{}, {backend}, {path}", input.0, input.1))?;
        let before = self.photos.len() - todo.len();
        if before > 0 {
            let (all, rest) = (self.photos.len(), todo.len());
            self.terminal.say(format!("{}: {before} of {all} photos are done; {rest} to do", shown(out)))?;
        }
        if todo.len() > 1 {
            self.terminal.progress(Some(todo.len()), "photos");
        }
        let batch = self.eval.batch.into();
        let incoming = work::read_ahead(&todo, batch, &self.eval.network);
        let ran = work::run(&mut engine, &todo, incoming, batch, &mut record, self.terminal);
        self.terminal.finish();
        let failed = ran?;
        if stopped() {
            let (done, all) = (record.found.len(), self.photos.len());
            let what =
                format!("{done} of {all} photos done and kept in {}: the same command goes on", shown(out));
            self.terminal.complain("interrupted", what);
            return Ok(Ran::Ended(Outcome::Interrupted));
        }
        if failed > 0 {
            let (all, out) = (self.photos.len(), shown(out));
            let what = format!(
                "{failed} of {all} photos cannot be read, so there is no AP; the others are kept in {out}"
            );
            self.terminal.complain("error", what);
            return Ok(Ran::Ended(Outcome::Incomplete));
        }
        let precision = engine.options().placement.precision.unwrap_or_default();
        let found = self.in_order(record.found);
        let judged = self.judge(&found)?;
        Ok(Ran::Done(Measured { judged, found, model, input, backend, precision, weights }))
    }

    /// The people of the annotations' images, in their order.
    fn in_order(&self, found: Vec<Found>) -> Vec<Found> {
        let mut by_image: HashMap<u64, Found> = found.into_iter().map(|found| (found.image, found)).collect();
        self.photos.iter().filter_map(|photo| by_image.remove(&photo.image)).collect()
    }

    fn judge(&self, found: &[Found]) -> Result<Judged> {
        let mut results = Results::new(&self.annotations);
        for Found { image, people, .. } in found {
            results.add(&self.annotations, *image, people)?;
        }
        let metrics = evaluate(&self.annotations, &results, self.eval.rule)?;
        Ok(Judged { metrics, found: results.people() })
    }

    /// That the network has the annotations' keypoints.
    fn check(&self, engine: &Engine) -> Result<()> {
        let (has, needs) = (engine.keypoints(), self.annotations.benchmark().keypoints());
        if has == needs {
            return Ok(());
        }
        let (what, hint) = match self.annotations.benchmark() {
            Benchmark::CrowdPose => ("--crowdpose", "; --model rtmo-s-crowdpose has them"),
            _ if has == 14 => ("COCO", "; are these CrowdPose's annotations? --crowdpose reads them"),
            _ => ("COCO", ""),
        };
        let path = shown(self.checkpoint.path());
        Err(Error::Usage(format!("{path}: {has} keypoints, expected {needs}, as {what} has{hint}")))
    }

    /// The weights' SHA-256, and all that the people depend on.
    fn settings(&self, engine: &Engine) -> Result<(String, Settings)> {
        let placement = engine.options().placement;
        let weights = self.checkpoint.sha256();
        let or_none = |value: Option<String>| value.unwrap_or_else(|| "default".into());
        let on = if placement.device == Device::Cpu { "cpu" } else { "cuda" };
        let (w, h) = engine.input_size();
        let options = engine.options();
        let settings = [
            ("version", env!("CARGO_PKG_VERSION").to_string()),
            ("annotations (SHA-256)", digest(self.annotations.path())?),
            ("weights (SHA-256)", weights.clone()),
            ("input", format!("{w}x{h}")),
            ("device", on.into()),
            ("precision", placement.precision.unwrap_or_default().to_string()),
            ("compat", format!("{:?}", options.compat).to_lowercase()),
            ("score threshold", or_none(options.score_thr.map(|x| x.to_string()))),
            ("NMS threshold", or_none(options.nms_thr.map(|x| x.to_string()))),
            ("max people", or_none(options.max_people.map(|n| n.to_string()))),
        ];
        Ok((weights, settings.into_iter().map(|(name, value)| (name.to_string(), value)).collect()))
    }
}

/// SHA-256 of a file.
fn digest(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut file =
        BufReader::with_capacity(1 << 16, File::open(path).map_err(Error::io("cannot read", path))?);
    loop {
        let bytes = file.fill_buf().map_err(Error::io("cannot read", path))?;
        if bytes.is_empty() {
            break;
        }
        hash.update(bytes);
        let n = bytes.len();
        file.consume(n);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Measured {
    /// Median time of a photo in milliseconds: the engine's, while others are read. 0 without photos.
    pub fn ms(&self) -> f64 {
        let mut ms: Vec<f64> = self.found.iter().map(|found| found.ms).collect();
        ms.sort_by(f64::total_cmp);
        if ms.is_empty() { 0.0 } else { quantile(&ms, 0.5) }
    }

    pub fn images_per_second(&self) -> f64 {
        1e3 / self.ms().max(1e-6)
    }

    pub fn speed_in_words(&self) -> String {
        format!("engine   {:.1} ms a photo (median), {:.1} photos/s", self.ms(), self.images_per_second())
    }

    pub fn json(&self) -> Value {
        let (w, h) = self.input;
        json!({ "model": self.model, "weights_sha256": self.weights, "input": [w, h], "backend": self.backend, "cpu": cpu::name(),
            "precision": self.precision.name(), "median_ms": self.ms(), "images_per_second": self.images_per_second() })
    }
}
