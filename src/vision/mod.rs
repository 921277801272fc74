//! Pictures in, pictures out: decoding, encoding, drawing.

pub mod decode;
pub mod draw;
pub mod encode;
mod photo;
pub mod skeleton;
pub mod sources;

pub use photo::Photo;
pub use skeleton::Skeleton;
