//! Two executors on the same photo.

use super::{Kind, MAPS, MapError, PeopleError, Report, stage};
use crate::backend::{Executor, Frame, RunOptions};
use crate::error::{Error, Result};
use crate::plan::{Extent, Op, View};

/// Runs a photo on both, and compares every map in the order of computation, and the people. Both were prepared from
/// the same plan with all buffers kept; `expected` is right.
///
/// # Errors
/// If an executor fails, or their plans differ.
pub fn compare(
    expected: &mut dyn Executor,
    found: &mut dyn Executor,
    frame: Frame<'_>,
    options: &RunOptions,
) -> Result<Report> {
    let right = expected.run(&[frame], options)?.pop().unwrap_or_default();
    let people = found.run(&[frame], options)?.pop().unwrap_or_default();
    let plan = expected.plan().clone();
    if plan.steps.len() != found.plan().steps.len() {
        return Err(Error::Usage("the executors were prepared from different plans".into()));
    }
    let mut maps = Vec::new();
    let mut add = |name: &str, kind: Kind, view: View| -> Result<()> {
        let (e, f) = (expected.read(view, 0)?, found.read(view, 0)?);
        if e.len() != f.len() {
            return Err(Error::Usage(format!("{name}: {} values, expected {}", f.len(), e.len())));
        }
        let squares: f64 = e.iter().map(|v| f64::from(*v).powi(2)).sum();
        let rms = (squares / e.len().max(1) as f64).sqrt().max(f64::MIN_POSITIVE);
        let errors = e.iter().zip(&f).map(|(e, f)| (f64::from(*f) - f64::from(*e)) / rms);
        let (_, w) = plan.hw(view);
        maps.push(MapError::new(name.into(), kind, errors.enumerate(), (w, view.c)));
        Ok(())
    };
    let stages: Vec<(&str, View)> =
        MAPS.iter().filter_map(|name| Some((*name, stage(&plan, name)?))).collect();
    for (i, step) in plan.steps.iter().enumerate() {
        let Some(view) = step.op.writes() else { continue };
        if plan.buffer_of(view).extent == Extent::Rows {
            continue;
        }
        let input = step.op.is_letterbox();
        add(&step.name, if input { Kind::Input } else { Kind::Inner }, view)?;
        // Stages that are complete now.
        for (name, whole) in &stages {
            let writes = |op: &Op| op.writes().is_some_and(|view| view.buffer == whole.buffer);
            if writes(&step.op) && !plan.steps[i + 1..].iter().any(|later| writes(&later.op)) {
                add(name, Kind::of(name), *whole)?;
            }
        }
    }
    Ok(Report { maps, people: PeopleError::between(&right, &people, plan.keypoints()) })
}
