//! Fetching weights.

use super::{SMALL, expect, names, program, said, text, workplace};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

#[test]
fn what_is_here_is_not_fetched_again() {
    let folder = workplace();
    // weights/ has a file that answers to rtmo-t.
    let nobody = ["--mirror", "http://127.0.0.1:1", "--allow-http"];
    let (out, err) = expect(0, folder.path(), &[&["download", "t", "rtmo-t-body7"], &nobody[..]].concat());
    assert_eq!((out.lines().count(), err.as_str()), (1, ""), "{out}");
    assert!(out.starts_with("rtmo-t: here already, ") && out.contains("rtmo-t.safetensors"), "{out}");

    // What is there under the official name may be another file.
    let official = "rtmo-s_8xb32-600e_body7-640x640-dac2bf74_20231211.pth";
    fs::write(folder.path().join("weights").join(official), "half").unwrap();
    let (out, err) = expect(1, folder.path(), &[&["download"], &nobody[..]].concat());
    assert_eq!(out, "");
    assert!(err.starts_with("warning: ") && err.contains("found first") && err.contains(official), "{err}");
    let (_, err) = expect(1, folder.path(), &[&["download", "--to", "weights"], &nobody[..]].concat());
    assert!(err.contains("not the published file: its SHA-256 is ") && !err.contains("found first"), "{err}");
    fs::remove_file(folder.path().join("weights").join(official)).unwrap();

    // In another folder it is not.
    let (out, err) = expect(1, folder.path(), &[&["download", "t", "--to", "w"], &nobody[..]].concat());
    assert_eq!(out, "");
    assert!(
        err.contains("http://127.0.0.1:1/rtmo-t_8xb32-600e_body7-416x416-f48f75cb_20231219.pth"),
        "{err}"
    );
    expect(1, folder.path(), &[&["download", "t", "--force"], &nobody[..]].concat());
}

#[test]
fn another_file_is_refused_and_does_not_stop_the_rest() {
    let folder = workplace();
    fs::remove_dir_all(folder.path().join("weights")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        for _ in 0..2 {
            let mut stream = listener.accept().unwrap().0;
            let read = stream.read(&mut [0; 4096]).unwrap();
            assert!(read > 0);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbad")
                .unwrap();
        }
    });
    let (out, err) = expect(1, folder.path(), &["download", "s", "t", "--mirror", &address, "--allow-http"]);
    serving.join().unwrap();
    assert_eq!(out, "");
    // Of the one its size is known, of the other the first bits of its hash.
    assert!(
        err.contains("it has 3 bytes, expected 39766454") && err.contains("expected f48f75cb..."),
        "{err}"
    );
    assert!(kept(folder.path()).is_empty());
}

#[test]
fn only_published_models_can_be_fetched() {
    let folder = workplace();
    fs::create_dir(folder.path().join("w")).unwrap();
    let (_, err) = expect(2, folder.path(), &["download", "rtmo-s", "yolo", "--to", "w"]);
    assert!(err.contains("'yolo'") && err.contains("rtmo-l-crowdpose"), "{err}");
    let (_, err) = expect(2, folder.path(), &["download", "rtmo-ms", "--to", "w"]);
    assert!(err.contains("model 'rtmo-ms' is not a published one; near it: rtmo-m"), "{err}");
    assert!(names(&folder.path().join("w")).is_empty());
    expect(2, folder.path(), &["download", "rtmo-s", "--all"]);
}

/// What is in the user's cache folder but locks.
fn kept(folder: &Path) -> Vec<String> {
    let mut names = names(&folder.join("home/.cache/rtmo-engine"));
    names.retain(|name| !name.ends_with(".lock"));
    names
}

/// The address of a server that answers `times` requests in the same way and ends.
fn server(times: usize, answer: &'static [u8]) -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        for _ in 0..times {
            let mut stream = listener.accept().unwrap().0;
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            stream.write_all(answer).unwrap();
        }
    });
    (address, serving)
}

/// Runs infer where it may fetch, from this server.
fn infer(folder: &Path, mirror: &str, more: &[&str]) -> Output {
    let mut command = program(folder, &[&["infer", "a.png"], more, &SMALL].concat());
    command.env("RTMO_OFFLINE", "0").env("RTMO_MIRROR", mirror).env("RTMO_ALLOW_HTTP", "1").output().unwrap()
}

const NONE: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

#[test]
fn infer_fetches_what_is_not_here_or_takes_the_demonstration_model() {
    let folder = workplace();
    let at = folder.path();
    fs::remove_dir_all(at.join("weights")).unwrap();
    let (address, serving) = server(1, NONE);
    let output = infer(at, &address, &[]);
    serving.join().unwrap();
    let (out, err) = said(&text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    let file = "rtmo-s_8xb32-600e_body7-640x640-dac2bf74_20231211.pth";
    let fetching =
        format!("fetching rtmo-s (39.8 MB) from {address}/{file} into {}", at.join("home/.cache").display());
    assert!(out.starts_with(&fetching), "{out}");
    assert!(err.starts_with("warning: rtmo-s is not fetched: ") && err.contains("404"), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(out.contains("rtmo-n-demo in the program") && out.contains("demonstration model"), "{out}");
    assert!(kept(at).is_empty());

    // Without consent to plain HTTP nobody is asked, and --offline forbids it.
    let arguments = [&["infer", "a.png", "--no-draw"], &SMALL[..]].concat();
    let unasked =
        program(at, &arguments).env("RTMO_OFFLINE", "").env("RTMO_MIRROR", &address).output().unwrap();
    assert_eq!(unasked.status.code(), Some(0));
    assert!(text(&unasked.stderr).contains("--allow-http"), "{}", text(&unasked.stderr));
    let offline = infer(at, &address, &["--offline", "--no-draw"]);
    let (out, err) = said(&text(&offline.stderr));
    assert_eq!((offline.status.code(), err.as_str()), (Some(0), ""));
    assert!(!out.contains("fetching"), "{out}");
}

#[test]
fn a_model_that_is_named_is_fetched_or_an_error() {
    let folder = workplace();
    let at = folder.path();
    let (address, serving) = server(1, NONE);
    let output = infer(at, &address, &["-m", "rtmo-l", "--json", "p.jsonl"]);
    serving.join().unwrap();
    let (out, err) = said(&text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{out}{err}");
    assert!(out.starts_with("fetching rtmo-l (179.3 MB) from "), "{out}");
    assert!(err.starts_with(&format!("error: {address}/rtmo-l_16xb16-600e")) && err.contains("404"), "{err}");
    let (_, err) = expect(2, at, &["infer", "a.png", "-m", "rtmo-l"]);
    assert!(err.contains("no weights for model 'rtmo-l'"), "{err}");
    let output = infer(at, &address, &["-m", "rtmo-ll"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("'rtmo-ll' is not a published one; near it: rtmo-l"));
    assert_eq!(names(at), ["a.png", "b.jpg", "home", "weights"]);
}

#[test]
fn models_tells_what_is_here_and_removes_it() {
    let folder = workplace();
    let at = folder.path();
    let official = "rtmo-l_16xb16-600e_body7-640x640-b37118ce_20231211.pth";
    let cache = at.join("home/.cache/rtmo-engine");
    fs::create_dir_all(&cache).unwrap();
    fs::write(cache.join(official), "half").unwrap();
    fs::write(cache.join(format!(".{official}.part")), "more").unwrap();
    let (out, _) = expect(0, at, &["models"]);
    let expected = "NOT the published file: its SHA-256 is ";
    assert!(out.contains("here since 2") && out.contains(expected), "{out}");
    assert!(out.contains("(4 bytes), expected b37118ce"), "{out}");
    let (out, err) = expect(0, at, &["models", "--remove", "l"]);
    assert!(out.starts_with("rtmo-l: removed from ") && err.is_empty(), "{out}{err}");
    assert!(names(&cache).is_empty());
    let (_, err) = expect(1, at, &["models", "--remove", "l"]);
    assert!(err.contains("rtmo-l: not in the user's cache folder"), "{err}");
    // What is elsewhere is the user's own.
    let (_, err) = expect(1, at, &["models", "--remove", "rtmo-t"]);
    assert!(err.contains("weights/rtmo-t.safetensors is left"), "{err}");
    assert!(at.join("weights/rtmo-t.safetensors").is_file());
    let (_, err) = expect(2, at, &["models", "--remove", "rtmo-q"]);
    assert!(err.contains("near it: rtmo"), "{err}");
}
