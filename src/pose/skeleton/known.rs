//! The skeletons of the data sets that RTMO's published weights were trained on.

use super::{Bone, Skeleton};
use std::sync::LazyLock;

fn known(name: &'static str, keypoints: &[(&'static str, f32)], bones: &[(usize, usize)]) -> Skeleton {
    let names = keypoints.iter().map(|(name, _)| (*name).into()).collect();
    let bones = bones.iter().map(|&(from, to)| Bone { from, to, color: None }).collect();
    let mut skeleton = Skeleton::make(name.into(), names, bones).expect("a table that tests read");
    for (joint, (_, sigma)) in skeleton.joints.iter_mut().zip(keypoints) {
        joint.sigma = Some(*sigma);
    }
    skeleton
}

/// COCO's 17 keypoints with their `sigma_i` (mmpose `configs/_base_/datasets/coco.py`).
pub(super) static COCO: LazyLock<Skeleton> = LazyLock::new(|| {
    known(
        "coco",
        &[
            ("nose", 0.026),
            ("left_eye", 0.025),
            ("right_eye", 0.025),
            ("left_ear", 0.035),
            ("right_ear", 0.035),
            ("left_shoulder", 0.079),
            ("right_shoulder", 0.079),
            ("left_elbow", 0.072),
            ("right_elbow", 0.072),
            ("left_wrist", 0.062),
            ("right_wrist", 0.062),
            ("left_hip", 0.107),
            ("right_hip", 0.107),
            ("left_knee", 0.087),
            ("right_knee", 0.087),
            ("left_ankle", 0.089),
            ("right_ankle", 0.089),
        ],
        &[
            (15, 13),
            (13, 11),
            (16, 14),
            (14, 12),
            (11, 12),
            (5, 11),
            (6, 12),
            (5, 6),
            (5, 7),
            (6, 8),
            (7, 9),
            (8, 10),
            (1, 2),
            (0, 1),
            (0, 2),
            (1, 3),
            (2, 4),
            (3, 5),
            (4, 6),
        ],
    )
});

/// CrowdPose's 14 keypoints with their `sigma_i` (mmpose `configs/_base_/datasets/crowdpose.py`).
pub(super) static CROWDPOSE: LazyLock<Skeleton> = LazyLock::new(|| {
    known(
        "crowdpose",
        &[
            ("left_shoulder", 0.079),
            ("right_shoulder", 0.079),
            ("left_elbow", 0.072),
            ("right_elbow", 0.072),
            ("left_wrist", 0.062),
            ("right_wrist", 0.062),
            ("left_hip", 0.107),
            ("right_hip", 0.107),
            ("left_knee", 0.087),
            ("right_knee", 0.087),
            ("left_ankle", 0.089),
            ("right_ankle", 0.089),
            ("top_head", 0.079),
            ("neck", 0.079),
        ],
        &[
            (10, 8),
            (8, 6),
            (11, 9),
            (9, 7),
            (6, 7),
            (0, 6),
            (1, 7),
            (0, 2),
            (1, 3),
            (2, 4),
            (3, 5),
            (12, 13),
            (0, 13),
            (1, 13),
        ],
    )
});
