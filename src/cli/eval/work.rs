//! From annotated photos to lines of results.

use super::record::Record;
use crate::cli::infer::budget::{Budget, Share};
use crate::cli::infer::reading::{Photos, Read, decode_ahead};
use crate::cli::infer::sources::Item;
use crate::cli::infer::stopped;
use crate::cli::terminal::Terminal;
use rtmo_engine::vision::decode::{Decoded, Limits};
use rtmo_engine::{Engine, Result, shown};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// A photo to be done.
#[derive(Clone, Debug)]
pub struct Photo {
    pub image: u64,
    pub path: PathBuf,
    /// As the annotations give it.
    pub size: Option<(u64, u64)>,
}

/// Reads photos ahead of the engine, `batch` of which are computed together.
pub fn read_ahead(photos: &[Photo], batch: usize, workers: usize) -> Photos {
    let items: Vec<Item> = photos.iter().map(|photo| Item::File(photo.path.clone())).collect();
    // 1 GB; in large batches room for 8 megapixels a photo.
    let budget = Budget::new((1 << 30).max(batch * (24 << 20)));
    decode_ahead(items.into_iter(), Arc::default(), workers, Limits::default(), budget)
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
    let mut begun: VecDeque<Begun> = VecDeque::new();
    let (mut next, mut failed, mut last) = (0, 0, Instant::now());
    loop {
        while begun.len() < engine.queue_depth() && !stopped() && (begun.is_empty() || incoming.ready()) {
            let Some(read) = incoming.next_batch(batch) else { break };
            let these = &photos[next..next + read.len()];
            next += read.len();
            let (batch, bad) = Begun::new(engine, these, read, terminal)?;
            failed += bad;
            begun.push_back(batch);
        }
        let Some(Begun { images, shares, start }) = begun.pop_front() else { return Ok(failed) };
        if images.is_empty() {
            continue;
        }
        let Some((_, found)) = engine.collect()? else { return Ok(failed) };
        // A GPU works on two batches at a time: this one's time begins when the one before it has ended.
        let ms = start.max(last).elapsed().as_secs_f64() * 1e3 / images.len() as f64;
        last = Instant::now();
        drop(shares);
        for (image, people) in images.into_iter().zip(found) {
            if people.not_finite() > 0 {
                let n = people.not_finite();
                terminal.complain(
                    "warning",
                    format!(
                        "the image of id {image}: the network's numbers for {n} people are not finite: the weights are \
                         broken, or too large for this precision"
                    ),
                );
            }
            record.add(image, ms, people.into())?;
            terminal.advance();
        }
    }
}

/// A batch that the engine works on.
struct Begun {
    images: Vec<u64>,
    /// What the photos take of the budget.
    shares: Vec<Share>,
    start: Instant,
}

impl Begun {
    /// Tells of photos that cannot be read, and counts them.
    fn new(
        engine: &mut Engine,
        photos: &[Photo],
        batch: Vec<Read>,
        terminal: &Terminal,
    ) -> Result<(Begun, usize)> {
        let (mut images, mut shares, mut pictures, mut failed) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (Photo { image, path, size }, Read { decoded, share, .. }) in photos.iter().zip(batch) {
            match decoded {
                Ok(Decoded { photo, warnings }) => {
                    for warning in warnings {
                        terminal.complain("warning", format!("{}: {warning}", shown(path)));
                    }
                    let (w, h) = (photo.width as u64, photo.height as u64);
                    if let Some((width, height)) = size.filter(|size| *size != (w, h)) {
                        terminal.complain(
                            "warning",
                            format!("{}: {w}x{h}, and the annotations are for {width}x{height}", shown(path)),
                        );
                    }
                    images.push(*image);
                    shares.push(share);
                    pictures.push(photo);
                }
                Err(error) => {
                    terminal.complain("error", error);
                    terminal.advance();
                    failed += 1;
                }
            }
        }
        let start = Instant::now();
        if !pictures.is_empty() {
            engine.submit(pictures)?;
        }
        Ok((Begun { images, shares, start }, failed))
    }
}
