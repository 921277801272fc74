//! NV12: what video decoders give, half the bytes of BGR.
//!
//! A plane of `height * width` bytes of brightness Y, and one of colour differences: for each 2x2 pixels the pair U, V, in
//! `ceil(height / 2)` rows of `ceil(width / 2)` pairs. Where a side is odd, the last pairs belong to one column or row only.
//!
//! All devices convert by one rule, in integers. A pixel takes the pair of its 2x2 pixels as it is, without interpolation,
//! wherever the source says that colours lie:
//!
//! ```text
//! y = luma * (Y - black) + 128,  u = U - 128,  v = V - 128
//! B = (y + u_blue * u) >> 8,  G = (y - u_green * u - v_green * v) >> 8,  R = (y + v_red * v) >> 8,  each clamped to 0..255
//! ```
//!
//! The weights are those of the matrix and range, times 256 and rounded. The result is within one grey level of the exact one.

use super::{Image, Photo};
use crate::error::Result;

/// The matrix by which a source made brightness and colour differences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum YuvMatrix {
    /// BT.601: standard definition, JPEG, and what ffmpeg takes where a source says nothing.
    #[default]
    Bt601,
    /// BT.709: high definition.
    Bt709,
    /// BT.2020 with constant matrix ("non-constant luminance"): ultra high definition.
    Bt2020,
}

/// What the numbers of YUV pixels mean.
///
/// ```
/// use rtmo_engine::{YuvColours, YuvMatrix};
///
/// let high_definition = YuvColours::default().with_matrix(YuvMatrix::Bt709);
/// let jpeg = YuvColours::default().with_full_range(true);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct YuvColours {
    /// The matrix.
    pub matrix: YuvMatrix,
    /// Whether brightness goes from 0 to 255, rather than from 16 to 235 (colour differences from 16 to 240), as video has it.
    pub full_range: bool,
}

impl YuvColours {
    /// Sets [`YuvColours::matrix`].
    pub fn with_matrix(self, matrix: YuvMatrix) -> YuvColours {
        YuvColours { matrix, ..self }
    }

    /// Sets [`YuvColours::full_range`].
    pub fn with_full_range(self, full_range: bool) -> YuvColours {
        YuvColours { full_range, ..self }
    }

    /// The weights of the rule above.
    pub(crate) fn weights(self) -> YuvWeights {
        let (red, blue) = match self.matrix {
            YuvMatrix::Bt601 => (0.299, 0.114),
            YuvMatrix::Bt709 => (0.2126, 0.0722),
            YuvMatrix::Bt2020 => (0.2627, 0.0593),
        };
        let green = 1.0 - red - blue;
        let (black, luma, chroma) =
            if self.full_range { (0, 1.0, 1.0) } else { (16, 255.0 / 219.0, 255.0 / 224.0) };
        let times_256 = |weight: f64| (weight * 256.0).round() as i32;
        YuvWeights {
            black,
            luma: times_256(luma),
            u_blue: times_256(chroma * 2.0 * (1.0 - blue)),
            u_green: times_256(chroma * 2.0 * (1.0 - blue) * blue / green),
            v_green: times_256(chroma * 2.0 * (1.0 - red) * red / green),
            v_red: times_256(chroma * 2.0 * (1.0 - red)),
        }
    }
}

/// In 1/256, but for `black`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct YuvWeights {
    pub black: i32,
    pub luma: i32,
    pub u_blue: i32,
    pub u_green: i32,
    pub v_green: i32,
    pub v_red: i32,
}

impl YuvWeights {
    /// Blue, green, red.
    pub fn bgr(&self, y: u8, u: u8, v: u8) -> [u8; 3] {
        let y = self.luma * (i32::from(y) - self.black) + 128;
        let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
        let sums = [y + self.u_blue * u, y - self.u_green * u - self.v_green * v, y + self.v_red * v];
        sums.map(|sum| (sum >> 8).clamp(0, 255) as u8)
    }

    /// A row of pixels, from one of brightness and its row of pairs; `bgr` has three bytes for each of `luma`.
    pub fn row(&self, luma: &[u8], pairs: &[u8], bgr: &mut [u8]) {
        for ((luma, pair), bgr) in luma.chunks(2).zip(pairs.chunks_exact(2)).zip(bgr.chunks_mut(6)) {
            for (&y, bgr) in luma.iter().zip(bgr.chunks_exact_mut(3)) {
                bgr.copy_from_slice(&self.bgr(y, pair[0], pair[1]));
            }
        }
    }
}

/// An NV12 picture in memory. [`Image::nv12`] borrows one from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nv12 {
    width: usize,
    height: usize,
    data: Vec<u8>,
    colours: YuvColours,
}

impl Nv12 {
    /// A picture whose rows follow one another: `height * width` bytes of brightness, then `ceil(height / 2)` rows of
    /// `ceil(width / 2)` pairs U, V.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] if the number of bytes is another, or a side is zero or above [`super::MAX_SIDE`].
    pub fn new(width: usize, height: usize, data: Vec<u8>, colours: YuvColours) -> Result<Nv12> {
        let picture = Nv12 { width, height, data, colours };
        let luma = width.saturating_mul(height).min(picture.data.len());
        let (y, uv) = picture.data.split_at(luma);
        Image::nv12(width, height, y, uv, colours)?.surplus(uv.len())?;
        Ok(picture)
    }

    /// Bytes of a picture of this size; `None` if memory cannot have so many.
    pub fn bytes(width: usize, height: usize) -> Option<usize> {
        let pairs = width.div_ceil(2).checked_mul(height.div_ceil(2))?.checked_mul(2)?;
        width.checked_mul(height)?.checked_add(pairs)
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// The same picture as blue, green and red.
    pub fn to_photo(&self) -> Photo {
        Image::from(self).to_photo()
    }
}

impl<'a> From<&'a Nv12> for Image<'a> {
    fn from(picture: &'a Nv12) -> Image<'a> {
        let (y, uv) = picture.data.split_at(picture.width * picture.height);
        Image::nv12(picture.width, picture.height, y, uv, picture.colours).expect("checked when it was made")
    }
}

/// A picture in memory, of any format that an engine takes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Picture {
    /// Blue, green and red.
    Photo(Photo),
    /// A frame of a video.
    Nv12(Nv12),
}

impl Picture {
    /// Width and height in pixels.
    pub fn size(&self) -> (usize, usize) {
        match self {
            Picture::Photo(photo) => (photo.width, photo.height),
            Picture::Nv12(picture) => picture.size(),
        }
    }

    /// As a photo; one that is none is converted.
    pub fn into_photo(self) -> Photo {
        match self {
            Picture::Photo(photo) => photo,
            Picture::Nv12(picture) => picture.to_photo(),
        }
    }
}

impl From<Photo> for Picture {
    fn from(photo: Photo) -> Picture {
        Picture::Photo(photo)
    }
}

impl From<Nv12> for Picture {
    fn from(picture: Nv12) -> Picture {
        Picture::Nv12(picture)
    }
}

impl<'a> From<&'a Picture> for Image<'a> {
    fn from(picture: &'a Picture) -> Image<'a> {
        match picture {
            Picture::Photo(photo) => photo.into(),
            Picture::Nv12(picture) => picture.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MATRICES: [YuvMatrix; 3] = [YuvMatrix::Bt601, YuvMatrix::Bt709, YuvMatrix::Bt2020];

    /// The definition in f64: the weights are rounded to 1/256, which moves a sum by up to half a grey level, so that it
    /// may round to the next one, and never further.
    #[test]
    fn colours_are_within_a_grey_level_of_the_definition() {
        for (matrix, (red, blue)) in
            MATRICES.into_iter().zip([(0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)])
        {
            for full_range in [false, true] {
                let weights = YuvColours { matrix, full_range }.weights();
                let steps = || (0..=255_u8).step_by(5);
                for (y, u, v) in (0..=255_u8)
                    .step_by(3)
                    .flat_map(|y| steps().flat_map(move |u| steps().map(move |v| (y, u, v))))
                {
                    let (luma, pb, pr) = if full_range {
                        (f64::from(y) / 255.0, (f64::from(u) - 128.0) / 255.0, (f64::from(v) - 128.0) / 255.0)
                    } else {
                        (
                            (f64::from(y) - 16.0) / 219.0,
                            (f64::from(u) - 128.0) / 224.0,
                            (f64::from(v) - 128.0) / 224.0,
                        )
                    };
                    let (b, r) = (luma + 2.0 * (1.0 - blue) * pb, luma + 2.0 * (1.0 - red) * pr);
                    let g = (luma - red * r - blue * b) / (1.0 - red - blue);
                    for (got, want) in weights.bgr(y, u, v).into_iter().zip([b, g, r]) {
                        let want = (want * 255.0).clamp(0.0, 255.0).round();
                        let what = format!("{matrix:?}, full range {full_range}, {y} {u} {v}");
                        assert!((f64::from(got) - want).abs() <= 1.0, "{what}: {got}, expected {want}");
                    }
                }
            }
        }
    }

    /// Weights that frames of BT.601 were always converted with.
    #[test]
    fn weights_of_standard_definition() {
        let YuvWeights { black, luma, u_blue, u_green, v_green, v_red } = YuvColours::default().weights();
        assert_eq!([black, luma, u_blue, u_green, v_green, v_red], [16, 298, 516, 100, 208, 409]);
    }

    /// Exactly red is 254.4; the rounded weights make it 255.1, of which the whole part remains.
    #[test]
    fn black_white_grey_and_red() {
        let grey = |y: u8| YuvColours::default().weights().bgr(y, 128, 128);
        let red = YuvColours::default().weights().bgr(81, 90, 240);
        assert_eq!((grey(16), grey(235), grey(126), red), ([0; 3], [255; 3], [128; 3], [0, 0, 255]));
    }

    #[test]
    fn odd_sides_and_padded_rows() {
        let (grey, red) = ([128, 128], [90, 240]);
        let luma = [[16, 81, 81, 0, 0], [126, 81, 81, 0, 0], [81, 81, 235, 7, 7]].concat();
        let pairs = [[grey, red].concat(), vec![9], [red, grey].concat()].concat();
        let image = Image::nv12(3, 3, &luma, &pairs, YuvColours::default()).unwrap().with_stride(5).unwrap();
        let weights = YuvColours::default().weights();
        let of = |y: u8, pair: [u8; 2]| weights.bgr(y, pair[0], pair[1]);
        let expected = [
            [of(16, grey), of(81, grey), of(81, red)],
            [of(126, grey), of(81, grey), of(81, red)],
            [of(81, red), of(81, red), of(235, grey)],
        ];
        let photo = image.to_photo();
        for (y, row) in expected.iter().enumerate() {
            for (x, pixel) in row.iter().enumerate() {
                assert_eq!((photo.pixel(x, y), image.pixel(x, y)), (*pixel, *pixel), "{x}, {y}");
            }
        }
        // One pixel: a byte and a pair.
        let one = Nv12::new(1, 1, vec![81, 90, 240], YuvColours::default()).unwrap();
        assert_eq!(one.to_photo(), Photo { width: 1, height: 1, bgr: of(81, red).to_vec() });
        assert_eq!(Picture::from(one).into_photo().bgr, of(81, red));
    }

    #[test]
    fn planes_have_the_bytes_that_their_size_needs() {
        let of = |w, h, bytes: usize| Nv12::new(w, h, vec![0; bytes], YuvColours::default());
        assert_eq!(Nv12::bytes(4, 3), Some(20));
        assert!(of(4, 3, 20).is_ok() && of(3, 3, 17).is_ok() && of(1, 1, 3).is_ok());
        for (picture, part) in [
            (of(4, 3, 19), "expected 8 bytes of colours, got 7"),
            (of(4, 3, 21), "expected 8 bytes of colours, got 9"),
            (of(4, 3, 11), "expected 12 bytes of brightness, got 11"),
            (of(0, 3, 0), "0x3 pixels"),
            (of(usize::MAX, 2, 3), "a side"),
        ] {
            let error = picture.unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
        let image = Image::nv12(3, 2, &[0; 8], &[0; 4], YuvColours::default()).unwrap();
        let error = image.with_stride(3).unwrap_err().to_string();
        assert!(error.contains("rows of at least 4 bytes, got 3"), "{error}");
    }
}
