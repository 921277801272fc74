//! A decoded photo, and which way up it is.

use super::decode;
use crate::error::{Error, Result};
use image::metadata::Orientation;
use std::path::Path;

/// A photo in memory, upright.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Photo {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width * 3` bytes, row by row; blue, green, red.
    pub bgr: Vec<u8>,
}

impl Photo {
    /// A photo from pixels: `height * width * 3` bytes, row by row; blue, green, red.
    ///
    /// # Errors
    /// [`Error::Usage`] if the number of bytes is another, or a side is zero or above [`decode::MAX_SIDE`].
    pub fn new(width: usize, height: usize, bgr: Vec<u8>) -> Result<Photo> {
        let side = 1..=decode::MAX_SIDE;
        if !side.contains(&width) || !side.contains(&height) || bgr.len() != width * height * 3 {
            return Err(Error::Usage(format!(
                "a photo of {width}x{height} pixels: expected {width} * {height} * 3 bytes of BGR, got {}",
                bgr.len()
            )));
        }
        Ok(Photo { width, height, bgr })
    }

    /// Reads and decodes an image file. The format is told by the content, whatever the suffix says. Pixels and
    /// orientation equal `cv2.imread(path, cv2.IMREAD_COLOR)` of OpenCV 4.10.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Image`] if it is no photo, is damaged, or is larger than
    /// [`decode::MAX_PIXELS`]. A JPEG whose end is missing is no error, see [`decode::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Photo> {
        Ok(decode::open(path)?.photo)
    }

    /// Decodes an image file that is already in memory; `label` names it in messages.
    ///
    /// # Errors
    /// As [`Photo::open`].
    pub fn decode(bytes: &[u8], label: &Path) -> Result<Photo> {
        Ok(decode::decode(bytes, label)?.photo)
    }

    /// A photo of one colour.
    pub fn filled(width: usize, height: usize, bgr: [u8; 3]) -> Photo {
        Photo { width, height, bgr: bgr.repeat(width * height) }
    }

    /// The three bytes of row `y`, column `x`.
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let at = (y * self.width + x) * 3;
        [self.bgr[at], self.bgr[at + 1], self.bgr[at + 2]]
    }

    /// One row of `width * 3` bytes.
    pub fn row(&self, y: usize) -> &[u8] {
        &self.bgr[y * self.width * 3..(y + 1) * self.width * 3]
    }

    /// Turns stored pixels upright; `None` if there is no memory for it.
    pub(super) fn upright(self, orientation: Orientation) -> Option<Photo> {
        let (w, h) = (self.width, self.height);
        // Upright pixel (x, y) is the stored pixel `origin + x * right + y * down`, counted in pixels.
        let (sw, last_x, last_y) = (w as isize, w as isize - 1, (h as isize - 1) * w as isize);
        let (origin, right, down) = match orientation {
            Orientation::NoTransforms => return Some(self),
            Orientation::FlipHorizontal => (last_x, -1, sw),
            Orientation::Rotate180 => (last_y + last_x, -1, -sw),
            Orientation::FlipVertical => (last_y, 1, -sw),
            Orientation::Rotate90FlipH => (0, sw, 1),
            Orientation::Rotate90 => (last_y, -sw, 1),
            Orientation::Rotate270FlipH => (last_y + last_x, -sw, -1),
            Orientation::Rotate270 => (last_x, sw, -1),
        };
        let turned = matches!(
            orientation,
            Orientation::Rotate90FlipH
                | Orientation::Rotate90
                | Orientation::Rotate270FlipH
                | Orientation::Rotate270
        );
        let (width, height) = if turned { (h, w) } else { (w, h) };
        let mut bgr = Vec::new();
        bgr.try_reserve_exact(self.bgr.len()).ok()?;
        bgr.resize(self.bgr.len(), 0);
        // Tiles keep both sides of a transposition in cache.
        const TILE: usize = 32;
        for y0 in (0..height).step_by(TILE) {
            for x0 in (0..width).step_by(TILE) {
                for y in y0..(y0 + TILE).min(height) {
                    let mut from = origin + y as isize * down + x0 as isize * right;
                    let row = y * width;
                    for x in x0..(x0 + TILE).min(width) {
                        let (to, at) = ((row + x) * 3, from as usize * 3);
                        bgr[to..to + 3].copy_from_slice(&self.bgr[at..at + 3]);
                        from += right;
                    }
                }
            }
        }
        Some(Photo { width, height, bgr })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture of the letters "abcdef" in two rows of three, and how each orientation stores it upright.
    #[test]
    fn the_eight_orientations() {
        let pixels = |s: &str| s.bytes().flat_map(|b| [b, b, b]).collect::<Vec<u8>>();
        let stored = Photo { width: 3, height: 2, bgr: pixels("abcdef") };
        let expected = ["abcdef", "cbafed", "fedcba", "defabc", "adbecf", "daebfc", "fcebda", "cfbead"];
        for (i, want) in expected.iter().enumerate() {
            let orientation = Orientation::from_exif(i as u8 + 1).unwrap();
            let got = stored.clone().upright(orientation).unwrap();
            assert_eq!((got.width, got.height), if i < 4 { (3, 2) } else { (2, 3) });
            assert_eq!(got.bgr, pixels(want), "orientation {}", i + 1);
        }
    }
}
