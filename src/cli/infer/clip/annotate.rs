//! Frames drawn and encoded, by a thread of its own.

use crate::cli::infer::pictures::Drawing;
use crate::cli::terminal::Terminal;
use crate::cli::video::{Popped, Preview, Queue, Stop, Target, Watch, Writer};
use rtmo_engine::output::draw::draw_people;
use rtmo_engine::{Error, People, Photo, Picture, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Frames that wait to be drawn.
const WAITING: usize = 2;

/// Draws frames in their order, and gives them to an annotated clip and a window.
pub struct Annotator<'a> {
    queue: Queue<(Picture, People, f64)>,
    drawing: Drawing<'a>,
    target: Option<Target>,
    /// Title of the window, if there is one.
    window: Option<String>,
    /// Seconds at which the clip begins.
    begin: f64,
    source: Watch,
    stop: Mutex<Option<Stop>>,
    window_closed: AtomicBool,
}

/// Why a frame is not drawn.
pub enum Refused {
    WindowClosed,
    Failed,
}

impl Annotator<'_> {
    pub fn new(
        drawing: Drawing<'_>,
        target: Option<Target>,
        window: Option<String>,
        begin: f64,
        source: Watch,
    ) -> Annotator<'_> {
        let (queue, stop, window_closed) =
            (Queue::new(WAITING, false), Mutex::default(), AtomicBool::new(false));
        Annotator { queue, drawing, target, window, begin, source, stop, window_closed }
    }

    /// Hands a frame over, and waits until there is room. An ffmpeg that makes none for `patience` is ended.
    ///
    /// # Errors
    /// Where frames are no longer wanted.
    pub fn push(
        &self,
        picture: Picture,
        people: People,
        time: f64,
        patience: Duration,
    ) -> std::result::Result<(), Refused> {
        match self.queue.push_within((picture, people, time), patience) {
            Ok(true) if self.window_closed.swap(false, Ordering::SeqCst) => Err(Refused::WindowClosed),
            Ok(true) => Ok(()),
            Ok(false) => Err(Refused::Failed),
            Err(_) => {
                if let Some(stop) = &*self.stop.lock().unwrap_or_else(PoisonError::into_inner) {
                    stop.kill();
                }
                self.queue.close();
                Err(Refused::Failed)
            }
        }
    }

    /// No more frames come.
    pub fn end(&self) {
        self.queue.end();
    }

    /// Draws what comes, until the end. Returns the clip, to be completed.
    ///
    /// # Errors
    /// If ffmpeg fails or hangs.
    pub fn run(&self, terminal: &Terminal) -> Result<Option<Writer>> {
        let drawn = self.draw(terminal);
        self.queue.close();
        drawn
    }

    fn draw(&self, terminal: &Terminal) -> Result<Option<Writer>> {
        let (mut writer, mut window): (Option<Writer>, _) = (None, self.window.clone());
        let mut preview: Option<Preview> = None;
        loop {
            let (picture, people, time) = match self.queue.pop(Duration::from_secs(3600)) {
                Popped::Item(frame) => frame,
                Popped::NotYet => continue,
                Popped::Ended => return Ok(writer),
            };
            let mut photo = picture.into_photo();
            draw_people(&mut photo, &people, self.drawing.skeleton, &self.drawing.options);
            if let (None, Some(target)) = (&writer, &self.target) {
                let begun = Writer::create(target.clone(), (photo.width, photo.height), self.source.step())?;
                *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = Some(begun.stop());
                writer = Some(begun);
            }
            if let Some(title) = window.take() {
                match Preview::open((photo.width, photo.height), &title) {
                    Ok(opened) => preview = Some(opened),
                    Err(error) if writer.is_none() => return Err(error),
                    Err(error) => terminal.complain("warning", error),
                }
            }
            let size = writer.as_ref().map(Writer::size).or(preview.as_ref().map(Preview::size));
            if let Some(size) = size.filter(|&size| size != (photo.width, photo.height)) {
                photo = fitted(&photo, size)?;
            }
            let time = (time - self.begin).max(0.0);
            if preview.as_mut().is_some_and(|preview| !preview.show(time, &photo)) {
                preview = None;
                self.window_closed.store(true, Ordering::SeqCst);
            }
            if let Some(writer) = &mut writer {
                writer.frame(time, &photo)?;
            }
        }
    }
}

/// A frame of another size than the clip has, as large as fits into it, in the middle of black.
fn fitted(photo: &Photo, (width, height): (usize, usize)) -> Result<Photo> {
    use image::imageops::{FilterType, overlay, resize};
    let too_large = || Error::Device(format!("a frame of {width}x{height} pixels is too large"));
    let side = |n: usize| u32::try_from(n).map_err(|_| too_large());
    let (w, h) = (side(photo.width)?, side(photo.height)?);
    let source = image::RgbImage::from_raw(w, h, photo.bgr.clone()).ok_or_else(too_large)?;
    let scale = (width as f64 / photo.width as f64).min(height as f64 / photo.height as f64);
    let scaled = |n: usize, most: usize| side(((n as f64 * scale).round() as usize).clamp(1, most));
    let (w, h) = (scaled(photo.width, width)?, scaled(photo.height, height)?);
    let small = resize(&source, w, h, FilterType::Triangle);
    let mut ground = image::RgbImage::new(side(width)?, side(height)?);
    overlay(&mut ground, &small, (width as i64 - i64::from(w)) / 2, (height as i64 - i64::from(h)) / 2);
    Ok(Photo { width, height, bgr: ground.into_raw() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_another_size_are_fitted() {
        let fit = fitted(&Photo::filled(20, 40, [9, 8, 7]), (40, 40)).unwrap();
        assert_eq!((fit.width, fit.height), (40, 40));
        let at = |x: usize, y: usize| &fit.bgr[(y * 40 + x) * 3..][..3];
        assert_eq!((at(20, 20), at(2, 20), at(37, 20)), (&[9, 8, 7][..], &[0; 3][..], &[0; 3][..]));
    }
}
