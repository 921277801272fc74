//! What the Dynamic Coordinate Classifier saw of one person (paper, figure 4).

use super::shape::{Shape, mix};
use super::text::Text;
use super::{DrawOptions, INK, WHITE, draw_people};
use crate::pose::{Heatmaps, Person, Rgb, Skeleton};
use crate::vision::Photo;

/// Longer side of the picture in pixels.
const PICTURE: f32 = 640.0;
/// Height of one keypoint's curve, and from one to the next.
const CURVE: f32 = 40.0;
const STEP: f32 = 22.0;
/// Width of a curve beside the picture: no column reaches into the next, as rows do behind the one before.
const COLUMN: f32 = STEP - 4.0;
const MARGIN: f32 = 24.0;
/// For the names of the keypoints.
const NAMES: f32 = 112.0;

/// Lower parts of a curve are left to its base line.
const SHOWN: f32 = 0.01;

const PAPER: Rgb = [250, 250, 248];
const GRID: Rgb = [222, 222, 218];

/// A person in a picture of its own: the part of the photo that the bins span, with the pose; below it the distribution
/// over the horizontal bins for each keypoint, to its right over the vertical ones. All curves have the same height;
/// marks show the expected positions, which are the keypoints. `None` if the person has no heatmaps.
pub fn draw_heatmaps(photo: &Photo, person: &Person, skeleton: Option<&Skeleton>) -> Option<Photo> {
    let k = person.keypoints.len();
    let Heatmaps { x, y, x_range: [left, right], y_range: [top, bottom] } = person.heatmaps.as_ref()?;
    if k == 0 || x.len() < k || y.len() < k {
        return None;
    }
    let (maps_x, maps_y): (Vec<_>, Vec<_>) =
        (x.chunks_exact(x.len() / k).collect(), y.chunks_exact(y.len() / k).collect());
    let (left, right, top, bottom) = (*left, *right, *top, *bottom);
    let (w, h) = ((right - left).max(1.0), (bottom - top).max(1.0));
    let scale = PICTURE / w.max(h);
    let (w, h) = ((w * scale).round().max(64.0), (h * scale).round().max(64.0));

    let panel = STEP * (k - 1) as f32 + CURVE;
    let (x0, y0) = (MARGIN + NAMES, MARGIN + NAMES);
    let (width, height) = (x0 + w + MARGIN + STEP * k as f32 + MARGIN, y0 + h + MARGIN + panel + MARGIN);
    let [r, g, b] = PAPER;
    let mut page = Photo::filled(width as usize, height as usize, [b, g, r]);

    // The picture, and the person in its coordinates.
    let to_page = |x: f32, y: f32| {
        [x0 + (x - left) * (w - 1.0) / (right - left).max(1.0), {
            y0 + (y - top) * (h - 1.0) / (bottom - top).max(1.0)
        }]
    };
    let mut picture = Photo::filled(w as usize, h as usize, [228, 228, 230]);
    for y in 0..picture.height {
        for x in 0..picture.width {
            let at_x = left + x as f32 * (right - left).max(1.0) / (w - 1.0);
            let at_y = top + y as f32 * (bottom - top).max(1.0) / (h - 1.0);
            if let Some(bgr) = sample(photo, at_x, at_y) {
                let at = (y * picture.width + x) * 3;
                picture.bgr[at..at + 3].copy_from_slice(&bgr);
            }
        }
    }
    let mut here = person.clone();
    for joint in &mut here.keypoints {
        let [x, y] = to_page(joint.x, joint.y);
        (joint.x, joint.y) = (x - x0, y - y0);
    }
    let ([bx1, by1], [bx2, by2]) =
        (to_page(person.bbox[0], person.bbox[1]), to_page(person.bbox[2], person.bbox[3]));
    here.bbox = [bx1 - x0, by1 - y0, bx2 - x0, by2 - y0];
    draw_people(&mut picture, std::slice::from_ref(&here), skeleton, &DrawOptions::default());
    // Joints take the colours of their curves.
    for (j, joint) in here.keypoints.iter().enumerate().filter(|(_, joint)| joint.score >= 0.3) {
        Shape::disc([joint.x, joint.y], 6.5).paint(&mut picture, INK, 0.35);
        Shape::disc([joint.x, joint.y], 5.5).paint(&mut picture, WHITE, 1.0);
        Shape::disc([joint.x, joint.y], 4.0).paint(&mut picture, hue(j as f32 / k as f32), 1.0);
    }
    for y in 0..picture.height {
        let at = ((y0 as usize + y) * page.width + x0 as usize) * 3;
        page.bgr[at..at + picture.width * 3].copy_from_slice(picture.row(y));
    }

    let text = Text { height: 8.0, color: mix(INK, WHITE, 0.25), upwards: false };
    let name = |j: usize| match skeleton.filter(|s| s.len() == k) {
        Some(s) => s.keypoint(j).replace('_', " "),
        None => format!("{j}"),
    };
    for j in 0..k {
        let color = hue(j as f32 / k as f32);
        // From back to front, each curve stands on its own line.
        let base = y0 + h + MARGIN + CURVE + STEP * j as f32;
        let along = |t: f32| x0 + t * (w - 1.0);
        Shape::line(&[[along(0.0), base], [along(1.0), base]], 0.5).paint(&mut page, GRID, 1.0);
        curve(&mut page, maps_x[j], color, |t, v| [along(t), base - v * (CURVE - 4.0)]);
        let label = name(j);
        text.paint(&mut page, [x0 - 10.0 - text.width(&label), base], &label);

        let base = x0 + w + MARGIN + STEP * j as f32;
        let along = |t: f32| y0 + t * (h - 1.0);
        Shape::line(&[[base, along(0.0)], [base, along(1.0)]], 0.5).paint(&mut page, GRID, 1.0);
        curve(&mut page, maps_y[j], color, |t, v| [base + v * COLUMN, along(t)]);
        let upwards = Text { upwards: true, ..text };
        upwards.paint(&mut page, [base + 4.0, y0 - 10.0], &label);
    }
    let title = Text { height: 13.0, color: INK, upwards: false };
    title.paint(&mut page, [MARGIN, MARGIN + 13.0], &format!("person {:.2}", person.score));
    Shape::rect([MARGIN, MARGIN + 22.0, MARGIN + 40.0, MARGIN + 23.0]).paint(&mut page, INK, 1.0);
    Some(page)
}

/// One distribution: its area, its outline, and its mean. `place` maps position and height, both 0..1, to the page.
fn curve(page: &mut Photo, bins: &[f32], color: Rgb, place: impl Fn(f32, f32) -> [f32; 2]) {
    let highest = bins.iter().copied().fold(0.0, f32::max);
    if !(highest > 0.0 && highest.is_finite()) {
        return;
    }
    let at = |i: usize| i as f32 / (bins.len() - 1).max(1) as f32;
    let points: Vec<[f32; 2]> = bins.iter().enumerate().map(|(i, v)| place(at(i), v / highest)).collect();
    // Stretches of bins, each with a neighbour that is high enough to be seen.
    let shown = |i: &usize| bins[*i].max(bins[i + 1]) > SHOWN * highest;
    let segments: Vec<usize> = (0..bins.len() - 1).filter(shown).collect();
    let stretches: Vec<_> =
        segments.chunk_by(|a, b| a + 1 == *b).map(|s| s[0]..=s[s.len() - 1] + 1).collect();
    for stretch in &stretches {
        let ends = [place(at(*stretch.end()), 0.0), place(at(*stretch.start()), 0.0)];
        Shape::polygon(&[&points[stretch.clone()], &ends].concat()).paint(page, color, 0.30);
    }
    for stretch in stretches {
        Shape::line(&points[stretch], 0.7).paint(page, mix(color, INK, 0.12), 1.0);
    }
    let mean: f32 = bins.iter().enumerate().map(|(i, p)| at(i) * p).sum::<f32>() / bins.iter().sum::<f32>();
    Shape::line(&[place(mean, 0.0), place(mean, 1.08)], 0.6).paint(page, mix(color, INK, 0.65), 1.0);
}

/// Bilinear; `None` outside.
fn sample(photo: &Photo, x: f32, y: f32) -> Option<[u8; 3]> {
    if !(x > -0.5 && y > -0.5 && x < photo.width as f32 - 0.5 && y < photo.height as f32 - 0.5) {
        return None;
    }
    let (x, y) = (x.clamp(0.0, photo.width as f32 - 1.0), y.clamp(0.0, photo.height as f32 - 1.0));
    let (i, j) = (x as usize, y as usize);
    let (a, b) = (x.fract(), y.fract());
    let (k, l) = ((i + 1).min(photo.width - 1), (j + 1).min(photo.height - 1));
    let [p, q, r, s] = [photo.pixel(i, j), photo.pixel(k, j), photo.pixel(i, l), photo.pixel(k, l)];
    Some([0, 1, 2].map(|c| {
        let across = |p: u8, q: u8| p as f32 + (q as f32 - p as f32) * a;
        let (u, v) = (across(p[c], q[c]), across(r[c], s[c]));
        (u + (v - u) * b).round() as u8
    }))
}

/// A circle of colours of about equal weight; `t` in 0..1.
fn hue(t: f32) -> Rgb {
    let wave = |shift: f32| (0.5 + 0.5 * (std::f32::consts::TAU * (t + shift)).cos()) * 190.0 + 35.0;
    [wave(0.0) as u8, (wave(-1.0 / 3.0) * 0.85) as u8, wave(1.0 / 3.0) as u8]
}
