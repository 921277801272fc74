//! Counts the people on each photo of a folder, with batches that are read while the engine computes.
//!
//!     cargo run --release --example folder WEIGHTS FOLDER

use rtmo_engine::{Engine, EngineOptions, Photo};
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [weights, folder] = arguments.as_slice() else { return Err("usage: folder WEIGHTS FOLDER".into()) };
    let mut engine = Engine::load(weights, EngineOptions::default())?;
    let files = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut files = files.collect::<std::io::Result<Vec<PathBuf>>>()?;
    files.sort();

    // A file that is no photo is told and left out.
    let mut photos = files.into_iter().filter_map(|path| match Photo::open(&path) {
        Ok(photo) => Some((path, photo)),
        Err(error) => {
            eprintln!("{error}");
            None
        }
    });
    let mut names = std::collections::VecDeque::new();
    loop {
        while engine.submitted() < engine.queue_depth()
            && let Some((path, photo)) = photos.next()
        {
            names.push_back(path);
            engine.submit(vec![photo])?;
        }
        let Some((_, people)) = engine.collect()? else { return Ok(()) };
        let path = names.pop_front().expect("a name for each photo that was submitted");
        println!("{}: {} people", path.display(), people[0].len());
    }
}
