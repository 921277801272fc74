//! Photos, read by threads of their own before they are wanted.
//!
//! The threads are never waited for: one may hang in a pipe that has no writer, and ends with the process.

use super::budget::{Budget, Share};
use super::sources::{Clip, Item, STDIN};
use super::stopped;
use super::turns::Turns;
use rtmo_engine::vision::decode::{Decoded, Encoded, Limits};
use rtmo_engine::{Picture, Result};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// Files up to this length are read before it is their photo's turn: they are small beside the budget.
const SMALL_FILE: u64 = 4 << 20;

/// How often a thread that waits looks whether the run has been stopped, or what it waits for is not coming yet.
const LOOK: Duration = Duration::from_millis(20);

/// A photo or frame with its flaws, or why there is none.
pub struct Read {
    /// As the user named it; empty where `decoded` tells of an argument that means no photo.
    pub path: PathBuf,
    pub decoded: Result<(Picture, Vec<String>)>,
    /// What a photo takes of the budget; frames have their own bounds.
    pub share: Option<Share>,
    /// Where a frame is in its clip.
    pub at: Option<At>,
}

/// A frame's place in its clip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct At {
    /// Its number, from 0.
    pub frame: u64,
    /// Seconds from the clip's beginning.
    pub time: f64,
}

/// Where the engine gets its pictures: photos, or the frames of a clip.
pub trait FrameSource {
    /// Whether there is a next one, and it is there.
    fn ready(&mut self) -> bool;

    /// The next `most`; fewer at the end, and where waiting for more would hold back what is there. `None` at the end, and when
    /// the run has been stopped.
    fn next_batch(&mut self, most: usize) -> Option<Vec<Read>>;

    /// What is to be told ahead of the last batch.
    fn notes(&mut self) -> Vec<String>;

    /// When the engine may compute.
    fn turns(&self) -> Arc<Turns> {
        Arc::default()
    }
}

enum Message {
    Read(Read),
    /// Something to be told before the next photo.
    Note(String),
    /// Moving pictures, which are read when all photos before them are done.
    Clip(Clip),
    /// The next photo waits for memory that earlier ones hold.
    Full,
}

/// How far the list of photos is known.
#[derive(Default)]
struct Feed {
    /// Items handed to the threads that read.
    fed: AtomicUsize,
    /// True while a list has nothing to be read and has not ended.
    waits: Arc<AtomicBool>,
}

/// Starts threads that read the photos, each every so many, and hold at most two until they are taken; fewer where the
/// budget does not allow for them. `waits` is true while `items` waits for more of a list.
pub fn decode_ahead(
    items: impl Iterator<Item = Item> + Send + 'static,
    waits: Arc<AtomicBool>,
    workers: usize,
    limits: Limits,
    budget: Arc<Budget>,
    turns: Arc<Turns>,
) -> Photos {
    let feed = Arc::new(Feed { waits, ..Feed::default() });
    let (mut jobs, mut from) = (Vec::new(), Vec::new());
    for _ in 0..workers {
        let (give, take) = sync_channel::<(usize, Item)>(64);
        let (to, read) = sync_channel(1);
        let (budget, turns) = (budget.clone(), turns.clone());
        thread::spawn(move || read_all(&take, &to, limits, &budget, &turns));
        jobs.push(give);
        from.push(read);
    }
    let fed = feed.clone();
    thread::spawn(move || {
        for (index, item) in items.enumerate() {
            fed.fed.fetch_add(1, Ordering::SeqCst);
            if stopped() || jobs[index % workers].send((index, item)).is_err() {
                return;
            }
        }
    });
    Photos { from, budget, turns, feed, taken: 0, seen: None, clip: None, notes: Vec::new() }
}

/// Reads one thread's share of the photos.
fn read_all(
    jobs: &Receiver<(usize, Item)>,
    to: &SyncSender<Message>,
    limits: Limits,
    budget: &Arc<Budget>,
    turns: &Turns,
) {
    for (index, item) in jobs {
        if stopped() {
            return;
        }
        let (path, early) = match item {
            Item::File(path) => {
                let small = path.metadata().is_ok_and(|file| file.is_file() && file.len() <= SMALL_FILE);
                let early = small.then(|| Encoded::open(&path, limits));
                (path, early)
            }
            Item::Photo(bytes) => (STDIN.into(), Some(Encoded::new(bytes, STDIN, limits))),
            Item::Error(error) => (PathBuf::new(), Some(Err(error))),
            Item::Note(_) | Item::Clip(_) => {
                let message = match item {
                    Item::Clip(clip) => Message::Clip(clip),
                    Item::Note(note) => Message::Note(note),
                    _ => unreachable!("matched above"),
                };
                // It takes its turn as a photo does.
                let full = || _ = to.send(Message::Full);
                if budget.share(index, || ((), 0), full).is_none() || to.send(message).is_err() {
                    return;
                }
                continue;
            }
        };
        let need = || {
            let encoded = early.unwrap_or_else(|| Encoded::open(&path, limits));
            let bytes = encoded.as_ref().map_or(0, Encoded::memory);
            (encoded, bytes)
        };
        // Where the other end is gone, the budget is closed.
        let full = || _ = to.send(Message::Full);
        let Some((encoded, mut share)) = budget.share(index, need, full) else { return };
        let decoded = {
            let _turn = turns.others();
            encoded.and_then(Encoded::decode)
        };
        share.shrink_to(decoded.as_ref().map_or(0, |decoded| decoded.photo.bgr.len()));
        let decoded = decoded.map(|Decoded { photo, warnings }| (photo.into(), warnings));
        if to.send(Message::Read(Read { path, decoded, share: Some(share), at: None })).is_err() {
            return;
        }
    }
}

/// What several threads read, one after the other in turn: as ordered as if one had read all.
pub struct Photos {
    from: Vec<Receiver<Message>>,
    budget: Arc<Budget>,
    turns: Arc<Turns>,
    feed: Arc<Feed>,
    /// Items that came, and by which the next thread in turn is known.
    taken: usize,
    /// What has been taken to see whether it is there.
    seen: Option<Read>,
    /// Footage whose turn it is.
    clip: Option<Clip>,
    notes: Vec<String>,
}

impl FrameSource for Photos {
    fn ready(&mut self) -> bool {
        while self.seen.is_none() && self.clip.is_none() {
            match self.from[self.taken % self.from.len()].try_recv() {
                Ok(Message::Read(read)) => self.seen = Some(read),
                Ok(Message::Note(note)) => self.note(note),
                Ok(Message::Clip(clip)) => self.clip = Some(clip),
                Ok(Message::Full) | Err(_) => break,
            }
        }
        self.seen.is_some() || self.clip.is_some()
    }

    /// Fewer than `most` also where memory allows for no more at a time, and where a list that is still being written has no
    /// more yet. `None` also before a clip: [`Photos::clip`] has it then.
    fn next_batch(&mut self, most: usize) -> Option<Vec<Read>> {
        let mut batch = Vec::new();
        while batch.len() < most && self.clip.is_none() {
            if let Some(read) = self.seen.take() {
                self.taken += 1;
                batch.push(read);
                continue;
            }
            match self.from[self.taken % self.from.len()].recv_timeout(LOOK) {
                Ok(Message::Read(read)) => self.seen = Some(read),
                Ok(Message::Note(note)) => self.note(note),
                Ok(Message::Clip(clip)) => self.clip = Some(clip),
                // It waits for what this batch holds. Where the batch is empty it waits for drawing.
                Ok(Message::Full) if batch.is_empty() => {}
                Ok(Message::Full) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if stopped() => break,
                Err(RecvTimeoutError::Timeout) if !batch.is_empty() && self.none_yet() => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        (!batch.is_empty()).then_some(batch)
    }

    fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    fn turns(&self) -> Arc<Turns> {
        self.turns.clone()
    }
}

impl Photos {
    /// The footage because of which there is no next batch.
    pub fn clip(&mut self) -> Option<Clip> {
        let clip = self.clip.take();
        self.taken += usize::from(clip.is_some());
        clip
    }

    /// Photos that are known by now, and arguments that mean none.
    pub fn known(&self) -> usize {
        self.feed.fed.load(Ordering::SeqCst)
    }

    fn note(&mut self, note: String) {
        self.taken += 1;
        self.notes.push(note);
    }

    /// Whether all that a list has said so far is here.
    fn none_yet(&self) -> bool {
        self.feed.waits.load(Ordering::SeqCst) && self.known() == self.taken
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
    use rtmo_engine::vision::encode;
    use rtmo_engine::{Error, Photo};

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
            {
                let read = |most| {
                    let items = files.clone().into_iter().map(Item::File);
                    decode_ahead(
                        items,
                        Arc::default(),
                        workers,
                        Limits::default(),
                        Budget::new(most),
                        Arc::new(Turns::new(workers > 1)),
                    )
                };
                let mut turns = read(1 << 20);
                let mut seen = 0;
                loop {
                    // To ask whether the next is there loses none.
                    turns.ready();
                    let Some(batch) = turns.next_batch(4) else { break };
                    for Read { path, decoded, .. } in batch {
                        assert_eq!(path, files[seen], "{workers} workers");
                        assert_eq!(
                            decoded.map(|(picture, _)| picture.size().0).ok(),
                            (seen != 3).then_some(seen + 1)
                        );
                        seen += 1;
                    }
                }
                assert_eq!(seen, files.len());
                // Photos that are not taken keep no thread waiting.
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
            }
        }
    }

    #[test]
    fn a_list_that_waits_holds_nothing_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.png");
        encode::save(&Photo::filled(3, 2, [9; 3]), &file).unwrap();
        let (give, take) = std::sync::mpsc::channel::<Item>();
        let waits = Arc::new(AtomicBool::new(false));
        let waiting = waits.clone();
        let items = std::iter::from_fn(move || {
            take.try_recv().ok().or_else(|| {
                waiting.store(true, Ordering::SeqCst);
                let item = take.recv().ok();
                waiting.store(false, Ordering::SeqCst);
                item
            })
        });
        let mut photos =
            decode_ahead(items, waits, 2, Limits::default(), Budget::new(1 << 20), Arc::default());
        give.send(Item::File(file.clone())).unwrap();
        // The batch is not full, and the list has not ended.
        assert_eq!(photos.next_batch(4).unwrap().len(), 1);
        give.send(Item::Note("a note".into())).unwrap();
        give.send(Item::Error(Error::Usage("no photo".into()))).unwrap();
        give.send(Item::File(file)).unwrap();
        drop(give);
        let batch = photos.next_batch(4).unwrap();
        assert!(batch.len() == 2 && batch[0].decoded.is_err() && batch[1].decoded.is_ok());
        assert_eq!((photos.notes(), photos.known()), (vec!["a note".to_string()], 4));
        assert!(photos.next_batch(4).is_none());
    }
}
