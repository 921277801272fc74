//! Clips: in by ffmpeg, out as numbers and as a clip. Where there is no ffmpeg, tests that need it say so; those of a false one
//! need a shell.

use super::{SMALL, expect, json_lines, names, picture, program, text, workplace};
use rtmo_engine::vision::encode;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Makes a clip of 10 frames a second; false, and a line that says so, where there is no ffmpeg.
fn clip(folder: &Path, name: &str, seconds: &str) -> bool {
    encode::save(&picture(120, 80), folder.join("seed.png")).unwrap();
    let arguments = ["-v", "error", "-nostdin", "-y", "-loop", "1", "-r", "10", "-i", "seed.png", "-vf"];
    let moving = "zoompan=z='1+0.01*on':d=1:s=120x80:fps=10";
    let made = Command::new("ffmpeg")
        .args(arguments)
        .args([moving, "-t", seconds, "-pix_fmt", "yuv420p", name])
        .current_dir(folder)
        .status();
    match made {
        Ok(status) => {
            assert!(status.success());
            true
        }
        Err(error) => {
            println!("skipped: no ffmpeg ({error})");
            false
        }
    }
}

/// Frames of a clip, as ffprobe counts them.
fn frames(path: &Path) -> usize {
    let arguments =
        ["-v", "error", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"];
    let output = Command::new("ffprobe").args(arguments).arg(path).output().unwrap();
    text(&output.stdout).trim().trim_end_matches(',').parse().unwrap_or(0)
}

fn infer<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["infer", "-m", "rtmo-t"], arguments, &SMALL].concat()
}

#[test]
fn a_clip_becomes_numbers_and_a_clip() {
    let folder = workplace();
    if !clip(folder.path(), "walk.mp4", "1") {
        return;
    }
    let at = |name: &str| folder.path().join(name);
    let (out, err) = expect(0, folder.path(), &infer(&["walk.mp4", "a.png", "--json", "people.jsonl"]));
    assert!(out.is_empty() && err.contains("walk.mp4: 10 frames, "), "{err}");
    assert!(err.contains("1 photo and 10 frames, "), "{err}");
    let lines = json_lines(&fs::read_to_string(at("people.jsonl")).unwrap());
    assert_eq!(lines.len(), 11);
    for (i, line) in lines[..10].iter().enumerate() {
        assert_eq!((line["image"].as_str(), line["frame"].as_u64()), (Some("walk.mp4"), Some(i as u64)));
        assert!((line["time"].as_f64().unwrap() - i as f64 / 10.0).abs() < 1e-6);
        assert_eq!((line["width"].as_u64(), line["height"].as_u64()), (Some(120), Some(80)));
    }
    assert_eq!(lines[10]["image"], "a.png");
    assert!(lines[10].get("frame").is_none() && lines[10].get("time").is_none());
    assert_eq!(
        (names(&at("rtmo-out")), frames(&at("rtmo-out/walk.mp4"))),
        (vec!["a.png".into(), "walk.mp4".into()], 10)
    );
    // An earlier clip is replaced, another file is not.
    expect(0, folder.path(), &infer(&["walk.mp4"]));
    fs::write(at("rtmo-out/walk.mp4"), "mine").unwrap();
    let (_, err) = expect(2, folder.path(), &infer(&["walk.mp4"]));
    assert!(err.contains("would replace a file that is no earlier clip"), "{err}");
    let (_, err) = expect(2, folder.path(), &infer(&["walk.mp4", "--out", "."]));
    assert!(err.contains("would replace a clip of this run"), "{err}");

    // Parts, batches, times, and standard input.
    let lines_of = |arguments: &[&str]| {
        expect(0, folder.path(), &infer(&[arguments, &["--no-draw", "--json", "-", "-q"]].concat())).0
    };
    let whole = lines_of(&["walk.mp4"]);
    assert_eq!(lines_of(&["walk.mp4", "--batch", "4"]), whole);
    let parts: Vec<String> =
        ["1/3", "2/3", "3/3"].iter().map(|part| lines_of(&["walk.mp4", "--shard", part])).collect();
    assert_eq!(parts.concat(), whole);
    let some = json_lines(&lines_of(&["walk.mp4", "--every", "3", "--max-frames", "2"]));
    assert_eq!(some.iter().map(|line| line["frame"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 3]);
    let some = json_lines(&lines_of(&["walk.mp4", "--start", "0.75", "--end", "0:00.9"]));
    assert_eq!(some.iter().map(|line| line["time"].as_f64().unwrap()).collect::<Vec<_>>(), [0.8]);
    let read = |name: &str| Stdio::from(fs::File::open(at(name)).unwrap());
    let arguments = infer(&["-", "--no-draw", "--json", "-", "-q"]);
    assert!(clip(folder.path(), "walk.mkv", "1"));
    let output = program(folder.path(), &arguments).stdin(read("walk.mkv")).output().unwrap();
    assert_eq!(json_lines(&text(&output.stdout)).len(), 10, "{}", text(&output.stderr));
    // A list may name clips.
    fs::write(at("list.txt"), "a.png\nwalk.mp4\nb.jpg\n").unwrap();
    let output = program(folder.path(), &arguments).stdin(read("list.txt")).output().unwrap();
    assert_eq!(json_lines(&text(&output.stdout)).len(), 12, "{}", text(&output.stderr));
    // All formats of one clip at once; COCO's ids are frames then, and of one clip only.
    let formats = "jsonl,coco,openpose,csv,npz";
    expect(0, folder.path(), &infer(&["walk.mp4", "--no-draw", "--format", formats, "--out", "all"]));
    assert_eq!(
        names(&at("all")),
        ["openpose", "people.coco.json", "people.csv", "people.jsonl", "people.npz"]
    );
    assert_eq!(names(&at("all/openpose")).len(), 10);
    assert_eq!(json_lines(&fs::read_to_string(at("all/people.jsonl")).unwrap()).len(), 10);
    let coco: serde_json::Value =
        serde_json::from_slice(&fs::read(at("all/people.coco.json")).unwrap()).unwrap();
    assert!(coco.as_array().unwrap().iter().all(|entry| entry["image_id"].as_u64().unwrap() < 10));
    let (_, err) = expect(2, folder.path(), &infer(&["walk.mp4", "a.png", "--no-draw", "--coco", "c.json"]));
    assert!(err.contains("walk.mp4: in COCO results a frame's id is its number"), "{err}");
}

#[test]
fn people_keep_their_ids_and_photos_need_a_rate() {
    let folder = workplace();
    if !clip(folder.path(), "walk.mp4", "1") {
        return;
    }
    let arguments =
        ["walk.mp4", "--no-draw", "--json", "-", "-q", "--track", "--smooth", "--track-min-score", "0"];
    let (out, _) = expect(0, folder.path(), &infer(&arguments));
    for line in json_lines(&out) {
        for person in line["people"].as_array().unwrap() {
            assert!(person["id"].as_u64().unwrap() >= 1);
        }
    }
    let (_, err) = expect(2, folder.path(), &infer(&["a.png", "--track"]));
    assert!(err.contains("--rate"), "{err}");
    let photos = ["a.png", "b.jpg", "--track", "--rate", "5", "--no-draw", "--json", "-"];
    expect(0, folder.path(), &infer(&photos));
    // A photo that cannot be read takes its time all the same: two of them are 0.4 s, and people are forgotten after 0.3 s.
    fs::copy(folder.path().join("a.png"), folder.path().join("c.png")).unwrap();
    for name in ["x.png", "y.png"] {
        fs::write(folder.path().join(name), "no photo").unwrap();
    }
    let ids = |status: i32, photos: &[&str]| -> Vec<Vec<u64>> {
        let follow = ["--track", "--rate", "5", "--track-max-unseen", "0.3", "--track-min-score", "0"];
        let arguments = infer(&[photos, &follow, &["--no-draw", "--json", "-", "-q"]].concat());
        let (out, _) = expect(status, folder.path(), &arguments);
        let people = |line: &serde_json::Value| line["people"].as_array().unwrap().clone();
        let id = |person: serde_json::Value| person["id"].as_u64().unwrap();
        json_lines(&out).iter().map(|line| people(line).into_iter().map(id).collect()).collect()
    };
    let together = ids(0, &["a.png", "c.png"]);
    assert!(!together[0].is_empty() && together[0] == together[1], "{together:?}");
    let apart = ids(1, &["a.png", "x.png", "y.png", "c.png"]);
    assert!(apart[0] == together[0] && apart[1].iter().all(|id| !apart[0].contains(id)), "{apart:?}");
    let (_, err) = expect(2, folder.path(), &infer(&["a.png", "--smooth"]));
    assert!(err.contains("--track"), "{err}");
}

#[test]
fn raw_frames_from_standard_input() {
    let folder = workplace();
    let photo = picture(120, 80);
    fs::write(folder.path().join("raw"), [&photo.bgr[..], &photo.bgr, &photo.bgr[..50]].concat()).unwrap();
    encode::save(&photo, folder.path().join("same.png")).unwrap();
    let arguments = infer(&["-", "--raw", "120x80:bgr24@25", "--no-draw", "--json", "-"]);
    let stdin = fs::File::open(folder.path().join("raw")).unwrap();
    let output = program(folder.path(), &arguments).stdin(stdin).output().unwrap();
    let (lines, err) = (json_lines(&text(&output.stdout)), text(&output.stderr));
    assert_eq!((output.status.code(), lines.len()), (Some(1), 2), "{err}");
    assert!(err.contains("frame 2 is cut off: expected 28800 bytes, got 50"), "{err}");
    let (out, _) = expect(0, folder.path(), &infer(&["same.png", "--no-draw", "--json", "-"]));
    assert_eq!(lines[1]["people"], json_lines(&out)[0]["people"]);
    assert_eq!((lines[1]["image"].as_str(), lines[1]["time"].as_f64()), (Some("stdin"), Some(0.04)));
    let (_, err) = expect(2, folder.path(), &infer(&["a.png", "--raw", "2x2:bgr24@1"]));
    assert!(err.contains("--raw is for the frames that '-' reads"), "{err}");
}

#[test]
fn without_ffmpeg_clips_are_an_error_and_photos_are_not() {
    let folder = workplace();
    fs::write(folder.path().join("x.mp4"), "no clip").unwrap();
    let run = |arguments: &[&str]| {
        let output =
            program(folder.path(), &infer(arguments)).env("RTMO_FFMPEG", "/nowhere/ffmpeg").output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let (status, err) = run(&["x.mp4"]);
    assert!(status == Some(1) && err.contains("RTMO_FFMPEG=/nowhere/ffmpeg"), "{err}");
    assert_eq!(run(&["a.png"]).0, Some(0));
    let output = program(folder.path(), &infer(&["x.mp4"]))
        .env("PATH", "")
        .env_remove("RTMO_FFMPEG")
        .output()
        .unwrap();
    assert!(text(&output.stderr).contains("apt install ffmpeg"), "{}", text(&output.stderr));
    for argument in ["file:///etc/passwd", "cam:", "gopher://x/y"] {
        assert_eq!(run(&[argument]).0, Some(2), "{argument}");
    }
}

#[cfg(unix)]
#[test]
fn an_ffmpeg_that_fails_is_an_error_in_time_and_leaves_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let folder = workplace();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("x.mp4"), "no clip").unwrap();
    // It tells of frames of 4 by 2 pixels, which take 24 bytes.
    let head = "[Parsed_showinfo_0 @ 0x1] [info] config in time_base: 1/10, frame_rate: 10/1\\n";
    let shown = |n: usize| {
        format!("[Parsed_showinfo_0 @ 0x1] [info] n:   {n} pts:      {n} pts_time:0.1 s:4x2 i:P\\n")
    };
    let frame = "head -c 24 /dev/zero";
    let two = format!("printf '{head}{}{}' >&2; {frame}; ", shown(0), shown(1));
    let decoders = [
        ("exec sleep 1000", "has given no frame", 0),
        (&format!("{two}exec sleep 1000"), "has given no frame", 1),
        (&format!("{two}exit 3"), "ffmpeg ended with exit status: 3", 1),
        (&format!("{two}head -c 10 /dev/zero; exit 0"), "frame 1 is cut off: expected 24 bytes, got 10", 1),
        (&format!("{two}printf '[error] broken here\\n' >&2; exit 0"), "ffmpeg: broken here", 1),
        (&format!("{two}{frame}; {frame}; exit 0"), "wrote more than it told of", 2),
    ];
    let reads = "cat > /dev/null; exit 0";
    let mut cases: Vec<(String, &str, &str, usize)> = Vec::new();
    for (decoder, message, lines) in decoders {
        cases.push((decoder.into(), reads, message, lines));
    }
    let long: String = (0..12).map(|n| format!("printf '{}' >&2; {frame}; ", shown(n))).collect();
    for (encoder, message) in [
        ("exec sleep 1000", "cannot write the clip"),
        ("printf '[error] no room\\n' >&2; exit 1", "ffmpeg: no room"),
    ] {
        cases.push((format!("printf '{head}' >&2; {long}"), encoder, message, 12));
    }
    for (decoder, encoder, message, lines) in cases {
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *-version*) echo ffmpeg version 6.0; exit 0;; *-encoders*) echo ' V..... libx264 x'; exit 0;; esac\n\
             echo $$ >> '{}'\ncase \"$*\" in *matroska*) {encoder};; *) {decoder};; esac\n",
            at("pids").display()
        );
        fs::write(at("false-ffmpeg"), script).unwrap();
        fs::set_permissions(at("false-ffmpeg"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::remove_file(at("pids")).ok();
        let start = Instant::now();
        let output = program(folder.path(), &infer(&["x.mp4", "b.jpg", "--json", "-", "--patience", "1"]))
            .env("RTMO_FFMPEG", at("false-ffmpeg"))
            .output()
            .unwrap();
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{decoder}\n{encoder}\n{err}");
        assert!(err.contains(message), "{message}\n{decoder}\n{err}");
        assert!(start.elapsed() < Duration::from_secs(60), "{decoder}");
        // The photo behind it is done, and no frame is lost that came.
        assert_eq!(json_lines(&text(&output.stdout)).len(), lines + 1, "{decoder}\n{err}");
        for pid in fs::read_to_string(at("pids")).unwrap().lines() {
            let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            assert!(state.is_empty() || state.contains(") Z "), "{decoder}: {pid} still runs");
        }
        assert!(
            names(&at("rtmo-out")).iter().all(|name| !name.starts_with('.')),
            "{:?}",
            names(&at("rtmo-out"))
        );
        fs::remove_dir_all(at("rtmo-out")).ok();
    }
}

/// A camera that comes back goes on in time: ffmpeg counts from 0 again, and a tracker would stand still.
#[cfg(unix)]
#[test]
fn times_go_on_when_a_camera_comes_back() {
    use std::os::unix::fs::PermissionsExt;
    let folder = workplace();
    let at = |name: &str| folder.path().join(name);
    let said = "[Parsed_showinfo_0 @ 0x1] [info] config in time_base: 1/10, frame_rate: 10/1\\n\
                [Parsed_showinfo_0 @ 0x1] [info] n:   0 pts:      0 pts_time:0 s:4x2 i:P\\n";
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *-version*) echo ffmpeg version 6.0; exit 0;; esac\n\
         printf '{said}' >&2; head -c 24 /dev/zero\n"
    );
    fs::write(at("false-ffmpeg"), script).unwrap();
    fs::set_permissions(at("false-ffmpeg"), fs::Permissions::from_mode(0o755)).unwrap();
    let arguments = ["cam:0", "--reconnect", "--max-frames", "3", "--no-draw", "--json", "-"];
    let output =
        program(folder.path(), &infer(&arguments)).env("RTMO_FFMPEG", at("false-ffmpeg")).output().unwrap();
    let (lines, err) = (json_lines(&text(&output.stdout)), text(&output.stderr));
    assert_eq!((output.status.code(), lines.len()), (Some(0), 3), "{err}");
    assert!(err.contains("cam:0: has ended; again in 1 s"), "{err}");
    let of = |key: &str| -> Vec<f64> { lines.iter().map(|line| line[key].as_f64().unwrap()).collect() };
    assert_eq!(of("frame"), [0.0, 1.0, 2.0]);
    // It waits for a second each time.
    let times = of("time");
    assert!(times[0] == 0.0 && times[1] >= 1.0 && times[2] >= times[1] + 1.0, "{times:?}");
}

/// The window is another program: here one that keeps what it is to show.
#[cfg(unix)]
#[test]
fn frames_are_shown_while_they_are_computed() {
    use std::os::unix::fs::PermissionsExt;
    let folder = workplace();
    if !clip(folder.path(), "walk.mp4", "1") {
        return;
    }
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("bin")).unwrap();
    for (name, script) in [
        ("ffmpeg", "exec ffmpeg \"$@\"".into()),
        ("ffplay", format!("cat > '{}'", at("shown.mkv").display())),
    ] {
        let path = at("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let arguments = infer(&["walk.mp4", "--show", "--no-draw"]);
    let output = program(folder.path(), &arguments).env("RTMO_FFMPEG", at("bin/ffmpeg")).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(names(&at("rtmo-out")).is_empty());
    assert_eq!(frames(&at("shown.mkv")), 10);
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_clip_that_plays() {
    let folder = workplace();
    if !clip(folder.path(), "long.mp4", "60") {
        return;
    }
    let arguments = infer(&["long.mp4", "--json", "people.jsonl"]);
    let mut child = program(folder.path(), &arguments).stderr(Stdio::piped()).spawn().unwrap();
    // Some frames are done once the encoder has its file.
    let out = folder.path().join("rtmo-out");
    let start = Instant::now();
    while !names(&out).iter().any(|name| name.ends_with(".mp4")) {
        assert!(start.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{err}");
    assert!(err.contains("people.jsonl is not written"), "{err}");
    assert_eq!(names(&out), ["long.mp4"], "{err}");
    let done = frames(&out.join("long.mp4"));
    assert!((1..600).contains(&done) && err.contains(&format!("{done} frame")), "{done} {err}");
}
