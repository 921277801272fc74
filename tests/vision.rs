//! Photos in, people out, against what OpenCV 4.10 makes of the same files (tests/data/vision, written by
//! tools/make_vision_fixtures.py).

use proptest::prelude::*;
use rtmo_engine::Error;
use rtmo_engine::Skeleton;
use rtmo_engine::atomic_file::AtomicFile;
use rtmo_engine::output::draw::{DrawOptions, draw_heatmaps, draw_people};
use rtmo_engine::output::{CocoWriter, ImageIds, write_json_line};
use rtmo_engine::pose::letterbox::Geometry;
use rtmo_engine::pose::{Keypoint, Letterbox, People, Person, people};
use rtmo_engine::vision::{Photo, decode, encode};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vision")
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(data().join("expected.json")).unwrap()).unwrap()
}

fn pair(value: &Value) -> (usize, usize) {
    (value[0].as_u64().unwrap() as usize, value[1].as_u64().unwrap() as usize)
}

/// Tests that write files take turns.
static WRITING: Mutex<()> = Mutex::new(());

/// A folder of its own for each test.
fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("rtmo-vision-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_file_decodes_to_opencvs_pixels() {
    let expected = expected();
    let files = expected["decode"].as_object().unwrap();
    assert!(files.len() > 100);
    let mut wrong = Vec::new();
    for (name, want) in files {
        match (Photo::open(data().join(name)), want) {
            (Err(e), Value::Null) => {
                let text = e.to_string();
                assert!(text.contains(name.as_str()) && text.len() > name.len() + 10, "{text}");
            }
            (Ok(photo), Value::Object(want)) => {
                let got = (photo.width, photo.height, crc32fast::hash(&photo.bgr) as u64);
                let number = |key: &str| want[key].as_u64().unwrap();
                if got != (number("width") as usize, number("height") as usize, number("crc32")) {
                    wrong.push(format!("{name}: {got:?}, expected {want:?}"));
                }
            }
            (got, want) => {
                wrong.push(format!("{name}: {:?}, expected {want:?}", got.map(|p| (p.width, p.height))))
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn messages_say_what_is_wrong() {
    let message = |name: &str| Photo::open(data().join(name)).unwrap_err().to_string();
    for (name, part) in [
        ("empty.jpg", "the file is empty"),
        ("text.png", "not an image"),
        ("png_huge_header.png", "60000x60000"),
        ("png_empty_promise.png", "16000x16000 pixels, far more than a file of this length can hold"),
        ("bmp_huge_header.bmp", "60000x60000"),
        ("png_cut.png", "ends too early"),
        ("gif_cut.gif", "not a readable GIF"),
        ("tiff_cut.tif", "not a readable TIFF"),
        ("pnm_cut.pnm", "not a readable PNM"),
        ("tiff_preview.tif", "this is a raw photo, of which only the preview could be read"),
        ("no such file.jpg", "cannot read"),
    ] {
        assert!(message(name).contains(part), "{}", message(name));
    }
    let warnings = |name: &str| decode::open(data().join(name)).unwrap().warnings;
    assert_eq!(warnings("jpeg_baseline_cut50.jpg")[0], "Premature end of JPEG file");
    assert!(warnings("jpeg_420.jpg").is_empty());
    // Damage behind the last row of pixels, too.
    let mut bytes = std::fs::read(data().join("jpeg_420.jpg")).unwrap();
    let end = bytes.len() - 2;
    bytes.splice(end..end, [1, 2, 3, 4, 5]);
    let decoded = decode::decode(&bytes, Path::new("x.jpg")).unwrap();
    // One of them has been read ahead.
    assert_eq!(decoded.warnings, ["Corrupt JPEG data: 4 extraneous bytes before marker 0xd9"]);
    assert_eq!(decoded.photo, Photo::open(data().join("jpeg_420.jpg")).unwrap());
    #[cfg(target_os = "linux")]
    for (endless, part) in [("/dev/zero", "not an image"), ("/dev/null", "the file is empty")] {
        let error = Photo::open(endless).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

/// The widest WebP: libwebp's encoder ends one pixel earlier, the format does not.
#[test]
fn a_webp_of_16384_pixels_a_row_is_read() {
    let (width, height) = (16384, 2);
    let photo = noise_photo(width, height);
    let rgb: Vec<u8> = photo.bgr.chunks_exact(3).flat_map(|p| [p[2], p[1], p[0]]).collect();
    let mut file = Vec::new();
    let encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut file);
    encoder.encode(&rgb, width as u32, height as u32, image::ExtendedColorType::Rgb8).unwrap();
    assert_eq!(Photo::decode(&file, Path::new("wide.webp")).unwrap(), photo);
}

/// A progressive JPEG of one colour whose scans are repeated: a few bytes each, and every one visits all pixels.
#[test]
fn scans_times_pixels_are_bounded() {
    let side = 5000_u16;
    let blocks = (side as usize / 8).pow(2);
    let segment = |marker: u8, data: &[u8]| {
        [&[0xff, marker][..], &(data.len() as u16 + 2).to_be_bytes(), data].concat()
    };
    let table = |class: u8, counts: [u8; 2], symbols: &[u8]| {
        segment(0xc4, &[&[class, counts[0], counts[1]][..], &[0; 14], symbols].concat())
    };
    let [high, low] = side.to_be_bytes();
    let mut file = vec![0xff, 0xd8];
    file.extend(segment(0xdb, &[&[0][..], &[1; 64]].concat()));
    file.extend(segment(0xc2, &[8, high, low, high, low, 1, 1, 0x11, 0]));
    file.extend(table(0x00, [1, 0], &[0]));
    // Symbols of AC: a run of 2^14 empty blocks (code 0), the end of one block (code 10).
    file.extend(table(0x10, [1, 1], &[0xe0, 0x00]));
    file.extend(segment(0xda, &[1, 1, 0, 0, 0, 0]));
    file.extend(vec![0; blocks.div_ceil(8)]);
    let mut bits = String::new();
    let mut left = blocks;
    while left >= 32767 {
        bits += "011111111111111";
        left -= 32767;
    }
    if left >= 16384 {
        bits += &format!("0{:014b}", left - 16384);
        left = 0;
    }
    bits += &"10".repeat(left);
    bits += &"1".repeat(bits.len().next_multiple_of(8) - bits.len());
    let mut scan = segment(0xda, &[1, 1, 0, 1, 63, 0x10]);
    for byte in bits.as_bytes().chunks(8) {
        let byte = u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap();
        scan.extend(if byte == 0xff { vec![0xff, 0] } else { vec![byte] });
    }
    let with_scans = |n: usize| [&file[..], &scan.repeat(n - 1), &[0xff, 0xd9]].concat();
    let photo = Photo::decode(&with_scans(10), Path::new("10.jpg")).unwrap();
    assert!(photo.width == 5000 && photo.bgr.iter().all(|&byte| byte == 128));
    // 2^31 / 5000^2 is 85.
    let error = Photo::decode(&with_scans(90), Path::new("90.jpg")).unwrap_err().to_string();
    assert!(error.contains("more than 85 scans of so many pixels"), "{error}");
}

#[test]
fn photos_from_pixels_are_checked() {
    assert_eq!(Photo::new(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap().pixel(1, 0), [4, 5, 6]);
    for (w, h, n) in [(0, 1, 0), (1, 0, 0), (2, 2, 11), (usize::MAX, 2, 6), (1 << 21, 1, 3 << 21)] {
        let error = Photo::new(w, h, vec![0; n]).unwrap_err().to_string();
        assert!(error.contains(&format!("{w}x{h}")), "{error}");
    }
}

/// The noise of tools/make_vision_fixtures.py.
fn noise_photo(width: usize, height: usize) -> Photo {
    let byte = |i: u64| (((i * 2_654_435_761 + (i >> 3) * 40_503) as u32) >> 24) as u8;
    Photo { width, height, bgr: (0..width as u64 * height as u64 * 3).map(byte).collect() }
}

fn sample(letterbox: &Letterbox, photo: &Photo) -> Vec<u8> {
    let (w, h) = letterbox.input_size();
    let mut input = vec![0; w * h * 3];
    input.chunks_exact_mut(w * 3).enumerate().for_each(|(y, row)| letterbox.sample_row(photo, y, row));
    input
}

#[test]
fn letterboxes_equal_opencvs() {
    let expected = expected();
    let cases = expected["letterbox"].as_array().unwrap();
    assert!(cases.len() > 50);
    let mut wrong = Vec::new();
    for case in cases {
        let (photo, input) = (pair(&case["photo"]), pair(&case["input"]));
        let pixels = noise_photo(photo.0, photo.1);
        for (name, letterbox) in
            [("mmpose", Letterbox::new(photo, input)), ("rtmlib", Letterbox::rtmlib(photo, input))]
        {
            let sampled = sample(&letterbox, &pixels);
            let Some(crc) = case[name]["crc32"].as_u64() else {
                // rtmlib itself fails where a side of the photo would be less than a pixel.
                let scale = (input.0 as f64 / photo.0 as f64).min(input.1 as f64 / photo.1 as f64);
                assert!(
                    photo.0.min(photo.1) as f64 * scale < 1.0 && name == "rtmlib",
                    "{name} {photo:?} {input:?}"
                );
                continue;
            };
            if crc32fast::hash(&sampled) as u64 != crc {
                wrong.push(format!("{name}: photo {photo:?}, input {input:?}"));
            }
            for (from, want) in [[0.0, 0.0], [639.5, 12.25], [-20.125, 411.0625]]
                .iter()
                .zip(case[name]["points"].as_array().unwrap())
            {
                let got = letterbox.to_photo(*from);
                for i in 0..2 {
                    let want = want[i].as_f64().unwrap() as f32;
                    // One rounding to f32 more or less.
                    assert!(
                        (got[i] - want).abs() <= want.abs() * 1.2e-7,
                        "{name} {photo:?} {input:?} {from:?} {got:?}"
                    );
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// What the tables say, for a kernel on another device, is what `sample_row` does.
#[test]
fn tables_define_the_letterbox() {
    for (photo, input) in [((61, 47), (96, 64)), ((27, 3372), (256, 160)), ((200, 300), (64, 96))] {
        let pixels = noise_photo(photo.0, photo.1);
        let letterbox = Letterbox::new(photo, input);
        let Geometry::Warp(warp) = letterbox.geometry() else { panic!("not mmpose's") };
        let at = |i: i32, j: i32, c: usize| {
            let inside = (0..photo.0 as i32).contains(&i) && (0..photo.1 as i32).contains(&j);
            if inside { pixels.pixel(i as usize, j as usize)[c] as i32 } else { 114 }
        };
        let sampled = sample(&letterbox, &pixels);
        for y in (0..input.1).step_by(7) {
            for x in 0..input.0 {
                let (px, py) = (warp.columns[warp.rows[y].columns as usize + x], warp.rows[y].y);
                let (i, a, j, b) = (px >> 5, px & 31, py >> 5, py & 31);
                for c in 0..3 {
                    let upper = (32 - a) * at(i, j, c) + a * at(i + 1, j, c);
                    let lower = (32 - a) * at(i, j + 1, c) + a * at(i + 1, j + 1, c);
                    let want = ((32 - b) * upper + b * lower + 512) >> 10;
                    assert_eq!(
                        sampled[(y * input.0 + x) * 3 + c] as i32,
                        want,
                        "{photo:?} {input:?} ({x}, {y})"
                    );
                }
            }
        }
    }
}

#[test]
fn extreme_shapes_keep_to_their_border() {
    for photo in [(1 << 20, 1), (1, 1 << 20), (1, 1), (70_000, 2)] {
        let pixels = Photo::filled(photo.0, photo.1, [9, 9, 9]);
        for input in [(192, 192), (32, 1920), (1920, 32)] {
            for letterbox in [Letterbox::new(photo, input), Letterbox::rtmlib(photo, input)] {
                let sampled = sample(&letterbox, &pixels);
                // Between the photo's 9 and the border's 114. A photo thinner than a pixel may be seen as nearly nothing.
                assert!(sampled.iter().all(|v| (9..=114).contains(v)));
                assert!(sampled.contains(&114) || photo == (1, 1));
                assert!(sampled.contains(&9) || photo != (1, 1), "{photo:?} {input:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// Damaged files give an error or a photo of the size it says; never a panic.
    #[test]
    fn damaged_files_never_panic(
        file in 0..1000usize,
        damage in prop::collection::vec((0..20_000usize, any::<u8>()), 0..12),
        cut in prop::option::of(0..20_000usize),
        inserted in prop::option::of((0..20_000usize, prop::collection::vec(any::<u8>(), 1..40))),
    ) {
        let names = names(&data());
        let mut bytes = std::fs::read(data().join(&names[file % names.len()])).unwrap();
        let len = bytes.len().max(1);
        for (at, value) in damage {
            // Half of the damage goes to the headers.
            let at = if at % 2 == 0 { at / 2 % len.min(120) } else { at % len };
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if let Some((at, more)) = inserted {
            let at = at % len;
            bytes.splice(at.min(bytes.len())..at.min(bytes.len()), more);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut % len);
        }
        if let Ok(photo) = Photo::decode(&bytes, Path::new("damaged")) {
            prop_assert!(photo.width > 0 && photo.height > 0);
            prop_assert_eq!(photo.bgr.len(), photo.width * photo.height * 3);
        }
    }

    /// Bytes behind a signature.
    #[test]
    fn noise_never_panics(kind in 0..5usize, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let signatures: [&[u8]; 5] = [
            b"\xff\xd8\xff",
            b"\x89PNG\r\n\x1a\n",
            b"RIFF\x40\0\0\0WEBPVP8L",
            b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0",
            b"",
        ];
        let _ = Photo::decode(&[signatures[kind], &bytes].concat(), Path::new("noise"));
    }

    /// Any photo in any input: pixels come from the photo or the border, and the map back inverts the map there.
    #[test]
    fn letterboxes_of_any_size(
        photo in (1..300usize, 1..300usize),
        input in (1..5usize, 1..5usize),
        rtmlib in any::<bool>(),
    ) {
        let input = (input.0 * 32, input.1 * 32);
        let letterbox = if rtmlib { Letterbox::rtmlib(photo, input) } else { Letterbox::new(photo, input) };
        let sampled = sample(&letterbox, &Photo::filled(photo.0, photo.1, [200, 200, 200]));
        prop_assert!(sampled.iter().all(|v| (114..=200).contains(v)));
        let middle = letterbox.to_photo([input.0 as f32 / 2.0, input.1 as f32 / 2.0]);
        // mmpose's letterbox is centred; rtmlib's begins at the origin and scales by the smaller ratio.
        let expected = match rtmlib {
            false => [photo.0 as f32 / 2.0, photo.1 as f32 / 2.0],
            true => {
                let scale = (input.0 as f32 / photo.0 as f32).min(input.1 as f32 / photo.1 as f32);
                [input.0 as f32 / 2.0 / scale, input.1 as f32 / 2.0 / scale]
            }
        };
        for (found, expected) in middle.into_iter().zip(expected) {
            prop_assert!((found - expected).abs() < 1e-3 + 1e-6 * expected, "{found}, not {expected}");
        }
    }
}

fn person(score: f32, bbox: [f32; 4], points: impl IntoIterator<Item = [f32; 3]>) -> Person {
    let keypoints = points.into_iter().map(|[x, y, score]| Keypoint::new(x, y, score)).collect();
    Person::new(score, bbox, keypoints)
}

#[test]
fn json_lines() {
    let who =
        person(0.932_155_25, [1.0, 2.5, 30.123_456, 40.0], [[10.000_4, -0.000_1, 0.25], [7.0, 8.0, 1.0]]);
    let mut out = Vec::new();
    let image = Path::new("some \"folder\"/ü.jpg");
    write_json_line(&mut out, image, (640, 480), &vec![who].into(), None).unwrap();
    write_json_line(&mut out, Path::new("b.png"), (1, 2), &People::default(), None).unwrap();
    let want = "{\"version\":1,\"image\":\"some \\\"folder\\\"/ü.jpg\",\"width\":640,\"height\":480,\"people\":[{\"score\":0.93215525,\
                \"bbox\":[1.0,2.5,30.123,40.0],\"keypoints\":[[10.0,0.0,0.25],[7.0,8.0,1.0]]}]}\n\
                {\"version\":1,\"image\":\"b.png\",\"width\":1,\"height\":2,\"people\":[]}\n";
    assert_eq!(String::from_utf8(out).unwrap(), want);

    let arm = Skeleton::new("arm", &["elbow", "wrist"], &[]).unwrap();
    let mut out = Vec::new();
    write_json_line(&mut out, Path::new("b.png"), (1, 2), &People::default(), Some(&arm)).unwrap();
    let want = r#"{"version":1,"image":"b.png","width":1,"height":2,"keypoint_names":["elbow","wrist"],"people":[]}"#;
    assert_eq!(String::from_utf8(out).unwrap().trim_end(), want);
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let line = |name: &[u8]| {
            let (mut out, path) = (Vec::new(), Path::new(std::ffi::OsStr::from_bytes(name)));
            write_json_line(&mut out, path, (1, 2), &People::default(), None).unwrap();
            serde_json::from_slice::<Value>(&out).unwrap()
        };
        let (one, other) = (line(b"a\xfe.jpg"), line(b"a\xff.jpg"));
        assert_eq!(one["image"], other["image"]);
        assert_eq!(
            (&one["image_hex"], &other["image_hex"]),
            (&"61fe2e6a7067".into(), &"61ff2e6a7067".into())
        );
        assert!(line(b"a.jpg").get("image_hex").is_none());
    }

    for bad in [
        person(f32::NAN, [0.0; 4], []),
        person(0.5, [0.0, 0.0, f32::INFINITY, 0.0], []),
        person(0.5, [0.0; 4], [[0.0, f32::NAN, 1.0]]),
    ] {
        let mut out = Vec::new();
        let error =
            write_json_line(&mut out, Path::new("x.jpg"), (1, 1), &vec![bad].into(), None).unwrap_err();
        assert!(out.is_empty() && error.to_string().contains("x.jpg: person 1"), "{error}");
    }
}

#[test]
fn coco_results() {
    let numbers = ImageIds::from_names();
    for (name, id) in [
        ("val2017/000000000785.jpg", 785),
        ("COCO_val2014_000000000042.jpg", 42),
        ("103319.jpg", 103_319),
        ("0.png", 0),
    ] {
        assert_eq!(numbers.of(Path::new(name)).unwrap(), id, "{name}");
    }
    for none in ["photo.jpg", "12a.jpg", "99999999999999999999999.jpg", ".."] {
        let error = numbers.of(Path::new(none)).unwrap_err().to_string();
        assert!(error.contains("no COCO image id"), "{error}");
    }

    let who = |score| person(score, [10.0, 20.0, 40.5, 80.25], [[1.0, 2.0, 0.123_456_78], [3.5, 4.0, 1.0]]);
    let mut coco = CocoWriter::new(Vec::new(), numbers);
    coco.add(Path::new("a/000000000785.jpg"), &[who(0.75), who(0.5)]).unwrap();
    coco.add(Path::new("a/000000000786.jpg"), &[]).unwrap();
    let error = coco.add(Path::new("a/unnamed.jpg"), &[who(0.5)]).unwrap_err();
    assert!(error.to_string().contains("a/unnamed.jpg: has no COCO image id"), "{error}");
    assert!(coco.add(Path::new("a/1.jpg"), &[who(f32::NAN)]).is_err());
    coco.add(Path::new("a/7.jpg"), &[who(0.25)]).unwrap();
    let error = coco.add(Path::new("b/7.png"), &[]).unwrap_err().to_string();
    assert!(error.contains("b/7.png: has the same COCO image id as a/7.jpg, 7"), "{error}");
    let text = String::from_utf8(coco.finish().unwrap()).unwrap();
    let line = |id: u32, score: &str| {
        format!(
            "{{\"image_id\":{id},\"category_id\":1,\"keypoints\":[1.0,2.0,0.123457,3.5,4.0,1.0],\"score\":{score},\
             \"bbox\":[10.0,20.0,30.5,60.25]}}"
        )
    };
    assert_eq!(text, format!("[\n{},\n{},\n{}\n]\n", line(785, "0.75"), line(785, "0.5"), line(7, "0.25")));
    assert_eq!(CocoWriter::new(Vec::new(), ImageIds::from_names()).finish().unwrap(), b"[]\n");
}

#[test]
fn coco_annotations_name_images() {
    let file = scratch("annotations").join("person_keypoints.json");
    let read = |text: &str| {
        std::fs::write(&file, text).unwrap();
        ImageIds::from_annotations(&file)
    };
    let ids = read(
        r#"{"info": {"year": 2017}, "annotations": [{"id": 1, "keypoints": [1, 2, 2], "image_id": 7}], "images": [
            {"license": 4, "file_name": "kitchen.jpg", "height": 4, "width": 3, "id": 7},
            {"file_name": "a/000000000001.jpg", "id": 8}, {"file_name": "b/000000000001.jpg", "id": 9}]}"#,
    )
    .unwrap();
    for (path, id) in [
        ("kitchen.jpg", 7),
        ("photos/kitchen.jpg", 7),
        ("/data/coco/kitchen.jpg", 7),
        ("/data/a/000000000001.jpg", 8),
        ("b/000000000001.jpg", 9),
    ] {
        assert_eq!(ids.of(Path::new(path)).unwrap(), id, "{path}");
    }
    // Not 1: who gives annotations wants theirs.
    for path in ["000000000001.jpg", "kitchen.jpg/other.jpg", "Kitchen.jpg"] {
        let error = ids.of(Path::new(path)).unwrap_err().to_string();
        assert!(error.starts_with(path) && error.contains("person_keypoints.json lists no image"), "{error}");
    }
    for (text, why) in [
        ("[]", "not COCO annotations"),
        (r#"{"annotations": []}"#, "missing field `images`"),
        (r#"{"images": [{"file_name": "a.jpg"}]}"#, "missing field `id`"),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains("person_keypoints.json: ") && error.contains(why), "{error}");
    }
    let error = ImageIds::from_annotations(file.with_file_name("none.json")).unwrap_err().to_string();
    assert!(error.contains("none.json: cannot read"), "{error}");
}

#[test]
fn files_appear_whole_or_not_at_all() {
    let _turn = WRITING.lock().unwrap_or_else(|e| e.into_inner());
    let folder = scratch("atomic");
    let path = folder.join("result.json");
    std::fs::write(&path, "old").unwrap();
    let mut file = AtomicFile::create(&path).unwrap();
    file.write_all(b"new").unwrap();
    file.flush().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    file.commit().unwrap();
    assert_eq!((std::fs::read(&path).unwrap(), names(&folder).len()), (b"new".to_vec(), 1));

    let mut dropped = AtomicFile::create(&path).unwrap();
    dropped.write_all(b"half").unwrap();
    drop(dropped);
    assert_eq!((std::fs::read(&path).unwrap(), names(&folder).len()), (b"new".to_vec(), 1));

    assert!(matches!(AtomicFile::create(folder.join("no folder/x")), Err(Error::Io { .. })));
    assert!(matches!(AtomicFile::create(&folder), Err(Error::Io { .. })));
    #[cfg(target_os = "linux")]
    {
        // Devices are written to, not replaced.
        let mut null = AtomicFile::create("/dev/null").unwrap();
        null.write_all(b"x").unwrap();
        null.commit().unwrap();
        let mut full = AtomicFile::create("/dev/full").unwrap();
        full.write_all(b"x").unwrap();
        assert!(full.commit().unwrap_err().to_string().contains("No space left"));
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn saved_pictures_open_again() {
    let _turn = WRITING.lock().unwrap_or_else(|e| e.into_inner());
    let folder = scratch("save");
    let photo = noise_photo(53, 31);
    encode::save(&photo, folder.join("a.png")).unwrap();
    assert_eq!(Photo::open(folder.join("a.png")).unwrap(), photo);
    let smooth = Photo {
        width: 64,
        height: 48,
        bgr: (0..64 * 48).flat_map(|i| [(i % 64 * 4) as u8, (i / 64 * 5) as u8, 90]).collect(),
    };
    encode::save(&smooth, folder.join("a.JPG")).unwrap();
    let again = Photo::open(folder.join("a.JPG")).unwrap();
    let worst = again.bgr.iter().zip(&smooth.bgr).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    // Quality 92 on smooth colours; swapped channels would be off by a hundred.
    assert!(worst <= 6, "{worst}");
    assert!(encode::save(&photo, folder.join("a.gif")).unwrap_err().to_string().contains(".jpg or .png"));
    let wide = encode::save(&Photo::filled(70_000, 1, [0; 3]), folder.join("wide.jpg")).unwrap_err();
    assert!(wide.to_string().contains("65535"), "{wide}");
    assert!(encode::save(&photo, folder.join("no folder/a.png")).is_err());
    assert_eq!(names(&folder), ["a.JPG", "a.png"]);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn drawing_stays_near_the_people() {
    let grey = Photo::filled(200, 150, [128; 3]);
    let pose = |dx: f32, k: usize| {
        let points =
            (0..k).map(move |i| [60.0 + dx + (i % 4) as f32 * 12.0, 30.0 + (i / 4) as f32 * 18.0, 0.9]);
        person(0.9, [50.0 + dx, 20.0, 110.0 + dx, 130.0], points)
    };
    for k in [17, 14, 5] {
        for boxes in [false, true] {
            let mut photo = grey.clone();
            let options = DrawOptions::default().with_boxes(boxes);
            draw_people(&mut photo, &[pose(0.0, k)], Skeleton::of(k), &options);
            let changed: Vec<usize> = (0..200 * 150)
                .filter(|i| photo.bgr[i * 3..i * 3 + 3] != grey.bgr[i * 3..i * 3 + 3])
                .collect();
            assert!(changed.len() > 60, "{k} keypoints: {} pixels", changed.len());
            assert!(changed.iter().all(|i| (40..120).contains(&(i % 200)) && (5..140).contains(&(i / 200))));
        }
    }
    // Below the threshold, off the photo, or no numbers at all: nothing to see, and no harm.
    let mut hidden = pose(0.0, 17);
    hidden.keypoints.iter_mut().for_each(|k| k.score = 0.2);
    let mut lost = pose(0.0, 17);
    for (i, k) in lost.keypoints.iter_mut().enumerate() {
        k.x = [f32::NAN, f32::INFINITY, -1e30, 1e9][i % 4];
    }
    for nobody in [hidden, lost, pose(5000.0, 17), pose(-5000.0, 14), person(0.5, [0.0; 4], [])] {
        let mut photo = grey.clone();
        draw_people(&mut photo, &[nobody], Skeleton::of(17), &DrawOptions::default());
        assert_eq!(photo, grey);
    }
    let mut tiny = Photo::filled(1, 1, [128; 3]);
    draw_people(&mut tiny, &[pose(0.0, 17)], Skeleton::of(17), &DrawOptions::default().with_boxes(true));
}

#[test]
fn heatmaps_stand_where_the_bins_are() {
    let photo = Photo::filled(640, 640, [128; 3]);
    let letterbox = Letterbox::new((640, 640), (640, 640));
    let (k, bins_x, bins_y) = (17, 192, 256);
    let mut survivors = rtmo_engine::backend::Survivors {
        scores: vec![0.9],
        boxes: vec![[200.0, 100.0, 400.0, 500.0]],
        priors: vec![[0.0; 2]],
        keypoints: vec![[300.0, 300.0]; k],
        visibility: vec![0.1; k],
        ..Default::default()
    };
    let draw = |s: &_| draw_heatmaps(&photo, &people(s, &letterbox)[0], Skeleton::of(k));
    assert_eq!(draw(&survivors), None);

    // All probability in the bin at three quarters; without any, there are no curves.
    let peak = |bins: usize, at: usize| {
        (0..k)
            .flat_map(move |_| (0..bins).map(move |i| if i == at { 1.0_f32 } else { 0.0 }))
            .collect::<Vec<f32>>()
    };
    survivors.heatmaps_x = peak(bins_x, 144);
    survivors.heatmaps_y = peak(bins_y, 192);
    let drawn = draw(&survivors).unwrap();
    survivors.heatmaps_x.fill(0.0);
    survivors.heatmaps_y.fill(f32::NAN);
    let empty = draw(&survivors).unwrap();
    assert_eq!((drawn.width, drawn.height), (empty.width, empty.height));
    let changed: Vec<(usize, usize)> = (0..drawn.width * drawn.height)
        .filter(|i| drawn.bgr[i * 3..i * 3 + 3] != empty.bgr[i * 3..i * 3 + 3])
        .map(|i| (i % drawn.width, i / drawn.width))
        .collect();
    // The picture is 320 x 640 at (136, 136): the padded box is 250 x 500.
    let (below, beside): (Vec<_>, Vec<_>) = changed.iter().copied().partition(|p| p.1 > 136 + 640);
    assert!(below.len() > 500 && beside.len() > 500);
    let (x, y) = (136.0 + 319.0 * 144.0 / 191.0, 136.0 + 639.0 * 192.0 / 255.0);
    assert!(below.iter().all(|p| (p.0 as f32 - x).abs() < 5.0), "x curves are not at {x}");
    assert!(beside.iter().all(|p| (p.1 as f32 - y).abs() < 5.0), "y curves are not at {y}");
}
