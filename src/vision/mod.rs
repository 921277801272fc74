//! Pictures in, pictures out: decoding, letterboxing, selection of people, drawing.

mod letterbox;
pub mod select;

pub use letterbox::Letterbox;

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
