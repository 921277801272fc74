//! Which grids are people: threshold, box decoding, order, greedy NMS. mmpose `RTMOHead.predict`, in its f32
//! arithmetic, for backends whose head maps are in the host's memory.

use super::SelectParams;
use std::cmp::Ordering;

/// One head level, as [`select`] reads it: pixel `p = y * w + x` has its logit at `cls[p * cls_pitch]` and its four box
/// values at `bbox[p * bbox_pitch ..]`.
#[derive(Clone, Copy, Debug)]
pub struct LevelMaps<'a> {
    /// Class logits.
    pub cls: &'a [f32],
    /// Box regression: x, y offsets and log w, h, in units of the stride.
    pub bbox: &'a [f32],
    /// From one pixel's logit to the next.
    pub cls_pitch: usize,
    /// From one pixel's box to the next.
    pub bbox_pitch: usize,
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
    /// Network-input pixels a grid cell.
    pub stride: usize,
}

/// A grid that is a person. Coordinates are network-input pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Head level.
    pub level: usize,
    /// `y * w + x` in its level.
    pub index: usize,
    /// `sigmoid(cls)`.
    pub score: f32,
    /// `x1, y1, x2, y2`, not clamped.
    pub bbox: [f32; 4],
    /// `c`, the centre of `bbox`.
    pub center: [f32; 2],
    /// `s`, width and height of `bbox`, without padding.
    pub size: [f32; 2],
    /// Grid point `g`.
    pub prior: [f32; 2],
}

/// Memory of [`select`], kept from call to call.
#[derive(Clone, Debug, Default)]
pub struct SelectScratch {
    /// Score, level, index.
    grids: Vec<(f32, u32, u32)>,
}

/// Fills `out` with the surviving grids, best first; equal scores in grid order (level by level, row by row).
///
/// A grid survives if its score is strictly above `score_thr` and no better survivor overlaps it by an IoU strictly
/// above `nms_thr`. With `params.force` the best grids survive whatever their scores and overlaps. Grids with a NaN
/// score or a box that is not finite never survive; their number is returned. Allocates only if `scratch` or `out` must grow.
///
/// # Panics
/// If a slice is shorter than its level's extents say.
pub fn select(
    levels: &[LevelMaps<'_>],
    params: &SelectParams,
    scratch: &mut SelectScratch,
    out: &mut Vec<Candidate>,
) -> usize {
    out.clear();
    let mut not_finite = 0;
    let grids = &mut scratch.grids;
    grids.clear();
    let score_thr = if params.force.is_some() { f32::NEG_INFINITY } else { params.score_thr };
    let logit_thr = logit_below(score_thr);
    for (l, level) in levels.iter().enumerate() {
        for index in 0..level.h * level.w {
            let logit = level.cls[index * level.cls_pitch];
            not_finite += usize::from(logit.is_nan());
            // NaN fails both comparisons.
            if logit >= logit_thr {
                let score = sigmoid(logit);
                if score > score_thr {
                    grids.push((score, l as u32, index as u32));
                }
            }
        }
    }
    let best_first = |a: &(f32, u32, u32), b: &(f32, u32, u32)| -> Ordering {
        b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2)))
    };
    let most = params.force.or(params.max_people).unwrap_or(usize::MAX);
    if params.force.is_some() && most < grids.len() {
        grids.select_nth_unstable_by(most, best_first);
        grids.truncate(most);
    }
    grids.sort_unstable_by(best_first);
    let nms = params.force.is_none() && params.nms_thr < 1.0;
    for &(score, l, index) in grids.iter() {
        if out.len() >= most {
            break;
        }
        let level = l as usize;
        let Some(candidate) = decode(&levels[level], level, index as usize, score) else {
            not_finite += 1;
            continue;
        };
        if !(nms && out.iter().any(|better| iou(&better.bbox, &candidate.bbox) > params.nms_thr)) {
            out.push(candidate);
        }
    }
    not_finite
}

/// A logit below all those whose f32 sigmoid exceeds `score`: dismisses nearly all grids without an exponential.
fn logit_below(score: f32) -> f32 {
    if score <= 0.0 {
        return f32::NEG_INFINITY;
    }
    // Sigmoid's slope is s (1 - s): 1e-6 covers its rounding.
    let s = score as f64;
    ((s / (1.0 - s)).ln() - 1e-6 / (s * (1.0 - s))) as f32
}

/// `1 / (1 + exp(-x))`.
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// mmpose `YOLOXPoseHead.decode_bbox` and `bbox_xyxy2cs`. `None` if the box is not finite.
fn decode(map: &LevelMaps<'_>, level: usize, index: usize, score: f32) -> Option<Candidate> {
    let stride = map.stride as f32;
    let offset = (stride - 1.0) / 2.0;
    let prior = [(index % map.w) as f32 * stride + offset, (index / map.w) as f32 * stride + offset];
    let raw = &map.bbox[index * map.bbox_pitch..][..4];
    let mut bbox = [0.0; 4];
    for i in 0..2 {
        let middle = raw[i] * stride + prior[i];
        let half = raw[i + 2].exp() * stride / 2.0;
        [bbox[i], bbox[i + 2]] = [middle - half, middle + half];
    }
    let [x1, y1, x2, y2] = bbox;
    let (center, size) = ([(x1 + x2) * 0.5, (y1 + y2) * 0.5], [x2 - x1, y2 - y1]);
    (center[0] + center[1] + size[0] + size[1]).is_finite().then_some(Candidate {
        level,
        index,
        score,
        bbox,
        center,
        size,
        prior,
    })
}

/// mmpose `bbox_overlaps`: no extra pixel, and a union of at least 1e-6.
pub fn iou(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let area = |r: &[f32; 4]| (r[2] - r[0]) * (r[3] - r[1]);
    let w = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let h = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let overlap = w * h;
    overlap / (area(a) + area(b) - overlap).max(1e-6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;

    /// One level of `w` cells a row; logits and raw boxes.
    fn run(w: usize, cls: &[f32], bbox: &[[f32; 4]], params: &SelectParams) -> Vec<Candidate> {
        let level = LevelMaps {
            cls,
            bbox: bbox.as_flattened(),
            cls_pitch: 1,
            bbox_pitch: 4,
            h: cls.len() / w,
            w,
            stride: 16,
        };
        let (mut scratch, mut out) = (SelectScratch::default(), Vec::new());
        select(&[level], params, &mut scratch, &mut out);
        out
    }

    fn indices(people: &[Candidate]) -> Vec<usize> {
        people.iter().map(|c| c.index).collect()
    }

    #[test]
    fn threshold_is_strict_and_sigmoid_decides() {
        let boxes = [[0.0; 4]; 4];
        for thr in [0.1_f32, 0.3, 0.5, 0.7, 0.999, 0.999_999_9] {
            // Logits around the threshold, one ulp of score apart or less.
            let logit = ((thr as f64) / (1.0 - thr as f64)).ln() as f32;
            let step = 1e-7 / (thr * (1.0 - thr)).max(1e-7);
            for k in -20..=20 {
                let x = logit + k as f32 * step / 4.0;
                let params = SelectParams { score_thr: thr, ..Default::default() };
                let kept = !run(4, &[x, f32::NAN, -100.0, -1e30], &boxes, &params).is_empty();
                assert_eq!(kept, sigmoid(x) > thr, "thr {thr}, logit {x}");
            }
        }
        let exact = SelectParams { score_thr: 0.5, ..Default::default() };
        assert!(run(1, &[0.0], &boxes[..1], &exact).is_empty());
        for none in [1.0, 2.0, f32::NAN] {
            assert!(
                run(1, &[f32::INFINITY], &boxes[..1], &SelectParams { score_thr: none, ..exact }).is_empty()
            );
        }
    }

    #[test]
    fn boxes_follow_the_grid_point() {
        let people =
            run(2, &[-9.0, -9.0, -9.0, 3.0], &[[0.25, -0.5, 2_f32.ln(), 4_f32.ln()]; 4], &Default::default());
        let [c] = people[..] else { panic!("one person") };
        assert_eq!((c.index, c.prior), (3, [23.5, 23.5]));
        let want = [23.5 + 4.0 - 16.0, 23.5 - 8.0 - 32.0, 23.5 + 4.0 + 16.0, 23.5 - 8.0 + 32.0];
        assert_abs_diff_eq!(c.bbox[..], want[..], epsilon = 1e-4);
        assert_abs_diff_eq!(c.center[0], 27.5, epsilon = 1e-4);
        assert_abs_diff_eq!(c.size[1], 64.0, epsilon = 1e-4);
    }

    #[test]
    fn nms_keeps_the_best_and_ties_go_in_grid_order() {
        // Equal boxes of equal score, moved onto each other: grid 1 lies a cell further right.
        let cls = [1.0, 1.0, 2.0, 0.5];
        let same =
            [[0.0, 0.0, 3.0, 3.0], [-1.0, 0.0, 3.0, 3.0], [100.0, 0.0, 0.0, 0.0], [200.0, 0.0, 0.0, 0.0]];
        assert_eq!(indices(&run(4, &cls, &same, &Default::default())), [2, 0, 3]);
        let all = SelectParams { nms_thr: 1.0, ..Default::default() };
        assert_eq!(indices(&run(4, &cls, &same, &all)), [2, 0, 1, 3]);
        let two = SelectParams { max_people: Some(2), ..Default::default() };
        assert_eq!(indices(&run(4, &cls, &same, &two)), [2, 0]);
        let none = SelectParams { max_people: Some(0), ..Default::default() };
        assert!(run(4, &cls, &same, &none).is_empty());
    }

    #[test]
    fn force_takes_the_best_whatever_they_are() {
        let cls: Vec<f32> = (0..100).map(|i| -20.0 - (i * 37 % 100) as f32 * 0.1).collect();
        let boxes = vec![[0.0, 0.0, 5.0, 5.0]; 100];
        for n in [0, 1, 7, 100, 1000] {
            // A cap says nothing then.
            let params = SelectParams { force: Some(n), max_people: Some(3), ..Default::default() };
            let people = run(10, &cls, &boxes, &params);
            let want: Vec<usize> =
                (0..n.min(100)).map(|rank| (0..100).find(|i| i * 37 % 100 == rank).unwrap()).collect();
            assert_eq!(indices(&people), want);
        }
    }

    #[test]
    fn boxes_that_are_not_finite_are_nobody() {
        let nan = f32::NAN;
        let boxes = [[nan, 0.0, 0.0, 0.0], [0.0, 0.0, 1e9, 0.0], [0.0, f32::INFINITY, 0.0, 0.0], [0.0; 4]];
        assert_eq!(indices(&run(4, &[5.0, 6.0, 7.0, 1.0], &boxes, &Default::default())), [3]);
    }
}
