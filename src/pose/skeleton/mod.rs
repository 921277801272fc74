//! Which keypoints there are, and which of them a bone joins.

mod file;
mod known;

use crate::error::{Error, Result};
use std::borrow::Cow;

/// Red, green, blue.
pub type Rgb = [u8; 3];

/// A set of keypoints, in the order of a model's outputs, and the bones between them.
///
/// [`Skeleton::of`] has those of COCO and CrowdPose. [`Skeleton::new`] and [`Skeleton::open`] make others:
///
/// ```
/// use rtmo_engine::Skeleton;
///
/// let arm = Skeleton::new("arm", &["shoulder", "elbow", "wrist"], &[(0, 1), (1, 2)])?;
/// assert_eq!(arm.keypoint(2), "wrist");
/// # rtmo_engine::Result::Ok(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Skeleton {
    name: Cow<'static, str>,
    joints: Vec<Joint>,
    bones: Vec<Bone>,
}

/// One keypoint of a skeleton.
#[derive(Clone, Debug, PartialEq)]
struct Joint {
    name: Cow<'static, str>,
    /// Its counterpart on the other half of the body; itself on the centre line.
    mirrored: usize,
    side: Side,
    color: Option<Rgb>,
    sigma: Option<f32>,
}

/// A line between two keypoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bone {
    /// Index of one end's keypoint.
    pub from: usize,
    /// Index of the other's.
    pub to: usize,
    /// Colour in pictures; `None`: the person's.
    pub color: Option<Rgb>,
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

/// More keypoints than any pose data set has (whole-body sets have 133).
const MAX_KEYPOINTS: usize = 1024;

/// Most bones: a few for each keypoint.
const MAX_BONES: usize = 8 * MAX_KEYPOINTS;

impl Skeleton {
    /// The skeleton of a model with that many keypoints: COCO for 17, CrowdPose for 14.
    pub fn of(keypoints: usize) -> Option<&'static Skeleton> {
        [&*known::COCO, &*known::CROWDPOSE].into_iter().find(|s| s.len() == keypoints)
    }

    /// A skeleton from the names of its keypoints, in the order of the model's outputs, and its bones as pairs of indices
    /// (from 0), in drawing order. Names that differ only in `left` and `right` are counterparts of each other.
    ///
    /// # Errors
    /// [`Error::Usage`] if there are no keypoints or more than 1024, two have one name, or a bone's end is no keypoint.
    pub fn new(name: &str, keypoints: &[&str], bones: &[(usize, usize)]) -> Result<Skeleton> {
        Skeleton::make(
            name.to_owned().into(),
            keypoints.iter().map(|name| name.to_string().into()).collect(),
            bones.iter().map(|&(from, to)| Bone { from, to, color: None }).collect(),
        )
    }

    fn make(name: Cow<'static, str>, names: Vec<Cow<'static, str>>, bones: Vec<Bone>) -> Result<Skeleton> {
        let wrong =
            |what: String| Err(Error::Usage(format!("skeleton '{}': {what}", crate::printable(&name))));
        let n = names.len();
        if !(1..=MAX_KEYPOINTS).contains(&n) {
            return wrong(format!("expected 1 to {MAX_KEYPOINTS} keypoints, got {n}"));
        }
        if bones.len() > MAX_BONES {
            return wrong(format!("expected at most {MAX_BONES} bones, got {}", bones.len()));
        }
        if let Some(bone) = bones.iter().find(|b| b.from >= n || b.to >= n || b.from == b.to) {
            let (from, to) = (bone.from, bone.to);
            return wrong(format!(
                "a bone from keypoint {from} to {to}: expected two of the keypoints 0 to {}",
                n - 1
            ));
        }
        let mut index = std::collections::HashMap::new();
        for (k, name) in names.iter().enumerate() {
            if let Some(other) = index.insert(name.clone(), k) {
                return wrong(format!(
                    "keypoints {other} and {k} are both named '{}'",
                    crate::printable(name)
                ));
            }
        }
        let joints = names.into_iter().enumerate().map(|(k, name)| {
            let (side, other) = side_of(&name);
            let mirrored = other.and_then(|other| index.get(other.as_str()).copied()).unwrap_or(k);
            Joint { name, mirrored, side, color: None, sigma: None }
        });
        let mut joints: Vec<Joint> = joints.collect();
        // "left_left" and "right_left" are no pair: what the second's name asks for is another.
        for k in 0..n {
            if joints[joints[k].mirrored].mirrored != k {
                joints[k].mirrored = k;
            }
        }
        Ok(Skeleton { name, joints, bones })
    }

    /// The same skeleton with these counterparts: pairs of the person's left and right keypoint. All other keypoints lie on
    /// the centre line.
    ///
    /// # Errors
    /// [`Error::Usage`] if an index is no keypoint, or stands twice.
    pub fn with_flip_pairs(mut self, pairs: &[(usize, usize)]) -> Result<Skeleton> {
        for (k, joint) in self.joints.iter_mut().enumerate() {
            (joint.mirrored, joint.side) = (k, Side::Center);
        }
        for &(left, right) in pairs {
            let single = |k: usize| self.joints.get(k).is_some_and(|joint| joint.mirrored == k);
            if left == right || !single(left) || !single(right) {
                return Err(Error::Usage(format!(
                    "skeleton '{}': flip pair of keypoints {left} and {right}: expected two of 0 to {}, each once",
                    crate::printable(&self.name),
                    self.len() - 1
                )));
            }
            (self.joints[left].mirrored, self.joints[left].side) = (right, Side::Left);
            (self.joints[right].mirrored, self.joints[right].side) = (left, Side::Right);
        }
        Ok(self)
    }

    /// The same skeleton with a colour for one keypoint in pictures, in place of the person's.
    ///
    /// # Panics
    /// If there is no such keypoint.
    pub fn with_keypoint_color(mut self, keypoint: usize, color: Rgb) -> Skeleton {
        self.joints[keypoint].color = Some(color);
        self
    }

    /// The same skeleton with a colour for one bone in pictures, in place of the person's.
    ///
    /// # Panics
    /// If there is no such bone.
    pub fn with_bone_color(mut self, bone: usize, color: Rgb) -> Skeleton {
        self.bones[bone].color = Some(color);
        self
    }

    /// What the skeleton is called, for example after its data set.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of keypoints, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a skeleton has keypoints")]
    pub fn len(&self) -> usize {
        self.joints.len()
    }

    /// Name of a keypoint, e.g. `left_knee`.
    ///
    /// # Panics
    /// If there is no such keypoint; so do the other functions of one keypoint.
    pub fn keypoint(&self, keypoint: usize) -> &str {
        &self.joints[keypoint].name
    }

    /// Names of the keypoints, in the order of a model's outputs.
    pub fn keypoints(&self) -> impl ExactSizeIterator<Item = &str> {
        self.joints.iter().map(|joint| &*joint.name)
    }

    /// The bones in drawing order.
    pub fn bones(&self) -> &[Bone] {
        &self.bones
    }

    /// Which half of the body a keypoint belongs to.
    pub fn side(&self, keypoint: usize) -> Side {
        self.joints[keypoint].side
    }

    /// The keypoint's counterpart on the other half of the body; itself on the centre line.
    pub fn mirrored(&self, keypoint: usize) -> usize {
        self.joints[keypoint].mirrored
    }

    /// Colour of a keypoint in pictures; `None`: the person's.
    pub fn keypoint_color(&self, keypoint: usize) -> Option<Rgb> {
        self.joints[keypoint].color
    }

    /// Standard deviation of annotators, in units of the object's scale (the OKS constants `sigma_i` of
    /// <https://cocodataset.org/#keypoints-eval>); `None` if it was not measured.
    pub fn sigma(&self, keypoint: usize) -> Option<f32> {
        self.joints[keypoint].sigma
    }
}

/// Which side a name tells, and the name of the counterpart: a word `left` or `right` at the beginning or the end.
fn side_of(name: &str) -> (Side, Option<String>) {
    let word = |text: &str, word: &str| {
        text.split(['_', '-', ' ', '.']).next() == Some(word)
            || text.rsplit(['_', '-', ' ', '.']).next() == Some(word)
    };
    if word(name, "left") {
        (Side::Left, Some(name.replacen("left", "right", 1)))
    } else if word(name, "right") {
        (Side::Right, Some(name.replacen("right", "left", 1)))
    } else {
        (Side::Center, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_skeletons_are_symmetric() {
        for k in [17, 14] {
            let skeleton = Skeleton::of(k).unwrap();
            assert_eq!(skeleton.len(), k);
            for i in 0..k {
                let m = skeleton.mirrored(i);
                assert_eq!(skeleton.mirrored(m), i);
                assert_eq!(m == i, skeleton.side(i) == Side::Center);
                assert!(skeleton.sigma(i).is_some() && skeleton.sigma(m) == skeleton.sigma(i));
            }
            let has =
                |a, b| skeleton.bones().iter().any(|x| (x.from, x.to) == (a, b) || (x.to, x.from) == (a, b));
            for bone in skeleton.bones() {
                assert!(has(skeleton.mirrored(bone.from), skeleton.mirrored(bone.to)), "{bone:?}");
            }
        }
        assert_eq!(Skeleton::of(133), None);
    }

    #[test]
    fn impossible_skeletons_are_refused() {
        for (names, bones, part) in [
            (&[][..], &[][..], "expected 1 to 1024 keypoints, got 0"),
            (&["a", "b", "a"], &[], "keypoints 0 and 2 are both named 'a'"),
            (&["a", "b"], &[(0, 2)], "expected two of the keypoints 0 to 1"),
            (&["a", "b"], &[(1, 1)], "from keypoint 1 to 1"),
        ] {
            let error = Skeleton::new("mine", names, bones).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("'mine'"), "{part}: {error}");
        }
    }

    #[test]
    fn counterparts_by_name_or_by_pairs() {
        let eyes = Skeleton::new("eyes", &["eye_left", "eye_right", "lefty"], &[]).unwrap();
        assert_eq!((eyes.mirrored(0), eyes.mirrored(1), eyes.mirrored(2)), (1, 0, 2));
        assert_eq!((eyes.side(0), eyes.side(2)), (Side::Left, Side::Center));
        let odd = Skeleton::new("odd", &["left_left", "right_left", "right_right"], &[]).unwrap();
        assert!((0..3).all(|k| odd.mirrored(odd.mirrored(k)) == k));
        let pair =
            Skeleton::new("pair", &["a", "b", "left"], &[]).unwrap().with_flip_pairs(&[(0, 1)]).unwrap();
        assert_eq!((pair.mirrored(0), pair.side(1), pair.side(2)), (1, Side::Right, Side::Center));
        for pairs in [&[(0, 1), (1, 2)][..], &[(0, 0)], &[(0, 3)]] {
            assert!(pair.clone().with_flip_pairs(pairs).is_err(), "{pairs:?}");
        }
    }
}
