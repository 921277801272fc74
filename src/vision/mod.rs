//! Pictures in, pictures out: decoding, letterboxing, selection of people, drawing.

pub mod decode;
pub mod letterbox;
mod photo;
pub mod select;

pub use letterbox::Letterbox;
pub use photo::Photo;
