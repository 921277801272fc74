//! Photos, read by threads of their own before they are wanted.

use super::budget::{Budget, Share};
use super::stopped;
use rtmo_engine::Result;
use rtmo_engine::vision::decode::{Decoded, Encoded, Limits};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

/// Files up to this length are read before it is their photo's turn: they are small beside the budget.
const SMALL_FILE: u64 = 4 << 20;

/// A photo, or why there is none.
pub struct Read {
    /// Its place in the list.
    pub index: usize,
    pub decoded: Result<Decoded>,
    /// What it takes of the budget.
    pub share: Share,
}

enum Message {
    Read(Read),
    /// The next photo waits for memory that earlier ones hold.
    Full,
}

/// Starts threads that read the photos, each every so many, and hold at most two until they are taken; fewer where the
/// budget does not allow for them.
pub fn decode_ahead<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    files: &'scope [PathBuf],
    workers: usize,
    limits: Limits,
    budget: Arc<Budget>,
) -> Photos {
    let worker = |first: usize| {
        let (to, from) = sync_channel(1);
        let budget = budget.clone();
        scope.spawn(move || {
            for (index, path) in files.iter().enumerate().skip(first).step_by(workers) {
                if stopped() {
                    return;
                }
                let small = path.metadata().is_ok_and(|file| file.is_file() && file.len() <= SMALL_FILE);
                let early = small.then(|| Encoded::open(path, limits));
                let need = || {
                    let encoded = early.unwrap_or_else(|| Encoded::open(path, limits));
                    let bytes = encoded.as_ref().map_or(0, Encoded::memory);
                    (encoded, bytes)
                };
                // Where the other end is gone, the budget is closed.
                let full = || _ = to.send(Message::Full);
                let Some((encoded, mut share)) = budget.share(index, need, full) else { return };
                let decoded = encoded.and_then(Encoded::decode);
                share.shrink_to(decoded.as_ref().map_or(0, |decoded| decoded.photo.bgr.len()));
                if to.send(Message::Read(Read { index, decoded, share })).is_err() {
                    return;
                }
            }
        });
        from
    };
    Photos { from: (0..workers).map(worker).collect(), budget: budget.clone(), next: 0, seen: None }
}

/// What several threads read, one after the other in turn: as ordered as if one had read all.
pub struct Photos {
    from: Vec<Receiver<Message>>,
    budget: Arc<Budget>,
    next: usize,
    /// What has been taken to see whether it is there.
    seen: Option<Read>,
}

impl Photos {
    /// Whether there is a next one, and it is there.
    pub fn ready(&mut self) -> bool {
        if self.seen.is_none()
            && let Ok(Message::Read(read)) = self.from[self.next].try_recv()
        {
            self.seen = Some(read);
        }
        self.seen.is_some()
    }

    /// The next `most` photos; fewer at the end, and where memory allows for no more at a time.
    pub fn next_batch(&mut self, most: usize) -> Option<Vec<Read>> {
        let mut batch = Vec::new();
        while batch.len() < most {
            match self.seen.take().map(Message::Read).or_else(|| self.from[self.next].recv().ok()) {
                Some(Message::Read(read)) => {
                    batch.push(read);
                    self.next = (self.next + 1) % self.from.len();
                }
                // It waits for what this batch holds. Where the batch is empty it waits for drawing.
                Some(Message::Full) if batch.is_empty() => {}
                Some(Message::Full) | None => break,
            }
        }
        (!batch.is_empty()).then_some(batch)
    }
}

impl Drop for Photos {
    fn drop(&mut self) {
        self.budget.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtmo_engine::Photo;
    use rtmo_engine::vision::encode;

    #[test]
    fn photos_come_in_order_however_many_threads_read_them() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = (1..=11).map(|i| folder.path().join(format!("{i}.png"))).collect();
        for (i, file) in files.iter().enumerate() {
            match i {
                3 => std::fs::write(file, b"no photo").unwrap(),
                // The first ones take longest.
                _ => encode::save(&Photo::filled(i + 1, 600 - 50 * i, [9; 3]), file).unwrap(),
            }
        }
        for workers in [1, 2, 3, 16] {
            thread::scope(|scope| {
                let read = |most| decode_ahead(scope, &files, workers, Limits::default(), Budget::new(most));
                let mut turns = read(1 << 20);
                let mut seen = 0;
                loop {
                    // To ask whether the next is there loses none.
                    turns.ready();
                    let Some(batch) = turns.next_batch(4) else { break };
                    for Read { index, decoded, .. } in batch {
                        assert_eq!(index, seen, "{workers} workers");
                        assert_eq!(decoded.map(|d| d.photo.width).ok(), (index != 3).then_some(index + 1));
                        seen += 1;
                    }
                }
                assert_eq!(seen, files.len());
                // Photos that are not taken keep no thread waiting: the scope ends.
                drop(read(1 << 20).next_batch(1));

                // A budget that none of the photos fits gives batches of one.
                let mut turns = read(1);
                let mut sizes = Vec::new();
                while let Some(batch) = turns.next_batch(4) {
                    turns.ready();
                    // The file that is no photo takes nothing.
                    sizes.push(batch.iter().filter(|read| read.decoded.is_ok()).count());
                }
                assert_eq!(sizes, vec![1; 10], "{workers} workers");
            });
        }
    }
}
