//! Reading and writing with the real ffmpeg, on clips that it makes. Where there is none, each test says so.

use super::*;
use rtmo_engine::Photo;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Runs ffmpeg to make a clip; `None`, and a line that says so, where there is no ffmpeg.
fn make(folder: &TempDir, name: &str, arguments: &[&str]) -> Option<PathBuf> {
    if Ffmpeg::find().is_err() {
        println!("skipped: no ffmpeg");
        return None;
    }
    let path = folder.path().join(name);
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-y"]).args(arguments).arg(&path);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(path)
}

/// Frames whose grey level tells their number: 16 and 8 more for each.
const NUMBERED: &str = "nullsrc=s=64x48:r=10:d=2,geq=lum='16+8*N':cb=128:cr=128";

/// Without loss, so that levels are exact.
const LOSSLESS: [&str; 4] = ["-c:v", "libx264", "-qp", "0"];

fn settings() -> Settings {
    Settings {
        every: 1,
        range: Range::default(),
        start: None,
        end: None,
        max_pixels: 1 << 24,
        threads: Some(1),
        hwaccel: None,
        nv12: false,
        reconnect: false,
    }
}

fn target(path: &Path) -> Target {
    Target { path: path.into(), threads: Some(1), patience: Duration::from_secs(60) }
}

/// A [`Frame`] as a photo.
struct Seen {
    photo: Photo,
    index: u64,
    time: f64,
}

fn read(path: &Path, settings: Settings) -> (Vec<Seen>, Result<()>, Vec<String>) {
    read_from(Footage::File(path.into()), settings, Box::new(std::io::empty()))
}

fn read_from(
    footage: Footage,
    settings: Settings,
    stdin: Box<dyn Read + Send>,
) -> (Vec<Seen>, Result<()>, Vec<String>) {
    let reader = Reader::open(&footage, settings, stdin).unwrap();
    let mut frames = Vec::new();
    loop {
        match reader.next(Duration::from_secs(60)) {
            Next::Frame(Frame { picture, index, time }) => {
                frames.push(Seen { photo: picture.into_photo(), index, time });
            }
            Next::End(end) => return (frames, end, reader.notes()),
            Next::NotYet => panic!("no frame within a minute"),
        }
    }
}

/// The number that a frame of [`NUMBERED`] tells.
fn number(frame: &Seen) -> u64 {
    let Photo { width, height, bgr } = &frame.photo;
    let level = f64::from(bgr[(height / 2 * width + width / 2) * 3]);
    // From video's range to the whole one.
    (level * 219.0 / 255.0 / 8.0).round() as u64
}

#[test]
fn every_frame_comes_once_in_order_with_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let Some(clip) =
        make(&folder, "-a concat:b|c.mp4", &[&["-f", "lavfi", "-i", NUMBERED], &LOSSLESS[..]].concat())
    else {
        return;
    };
    let (frames, end, notes) = read(&clip, settings());
    end.unwrap();
    assert_eq!((frames.len(), notes), (20, vec![]));
    for (i, frame) in frames.iter().enumerate() {
        assert_eq!((frame.index, number(frame)), (i as u64, i as u64));
        assert!((frame.time - i as f64 / 10.0).abs() < 1e-6, "{}", frame.time);
        assert_eq!((frame.photo.width, frame.photo.height, frame.photo.bgr.len()), (64, 48, 64 * 48 * 3));
    }
    let some = |settings: Settings| {
        let (frames, end, _) = read(&clip, settings);
        end.unwrap();
        for frame in &frames {
            assert!(
                (frame.time - number(frame) as f64 / 10.0).abs() < 1e-6,
                "{}: {}",
                number(frame),
                frame.time
            );
        }
        frames.iter().map(|frame| (frame.index, number(frame))).collect::<Vec<_>>()
    };
    let same = |numbers: &[u64]| numbers.iter().map(|&n| (n, n)).collect::<Vec<_>>();
    assert_eq!(some(Settings { every: 7, ..settings() }), same(&[0, 7, 14]));
    let range = Range { first: 3, end: Some(12) };
    assert_eq!(some(Settings { range, every: 4, ..settings() }), same(&[4, 8]));
    assert_eq!(some(Settings { range: Range { first: 18, end: None }, ..settings() }), same(&[18, 19]));
    // Between two times; frames are counted from the first that is read.
    let times = some(Settings { start: Some(0.55), end: Some(1.0), ..settings() });
    assert_eq!(times, [(0, 6), (1, 7), (2, 8), (3, 9)]);
    assert_eq!(count_frames(&Footage::File(clip), &settings()).unwrap(), 20);
}

#[test]
fn times_are_the_sources_own() {
    let folder = tempfile::tempdir().unwrap();
    // Seconds n squared / 20: no constant rate.
    let filter = format!("{NUMBERED},settb=1/1000,setpts=N*N*50");
    let arguments = ["-f", "lavfi", "-i", &filter, "-fps_mode", "passthrough"];
    let Some(clip) = make(&folder, "a.mkv", &[&arguments, &LOSSLESS[..]].concat()) else { return };
    let (frames, end, _) = read(&clip, settings());
    end.unwrap();
    assert_eq!(frames.len(), 20);
    for (i, frame) in frames.iter().enumerate() {
        // Matroska counts milliseconds.
        assert!((frame.time - (i * i) as f64 / 20.0).abs() < 1e-3, "{i}: {}", frame.time);
    }
    // They stay so in the annotated clip, at 1/90000 s; and its sides may be odd.
    let path = folder.path().join("out.mp4");
    let mut writer = Writer::create(target(&path), (63, 47), 0.1).unwrap();
    let odd = Photo::filled(63, 47, [10, 200, 90]);
    frames.iter().for_each(|frame| writer.frame(frame.time, &odd).unwrap());
    writer.finish(None).unwrap();
    assert!(is_earlier(&path) && !is_earlier(&clip));
    let (again, end, _) = read(&path, settings());
    end.unwrap();
    assert_eq!(again.len(), 20);
    for (before, after) in frames.iter().zip(&again) {
        assert!((before.time - after.time).abs() < 2e-5, "{} {}", before.time, after.time);
        assert_eq!((after.photo.width, after.photo.height), (64, 48));
        let pixel = &after.photo.bgr[(20 * 64 + 20) * 3..][..3];
        assert!(
            pixel.iter().zip([10, 200, 90]).all(|(&got, expected)| got.abs_diff(expected) < 6),
            "{pixel:?}"
        );
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn rotation_depth_and_sound() {
    let folder = tempfile::tempdir().unwrap();
    let source = "testsrc2=s=64x48:r=10:d=1";
    let Some(plain) = make(&folder, "plain.mp4", &["-f", "lavfi", "-i", source]) else { return };
    let plain_path = plain.to_str().unwrap();
    let turned =
        make(&folder, "turned.mp4", &["-i", plain_path, "-c", "copy", "-metadata:s:v", "rotate=90"]).unwrap();
    let (frames, end, _) = read(&turned, settings());
    end.unwrap();
    let probed = Command::new("ffprobe").args(["-v", "error", "-show_streams"]).arg(&turned).output();
    let rotated = probed.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains("rotation"));
    // Newer ffmpeg writes no rotation from this option; then there is none to be seen.
    let size = if rotated { (48, 64) } else { (64, 48) };
    assert_eq!((frames.len(), frames[0].photo.width, frames[0].photo.height), (10, size.0, size.1));
    println!("the clip has a rotation: {rotated}");

    let deep = ["-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p10le"];
    let deep = make(&folder, "deep.mkv", &deep).unwrap();
    let (frames, end, notes) = read(&deep, settings());
    end.unwrap();
    assert_eq!(frames.len(), 10);
    assert!(notes.len() == 1 && notes[0].ends_with("of more than 8 bits are converted to 8"), "{notes:?}");

    // Sound that a clip takes, and sound that it does not; as long as the pictures.
    for (name, codec) in [("sound.mp4", "aac"), ("sound.mkv", "pcm_s16le")] {
        let arguments = ["-f", "lavfi", "-i", source, "-f", "lavfi", "-i", "sine=d=5", "-c:a", codec];
        let clip = make(&folder, name, &arguments).unwrap();
        let footage = Footage::File(clip);
        let (frames, end, _) = read_from(footage.clone(), settings(), Box::new(std::io::empty()));
        end.unwrap();
        let path = folder.path().join("with-sound.mp4");
        let mut writer = Writer::create(target(&path), (64, 48), 0.1).unwrap();
        frames.iter().for_each(|frame| writer.frame(frame.time, &frame.photo).unwrap());
        writer.finish(Some((&footage, &settings(), codec))).unwrap();
        let probe =
            ["-v", "error", "-show_entries", "stream=codec_type,codec_name,duration", "-of", "csv=p=0"];
        let probed = Command::new("ffprobe").args(probe).arg(&path).output().unwrap();
        let streams = String::from_utf8(probed.stdout).unwrap();
        let sound = streams.lines().find(|line| line.contains("audio")).unwrap();
        let seconds: f64 = sound.split(',').nth(2).unwrap().parse().unwrap();
        assert!(
            streams.contains("h264,video") && sound.starts_with("aac") && (0.8..1.2).contains(&seconds),
            "{streams}"
        );
        assert!(is_earlier(&path));
    }
}

#[test]
fn what_is_readable_of_a_cut_file_comes_and_the_end_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let source = "testsrc2=s=320x240:r=10:d=4";
    let Some(whole) = make(&folder, "whole.mkv", &["-f", "lavfi", "-i", source]) else { return };
    let bytes = std::fs::read(&whole).unwrap();
    for (name, cut) in [("cut.mkv", bytes.len() * 6 / 10), ("head.mkv", 40)] {
        let path = folder.path().join(name);
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let (frames, end, _) = read(&path, settings());
        let error = end.unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("ffmpeg"), "{error}");
        assert!(
            if name == "cut.mkv" { (5..40).contains(&frames.len()) } else { frames.is_empty() },
            "{}",
            frames.len()
        );
    }
    let fast = ["-f", "lavfi", "-i", source, "-movflags", "+faststart"];
    let whole = make(&folder, "whole.mp4", &fast).unwrap();
    let bytes = std::fs::read(&whole).unwrap();
    let path = folder.path().join("cut.mp4");
    std::fs::write(&path, &bytes[..bytes.len() * 6 / 10]).unwrap();
    let (frames, end, _) = read(&path, settings());
    assert!((5..40).contains(&frames.len()) && end.is_err(), "{} {end:?}", frames.len());
    // Text under a clip's name, and a file that is not there.
    let path = folder.path().join("text.mp4");
    std::fs::write(&path, "no clip").unwrap();
    for path in [path, folder.path().join("missing.mp4")] {
        let (frames, end, _) = read(&path, settings());
        assert!(frames.is_empty() && end.is_err());
    }
}

#[test]
fn sizes_may_change_midway() {
    let folder = tempfile::tempdir().unwrap();
    let half = |name: &str, size: &str| {
        make(&folder, name, &["-f", "lavfi", "-i", &format!("testsrc2=s={size}:r=10:d=1"), "-f", "mpegts"])
    };
    let (Some(a), Some(b)) = (half("a.ts", "64x48"), half("b.ts", "96x64")) else { return };
    let both = folder.path().join("both.ts");
    std::fs::write(&both, [std::fs::read(a).unwrap(), std::fs::read(b).unwrap()].concat()).unwrap();
    let (frames, _, _) = read(&both, settings());
    let widths: Vec<usize> = frames.iter().map(|frame| frame.photo.width).collect();
    assert!(widths.contains(&64) && widths.contains(&96), "{widths:?}");
    assert!(frames.iter().all(|frame| frame.photo.bgr.len() == frame.photo.width * frame.photo.height * 3));
    // Colour bars are where they belong: a frame that began at the wrong byte would be shifted.
    let last = &frames[frames.len() - 1].photo;
    let (alone, _, _) = read(&folder.path().join("b.ts"), settings());
    let expected = &alone[alone.len() - 1].photo;
    let off: u64 = last.bgr.iter().zip(&expected.bgr).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    assert!(off / (last.bgr.len() as u64) < 20, "{off}");
}

#[test]
fn standard_input_holds_a_clip_or_raw_frames() {
    let folder = tempfile::tempdir().unwrap();
    let Some(clip) = make(&folder, "a.mkv", &[&["-f", "lavfi", "-i", NUMBERED], &LOSSLESS[..]].concat())
    else {
        return;
    };
    let stdin = Box::new(std::fs::File::open(clip).unwrap());
    let (frames, end, _) = read_from(Footage::Stdin(None), settings(), stdin);
    end.unwrap();
    assert_eq!(frames.iter().map(number).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
}

#[test]
fn raw_frames_need_no_ffmpeg() {
    let format: RawFormat = "4x2:bgr24@5".parse().unwrap();
    let bytes: Vec<u8> = (0..5 * 24).map(|i| (i / 24) as u8).collect();
    let read = |bytes: Vec<u8>, settings| {
        read_from(Footage::Stdin(Some(format)), settings, Box::new(std::io::Cursor::new(bytes)))
    };
    let (frames, end, _) = read(bytes.clone(), Settings { every: 2, ..settings() });
    end.unwrap();
    let got: Vec<_> = frames.iter().map(|f| (f.index, f.time, f.photo.bgr[0])).collect();
    assert_eq!(got, [(0, 0.0, 0), (2, 0.4, 2), (4, 0.8, 4)]);
    let (frames, end, _) = read(bytes[..100].to_vec(), settings());
    assert_eq!(frames.len(), 4);
    assert!(end.unwrap_err().to_string().contains("frame 4 is cut off: expected 24 bytes, got 4"));
    let (frames, end, _) = read(bytes, Settings { max_pixels: 7, ..settings() });
    assert!(frames.is_empty() && end.unwrap_err().to_string().contains("4x2 pixels"));
}

/// NV12 means the same colours as the photos that ffmpeg makes, by every matrix and range, also of sources that are no YUV or
/// have odd sides. Colours are flat, since ffmpeg puts those of neighbours together in another way.
#[test]
fn nv12_has_the_colours_of_photos() {
    let folder = tempfile::tempdir().unwrap();
    let nv12 = || Settings { nv12: true, ..settings() };
    for (i, (size, format, matrix, range)) in [
        ("64x48", "yuv420p", "bt709", "tv"),
        ("64x48", "yuv420p", "smpte170m", "tv"),
        ("64x48", "yuv420p", "bt709", "pc"),
        ("64x48", "yuv420p", "bt2020nc", "tv"),
        ("64x48", "yuv444p", "bt709", "tv"),
        ("64x48", "gbrp", "rgb", "pc"),
        ("63x47", "yuv444p", "bt709", "tv"),
    ]
    .into_iter()
    .enumerate()
    {
        for colour in ["0xC84020", "0x20B0F0", "0x30A040"] {
            let source = format!("color={colour}:s={size}:r=10:d=0.3,format={format}");
            let tags = ["-colorspace", matrix, "-color_range", range];
            let codec = ["-c:v", if format == "gbrp" { "libx264rgb" } else { "libx264" }, "-qp", "0"];
            let arguments = [&["-f", "lavfi", "-i", &source], &codec[..], &tags].concat();
            let Some(clip) = make(&folder, &format!("{i}.mkv"), &arguments) else { return };
            let ((photos, one, _), (frames, other, _)) = (read(&clip, settings()), read(&clip, nv12()));
            one.and(other).unwrap();
            assert_eq!((photos.len(), frames.len()), (3, 3));
            for (photo, frame) in photos.iter().zip(&frames) {
                assert_eq!((photo.index, photo.time), (frame.index, frame.time));
                assert_eq!(photo.photo.bgr.len(), frame.photo.bgr.len());
                let off = photo.photo.bgr.iter().zip(&frame.photo.bgr).map(|(a, b)| a.abs_diff(*b)).max();
                // ffmpeg rounds twice, and of RGB it makes whole numbers of YUV first.
                assert!(off <= Some(4), "{size} {format} {matrix} {range} {colour}: {off:?} grey levels");
            }
        }
    }
    // Sizes that change midway: none begins at a wrong byte.
    let half = |name: &str, size: &str| {
        make(&folder, name, &["-f", "lavfi", "-i", &format!("testsrc2=s={size}:r=10:d=1"), "-f", "mpegts"])
    };
    let (Some(a), Some(b)) = (half("a.ts", "64x48"), half("b.ts", "97x65")) else { return };
    let both = folder.path().join("both.ts");
    std::fs::write(&both, [std::fs::read(a).unwrap(), std::fs::read(b).unwrap()].concat()).unwrap();
    let ((photos, ..), (frames, ..)) = (read(&both, settings()), read(&both, nv12()));
    let sizes = |seen: &[Seen]| seen.iter().map(|s| (s.photo.width, s.photo.height)).collect::<Vec<_>>();
    assert_eq!(sizes(&photos), sizes(&frames));
    let (last, expected) = (&frames[frames.len() - 1].photo.bgr, &photos[photos.len() - 1].photo.bgr);
    let off: u64 = last.iter().zip(expected).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    assert!(off / (last.len() as u64) < 10, "{off}");
}

#[test]
fn raw_nv12_stays_so_for_a_gpu() {
    let frame: Vec<u8> = (0..12).map(|i| i * 20).collect();
    for nv12 in [false, true] {
        let footage = Footage::Stdin(Some("4x2:nv12@10".parse().unwrap()));
        let settings = Settings { nv12, ..settings() };
        let reader = Reader::open(&footage, settings, Box::new(std::io::Cursor::new(frame.clone()))).unwrap();
        let Next::Frame(Frame { picture, .. }) = reader.next(Duration::from_secs(60)) else {
            panic!("no frame")
        };
        assert_eq!(matches!(picture, rtmo_engine::Picture::Nv12(_)), nv12);
        let expected = rtmo_engine::Nv12::new(4, 2, frame.clone(), Default::default()).unwrap();
        assert_eq!(picture.into_photo(), expected.to_photo());
    }
}
