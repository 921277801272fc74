//! How ffmpeg is asked to open footage.

use super::program::{Ffmpeg, Running, file_argument};
use super::reader::Settings;
use super::{Footage, scheme};
use rtmo_engine::{Error, Result, shown};
use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How many frames a file holds, by its packets, which are not decoded.
///
/// # Errors
/// If there is no ffmpeg, or it cannot tell.
pub fn count_frames(footage: &Footage, settings: &Settings) -> Result<u64> {
    let ffmpeg = Ffmpeg::find()?;
    let mut command = ffmpeg.command();
    input(&mut command, footage, settings);
    command.args(["-map", "0:V:0", "-c", "copy", "-f", "null", "-"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut running = Running::start(command).map_err(Error::io("cannot start", "ffmpeg"))?;
    let count = Arc::new(Mutex::new(None));
    let counted = count.clone();
    running.read_log(move |line| {
        if let Some(rest) = line.text.strip_prefix("frame=") {
            *counted.lock().unwrap_or_else(PoisonError::into_inner) =
                rest.split_whitespace().next().and_then(|n| n.parse().ok());
        }
    });
    let status = running.wait(Duration::from_secs(3600));
    running.kill();
    running.join_log();
    let count = count
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .filter(|_| status.is_some_and(|status| status.success()));
    count.ok_or_else(|| {
        Error::Device(format!("{}: ffmpeg cannot count its frames, as --shard needs", shown(&footage.name())))
    })
}

/// The part of a command line that opens footage.
pub fn input(command: &mut Command, footage: &Footage, settings: &Settings) {
    for (option, seconds) in [("-ss", settings.start), ("-to", settings.end)] {
        if let Some(seconds) = seconds {
            command.args([option, &format!("{seconds:.6}")]);
        }
    }
    let address: OsString = match footage {
        Footage::File(path) => {
            command.args(["-protocol_whitelist", "file"]);
            file_argument(path)
        }
        Footage::Stdin(_) => {
            command.args(["-protocol_whitelist", "pipe"]);
            "pipe:0".into()
        }
        Footage::Address(address) => {
            if let Some((name, protocols)) = scheme(address) {
                command.args(["-protocol_whitelist", protocols]);
                if name.starts_with("rtsp") {
                    command.args(["-rtsp_transport", "tcp"]);
                }
            }
            if footage.is_live() {
                command.args(["-fflags", "nobuffer", "-flags", "low_delay"]);
            }
            address.into()
        }
        Footage::Camera(camera) => {
            let number = camera.bytes().all(|byte| byte.is_ascii_digit());
            let (format, address) = if cfg!(target_os = "macos") {
                ("avfoundation", format!("{camera}:none"))
            } else if cfg!(windows) {
                ("dshow", format!("video={camera}"))
            } else if number {
                ("v4l2", format!("/dev/video{camera}"))
            } else {
                ("v4l2", camera.clone())
            };
            command.args(["-f", format]);
            address.into()
        }
    };
    command.arg("-i").arg(address);
}
