//! Threshold, box decoding, order and greedy NMS.

use crate::backend::SelectParams;
use crate::backend::reference::Reference;
use crate::backend::reference::ops::sigmoid;
use crate::plan::GridLevel;

/// A survivor of [`Pose::Select`](crate::plan::Pose::Select).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Person {
    /// Index of the head level.
    pub level: usize,
    /// Row-major index of the grid cell in its level.
    pub cell: usize,
    /// `sigmoid(cls)`.
    pub score: f64,
    /// Box centre in network-input pixels.
    pub center: [f64; 2],
    /// Box width and height in network-input pixels.
    pub size: [f64; 2],
    /// Grid point.
    pub prior: [f64; 2],
}

impl Person {
    /// `x1, y1, x2, y2`.
    pub fn corners(&self) -> [f64; 4] {
        let ([x, y], [w, h]) = (self.center, self.size);
        [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0]
    }
}

impl Reference {
    pub(super) fn select(&self, levels: &[GridLevel]) -> Vec<Person> {
        let SelectParams { score_thr, nms_thr, max_people, force } = self.options.select;
        let mut candidates = Vec::new();
        for (level, grid) in levels.iter().enumerate() {
            let (_, w) = self.plan.hw(grid.cls);
            let stride = grid.stride as f64;
            let boxes = self.map(grid.bbox);
            for (cell, (logit, b)) in self.map(grid.cls).into_iter().zip(boxes.chunks_exact(4)).enumerate() {
                let prior = [cell % w, cell / w].map(|i| i as f64 * stride + (stride - 1.0) / 2.0);
                let center = [prior[0] + b[0] * stride, prior[1] + b[1] * stride];
                let size = [b[2].exp() * stride, b[3].exp() * stride];
                candidates.push(Person { level, cell, score: sigmoid(logit), center, size, prior });
            }
        }
        // A stable sort: among equals, the grid's order.
        candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
        if let Some(n) = force {
            candidates.truncate(n);
            return candidates;
        }
        candidates.retain(|c| c.score > f64::from(score_thr));
        let mut people: Vec<Person> = Vec::new();
        for candidate in candidates {
            if people.iter().all(|p| iou(&p.corners(), &candidate.corners()) <= f64::from(nms_thr)) {
                people.push(candidate);
            }
        }
        people.truncate(max_people.unwrap_or(usize::MAX));
        people
    }
}

/// Intersection over union of two boxes `x1, y1, x2, y2`.
fn iou(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let area = |b: &[f64; 4]| (b[2] - b[0]) * (b[3] - b[1]);
    let w = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let h = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    w * h / (area(a) + area(b) - w * h)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::RunOptions;
    use crate::plan::{Op, Plan, Pose};
    use approx::assert_abs_diff_eq;

    /// Two levels of strides 16 and 32 of a 64x32 input; logits and box numbers as given, cell by cell.
    fn select(cells: &[(f64, [f64; 4])], params: SelectParams) -> Vec<Person> {
        let mut plan = Plan::default();
        let mut levels = Vec::new();
        for (h, w, stride) in [(2, 4, 16), (1, 2, 32)] {
            levels.push(GridLevel { cls: plan.map("cls", h, w, 1), bbox: plan.map("bbox", h, w, 4), stride });
        }
        plan.push("select", Op::Pose(Pose::Select { levels: levels.clone() }));
        let mut reference = Reference::new(plan);
        for (level, cells) in levels.iter().zip([&cells[..8], &cells[8..]]) {
            reference.set_map(level.cls, &cells.iter().map(|c| c.0).collect::<Vec<_>>());
            reference.set_map(level.bbox, &cells.iter().flat_map(|c| c.1).collect::<Vec<_>>());
        }
        reference.set_options(&RunOptions { select: params, heatmaps: false });
        reference.run_steps(0..1);
        reference.people().to_vec()
    }

    #[test]
    fn selection_decodes_sorts_and_suppresses() {
        let none = (-9.0, [0.0; 4]);
        let mut cells = vec![none; 10];
        cells[6] = (0.0, [0.5, -0.25, 0.0, 2f64.ln()]);
        // Two boxes of 16x16, 2 pixels apart: intersection 14 * 16, IoU 224 / 288 = 0.78.
        cells[1] = (1.0, [0.0; 4]);
        cells[2] = (2.0, [-1.0 + 2.0 / 16.0, 0.0, 0.0, 0.0]);
        cells[9] = (1.0, [0.0, 0.0, -1.0, -1.0]);
        let params = SelectParams::default();

        let people = select(&cells, params);
        let places: Vec<_> = people.iter().map(|p| (p.level, p.cell)).collect();
        assert_eq!(places, [(0, 2), (1, 1), (0, 6)], "the weaker of the two that overlap is gone");
        assert_eq!((people[2].score, people[2].prior), (0.5, [2.0 * 16.0 + 7.5, 16.0 + 7.5]));
        assert_eq!(people[2].center, [39.5 + 8.0, 23.5 - 4.0]);
        assert_eq!(people[2].corners(), [39.5, 3.5, 55.5, 35.5]);
        assert_eq!(people[1].prior, [32.0 + 15.5, 15.5]);
        assert_abs_diff_eq!(people[1].size[0], 32.0 / std::f64::consts::E, epsilon = 1e-12);

        let places = |params| select(&cells, params).iter().map(|p| (p.level, p.cell)).collect::<Vec<_>>();
        // Among equal scores the grid's order holds; strict thresholds.
        assert_eq!(places(SelectParams { nms_thr: 0.8, ..params }), [(0, 2), (0, 1), (1, 1), (0, 6)]);
        assert_eq!(places(SelectParams { score_thr: 0.5, nms_thr: 0.8, ..params }), [(0, 2), (0, 1), (1, 1)]);
        assert_eq!(places(SelectParams { max_people: Some(2), ..params }), [(0, 2), (1, 1)]);
        assert_eq!(
            places(SelectParams { force: Some(5), ..params }),
            [(0, 2), (0, 1), (1, 1), (0, 6), (0, 0)]
        );
    }
}
