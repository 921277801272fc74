//! Which grids are people: threshold, box decoding, sorting, greedy NMS.

use crate::backend::SelectParams;

/// One head level's dense outputs.
#[derive(Clone, Copy, Debug)]
pub struct LevelMaps<'a> {
    /// Class logits, one every `cls_pitch` values.
    pub cls: &'a [f32],
    /// Box regression, four values every `bbox_pitch`.
    pub bbox: &'a [f32],
    /// Values from a cell to the next.
    pub cls_pitch: usize,
    /// Values from a cell to the next.
    pub bbox_pitch: usize,
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
    /// Network-input pixels a cell.
    pub stride: usize,
}

/// A grid cell that may be a person.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Head level.
    pub level: usize,
    /// Row-major cell of its level.
    pub index: usize,
    /// `sigmoid(cls)`.
    pub score: f32,
    /// `x1, y1, x2, y2`, unclamped.
    pub bbox: [f32; 4],
    /// Box centre.
    pub center: [f32; 2],
    /// Box width and height.
    pub size: [f32; 2],
    /// Grid point.
    pub prior: [f32; 2],
}

/// Memory kept between calls.
#[derive(Debug, Default)]
pub struct Scratch {
    candidates: Vec<Candidate>,
}

/// Appends the survivors of all levels to `out`, best first.
pub fn select(
    levels: &[LevelMaps<'_>],
    params: &SelectParams,
    scratch: &mut Scratch,
    out: &mut Vec<Candidate>,
) {
    let all = &mut scratch.candidates;
    all.clear();
    for (level, m) in levels.iter().enumerate() {
        let s = m.stride as f32;
        for index in 0..m.h * m.w {
            let score = 1.0 / (1.0 + (-m.cls[index * m.cls_pitch]).exp());
            if params.force.is_none()
                && score.partial_cmp(&params.score_thr) != Some(std::cmp::Ordering::Greater)
            {
                continue;
            }
            let b = &m.bbox[index * m.bbox_pitch..][..4];
            let prior = [index % m.w, index / m.w].map(|i| i as f32 * s + (s - 1.0) / 2.0);
            let center = [prior[0] + b[0] * s, prior[1] + b[1] * s];
            let size = [b[2].exp() * s, b[3].exp() * s];
            let bbox = [
                center[0] - size[0] / 2.0,
                center[1] - size[1] / 2.0,
                center[0] + size[0] / 2.0,
                center[1] + size[1] / 2.0,
            ];
            all.push(Candidate { level, index, score, bbox, center, size, prior });
        }
    }
    all.sort_by(|a, b| b.score.total_cmp(&a.score));
    if let Some(n) = params.force {
        out.extend(all.iter().take(n));
        return;
    }
    let start = out.len();
    for c in all.iter() {
        let iou = |a: &[f32; 4], b: &[f32; 4]| {
            let side = |i: usize| (a[i + 2].min(b[i + 2]) - a[i].max(b[i])).max(0.0);
            let area = |r: &[f32; 4]| (r[2] - r[0]) * (r[3] - r[1]);
            let inter = side(0) * side(1);
            inter / (area(a) + area(b) - inter).max(1e-6)
        };
        if out[start..].iter().all(|o| iou(&o.bbox, &c.bbox) <= params.nms_thr) {
            out.push(*c);
            if params.max_people.is_some_and(|n| out.len() - start >= n) {
                break;
            }
        }
    }
}
