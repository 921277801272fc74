//! Which way up a photo is.

use crate::vision::Photo;
use image::metadata::Orientation;

impl Photo {
    /// Turns stored pixels upright; `None` if there is no memory for it.
    pub(super) fn upright(self, orientation: Orientation) -> Option<Photo> {
        let (w, h) = (self.width, self.height);
        // Upright pixel (x, y) is the stored pixel `origin + x * right + y * down`, counted in pixels.
        let (sw, last_x, last_y) = (w as isize, w as isize - 1, (h as isize - 1) * w as isize);
        let (origin, right, down) = match orientation {
            Orientation::NoTransforms => return Some(self),
            Orientation::FlipHorizontal => (last_x, -1, sw),
            Orientation::Rotate180 => (last_y + last_x, -1, -sw),
            Orientation::FlipVertical => (last_y, 1, -sw),
            Orientation::Rotate90FlipH => (0, sw, 1),
            Orientation::Rotate90 => (last_y, -sw, 1),
            Orientation::Rotate270FlipH => (last_y + last_x, -sw, -1),
            Orientation::Rotate270 => (last_x, sw, -1),
        };
        let turned = matches!(
            orientation,
            Orientation::Rotate90FlipH
                | Orientation::Rotate90
                | Orientation::Rotate270FlipH
                | Orientation::Rotate270
        );
        let (width, height) = if turned { (h, w) } else { (w, h) };
        let mut bgr = Vec::new();
        bgr.try_reserve_exact(self.bgr.len()).ok()?;
        bgr.resize(self.bgr.len(), 0);
        // Tiles keep both sides of a transposition in cache.
        const TILE: usize = 32;
        for y0 in (0..height).step_by(TILE) {
            for x0 in (0..width).step_by(TILE) {
                for y in y0..(y0 + TILE).min(height) {
                    let mut from = origin + y as isize * down + x0 as isize * right;
                    let row = y * width;
                    for x in x0..(x0 + TILE).min(width) {
                        let (to, at) = ((row + x) * 3, from as usize * 3);
                        bgr[to..to + 3].copy_from_slice(&self.bgr[at..at + 3]);
                        from += right;
                    }
                }
            }
        }
        Some(Photo { width, height, bgr })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture of the letters "abcdef" in two rows of three, and how each orientation stores it upright.
    #[test]
    fn the_eight_orientations() {
        let pixels = |s: &str| s.bytes().flat_map(|b| [b, b, b]).collect::<Vec<u8>>();
        let stored = Photo { width: 3, height: 2, bgr: pixels("abcdef") };
        let expected = ["abcdef", "cbafed", "fedcba", "defabc", "adbecf", "daebfc", "fcebda", "cfbead"];
        for (i, want) in expected.iter().enumerate() {
            let orientation = Orientation::from_exif(i as u8 + 1).unwrap();
            let got = stored.clone().upright(orientation).unwrap();
            assert_eq!((got.width, got.height), if i < 4 { (3, 2) } else { (2, 3) });
            assert_eq!(got.bgr, pixels(want), "orientation {}", i + 1);
        }
    }
}
