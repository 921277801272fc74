//! Downloads, from servers of one answer on this machine.

use rtmo_engine::Error;
use rtmo_engine::weights::download;
use rtmo_engine::weights::registry::{Published, find};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use tempfile::tempdir;

/// Serves these answers, one a connection, each then closed; returns the server's address and, in the end, the
/// requests' first lines.
fn serve(answers: Vec<Vec<u8>>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let serving = std::thread::spawn(move || {
        let one = |answer: &Vec<u8>| {
            let (mut stream, _) = listener.accept().expect("a request");
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("a request") == 1 {
                request.push(byte[0]);
            }
            // A client that has seen enough may leave early.
            stream.write_all(answer).ok();
            String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_string()
        };
        answers.iter().map(one).collect()
    });
    (address, serving)
}

fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// A published checkpoint of this content.
fn published(content: &[u8]) -> Published {
    let hash: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    let url: &'static str = format!("http://localhost/rtmo-x_made-up-{}_20231211.pth", &hash[..8]).leak();
    let rtmo_s = find("rtmo-s").expect("published");
    Published { url, name: "rtmo-x", aliases: &[], training_data: "nothing", benchmark: "nothing", ..*rtmo_s }
}

fn content() -> Vec<u8> {
    (0..300_000u32).flat_map(|i| (i * i).to_le_bytes()).collect()
}

fn files(folder: &Path) -> Vec<String> {
    fs::read_dir(folder)
        .map(|entries| entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default()
}

#[test]
fn a_published_file_arrives_whole_and_under_its_name() {
    let (content, folder) = (content(), tempdir().unwrap());
    let model = published(&content);
    let chunks: Vec<u8> = content
        .chunks(70_000)
        .flat_map(|c| [format!("{:x}\r\n", c.len()).as_bytes(), c, b"\r\n"].concat())
        .collect();
    let chunked = [
        &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"[..],
        &chunks,
        b"0\r\n\r\n",
    ]
    .concat();
    let moved =
        b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let cases = [
        (vec![ok(&content)], Some(content.len() as u64)),
        (vec![chunked], None),
        (vec![moved.to_vec(), ok(&content)], Some(content.len() as u64)),
    ];
    for (i, (answers, length)) in cases.into_iter().enumerate() {
        let folder = folder.path().join(format!("new/{i}"));
        let requests = answers.len();
        let (address, serving) = serve(answers);
        let mut seen = vec![];
        let path = download(&model, Some(&format!("{address}/some/")), &folder, &mut |come, of| {
            seen.push((come, of))
        })
        .unwrap();
        assert_eq!(path, folder.join(model.file_name()));
        assert_eq!(fs::read(&path).unwrap(), content);
        assert_eq!((seen[0], *seen.last().unwrap()), ((0, length), (content.len() as u64, length)));
        assert!(seen.is_sorted());
        let asked = serving.join().unwrap();
        assert_eq!(asked.len(), requests);
        assert_eq!(asked[0], format!("GET /some/{} HTTP/1.1", model.file_name()));
    }
}

#[test]
fn what_is_not_the_published_file_is_not_kept() {
    let content = content();
    let model = published(&content);
    let mut changed = content.clone();
    changed[123_456] ^= 1;
    let whole = ok(&content);
    let cases = [
        (ok(&changed), "SHA-256"),
        (ok(b""), "SHA-256"),
        (whole[..whole.len() - 1].to_vec(), "after"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnone".to_vec(), "404"),
        (b"no HTTP at all\r\n\r\n".to_vec(), ""),
        (vec![], ""),
    ];
    for (answer, expected) in cases {
        for old in [None, Some("what was there")] {
            let folder = tempdir().unwrap();
            let path = folder.path().join(model.file_name());
            old.iter().for_each(|old| fs::write(&path, old).unwrap());
            let (address, serving) = serve(vec![answer.clone()]);
            let error = download(&model, Some(&address), folder.path(), &mut |_, _| ()).unwrap_err();
            assert!(matches!(&error, Error::Download { .. }), "{error}");
            let text = error.to_string();
            assert!(text.starts_with(&address) && text.contains(expected), "{text}");
            assert_eq!(files(folder.path()).len(), usize::from(old.is_some()), "{text}");
            assert_eq!(fs::read_to_string(&path).ok().as_deref(), old, "{text}");
            serving.join().unwrap();
        }
    }
}

#[test]
fn servers_that_cannot_be_reached_and_folders_that_cannot_be_made_are_errors() {
    let content = content();
    let folder = tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for address in [format!("http://{free}"), "ftp://127.0.0.1".into(), "not an address".into(), "".into()] {
        let error =
            download(&published(&content), Some(&address), folder.path(), &mut |_, _| ()).unwrap_err();
        assert!(matches!(&error, Error::Download { .. }), "{error}");
    }
    assert!(files(folder.path()).is_empty());

    let taken = folder.path().join("taken");
    fs::write(&taken, "a file").unwrap();
    let (address, serving) = serve(vec![ok(&content)]);
    let error = download(&published(&content), Some(&address), &taken, &mut |_, _| ()).unwrap_err();
    assert!(matches!(&error, Error::Io { .. }) && error.to_string().contains("taken"), "{error}");
    serving.join().unwrap();
}
