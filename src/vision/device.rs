//! Pictures in the memory of an NVIDIA GPU: of a decoder, or of another library.

use super::{ChannelOrder, Image, MAX_SIDE};
use crate::error::{Error, Result};

/// The stream in which the pixels of a [`DeviceImage`] are written. The engine's own stream waits for what was enqueued there
/// before the call; no thread of the host does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceStream {
    /// None: the pixels are there already, or the engine's stream waits for them by other means.
    #[default]
    Ready,
    /// CUDA's legacy default stream, of the context that is current in the calling thread. Where none is, of the GPU's primary
    /// context, which the runtime API uses.
    Legacy,
    /// The default stream of the calling thread, of the context as for [`DeviceStream::Legacy`].
    PerThread,
    /// A stream by its handle (`CUstream` or `cudaStream_t`), of any context.
    Handle(u64),
}

/// A picture in the memory of an NVIDIA GPU: rows of pixels of three bytes. [`Engine::infer_device`](crate::Engine::infer_device)
/// takes it without a way over the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceImage {
    address: u64,
    width: usize,
    height: usize,
    stride: usize,
    order: ChannelOrder,
    stream: DeviceStream,
}

impl DeviceImage {
    /// A picture whose rows follow one another from `address` on, the first byte of the first pixel. Its pixels are there
    /// already ([`DeviceStream::Ready`]) unless [`DeviceImage::with_stream`] says otherwise.
    ///
    /// # Safety
    /// From the beginning of a call that takes the picture to the end of that call, also if it fails:
    ///
    /// 1. the bytes of all rows, `stride * (height - 1) + 3 * width` from `address` on, belong to one allocation of CUDA's that
    ///    the engine's GPU can read;
    /// 2. nothing writes to them but what was enqueued before in the stream of [`DeviceImage::with_stream`];
    /// 3. a [`DeviceStream::Handle`] is the handle of a stream that exists.
    ///
    /// # Errors
    /// [`Error::Usage`] if `address` is 0, a side is zero or above [`MAX_SIDE`], or the rows go beyond the addresses that
    /// there are.
    pub unsafe fn new(address: u64, width: usize, height: usize, order: ChannelOrder) -> Result<DeviceImage> {
        let stride = width.saturating_mul(3);
        DeviceImage { address, width, height, stride, order, stream: DeviceStream::Ready }.checked()
    }

    /// The same picture with rows that begin `stride` bytes apart. The last row may end early.
    ///
    /// # Safety
    /// As [`DeviceImage::new`], with this `stride`.
    ///
    /// # Errors
    /// [`Error::Usage`] if a row does not fit into `stride`, or the rows go beyond the addresses that there are.
    pub unsafe fn with_stride(self, stride: usize) -> Result<DeviceImage> {
        DeviceImage { stride, ..self }.checked()
    }

    /// The same picture, whose pixels are written in `stream`.
    ///
    /// # Safety
    /// As [`DeviceImage::new`], with this `stream`.
    pub unsafe fn with_stream(self, stream: DeviceStream) -> DeviceImage {
        DeviceImage { stream, ..self }
    }

    fn checked(self) -> Result<DeviceImage> {
        let DeviceImage { address, width: w, height: h, stride, .. } = self;
        if !(1..=MAX_SIDE).contains(&w) || !(1..=MAX_SIDE).contains(&h) {
            return Err(Error::Usage(format!("a photo of {w}x{h} pixels: expected 1 to {MAX_SIDE} a side")));
        }
        if stride < w * 3 {
            let row = w * 3;
            return Err(Error::Usage(format!(
                "a photo of {w}x{h} pixels: expected rows of at least {row} bytes, got {stride}"
            )));
        }
        if address == 0 {
            return Err(Error::Usage(format!(
                "a photo of {w}x{h} pixels in GPU memory: expected an address, got 0"
            )));
        }
        let bytes = (stride as u64).checked_mul(h as u64 - 1).and_then(|n| n.checked_add(w as u64 * 3));
        if bytes.and_then(|bytes| address.checked_add(bytes)).is_none() {
            return Err(Error::Usage(format!(
                "a photo of {w}x{h} pixels in GPU memory: {h} rows of {stride} bytes from {address:#x} on go beyond \
                 the last address"
            )));
        }
        Ok(self)
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// Order of a pixel's bytes.
    pub fn order(&self) -> ChannelOrder {
        self.order
    }

    /// The stream in which its pixels are written.
    pub fn stream(&self) -> DeviceStream {
        self.stream
    }

    /// An image of the same size without pixels.
    pub(crate) fn outline(&self) -> Image<'static> {
        Image::outline(self.width, self.height)
    }

    /// Address of the first pixel, and bytes from one row to the next.
    #[cfg(feature = "cuda")]
    pub(crate) fn place(&self) -> (u64, usize) {
        (self.address, self.stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_lie_within_the_addresses() {
        // SAFETY: no engine is given these.
        let of = |address, w, h| unsafe { DeviceImage::new(address, w, h, ChannelOrder::Rgb) };
        // SAFETY: as above.
        let apart = |stride| unsafe { of(16, 5, 6).unwrap().with_stride(stride) };
        assert!(of(1 << 40, 5, 6).is_ok() && apart(15).is_ok() && apart(1 << 40).is_ok());
        assert_eq!(of(16, 5, 6).unwrap().stream(), DeviceStream::Ready);
        for (image, part) in [
            (of(0, 5, 6), "expected an address, got 0"),
            (of(16, 0, 6), "0x6 pixels"),
            (of(16, 6, usize::MAX), "a side"),
            (apart(14), "rows of at least 15 bytes, got 14"),
            (apart(usize::MAX / 2), "beyond the last address"),
            (of(u64::MAX - 89, 5, 6), "beyond the last address"),
        ] {
            let error = image.unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(of(u64::MAX - 90, 5, 6).is_ok());
    }
}
