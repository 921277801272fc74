//! People as arrays, and back.

use crate::errors::{OrRaise, usage};
use crate::images::Given;
use numpy::ndarray::{Array1, Array2, Array3};
use numpy::{
    IntoPyArray, PyArray1, PyArray2, PyArray3, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2,
    PyReadonlyArray3, PyUntypedArrayMethods,
};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use rtmo_engine::output::{CocoWriter, ImageIds, write_json_line};
use rtmo_engine::{DrawOptions, Keypoint, Person, Skeleton, draw_people};
use std::path::{Path, PathBuf};

/// Arguments of the class `People`: keypoints, keypoint scores, scores, boxes, ids, people left out, width and height.
pub type Arrays<'py> = (
    Bound<'py, PyArray3<f32>>,
    Bound<'py, PyArray2<f32>>,
    Bound<'py, PyArray1<f32>>,
    Bound<'py, PyArray2<f32>>,
    Option<Bound<'py, PyArray1<i64>>>,
    usize,
    Option<(usize, usize)>,
);

/// People of `joints` keypoints as arrays.
pub fn arrays<'py>(
    py: Python<'py>,
    people: &rtmo_engine::People,
    joints: usize,
    size: (usize, usize),
) -> Arrays<'py> {
    let n = people.len();
    let mut keypoints = Array3::zeros((n, joints, 2));
    let mut keypoint_scores = Array2::zeros((n, joints));
    let mut boxes = Array2::zeros((n, 4));
    for (i, person) in people.iter().enumerate() {
        for (k, joint) in person.keypoints.iter().enumerate().take(joints) {
            (keypoints[[i, k, 0]], keypoints[[i, k, 1]]) = (joint.x, joint.y);
            keypoint_scores[[i, k]] = joint.score;
        }
        person.bbox.iter().enumerate().for_each(|(side, at)| boxes[[i, side]] = *at);
    }
    let scores: Array1<f32> = people.iter().map(|person| person.score).collect();
    (
        keypoints.into_pyarray(py),
        keypoint_scores.into_pyarray(py),
        scores.into_pyarray(py),
        boxes.into_pyarray(py),
        None,
        people.not_finite(),
        Some(size),
    )
}

/// The attributes of a Python object `People`.
#[derive(FromPyObject)]
pub struct People<'py> {
    keypoints: PyReadonlyArray3<'py, f32>,
    keypoint_scores: PyReadonlyArray2<'py, f32>,
    scores: PyReadonlyArray1<'py, f32>,
    boxes: PyReadonlyArray2<'py, f32>,
    ids: Option<PyReadonlyArray1<'py, i64>>,
    not_finite: usize,
    size: Option<(usize, usize)>,
}

impl<'py> People<'py> {
    /// The attributes of an object that should be `People`.
    ///
    /// # Errors
    /// `TypeError` if it has not all of them.
    pub fn of(object: &Bound<'py, PyAny>) -> PyResult<People<'py>> {
        object.extract().map_err(|error: PyErr| {
            let kind =
                object.get_type().qualname().map_or_else(|_| "another".into(), |name| name.to_string());
            PyTypeError::new_err(format!("people: expected People, got {kind}: {}", error.value(object.py())))
        })
    }

    /// Their keypoints: people, joints, x and y.
    pub fn keypoints(&self) -> &PyReadonlyArray3<'py, f32> {
        &self.keypoints
    }

    /// The crate's people.
    ///
    /// # Errors
    /// `UsageError` if the arrays' shapes do not belong together.
    pub fn to_people(&self) -> PyResult<rtmo_engine::People> {
        let &[n, k, two] = self.keypoints.shape() else { unreachable!("an array of three axes") };
        let ids = self.ids.as_ref().map(|ids| ids.as_array());
        let lengths = [self.scores.len(), ids.map_or(n, |ids| ids.len())];
        if two != 2
            || lengths != [n; 2]
            || self.keypoint_scores.shape() != [n, k]
            || self.boxes.shape() != [n, 4]
        {
            return Err(usage(format!(
                "people: arrays that do not belong together: keypoints {:?}, keypoint_scores {:?}, scores {:?}, boxes {:?}",
                self.keypoints.shape(),
                self.keypoint_scores.shape(),
                self.scores.shape(),
                self.boxes.shape(),
            )));
        }
        let (keypoints, keypoint_scores) = (self.keypoints.as_array(), self.keypoint_scores.as_array());
        let (scores, boxes) = (self.scores.as_array(), self.boxes.as_array());
        let person = |i: usize| {
            let joint =
                |j| Keypoint::new(keypoints[[i, j, 0]], keypoints[[i, j, 1]], keypoint_scores[[i, j]]);
            let bbox = [0, 1, 2, 3].map(|side| boxes[[i, side]]);
            let mut person = Person::new(scores[i], bbox, (0..k).map(joint).collect());
            person.id = ids.and_then(|ids| u64::try_from(ids[i]).ok());
            person
        };
        let people: Vec<Person> = (0..n).map(person).collect();
        Ok(rtmo_engine::People::from(people).with_not_finite(self.not_finite))
    }
}

/// Ids as an array: -1 where a person has none.
pub fn ids<'py>(py: Python<'py>, people: &[Person]) -> Bound<'py, PyArray1<i64>> {
    let ids = people.iter().map(|person| person.id.and_then(|id| i64::try_from(id).ok()).unwrap_or(-1));
    ids.collect::<Array1<i64>>().into_pyarray(py)
}

/// Keypoints as an array.
pub fn keypoints<'py>(py: Python<'py>, people: &[Person], joints: usize) -> Bound<'py, PyArray3<f32>> {
    let at = |(i, j, axis): (usize, usize, usize)| {
        let joint = people[i].keypoints[j];
        if axis == 0 { joint.x } else { joint.y }
    };
    Array3::from_shape_fn((people.len(), joints, 2), at).into_pyarray(py)
}

/// A line of JSON, without its end.
#[pyfunction]
pub fn to_json(people: People<'_>, image: PathBuf, names: bool) -> PyResult<String> {
    let Some(size) = people.size else {
        return Err(usage("people: to_json needs the picture's width and height: set size"));
    };
    let skeleton = Skeleton::of(people.keypoints.shape()[1]).filter(|_| names);
    let mut line = Vec::new();
    write_json_line(&mut line, &image, size, &people.to_people()?, skeleton).or_raise()?;
    line.pop();
    Ok(String::from_utf8(line)?)
}

/// COCO results of one image as JSON text.
#[pyfunction]
pub fn to_coco(people: People<'_>, image_id: u64) -> PyResult<String> {
    let mut writer = CocoWriter::new(Vec::new(), ImageIds::default());
    // Without annotations an image's id is the number that its name is.
    writer.add(Path::new(&image_id.to_string()), &people.to_people()?).or_raise()?;
    Ok(String::from_utf8(writer.finish()?)?)
}

/// A copy of a picture with people drawn on it, in the order of its channels.
#[pyfunction]
pub fn plot<'py>(
    people: People<'py>,
    image: &Bound<'py, PyAny>,
    rgb: bool,
    boxes: bool,
    keypoint_thr: f32,
    width: f32,
) -> PyResult<Bound<'py, PyArray3<u8>>> {
    if !(keypoint_thr.is_finite() && width.is_finite() && width >= 0.0) {
        return Err(usage(format!(
            "plot: keypoint_thr {keypoint_thr}, width {width}: expected finite numbers"
        )));
    }
    let py = image.py();
    let given = Given::new(image, rgb, None)?;
    let picture = given.picture()?;
    let people = people.to_people()?;
    let photo = py.detach(|| {
        let mut photo = picture.to_photo()?;
        let skeleton = people.first().and_then(|person| Skeleton::of(person.keypoints.len()));
        let options =
            DrawOptions::default().with_boxes(boxes).with_keypoint_thr(keypoint_thr).with_width(width);
        draw_people(&mut photo, &people, skeleton, &options);
        if rgb {
            photo.bgr.chunks_exact_mut(3).for_each(|pixel| pixel.swap(0, 2));
        }
        Ok(photo)
    });
    let photo = photo.or_raise()?;
    photo.bgr.into_pyarray(py).reshape([photo.height, photo.width, 3])
}

/// Names of keypoints, and pairs of keypoints by number.
type Joints = (Vec<&'static str>, Vec<(usize, usize)>);

/// Names of keypoints and pairs of keypoints that are joined, of models with so many keypoints; `None` if they have no names.
#[pyfunction]
pub fn skeleton(keypoints: usize) -> Option<Joints> {
    let skeleton = Skeleton::of(keypoints)?;
    Some((skeleton.keypoints().collect(), skeleton.bones().iter().map(|bone| (bone.from, bone.to)).collect()))
}
