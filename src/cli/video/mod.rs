//! Video in and out: clips, cameras and streams by the ffmpeg program through pipes, raw frames from standard input.
//!
//! [`Footage`] says what an argument means, [`Reader`] gives its frames, [`Writer`] makes an annotated clip of them. ffmpeg runs
//! as a program of its own: what it decodes cannot harm this one, and one that hangs is ended.

mod input;
mod log;
mod matroska;
#[cfg(test)]
mod pipes;
mod preview;
mod program;
mod queue;
mod raw;
mod reader;
mod signs;
mod told;
mod writer;

pub use input::count_frames;
pub use preview::Preview;
pub use program::{Ffmpeg, end_all};
pub use queue::{Popped, Queue};
pub use raw::RawFormat;
pub use reader::{Frame, Next, Range, Reader, Settings, Watch};
pub use signs::is_clip_head;
pub use writer::{Stop, Target, Writer, is_earlier};

use rtmo_engine::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Suffixes of clips, for folders and patterns.
pub const SUFFIXES: [&str; 17] = [
    "mp4", "mov", "m4v", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "mts", "m2ts", "wmv", "flv", "3gp",
    "ogv", "mxf", "y4m",
];

/// Schemes of addresses, and the protocols that ffmpeg may use for each: no other is ever opened, whatever a playlist says.
const SCHEMES: [(&str, &str); 8] = [
    ("rtsp", "rtsp,rtp,udp,tcp"),
    ("rtsps", "rtsps,rtsp,rtp,srtp,udp,tcp,tls"),
    ("rtmp", "rtmp,tcp"),
    ("rtmps", "rtmps,rtmp,tcp,tls"),
    ("http", "http,tcp"),
    ("https", "https,tls,tcp"),
    ("udp", "udp,rtp"),
    ("srt", "srt"),
];

/// Moving pictures that an argument means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Footage {
    /// A clip: every frame counts.
    File(PathBuf),
    /// A camera, by its number or name: the newest frame counts.
    Camera(String),
    /// An address, and its scheme; live as a camera is, but for HTTP, which may be a file.
    Address(String),
    /// A clip, or raw frames, from standard input.
    Stdin(Option<RawFormat>),
}

impl Footage {
    /// What an argument means that is footage by its form: a camera (`cam:0`) or an address. `None` for all else.
    ///
    /// # Errors
    /// An address of a scheme that is not allowed, a camera without a number.
    pub fn by_name(argument: &Path) -> Result<Option<Footage>> {
        let Some(text) = argument.to_str() else { return Ok(None) };
        if let Some(camera) = text.strip_prefix("cam:") {
            let good =
                !camera.is_empty() && !camera.starts_with('-') && !camera.contains(|c: char| c.is_control());
            return match good {
                true => Ok(Some(Footage::Camera(camera.into()))),
                false => {
                    Err(Error::Usage(format!("'{text}': expected a camera's number or name, as in cam:0")))
                }
            };
        }
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(None) };
        let known = SCHEMES.iter().any(|(name, _)| scheme.eq_ignore_ascii_case(name));
        if known && !rest.is_empty() && !text.contains(|c: char| c.is_control()) {
            return Ok(Some(Footage::Address(text.into())));
        }
        let names: Vec<&str> = SCHEMES.iter().map(|(name, _)| *name).collect();
        Err(Error::Usage(format!("'{text}': expected a path, or an address of {}", names.join(", "))))
    }

    /// Whether a file is a clip: by its suffix, and where that tells nothing by its first bytes.
    pub fn is_clip(path: &Path, photo_suffix: bool) -> bool {
        has_suffix(path)
            || !photo_suffix && path.metadata().is_ok_and(|m| m.is_file()) && {
                let mut head = Vec::new();
                File::open(path).is_ok_and(|file| file.take(64).read_to_end(&mut head).is_ok())
                    && is_clip_head(&head)
            }
    }

    /// Whether the newest frame counts, rather than every one.
    pub fn is_live(&self) -> bool {
        match self {
            Footage::File(_) | Footage::Stdin(_) => false,
            Footage::Camera(_) => true,
            Footage::Address(address) => {
                !scheme(address).is_some_and(|(name, _)| name == "http" || name == "https")
            }
        }
    }

    /// A path that names it in results, and whose stem names its pictures. Passwords stay out of it.
    pub fn name(&self) -> PathBuf {
        match self {
            Footage::File(path) => path.clone(),
            Footage::Camera(camera) => format!("cam:{camera}").into(),
            Footage::Address(address) => without_password(address).into(),
            Footage::Stdin(_) => "stdin".into(),
        }
    }

    /// A file name for an annotated clip, without suffix.
    pub fn stem(&self) -> String {
        let whole = match self {
            Footage::File(path) => {
                return path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            }
            Footage::Stdin(_) => "stdin".into(),
            Footage::Camera(camera) => format!("cam{camera}"),
            Footage::Address(address) => {
                let name = without_password(address);
                let path = name
                    .split_once("://")
                    .map_or("", |(_, rest)| rest)
                    .split(['?', '#'])
                    .next()
                    .unwrap_or("");
                let path = path.trim_end_matches('/');
                let last = path.rsplit('/').next().unwrap_or("");
                let stem =
                    last.rsplit_once('.').filter(|_| path.contains('/')).map_or(last, |(stem, _)| stem);
                stem.into()
            }
        };
        let safe = |c: char| if c.is_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let stem: String = whole.chars().map(safe).take(80).collect();
        let stem = stem.trim_matches(['.', '_']);
        if stem.is_empty() { "stream".into() } else { stem.into() }
    }
}

/// The scheme of an address, and the protocols it needs.
fn scheme(address: &str) -> Option<(&'static str, &'static str)> {
    let (scheme, _) = address.split_once("://")?;
    SCHEMES.into_iter().find(|(name, _)| scheme.eq_ignore_ascii_case(name))
}

/// An address as it may be shown: `rtsp://user:secret@host/` is `rtsp://host/`.
fn without_password(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.into() };
    let host = rest.find('/').unwrap_or(rest.len());
    let from = rest[..host].rfind('@').map_or(0, |at| at + 1);
    format!("{scheme}://{}", &rest[from..])
}

fn has_suffix(path: &Path) -> bool {
    let suffix = path.extension().and_then(|suffix| suffix.to_str()).unwrap_or("");
    SUFFIXES.iter().any(|known| known.eq_ignore_ascii_case(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footage(argument: &str) -> Option<Footage> {
        Footage::by_name(Path::new(argument)).unwrap()
    }

    #[test]
    fn arguments_are_footage_by_their_form() {
        assert_eq!(footage("cam:0"), Some(Footage::Camera("0".into())));
        let address = "rtsp://user:secret@10.0.0.2:554/live/main.sdp?x=1";
        let stream = footage(address).unwrap();
        assert_eq!(stream, Footage::Address(address.into()));
        assert_eq!(stream.name().to_str(), Some("rtsp://10.0.0.2:554/live/main.sdp?x=1"));
        assert_eq!(stream.stem(), "main");
        assert!(stream.is_live() && !footage("https://example.org/a.mp4").unwrap().is_live());
        for (address, stem) in [
            ("https://example.org/a.mp4", "a"),
            ("rtsp://10.0.0.2/", "10.0.0.2"),
            ("udp://@:1234", "1234"),
            ("http://h/..", "stream"),
            ("http://h/a%2f..%2fb.ts", "a_2f.._2fb"),
        ] {
            assert_eq!(footage(address).unwrap().stem(), stem, "{address}");
        }
        for other in ["a.mp4", "file:a.mp4", "concat:a|b", "-i", "cam", "./cam:0"] {
            assert_eq!(footage(other), None, "{other}");
        }
        for bad in
            ["file:///etc/passwd", "concat://a", "cam:", "cam:-i", "rtsp://", "ftp://h/a", "rtsp://h/\n"]
        {
            assert!(Footage::by_name(Path::new(bad)).is_err(), "{bad}");
        }
    }
}
