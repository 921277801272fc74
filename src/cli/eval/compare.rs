//! `rtmo-engine eval --compare`: what each precision costs.

use super::measure::{Measured, Ran, Session};
use super::record::Found;
use super::report::number;
use crate::cli::plot::quantile;
use crate::cli::table::{Align, Table};
use crate::cli::{Ended, Outcome};
use rtmo_engine::pose::select::iou;
use rtmo_engine::{Error, Person, Precision};
use serde_json::{Value, json};

/// Boxes of one person overlap at least so much.
const SAME: f32 = 0.5;

/// Runs in each precision that this machine has, and tells what each costs against fp32; without it against the first.
///
/// # Errors
/// As [`Session::run`]; if none runs.
pub fn run(session: &mut Session<'_>, precisions: &[Precision]) -> Ended {
    let mut runs: Vec<Measured> = Vec::new();
    let mut left_out = Vec::new();
    for &precision in precisions {
        let options = session.eval.options().with_precision(precision);
        let out = session.eval.out_of(precision.name());
        if let Err(why) = prepared(session, precision) {
            session.terminal.complain("note", format!("{precision} is left out: {why}"));
            left_out.push(json!({ "precision": precision.name(), "why": why }));
            continue;
        }
        match session.run(options, &out, &format!("{precision}: "))? {
            Ran::Done(measured) => runs.push(measured),
            Ran::Ended(outcome) => return Ok(outcome),
        }
    }
    if runs.is_empty() {
        return Err(Error::Device("none of these precisions runs on this machine".into()));
    }
    let base = runs.iter().position(|run| run.precision == Precision::Fp32).unwrap_or(0);
    let differences: Vec<Differences> =
        runs.iter().map(|run| between(&runs[base].found, &run.found)).collect();
    let images = session.annotations.images().len();
    let (annotated, rule) = (session.annotations.people(), session.eval.rule.name());
    session
        .terminal
        .say(format!("\n{images} images, {annotated} people annotated; by the rule of {rule}\n"))?;
    session.terminal.say(table(&runs, base, &differences))?;
    let name = runs[base].precision;
    session.terminal.say(format!(
        "\n'same' are people whose boxes in {name} and here overlap by {SAME} or more, 'px' the distance of their keypoints in \
         the photo's pixels, seen or not"
    ))?;
    let rows: Vec<Value> = runs.iter().zip(&differences).map(|(run, d)| row(run, d)).collect();
    let all = json!({ "version": env!("CARGO_PKG_VERSION"), "images": images, "annotated": annotated, "rule": rule,
        "against": name.name(), "runs": rows, "left_out": left_out });
    session.eval.write(&all, session.terminal)?;
    Ok(Outcome::Done)
}

/// Whether this machine computes in a precision, and not in another one in its place.
fn prepared(session: &Session<'_>, precision: Precision) -> Result<(), String> {
    let plan = rtmo_engine::pose::model::build(&session.checkpoint, session.eval.network.size);
    let placement = session.eval.options().with_precision(precision).placement;
    let (_, taken) = plan.and_then(|plan| placement.prepare(plan)).map_err(|error| error.to_string())?;
    match taken.precision {
        Some(taken) if taken != precision => {
            let why =
                rtmo_engine::backend::device::cuda().err().map_or(String::new(), |why| format!(" ({why})"));
            Err(format!("it needs a GPU that can be used{why}"))
        }
        _ => Ok(()),
    }
}

/// How the people of two runs differ.
#[derive(Debug, Default, PartialEq)]
struct Differences {
    same: usize,
    only_first: usize,
    only_second: usize,
    /// Distance of keypoints in pixels.
    median: f64,
    mean: f64,
    max: f64,
}

fn between(first: &[Found], second: &[Found]) -> Differences {
    let mut differences = Differences::default();
    let mut distances = Vec::new();
    for (first, second) in first.iter().zip(second) {
        debug_assert_eq!(first.image, second.image);
        let mut free = vec![true; second.people.len()];
        // People are in falling order of score: the surest one chooses first.
        for person in &first.people {
            let candidates = second.people.iter().enumerate().filter(|(i, _)| free[*i]);
            let overlaps = candidates.map(|(i, other)| (i, iou(&person.bbox, &other.bbox)));
            // Of boxes that overlap as much, as those of duplicates may, the one with the nearest keypoints.
            let apart = |i: usize| distances_between(person, &second.people[i]).sum::<f64>();
            let nearer = |a: usize, b: usize| apart(b).total_cmp(&apart(a));
            let best = overlaps.max_by(|a, b| a.1.total_cmp(&b.1).then_with(|| nearer(a.0, b.0)));
            let Some((best, _)) = best.filter(|(_, overlap)| *overlap >= SAME) else {
                differences.only_first += 1;
                continue;
            };
            free[best] = false;
            differences.same += 1;
            distances.extend(distances_between(person, &second.people[best]));
        }
        differences.only_second += free.iter().filter(|free| **free).count();
    }
    distances.sort_by(f64::total_cmp);
    if let Some(max) = distances.last() {
        differences.max = *max;
        differences.median = quantile(&distances, 0.5);
        differences.mean = distances.iter().sum::<f64>() / distances.len() as f64;
    }
    differences
}

/// Distances of keypoints in pixels.
fn distances_between(a: &Person, b: &Person) -> impl Iterator<Item = f64> {
    let keypoints = a.keypoints.iter().zip(&b.keypoints);
    keypoints.map(|(a, b)| f64::from(a.x - b.x).hypot(f64::from(a.y - b.y)))
}

fn table(runs: &[Measured], base: usize, differences: &[Differences]) -> Table {
    const ALIGN: &[Align] = &[Align::Right; 12];
    let against = format!("to {}", runs[base].precision);
    let header = [
        "",
        "AP",
        &against,
        "AP50",
        "people",
        "same",
        "only there",
        "only here",
        "median px",
        "mean px",
        "max px",
        "photos/s",
    ];
    let mut table = Table::new(&header, ALIGN);
    for (run, d) in runs.iter().zip(differences) {
        let (ap, of) = (run.judged.metrics.ap(), runs[base].judged.metrics.ap());
        let cost = ap.zip(of).map_or("-".into(), |(ap, of)| format!("{:+.4}", ap - of));
        table.row([
            run.precision.to_string(),
            number(ap),
            cost,
            number(run.judged.metrics.get("AP50")),
            run.judged.found.to_string(),
            d.same.to_string(),
            d.only_first.to_string(),
            d.only_second.to_string(),
            format!("{:.4}", d.median),
            format!("{:.4}", d.mean),
            format!("{:.3}", d.max),
            format!("{:.1}", run.images_per_second()),
        ]);
    }
    table
}

fn row(run: &Measured, d: &Differences) -> Value {
    let mut row = run.json();
    row["found"] = run.judged.found.into();
    row["metrics"] =
        run.judged.metrics.iter().map(|(name, value)| (name.to_string(), Value::from(value))).collect();
    row["same"] = d.same.into();
    row["only_there"] = d.only_first.into();
    row["only_here"] = d.only_second.into();
    row["median_px"] = d.median.into();
    row["mean_px"] = d.mean.into();
    row["max_px"] = d.max.into();
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtmo_engine::Keypoint;

    #[test]
    fn people_are_matched_by_their_boxes() {
        let person = |x: f32, dx: f32| {
            Person::new(
                0.5,
                [x, 0.0, x + 100.0, 100.0],
                vec![Keypoint::new(x + dx, 0.0, 1.0), Keypoint::new(x, 0.0, 0.0)],
            )
        };
        let found = |people| vec![Found { image: 1, ms: 1.0, people }];
        let first = found(vec![person(0.0, 0.0), person(10.0, 0.0), person(500.0, 0.0)]);
        // The first two change places in the list, the third is another one.
        let second = found(vec![person(10.0, 4.0), person(0.0, 2.0), person(900.0, 0.0)]);
        let expected =
            Differences { same: 2, only_first: 1, only_second: 1, median: 1.0, mean: 1.5, max: 4.0 };
        assert_eq!(between(&first, &second), expected);
        assert_eq!(between(&found(vec![]), &found(vec![])), Differences::default());
        // Duplicates with one box: each is itself.
        let twins = found(vec![person(0.0, 0.0), person(0.0, 7.0), person(0.0, 3.0)]);
        assert_eq!(between(&twins, &twins), Differences { same: 3, ..Differences::default() });
    }
}
