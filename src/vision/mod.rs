//! Pictures in, pictures out: decoding, encoding, drawing.

pub mod decode;
pub mod draw;
pub mod encode;
mod image;
mod photo;
pub mod skeleton;
pub mod sources;

pub use image::{ChannelOrder, Image};
pub use photo::Photo;
pub use skeleton::Skeleton;
