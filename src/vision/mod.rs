//! Pictures: in memory, from files, to files.

#[cfg(feature = "codecs")]
pub mod decode;
mod device;
#[cfg(feature = "codecs")]
pub mod encode;
mod image;
mod nv12;
mod photo;

pub use device::{DeviceImage, DeviceStream};
pub use image::{ChannelOrder, Image, MAX_SIDE};
pub use nv12::{Nv12, Picture, YuvColours, YuvMatrix};
pub use photo::Photo;
