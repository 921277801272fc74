//! Choices that were measured on this GPU, kept in the user's cache folder.

use super::params::Trigger::{Early, Late, Mid};
use super::shape::{Shape, signature};
use super::tiles::{Choice, possible, tile};
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
        Cache { path: Some(path), known, changed: false }
    }

    pub fn get(&self, caps: &Caps, shapes: &[Shape], images: usize) -> Option<Choice> {
        self.known.get(&signature(shapes, images)).map(|k| k.0).filter(|c| possible(caps, shapes, c))
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
        let mut lines: Vec<String> = self.known.iter().map(|(s, c)| line(s, c)).collect();
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

fn line(signature: &str, (choice, us): &(Choice, f64)) -> String {
    let Choice { tile, width, split, buffers, trigger } = choice;
    format!("{signature}\t{} {width} {split} {buffers} {trigger:?} {us:.2} us\n", tile.name)
}

fn parse(line: &str) -> Option<(String, (Choice, f64))> {
    let (signature, choice) = line.split_once('\t')?;
    let mut words = choice.split(' ');
    let name = words.next()?;
    let choice = Choice {
        tile: tile(name)?,
        width: words.next()?.parse().ok()?,
        split: words.next()?.parse().ok()?,
        buffers: words.next()?.parse().ok()?,
        trigger: [Early, Late, Mid]
            .into_iter()
            .find(|t| Some(format!("{t:?}").as_str()) == words.clone().next())?,
    };
    let us = words.nth(1).and_then(|word| word.parse().ok()).unwrap_or(0.0);
    Some((signature.to_string(), (choice, us)))
}

#[cfg(test)]
mod tests {
    use super::super::tune::tests::{H100, T4, shape};
    use super::super::tune::{built_in, ranked};
    use super::*;

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
