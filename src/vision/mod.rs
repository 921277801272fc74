//! Pictures: in memory, from files, to files.

#[cfg(feature = "codecs")]
pub mod decode;
#[cfg(feature = "codecs")]
pub mod encode;
mod image;
mod photo;

pub use image::{ChannelOrder, Image, MAX_SIDE};
pub use photo::Photo;
