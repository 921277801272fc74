//! A photo in memory.

use super::MAX_SIDE;
use crate::error::{Error, Result};

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
    /// [`Error::Usage`] if the number of bytes is another, or a side is zero or above [`MAX_SIDE`].
    pub fn new(width: usize, height: usize, bgr: Vec<u8>) -> Result<Photo> {
        let side = 1..=MAX_SIDE;
        if !side.contains(&width) || !side.contains(&height) || bgr.len() != width * height * 3 {
            return Err(Error::Usage(format!(
                "a photo of {width}x{height} pixels: expected {width} * {height} * 3 bytes of BGR, got {}",
                bgr.len()
            )));
        }
        Ok(Photo { width, height, bgr })
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
}
