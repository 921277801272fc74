//! How a photo is laid into the network input, and how coordinates come back.

mod resize;
mod warp;

pub use resize::{Resize, ResizeTap};
pub use warp::{Warp, WarpRow};

use crate::vision::Image;

/// Grey level of the border, in all three channels.
pub const BORDER: u8 = 114;

/// Sampling geometry of one photo size and one input size. Made in microseconds, and worth keeping for photos of the
/// same size.
#[derive(Clone, Debug, PartialEq)]
pub struct Letterbox {
    photo: (usize, usize),
    input: (usize, usize),
    geometry: Geometry,
}

/// Which pixels make a network input, as tables: all that a kernel on another device needs.
#[derive(Clone, Debug, PartialEq)]
pub enum Geometry {
    /// Centred, not rounded: [`Letterbox::new`].
    Warp(Warp),
    /// At the top left, in whole pixels: [`Letterbox::rtmlib`].
    Resize(Resize),
}

impl Letterbox {
    /// mmpose's geometry (`BottomupResize`, mode "fit"): centred, border 114. Sizes are `(width, height)`.
    ///
    /// # Panics
    /// If a side is zero or a photo's side is above [`crate::vision::MAX_SIDE`].
    pub fn new(photo: (usize, usize), input: (usize, usize)) -> Letterbox {
        check(photo, input);
        Letterbox { photo, input, geometry: Geometry::Warp(Warp::new(photo, input)) }
    }

    /// rtmlib's geometry: at the top left, `cv2.resize` to whole pixels. Sizes are `(width, height)`.
    ///
    /// # Panics
    /// As [`Letterbox::new`].
    pub fn rtmlib(photo: (usize, usize), input: (usize, usize)) -> Letterbox {
        check(photo, input);
        Letterbox { photo, input, geometry: Geometry::Resize(Resize::new(photo, input)) }
    }

    /// Network input `(width, height)`.
    pub fn input_size(&self) -> (usize, usize) {
        self.input
    }

    /// Photo `(width, height)`.
    pub fn photo_size(&self) -> (usize, usize) {
        self.photo
    }

    /// The tables.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Writes row `y` of the network input: `input width * 3` bytes, BGR. Of NV12 the whole picture is converted for each row:
    /// an [`Engine`](crate::Engine) on a CPU converts it once, before.
    ///
    /// # Panics
    /// If the picture is not of the size that this letterbox was made for, or `row` not of the length said.
    pub fn sample_row<'a>(&self, picture: impl Into<Image<'a>>, y: usize, row: &mut [u8]) {
        let picture: Image<'_> = picture.into();
        assert_eq!(picture.size(), self.photo, "letterbox made for another photo size");
        assert_eq!(row.len(), self.input.0 * 3, "row of the network input");
        if picture.is_nv12() {
            return self.sample_row(&picture.to_photo(), y, row);
        }
        match &self.geometry {
            Geometry::Warp(warp) => warp.sample_row(picture, y, row),
            Geometry::Resize(resize) => resize.sample_row(picture, y, row),
        }
        // All channels are sampled alike, and the border is grey, so their order can be changed afterwards.
        picture.order().make_bgr(row);
    }

    /// A point in network-input pixels to photo pixels.
    pub fn to_photo(&self, xy: [f32; 2]) -> [f32; 2] {
        match &self.geometry {
            Geometry::Warp(warp) => warp.to_photo(xy),
            Geometry::Resize(resize) => resize.to_photo(xy),
        }
    }
}

fn check(photo: (usize, usize), input: (usize, usize)) {
    let side = 1..=crate::vision::MAX_SIDE;
    assert!(side.contains(&photo.0) && side.contains(&photo.1), "a photo of {photo:?} pixels");
    assert!(side.contains(&input.0) && side.contains(&input.1), "a network input of {input:?} pixels");
}
