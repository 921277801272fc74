//! Text as shapes, in Roboto Medium.

use super::shape::Shape;
use crate::pose::Rgb;
use crate::vision::Photo;
use std::sync::LazyLock;
use tiny_skia::PathBuilder;
use ttf_parser::{Face, OutlineBuilder};

/// The printable signs of ASCII of Roboto Medium, Copyright 2011 Google Inc., Apache License 2.0.
const FONT: &[u8] = include_bytes!("roboto-medium-ascii.ttf");

static FACE: LazyLock<Face<'static>> =
    LazyLock::new(|| Face::parse(FONT, 0).expect("the font is part of the program"));

/// A line of text: how large, how heavy, and which way.
#[derive(Clone, Copy)]
pub struct Text {
    /// Height of a capital in pixels.
    pub height: f32,
    /// Colour.
    pub color: Rgb,
    /// Whether it runs upwards instead of to the right.
    pub upwards: bool,
}

impl Text {
    /// Pixels of a unit of the font.
    fn scale(&self) -> f32 {
        self.height / FACE.capital_height().unwrap_or(1456) as f32
    }

    /// Pixels from the first to the last sign.
    pub fn width(&self, text: &str) -> f32 {
        text.chars().map(|sign| advance(sign) * self.scale()).sum()
    }

    /// Paints `text`; `at` is the left end of its base line. Signs that the font does not have are left out.
    pub fn paint(&self, photo: &mut Photo, at: [f32; 2], text: &str) {
        let mut outline =
            Outline { path: PathBuilder::new(), at, scale: self.scale(), x: 0.0, upwards: self.upwards };
        for sign in text.chars() {
            if let Some(glyph) = FACE.glyph_index(sign) {
                FACE.outline_glyph(glyph, &mut outline);
            }
            outline.x += advance(sign);
        }
        let mut shape = Shape::default();
        shape.add(outline.path.finish());
        shape.paint(photo, self.color, 1.0);
    }
}

/// From a sign to the next, in units of the font.
fn advance(sign: char) -> f32 {
    FACE.glyph_index(sign).and_then(|glyph| FACE.glyph_hor_advance(glyph)).unwrap_or(0) as f32
}

/// Puts outlines in units of the font at their places in the photo.
struct Outline {
    path: PathBuilder,
    at: [f32; 2],
    scale: f32,
    /// Where the sign begins, in units of the font.
    x: f32,
    upwards: bool,
}

impl Outline {
    fn place(&self, x: f32, y: f32) -> [f32; 2] {
        let (right, up) = ((self.x + x) * self.scale, y * self.scale);
        let [x, y] = self.at;
        if self.upwards { [x - up, y - right] } else { [x + right, y - up] }
    }
}

impl OutlineBuilder for Outline {
    fn move_to(&mut self, x: f32, y: f32) {
        let [x, y] = self.place(x, y);
        self.path.move_to(x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let [x, y] = self.place(x, y);
        self.path.line_to(x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let ([x1, y1], [x, y]) = (self.place(x1, y1), self.place(x, y));
        self.path.quad_to(x1, y1, x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let ([x1, y1], [x2, y2], [x, y]) = (self.place(x1, y1), self.place(x2, y2), self.place(x, y));
        self.path.cubic_to(x1, y1, x2, y2, x, y);
    }

    fn close(&mut self) {
        self.path.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_printable_sign_of_ascii_has_an_outline() {
        for sign in '!'..='~' {
            let mut photo = Photo::filled(40, 40, [255; 3]);
            let text = Text { height: 20.0, color: [0; 3], upwards: false };
            text.paint(&mut photo, [10.0, 30.0], &sign.to_string());
            assert!(photo.bgr.iter().any(|&byte| byte < 128), "{sign}");
            assert!(text.width(&sign.to_string()) > 3.0, "{sign}");
        }
    }
}
