//! Pictures in, pictures out: decoding, letterboxing, selection of people, drawing.

pub mod decode;
pub mod draw;
pub mod encode;
pub mod letterbox;
pub mod people;
mod photo;
pub mod select;
pub mod skeleton;
pub mod sources;

pub use letterbox::Letterbox;
pub use people::{Heatmaps, Keypoint, Person, people};
pub use photo::Photo;
pub use select::{Candidate, LevelMaps, SelectScratch, select};
pub use skeleton::Skeleton;
