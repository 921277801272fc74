//! Smooth shapes on a photo, by tiny-skia. Coordinates are pixel indices: a pixel's centre has whole numbers.

use crate::pose::Rgb;
use crate::vision::Photo;
use tiny_skia::{FillRule, LineCap, LineJoin, Mask, Path, PathBuilder, Rect, Stroke, Transform};

/// Mixes two colours; `t` = 0 is `a`.
pub fn mix(a: Rgb, b: Rgb, t: f32) -> Rgb {
    [0, 1, 2].map(|c| (a[c] as f32 + (b[c] as f32 - a[c] as f32) * t).round() as u8)
}

/// Paths that are painted together: where they overlap, the colour lies on once.
#[derive(Default)]
pub struct Shape(Vec<Path>);

/// Beyond this f32 has no fractions of a pixel left.
const FARTHEST: f32 = 1e6;

/// Longer side of a piece of the photo that is painted at a time, so that the mask for it stays small.
const PIECE: usize = 2048;

impl Shape {
    /// A disc.
    pub fn disc(center: [f32; 2], radius: f32) -> Shape {
        let mut shape = Shape::default();
        shape.add_line(&[center, center], radius);
        shape
    }

    /// A line through `points` with round ends and corners: all that lies within `radius` of it.
    pub fn line(points: &[[f32; 2]], radius: f32) -> Shape {
        let mut shape = Shape::default();
        shape.add_line(points, radius);
        shape
    }

    /// A rectangle: left, top, right, bottom.
    pub fn rect([x1, y1, x2, y2]: [f32; 4]) -> Shape {
        let mut shape = Shape::default();
        shape.add(Rect::from_ltrb(x1, y1, x2, y2).map(PathBuilder::from_rect));
        shape
    }

    /// What `points` enclose.
    pub fn polygon(points: &[[f32; 2]]) -> Shape {
        let mut path = through(points);
        path.close();
        let mut shape = Shape::default();
        shape.add(path.finish());
        shape
    }

    /// Adds a line as [`Shape::line`] makes it; a point, given twice, is a disc.
    pub fn add_line(&mut self, points: &[[f32; 2]], radius: f32) {
        let Some(&[x, y]) = points.first() else { return };
        if points.iter().all(|p| *p == [x, y]) {
            return self.add(PathBuilder::from_circle(x, y, radius));
        }
        let stroke = Stroke {
            width: 2.0 * radius,
            line_cap: LineCap::Round,
            line_join: LineJoin::Round,
            ..Stroke::default()
        };
        self.add(through(points).finish().and_then(|path| path.stroke(&stroke, 1.0)));
    }

    /// Adds a path, if there is one, unless it reaches farther than any photo.
    pub fn add(&mut self, path: Option<Path>) {
        let near = |path: &Path| {
            let bounds = path.bounds();
            let edges = [bounds.left(), bounds.top(), bounds.right(), bounds.bottom()];
            edges.iter().all(|edge| edge.abs() < FARTHEST)
        };
        self.0.extend(path.filter(near));
    }

    /// Paints the shape; `opacity` 0 to 1.
    pub fn paint(&self, photo: &mut Photo, color: Rgb, opacity: f32) {
        let lowest =
            |edge: fn(&Rect) -> f32| self.0.iter().map(|p| edge(&p.bounds())).fold(f32::INFINITY, f32::min);
        let highest = |edge: fn(&Rect) -> f32| {
            self.0.iter().map(|p| edge(&p.bounds())).fold(f32::NEG_INFINITY, f32::max)
        };
        // Pixels that the shape may touch.
        let span = |low: f32, high: f32, len: usize| {
            let low = (low.floor().max(0.0) as usize).min(len);
            low..((high.ceil() + 1.0).max(0.0) as usize).clamp(low, len)
        };
        let columns = span(lowest(|b| b.left()), highest(|b| b.right()), photo.width);
        let rows = span(lowest(|b| b.top()), highest(|b| b.bottom()), photo.height);
        for y in rows.clone().step_by(PIECE) {
            for x in columns.clone().step_by(PIECE) {
                let size = (PIECE.min(columns.end - x), PIECE.min(rows.end - y));
                self.paint_piece(photo, (x, y), size, color, opacity);
            }
        }
    }

    fn paint_piece(
        &self,
        photo: &mut Photo,
        (x0, y0): (usize, usize),
        (width, height): (usize, usize),
        [r, g, b]: Rgb,
        opacity: f32,
    ) {
        let Some(mut mask) = Mask::new(width as u32, height as u32) else { return };
        // To tiny-skia a pixel's centre is at one half.
        let place = Transform::from_translate(0.5 - x0 as f32, 0.5 - y0 as f32);
        self.0.iter().for_each(|path| mask.fill_path(path, FillRule::Winding, true, place));
        for (y, covers) in mask.data().chunks_exact(width).enumerate() {
            let start = ((y0 + y) * photo.width + x0) * 3;
            let pixels = photo.bgr[start..start + width * 3].chunks_exact_mut(3);
            for (pixel, &cover) in pixels.zip(covers).filter(|(_, cover)| **cover > 0) {
                let alpha = cover as f32 / 255.0 * opacity;
                for (p, c) in pixel.iter_mut().zip([b, g, r]) {
                    *p = (*p as f32 + (c as f32 - *p as f32) * alpha).round() as u8;
                }
            }
        }
    }
}

/// A path through points, in their order.
fn through(points: &[[f32; 2]]) -> PathBuilder {
    let mut path = PathBuilder::new();
    for (i, &[x, y]) in points.iter().enumerate() {
        if i == 0 { path.move_to(x, y) } else { path.line_to(x, y) }
    }
    path
}
