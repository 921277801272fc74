//! `rtmo-engine eval --sweep`: AP against speed.

use super::measure::{Measured, Ran, Session};
use super::report::number;
use super::{Eval, chart};
use crate::cli::options::{fraction, size};
use crate::cli::table::{Align, Table};
use crate::cli::{Ended, Outcome};
use rtmo_engine::atomic_file::AtomicFile;
use rtmo_engine::backend::cpu;
use rtmo_engine::weights::{Architecture, Checkpoint};
use rtmo_engine::{EngineOptions, Error, Result};
use serde_json::{Value, json};
use std::io::Write;

/// What is varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Axis {
    /// The score that a person must exceed
    Score,
    /// The network's input
    Size,
}

/// Scores that are tried where none are given.
const SCORES: [f32; 7] = [0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7];

/// Sizes that are tried where none are given, as shares of the network's own.
const SHARES: [f64; 5] = [0.5, 0.75, 1.0, 1.25, 1.5];

/// Runs each value, prints and draws them.
///
/// # Errors
/// As [`Session::run`].
pub fn run(session: &mut Session<'_>, axis: Axis, values: Vec<(String, EngineOptions)>) -> Ended {
    let mut runs = Vec::new();
    for (label, options) in values {
        let out = session.eval.out_of(&label);
        match session.run(options, &out, &format!("{}: ", named(axis, &label)))? {
            Ran::Done(measured) => runs.push((label, measured)),
            Ran::Ended(outcome) => return Ok(outcome),
        }
    }
    let images = session.annotations.images().len();
    let (annotated, rule) = (session.annotations.people(), session.eval.rule.name());
    session
        .terminal
        .say(format!("\n{images} images, {annotated} people annotated; by the rule of {rule}\n"))?;
    session.terminal.say(table(axis, &runs))?;
    let rows = runs.iter().map(|(label, run)| {
        let mut row = run.json();
        row["value"] = label.as_str().into();
        row["found"] = run.judged.found.into();
        row["metrics"] =
            run.judged.metrics.iter().map(|(name, value)| (name.to_string(), Value::from(value))).collect();
        row
    });
    let rows: Vec<Value> = rows.collect();
    let all = json!({ "version": env!("CARGO_PKG_VERSION"), "images": images, "annotated": annotated, "rule": rule,
        "sweep": match axis { Axis::Score => "score", Axis::Size => "size" }, "runs": rows });
    session.eval.write(&all, session.terminal)?;
    if let Some(path) = &session.eval.plot {
        let (_, first) = &runs[0];
        let title = format!("{}: AP against speed", first.model);
        let subtitle = format!("{images} images; {}; {}", cpu::name(), first.backend);
        let point = |(label, run): &(String, Measured)| chart::Point {
            label: label.clone(),
            speed: run.images_per_second(),
            ap: run.judged.metrics.ap().unwrap_or(0.0),
        };
        let points: Vec<chart::Point> = runs.iter().map(point).collect();
        let svg = chart::draw(&title, &subtitle, &points);
        let mut file = AtomicFile::create(path)?;
        file.write_all(svg.as_bytes()).map_err(Error::io("cannot write", path))?;
        file.commit()?;
    }
    Ok(Outcome::Done)
}

fn named(axis: Axis, label: &str) -> String {
    match axis {
        Axis::Score => format!("score {label}"),
        Axis::Size => format!("size {label}"),
    }
}

/// Values with the options that they mean; those of [`SCORES`] or [`SHARES`], if none were given.
///
/// # Errors
/// If one makes no sense, or is there twice.
pub fn values(eval: &Eval, checkpoint: &Checkpoint, axis: Axis) -> Result<Vec<(String, EngineOptions)>> {
    let asked = &eval.values;
    let mut values: Vec<(String, EngineOptions)> = Vec::new();
    let mut add = |label: String, options: EngineOptions| {
        if values.iter().any(|(known, _)| *known == label) {
            return Err(Error::Usage(format!("--values: {label} is there twice")));
        }
        values.push((label, options));
        Ok(())
    };
    let wrong = |value: &String, error: Error| Error::Usage(format!("--values {value}: {error}"));
    match axis {
        Axis::Score if eval.people.score_thr.is_some() => {
            return Err(Error::Usage("--score-thr is what --sweep score varies: give one of them".into()));
        }
        Axis::Size if eval.network.size.is_some() => {
            return Err(Error::Usage("--size is what --sweep size varies: give one of them".into()));
        }
        Axis::Score => {
            let asked = asked.iter().map(|value| fraction(value).map_err(|error| wrong(value, error)));
            let asked = asked.collect::<Result<Vec<f32>>>()?;
            for score in if asked.is_empty() { SCORES.to_vec() } else { asked } {
                add(score.to_string(), eval.options().with_score_thr(score))?;
            }
        }
        Axis::Size => {
            let asked = asked.iter().map(|value| size(value).map_err(|error| wrong(value, error)));
            let mut sizes = asked.collect::<Result<Vec<(usize, usize)>>>()?;
            if sizes.is_empty() {
                let (w, h) = Architecture::of(checkpoint).input_size;
                let scaled =
                    |side: usize, share: f64| ((side as f64 * share / 32.0).round() as usize).max(1) * 32;
                sizes = SHARES.map(|share| (scaled(w, share), scaled(h, share))).to_vec();
                sizes.dedup();
            }
            for (w, h) in sizes {
                add(format!("{w}x{h}"), eval.options().with_input_size(w, h))?;
            }
        }
    }
    Ok(values)
}

fn table(axis: Axis, runs: &[(String, Measured)]) -> Table {
    const ALIGN: &[Align] = &[Align::Right; 8];
    let what = match axis {
        Axis::Score => "score",
        Axis::Size => "input",
    };
    let mut table = Table::new(&[what, "AP", "AP50", "AP75", "AR", "people", "ms", "photos/s"], ALIGN);
    for (label, run) in runs {
        let of = |name| number(run.judged.metrics.get(name));
        let found = run.judged.found.to_string();
        let (ms, rate) = (format!("{:.1}", run.ms()), format!("{:.1}", run.images_per_second()));
        table.row([label.clone(), of("AP"), of("AP50"), of("AP75"), of("AR"), found, ms, rate]);
    }
    table
}
