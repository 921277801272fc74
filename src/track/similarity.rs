//! How alike a track's prediction and a person are, 0 to 1.

use super::kalman::Place;
use crate::pose::Skeleton;

/// How far apart two people mark the same joint, as a share of the person's size, where that was not measured: about the mean of
/// COCO's.
const OTHER: f32 = 0.07;

/// Keypoints of a lower score have no say.
pub const VISIBLE: f32 = 0.3;

/// Fewer common keypoints say nothing.
pub const ENOUGH: usize = 3;

/// OKS's constants for so many keypoints: COCO's for 17, CrowdPose's for 14.
pub fn sigmas(keypoints: usize) -> Vec<f32> {
    let skeleton = Skeleton::of(keypoints);
    (0..keypoints).map(|k| skeleton.and_then(|skeleton| skeleton.sigma(k)).unwrap_or(OTHER)).collect()
}

/// Intersection over union of two boxes that are both widened by a share of their size on each side (C-BIoU). Boxes that lie
/// apart by less are alike to some degree, too.
pub fn buffered_iou(a: &Place, b: &Place, buffer: f64) -> f64 {
    let wider = 1.0 + 2.0 * buffer;
    let common = |a: f64, b: f64, size_a: f64, size_b: f64| {
        ((a + size_a / 2.0).min(b + size_b / 2.0) - (a - size_a / 2.0).max(b - size_b / 2.0)).max(0.0)
    };
    let intersection =
        common(a.x, b.x, a.w * wider, b.w * wider) * common(a.y, b.y, a.h * wider, b.h * wider);
    intersection / ((a.area() + b.area()) * wider * wider - intersection)
}

#[cfg(test)]
mod tests {
    use super::super::joints::{Expected, Joints};
    use super::*;
    use crate::pose::Keypoint;

    #[test]
    fn a_buffer_reaches_boxes_that_lie_apart() {
        let a = Place { x: 50.0, y: 50.0, w: 20.0, h: 40.0 };
        let beside = Place { x: 75.0, ..a };
        assert_eq!(buffered_iou(&a, &a, 0.0), 1.0);
        assert_eq!(buffered_iou(&a, &beside, 0.0), 0.0);
        // Both are 40 wide then, and 15 of it is common.
        let expected = 15.0 / (40.0 + 40.0 - 15.0);
        assert!((buffered_iou(&a, &beside, 0.5) - expected).abs() < 1e-12);
        // A box of no width is a pixel wide.
        let point = Place::of([50.0, 30.0, 50.0, 70.0]);
        assert!(buffered_iou(&point, &point, 0.0) == 1.0 && buffered_iou(&a, &point, 0.0) > 0.0);
    }

    #[test]
    fn oks_moves_joints_with_the_box() {
        let joints = |dx: f32, score: f32| -> Vec<Keypoint> {
            (0..17).map(|i| Keypoint::new(10.0 + dx + i as f32, 20.0, score)).collect()
        };
        let before = Place { x: 20.0, y: 20.0, w: 20.0, h: 40.0 };
        let moved = Place { x: 27.0, ..before };
        let like = |now: &Place, joints_now: &[Keypoint]| {
            Expected::new(&before, &joints(0.0, 0.9), now, &sigmas(17)).oks(&Joints::new(joints_now))
        };
        assert!((like(&moved, &joints(7.0, 0.9)).unwrap() - 1.0).abs() < 1e-6);
        // Seven pixels off is a quarter of the size.
        assert!(like(&before, &joints(7.0, 0.9)).unwrap() < 0.5);
        assert_eq!(like(&before, &joints(0.0, 0.1)), None);
        assert_eq!(like(&before, &joints(0.0, 0.9)[..14]), None);
        assert_eq!(like(&before, &[]), None);
    }
}
