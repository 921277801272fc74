//! Downloads, from servers on this machine whose answers are given.

use rtmo_engine::weights::registry::{Published, find};
use rtmo_engine::weights::{DownloadOptions, Progress, Standing, download, remove, standing};
use rtmo_engine::{Error, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use tempfile::tempdir;

/// Serves these answers, one a connection, each then closed; returns the server's address and, in the end, the
/// requests.
fn serve(answers: Vec<Vec<u8>>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let serving = std::thread::spawn(move || {
        let one = |answer: &Vec<u8>| {
            let (mut stream, _) = listener.accept().expect("a request");
            let request = request(&mut stream);
            // A client that has seen enough may leave early.
            stream.write_all(answer).ok();
            request
        };
        answers.iter().map(one).collect()
    });
    (address, serving)
}

/// A request's head.
fn request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("a request") == 1 {
        request.push(byte[0]);
    }
    String::from_utf8_lossy(&request).into_owned()
}

/// An answer with these further lines in its head.
fn answer(status: &str, lines: &str, length: usize, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{lines}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn ok(body: &[u8]) -> Vec<u8> {
    answer("200 OK", "", body.len(), body)
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A published checkpoint of this content, of whose hash the name tells 32 bits.
fn published(content: &[u8]) -> Published {
    let url: &'static str =
        format!("http://localhost/rtmo-x_made-up-{}_20231211.pth", &sha256(content)[..8]).leak();
    let rtmo_m = find("rtmo-m").expect("published");
    Published { url, name: "rtmo-x", aliases: &[], training_data: "nothing", benchmark: "nothing", ..*rtmo_m }
}

/// A published checkpoint of this content, of which hash and length are known.
fn known(content: &[u8]) -> Published {
    Published { content: Some((sha256(content).leak(), content.len() as u64)), ..published(content) }
}

fn content() -> Vec<u8> {
    (0..300_000u32).flat_map(|i| i.wrapping_mul(i).to_le_bytes()).collect()
}

/// A server by plain HTTP, which is permitted.
fn from(address: &str) -> DownloadOptions {
    DownloadOptions { mirror: Some(address.into()), allow_http: true, ..Default::default() }
}

fn fetch(model: &Published, address: &str, folder: &Path) -> Result<PathBuf> {
    download(model, folder, &from(address), &mut |_| ())
}

/// Names of the files in a folder but locks, which stay.
fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.ends_with(".lock"));
    names.sort();
    names
}

#[test]
fn a_published_file_arrives_whole_and_under_its_name() {
    let (content, folder) = (content(), tempdir().unwrap());
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
    let moved = answer("302 Found", "Location: /elsewhere\r\n", 0, b"");
    let whole = Some(content.len() as u64);
    let cases = [
        (published(&content), vec![ok(&content)], whole),
        (published(&content), vec![chunked.clone()], None),
        (known(&content), vec![chunked], whole),
        (known(&content), vec![moved.to_vec(), ok(&content)], whole),
    ];
    for (i, (model, answers, length)) in cases.into_iter().enumerate() {
        let folder = folder.path().join(format!("new/{i}"));
        let requests = answers.len();
        let (address, serving) = serve(answers);
        let mut seen = vec![];
        let path =
            download(&model, &folder, &from(&format!("{address}/some/")), &mut |progress| match progress {
                Progress::Bytes(come, of) => seen.push((come, of)),
                Progress::Waiting => panic!("nobody else fetches it"),
            })
            .unwrap();
        assert_eq!(path, folder.join(model.file_name()));
        assert_eq!(fs::read(&path).unwrap(), content);
        assert_eq!((seen[0], *seen.last().unwrap()), ((0, length), (content.len() as u64, length)));
        assert!(seen.is_sorted());
        let asked = serving.join().unwrap();
        assert_eq!(asked.len(), requests);
        assert!(asked[0].starts_with(&format!("GET /some/{} HTTP/1.1\r\n", model.file_name())), "{asked:?}");
        assert!(!asked[0].to_lowercase().contains("range:"), "{asked:?}");
        // It is there: nobody is asked again.
        assert_eq!(fetch(&model, "http://127.0.0.1:1", &folder).unwrap(), path);
        let state = if model.content.is_some() { Standing::Whole } else { Standing::Pinned };
        assert_eq!(standing(&model, &path).unwrap(), state);
    }
}

#[test]
fn what_is_not_the_published_file_is_not_kept() {
    let content = content();
    let mut changed = content.clone();
    changed[123_456] ^= 1;
    let whole = ok(&content);
    let long = [&content[..], b"more"].concat();
    let cases = [
        (ok(&changed), "SHA-256"),
        (ok(b""), "not the published file"),
        (whole[..whole.len() - 1].to_vec(), "after"),
        (ok(&long), "not the published file"),
        (answer("404 Not Found", "", 4, b"none"), "404"),
        (
            answer("206 Partial Content", "Content-Range: bytes 5-9/10\r\n", 5, b"a part"),
            "part of the file unasked",
        ),
        (b"no HTTP at all\r\n\r\n".to_vec(), ""),
        (vec![], ""),
    ];
    for (answer, expected) in cases {
        for (old, model) in [(None, published(&content)), (Some("what was there"), known(&content))] {
            let folder = tempdir().unwrap();
            let path = folder.path().join(model.file_name());
            old.iter().for_each(|old| fs::write(&path, old).unwrap());
            let (address, serving) = serve(vec![answer.clone()]);
            let error = fetch(&model, &address, folder.path()).unwrap_err();
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
fn the_whole_hash_is_compared_where_it_is_known() {
    let content = content();
    let forged = [&content[..], b"x"].concat();
    // As if the first 32 bits were the same.
    let model =
        Published { content: Some((sha256(&forged).leak(), content.len() as u64)), ..published(&content) };
    let folder = tempdir().unwrap();
    let (address, serving) = serve(vec![ok(&content)]);
    let error = fetch(&model, &address, folder.path()).unwrap_err().to_string();
    serving.join().unwrap();
    let both = format!("SHA-256 is {} (1200000 bytes), expected {}", sha256(&content), sha256(&forged));
    assert!(error.contains(&both), "{error}");
    assert!(files(folder.path()).is_empty());
}

#[test]
fn of_a_prefix_the_first_file_is_remembered() {
    let content = content();
    let model = published(&content);
    let folder = tempdir().unwrap();
    let (address, serving) = serve(vec![ok(&content)]);
    let path = fetch(&model, &address, folder.path()).unwrap();
    serving.join().unwrap();
    let pin = folder.path().join(format!("{}.sha256", model.file_name()));
    assert_eq!(fs::read_to_string(&pin).unwrap(), format!("{}  {}\n", sha256(&content), model.file_name()));
    assert_eq!(remove(&model, folder.path()).unwrap(), Some(content.len() as u64));
    assert_eq!(remove(&model, folder.path()).unwrap(), None);
    assert!(!path.exists() && pin.exists());

    // Another file of the same 32 bits: here, as if the first one had been another.
    let other = format!("{}{}", &sha256(&content)[..8], &"0".repeat(56));
    fs::write(&pin, format!("{other}  {}\n", model.file_name())).unwrap();
    let (address, serving) = serve(vec![ok(&content)]);
    let error = fetch(&model, &address, folder.path()).unwrap_err().to_string();
    serving.join().unwrap();
    assert!(error.contains(&other) && error.contains("from the first download"), "{error}");
    assert!(!path.exists() && fs::read_to_string(&pin).unwrap().starts_with(&other));
    fs::write(&path, &content).unwrap();
    assert!(matches!(standing(&model, &path).unwrap(), Standing::Different(_)));
    fs::remove_file(&pin).unwrap();
    assert_eq!(standing(&model, &path).unwrap(), Standing::Prefix);
}

/// A download that is cut goes on where it ended, if the server has the same file still.
#[test]
fn what_was_cut_is_continued() {
    let content = content();
    let model = published(&content);
    let tag = "ETag: \"v1\"\r\n";
    let cut = |at: usize| answer("200 OK", tag, content.len(), &content[..at]);
    let rest = |from: usize, first: usize| {
        let lines = format!("{tag}Content-Range: bytes {first}-{}/{}\r\n", content.len() - 1, content.len());
        answer("206 Partial Content", &lines, content.len() - from, &content[from..])
    };
    let hidden = |suffix: &str| format!(".{}.{suffix}", model.file_name());
    let begin = |folder: &Path, at: usize| {
        let (address, serving) = serve(vec![cut(at)]);
        let error = fetch(&model, &address, folder).unwrap_err().to_string();
        serving.join().unwrap();
        assert!(error.contains(&format!("after {at} bytes")), "{error}");
        assert_eq!(files(folder), [hidden("part"), hidden("part.etag")]);
    };
    // The rest; all of it, since the file is another now; another part than was asked for; nothing of that range.
    let another = || answer("200 OK", "ETag: \"v2\"\r\n", content.len(), &content);
    let cases = [
        (vec![rest(500_000, 500_000)], vec![true]),
        (vec![another()], vec![true]),
        (vec![rest(500_000, 400_000), another()], vec![true, false]),
        (vec![answer("416 Range Not Satisfiable", "", 0, b""), another()], vec![true, false]),
    ];
    for (index, (answers, ranges)) in cases.into_iter().enumerate() {
        let folder = tempdir().unwrap();
        begin(folder.path(), 500_000);
        let (address, serving) = serve(answers);
        let mut first = None;
        let path = download(&model, folder.path(), &from(&address), &mut |progress| {
            if let Progress::Bytes(come, of) = progress {
                first.get_or_insert((come, of));
            }
        })
        .unwrap();
        assert_eq!(fs::read(path).unwrap(), content);
        let asked = serving.join().unwrap();
        let got: Vec<bool> =
            asked.iter().map(|r| r.to_lowercase().contains("range: bytes=500000-\r\n")).collect();
        assert_eq!(got, ranges);
        assert!(asked[0].to_lowercase().contains("if-range: \"v1\"\r\n"), "{asked:?}");
        let continued = asked.len() == 1 && first.unwrap().0 == 500_000;
        assert_eq!(continued, index == 0);
        assert_eq!(first.unwrap().1, Some(content.len() as u64));
        assert_eq!(files(folder.path()).len(), 2, "the file and its hash");
    }
    // Twice cut.
    let folder = tempdir().unwrap();
    begin(folder.path(), 300_000);
    let again = rest(300_000, 300_000);
    let (address, serving) = serve(vec![again[..again.len() - 600_000].to_vec()]);
    assert!(fetch(&model, &address, folder.path()).unwrap_err().to_string().contains("after 600000 bytes"));
    serving.join().unwrap();
    let (address, serving) = serve(vec![rest(600_000, 600_000)]);
    assert_eq!(fs::read(fetch(&model, &address, folder.path()).unwrap()).unwrap(), content);
    serving.join().unwrap();
    // What is put together wrongly is not the file, and not kept.
    let folder = tempdir().unwrap();
    begin(folder.path(), 500_000);
    let part = folder.path().join(hidden("part"));
    let mut damaged = fs::read(&part).unwrap();
    damaged[7] ^= 1;
    fs::write(&part, damaged).unwrap();
    let (address, serving) = serve(vec![rest(500_000, 500_000)]);
    assert!(fetch(&model, &address, folder.path()).unwrap_err().to_string().contains("SHA-256"));
    serving.join().unwrap();
    assert!(files(folder.path()).is_empty());
}

#[test]
fn servers_that_cannot_be_reached_and_folders_that_cannot_be_made_are_errors() {
    let content = content();
    let folder = tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for address in [format!("http://{free}"), "ftp://127.0.0.1".into(), "not an address".into(), "".into()] {
        let error = fetch(&published(&content), &address, folder.path()).unwrap_err();
        assert!(matches!(&error, Error::Download { .. }), "{error}");
    }
    assert!(files(folder.path()).is_empty());

    let taken = folder.path().join("taken");
    fs::write(&taken, "a file").unwrap();
    let error = fetch(&published(&content), "http://127.0.0.1:1", &taken).unwrap_err();
    assert!(matches!(&error, Error::Io { .. }) && error.to_string().contains("taken"), "{error}");
}

#[test]
fn plain_http_needs_consent_and_passwords_are_not_shown() {
    let content = content();
    let folder = tempdir().unwrap();
    let options = |mirror: &str, allow_http| DownloadOptions {
        mirror: Some(mirror.into()),
        allow_http,
        ..Default::default()
    };
    let get = |options: &DownloadOptions| {
        download(&published(&content), folder.path(), options, &mut |_| ()).unwrap_err().to_string()
    };
    let error = get(&options("http://127.0.0.1:1/models", false));
    assert!(
        error.starts_with("http://127.0.0.1:1/models/rtmo-x") && error.contains("--allow-http"),
        "{error}"
    );
    for allow_http in [false, true] {
        let error = get(&options("http://me:secret@127.0.0.1:1/models?key=secret", allow_http));
        assert!(!error.contains("secret") && !error.contains("me:"), "{error}");
    }
    let (address, serving) = serve(vec![answer("500 \x1b[31mRED\x07", "", 0, b"")]);
    let error = get(&options(&address.replace("http://", "http://me:secret@"), true));
    serving.join().unwrap();
    assert!(!error.contains("secret") && !error.contains(char::is_control), "{error}");
}

#[test]
fn a_server_that_stops_sending_is_left() {
    let content = content();
    let model = published(&content);
    for sent in [0, 30, 700_000] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (done, wait) = channel::<()>();
        let serving = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            request(&mut stream);
            stream.write_all(&ok(&self::content())[..sent]).unwrap();
            wait.recv().ok();
        });
        let folder = tempdir().unwrap();
        let options = DownloadOptions { stall: Duration::from_millis(300), ..from(&address) };
        let start = Instant::now();
        let error = download(&model, folder.path(), &options, &mut |_| ()).unwrap_err();
        assert!(matches!(&error, Error::Download { .. }), "{error}");
        // Not much longer than asked for, on a machine that may be busy.
        assert!((0.3..20.0).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
        assert!(error.to_string().contains("nothing came for 0.3 s"), "{error}");
        drop(done);
        serving.join().unwrap();
        assert!(files(folder.path()).is_empty());
    }
}

/// Two at once ask once.
#[test]
fn two_downloads_at_once_fetch_once() {
    let content = content();
    let model = &published(&content);
    let folder = &tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let options = &from(&format!("http://{}", listener.local_addr().unwrap()));
    std::thread::scope(|scope| {
        let first = scope.spawn(move || download(model, folder.path(), options, &mut |_| ()));
        let (mut stream, _) = listener.accept().unwrap();
        request(&mut stream);
        // The first one waits for the server, the second for the first.
        let (waits, waiting) = channel();
        let second = scope.spawn(move || {
            let mut fetched = false;
            let path = download(model, folder.path(), options, &mut |progress| match progress {
                Progress::Waiting => waits.send(()).unwrap(),
                Progress::Bytes(..) => fetched = true,
            });
            (path, fetched)
        });
        waiting.recv().unwrap();
        stream.write_all(&ok(&content)).unwrap();
        drop(stream);
        let path = first.join().unwrap().unwrap();
        let (second, fetched) = second.join().unwrap();
        assert_eq!((second.unwrap(), fetched), (path.clone(), false));
        assert_eq!(fs::read(path).unwrap(), content);
    });
}
