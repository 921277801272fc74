//! What C gets is what Rust gets, and what can be checked is an error.

use crate::engine::*;
use crate::image::*;
use crate::models::*;
use crate::people::*;
use crate::pointer::Growing;
use crate::status::*;
use crate::track::*;
use rtmo_engine::{ChannelOrder, Device, Engine, Image, People, Person};
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{null, null_mut};

const WEIGHTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../weights/rtmo-n-demo.safetensors");
const W: usize = 90;
const H: usize = 70;
/// Longer than a row: the bytes between rows must not count.
const STRIDE: usize = 3 * W + 11;

fn error() -> String {
    // SAFETY: the text belongs to the library, ends with a NUL and holds until the next failure.
    unsafe { CStr::from_ptr(rtmo_last_error()) }.to_str().unwrap().into()
}

/// That a call failed so, with a text that has this part.
#[track_caller]
fn fails(status: rtmo_status, expected: rtmo_status, part: &str) {
    assert_eq!(status, expected, "{}", error());
    assert!(error().contains(part), "{part}: {}", error());
}

#[track_caller]
fn works(status: rtmo_status) {
    assert_eq!(status, RTMO_OK, "{}", error());
}

fn zeros<T: Growing>() -> T {
    // SAFETY: every pattern of bits is a value of such a type.
    unsafe { std::mem::zeroed() }
}

/// Options that keep everybody: a small network, and the same on every machine.
fn options() -> EngineOptions {
    EngineOptions {
        struct_size: size_of::<EngineOptions>(),
        device: c"cpu".as_ptr(),
        threads: 1,
        input_width: 96,
        input_height: 64,
        score_thr: RTMO_ZERO,
        max_people: 7,
        ..zeros()
    }
}

fn engine(options: &EngineOptions) -> *mut EngineHandle {
    let (weights, mut engine) = (CString::new(WEIGHTS).unwrap(), null_mut());
    // SAFETY: a text, options and a place for a handle.
    works(unsafe { rtmo_engine_create(weights.as_ptr(), options, &mut engine) });
    engine
}

fn pixels() -> Vec<u8> {
    (0..STRIDE * H).map(|i| (i * i / 7 + i / STRIDE * 5) as u8).collect()
}

fn view(pixels: &[u8], format: i32) -> ImageView {
    ImageView { data: pixels.as_ptr(), width: W as i32, height: H as i32, stride: STRIDE as i64, format }
}

/// All of a handle's arrays, as C reads them.
fn arrays(people: *const PeopleHandle) -> [Vec<f32>; 4] {
    // SAFETY: a handle that lives; arrays are as long as the header says.
    unsafe {
        let (n, k) = (rtmo_people_count(people), rtmo_people_keypoint_count(people));
        let read =
            |at: *const f32, n| if n == 0 { vec![] } else { std::slice::from_raw_parts(at, n).to_vec() };
        [
            read(rtmo_people_scores(people), n),
            read(rtmo_people_boxes(people), 4 * n),
            read(rtmo_people_keypoints(people), 2 * n * k),
            read(rtmo_people_keypoint_scores(people), n * k),
        ]
    }
}

/// The same arrays of the crate's people.
fn expected(people: &People) -> [Vec<f32>; 4] {
    let of = |values: fn(&Person) -> Vec<f32>| people.iter().flat_map(values).collect();
    [
        of(|p| vec![p.score]),
        of(|p| p.bbox.to_vec()),
        of(|p| p.keypoints.iter().flat_map(|k| [k.x, k.y]).collect()),
        of(|p| p.keypoints.iter().map(|k| k.score).collect()),
    ]
}

#[test]
fn results_equal_those_of_the_rust_call_to_the_bit() {
    let options = options();
    let handle = engine(&options);
    let set = rtmo_engine::EngineOptions::default()
        .with_device(Device::Cpu)
        .with_threads(1)
        .with_input_size(96, 64)
        .with_score_thr(0.0)
        .with_max_people(7);
    let mut rust = Engine::load(WEIGHTS, set).unwrap();
    let pixels = pixels();
    let image = |order| Image::new(W, H, order, &pixels).unwrap().with_stride(STRIDE).unwrap();
    let rust = rust.infer(&[image(ChannelOrder::Bgr), image(ChannelOrder::Rgb)]).unwrap();
    assert_eq!(rust[0].len(), 7);
    assert_ne!(rust[0], rust[1]);

    let bits = |arrays: [Vec<f32>; 4]| arrays.map(|a| a.into_iter().map(f32::to_bits).collect::<Vec<_>>());
    let views = [view(&pixels, RTMO_BGR), view(&pixels, RTMO_RGB)];
    let mut found = [null_mut(); 2];
    // SAFETY: handles that live, pictures in memory, and places for as many handles.
    unsafe {
        works(rtmo_infer_batch(handle, views.as_ptr(), 2, found.as_mut_ptr()));
        for (found, rust) in found.iter().zip(&rust) {
            assert_eq!(bits(arrays(*found)), bits(expected(rust)));
            rtmo_people_free(*found);
        }
        let mut one = null_mut();
        works(rtmo_infer(handle, &views[1], &mut one));
        assert_eq!(bits(arrays(one)), bits(expected(&rust[1])));
        assert_eq!(*rtmo_people_ids(one), -1);
        rtmo_people_free(one);

        // The same weights from memory.
        let bytes = std::fs::read(WEIGHTS).unwrap();
        let mut copy = null_mut();
        works(rtmo_engine_create_from_bytes(bytes.as_ptr(), bytes.len(), &options, &mut copy));
        drop(bytes);
        works(rtmo_infer(copy, &views[0], &mut one));
        assert_eq!(bits(arrays(one)), bits(expected(&rust[0])));
        rtmo_people_free(one);
        rtmo_engine_free(copy);

        // A batch of nothing is nothing.
        works(rtmo_infer_batch(handle, null(), 0, null_mut()));
        // Nobody is that sure.
        works(rtmo_engine_set_thresholds(handle, 1.0, 0.0));
        works(rtmo_infer(handle, &views[0], &mut one));
        assert_eq!((rtmo_people_count(one), rtmo_people_scores(one)), (0, null()));
        rtmo_people_free(one);
        rtmo_engine_free(handle);
    }
}

#[test]
fn an_engine_says_what_it_is() {
    let handle = engine(&options());
    let text = |text: *const c_char| {
        // SAFETY: a text of a handle that lives.
        unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_string()
    };
    // SAFETY: a handle that lives, and places for numbers.
    unsafe {
        let (mut w, mut h, mut bones) = (0, 0, 0);
        works(rtmo_engine_input_size(handle, &mut w, &mut h));
        assert_eq!((w, h, rtmo_engine_keypoint_count(handle)), (96, 64, 17));
        assert_eq!(text(rtmo_engine_keypoint_name(handle, 9)), "left_wrist");
        assert!(rtmo_engine_keypoint_name(handle, 17).is_null());
        assert!(error().contains("17 keypoints have names"), "{}", error());
        let pairs = rtmo_engine_bones(handle, &mut bones);
        assert!(bones > 10);
        assert!(std::slice::from_raw_parts(pairs, 2 * bones).iter().all(|&k| k < 17));
        assert!(text(rtmo_engine_description(handle)).contains("thread"));
        assert!(!text(rtmo_engine_name(handle)).is_empty());
        rtmo_engine_free(handle);
    }
}

#[test]
fn wrong_pictures_are_errors() {
    let handle = engine(&options());
    let pixels = pixels();
    let good = view(&pixels, RTMO_BGR);
    let cases: [(ImageView, &str); 10] = [
        (ImageView { data: null(), ..good }, "data is NULL"),
        (ImageView { width: 0, ..good }, "0x70 pixels: expected 1 to"),
        (ImageView { height: -1, ..good }, "90x-1 pixels"),
        (ImageView { width: i32::MIN, ..good }, "pixels"),
        (ImageView { height: i32::MAX, ..good }, "expected 1 to 1048576"),
        (ImageView { stride: 269, ..good }, "stride 269: expected at least 270"),
        (ImageView { stride: -270, ..good }, "stride -270"),
        (ImageView { stride: 0, ..good }, "stride 0"),
        (ImageView { stride: i64::MAX, ..good }, "more than memory has"),
        (ImageView { format: 0, ..good }, "format 0: expected RTMO_BGR"),
    ];
    for (view, part) in cases {
        let mut people = std::ptr::dangling_mut();
        // SAFETY: the library refuses these pictures before it reads pixels.
        fails(unsafe { rtmo_infer(handle, &view, &mut people) }, RTMO_ERROR_ARGUMENT, part);
        assert!(people.is_null());
        let views = [good, view];
        let mut people = [std::ptr::dangling_mut(); 2];
        // SAFETY: the same.
        let status = unsafe { rtmo_infer_batch(handle, views.as_ptr(), 2, people.as_mut_ptr()) };
        fails(status, RTMO_ERROR_ARGUMENT, "images[1]");
        assert_eq!(people, [null_mut(); 2]);
    }
    // SAFETY: NULL, a misaligned pointer and impossible counts are refused before anything is read.
    unsafe {
        let mut people = null_mut();
        let image = &raw const good;
        fails(rtmo_infer(null_mut(), image, &mut people), RTMO_ERROR_ARGUMENT, "engine is NULL");
        fails(rtmo_infer(handle, null(), &mut people), RTMO_ERROR_ARGUMENT, "image is NULL");
        fails(rtmo_infer(handle, image, null_mut()), RTMO_ERROR_ARGUMENT, "people is NULL");
        let odd = image.byte_add(1);
        fails(
            rtmo_infer(handle, odd, &mut people),
            RTMO_ERROR_ARGUMENT,
            "misaligned: expected a multiple of 8",
        );
        for count in [usize::MAX, usize::MAX / size_of::<ImageView>(), isize::MAX as usize / 8] {
            let status = rtmo_infer_batch(handle, image, count, &mut people);
            fails(status, RTMO_ERROR_ARGUMENT, "more than memory has");
        }
        // After all that it works.
        works(rtmo_infer(handle, image, &mut people));
        rtmo_people_free(people);
        rtmo_engine_free(handle);
    }
}

#[test]
fn wrong_options_are_errors() {
    let good = options();
    let cases: [(EngineOptions, &str); 12] = [
        (EngineOptions { struct_size: 0, ..good }, "struct_size 0: expected sizeof"),
        (EngineOptions { struct_size: usize::MAX, ..good }, "struct_size"),
        (EngineOptions { device: c"tpu".as_ptr(), ..good }, "tpu"),
        (EngineOptions { device: c"\xff".as_ptr(), ..good }, "not UTF-8 from byte 0"),
        (EngineOptions { precision: c"int3".as_ptr(), ..good }, "int3"),
        (EngineOptions { compat: c"other".as_ptr(), ..good }, "expected mmpose or rtmlib"),
        (EngineOptions { input_width: 0, ..good }, "input_width 0, input_height 64"),
        (EngineOptions { input_height: -64, ..good }, "input_height -64"),
        (EngineOptions { input_width: 95, ..good }, "95"),
        (EngineOptions { score_thr: f32::NAN, ..good }, "score threshold NaN"),
        (EngineOptions { nms_thr: 1.5, ..good }, "NMS threshold 1.5"),
        (EngineOptions { threads: usize::MAX, ..good }, "threads"),
    ];
    let weights = CString::new(WEIGHTS).unwrap();
    for (options, part) in cases {
        let mut engine = std::ptr::dangling_mut();
        // SAFETY: a text, options and a place for a handle.
        let status = unsafe { rtmo_engine_create(weights.as_ptr(), &options, &mut engine) };
        fails(status, RTMO_ERROR_ARGUMENT, part);
        assert!(engine.is_null());
    }
    // A larger structure from a newer header is taken if what is new is not used.
    #[repr(C)]
    struct Newer(EngineOptions, u64);
    for (new, status) in [(0, RTMO_OK), (1, RTMO_ERROR_ARGUMENT)] {
        let newer = Newer(EngineOptions { struct_size: size_of::<Newer>(), ..good }, new);
        let mut engine = null_mut();
        // SAFETY: a text, options as long as they say, a place for a handle, and a handle that is used no more.
        unsafe {
            let options = (&raw const newer).cast();
            assert_eq!(rtmo_engine_create(weights.as_ptr(), options, &mut engine), status, "{}", error());
            rtmo_engine_free(engine);
        }
    }
    assert!(error().contains("which this version of the library"), "{}", error());
}

#[test]
fn wrong_weights_are_errors() {
    let options = options();
    let create = |model: &CStr| {
        let mut engine = null_mut();
        // SAFETY: a text, options and a place for a handle.
        unsafe {
            let status = rtmo_engine_create(model.as_ptr(), &options, &mut engine);
            rtmo_engine_free(engine);
            status
        }
    };
    fails(create(c"/no/such/file.pth"), RTMO_ERROR_FILE, "/no/such/file.pth");
    fails(create(c"\xc3("), RTMO_ERROR_ARGUMENT, "model is not UTF-8");
    // Messages name no options of the program.
    for name in [c"my-own", c""] {
        assert_eq!(create(name), RTMO_ERROR_ARGUMENT, "{}", error());
        assert!(!error().contains("--") && !error().contains("'rtmo-engine"), "{}", error());
    }
    works(create(c"../../tests/data/onnx/tiny.onnx"));
    let manifest = CString::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    fails(create(&manifest), RTMO_ERROR_WEIGHTS, "not a safetensors file");
    let mut engine = null_mut();
    // SAFETY: bytes, options and a place for a handle; NULL and impossible sizes are refused before anything is read.
    unsafe {
        let junk = b"no weights at all, by any reader";
        let status = rtmo_engine_create_from_bytes(junk.as_ptr(), junk.len(), &options, &mut engine);
        fails(status, RTMO_ERROR_WEIGHTS, "weights in memory");
        let status = rtmo_engine_create_from_bytes(null(), 10, &options, &mut engine);
        fails(status, RTMO_ERROR_ARGUMENT, "bytes is NULL");
        let status = rtmo_engine_create_from_bytes(junk.as_ptr(), 0, &options, &mut engine);
        fails(status, RTMO_ERROR_ARGUMENT, "0 bytes");
        let status = rtmo_engine_create_from_bytes(junk.as_ptr(), usize::MAX, &options, &mut engine);
        fails(status, RTMO_ERROR_ARGUMENT, "more than memory has");
        let status = rtmo_engine_create_from_bytes(junk.as_ptr(), junk.len(), &options, null_mut());
        fails(status, RTMO_ERROR_ARGUMENT, "engine is NULL");
    }
}

#[test]
fn null_is_an_error_or_nothing_everywhere() {
    // SAFETY: NULL is refused or nothing.
    unsafe {
        rtmo_engine_free(null_mut());
        rtmo_people_free(null_mut());
        rtmo_tracker_free(null_mut());
        rtmo_smoother_free(null_mut());
        rtmo_models_free(null_mut());
        assert_eq!(rtmo_people_count(null()) + rtmo_people_keypoint_count(null()), 0);
        assert_eq!(rtmo_people_not_finite(null()) + rtmo_models_count(null()), 0);
        assert!(rtmo_people_scores(null()).is_null() && rtmo_people_boxes(null()).is_null());
        assert!(rtmo_people_keypoints(null()).is_null() && rtmo_people_keypoint_scores(null()).is_null());
        assert!(rtmo_people_ids(null()).is_null());
        assert_eq!(error(), "people is NULL");
        assert!(rtmo_engine_name(null()).is_null() && rtmo_engine_description(null()).is_null());
        assert!(rtmo_engine_keypoint_name(null(), 0).is_null());
        assert!(rtmo_engine_bones(null(), null_mut()).is_null());
        assert_eq!(rtmo_engine_keypoint_count(null()), 0);
        assert_eq!(error(), "engine is NULL");
        for status in [
            rtmo_engine_input_size(null(), null_mut(), null_mut()),
            rtmo_engine_set_thresholds(null_mut(), 0.0, 0.0),
            rtmo_tracker_create(null(), null_mut()),
            rtmo_tracker_update(null_mut(), null_mut(), 0.0),
            rtmo_tracker_reset(null_mut()),
            rtmo_smoother_create(null(), null_mut()),
            rtmo_smoother_smooth(null_mut(), null_mut(), 0.0),
            rtmo_smoother_reset(null_mut()),
            rtmo_models_create(null_mut()),
            rtmo_models_get(null(), 0, null_mut()),
            rtmo_people_create(1, 0, null(), null(), null(), null(), null_mut()),
            rtmo_download(null(), null()),
        ] {
            fails(status, RTMO_ERROR_ARGUMENT, "is NULL");
        }
    }
}

#[test]
fn people_keep_their_ids() {
    let (mut tracker, mut smoother) = (null_mut(), null_mut());
    let wrong = TrackerOptions { struct_size: size_of::<TrackerOptions>(), min_iou: 2.0, ..zeros() };
    let smooth = SmootherOptions { struct_size: size_of::<SmootherOptions>(), reserved: 1, ..zeros() };
    // SAFETY: options, places for handles, handles that live, and arrays of the lengths that are said.
    unsafe {
        fails(rtmo_tracker_create(&wrong, &mut tracker), RTMO_ERROR_ARGUMENT, "min_iou 2");
        fails(rtmo_smoother_create(&smooth, &mut smoother), RTMO_ERROR_ARGUMENT, "reserved 1");
        works(rtmo_tracker_create(null(), &mut tracker));
        works(rtmo_smoother_create(null(), &mut smoother));
        for frame in 0..3 {
            let x = 10.0 * frame as f32;
            let scores = [0.8_f32, 0.9];
            let boxes = [300.0 - x, 50.0, 360.0 - x, 200.0, 100.0 + x, 40.0, 160.0 + x, 200.0];
            let joints = [320.0 - x, 60.0, 120.0 + x, 60.0];
            let mut people = null_mut();
            let (at, sure) = (joints.as_ptr(), scores.as_ptr());
            works(rtmo_people_create(2, 1, sure, boxes.as_ptr(), at, sure, &mut people));
            works(rtmo_tracker_update(tracker, people, f64::from(frame) / 30.0));
            assert_eq!(std::slice::from_raw_parts(rtmo_people_ids(people), 2), [2, 1]);
            works(rtmo_smoother_smooth(smoother, people, f64::from(frame) / 30.0));
            let smoothed = std::slice::from_raw_parts(rtmo_people_keypoints(people), 4);
            assert_eq!(smoothed == joints, frame == 0);
            let again = rtmo_tracker_update(tracker, people, f64::from(frame) / 30.0);
            fails(again, RTMO_ERROR_ARGUMENT, "time");
            rtmo_people_free(people);
        }
        works(rtmo_tracker_reset(tracker));
        works(rtmo_smoother_reset(smoother));
        rtmo_tracker_free(tracker);
        rtmo_smoother_free(smoother);
        let mut people = null_mut();
        for (count, joints) in [(usize::MAX, 0), (1 << 62, 17), (2, usize::MAX), (3, usize::MAX / 4)] {
            let one = [0.0_f32];
            let at = one.as_ptr();
            let status = rtmo_people_create(count, joints, at, at, at, at, &mut people);
            fails(status, RTMO_ERROR_ARGUMENT, "more than memory has");
        }
    }
}

#[test]
fn published_weights_are_listed() {
    let mut models = null_mut();
    // SAFETY: a place for a handle, a handle that lives, and a structure that says its size.
    unsafe {
        works(rtmo_models_create(&mut models));
        let count = rtmo_models_count(models);
        let names: Vec<String> = (0..count)
            .map(|i| {
                let mut model = Model { struct_size: size_of::<Model>(), ..zeros() };
                works(rtmo_models_get(models, i, &mut model));
                assert_eq!(model.struct_size, size_of::<Model>());
                assert!(model.ap > 0.5 && model.input_width >= 416 && model.keypoint_count >= 14);
                CStr::from_ptr(model.name).to_str().unwrap().into()
            })
            .collect();
        assert!(count > 4 && names.iter().any(|name| name == "rtmo-s"), "{names:?}");
        let mut model = Model { struct_size: size_of::<Model>(), ..zeros() };
        fails(rtmo_models_get(models, count, &mut model), RTMO_ERROR_ARGUMENT, "there are");
        let mut model: Model = zeros();
        fails(rtmo_models_get(models, 0, &mut model), RTMO_ERROR_ARGUMENT, "struct_size 0");
        rtmo_models_free(models);
        fails(rtmo_download(c"rtmo-q".as_ptr(), null()), RTMO_ERROR_ARGUMENT, "not a published one");
    }
}

unsafe extern "C" fn keep(text: *const c_char, user: *mut c_void) {
    // SAFETY: `user` is the list that the test gave, and `text` ends with a NUL.
    unsafe { (*user.cast::<Vec<String>>()).push(CStr::from_ptr(text).to_str().unwrap().into()) };
}

#[test]
fn the_log_is_told_what_a_user_should_know() {
    let mut told: Vec<String> = Vec::new();
    let log_user = (&raw mut told).cast();
    let options = EngineOptions {
        precision: c"fp16".as_ptr(),
        device: c"auto".as_ptr(),
        log: Some(keep),
        log_user,
        ..options()
    };
    free(engine(&options));
    // A machine without a GPU computes in fp32 and says so.
    assert!(told.is_empty() || told[0].contains("no GPU can be used"), "{told:?}");
}

fn free(engine: *mut EngineHandle) {
    // SAFETY: a handle that is used no more.
    unsafe { rtmo_engine_free(engine) };
}

/// Answers every request with the beginning of a file, slowly enough to be stopped.
#[cfg(feature = "download")]
#[test]
fn a_download_can_be_stopped() {
    use std::ffi::c_int;
    use std::io::{Read, Write};
    unsafe extern "C" fn stop(come: u64, of: u64, user: *mut c_void) -> c_int {
        // SAFETY: `user` is the numbers that the test gave.
        unsafe { *user.cast::<(u64, u64)>() = (come, of) };
        1
    }
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mirror = CString::new(format!("http://{}", server.local_addr().unwrap())).unwrap();
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 39766454\r\n\r\nbeginning");
            // Held open: only the callback can end it.
            std::mem::forget(stream);
        }
    });
    let folder = std::env::temp_dir().join(format!("rtmo-c-{}", std::process::id()));
    let to = CString::new(folder.to_str().unwrap()).unwrap();
    let mut told = (0u64, 0u64);
    let options = DownloadOptions {
        struct_size: size_of::<DownloadOptions>(),
        folder: to.as_ptr(),
        mirror: mirror.as_ptr(),
        allow_http: 1,
        progress: Some(stop),
        user: (&raw mut told).cast(),
        ..zeros()
    };
    // SAFETY: a text and options as long as they say.
    let status = unsafe { rtmo_download(c"rtmo-s".as_ptr(), &options) };
    std::fs::remove_dir_all(&folder).ok();
    fails(status, RTMO_ERROR_CANCELLED, "asked to stop");
    assert_eq!(told.1, 39_766_454);
}

#[test]
fn no_panic_crosses_the_border() {
    fails(guard(|| panic!("this is a test")), RTMO_ERROR_INTERNAL, "a fault of rtmo-engine: this is a test");
    assert_eq!(or(5, || panic!("this is another")), 5);
    // Each thread has its own text.
    std::thread::spawn(|| assert_eq!(error(), "")).join().unwrap();
    assert!(error().ends_with("this is another"));
    // A NUL does not cut a text.
    fails(guard(|| argument("a\0b")), RTMO_ERROR_ARGUMENT, "a\\0b");
    for status in [RTMO_OK, RTMO_ERROR_INTERNAL, 77] {
        // SAFETY: a text that lives as long as the program.
        assert!(!unsafe { CStr::from_ptr(rtmo_status_text(status)) }.is_empty());
    }
}

/// Threads share an engine; each gets what one alone gets.
#[test]
fn threads_may_share_an_engine() {
    struct Shared(*mut EngineHandle);
    // SAFETY: the engine is locked during calls.
    unsafe impl Sync for Shared {}
    let shared = Shared(engine(&options()));
    let found: Vec<[Vec<f32>; 4]> = std::thread::scope(|scope| {
        let infer = || {
            let (shared, pixels, mut people) = (&shared, pixels(), null_mut());
            // SAFETY: a handle that lives, a picture in memory, and a place for a handle.
            unsafe {
                works(rtmo_infer(shared.0, &view(&pixels, RTMO_RGB), &mut people));
                let arrays = arrays(people);
                rtmo_people_free(people);
                arrays
            }
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(infer)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(found.iter().all(|one| *one == found[0]));
    free(shared.0);
}
