//! A list of photos, whole and in pieces: both are read alike.

#![no_main]

#[path = "../../../src/cli/video/signs.rs"]
mod signs;
// The list asks for them where the program has them.
mod cli {
    pub mod video {
        pub use crate::signs::is_clip_head;
    }
}
// Each target takes what it needs.
#[allow(dead_code)]
#[path = "../../../src/cli/infer/list.rs"]
mod list;

use libfuzzer_sys::fuzz_target;
use list::{Input, Line};
use std::io::Read;
use std::path::Path;

/// Gives a few bytes at a time.
struct Pieces(std::io::Cursor<Vec<u8>>, usize);

impl Read for Pieces {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let n = to.len().min(self.1);
        self.0.read(&mut to[..n])
    }
}

fn read(list: &[u8], piece: usize, null: bool) -> Vec<String> {
    let from = Box::new(Pieces(std::io::Cursor::new(list.to_vec()), piece));
    let mut lines = match Input::open(from, null, Default::default()).expect("memory") {
        Input::List(lines) => lines,
        Input::Photo(file) => {
            assert!(file == list);
            return vec!["photo".into()];
        }
        Input::Clip(mut clip) => {
            let mut file = Vec::new();
            clip.read_to_end(&mut file).expect("memory");
            assert!(file == list);
            return vec!["clip".into()];
        }
    };
    let line = |line| match line {
        Line::Path(path) => {
            assert!(!path.as_os_str().is_empty());
            assert!(null || !path.as_os_str().as_encoded_bytes().contains(&b'\n'));
            format!("{path:?}")
        }
        Line::Wrong(what) => what,
    };
    std::iter::from_fn(|| lines.next().expect("memory").map(line)).collect()
}

fuzz_target!(
    init: plant(),
    |list: &[u8]| {
        for null in [false, true] {
            let whole = read(list, usize::MAX, null);
            // What the first piece shows decides whether it is a photo: the longest sign has 16 bytes.
            for piece in [16, 23] {
                assert_eq!(whole, read(list, piece, null));
            }
        }
    }
);

fn plant() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/list");
    std::fs::create_dir_all(&corpus).expect("a folder for the corpus");
    let seeds: [&[u8]; 9] = [
        b"\xef\xbb\xbfa.jpg\r\n\n b.jpg",
        b"a\xff.jpg\0b.jpg\0",
        b"\xff\xfea\0\n\0",
        b"\xff\xd8\xff\xe0",
        b"BM\n\n\0\0\0\0\0\0",
        b"RIFF\n\0\0\0WEBPVP8 ",
        b"GIF89a\x0a\0\x0a\0\0\0\0",
        b"\0\0\0\x20ftypisom\0\0\x02\0",
        b"G\x40\0\x10\0\0\xb0\x0d",
    ];
    for (i, seed) in seeds.into_iter().enumerate() {
        std::fs::write(corpus.join(format!("seed{i}")), seed).expect("a corpus that can be written");
    }
}
