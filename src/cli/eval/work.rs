//! From annotated photos to lines of results.

use super::record::Record;
use crate::cli::infer::budget::Budget;
use crate::cli::infer::reading::{Photos, decode_ahead};
use crate::cli::infer::sources::Item;
use crate::cli::infer::turns::Turns;
use crate::cli::infer::work::{Deliver, Given, not_finite, pump};
use crate::cli::options::Network;
use crate::cli::terminal::Terminal;
use rtmo_engine::vision::decode::Limits;
use rtmo_engine::{Engine, Error, People, Result, shown};
use std::path::PathBuf;
use std::sync::Arc;

/// A photo to be done.
#[derive(Clone, Debug)]
pub struct Photo {
    pub image: u64,
    pub path: PathBuf,
    /// As the annotations give it.
    pub size: Option<(u64, u64)>,
}

/// Reads photos ahead of the engine, `batch` of which are computed together.
pub fn read_ahead(photos: &[Photo], batch: usize, network: &Network) -> Photos {
    let items: Vec<Item> = photos.iter().map(|photo| Item::File(photo.path.clone())).collect();
    let (budget, turns) = (Budget::of_batch(batch), Arc::new(Turns::new(network.needs_all_cpus())));
    decode_ahead(items.into_iter(), Arc::default(), network.workers(), Limits::default(), budget, turns)
}

/// Runs the engine on photos and adds who is found to the record; returns how many could not be read, which have been told.
///
/// # Errors
/// If the engine fails, or the record cannot be written.
pub fn run(
    engine: &mut Engine,
    photos: &[Photo],
    mut incoming: Photos,
    batch: usize,
    record: &mut Record,
    terminal: &Terminal,
) -> Result<usize> {
    let mut to = Evaluation { photos: photos.iter(), record, terminal };
    Ok(pump(engine, batch, &mut incoming, terminal, &mut to)?.failed)
}

/// What becomes of annotated photos.
struct Evaluation<'a> {
    /// Those that have not been done, in their order.
    photos: std::slice::Iter<'a, Photo>,
    record: &'a mut Record,
    terminal: &'a Terminal,
}

impl Deliver for Evaluation<'_> {
    fn deliver(
        &mut self,
        given: Given,
        picture: rtmo_engine::Picture,
        people: People,
        ms: f64,
    ) -> Result<bool> {
        let path = given.path.as_path();
        // Photos come in order, those that cannot be read left out. Two images may have one photo.
        let Some(Photo { image, size, .. }) = self.photos.find(|photo| photo.path == path) else {
            return Err(Error::Usage(format!("{}: a photo that no image has", shown(path))));
        };
        let (w, h) = (picture.size().0 as u64, picture.size().1 as u64);
        if let Some((width, height)) = size.filter(|size| *size != (w, h)) {
            let what = format!("{}: {w}x{h}, and the annotations are for {width}x{height}", shown(path));
            self.terminal.complain("warning", what);
        }
        if people.not_finite() > 0 {
            self.terminal.complain("warning", not_finite(path, people.not_finite()));
        }
        self.record.add(*image, ms, people.into())?;
        self.terminal.advance();
        Ok(true)
    }
}
