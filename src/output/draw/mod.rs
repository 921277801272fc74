//! People drawn on photos, and their 1-D heatmaps beside them.

mod heatmaps;
mod shape;
mod text;

pub use heatmaps::draw_heatmaps;

use crate::pose::skeleton::Bone;
use crate::pose::{Person, Rgb, Side, Skeleton};
use crate::vision::Photo;
use shape::{Shape, mix};
use text::Text;

/// What [`draw_people`] draws.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct DrawOptions {
    /// Keypoints of a lower score are left out, and so are their bones.
    pub keypoint_thr: f32,
    /// Boxes and scores too.
    pub boxes: bool,
    /// Times the line width that suits the photo and the person.
    pub width: f32,
}

impl DrawOptions {
    /// Sets [`DrawOptions::keypoint_thr`].
    pub fn with_keypoint_thr(self, keypoint_thr: f32) -> DrawOptions {
        DrawOptions { keypoint_thr, ..self }
    }

    /// Sets [`DrawOptions::boxes`].
    pub fn with_boxes(self, boxes: bool) -> DrawOptions {
        DrawOptions { boxes, ..self }
    }

    /// Sets [`DrawOptions::width`].
    pub fn with_width(self, width: f32) -> DrawOptions {
        DrawOptions { width, ..self }
    }
}

impl Default for DrawOptions {
    fn default() -> Self {
        DrawOptions { keypoint_thr: 0.3, boxes: false, width: 1.0 }
    }
}

const WHITE: Rgb = [255; 3];
const INK: Rgb = [16, 18, 24];

/// Bright on grass, skin and shade alike; neighbours in the list differ most.
const PALETTE: [Rgb; 12] = [
    [255, 82, 110],
    [46, 196, 255],
    [255, 196, 46],
    [61, 220, 132],
    [178, 120, 255],
    [255, 138, 61],
    [33, 212, 195],
    [255, 111, 216],
    [166, 226, 46],
    [91, 140, 255],
    [244, 224, 77],
    [240, 98, 60],
];

/// The colour of the `i`-th person, counted from the best.
pub fn person_color(i: usize) -> Rgb {
    PALETTE[i % PALETTE.len()]
}

/// The colour of an id, the same in every picture. The first 36 differ: the list's, its lighter and its darker colours.
pub fn id_color(id: u64) -> Rgb {
    let i = (id.max(1) - 1) % (3 * PALETTE.len() as u64);
    let color = person_color(i as usize);
    match i / PALETTE.len() as u64 {
        0 => color,
        1 => mix(color, WHITE, 0.55),
        _ => mix(color, INK, 0.45),
    }
}

/// The person's left is lighter and the right darker than the rest.
fn nuance(color: Rgb, side: Side) -> Rgb {
    match side {
        Side::Left => mix(color, WHITE, 0.38),
        Side::Right => mix(color, INK, 0.22),
        Side::Center => color,
    }
}

/// Draws people, the best on top. Without a `skeleton` of as many keypoints as they have, only their joints. People with an
/// [id](Person::id) have its colour in every picture, and the id above their heads or on their boxes.
pub fn draw_people(photo: &mut Photo, people: &[Person], skeleton: Option<&Skeleton>, options: &DrawOptions) {
    for (i, person) in people.iter().enumerate().rev() {
        let skeleton = skeleton.filter(|s| s.len() == person.keypoints.len());
        let width = line_width(photo, person) * options.width;
        let color = person.id.map_or(person_color(i), id_color);
        if options.boxes {
            draw_box(photo, person, color, width);
        }
        draw_person(photo, person, skeleton, color, width, options.keypoint_thr);
        if let Some(id) = person.id.filter(|_| !options.boxes) {
            draw_id(photo, person, id, color, width, options.keypoint_thr);
        }
    }
}

/// Lines of 1/45 of the person's size, within what looks right in the photo.
fn line_width(photo: &Photo, person: &Person) -> f32 {
    let diagonal = (photo.width as f32).hypot(photo.height as f32);
    let [x1, y1, x2, y2] = person.bbox;
    let size = ((x2 - x1).max(0.0) * (y2 - y1).max(0.0)).sqrt();
    (size / 45.0).clamp((diagonal / 500.0).max(1.0), (diagonal / 130.0).max(1.5))
}

fn draw_person(
    photo: &mut Photo,
    person: &Person,
    skeleton: Option<&Skeleton>,
    color: Rgb,
    width: f32,
    keypoint_thr: f32,
) {
    let seen = |k: usize| {
        let joint = person.keypoints[k];
        (joint.score >= keypoint_thr && joint.x.is_finite() && joint.y.is_finite())
            .then_some([joint.x, joint.y])
    };
    let joints: Vec<(usize, [f32; 2])> =
        (0..person.keypoints.len()).filter_map(|k| seen(k).map(|p| (k, p))).collect();
    let bones: Vec<(&Bone, [f32; 2], [f32; 2])> = skeleton
        .iter()
        .flat_map(|s| s.bones())
        .filter_map(|bone| Some((bone, seen(bone.from)?, seen(bone.to)?)))
        .collect();
    let side = |k: usize| skeleton.map_or(Side::Center, |s| s.side(k));
    // Joints of the face lie close together, and small people's all do.
    let face = |k: usize| {
        skeleton.is_some_and(|s| ["nose", "eye", "ear"].iter().any(|f| s.keypoint(k).ends_with(f)))
    };
    let radius = |k: usize| width * if face(k) { 0.72 } else { 1.0 };

    // One shadow around all of it, so that it reads on any ground.
    let rim = (width * 0.35).clamp(0.8, 2.5);
    let mut shadow = Shape::default();
    bones.iter().for_each(|&(_, a, b)| shadow.add_line(&[a, b], width / 2.0 + rim));
    joints.iter().for_each(|&(k, p)| shadow.add_line(&[p, p], radius(k) + rim));
    shadow.paint(photo, INK, 0.55);

    for &(bone, a, b) in &bones {
        // A bone between the sides is neither; one to the centre line is its side's.
        let side = match (side(bone.from), side(bone.to)) {
            (Side::Center, other) | (other, Side::Center) => other,
            (a, b) if a == b => a,
            _ => Side::Center,
        };
        let color = bone.color.unwrap_or_else(|| nuance(color, side));
        Shape::line(&[a, b], width / 2.0).paint(photo, color, 1.0);
    }
    for &(k, p) in &joints {
        Shape::disc(p, radius(k)).paint(photo, WHITE, 1.0);
        let color = skeleton.and_then(|s| s.keypoint_color(k)).unwrap_or_else(|| nuance(color, side(k)));
        Shape::disc(p, radius(k) * 0.62).paint(photo, color, 1.0);
    }
}

fn draw_box(photo: &mut Photo, person: &Person, color: Rgb, width: f32) {
    let [x1, y1, x2, y2] = person.bbox;
    let corners = [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]];
    let radius = (width * 0.18).max(0.5);
    for (shade, radius, opacity) in [(INK, radius + 1.0, 0.4), (color, radius, 1.0)] {
        Shape::line(&corners, radius).paint(photo, shade, opacity);
    }
    draw_label(photo, person, color, width);
}

/// The person's id and score above the box, or inside where the photo ends. They never outgrow the box: those of a small
/// person are small, and there are none where they would not be legible.
fn draw_label(photo: &mut Photo, person: &Person, color: Rgb, width: f32) {
    let [x1, y1, x2, y2] = person.bbox;
    let text = match person.id {
        Some(id) => format!("{id}  {:.2}", person.score),
        None => format!("{:.2}", person.score),
    };
    let size = |height: f32| Label::new(&text, height);
    let Label { height, w, h, .. } = size((width * 2.6).clamp(7.0, 40.0));
    let scale = (0.4 * (x2 - x1) / w).min((y2 - y1) / 6.0 / h).min(1.0);
    let label = size((height * scale).max(LEGIBLE));
    if label.w <= x2 - x1 && label.h <= (y2 - y1) / 3.0 {
        let left = x1.clamp(0.0, (photo.width as f32 - label.w).max(0.0));
        let top = if y1 >= label.h { y1 - label.h } else { y1.max(0.0) };
        label.paint(photo, [left, top], color);
    }
}

/// The person's id above the highest joint that is drawn, or above the box if none is, and within the photo.
fn draw_id(photo: &mut Photo, person: &Person, id: u64, color: Rgb, width: f32, keypoint_thr: f32) {
    let [x1, y1, x2, _] = person.bbox;
    let seen =
        person.keypoints.iter().filter(|k| k.score >= keypoint_thr && k.x.is_finite() && k.y.is_finite());
    let head = seen.min_by(|a, b| a.y.total_cmp(&b.y));
    let (x, y) = head.map_or(((x1 + x2) / 2.0, y1), |k| (k.x, k.y.min(y1.max(k.y - 8.0 * width))));
    let text = id.to_string();
    let label = Label::new(&text, (width * 2.6).clamp(LEGIBLE + 2.0, 40.0));
    let within = |at: f32, most: f32| at.clamp(0.0, most.max(0.0));
    let left = within(x - label.w / 2.0, photo.width as f32 - label.w);
    let top = within(y - label.h - 1.5 * width, photo.height as f32 - label.h);
    if left.is_finite() && top.is_finite() {
        label.paint(photo, [left, top], color);
    }
}

/// Text on a ground of its own.
struct Label<'a> {
    text: &'a str,
    /// Of a capital letter.
    height: f32,
    w: f32,
    h: f32,
}

impl Label<'_> {
    fn new(text: &str, height: f32) -> Label<'_> {
        let w = Text { height, color: INK, upwards: false }.width(text) + 2.0 * MARGIN * height;
        Label { text, height, w, h: (1.0 + 2.0 * MARGIN) * height }
    }

    fn paint(&self, photo: &mut Photo, [left, top]: [f32; 2], ground: Rgb) {
        let &Label { text, height, w, h } = self;
        let pad = MARGIN * height;
        Shape::rect([left - 0.5, top - 0.5, left + w, top + h]).paint(photo, ground, 1.0);
        let letters = Text { height, color: INK, upwards: false };
        letters.paint(photo, [left + pad, top + h - pad - 0.5], text);
    }
}

/// Around a label's letters, in their heights.
const MARGIN: f32 = 0.4;

/// Height of the smallest letters that can be read.
const LEGIBLE: f32 = 6.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pose::Keypoint;

    /// Rows above a box of this size that its label covers.
    fn label_rows(width: f32, height: f32) -> usize {
        let mut photo = Photo::filled(1600, 900, [128; 3]);
        let bbox = [500.0, 400.0, 500.0 + width, 400.0 + height];
        let person = Person::new(0.75, bbox, Vec::new());
        draw_people(&mut photo, &[person], None, &DrawOptions { boxes: true, ..Default::default() });
        (0..394).filter(|&y| photo.row(y).iter().any(|&byte| byte != 128)).count()
    }

    #[test]
    fn labels_are_as_small_as_their_boxes() {
        let (large, small, tiny) = (label_rows(300.0, 600.0), label_rows(40.0, 80.0), label_rows(16.0, 30.0));
        assert!(large > 15 && (4..12).contains(&small) && tiny == 0, "{large} {small} {tiny} rows");
    }

    #[test]
    fn an_id_has_one_color_and_stands_above_the_head() {
        let colors: std::collections::HashSet<Rgb> = (1..=36).map(id_color).collect();
        assert_eq!((colors.len(), id_color(1), id_color(37)), (36, PALETTE[0], PALETTE[0]));
        let drawn = |ids: [Option<u64>; 2]| {
            let mut photo = Photo::filled(640, 480, [128; 3]);
            let person = |(x, id): (f32, _)| {
                let joints = vec![Keypoint::new(x + 30.0, 120.0, 0.9), Keypoint::new(x + 30.0, 300.0, 0.9)];
                Person { id, ..Person::new(0.9, [x, 100.0, x + 60.0, 310.0], joints) }
            };
            let [a, b] = ids;
            draw_people(&mut photo, &[(100.0, a), (400.0, b)].map(person), None, &DrawOptions::default());
            photo
        };
        let half = |photo: &Photo, right: usize| -> Vec<u8> {
            (0..480).flat_map(|y| photo.row(y)[right * 960..][..960].to_vec()).collect()
        };
        let (none, one, both) = (drawn([None; 2]), drawn([Some(7), None]), drawn([Some(7), Some(2)]));
        // The second is painted as ever beside one who has an id; the first as ever beside another.
        assert_eq!(half(&none, 1), half(&one, 1));
        assert_eq!(half(&one, 0), half(&both, 0));
        let above = |photo: &Photo| (0..100).any(|y| photo.row(y).iter().any(|&byte| byte != 128));
        assert!(!above(&none) && above(&one));
    }
}
