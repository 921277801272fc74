//! Survivors to people in photo pixels.

use super::letterbox::Geometry;
use super::model::BOX_PADDING;
use super::{Letterbox, Survivors};
use std::ops::{Deref, DerefMut};

/// One joint of a person, in photo pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Keypoint {
    /// From the left edge; may lie outside the photo.
    pub x: f32,
    /// From the top edge; may lie outside the photo.
    pub y: f32,
    /// Confidence that it is visible, 0 to 1.
    pub score: f32,
}

/// A person, in photo pixels.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Person {
    /// Confidence, 0 to 1.
    pub score: f32,
    /// `x1, y1, x2, y2`; reaches into the letterbox's border at most.
    pub bbox: [f32; 4],
    /// In the skeleton's order.
    pub keypoints: Vec<Keypoint>,
    /// If they were asked for.
    pub heatmaps: Option<Heatmaps>,
    /// Who it is, from a [`Tracker`](crate::Tracker): the same number in every frame of a video, from 1 on. An engine, which
    /// sees one photo at a time, gives none.
    pub id: Option<u64>,
}

impl Keypoint {
    /// A joint at a place in photo pixels.
    pub fn new(x: f32, y: f32, score: f32) -> Keypoint {
        Keypoint { x, y, score }
    }
}

impl Person {
    /// A person without heatmaps and id.
    pub fn new(score: f32, bbox: [f32; 4], keypoints: Vec<Keypoint>) -> Person {
        Person { score, bbox, keypoints, heatmaps: None, id: None }
    }
}

/// What the Dynamic Coordinate Classifier saw of a person (paper, figure 4): for each keypoint, probabilities of the
/// bins along either axis. The first and last bin lie at the ends of the range.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Heatmaps {
    /// Keypoints times horizontal bins.
    pub x: Vec<f32>,
    /// Keypoints times vertical bins.
    pub y: Vec<f32>,
    /// Photo pixels of the first and the last horizontal bin.
    pub x_range: [f32; 2],
    /// Photo pixels of the first and the last vertical bin.
    pub y_range: [f32; 2],
}

/// The people of one photo, by falling score: a `Vec<Person>` that also says what is missing from it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct People {
    people: Vec<Person>,
    not_finite: usize,
}

impl People {
    /// How many people are left out because the network's numbers for them were NaN or infinite. Above 0, the weights are
    /// broken, or too large for the precision: then an empty list does not mean that the photo has no people.
    pub fn not_finite(&self) -> usize {
        self.not_finite
    }

    /// Sets [`People::not_finite`], for people who are put together again from what an engine gave.
    pub fn with_not_finite(self, not_finite: usize) -> People {
        People { not_finite, ..self }
    }
}

impl Deref for People {
    type Target = Vec<Person>;

    fn deref(&self) -> &Vec<Person> {
        &self.people
    }
}

impl DerefMut for People {
    fn deref_mut(&mut self) -> &mut Vec<Person> {
        &mut self.people
    }
}

impl From<Vec<Person>> for People {
    fn from(people: Vec<Person>) -> People {
        People { people, not_finite: 0 }
    }
}

impl From<People> for Vec<Person> {
    fn from(people: People) -> Vec<Person> {
        people.people
    }
}

impl IntoIterator for People {
    type Item = Person;
    type IntoIter = std::vec::IntoIter<Person>;

    fn into_iter(self) -> Self::IntoIter {
        self.people.into_iter()
    }
}

impl<'a> IntoIterator for &'a People {
    type Item = &'a Person;
    type IntoIter = std::slice::Iter<'a, Person>;

    fn into_iter(self) -> Self::IntoIter {
        self.people.iter()
    }
}

impl Person {
    /// Whether all numbers are finite.
    fn is_finite(&self) -> bool {
        let joints = self.keypoints.iter().flat_map(|k| [k.x, k.y, k.score]);
        self.bbox.into_iter().chain([self.score]).chain(joints).all(f32::is_finite)
    }
}

/// People in photo pixels, by falling score, from what a backend returns in network-input pixels.
///
/// Those with a number that is not finite are left out and counted. As mmpose does, boxes are clamped to the network input and keypoints are not; with rtmlib's geometry neither is.
///
/// # Panics
/// If the lengths in `survivors` contradict each other.
pub fn people(survivors: &Survivors, letterbox: &Letterbox) -> People {
    let n = survivors.scores.len();
    assert_eq!(survivors.boxes.len(), n, "boxes of survivors");
    assert_eq!(survivors.keypoints.len(), survivors.visibility.len(), "keypoints and their scores");
    let k = survivors.keypoints.len().checked_div(n).unwrap_or(0);
    assert_eq!(survivors.keypoints.len(), n * k, "keypoints of survivors");
    let (w, h) = letterbox.input_size();
    let clamped = matches!(letterbox.geometry(), Geometry::Warp(_));
    let corner = |[x, y]: [f32; 2]| {
        letterbox.to_photo(if clamped { [x.clamp(0.0, w as f32), y.clamp(0.0, h as f32)] } else { [x, y] })
    };
    let mut people: Vec<Person> = (0..n)
        .map(|i| {
            let [x1, y1, x2, y2] = survivors.boxes[i];
            let ([x1, y1], [x2, y2]) = (corner([x1, y1]), corner([x2, y2]));
            let joints = survivors.keypoints[i * k..(i + 1) * k].iter().zip(&survivors.visibility[i * k..]);
            let keypoints = joints
                .map(|(&xy, &score)| {
                    let [x, y] = letterbox.to_photo(xy);
                    Keypoint { x, y, score }
                })
                .collect();
            let heatmaps = heatmaps(survivors, i, letterbox);
            Person { score: survivors.scores[i], bbox: [x1, y1, x2, y2], keypoints, heatmaps, id: None }
        })
        .collect();
    people.retain(Person::is_finite);
    people.sort_by(|a, b| b.score.total_cmp(&a.score));
    let not_finite = survivors.not_finite + n - people.len();
    People { people, not_finite }
}

/// The heatmaps of survivor `i`, if there are any.
fn heatmaps(survivors: &Survivors, i: usize, letterbox: &Letterbox) -> Option<Heatmaps> {
    let n = survivors.scores.len();
    let of_person = |maps: &[f32]| {
        assert_eq!(maps.len() % n, 0, "heatmaps of {n} people");
        let len = maps.len() / n;
        (len > 0).then(|| maps[i * len..(i + 1) * len].to_vec())
    };
    let (x, y) = (of_person(&survivors.heatmaps_x)?, of_person(&survivors.heatmaps_y)?);
    let [x1, y1, x2, y2] = survivors.boxes[i];
    let pad = (BOX_PADDING - 1.0) / 2.0;
    let [left, top] = letterbox.to_photo([x1 - pad * (x2 - x1), y1 - pad * (y2 - y1)]);
    let [right, bottom] = letterbox.to_photo([x2 + pad * (x2 - x1), y2 + pad * (y2 - y1)]);
    Some(Heatmaps { x, y, x_range: [left, right], y_range: [top, bottom] })
}

/// rtmlib's second selection: greedy NMS (0.45 there) on boxes whose far edges count as a pixel more. `people` come by
/// falling score. (Where no person is left, rtmlib returns a person of zeros; this returns none.)
pub fn rtmlib_nms(people: &mut Vec<Person>, thr: f32) {
    let iou = |a: &[f32; 4], b: &[f32; 4]| {
        let area = |r: &[f32; 4]| (r[2] - r[0] + 1.0) * (r[3] - r[1] + 1.0);
        let w = (a[2].min(b[2]) - a[0].max(b[0]) + 1.0).max(0.0);
        let h = (a[3].min(b[3]) - a[1].max(b[1]) + 1.0).max(0.0);
        w * h / (area(a) + area(b) - w * h)
    };
    let mut kept: Vec<[f32; 4]> = Vec::new();
    people.retain(|p| {
        let keep = kept.iter().all(|better| iou(better, &p.bbox) <= thr);
        if keep {
            kept.push(p.bbox);
        }
        keep
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(score: f32, bbox: [f32; 4], points: &[[f32; 2]]) -> Person {
        let keypoints = points.iter().map(|&[x, y]| Keypoint { x, y, score: 1.0 }).collect();
        Person { score, bbox, keypoints, heatmaps: None, id: None }
    }

    #[test]
    fn boxes_are_clamped_and_keypoints_are_not() {
        let survivors = Survivors {
            scores: vec![0.3, 0.9],
            boxes: vec![[-50.0, 100.0, 700.0, 300.0], [10.0, 90.0, 20.0, 100.0]],
            priors: vec![[7.5, 7.5]; 2],
            keypoints: vec![[-10.0, 80.0], [640.0, 660.0], [0.0, 80.0], [320.0, 320.0]],
            visibility: vec![0.1, 0.2, 0.3, 0.4],
            ..Default::default()
        };
        // Half size, 80 rows of border above and below.
        let found = people(&survivors, &Letterbox::new((1280, 960), (640, 640)));
        assert_eq!(found.iter().map(|p| p.score).collect::<Vec<_>>(), [0.9, 0.3]);
        assert_eq!(found[1].bbox, [0.0, 40.0, 1280.0, 440.0]);
        assert_eq!(found[1].keypoints[0], Keypoint { x: -20.0, y: 0.0, score: 0.1 });
        assert_eq!(found[0].keypoints[1], Keypoint { x: 640.0, y: 480.0, score: 0.4 });
        let compat = people(&survivors, &Letterbox::rtmlib((1280, 960), (640, 640)));
        assert_eq!(compat[1].bbox, [-100.0, 200.0, 1400.0, 600.0]);
        assert!(people(&Survivors::default(), &Letterbox::new((3, 3), (32, 32))).is_empty());
    }

    #[test]
    fn rtmlib_counts_the_last_pixel() {
        let boxes =
            [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 4.0], [100.0, 0.0, 110.0, 10.0], [0.0, 0.0, 1.0, 1.0]];
        let scores = [0.9, 0.8, 0.75, 0.7];
        let mut all: Vec<Person> = scores.iter().zip(boxes).map(|(&s, b)| person(s, b, &[])).collect();
        rtmlib_nms(&mut all, 0.45);
        // The second overlaps the first by 4 / 10, or 5 / 11 with the extra pixel.
        assert_eq!(all.iter().map(|p| p.score).collect::<Vec<_>>(), [0.9, 0.75, 0.7]);
    }
}
