//! Which keypoints there are, and which of them belong together.

/// A set of keypoints and the bones between them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Skeleton {
    /// The data set that defines it.
    pub name: &'static str,
    /// Names, in the order of a model's outputs.
    pub keypoints: &'static [&'static str],
    /// Bones as pairs of keypoints, in drawing order.
    pub links: &'static [(usize, usize)],
    /// Standard deviations of annotators per keypoint, in units of the object's scale (the OKS constants `sigma_i`).
    pub sigmas: &'static [f32],
}

/// Half of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The person's left.
    Left,
    /// The person's right.
    Right,
    /// Nose, head, neck.
    Center,
}

impl Skeleton {
    /// The skeleton of a model with that many keypoints: COCO for 17, CrowdPose for 14.
    pub fn of(keypoints: usize) -> Option<&'static Skeleton> {
        [&COCO, &CROWDPOSE].into_iter().find(|s| s.keypoints.len() == keypoints)
    }

    /// Which half of the body a keypoint belongs to.
    pub fn side(&self, keypoint: usize) -> Side {
        match self.keypoints[keypoint].split('_').next() {
            Some("left") => Side::Left,
            Some("right") => Side::Right,
            _ => Side::Center,
        }
    }

    /// The keypoint's counterpart on the other half of the body; itself on the centre line.
    pub fn mirrored(&self, keypoint: usize) -> usize {
        let name = self.keypoints[keypoint];
        let other = match self.side(keypoint) {
            Side::Left => name.replacen("left", "right", 1),
            Side::Right => name.replacen("right", "left", 1),
            Side::Center => return keypoint,
        };
        self.keypoints.iter().position(|k| *k == other).unwrap_or(keypoint)
    }
}

/// COCO's 17 keypoints.
pub static COCO: Skeleton = Skeleton {
    name: "coco",
    keypoints: &[
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ],
    links: &[
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
    sigmas: &[
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087,
        0.087, 0.089, 0.089,
    ],
};

/// CrowdPose's 14 keypoints.
pub static CROWDPOSE: Skeleton = Skeleton {
    name: "crowdpose",
    keypoints: &[
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
        "top_head",
        "neck",
    ],
    links: &[
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
    sigmas: &[
        0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079,
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skeletons_are_symmetric() {
        for (skeleton, k) in [(&COCO, 17), (&CROWDPOSE, 14)] {
            assert_eq!(Skeleton::of(k), Some(skeleton));
            assert_eq!((skeleton.keypoints.len(), skeleton.sigmas.len()), (k, k));
            for i in 0..k {
                let m = skeleton.mirrored(i);
                assert_eq!(skeleton.mirrored(m), i);
                assert_eq!(m == i, skeleton.side(i) == Side::Center);
                assert_eq!(skeleton.sigmas[m], skeleton.sigmas[i]);
            }
            let has = |a, b| skeleton.links.contains(&(a, b)) || skeleton.links.contains(&(b, a));
            for &(a, b) in skeleton.links {
                assert!(has(skeleton.mirrored(a), skeleton.mirrored(b)), "{a}-{b}");
            }
        }
        assert_eq!(Skeleton::of(133), None);
    }
}
