//! Checkpoints read to the end, in memory that their size bounds.

// Each target takes what it needs.
#![allow(dead_code)]

#[path = "../../../tests/weights/memory.rs"]
mod memory;
#[path = "../../../tests/weights/writer.rs"]
pub mod writer;

use rtmo_engine::weights::{Architecture, Checkpoint};
use std::cell::OnceCell;
use std::path::Path;

/// Opens a file and reads all that it claims to hold.
pub fn digest(file: &[u8]) {
    thread_local!(static FOLDER: OnceCell<writer::Folder> = const { OnceCell::new() });
    let path = FOLDER.with(|folder| folder.get_or_init(writer::Folder::new).write("w", file));
    let ((), memory) = memory::peak(|| {
        let Ok(checkpoint) = Checkpoint::open(&path) else { return };
        let _ = Architecture::of(&checkpoint);
        for name in checkpoint.names() {
            let shape = checkpoint.shape(name).expect("a tensor that is listed");
            if let Ok(values) = checkpoint.tensor(name, shape) {
                assert_eq!(values.len(), shape.iter().product::<usize>());
            }
        }
    });
    assert!(memory < (6 << 20) + 200 * file.len(), "{memory} bytes for a file of {}", file.len());
}

/// Puts the tests' files into a target's corpus.
pub fn plant(target: &str, seeds: Vec<Vec<u8>>) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&corpus).expect("a folder for the corpus");
    for (i, seed) in seeds.into_iter().enumerate() {
        std::fs::write(corpus.join(format!("seed{i}")), seed).expect("a corpus that can be written");
    }
}
