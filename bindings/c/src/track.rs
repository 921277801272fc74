//! Identities and smoothing.

use crate::people::PeopleHandle;
use crate::pointer::{Growing, array, borrow, borrow_mut, give, options, put, take};
use crate::status::{guard, or, rtmo_status};
use std::sync::{Mutex, PoisonError};

/// Gives people of successive frames of a video their ids. Locked during a call, so that threads may share it; frames must come
/// in order.
pub struct TrackerHandle(Mutex<rtmo_engine::Tracker>);

/// Takes the jitter out of keypoints of a video. Locked during a call, so that threads may share it; frames must come in order.
pub struct SmootherHandle(Mutex<rtmo_engine::Smoother>);

/// How a tracker is set up. All zeros but `struct_size` are the defaults; where 0 itself is meant, give RTMO_ZERO.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TrackerOptions {
    /// sizeof(rtmo_tracker_options).
    pub struct_size: usize,
    /// Seconds that a person may be out of sight and still keep the id, up to 3600. Default: 2.
    pub max_unseen: f64,
    /// How alike a person and what is expected of a track must be, up to 1. Default: 0.1.
    pub min_iou: f32,
    /// Score from which on a person may begin a track, up to 1. Default: 0.3.
    pub min_score: f32,
    /// In how many frames a person must be seen before there is an id. Default: 2.
    pub min_hits: usize,
    /// For each keypoint how far it may be off, as OKS defines it; NULL: COCO's for 17 keypoints, CrowdPose's for 14, else 0.07.
    pub sigmas: *const f32,
    /// Numbers in `sigmas`.
    pub sigma_count: usize,
}

// SAFETY: repr(C), begins with a usize, and has only integers, floats and raw pointers, without padding between them.
unsafe impl Growing for TrackerOptions {
    const FIRST: usize = size_of::<TrackerOptions>();
}

/// How a smoother is set up. All zeros but `struct_size` are the defaults; where 0 itself is meant, give RTMO_ZERO.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SmootherOptions {
    /// sizeof(rtmo_smoother_options).
    pub struct_size: usize,
    /// Cutoff frequency in hertz of a joint that rests, above 0. Lower: less jitter, more lag. Default: 1.5.
    pub min_cutoff: f64,
    /// By how many hertz it rises for a speed of one person's size a second. Higher: less lag. Default: 15.
    pub beta: f64,
    /// Cutoff frequency in hertz for the speed itself, above 0. Default: 4.
    pub speed_cutoff: f64,
    /// Seconds after which a joint that was not seen begins anew, above 0. Default: 0.5.
    pub max_unseen: f64,
    /// Keypoints of a lower score stay as they are, up to 1. Default: 0.3.
    pub min_score: f32,
    /// Must be 0.
    pub reserved: u32,
}

// SAFETY: repr(C), begins with a usize, and has only integers and floats, without padding between them.
unsafe impl Growing for SmootherOptions {
    const FIRST: usize = size_of::<SmootherOptions>();
}

/// Stands for 0 in options where 0 means the default.
pub const RTMO_ZERO: f32 = -1.0;

/// A number of options: `None` for the default.
pub fn given<T: PartialEq + From<f32>>(value: T) -> Option<T> {
    match value {
        value if value == T::from(0.0) => None,
        value if value == T::from(RTMO_ZERO) => Some(T::from(0.0)),
        value => Some(value),
    }
}

/// Makes a tracker that has seen no person yet. `options` may be NULL: the defaults.
///
/// *tracker: the handle, for rtmo_tracker_free; NULL on failure. RTMO_ERROR_ARGUMENT for a number out of range. May be called
/// from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_tracker_create(
    options: *const TrackerOptions,
    tracker: *mut *mut TrackerHandle,
) -> rtmo_status {
    guard(|| {
        // SAFETY: the header asks for memory for a pointer.
        unsafe { put(tracker, "tracker", std::ptr::null_mut()) }?;
        // SAFETY: the header asks for NULL or options whose first field is their size.
        let from = unsafe { self::options(options, "options") }?;
        let mut set = rtmo_engine::TrackerOptions::default();
        set.max_unseen = given(from.max_unseen).unwrap_or(set.max_unseen);
        set.min_iou = given(from.min_iou).unwrap_or(set.min_iou);
        set.min_score = given(from.min_score).unwrap_or(set.min_score);
        set.min_hits = if from.min_hits == 0 { set.min_hits } else { from.min_hits };
        if !from.sigmas.is_null() || from.sigma_count > 0 {
            // SAFETY: the header asks for so many numbers.
            set.sigmas = Some(unsafe { array(from.sigmas, from.sigma_count, "sigmas") }?.to_vec());
        }
        let made = rtmo_engine::Tracker::new(set)?;
        // SAFETY: as above.
        unsafe { put(tracker, "tracker", give(TrackerHandle(Mutex::new(made)))) }
    })
}

/// Gives the people of the next frame their ids (rtmo_people_ids). `seconds` is the frame's time, above that of the frame
/// before; a constant rate need not be assumed. Nothing is changed on failure.
///
/// RTMO_ERROR_ARGUMENT for a time that is not later, or people with a number that is not finite. Locks the tracker; `people` must
/// not be used by others meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_tracker_update(
    tracker: *mut TrackerHandle,
    people: *mut PeopleHandle,
    seconds: f64,
) -> rtmo_status {
    guard(|| {
        // SAFETY: the header asks for NULL or a handle that lives; its lock keeps other threads out.
        let tracker = unsafe { borrow(tracker, "tracker") }?;
        // SAFETY: the header asks for NULL or a handle that lives and that is not used by others meanwhile.
        let people = unsafe { borrow_mut(people, "people") }?;
        let mut tracked = people.people();
        tracker.0.lock().unwrap_or_else(PoisonError::into_inner).update(&mut tracked, seconds)?;
        let ids = tracked.iter().map(|person| person.id.and_then(|id| i64::try_from(id).ok()).unwrap_or(-1));
        people.ids = ids.collect();
        Ok(())
    })
}

/// Begins anew, as for another video: all people are forgotten, and times may begin anywhere. No id is given twice by one tracker.
///
/// RTMO_ERROR_ARGUMENT for NULL. Locks the tracker.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_tracker_reset(tracker: *mut TrackerHandle) -> rtmo_status {
    guard(|| {
        // SAFETY: the header asks for NULL or a handle that lives; its lock keeps other threads out.
        let tracker = unsafe { borrow(tracker, "tracker") }?;
        tracker.0.lock().unwrap_or_else(PoisonError::into_inner).reset();
        Ok(())
    })
}

/// Frees a tracker. NULL: nothing happens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_tracker_free(tracker: *mut TrackerHandle) {
    // SAFETY: the header asks for NULL or a handle that is not used any more.
    or((), || unsafe { take(tracker, "tracker") });
}

/// Makes a smoother that has seen no person yet. `options` may be NULL: the defaults.
///
/// *smoother: the handle, for rtmo_smoother_free; NULL on failure. RTMO_ERROR_ARGUMENT for a number out of range. May be called
/// from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_smoother_create(
    options: *const SmootherOptions,
    smoother: *mut *mut SmootherHandle,
) -> rtmo_status {
    guard(|| {
        // SAFETY: the header asks for memory for a pointer.
        unsafe { put(smoother, "smoother", std::ptr::null_mut()) }?;
        // SAFETY: the header asks for NULL or options whose first field is their size.
        let from = unsafe { self::options(options, "options") }?;
        if from.reserved != 0 {
            return crate::status::argument(format!("options: reserved {}: expected 0", from.reserved));
        }
        let mut set = rtmo_engine::SmootherOptions::default();
        set.min_cutoff = given(from.min_cutoff).unwrap_or(set.min_cutoff);
        set.beta = given(from.beta).unwrap_or(set.beta);
        set.speed_cutoff = given(from.speed_cutoff).unwrap_or(set.speed_cutoff);
        set.max_unseen = given(from.max_unseen).unwrap_or(set.max_unseen);
        set.min_score = given(from.min_score).unwrap_or(set.min_score);
        let made = rtmo_engine::Smoother::new(set)?;
        // SAFETY: as above.
        unsafe { put(smoother, "smoother", give(SmootherHandle(Mutex::new(made)))) }
    })
}

/// Smooths the keypoints of the people of the next frame, in place. It knows people by their ids: call rtmo_tracker_update
/// before. `seconds` is the frame's time, above that of the frame before. Nothing is changed on failure.
///
/// RTMO_ERROR_ARGUMENT for a time that is not later, or people with a number that is not finite. Locks the smoother; `people`
/// must not be used by others meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_smoother_smooth(
    smoother: *mut SmootherHandle,
    people: *mut PeopleHandle,
    seconds: f64,
) -> rtmo_status {
    guard(|| {
        // SAFETY: the header asks for NULL or a handle that lives; its lock keeps other threads out.
        let smoother = unsafe { borrow(smoother, "smoother") }?;
        // SAFETY: the header asks for NULL or a handle that lives and that is not used by others meanwhile.
        let people = unsafe { borrow_mut(people, "people") }?;
        let mut smoothed = people.people();
        smoother.0.lock().unwrap_or_else(PoisonError::into_inner).smooth(&mut smoothed, seconds)?;
        let places = smoothed.iter().flat_map(|person| person.keypoints.iter().flat_map(|k| [k.x, k.y]));
        people.keypoints = places.collect();
        Ok(())
    })
}

/// Begins anew, as for another video.
///
/// RTMO_ERROR_ARGUMENT for NULL. Locks the smoother.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_smoother_reset(smoother: *mut SmootherHandle) -> rtmo_status {
    guard(|| {
        // SAFETY: the header asks for NULL or a handle that lives; its lock keeps other threads out.
        let smoother = unsafe { borrow(smoother, "smoother") }?;
        smoother.0.lock().unwrap_or_else(PoisonError::into_inner).reset();
        Ok(())
    })
}

/// Frees a smoother. NULL: nothing happens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_smoother_free(smoother: *mut SmootherHandle) {
    // SAFETY: the header asks for NULL or a handle that is not used any more.
    or((), || unsafe { take(smoother, "smoother") });
}
