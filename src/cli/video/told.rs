//! What an ffmpeg that decodes says of its input, of each frame, and of faults.

use super::log::{self, Level, Line};
use super::{Footage, without_password};
use rtmo_engine::{YuvColours, YuvMatrix, shown};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Messages of faults that are kept; more are only counted.
const MOST_ERRORS: usize = 3;

/// What ffmpeg told of its input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Info {
    /// Seconds.
    pub duration: Option<f64>,
    /// Frames a second; of a clip whose rate varies a mean or a guess.
    pub rate: Option<f64>,
    /// Codec of the first sound.
    pub audio: Option<String>,
    videos: usize,
    /// Whether colours have more than 8 bits.
    wide: bool,
}

/// All that has been said so far.
#[derive(Default)]
pub struct Told {
    info: Mutex<Info>,
    notes: Mutex<Vec<String>>,
    errors: Mutex<Errors>,
}

impl Told {
    /// What is known of the input.
    pub fn info(&self) -> Info {
        lock(&self.info).clone()
    }

    /// The rate of frames that come without ffmpeg.
    pub fn set_rate(&self, rate: f64) {
        *lock(&self.info) = Info { rate: Some(rate), videos: 1, ..Info::default() };
    }

    /// Adds something that a user should know.
    pub fn note(&self, note: String) {
        lock(&self.notes).push(note);
    }

    /// What a user should know, once.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.notes))
    }

    /// The faults since they were last taken; none if there were none.
    pub fn take_errors(&self) -> Option<Errors> {
        Some(std::mem::take(&mut *lock(&self.errors))).filter(|errors| errors.count > 0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is said of a frame before it is written.
pub struct Head {
    /// Seconds from the beginning; `None` of a frame without a time stamp.
    pub time: Option<f64>,
    pub width: usize,
    pub height: usize,
    /// What the numbers of NV12 mean; an error tells what ffmpeg said and is not known.
    pub colours: Result<YuvColours, String>,
}

/// What ffmpeg complained of.
#[derive(Default)]
pub struct Errors {
    texts: Vec<String>,
    count: usize,
}

impl std::fmt::Display for Errors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ffmpeg: {}", self.texts.join("; "))?;
        match self.count - self.texts.len() {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// A message without the user and password of an address.
fn without_secrets(text: &str, footage: &Footage) -> String {
    match footage {
        Footage::Address(address) => text.replace(address.as_str(), &without_password(address)),
        _ => text.into(),
    }
}

/// Understands the log of an ffmpeg that decodes.
pub struct Ear {
    footage: Footage,
    told: Arc<Told>,
    heads: Sender<Head>,
    /// Seconds of a time stamp's unit.
    unit: Option<f64>,
    /// Whether it still tells of its input.
    input: bool,
    /// Whether frames are NV12: what is said of their colours comes in a later line.
    nv12: bool,
    /// A frame whose colours have not been told.
    held: Option<Head>,
}

impl Ear {
    /// `told` gets what is said; `heads` what is said of each frame.
    pub fn new(footage: Footage, told: Arc<Told>, heads: Sender<Head>, nv12: bool) -> Ear {
        Ear { footage, told, heads, unit: None, input: true, nv12, held: None }
    }

    /// Understands a line.
    pub fn hear(&mut self, line: Line<'_>) {
        let text = line.text;
        if line.level == Level::Error {
            let text = &without_secrets(text, &self.footage);
            let mut errors = lock(&self.told.errors);
            if !text.starts_with("Last message repeated") {
                errors.count += 1;
                if errors.texts.len() < MOST_ERRORS && !errors.texts.iter().any(|known| known == text) {
                    errors.texts.push(text.clone());
                }
            }
        } else if line.component.contains("showinfo") {
            if let Some(config) = text.strip_prefix("config in") {
                self.unit =
                    log::value(config, "time_base").and_then(|unit| log::ratio(unit.trim_end_matches(',')));
                lock(&self.told.info).rate = log::value(config, "frame_rate").and_then(log::ratio);
            } else if let Some(head) = self.head(text) {
                self.send();
                self.held = Some(head);
                if !self.nv12 {
                    self.send();
                }
            } else if let (Some(space), Some(head)) = (log::value(text, "color_space"), &mut self.held) {
                head.colours = colours(space, log::value(text, "color_range"));
                self.send();
            }
        } else if text.starts_with("Stream mapping") || text.starts_with("Output #") {
            if std::mem::take(&mut self.input) {
                self.tell();
            }
        } else if self.input {
            self.describe(text);
        }
    }

    /// Tells of the frame that is held.
    fn send(&mut self) {
        if let Some(head) = self.held.take() {
            // Where no thread waits for it, the frame is not wanted either.
            self.heads.send(head).ok();
        }
    }

    fn head(&self, text: &str) -> Option<Head> {
        log::value(text, "n")?;
        let (width, height) = log::value(text, "s")?.split_once('x')?;
        let stamp = log::value(text, "pts").and_then(|pts| pts.parse::<i64>().ok());
        let time = stamp.zip(self.unit).map(|(stamp, unit)| stamp as f64 * unit);
        let colours = Err("ffmpeg has not said what its colours mean".into());
        Some(Head { time, width: width.parse().ok()?, height: height.parse().ok()?, colours })
    }

    /// A line of what ffmpeg tells of its input.
    fn describe(&self, text: &str) {
        let mut info = lock(&self.told.info);
        if let Some(duration) = text.strip_prefix("Duration: ") {
            info.duration = duration.split(',').next().and_then(log::clock);
        }
        let Some((_, stream)) = text.split_once(": ").filter(|_| text.starts_with("Stream #")) else {
            return;
        };
        if let Some(video) = stream.strip_prefix("Video: ").filter(|video| !video.contains("attached pic")) {
            info.videos += 1;
            let wide = ["10le", "10be", "12le", "12be", "p010", "smpte2084", "arib-std-b67"];
            info.wide |= info.videos == 1 && wide.iter().any(|mark| video.contains(mark));
        } else if let Some(audio) = stream.strip_prefix("Audio: ").filter(|_| info.audio.is_none()) {
            info.audio = audio.split([' ', ',']).next().map(String::from);
        }
    }

    /// What a user should know of the input.
    fn tell(&self) {
        let info = lock(&self.told.info).clone();
        let name = shown(&self.footage.name()).to_string();
        let mut notes = lock(&self.told.notes);
        if info.videos > 1 {
            notes.push(format!("{name}: has {} video streams; the first is taken", info.videos));
        }
        if info.wide {
            notes.push(format!("{name}: its colours of more than 8 bits are converted to 8"));
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.send();
    }
}

/// What `showinfo` says of colours. Where a source says nothing, ffmpeg itself takes BT.601, which is [`YuvMatrix`]'s default.
fn colours(space: &str, range: Option<&str>) -> Result<YuvColours, String> {
    let matrix = match space {
        "unknown" | "reserved" | "bt470bg" | "smpte170m" | "fcc" => YuvMatrix::Bt601,
        "bt709" => YuvMatrix::Bt709,
        "bt2020nc" => YuvMatrix::Bt2020,
        _ => {
            return Err(format!(
                "colours of the kind {space}: expected bt709, bt470bg, smpte170m or bt2020nc"
            ));
        }
    };
    Ok(YuvColours::default().with_matrix(matrix).with_full_range(range == Some("pc")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_stay_out_of_messages() {
        let footage = Footage::Address("rtsp://me:secret@10.0.0.2/a".into());
        let said = without_secrets("rtsp://me:secret@10.0.0.2/a: Connection refused", &footage);
        assert_eq!(said, "rtsp://10.0.0.2/a: Connection refused");
    }
}
