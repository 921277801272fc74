//! Fetching weights.

use super::{expect, names, workplace};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;

#[test]
fn what_is_here_is_not_fetched_again() {
    let folder = workplace();
    // weights/ has a file that answers to rtmo-t.
    let nobody = ["--mirror", "http://127.0.0.1:1"];
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
    assert!(err.contains("not the published file\n"), "{err}");
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
    let (out, err) = expect(1, folder.path(), &["download", "s", "l", "--mirror", &address]);
    serving.join().unwrap();
    assert_eq!(out, "");
    assert!(err.contains("expected dac2bf74") && err.contains("expected b37118ce"), "{err}");
    assert!(names(&folder.path().join("home/.cache/rtmo-engine")).is_empty());
}

#[test]
fn only_published_models_can_be_fetched() {
    let folder = workplace();
    fs::create_dir(folder.path().join("w")).unwrap();
    let (_, err) = expect(2, folder.path(), &["download", "rtmo-s", "yolo", "--to", "w"]);
    assert!(err.contains("'yolo'") && err.contains("rtmo-l-crowdpose"), "{err}");
    assert!(names(&folder.path().join("w")).is_empty());
    expect(2, folder.path(), &["download", "rtmo-s", "--all"]);
}
