//! rtmlib's letterbox: `cv2.resize(INTER_LINEAR)` of 8-bit pixels, to the bit.

use super::BORDER;
use crate::vision::Image;

/// Tables of rtmlib's letterbox.
///
/// The pixels `(x, y)` of `size` are, with `c = columns[x]`, `r = rows[y]`, and `h(j) = c.weights[0] * p[j][c.first] +
/// c.weights[1] * p[j][c.second]`,
///
/// ```text
/// ((r.weights[0] * (h(r.first) >> 4) >> 16) + (r.weights[1] * (h(r.second) >> 4) >> 16) + 2) >> 2
/// ```
///
/// or, if `halve` is set, `(p[2y][2x] + p[2y][2x+1] + p[2y+1][2x] + p[2y+1][2x+1] + 2) >> 2`; the rest is 114.
#[derive(Clone, Debug, PartialEq)]
pub struct Resize {
    /// Width and height of the photo within the network input.
    pub size: (usize, usize),
    /// Whether both sides are exactly halved, where OpenCV averages.
    pub halve: bool,
    /// One a column.
    pub columns: Vec<ResizeTap>,
    /// One a row.
    pub rows: Vec<ResizeTap>,
    /// rtmlib's `ratio`: network-input pixels a photo pixel.
    ratio: f32,
}

/// Two photo pixels of a row or column, and their weights in 1/2048.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ResizeTap {
    /// Index of the first pixel.
    pub first: u32,
    /// Index of the second pixel.
    pub second: u32,
    /// Their weights.
    pub weights: [i32; 2],
}

impl Resize {
    pub(super) fn new((width, height): (usize, usize), (input_w, input_h): (usize, usize)) -> Resize {
        let ratio = (input_h as f64 / height as f64).min(input_w as f64 / width as f64);
        // Python's int(). rtmlib fails where this is zero; so thin a photo gets one pixel here.
        let size = |side: usize| ((side as f64 * ratio) as usize).max(1);
        let size = (size(width), size(height));
        // OpenCV goes through the inverse scale.
        let scale = |photo: usize, size: usize| 1.0 / (size as f64 / photo as f64);
        let (scale_x, scale_y) = (scale(width, size.0), scale(height, size.1));
        let halve = [scale_x, scale_y].iter().all(|s| (s - 2.0).abs() < f64::EPSILON);
        let columns = (0..size.0).map(|x| column(x, scale_x, width)).collect();
        let rows = (0..size.1).map(|y| row(y, scale_y, height)).collect();
        Resize { size, halve, columns, rows, ratio: ratio as f32 }
    }

    pub(super) fn sample_row(&self, photo: Image<'_>, y: usize, out: &mut [u8]) {
        if y >= self.size.1 {
            out.fill(BORDER);
            return;
        }
        let (out, border) = out.split_at_mut(self.size.0 * 3);
        border.fill(BORDER);
        if self.halve {
            let (upper, lower) = (photo.row(2 * y).chunks_exact(6), photo.row(2 * y + 1).chunks_exact(6));
            for (out, (u, l)) in out.chunks_exact_mut(3).zip(upper.zip(lower)) {
                for c in 0..3 {
                    out[c] = ((u[c] as u32 + u[c + 3] as u32 + l[c] as u32 + l[c + 3] as u32 + 2) >> 2) as u8;
                }
            }
            return;
        }
        let row = self.rows[y];
        let (upper, lower) = (photo.row(row.first as usize), photo.row(row.second as usize));
        for (out, tap) in out.chunks_exact_mut(3).zip(&self.columns) {
            let (i, k) = (tap.first as usize * 3, tap.second as usize * 3);
            for c in 0..3 {
                let across = |p: &[u8]| p[i + c] as i32 * tap.weights[0] + p[k + c] as i32 * tap.weights[1];
                let down = |p: &[u8], weight: i32| (weight * (across(p) >> 4)) >> 16;
                out[c] = ((down(upper, row.weights[0]) + down(lower, row.weights[1]) + 2) >> 2) as u8;
            }
        }
    }

    /// rtmlib's `keypoints / ratio`, in f32.
    pub(super) fn to_photo(&self, xy: [f32; 2]) -> [f32; 2] {
        xy.map(|v| v / self.ratio)
    }
}

/// Pixel centres map to pixel centres. Returns the photo pixel and the fraction, as OpenCV rounds them.
fn position(index: usize, scale: f64) -> (i64, f32) {
    let at = ((index as f64 + 0.5) * scale - 0.5) as f32;
    let floor = at.floor();
    (floor as i64, at - floor)
}

fn weights(fraction: f32) -> [i32; 2] {
    [1.0 - fraction, fraction].map(|w| (w * 2048.0).round_ties_even() as i32)
}

/// Beyond the border a column takes the border pixel whole.
fn column(x: usize, scale: f64, width: usize) -> ResizeTap {
    let last = width as i64 - 1;
    let (i, fraction) = match position(x, scale) {
        (..0, _) => (0, 0.0),
        (i, _) if i >= last => (last, 0.0),
        inside => inside,
    };
    ResizeTap { first: i as u32, second: (i + 1).min(last) as u32, weights: weights(fraction) }
}

/// Beyond the border a row blends the border pixel with itself, which rounds differently.
fn row(y: usize, scale: f64, height: usize) -> ResizeTap {
    let last = height as i64 - 1;
    let (j, fraction) = position(y, scale);
    ResizeTap {
        first: j.clamp(0, last) as u32,
        second: (j + 1).clamp(0, last) as u32,
        weights: weights(fraction),
    }
}
