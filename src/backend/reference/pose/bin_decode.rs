//! The Dynamic Coordinate Classifier.

use crate::backend::reference::Reference;
use crate::backend::reference::ops::{dot, softmax};
use crate::plan::{BinAxis, BinDecode};

impl Reference {
    /// The formulas of [`BinDecode`], survivor by survivor. Keeps the probabilities as heatmaps.
    pub(super) fn bin_decode(&mut self, decode: &BinDecode) {
        let features = self.map(decode.src);
        let mut keypoints = vec![0.0; self.people.len() * decode.tokens * 2];
        let axis = |axis: usize, bins: &BinAxis, keypoints: &mut [f64]| -> Vec<f64> {
            let weight = self.tensor(bins.weight);
            let half = decode.pe_dim / 2;
            let period = |j: usize| f64::from(decode.temperature).powf(j as f64 / half as f64);
            let mut heatmaps = Vec::new();
            for (n, person) in self.people.iter().enumerate() {
                let size = f64::from(decode.padding) * person.size[axis];
                let at = |i: usize| {
                    let t = if bins.bins == 1 { -0.5 } else { i as f64 / (bins.bins - 1) as f64 - 0.5 };
                    person.center[axis] - person.prior[axis] + t * size
                };
                let place: Vec<f64> = (0..bins.bins).map(at).collect();
                let code: Vec<Vec<f64>> = place
                    .iter()
                    .map(|x| {
                        let angle = |j| x / period(j);
                        (0..half).map(|j| angle(j).cos()).chain((0..half).map(|j| angle(j).sin())).collect()
                    })
                    .collect();
                for token in 0..decode.tokens {
                    let f = &features[(n * decode.tokens + token) * decode.dim..][..decode.dim];
                    let r: Vec<f64> = weight.chunks_exact(decode.dim).map(|row| dot(row, f)).collect();
                    let logits: Vec<f64> = code.iter().map(|code| dot(&r, code)).collect();
                    let p = softmax(&logits);
                    keypoints[(n * decode.tokens + token) * 2 + axis] = person.prior[axis] + dot(&p, &place);
                    heatmaps.extend(p);
                }
            }
            heatmaps
        };
        let heatmaps = [axis(0, &decode.x, &mut keypoints), axis(1, &decode.y, &mut keypoints)];
        self.heatmaps = heatmaps;
        self.set_map(decode.dst, &keypoints);
    }
}
