//! What every format of results is: frames go in one after the other, and a file is there at the end.

use super::json::check_finite;
use crate::error::{Error, Result};
use crate::pose::People;
use std::io::Write;
use std::path::Path;

/// A photo, or a frame of a video, on which people were looked for.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FrameInfo<'a> {
    /// The photo's or the video's name.
    pub image: &'a Path,
    /// In pixels, upright.
    pub width: usize,
    /// In pixels, upright.
    pub height: usize,
    /// The frame's number in the video, from 0 on; `None` for a photo.
    pub frame: Option<u64>,
    /// When the frame is shown, in seconds from the video's beginning; `None` for a photo.
    pub time: Option<f64>,
}

impl<'a> FrameInfo<'a> {
    /// A photo of so many pixels, upright.
    pub fn new(image: &'a Path, (width, height): (usize, usize)) -> FrameInfo<'a> {
        FrameInfo { image, width, height, frame: None, time: None }
    }

    /// Sets [`FrameInfo::frame`].
    pub fn with_frame(self, frame: u64) -> FrameInfo<'a> {
        FrameInfo { frame: Some(frame), ..self }
    }

    /// Sets [`FrameInfo::time`], in seconds.
    pub fn with_time(self, time: f64) -> FrameInfo<'a> {
        FrameInfo { time: Some(time), ..self }
    }

    /// Whether all numbers are finite, which no format can do without.
    pub(super) fn check(&self, people: &People) -> Result<()> {
        match self.time {
            Some(time) if !time.is_finite() => {
                Err(Error::image(self.image, format!("time {time}: expected a finite number of seconds")))
            }
            _ => check_finite(self.image, people),
        }
    }
}

/// Where results of one format go.
///
/// An error of [`ResultSink::frame`] leaves the sink as if that frame had not been, unless it is an [`Error::Io`].
pub trait ResultSink {
    /// Adds the people of the next photo or frame.
    ///
    /// # Errors
    /// [`Error::Io`] if they cannot be written; [`Error::Image`] if the format cannot say them, for example because a number is
    /// not finite.
    fn frame(&mut self, frame: &FrameInfo<'_>, people: &People) -> Result<()>;

    /// Ends the results and puts files at their places.
    ///
    /// # Errors
    /// If that fails. Files that are not finished do not appear.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Where a format's bytes go: a file that appears when it is whole, standard output, or memory. Formats of lines flush after every
/// frame, so that a reader of standard output gets it when it is complete.
pub trait Output: Write + Send {
    /// All is written.
    ///
    /// # Errors
    /// If it cannot be put at its place.
    fn commit(self: Box<Self>) -> Result<()>;
}

#[cfg(any(feature = "codecs", feature = "cuda", feature = "download"))]
impl Output for crate::atomic_file::AtomicFile {
    fn commit(self: Box<Self>) -> Result<()> {
        (*self).commit()
    }
}

/// Bytes that a test looks at afterwards.
#[cfg(test)]
pub mod testing {
    use super::*;
    use crate::pose::{Keypoint, Person};
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    pub struct Memory(Arc<Mutex<(Vec<u8>, bool)>>);

    impl Memory {
        /// What was written; it was committed.
        pub fn bytes(&self) -> Vec<u8> {
            let (bytes, committed) = self.0.lock().unwrap().clone();
            assert!(committed, "not committed");
            bytes
        }

        pub fn text(&self) -> String {
            String::from_utf8(self.bytes()).unwrap()
        }
    }

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Output for Memory {
        fn commit(self: Box<Self>) -> Result<()> {
            self.0.lock().unwrap().1 = true;
            Ok(())
        }
    }

    /// A person whose `k`-th joint is at 10 k, 10 k + 0.5.
    pub fn person(id: Option<u64>, keypoints: usize) -> Person {
        let joint = |k: usize| Keypoint::new(10.0 * k as f32, 10.0 * k as f32 + 0.5, 0.75);
        Person { id, ..Person::new(0.5, [1.0, 2.0, 30.0, 40.25], (0..keypoints).map(joint).collect()) }
    }
}
