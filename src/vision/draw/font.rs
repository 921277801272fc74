//! Capitals, digits and a few signs, as strokes on a grid of 4 by 6.

use super::canvas::{self, Rgb};
use crate::vision::Photo;

/// Strokes of a sign, parted by spaces; a stroke is a row of points, two digits each: x to the right, y down.
fn strokes(sign: char) -> &'static str {
    match sign.to_ascii_uppercase() {
        'A' => "062046 1434",
        'B' => "06003041423303 3344453606",
        'C' => "4130100105163645",
        'D' => "06002042442606",
        'E' => "40000646 0333",
        'F' => "400006 0333",
        'G' => "41301001051636454323",
        'H' => "0006 4046 0343",
        'I' => "0006",
        'J' => "4045361605",
        'K' => "0006 400346",
        'L' => "000646",
        'M' => "0600234046",
        'N' => "06004640",
        'O' | '0' => "103041453616050110",
        'P' => "06003041423303",
        'Q' => "103041453616050110 3446",
        'R' => "06003041423303 2346",
        'S' => "413010010213334445361605",
        'T' => "0040 2026",
        'U' => "000516364540",
        'V' => "002640",
        'W' => "0016223640",
        'X' => "0046 4006",
        'Y' => "002340 2326",
        'Z' => "00400646",
        '1' => "112026",
        '2' => "01103041420646",
        '3' => "01103041423313 334445361605",
        '4' => "36300444",
        '5' => "400002324345361605",
        '6' => "4130100105163645443303",
        '7' => "004016",
        '8' => "103041423313020110 1304051636454433",
        '9' => "4313020110304145361605",
        '.' => "0606",
        ',' => "0607",
        ':' => "0202 0606",
        '-' => "0333",
        '+' => "0343 2145",
        '/' => "0640",
        '%' => "4006 0010110100 3545463635",
        '(' => "20020426",
        ')' => "00222406",
        '=' => "0242 0444",
        _ => "",
    }
}

fn points(stroke: &str) -> impl Iterator<Item = [f32; 2]> + '_ {
    stroke.as_bytes().chunks_exact(2).map(|p| [0, 1].map(|i| (p[i] - b'0') as f32))
}

/// Grid columns that a sign takes, without the gap to the next.
fn width_of(sign: char) -> f32 {
    match strokes(sign) {
        "" => 2.0,
        s => s.split(' ').flat_map(points).map(|p| p[0]).fold(0.0, f32::max),
    }
}

/// Gap between signs in grid columns.
const GAP: f32 = 1.8;

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
    /// Pixels from the first to the last sign.
    pub fn width(&self, text: &str) -> f32 {
        let columns: f32 = text.chars().map(|c| width_of(c) + GAP).sum();
        (columns - GAP).max(0.0) * self.height / 6.0
    }

    /// Paints `text`; `at` is the left end of its base line.
    pub fn paint(&self, photo: &mut Photo, at: [f32; 2], text: &str) {
        let unit = self.height / 6.0;
        let radius = (self.height * 0.065).max(0.32);
        let mut x = 0.0;
        for sign in text.chars() {
            let place = |p: [f32; 2]| {
                let (right, up) = ((x + p[0]) * unit, (6.0 - p[1]) * unit);
                if self.upwards { [at[0] - up, at[1] - right] } else { [at[0] + right, at[1] - up] }
            };
            for stroke in strokes(sign).split(' ').filter(|s| !s.is_empty()) {
                let from = points(stroke).map(place);
                for (a, b) in from.zip(points(stroke).skip(1).map(place)) {
                    canvas::line(photo, a, b, radius, [self.color; 2], 1.0);
                }
            }
            x += width_of(sign) + GAP;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sign_is_well_formed() {
        for sign in "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:-+/%()=".chars() {
            let strokes = strokes(sign);
            assert!(!strokes.is_empty(), "{sign}");
            for stroke in strokes.split(' ') {
                assert!(stroke.len() >= 4 && stroke.len() % 2 == 0, "{sign}");
                assert!(points(stroke).all(|p| p[0] <= 4.0 && p[1] <= 7.0), "{sign}");
            }
        }
    }
}
