//! Average precision by annotations.

use crate::errors::{OrRaise, usage};
use crate::people::People;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use rtmo_engine::eval::{Annotations, Benchmark, Results, Rule};
use std::path::{Path, PathBuf};

/// Judges results: a file, a list of COCO results, or a dictionary of people by image id. Returns values by name.
#[pyfunction]
pub fn evaluate<'py>(
    py: Python<'py>,
    annotations: PathBuf,
    results: &Bound<'py, PyAny>,
    rule: &str,
    benchmark: &str,
) -> PyResult<Bound<'py, PyDict>> {
    let rule: Rule = rule.parse().or_raise()?;
    let benchmark = match benchmark {
        "coco" => Benchmark::Coco,
        "crowdpose" => Benchmark::CrowdPose,
        _ => return Err(usage(format!("benchmark '{benchmark}': expected coco or crowdpose"))),
    };
    let annotations = py.detach(|| Annotations::open(&annotations, benchmark)).or_raise()?;
    let results = if let Ok(path) = results.extract::<PathBuf>() {
        py.detach(|| Results::open(&path, &annotations)).or_raise()?
    } else if results.cast::<PyList>().is_ok() {
        let text: String = py.import("json")?.call_method1("dumps", (results,))?.extract()?;
        py.detach(|| Results::read(text.as_bytes(), Path::new("results"), &annotations)).or_raise()?
    } else if let Ok(by_image) = results.cast::<PyDict>() {
        let mut results = Results::new(&annotations);
        for (image, people) in by_image.iter() {
            let people = People::of(&people)?.to_people()?;
            results.add(&annotations, image.extract()?, &people).or_raise()?;
        }
        results
    } else {
        let kind = results.get_type().qualname()?;
        return Err(PyTypeError::new_err(format!(
            "results: expected a path, a list of COCO results or a dictionary of People by image id, got {kind}"
        )));
    };
    let metrics = py.detach(|| rtmo_engine::eval::evaluate(&annotations, &results, rule)).or_raise()?;
    let values = PyDict::new(py);
    for (name, value) in metrics.iter() {
        values.set_item(name, value)?;
    }
    Ok(values)
}
