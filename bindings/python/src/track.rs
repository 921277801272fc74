//! Identities and smoothing.

use crate::errors::OrRaise;
use crate::people::{People, ids, keypoints};
use numpy::PyUntypedArrayMethods;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rtmo_engine::{SmootherOptions, TrackerOptions};

/// Gives people of successive frames their ids.
#[pyclass(module = "rtmo_engine._native")]
pub struct Tracker(rtmo_engine::Tracker);

#[pymethods]
impl Tracker {
    #[new]
    #[pyo3(signature = (min_iou, max_unseen, min_score, min_hits, sigmas))]
    fn new(
        min_iou: Option<f32>,
        max_unseen: Option<f64>,
        min_score: Option<f32>,
        min_hits: Option<usize>,
        sigmas: Option<Vec<f32>>,
    ) -> PyResult<Tracker> {
        let mut options = TrackerOptions::default();
        options.min_iou = min_iou.unwrap_or(options.min_iou);
        options.max_unseen = max_unseen.unwrap_or(options.max_unseen);
        options.min_score = min_score.unwrap_or(options.min_score);
        options.min_hits = min_hits.unwrap_or(options.min_hits);
        options.sigmas = sigmas;
        Ok(Tracker(rtmo_engine::Tracker::new(options).or_raise()?))
    }

    /// The people with ids.
    fn update<'py>(&mut self, people: &Bound<'py, PyAny>, time: f64) -> PyResult<Bound<'py, PyAny>> {
        let py = people.py();
        let mut tracked = People::of(people)?.to_people()?;
        self.0.update(&mut tracked, time).or_raise()?;
        let change = PyDict::new(py);
        change.set_item("ids", ids(py, &tracked))?;
        people.call_method("replace", (), Some(&change))
    }

    /// Forgets everybody.
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// Takes the jitter out of keypoints.
#[pyclass(module = "rtmo_engine._native")]
pub struct Smoother(rtmo_engine::Smoother);

#[pymethods]
impl Smoother {
    #[new]
    #[pyo3(signature = (min_cutoff, beta, speed_cutoff, min_score, max_unseen))]
    fn new(
        min_cutoff: Option<f64>,
        beta: Option<f64>,
        speed_cutoff: Option<f64>,
        min_score: Option<f32>,
        max_unseen: Option<f64>,
    ) -> PyResult<Smoother> {
        let mut options = SmootherOptions::default();
        options.min_cutoff = min_cutoff.unwrap_or(options.min_cutoff);
        options.beta = beta.unwrap_or(options.beta);
        options.speed_cutoff = speed_cutoff.unwrap_or(options.speed_cutoff);
        options.min_score = min_score.unwrap_or(options.min_score);
        options.max_unseen = max_unseen.unwrap_or(options.max_unseen);
        Ok(Smoother(rtmo_engine::Smoother::new(options).or_raise()?))
    }

    /// The people with smoothed keypoints.
    fn smooth<'py>(&mut self, people: &Bound<'py, PyAny>, time: f64) -> PyResult<Bound<'py, PyAny>> {
        let py = people.py();
        let arrays = People::of(people)?;
        let joints = arrays.keypoints().shape()[1];
        let mut smoothed = arrays.to_people()?;
        self.0.smooth(&mut smoothed, time).or_raise()?;
        let change = PyDict::new(py);
        change.set_item("keypoints", keypoints(py, &smoothed, joints))?;
        people.call_method("replace", (), Some(&change))
    }

    /// Forgets everybody.
    fn reset(&mut self) {
        self.0.reset();
    }
}
