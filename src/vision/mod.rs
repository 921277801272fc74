//! Pictures in, pictures out: decoding, letterboxing, selection of people, drawing.

pub mod decode;
pub mod letterbox;
pub mod people;
mod photo;
pub mod select;

pub use letterbox::Letterbox;
pub use people::{Keypoint, Person, people};
pub use photo::Photo;
pub use select::{Candidate, LevelMaps, SelectScratch, select};
