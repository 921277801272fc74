//! A picture that somebody else owns: what the engine reads.

use super::{Photo, YuvColours};
use crate::error::{Error, Result};

/// No photo may be wider or higher: OpenCV's limit, and coordinates of 1/1024 pixel still fit 32 bits.
pub const MAX_SIDE: usize = 1 << 20;

/// In which order a pixel's three bytes come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChannelOrder {
    /// Blue, green, red: OpenCV's order, and that of [`Photo`].
    #[default]
    Bgr,
    /// Red, green, blue: the order of most other libraries.
    Rgb,
}

/// A borrowed picture in memory of the caller's: rows of pixels of three bytes, or NV12 ([`Image::nv12`]). Nothing is copied
/// to make one.
///
/// ```
/// use rtmo_engine::{ChannelOrder, Image};
///
/// // A frame buffer of 640x480 RGB pixels whose rows are 2048 bytes apart.
/// let buffer = vec![0; 2048 * 480];
/// let image = Image::new(640, 480, ChannelOrder::Rgb, &buffer)?.with_stride(2048)?;
/// assert_eq!(image.row(479).len(), 640 * 3);
/// # rtmo_engine::Result::Ok(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Image<'a> {
    width: usize,
    height: usize,
    stride: usize,
    order: ChannelOrder,
    /// Of NV12 the brightness.
    data: &'a [u8],
    /// The second plane of NV12.
    colours: Option<Colours<'a>>,
    /// Whether it is made of a photo with more bytes than its size needs, which is an error: one of both is wrong.
    surplus: bool,
}

/// Pairs U, V of two by two pixels each.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Colours<'a> {
    stride: usize,
    data: &'a [u8],
    mean: YuvColours,
}

/// Bytes of a row, rows, bytes from one row to the next, and the plane's bytes.
struct Plane<'a> {
    row: usize,
    rows: usize,
    stride: usize,
    data: &'a [u8],
    what: &'static str,
}

impl<'a> Plane<'a> {
    fn row(&self, y: usize) -> &'a [u8] {
        &self.data[y * self.stride..][..self.row]
    }
}

impl<'a> Image<'a> {
    /// A picture whose rows follow one another: at least `height * width * 3` bytes. Later bytes are not looked at.
    ///
    /// # Errors
    /// [`Error::Usage`] if a side is zero or above [`MAX_SIDE`], or the bytes are too few.
    pub fn new(width: usize, height: usize, order: ChannelOrder, data: &'a [u8]) -> Result<Image<'a>> {
        let (stride, surplus) = (width.saturating_mul(3), false);
        let image = Image { width, height, stride, order, data, colours: None, surplus };
        image.check()?;
        Ok(image)
    }

    /// An NV12 picture, as video decoders give it: `height` rows of `width` bytes of brightness, and `ceil(height / 2)` rows of
    /// `ceil(width / 2)` pairs U, V, one for each two by two pixels. Rows follow one another; [`Image::with_stride`] says
    /// otherwise. Later bytes are not looked at.
    ///
    /// A GPU takes it as it is, which is half the upload; a CPU converts it first. Both convert by the same rule in integers
    /// and give the same pixels, within one grey level of the exact ones: each pixel takes the pair of its two by two pixels,
    /// without interpolation.
    ///
    /// ```
    /// use rtmo_engine::{Image, YuvColours, YuvMatrix};
    ///
    /// // A decoder's frame of 1920x1080: rows 2048 bytes apart, colours after 1088 rows.
    /// let buffer = vec![128; 2048 * (1088 + 544)];
    /// let (luma, chroma) = buffer.split_at(2048 * 1088);
    /// let colours = YuvColours::default().with_matrix(YuvMatrix::Bt709);
    /// let image = Image::nv12(1920, 1080, luma, chroma, colours)?.with_stride(2048)?;
    /// # rtmo_engine::Result::Ok(())
    /// ```
    ///
    /// # Errors
    /// As [`Image::new`], for each plane.
    pub fn nv12(
        width: usize,
        height: usize,
        luma: &'a [u8],
        chroma: &'a [u8],
        colours: YuvColours,
    ) -> Result<Image<'a>> {
        let second = Colours { stride: width.div_ceil(2).saturating_mul(2), data: chroma, mean: colours };
        let (order, colours, surplus) = (ChannelOrder::Bgr, Some(second), false);
        let image = Image { width, height, stride: width, order, data: luma, colours, surplus };
        image.check()?;
        Ok(image)
    }

    /// The same picture with rows that begin `stride` bytes apart, of NV12 in both planes. The last row may end early.
    ///
    /// # Errors
    /// [`Error::Usage`] if a row does not fit into `stride`, or the bytes are too few.
    pub fn with_stride(self, stride: usize) -> Result<Image<'a>> {
        let colours = self.colours.map(|colours| Colours { stride, ..colours });
        let image = Image { stride, colours, ..self };
        image.check()?;
        Ok(image)
    }

    /// An image without pixels, which [`Image::check`] refuses: what is in a GPU's memory has a size only.
    pub(crate) fn outline(width: usize, height: usize) -> Image<'a> {
        let (stride, order) = (width * 3, ChannelOrder::Bgr);
        Image { width, height, stride, order, data: &[], colours: None, surplus: false }
    }

    /// That the sides are possible and all rows lie within the bytes. [`Photo`]'s fields are public, so that a picture
    /// made from one may be broken.
    ///
    /// # Errors
    /// [`Error::Usage`] with the numbers.
    pub(crate) fn check(&self) -> Result<()> {
        let Image { width: w, height: h, .. } = *self;
        if !(1..=MAX_SIDE).contains(&w) || !(1..=MAX_SIDE).contains(&h) {
            return Err(Error::Usage(format!("a photo of {w}x{h} pixels: expected 1 to {MAX_SIDE} a side")));
        }
        self.planes().try_for_each(|Plane { row, rows, stride, data, what }| {
            if stride < row {
                return Err(Error::Usage(format!(
                    "a photo of {w}x{h} pixels: expected rows of at least {row} bytes, got {stride}"
                )));
            }
            let bytes = stride.checked_mul(rows - 1).and_then(|n| n.checked_add(row));
            if bytes.is_none_or(|bytes| data.len() < bytes) || self.surplus {
                let (got, expected) =
                    (data.len(), bytes.map_or("more than memory has".into(), |n| n.to_string()));
                return Err(Error::Usage(format!(
                    "a photo of {w}x{h} pixels: expected {expected} bytes{what}, got {got}"
                )));
            }
            Ok(())
        })
    }

    /// One plane of three bytes a pixel, or the two of NV12.
    fn planes(&self) -> impl Iterator<Item = Plane<'a>> {
        let Image { width, height: rows, stride, data, .. } = *self;
        let (row, what) = if self.is_nv12() { (width, " of brightness") } else { (width * 3, "") };
        let second = self.colours.map(|Colours { stride, data, .. }| {
            let (row, rows) = (width.div_ceil(2) * 2, rows.div_ceil(2));
            Plane { row, rows, stride, data, what: " of colours" }
        });
        std::iter::once(Plane { row, rows, stride, data, what }).chain(second)
    }

    /// That the second plane, of `bytes`, has no more than it needs.
    ///
    /// # Errors
    /// [`Error::Usage`] if it has.
    pub(super) fn surplus(&self, bytes: usize) -> Result<()> {
        let (w, h) = self.size();
        match self.planes().last().map(|plane| plane.row * plane.rows) {
            Some(needed) if bytes > needed => Err(Error::Usage(format!(
                "a photo of {w}x{h} pixels: expected {needed} bytes of colours, got {bytes}"
            ))),
            _ => Ok(()),
        }
    }

    /// Whether it is NV12, rather than three bytes a pixel.
    pub fn is_nv12(&self) -> bool {
        self.colours.is_some()
    }

    /// What the numbers of NV12 mean; `None` if it is not NV12.
    pub(crate) fn yuv(&self) -> Option<YuvColours> {
        self.colours.map(|colours| colours.mean)
    }

    /// Bytes of a row and rows of each plane, as [`Image::copy_plane_rows`] copies them; no rows where there is no second one.
    #[cfg(feature = "cuda")]
    pub(crate) fn plane_sizes(&self) -> [(usize, usize); 2] {
        let mut sizes = self.planes().map(|plane| (plane.row, plane.rows));
        [sizes.next().unwrap_or((0, 0)), sizes.next().unwrap_or((0, 0))]
    }

    /// Copies rows of a plane from row `first` on, as many as fit into `bytes`: NV12 as it is, all else as blue, green, red.
    ///
    /// # Panics
    /// If there are not so many.
    #[cfg(feature = "cuda")]
    pub(crate) fn copy_plane_rows(&self, plane: usize, first: usize, bytes: &mut [u8]) {
        if !self.is_nv12() {
            return self.copy_rows(first, bytes);
        }
        let plane = self.planes().nth(plane).expect("NV12 has two planes");
        for (y, row) in bytes.chunks_exact_mut(plane.row).enumerate() {
            row.copy_from_slice(plane.row(first + y));
        }
    }

    /// Pixels a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Width and height.
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// Order of a pixel's bytes; of NV12 the one that it is converted to, which is BGR.
    pub fn order(&self) -> ChannelOrder {
        self.order
    }

    /// Row `y`: `width * 3` bytes in [`Image::order`].
    ///
    /// # Panics
    /// If there is no such row, or if it is NV12, which [`Image::to_photo`] converts.
    pub fn row(&self, y: usize) -> &'a [u8] {
        assert!(y < self.height, "row {y} of {}", self.height);
        assert!(!self.is_nv12(), "NV12 has no rows of three bytes a pixel");
        &self.data[y * self.stride..][..self.width * 3]
    }

    /// The three bytes of column `x`, row `y`, in [`Image::order`].
    ///
    /// # Panics
    /// If there is no such pixel.
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        if let Some(yuv) = self.yuv() {
            let [luma, pairs] = self.nv12_rows(y);
            return yuv.weights().bgr(luma[x], pairs[x / 2 * 2], pairs[x / 2 * 2 + 1]);
        }
        let row = self.row(y);
        [row[x * 3], row[x * 3 + 1], row[x * 3 + 2]]
    }

    /// Copies the picture to `bgr`, without gaps between rows, as blue, green, red.
    ///
    /// # Panics
    /// If `bgr` is not of `height * width * 3` bytes.
    pub fn copy_bgr(&self, bgr: &mut [u8]) {
        assert_eq!(bgr.len(), self.width * self.height * 3, "bytes of a picture");
        self.copy_rows(0, bgr);
    }

    /// Copies rows from row `first` on, as many as fit into `bgr`, as [`Image::copy_bgr`] does.
    ///
    /// # Panics
    /// If there are not so many.
    pub(crate) fn copy_rows(&self, first: usize, bgr: &mut [u8]) {
        if let Some(yuv) = self.yuv() {
            let weights = yuv.weights();
            for (y, row) in bgr.chunks_exact_mut(self.width * 3).enumerate() {
                let [luma, pairs] = self.nv12_rows(first + y);
                weights.row(luma, pairs, row);
            }
            return;
        }
        for (y, row) in bgr.chunks_exact_mut(self.width * 3).enumerate() {
            row.copy_from_slice(self.row(first + y));
            self.order.make_bgr(row);
        }
    }

    /// Row `y` of brightness, and the pairs that belong to it.
    fn nv12_rows(&self, y: usize) -> [&'a [u8]; 2] {
        assert!(y < self.height, "row {y} of {}", self.height);
        let mut at = y;
        let mut rows = self.planes().map(|plane| plane.row(std::mem::replace(&mut at, y / 2)));
        [rows.next().unwrap_or(&[]), rows.next().unwrap_or(&[])]
    }

    /// An owned copy, as blue, green, red.
    pub fn to_photo(&self) -> Photo {
        let mut bgr = vec![0; self.width * self.height * 3];
        self.copy_bgr(&mut bgr);
        Photo { width: self.width, height: self.height, bgr }
    }
}

impl ChannelOrder {
    /// Pixels of this order become blue, green, red.
    pub(crate) fn make_bgr(self, pixels: &mut [u8]) {
        if self == ChannelOrder::Rgb {
            pixels.chunks_exact_mut(3).for_each(|pixel| pixel.swap(0, 2));
        }
    }
}

impl std::fmt::Debug for Image<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Image { width, height, stride, order, .. } = *self;
        match self.yuv() {
            Some(yuv) => write!(f, "Image({width}x{height}, NV12 {yuv:?}, stride {stride})"),
            None => write!(f, "Image({width}x{height}, {order:?}, stride {stride})"),
        }
    }
}

impl<'a> From<&'a Photo> for Image<'a> {
    fn from(photo: &'a Photo) -> Image<'a> {
        let (width, height) = (photo.width, photo.height);
        let stride = width.saturating_mul(3);
        let surplus = stride.checked_mul(height).is_some_and(|bytes| photo.bgr.len() > bytes);
        let (order, data) = (ChannelOrder::Bgr, &photo.bgr[..]);
        Image { width, height, stride, order, data, colours: None, surplus }
    }
}

impl<'a> From<&Image<'a>> for Image<'a> {
    fn from(image: &Image<'a>) -> Image<'a> {
        *image
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_lie_within_the_bytes() {
        let data = [0; 100];
        let of = |w, h| Image::new(w, h, ChannelOrder::Rgb, &data);
        assert!(of(5, 6).is_ok());
        for (image, part) in [
            (of(6, 6), "expected 108 bytes, got 100"),
            (of(0, 6), "0x6 pixels"),
            (of(6, usize::MAX), "a side"),
            (of(5, 6).unwrap().with_stride(14), "rows of at least 15 bytes, got 14"),
            (of(5, 6).unwrap().with_stride(18), "expected 105 bytes"),
            (of(5, 6).unwrap().with_stride(usize::MAX), "more than memory has"),
        ] {
            let error = image.unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
        // The last row needs no gap behind it.
        assert!(of(5, 6).unwrap().with_stride(17).is_ok());
    }

    #[test]
    fn a_photo_has_as_many_bytes_as_its_size_needs() {
        let photo = |bytes| Photo { width: 5, height: 6, bgr: vec![0; bytes] };
        assert!(Image::from(&photo(90)).check().is_ok());
        for bytes in [0, 89, 91, 180] {
            let error = Image::from(&photo(bytes)).check().unwrap_err().to_string();
            assert!(error.contains(&format!("expected 90 bytes, got {bytes}")), "{error}");
        }
    }

    #[test]
    fn a_copy_is_bgr_without_gaps() {
        let data: Vec<u8> = (0..30).collect();
        let image = Image::new(2, 3, ChannelOrder::Rgb, &data).unwrap().with_stride(10).unwrap();
        let photo = image.to_photo();
        assert_eq!(photo.bgr, [2, 1, 0, 5, 4, 3, 12, 11, 10, 15, 14, 13, 22, 21, 20, 25, 24, 23]);
        assert_eq!(image.pixel(1, 2), [23, 24, 25]);
        assert_eq!(Image::from(&photo).to_photo(), photo);
    }
}
