//! Options for moving pictures.

use crate::cli::video::{Ffmpeg, Range, RawFormat, Settings};
use clap::Args;
use rtmo_engine::Result;
use std::str::FromStr;
use std::time::Duration;

/// How clips, cameras and streams are read.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Video")]
pub struct FootageOptions {
    /// Standard input ('-') holds raw frames: WIDTHxHEIGHT:FORMAT@RATE, FORMAT is bgr24, rgb24 or nv12
    #[arg(long, value_name = "FORMAT")]
    pub raw: Option<RawFormat>,
    /// Take every Nth frame
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    every: u64,
    /// Begin at this time of a clip: seconds, or [HH:]MM:SS
    #[arg(long, value_name = "TIME", value_parser = time, allow_negative_numbers = true)]
    start: Option<f64>,
    /// End at this time of a clip
    #[arg(long, value_name = "TIME", value_parser = time, allow_negative_numbers = true)]
    end: Option<f64>,
    /// Do part I of N: of one clip the frames of that part, else every Nth photo or clip. The results of all parts together are
    /// those of the whole
    #[arg(long, value_name = "I/N", value_parser = Shard::from_str)]
    pub shard: Option<Shard>,
    /// At most N frames of each clip
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_frames: Option<u64>,
    /// Show frames in a window while they are computed (by the program ffplay)
    #[arg(long)]
    pub show: bool,
    /// Open a camera or stream that has ended again, until Ctrl-C
    #[arg(long)]
    reconnect: bool,
    /// Give up when ffmpeg neither gives nor takes a frame for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, allow_negative_numbers = true, value_parser = patience)]
    patience: f64,
    /// Decode with the hardware that ffmpeg knows by this name, such as cuda, vaapi, videotoolbox or auto
    #[arg(long, value_name = "NAME", value_parser = hwaccel)]
    hwaccel: Option<String>,
}

/// A part of a run, for several machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1 on.
    part: u64,
    of: u64,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Shard, String> {
        let parts = text.split_once('/').and_then(|(part, of)| Some((part.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((part, of)) if (1..=1_000_000).contains(&of) && (1..=of).contains(&part) => {
                Ok(Shard { part, of })
            }
            _ => Err("expected I/N with I from 1 to N, as in 2/8".into()),
        }
    }
}

impl Shard {
    /// Whether the `index`-th of all things, from 0, belongs to the part.
    pub fn has(&self, index: usize) -> bool {
        index as u64 % self.of == self.part - 1
    }

    /// The part's frames of `all`. The last part goes to the end, wherever that is.
    pub fn range(&self, all: u64) -> Range {
        let cut = |part: u64| (u128::from(all) * u128::from(part) / u128::from(self.of)) as u64;
        Range { first: cut(self.part - 1), end: (self.part < self.of).then(|| cut(self.part)) }
    }
}

impl FootageOptions {
    /// The first frames of a clip.
    pub fn first(frames: u64) -> FootageOptions {
        FootageOptions {
            raw: None,
            every: 1,
            start: None,
            end: None,
            shard: None,
            max_frames: Some(frames),
            show: false,
            reconnect: false,
            patience: 30.0,
            hwaccel: None,
        }
    }

    /// What is asked of ffmpeg. Where the CPU computes (`cpu`), it has one thread, so that the engine keeps its cores, and gives
    /// photos; a GPU takes NV12, which is half the upload.
    pub fn settings(&self, range: Range, max_pixels: usize, cpu: bool) -> Settings {
        Settings {
            every: self.every,
            range,
            start: self.start,
            end: self.end,
            max_pixels,
            threads: cpu.then_some(1),
            hwaccel: self.hwaccel.clone(),
            nv12: !cpu,
            reconnect: self.reconnect,
        }
    }

    /// How long to wait for a frame. Those between two that are taken must be decoded, too: 20 a second at least.
    pub fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.patience + self.every as f64 / 20.0)
    }

    /// The seconds of `--start`.
    pub fn begin(&self) -> f64 {
        self.start.unwrap_or(0.0)
    }

    /// Seconds at which the last frame is due, if that is known.
    pub fn until(&self, duration: Option<f64>) -> Option<f64> {
        match (self.end, duration) {
            (Some(end), Some(duration)) => Some(end.min(duration)),
            (end, duration) => end.or(duration),
        }
    }

    /// Whether there is what clips need: asked before the run begins where clips are known.
    ///
    /// # Errors
    /// If there is no ffmpeg, or it can encode nothing and clips are to be drawn; a range of times that is empty.
    pub fn check(&self, draw: bool, clips: bool) -> Result<()> {
        if let (Some(start), Some(end)) = (self.start, self.end)
            && end <= start
        {
            return Err(rtmo_engine::Error::Usage(format!("--end {end} is not after --start {start}")));
        }
        if clips {
            let ffmpeg = Ffmpeg::find()?;
            if draw {
                ffmpeg.encoder()?;
            }
        }
        Ok(())
    }
}

/// Seconds, or hours, minutes and seconds with colons.
fn time(text: &str) -> std::result::Result<f64, String> {
    let mut seconds = 0.0;
    let parts: Vec<&str> = text.split(':').collect();
    for (i, part) in parts.iter().enumerate() {
        let value = part.parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0);
        let value = value
            .filter(|value| i == 0 || *value < 60.0)
            .filter(|v| i + 1 == parts.len() || v.fract() == 0.0);
        seconds = seconds * 60.0 + value.ok_or("expected seconds, MM:SS or HH:MM:SS")?;
    }
    if parts.len() > 3 || seconds > 1e7 {
        return Err("expected seconds, MM:SS or HH:MM:SS".into());
    }
    Ok(seconds)
}

fn patience(text: &str) -> std::result::Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=86400.0).contains(seconds));
    seconds.ok_or_else(|| "expected seconds from 0.1 to 86400".into())
}

fn hwaccel(text: &str) -> std::result::Result<String, String> {
    let good = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    good.then(|| text.to_string()).ok_or_else(|| "expected a name such as cuda or vaapi".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(
            (time("1.5"), time("90"), time("1:30"), time("1:00:02.5")),
            (Ok(1.5), Ok(90.0), Ok(90.0), Ok(3602.5))
        );
        for bad in ["", "-1", "nan", "inf", "1:60", "1.5:00", "1:2:3:4", "1e9", "x"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_make_the_whole() {
        for (all, of) in [(10, 3), (2, 5), (0, 2), (1000, 1)] {
            let parts: Vec<Shard> = (1..=of).map(|part| format!("{part}/{of}").parse().unwrap()).collect();
            let mut next = 0;
            for part in &parts {
                let Range { first, end } = part.range(all);
                assert_eq!(first, next);
                next = end.unwrap_or(all);
            }
            assert_eq!(next, all);
            assert!((0..20).all(|index| parts.iter().filter(|part| part.has(index)).count() == 1));
        }
        for bad in ["0/3", "4/3", "1", "1/0", "-1/3", "a/b", "1/3/5"] {
            assert!(bad.parse::<Shard>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_hardware_are_names() {
        assert!(hwaccel("cuda").is_ok() && hwaccel("d3d11va").is_ok());
        assert!(hwaccel("-i").is_err() && hwaccel("").is_err() && hwaccel("a b").is_err());
    }
}
