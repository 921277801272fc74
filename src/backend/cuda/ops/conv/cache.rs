//! Choices that were measured on this GPU, and what trying others has shown, kept in the user's cache folder.

use super::judge::Verdict;
use super::params::Trigger::{Early, Late, Mid};
use super::shape::{self, Shape, signature};
use super::tiles::{Choice, Tile, possible, tile};
use super::trial::Job;
use crate::backend::cuda::MAX_BATCH;
use crate::backend::cuda::gpu::Caps;
use crate::cache;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

/// Measured choices of one GPU, kept in the user's cache folder.
#[derive(Debug, Default)]
pub struct Cache {
    path: Option<PathBuf>,
    /// Choices, and the microseconds that a launch took.
    known: HashMap<String, (Choice, f64)>,
    /// By launch and choice, as the file names them.
    verdicts: HashMap<(String, String), Verdict>,
    changed: bool,
}

impl Cache {
    /// Reads the file for a GPU. A missing file counts as empty. A line that is damaged, or that asks for what the
    /// kernels cannot do, is ignored.
    pub fn open(identity: &str) -> Cache {
        let Some(folder) = cache::own_folder() else { return Cache::default() };
        // Kernels of another version of this crate are other kernels.
        let text: String = format!("{identity} {}", env!("CARGO_PKG_VERSION"));
        let name: String =
            text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
        Cache::read(folder.join(format!("tiles-{name}.txt")))
    }

    fn read(path: PathBuf) -> Cache {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let known = text.lines().filter_map(parse).collect();
        let verdicts = text.lines().filter_map(parse_verdict).collect();
        Cache { path: Some(path), known, verdicts, changed: false }
    }

    /// The choice for a launch, unless this GPU cannot do it or does it wrong.
    pub fn get(&self, caps: &Caps, shapes: &[Shape], images: usize) -> Option<Choice> {
        let known = self.known.get(&signature(shapes, images)).map(|k| k.0);
        known.filter(|c| possible(caps, shapes, c) && !self.forbids(shapes, images, c))
    }

    /// What trying a choice has shown, if it was tried.
    pub fn verdict(&self, shapes: &[Shape], images: usize, choice: &Choice) -> Option<Verdict> {
        self.verdicts.get(&(signature(shapes, images), words(choice))).copied()
    }

    /// Whether a choice was tried and is not good.
    pub fn forbids(&self, shapes: &[Shape], images: usize, choice: &Choice) -> bool {
        self.verdict(shapes, images, choice).is_some_and(|verdict| verdict != Verdict::Good)
    }

    /// Whether a kernel has hung in any launch.
    pub fn hung(&self, tile: &Tile) -> bool {
        let of_tile = |choice: &str| choice.split(' ').next() == Some(tile.name);
        self.verdicts.iter().any(|((_, choice), verdict)| *verdict == Verdict::Hung && of_tile(choice))
    }

    /// Choices that were tried and are not good.
    pub fn forbidden(&self) -> usize {
        self.verdicts.values().filter(|verdict| **verdict != Verdict::Good).count()
    }

    /// Remembers what trying a choice has shown.
    pub fn judge(&mut self, shapes: &[Shape], images: usize, choice: &Choice, verdict: Verdict) {
        self.verdicts.insert((signature(shapes, images), words(choice)), verdict);
        self.changed = true;
    }

    /// The choice for this batch size, or else that of the next larger one that was measured.
    pub fn near(&self, caps: &Caps, shapes: &[Shape], images: usize) -> Option<Choice> {
        (images..=MAX_BATCH).find_map(|images| self.get(caps, shapes, images))
    }

    /// What was measured for a launch, if anything.
    pub fn time(&self, shapes: &[Shape], images: usize) -> Duration {
        let us = self.known.get(&signature(shapes, images)).map_or(0.0, |k| k.1);
        Duration::try_from_secs_f64(us / 1e6).unwrap_or_default() // a damaged file may say anything
    }

    pub fn insert(&mut self, shapes: &[Shape], images: usize, choice: Choice, time: Duration) {
        self.known.insert(signature(shapes, images), (choice, time.as_secs_f64() * 1e6));
        self.changed = true;
    }

    /// Writes the file if anything has changed. If it cannot be written, the next start measures again.
    pub fn save(&mut self) {
        let Some(path) = self.path.as_ref().filter(|_| self.changed) else { return };
        let known = self.known.iter().map(|(s, c)| line(s, c));
        let verdicts = self.verdicts.iter().map(|((s, c), verdict)| format!("{s}\t{c} {}\n", verdict.name()));
        let mut lines: Vec<String> = known.chain(verdicts).collect();
        lines.sort();
        let partial = path.with_extension(format!("{}.partial", std::process::id()));
        let written = path
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::write(&partial, lines.concat()))
            .and_then(|()| std::fs::rename(&partial, path));
        if written.is_err() {
            let _ = std::fs::remove_file(&partial);
        }
        self.changed = false;
    }
}

/// A choice in a file.
fn words(choice: &Choice) -> String {
    let Choice { tile, width, split, buffers, trigger } = choice;
    format!("{} {width} {split} {buffers} {trigger:?}", tile.name)
}

fn line(signature: &str, (choice, us): &(Choice, f64)) -> String {
    format!("{signature}\t{} {us:.2} us\n", words(choice))
}

/// A choice, and the words after it.
fn parse_choice(text: &str) -> Option<(Choice, Vec<&str>)> {
    let mut words = text.split(' ');
    let tile = tile(words.next()?)?;
    let width = words.next()?.parse().ok()?;
    let split = words.next()?.parse().ok()?;
    let buffers = words.next()?.parse().ok()?;
    let trigger = words.next()?;
    let trigger = [Early, Late, Mid].into_iter().find(|t| format!("{t:?}") == trigger)?;
    Some((Choice { tile, width, split, buffers, trigger }, words.collect()))
}

fn parse(line: &str) -> Option<(String, (Choice, f64))> {
    let (signature, text) = line.split_once('\t')?;
    let (choice, rest) = parse_choice(text)?;
    let [us, "us"] = rest[..] else { return None };
    Some((signature.to_string(), (choice, us.parse().unwrap_or(0.0))))
}

fn parse_verdict(line: &str) -> Option<((String, String), Verdict)> {
    let (signature, text) = line.split_once('\t')?;
    let (choice, rest) = parse_choice(text)?;
    let [verdict] = rest[..] else { return None };
    Some(((signature.to_string(), words(&choice)), Verdict::parse(verdict)?))
}

/// A trial's job as a line.
pub fn job(job: &Job) -> String {
    format!("{}\t{}", signature(&job.shapes, job.images), words(&job.choice))
}

/// The job of a line.
pub fn parse_job(line: &str) -> Option<Job> {
    let (signature, text) = line.split_once('\t')?;
    let (shapes, images) = shape::parse(signature)?;
    let (choice, rest) = parse_choice(text)?;
    rest.is_empty().then_some(Job { shapes, images, choice })
}

#[cfg(test)]
mod tests {
    use super::super::tune::tests::{H100, T4, shape};
    use super::super::tune::{built_in, ranked};
    use super::*;

    #[test]
    fn verdicts_are_remembered() {
        let folder = std::env::temp_dir().join(format!("rtmo-verdicts-{}", std::process::id()));
        let path = folder.join("tiles.txt");
        let shapes = [shape(3, 1, 64, 64, 20)];
        let [a, b, c] = ranked(&H100, &shapes, 1)[..3] else { panic!("three choices") };
        let mut cache = Cache::read(path.clone());
        cache.insert(&shapes, 1, a, Duration::from_micros(7));
        cache.save();
        for (choice, verdict) in [(b, Verdict::Good), (a, Verdict::Bad), (c, Verdict::Hung)] {
            cache.judge(&shapes, 1, &choice, verdict);
        }
        cache.save();
        let cache = Cache::read(path.clone());
        let found = [a, b, c].map(|choice| cache.verdict(&shapes, 1, &choice));
        assert_eq!(found, [Verdict::Bad, Verdict::Good, Verdict::Hung].map(Some));
        assert_eq!(cache.get(&H100, &shapes, 1), None, "what was measured first has turned out to be wrong");
        assert!(
            cache.forbids(&shapes, 1, &c) && !cache.forbids(&shapes, 1, &b) && !cache.forbids(&shapes, 2, &c)
        );
        assert_eq!(cache.forbidden(), 2);
        assert!(cache.hung(c.tile));
        let other = ranked(&H100, &shapes, 1).into_iter().find(|other| other.tile != c.tile).unwrap();
        assert!(!cache.hung(other.tile));
        // A damaged line is no verdict.
        for word in ["god", "", "good good", "7.00 us"] {
            let line = format!("{}\t{} {word}\n", signature(&shapes, 1), words(&a));
            std::fs::write(&path, line).unwrap();
            assert_eq!(Cache::read(path.clone()).verdict(&shapes, 1, &a), None, "{word}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn jobs_are_lines() {
        for shapes in
            [vec![shape(1, 2, 2048, 512, 20)], vec![shape(3, 1, 64, 72, 20), shape(3, 1, 64, 64, 40)]]
        {
            let sent = Job { shapes, images: 16, choice: built_in(&T4, &[shape(1, 1, 64, 64, 20)], 1) };
            let line = job(&sent);
            let got = parse_job(&line).unwrap();
            assert_eq!((got.shapes, got.images, got.choice), (sent.shapes, sent.images, sent.choice));
            assert!(parse_job(&format!("{line} good")).is_none());
            // anything cut off, or a number too large
            assert!((0..line.len()).all(|n| parse_job(&line[..n]).is_none()));
            assert!(parse_job(&line.replace("x16 ", "x65 ")).is_none());
            assert!(parse_job(&line.replace("x16 ", "x0 ")).is_none());
            assert!(
                parse_job(&line.replace(":20x", ":99999999999x").replace(":40x", ":99999999999x")).is_none()
            );
        }
    }

    #[test]
    fn the_cache_survives_a_round_trip_and_damage() {
        let folder = std::env::temp_dir().join(format!("rtmo-tiles-{}", std::process::id()));
        let path = folder.join("tiles.txt");
        let shapes = [shape(3, 1, 64, 64, 20), shape(3, 1, 64, 64, 40)];
        let choice = built_in(&H100, &shapes, 2);
        let mut cache = Cache::read(path.clone());
        assert_eq!(cache.get(&H100, &shapes, 2), None);
        cache.insert(&shapes, 2, choice, Duration::from_micros(7));
        cache.save();
        assert_eq!(Cache::read(path.clone()).get(&H100, &shapes, 2), Some(choice));
        assert_eq!(Cache::read(path.clone()).get(&H100, &shapes[..1], 2), None);
        assert_eq!(Cache::read(path.clone()).get(&T4, &shapes, 2), None, "a tile that this GPU cannot do");
        let choice = ranked(&H100, &shapes[1..], 16)[0];
        cache.insert(&shapes[1..], 16, choice, Duration::from_micros(7));
        cache.save();
        assert_eq!(Cache::read(path.clone()).get(&H100, &shapes[1..], 16), Some(choice));
        assert_eq!(Cache::read(path.clone()).get(&H100, &shapes[1..], 1), None);
        std::fs::write(&path, "garbage\nx1\tno_such_tile 0 1 1 Mid\n\t\n").unwrap();
        assert!(Cache::read(path.clone()).known.is_empty());
        // lines that are whole, but ask for what kernels cannot do or is no time
        let shapes = [shape(1, 1, 512, 512, 20)];
        let read = |what: &str| {
            let line = format!("{}\tconv_wg_1_1x2_128x64_3 {what}\n", signature(&shapes, 1));
            std::fs::write(&path, line).unwrap();
            let cache = Cache::read(path.clone());
            (cache.get(&H100, &shapes, 1), cache.time(&shapes, 1))
        };
        for good in ["0 1 8 Mid 7.00 us", "0 2 4 Late 7.00 us", "0 4 2 Early 7.00 us"] {
            let (choice, time) = read(good);
            assert!(choice.is_some() && time == Duration::from_micros(7), "{good}");
        }
        let huge = usize::MAX / 4;
        for bad in [
            "0 3 4",
            "0 0 4",
            "0 8 4",
            "0 5 4",
            "0 1 9",
            "0 1 0",
            "0 1 -1",
            "8 1 4",
            "-1 1 4",
            "7 1 4",
            &format!("0 1 {huge}"),
            &format!("0 {huge} 4"),
        ] {
            assert_eq!(read(&format!("{bad} Mid 7.00 us")).0, None, "{bad}");
        }
        for bad in ["-7", "NaN", "inf", "1e300", "x"] {
            assert_eq!(read(&format!("0 1 4 Mid {bad} us")).1, Duration::ZERO, "{bad}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
