//! People as flat arrays.

use crate::pointer::{array, borrow, give, put, take};
use crate::status::{Outcome, argument, guard, or, rtmo_status};
use rtmo_engine::{Keypoint, Person};

/// The people of one picture, as arrays that belong to it. Several threads may read it at the same time; none may meanwhile
/// change it (rtmo_tracker_update, rtmo_smoother_smooth) or free it.
pub struct PeopleHandle {
    pub joints: usize,
    pub scores: Vec<f32>,
    pub boxes: Vec<f32>,
    pub keypoints: Vec<f32>,
    pub keypoint_scores: Vec<f32>,
    pub ids: Vec<i64>,
    pub not_finite: usize,
}

impl PeopleHandle {
    /// People of `joints` keypoints each.
    pub fn new(people: &rtmo_engine::People, joints: usize) -> PeopleHandle {
        let of = |values: fn(&Person) -> Vec<f32>| people.iter().flat_map(values).collect::<Vec<f32>>();
        PeopleHandle {
            joints,
            scores: of(|person| vec![person.score]),
            boxes: of(|person| person.bbox.to_vec()),
            keypoints: of(|person| person.keypoints.iter().flat_map(|k| [k.x, k.y]).collect()),
            keypoint_scores: of(|person| person.keypoints.iter().map(|k| k.score).collect()),
            ids: vec![-1; people.len()],
            not_finite: people.not_finite(),
        }
    }

    /// The crate's people.
    pub fn people(&self) -> Vec<Person> {
        let person = |i: usize| {
            let at = i * self.joints..(i + 1) * self.joints;
            let scores = &self.keypoint_scores[at.clone()];
            let places = self.keypoints[2 * at.start..2 * at.end].chunks_exact(2);
            let keypoints = places.zip(scores).map(|(at, &score)| Keypoint::new(at[0], at[1], score));
            let bbox = [0, 1, 2, 3].map(|side| self.boxes[4 * i + side]);
            let mut person = Person::new(self.scores[i], bbox, keypoints.collect());
            person.id = u64::try_from(self.ids[i]).ok();
            person
        };
        (0..self.scores.len()).map(person).collect()
    }
}

/// # Safety
/// `people` is NULL or a handle that lives.
unsafe fn values<T>(people: *const PeopleHandle, of: fn(&PeopleHandle) -> &Vec<T>) -> *const T {
    or(std::ptr::null(), || {
        // SAFETY: the caller's promise.
        let values = of(unsafe { borrow(people, "people") }?);
        Ok(if values.is_empty() { std::ptr::null() } else { values.as_ptr() })
    })
}

/// How many people there are: N below. 0 for NULL.
///
/// Thread-safe, as rtmo_people says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_people_count(people: *const PeopleHandle) -> usize {
    // SAFETY: the header asks for NULL or a handle that lives.
    or(0, || Ok(unsafe { borrow(people, "people") }?.scores.len()))
}

/// Keypoints a person: K below, 17 for COCO's body, 14 for CrowdPose's. 0 for NULL.
///
/// Thread-safe, as rtmo_people says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_people_keypoint_count(people: *const PeopleHandle) -> usize {
    // SAFETY: the header asks for NULL or a handle that lives.
    or(0, || Ok(unsafe { borrow(people, "people") }?.joints))
}

/// Confidences, N numbers from 0 to 1, the best first. NULL if there are no people, or for NULL.
///
/// The array belongs to `people`. Thread-safe, as rtmo_people says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_people_scores(people: *const PeopleHandle) -> *const f32 {
    // SAFETY: the header asks for NULL or a handle that lives.
    unsafe { values(people, |people| &people.scores) }
}

/// Boxes, N times x1, y1, x2, y2 (left, top, right, bottom) in pixels of the picture, from its upper left corner; they may reach
/// beyond it. NULL if there are no people, or for NULL.
///
/// The array belongs to `people`. Thread-safe, as rtmo_people says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_people_boxes(people: *const PeopleHandle) -> *const f32 {
    // SAFETY: the header asks for NULL or a handle that lives.
    unsafe { values(people, |people| &people.boxes) }
}

/// Places of keypoints, N times K times x, y in pixels of the picture; they may lie outside it. Keypoint k of person i is at
/// [(i * K + k) * 2]. NULL if there are no people, or for NULL.
///
/// The array belongs to `people`. Thread-safe, as rtmo_people says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_people_keypoints(people: *const PeopleHandle) -> *const f32 {
    // SAFETY: the header asks for NULL or a handle that lives.
    unsafe { values(people, |people| &people.keypoints) }
}

/// Confidences that keypoints are visible, N times K numbers from 0 to 1. NULL if there are no people, or for NULL.
///
/// The array belongs to `people`. Thread-safe, as rtmo_people says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_people_keypoint_scores(people: *const PeopleHandle) -> *const f32 {
    // SAFETY: the header asks for NULL or a handle that lives.
    unsafe { values(people, |people| &people.keypoint_scores) }
}

/// Who they are, N numbers from rtmo_tracker_update: from 1 on, -1 for those without one, and for all before it. NULL if there
/// are no people, or for NULL.
///
/// The array belongs to `people`. Thread-safe, as rtmo_people says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_people_ids(people: *const PeopleHandle) -> *const i64 {
    // SAFETY: the header asks for NULL or a handle that lives.
    unsafe { values(people, |people| &people.ids) }
}

/// How many people are left out because the network's numbers for them were not finite. Above 0 the weights are broken, or too
/// large for the precision. 0 for NULL.
///
/// Thread-safe, as rtmo_people says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_people_not_finite(people: *const PeopleHandle) -> usize {
    // SAFETY: the header asks for NULL or a handle that lives.
    or(0, || Ok(unsafe { borrow(people, "people") }?.not_finite))
}

/// People from elsewhere, for a tracker or a smoother; the arrays are copied. `scores` has `count` numbers, `boxes` four times
/// as many (x1, y1, x2, y2), `keypoint_scores` `count * keypoint_count` and `keypoints` twice those (x, y), in pixels.
/// `keypoint_count` may be 0: then `keypoints` and `keypoint_scores` may be NULL.
///
/// *people: the handle, for rtmo_people_free; NULL on failure. RTMO_ERROR_ARGUMENT for pointers that are NULL or misaligned, and
/// counts that are too large. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_people_create(
    count: usize,
    keypoint_count: usize,
    scores: *const f32,
    boxes: *const f32,
    keypoints: *const f32,
    keypoint_scores: *const f32,
    people: *mut *mut PeopleHandle,
) -> rtmo_status {
    guard(|| {
        // SAFETY: the header asks for memory for a pointer.
        unsafe { put(people, "people", std::ptr::null_mut()) }?;
        let times = |n: usize| count.checked_mul(n).map_or_else(|| too_many(count, n), Ok);
        let (sides, joints) = (times(4)?, times(keypoint_count)?);
        let places = joints.checked_mul(2).map_or_else(|| too_many(joints, 2), Ok)?;
        let copy = |from, n, what| -> Outcome<Vec<f32>> {
            // SAFETY: the header asks for arrays of these lengths.
            Ok(unsafe { array(from, n, what) }?.to_vec())
        };
        let made = PeopleHandle {
            joints: keypoint_count,
            scores: copy(scores, count, "scores")?,
            boxes: copy(boxes, sides, "boxes")?,
            keypoints: copy(keypoints, places, "keypoints")?,
            keypoint_scores: copy(keypoint_scores, joints, "keypoint_scores")?,
            ids: vec![-1; count],
            not_finite: 0,
        };
        // SAFETY: as above.
        unsafe { put(people, "people", give(made)) }
    })
}

fn too_many<T>(count: usize, times: usize) -> Outcome<T> {
    argument(format!("{count} times {times} numbers are more than memory has"))
}

/// Frees people and the arrays that belong to them. NULL: nothing happens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_people_free(people: *mut PeopleHandle) {
    // SAFETY: the header asks for NULL or a handle that is not used any more.
    or((), || unsafe { take(people, "people") });
}
