//! Smooth shapes on a photo.
//!
//! Everything is made of capsules (all points within `radius` of a segment): a pixel whose centre lies at distance `d`
//! from the segment is covered by `radius + 1/2 - d`, clamped to 0..1. Coordinates are pixel indices.

use crate::vision::Photo;

/// Red, green, blue.
pub type Rgb = [u8; 3];

/// Mixes two colours; `t` = 0 is `a`.
pub fn mix(a: Rgb, b: Rgb, t: f32) -> Rgb {
    [0, 1, 2].map(|c| (a[c] as f32 + (b[c] as f32 - a[c] as f32) * t).round() as u8)
}

/// How much of each pixel of a rectangle some shapes cover together.
#[derive(Default)]
pub struct Mask {
    x0: usize,
    y0: usize,
    width: usize,
    coverage: Vec<f32>,
}

impl Mask {
    /// Everything within `margin` of the points, inside the photo. Clears the mask.
    pub fn reset(&mut self, photo: &Photo, points: &[[f32; 2]], margin: f32) {
        let span = |axis: usize, len: usize| {
            let low = points.iter().map(|p| p[axis]).fold(f32::INFINITY, f32::min) - margin;
            let high = points.iter().map(|p| p[axis]).fold(f32::NEG_INFINITY, f32::max) + margin;
            let low = (low.floor().max(0.0) as usize).min(len);
            (low, ((high.ceil() + 1.0).max(0.0) as usize).clamp(low, len) - low)
        };
        let ((x0, width), (y0, height)) = (span(0, photo.width), span(1, photo.height));
        (self.x0, self.y0, self.width) = (x0, y0, width);
        self.coverage.clear();
        self.coverage.resize(width * height, 0.0);
    }

    /// Adds a capsule.
    pub fn capsule(&mut self, a: [f32; 2], b: [f32; 2], radius: f32) {
        let height = self.coverage.len().checked_div(self.width).unwrap_or(0);
        let (x0, y0, width) = (self.x0, self.y0, self.width);
        capsule(a, b, radius, (x0, y0, width, height), |x, y, _, cover| {
            let at = &mut self.coverage[(y - y0) * width + x - x0];
            *at = at.max(cover);
        });
    }

    /// Paints what is covered.
    pub fn paint(&self, photo: &mut Photo, color: Rgb, opacity: f32) {
        if self.width > 0 {
            for (dy, row) in self.coverage.chunks_exact(self.width).enumerate() {
                for (dx, &cover) in row.iter().enumerate().filter(|(_, c)| **c > 0.0) {
                    blend(photo, self.x0 + dx, self.y0 + dy, color, cover * opacity);
                }
            }
        }
    }
}

/// Paints a capsule whose colour goes from one end to the other.
pub fn line(photo: &mut Photo, a: [f32; 2], b: [f32; 2], radius: f32, colors: [Rgb; 2], opacity: f32) {
    let area = (0, 0, photo.width, photo.height);
    capsule(a, b, radius, area, |x, y, t, cover| {
        let color = if colors[0] == colors[1] { colors[0] } else { mix(colors[0], colors[1], t) };
        blend(photo, x, y, color, cover * opacity);
    });
}

/// Paints a disc.
pub fn disc(photo: &mut Photo, center: [f32; 2], radius: f32, color: Rgb, opacity: f32) {
    line(photo, center, center, radius, [color; 2], opacity);
}

/// Paints a rectangle with smooth edges.
pub fn rect(photo: &mut Photo, [x1, y1, x2, y2]: [f32; 4], color: Rgb, opacity: f32) {
    let inside =
        |low: f32, high: f32, i: usize| (high.min(i as f32 + 0.5) - low.max(i as f32 - 0.5)).clamp(0.0, 1.0);
    for y in (y1.floor().max(0.0) as usize)..((y2.ceil() + 1.0).max(0.0) as usize).min(photo.height) {
        for x in (x1.floor().max(0.0) as usize)..((x2.ceil() + 1.0).max(0.0) as usize).min(photo.width) {
            blend(photo, x, y, color, inside(x1, x2, x) * inside(y1, y2, y) * opacity);
        }
    }
}

/// Calls `put(x, y, t, coverage)` for every pixel of `area` (x, y, width, height) that the capsule touches; `t` is where
/// along the segment the nearest point lies.
fn capsule(
    a: [f32; 2],
    b: [f32; 2],
    radius: f32,
    (x0, y0, width, height): (usize, usize, usize, usize),
    mut put: impl FnMut(usize, usize, f32, f32),
) {
    // Beyond this f32 has no pixels left.
    if ![a, b].iter().flatten().all(|v| v.abs() < 1e6) || radius.is_nan() {
        return;
    }
    let reach = radius + 0.5;
    let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
    let length2 = dx * dx + dy * dy;
    let span = |low: f32, high: f32, start: usize, len: usize| {
        let low = (low.ceil().max(0.0) as usize).clamp(start, start + len);
        low..((high.floor() + 1.0).max(0.0) as usize).clamp(low, start + len)
    };
    for y in span(a[1].min(b[1]) - reach, a[1].max(b[1]) + reach, y0, height) {
        // The part of the segment that is near this row, and so the columns that may be.
        let (mut t0, mut t1) = (0.0, 1.0);
        if dy.abs() > 1e-6 {
            let (u, v) = ((y as f32 - reach - a[1]) / dy, (y as f32 + reach - a[1]) / dy);
            (t0, t1) = (u.min(v).clamp(0.0, 1.0), u.max(v).clamp(0.0, 1.0));
        }
        let (u, v) = (a[0] + t0 * dx, a[0] + t1 * dx);
        for x in span(u.min(v) - reach, u.max(v) + reach, x0, width) {
            let (px, py) = (x as f32 - a[0], y as f32 - a[1]);
            let t = if length2 > 0.0 { ((px * dx + py * dy) / length2).clamp(0.0, 1.0) } else { 0.0 };
            let cover = (reach - (px - t * dx).hypot(py - t * dy)).min(1.0);
            if cover > 0.0 {
                put(x, y, t, cover);
            }
        }
    }
}

fn blend(photo: &mut Photo, x: usize, y: usize, [r, g, b]: Rgb, alpha: f32) {
    let at = (y * photo.width + x) * 3;
    for (p, c) in photo.bgr[at..at + 3].iter_mut().zip([b, g, r]) {
        *p = (*p as f32 + (c as f32 - *p as f32) * alpha).round() as u8;
    }
}
