//! Photos, read by threads of their own before they are wanted.

use super::stopped;
use rtmo_engine::Result;
use rtmo_engine::vision::decode::{self, Decoded};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

/// Starts threads that read the photos, each every so many, and hold at most two until somebody wants them.
pub fn decode_ahead<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    files: &'scope [PathBuf],
    workers: usize,
) -> Photos {
    let worker = |first: usize| {
        let (to, from) = sync_channel(1);
        scope.spawn(move || {
            for (index, path) in files.iter().enumerate().skip(first).step_by(workers) {
                if stopped() || to.send((index, decode::open(path))).is_err() {
                    return;
                }
            }
        });
        from
    };
    Turns { from: (0..workers).map(worker).collect(), next: 0, seen: None }
}

/// What is read, with its place in the list.
pub type Photos = Turns<(usize, Result<Decoded>)>;

/// What several threads send, one after the other in turn: as ordered as if one had sent all.
pub struct Turns<T> {
    from: Vec<Receiver<T>>,
    next: usize,
    /// What has been taken to see whether it is there.
    seen: Option<T>,
}

impl<T> Turns<T> {
    /// Whether there is a next one, and it is there.
    pub fn ready(&mut self) -> bool {
        if self.seen.is_none() {
            self.seen = self.from[self.next].try_recv().ok();
        }
        self.seen.is_some()
    }
}

impl<T> Iterator for Turns<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let next = self.seen.take().or_else(|| self.from[self.next].recv().ok());
        self.next = (self.next + 1) % self.from.len();
        next
    }
}

/// The next `most` photos, fewer at the end.
pub fn next_batch<T>(from: &mut Turns<T>, most: usize) -> Option<Vec<T>> {
    let batch: Vec<T> = from.take(most).collect();
    if batch.is_empty() { None } else { Some(batch) }
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
                let mut turns = decode_ahead(scope, &files, workers);
                let mut seen = 0;
                loop {
                    // To ask whether the next is there loses none.
                    turns.ready();
                    let Some(batch) = next_batch(&mut turns, 4) else { break };
                    for (index, decoded) in batch {
                        assert_eq!(index, seen, "{workers} workers");
                        assert_eq!(decoded.map(|d| d.photo.width).ok(), (index != 3).then_some(index + 1));
                        seen += 1;
                    }
                }
                assert_eq!(seen, files.len());
                // Whoever wants no more leaves nobody waiting: the scope ends.
                drop(decode_ahead(scope, &files, workers).next());
            });
        }
    }
}
