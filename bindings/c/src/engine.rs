//! The engine: pictures in, people out.

use crate::image::{ImageView, picture};
use crate::people::PeopleHandle;
use crate::pointer::{Growing, array, borrow, give, optional_text, options, put, take, text};
use crate::status::{Failure, Outcome, RTMO_ERROR_DEVICE, argument, c_text, guard, or, rtmo_status};
use crate::track::given;
use crate::weights::{Log, Source, rtmo_log};
use rtmo_engine::weights::{Checkpoint, is_demo, score_thr};
use rtmo_engine::{Engine, Image, Precision, Skeleton};
use std::ffi::{CString, c_char, c_void};
use std::mem::ManuallyDrop;
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A network that is prepared for a device. It is locked during a call, so that threads may share it; they wait for each other.
/// After a fork its threads are in the other process only: calls then fail with RTMO_ERROR_DEVICE, so make an engine in each
/// process.
pub struct EngineHandle {
    engine: ManuallyDrop<Mutex<Engine>>,
    /// The process that its threads are in.
    process: u32,
    name: CString,
    description: CString,
    input_size: (usize, usize),
    joints: usize,
    joint_names: Vec<CString>,
    bones: Vec<u32>,
    /// What a score threshold of 0 stands for, if that is the weights' own.
    default_score_thr: Option<f32>,
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        // After a fork the threads, for which it would wait, are in the other process only.
        if process::id() == self.process {
            // SAFETY: `engine` is not used after this: `drop` is called once.
            unsafe { ManuallyDrop::drop(&mut self.engine) };
        }
    }
}

/// How an engine is set up. All zeros but `struct_size` are the defaults; where 0 itself is meant, give RTMO_ZERO.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct EngineOptions {
    /// sizeof(rtmo_engine_options).
    pub struct_size: usize,
    /// "auto" (the default: a GPU if there is one that the library was built for), "cpu", "cuda" or "cuda:1".
    pub device: *const c_char,
    /// "fp32", "bf16", "bf16x3" or "fp16". Default: fp32 on a CPU, fp16 on a GPU.
    pub precision: *const c_char,
    /// Whose conventions to follow: "mmpose" (the default) or "rtmlib".
    pub compat: *const c_char,
    /// Address of a folder on another server to fetch weights from. Default: the environment's RTMO_MIRROR, else the authors'.
    pub mirror: *const c_char,
    /// Is told what a user should know, such as that weights are fetched. NULL: nothing is told.
    pub log: rtmo_log,
    /// For `log`.
    pub log_user: *mut c_void,
    /// Threads on a CPU, the caller's included. Default: one for each physical core that the process may use.
    pub threads: usize,
    /// At most so many people a picture, the best first. Default: all.
    pub max_people: usize,
    /// Network input in pixels, multiples of 32 up to 8192, both or none. Larger finds smaller people. Default: the model's own.
    pub input_width: i32,
    /// As `input_width`.
    pub input_height: i32,
    /// Score that a person must exceed, up to 1. Default: 0.1; 0.7 with "rtmlib"; 0.5 for the demonstration model.
    pub score_thr: f32,
    /// Overlap of boxes (IoU) above which the lesser of two people is dropped, up to 1. Default: 0.65; 0.45 with "rtmlib".
    pub nms_thr: f32,
    /// Not 0: weights are not fetched, as with the environment's RTMO_OFFLINE.
    pub offline: i32,
    /// Not 0: permits a mirror without encryption, as does the environment's RTMO_ALLOW_HTTP.
    pub allow_http: i32,
}

// SAFETY: repr(C), begins with a usize, and has only integers, floats, raw pointers and a function's address, which is null or
// taken as the header asks, without padding between them.
unsafe impl Growing for EngineOptions {
    const FIRST: usize = size_of::<EngineOptions>();
}

impl EngineOptions {
    /// The crate's options.
    ///
    /// # Safety
    /// The texts are NULL or end with a NUL.
    unsafe fn engine(&self) -> Outcome<rtmo_engine::EngineOptions> {
        // SAFETY: the caller's promise.
        let text = |text, what| unsafe { optional_text(text, what) };
        let mut options = rtmo_engine::EngineOptions::default();
        if let Some(device) = text(self.device, "device")? {
            options = options.with_device(device.parse()?);
        }
        if let Some(precision) = text(self.precision, "precision")? {
            options = options.with_precision(precision.parse()?);
        }
        if let Some(compat) = text(self.compat, "compat")? {
            options = options.with_compat(compat.parse()?);
        }
        let side = |side: i32| usize::try_from(side).ok();
        options.input_size = match (side(self.input_width), side(self.input_height)) {
            (Some(0), Some(0)) => None,
            (Some(width @ 1..), Some(height @ 1..)) => Some((width, height)),
            _ => {
                let (width, height) = (self.input_width, self.input_height);
                return argument(format!(
                    "input_width {width}, input_height {height}: expected two multiples of 32, or 0 for both"
                ));
            }
        };
        options.placement.threads = Some(self.threads).filter(|&threads| threads > 0);
        options.max_people = Some(self.max_people).filter(|&people| people > 0);
        options.score_thr = given(self.score_thr);
        options.nms_thr = given(self.nms_thr);
        Ok(options)
    }

    fn log(&self) -> Log {
        Log { call: self.log, user: self.log_user }
    }
}

/// Prepares a network.
fn prepare(
    checkpoint: &Checkpoint,
    asked: rtmo_engine::EngineOptions,
    names_demo: bool,
    log: Log,
) -> Outcome<EngineHandle> {
    let mut options = asked;
    options.score_thr = score_thr(checkpoint, asked.score_thr, asked.compat);
    if is_demo(checkpoint) && !names_demo {
        log.tell(
            "this is the small demonstration model, which misses small and hidden people: name \"rtmo-s\"",
        );
    }
    let engine = Engine::from_checkpoint(checkpoint, options)?;
    let chosen = engine.options().placement.precision;
    if asked.placement.precision.is_some() && chosen != asked.placement.precision {
        let got = chosen.map_or("another", Precision::name);
        log.tell(&format!("no GPU can be used: computing in {got} on the CPU instead of fp16"));
    }
    let skeleton = Skeleton::of(engine.keypoints());
    let bones = skeleton.iter().flat_map(|skeleton| skeleton.bones());
    Ok(EngineHandle {
        process: process::id(),
        name: c_text(engine.name()),
        description: c_text(&engine.describe()),
        input_size: engine.input_size(),
        joints: engine.keypoints(),
        joint_names: skeleton.iter().flat_map(|skeleton| skeleton.keypoints()).map(c_text).collect(),
        bones: bones.flat_map(|bone| [bone.from as u32, bone.to as u32]).collect(),
        default_score_thr: score_thr(checkpoint, None, asked.compat),
        engine: ManuallyDrop::new(Mutex::new(engine)),
    })
}

impl EngineHandle {
    fn lock(&self) -> Outcome<MutexGuard<'_, Engine>> {
        let now = process::id();
        if now != self.process {
            return Err(Failure::new(
                RTMO_ERROR_DEVICE,
                format!(
                    "this engine was made in process {} and its threads are there, not in the fork {now}: make an engine \
                     in each process",
                    self.process
                ),
            ));
        }
        // The engine stays usable after a panic.
        Ok(self.engine.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn infer(&self, images: &[Image<'_>]) -> Outcome<Vec<PeopleHandle>> {
        let people = self.lock()?.infer(images)?;
        Ok(people.iter().map(|people| PeopleHandle::new(people, self.joints)).collect())
    }
}

/// Finds or fetches weights and prepares their network.
///
/// `model` is the name of published weights (rtmo_models_create lists them), which are fetched once if they are not here; or
/// "rtmo-n-demo", a small demonstration model that is part of the library; or the path of a weights file, which has a slash or
/// ends in .pth, .safetensors, .onnx or .zip. NULL: published weights that are here, else rtmo-s is fetched, else the
/// demonstration model is taken. `options` may be NULL: the defaults.
///
/// *engine: the handle, for rtmo_engine_free; NULL on failure. RTMO_ERROR_ARGUMENT, RTMO_ERROR_FILE, RTMO_ERROR_WEIGHTS,
/// RTMO_ERROR_DOWNLOAD or RTMO_ERROR_DEVICE. Takes up to seconds. May be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_engine_create(
    model: *const c_char,
    options: *const EngineOptions,
    engine: *mut *mut EngineHandle,
) -> rtmo_status {
    guard(|| {
        // SAFETY: the header asks for memory for a pointer.
        unsafe { put(engine, "engine", std::ptr::null_mut()) }?;
        // SAFETY: the header asks for NULL or a text.
        let model = if model.is_null() { None } else { Some(unsafe { text(model, "model") }?) };
        // SAFETY: the header asks for NULL or options whose first field is their size.
        let options = unsafe { self::options(options, "options") }?;
        // SAFETY: the header asks for texts in the options.
        let (set, mirror) = unsafe { (options.engine()?, optional_text(options.mirror, "mirror")?) };
        let (offline, allow_http, log) = (options.offline != 0, options.allow_http != 0, options.log());
        let source = Source { model, offline, mirror, allow_http, log };
        let made = prepare(&source.checkpoint()?, set, source.names_demo(), log)?;
        // SAFETY: as above.
        unsafe { put(engine, "engine", give(made)) }
    })
}

/// Prepares the network of a weights file that is in memory: `size` bytes from `bytes` on, which are copied. `options` may be
/// NULL: the defaults.
///
/// *engine: the handle, for rtmo_engine_free; NULL on failure. RTMO_ERROR_ARGUMENT, RTMO_ERROR_WEIGHTS or RTMO_ERROR_DEVICE. May
/// be called from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_engine_create_from_bytes(
    bytes: *const u8,
    size: usize,
    options: *const EngineOptions,
    engine: *mut *mut EngineHandle,
) -> rtmo_status {
    guard(|| {
        // SAFETY: the header asks for memory for a pointer.
        unsafe { put(engine, "engine", std::ptr::null_mut()) }?;
        if size == 0 {
            return argument("bytes: a weights file of 0 bytes");
        }
        // SAFETY: the header asks for so many bytes.
        let bytes = unsafe { array(bytes, size, "bytes") }?;
        // SAFETY: the header asks for NULL or options whose first field is their size.
        let options = unsafe { self::options(options, "options") }?;
        // SAFETY: the header asks for texts in the options.
        let set = unsafe { options.engine() }?;
        let checkpoint = Checkpoint::from_bytes("weights in memory", bytes.to_vec())?;
        let made = prepare(&checkpoint, set, true, options.log())?;
        // SAFETY: as above.
        unsafe { put(engine, "engine", give(made)) }
    })
}

/// Frees an engine, and ends its threads. No other call with it may be under way. NULL: nothing happens. People that it found
/// stay.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_engine_free(engine: *mut EngineHandle) {
    // SAFETY: the header asks for NULL or a handle that is not used any more.
    or((), || unsafe { take(engine, "engine") });
}

/// Finds the people on one picture.
///
/// *people: the handle, for rtmo_people_free; NULL on failure. RTMO_ERROR_ARGUMENT for a picture of impossible size, stride or
/// format; RTMO_ERROR_DEVICE. Thread-safe: the engine is locked. The picture must not be written to meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_infer(
    engine: *mut EngineHandle,
    image: *const ImageView,
    people: *mut *mut PeopleHandle,
) -> rtmo_status {
    // SAFETY: the header asks for the same as for a batch of one.
    guard(|| unsafe { batch(engine, image, 1, people, "image") })
}

/// Finds the people on `count` pictures, which may differ in size, as one batch: faster than one by one on a GPU.
///
/// people: an array of `count` handles, each for rtmo_people_free; all NULL on failure. Errors and threads as rtmo_infer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_infer_batch(
    engine: *mut EngineHandle,
    images: *const ImageView,
    count: usize,
    people: *mut *mut PeopleHandle,
) -> rtmo_status {
    // SAFETY: the header asks for the same.
    guard(|| unsafe { batch(engine, images, count, people, "images") })
}

/// # Safety
/// `engine` is NULL or a handle that lives; `images` and `people` are NULL or lead to `count` pictures and to memory for as many
/// pointers.
unsafe fn batch(
    engine: *mut EngineHandle,
    images: *const ImageView,
    count: usize,
    people: *mut *mut PeopleHandle,
    what: &str,
) -> Outcome<()> {
    // An array of pictures is the longest one here: that it is possible means that all are.
    // SAFETY: the caller's promise.
    let views = unsafe { array(images, count, what) };
    if views.is_ok() || people.is_null() {
        for i in 0..count.min(if people.is_null() { 1 } else { count }) {
            // SAFETY: the caller promises memory for `count` pointers.
            unsafe { put(people.wrapping_add(i), "people", std::ptr::null_mut()) }?;
        }
    }
    let views = views?;
    // SAFETY: the caller's promise.
    let engine = unsafe { borrow(engine, "engine") }?;
    let one = |(i, view)| {
        let what = if what == "image" { what.into() } else { format!("images[{i}]") };
        // SAFETY: the caller's promise covers the pictures' bytes.
        unsafe { picture(view, &what) }
    };
    let pictures = views.iter().enumerate().map(one).collect::<Outcome<Vec<_>>>()?;
    for (i, found) in engine.infer(&pictures)?.into_iter().enumerate() {
        // SAFETY: as above; the engine returns one for each picture.
        unsafe { put(people.wrapping_add(i), "people", give(found)) }?;
    }
    Ok(())
}

/// Changes the thresholds, from the next call on, as `score_thr` and `nms_thr` of rtmo_engine_options: 0 is the default (the
/// demonstration model's score stays 0.5), RTMO_ZERO is 0.
///
/// RTMO_ERROR_ARGUMENT for a number above 1 or not finite; nothing is changed then. Thread-safe: the engine is locked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_engine_set_thresholds(
    engine: *mut EngineHandle,
    score_thr: f32,
    nms_thr: f32,
) -> rtmo_status {
    guard(|| {
        // SAFETY: the header asks for NULL or a handle that lives; its lock keeps other threads out.
        let handle = unsafe { borrow(engine, "engine") }?;
        let score_thr = given(score_thr).or(handle.default_score_thr);
        Ok(handle.lock()?.set_thresholds(score_thr, given(nms_thr))?)
    })
}

/// Which network it is: "rtmo-s" and the like, or "custom" and the width of its stem. NULL for NULL.
///
/// The text belongs to the engine. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_engine_name(engine: *const EngineHandle) -> *const c_char {
    // SAFETY: the header asks for NULL or a handle that lives.
    or(std::ptr::null(), || Ok(unsafe { borrow(engine, "engine") }?.name.as_ptr()))
}

/// One line on where it computes: device or instruction set, threads, precision. NULL for NULL.
///
/// The text belongs to the engine. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_engine_description(engine: *const EngineHandle) -> *const c_char {
    // SAFETY: the header asks for NULL or a handle that lives.
    or(std::ptr::null(), || Ok(unsafe { borrow(engine, "engine") }?.description.as_ptr()))
}

/// The network's input in pixels. RTMO_ERROR_ARGUMENT for NULL. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_engine_input_size(
    engine: *const EngineHandle,
    width: *mut i32,
    height: *mut i32,
) -> rtmo_status {
    guard(|| {
        // SAFETY: the header asks for NULL or a handle that lives.
        let (w, h) = unsafe { borrow(engine, "engine") }?.input_size;
        let side = |side: usize| i32::try_from(side).unwrap_or(i32::MAX);
        // SAFETY: the header asks for memory for a number.
        unsafe { put(width, "width", side(w)) }?;
        // SAFETY: the same.
        unsafe { put(height, "height", side(h)) }
    })
}

/// Keypoints a person: 17 for COCO's body, 14 for CrowdPose's. 0 for NULL. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_engine_keypoint_count(engine: *const EngineHandle) -> usize {
    // SAFETY: the header asks for NULL or a handle that lives.
    or(0, || Ok(unsafe { borrow(engine, "engine") }?.joints))
}

/// Name of a keypoint, from 0 on, such as "left_wrist"; left is the person's left. NULL for NULL, for an index that is too high,
/// and for networks whose keypoints have no names.
///
/// The text belongs to the engine. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_engine_keypoint_name(
    engine: *const EngineHandle,
    index: usize,
) -> *const c_char {
    or(std::ptr::null(), || {
        // SAFETY: the header asks for NULL or a handle that lives.
        let engine = unsafe { borrow(engine, "engine") }?;
        match engine.joint_names.get(index) {
            Some(name) => Ok(name.as_ptr()),
            None => argument(format!("index {index}: {} keypoints have names", engine.joint_names.len())),
        }
    })
}

/// Pairs of keypoints that are joined, for drawing: two numbers a bone. *count: bones; 0 for networks whose keypoints have no
/// names. NULL if there are none, or for NULL.
///
/// The array belongs to the engine. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rtmo_engine_bones(engine: *const EngineHandle, count: *mut usize) -> *const u32 {
    or(std::ptr::null(), || {
        // SAFETY: the header asks for memory for a number.
        unsafe { put(count, "count", 0) }?;
        // SAFETY: the header asks for NULL or a handle that lives.
        let bones = &unsafe { borrow(engine, "engine") }?.bones;
        // SAFETY: as above.
        unsafe { put(count, "count", bones.len() / 2) }?;
        Ok(if bones.is_empty() { std::ptr::null() } else { bones.as_ptr() })
    })
}
