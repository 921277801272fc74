//! Joints of people in columns, four at a time. Where a crowd is close together OKS of all pairs takes most of a frame's time.

use super::kalman::Place;
use super::similarity::{ENOUGH, VISIBLE};
use crate::pose::Keypoint;
use std::array::from_fn;

/// What the compiler puts into vector registers, two or four numbers in each.
const LANES: usize = 4;
type Lanes = [f64; LANES];

/// Four joints. The last ones of a person may be none: they are invisible.
#[derive(Clone, Copy, Default)]
struct Four {
    x: Lanes,
    y: Lanes,
    /// 1 or 0.
    visible: Lanes,
}

/// Where the joints of a person are, in photo pixels.
pub struct Joints {
    count: usize,
    fours: Vec<Four>,
}

impl Joints {
    /// Those of a person who was seen.
    pub fn new(keypoints: &[Keypoint]) -> Joints {
        Joints::placed(keypoints, |k| [f64::from(k.x), f64::from(k.y)])
    }

    fn placed(keypoints: &[Keypoint], place: impl Fn(&Keypoint) -> [f64; 2]) -> Joints {
        let four = |four: &[Keypoint]| {
            let mut to = Four::default();
            for (i, joint) in four.iter().enumerate() {
                [to.x[i], to.y[i]] = place(joint);
                to.visible[i] = if joint.score < VISIBLE { 0.0 } else { 1.0 };
            }
            to
        };
        Joints { count: keypoints.len(), fours: keypoints.chunks(LANES).map(four).collect() }
    }

    /// How many there are, visible or not.
    pub fn count(&self) -> usize {
        self.count
    }
}

/// Where the joints of a person should be, and how exactly.
pub struct Expected {
    joints: Joints,
    /// What a squared distance is multiplied with, for each joint.
    weights: Vec<Lanes>,
}

impl Expected {
    /// Joints as they were seen when the person's box was at `before`, moved and stretched to `now`. `sigmas` are OKS's constants, one
    /// a joint; with another number of them nobody can be compared.
    pub fn new(before: &Place, keypoints: &[Keypoint], now: &Place, sigmas: &[f32]) -> Expected {
        let (stretch_x, stretch_y) = (now.w / before.w, now.h / before.h);
        let joints = Joints::placed(keypoints, |k| {
            [now.x + (f64::from(k.x) - before.x) * stretch_x, now.y + (f64::from(k.y) - before.y) * stretch_y]
        });
        let weight = |four: &[f32]| {
            let mut to = Lanes::default();
            for (to, &sigma) in to.iter_mut().zip(four) {
                let reach = 2.0 * f64::from(sigma);
                *to = 1.0 / (2.0 * reach * reach * now.area());
            }
            to
        };
        let comparable = sigmas.len() == keypoints.len();
        Expected { joints, weights: sigmas.chunks(LANES).filter(|_| comparable).map(weight).collect() }
    }

    /// How many joints there are, visible or not.
    pub fn count(&self) -> usize {
        self.joints.count
    }

    /// Object keypoint similarity with a person: over joints that are visible in both, and `None` if those are too few or the
    /// skeletons differ. The same to the bit with and without AVX2.
    pub fn oks(&self, seen: &Joints) -> Option<f64> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            return unsafe { self.oks_avx2(seen) };
        }
        self.oks_portable(seen)
    }

    /// The same with four numbers in a register.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn oks_avx2(&self, seen: &Joints) -> Option<f64> {
        self.oks_portable(seen)
    }

    #[inline(always)]
    fn oks_portable(&self, seen: &Joints) -> Option<f64> {
        if self.joints.count != seen.count || self.weights.len() != seen.fours.len() {
            return None;
        }
        let (mut sums, mut counts) = (Lanes::default(), Lanes::default());
        for ((a, b), weights) in self.joints.fours.iter().zip(&seen.fours).zip(&self.weights) {
            let off: Lanes = from_fn(|i| {
                let (dx, dy) = (a.x[i] - b.x[i], a.y[i] - b.y[i]);
                (dx * dx + dy * dy) * weights[i]
            });
            let alike = exp_of_minus(off);
            let both: Lanes = from_fn(|i| a.visible[i] * b.visible[i]);
            sums = from_fn(|i| sums[i] + both[i] * alike[i]);
            counts = from_fn(|i| counts[i] + both[i]);
        }
        mean(&sums, &counts)
    }
}

/// A function of its own, which gets whole registers: otherwise the compiler computes with halves of them, in the order of these
/// sums.
#[inline(never)]
fn mean(sums: &Lanes, counts: &Lanes) -> Option<f64> {
    let all = |lanes: &Lanes| (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
    let count = all(counts);
    (count >= ENOUGH as f64).then(|| all(sums) / count)
}

/// e^-x for x from 0 on, with a relative error below 1e-12; above 700 as for 700, 1e-304. The same on every machine, which the
/// system's need not be, and without a branch or a table, so that it takes several numbers at once.
#[inline(always)]
fn exp_of_minus(x: Lanes) -> Lanes {
    /// Adding it rounds to a whole number, which is in the last bits then.
    const ROUND: f64 = 1.5 * (1u64 << 52) as f64;
    /// 1/n! from n = 10 down.
    const TAYLOR: [f64; 11] = [
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    let powers = x.map(|x| if x < 700.0 { x } else { 700.0 } * -std::f64::consts::LOG2_E);
    let rounded = powers.map(|power| power + ROUND);
    let rest: Lanes = from_fn(|i| (powers[i] - (rounded[i] - ROUND)) * std::f64::consts::LN_2);
    let mut series = [TAYLOR[0]; LANES];
    for factor in &TAYLOR[1..] {
        series = from_fn(|i| series[i] * rest[i] + factor);
    }
    // 2^whole is a sum of exponents.
    from_fn(|i| f64::from_bits(series[i].to_bits().wrapping_add(rounded[i].to_bits() << 52)))
}

#[cfg(test)]
mod tests {
    use super::super::similarity::sigmas;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_exponential_is_exact_enough() {
        let off = |x: f64| (exp_of_minus([x; LANES])[1] / (-x).exp() - 1.0).abs();
        let worst = (0..=700_000).map(|i| off(f64::from(i) * 1e-3)).fold(0.0, f64::max);
        // The series ends with r^10, |r| <= ln(2) / 2: what is left out is below 2.2e-13. A product of 1010 is rounded by 1e-13.
        assert!(worst < 4e-13, "{worst}");
        assert_eq!(exp_of_minus([0.0; LANES]), [1.0; LANES]);
        for x in [700.0, 1e9, f64::MAX, f64::INFINITY] {
            assert!((0.0..1e-300).contains(&exp_of_minus([x; LANES])[3]));
        }
    }

    /// OKS as it is defined, a joint after the other.
    fn plain(before: &Place, a: &[Keypoint], now: &Place, b: &[Keypoint], sigmas: &[f32]) -> Option<f64> {
        let (mut sum, mut n) = (0.0, 0);
        for ((a, b), &sigma) in a.iter().zip(b).zip(sigmas) {
            if a.score >= VISIBLE && b.score >= VISIBLE {
                let dx = now.x + (f64::from(a.x) - before.x) * now.w / before.w - f64::from(b.x);
                let dy = now.y + (f64::from(a.y) - before.y) * now.h / before.h - f64::from(b.y);
                let variance = (2.0 * f64::from(sigma)).powi(2);
                sum += (-(dx * dx + dy * dy) / (2.0 * variance * now.area())).exp();
                n += 1;
            }
        }
        (n >= ENOUGH).then(|| sum / n as f64)
    }

    proptest! {
        #[test]
        fn four_at_a_time_are_one_after_the_other(
            count in 0usize..22,
            numbers in prop::collection::vec(0f32..1.0, 6 * 22),
            sides in [5f64..200.0, 5.0..200.0, 5.0..200.0, 5.0..200.0],
        ) {
            let joints = |from: usize| -> Vec<Keypoint> {
                numbers.chunks(6).map(|n| Keypoint::new(100.0 * n[from], 150.0 * n[from + 1], n[from + 2])).take(count).collect()
            };
            let (a, b) = (joints(0), joints(3));
            let before = Place { x: 50.0, y: 70.0, w: sides[0], h: sides[1] };
            let now = Place { x: 55.0, y: 72.0, w: sides[2], h: sides[3] };
            let sigmas = sigmas(count);
            let got = Expected::new(&before, &a, &now, &sigmas).oks(&Joints::new(&b));
            prop_assert_eq!(got, Expected::new(&before, &a, &now, &sigmas).oks_portable(&Joints::new(&b)));
            match (got, plain(&before, &a, &now, &b, &sigmas)) {
                (Some(got), Some(expected)) => prop_assert!((got - expected).abs() < 1e-11, "{got} {expected}"),
                (got, expected) => prop_assert_eq!(got, expected),
            }
        }
    }

    #[test]
    fn numbers_far_beyond_a_picture_are_no_error() {
        let far = [1e30, -1e30, 3e38].map(|x| Keypoint::new(x, -x, 1.0));
        let near = [0.0; 3].map(|x| Keypoint::new(x, x, 1.0));
        let place = Place { x: 0.0, y: 0.0, w: 1.0, h: 1.0 };
        let oks = |a: &[Keypoint], b: &[Keypoint]| {
            Expected::new(&place, a, &place, &sigmas(3)).oks(&Joints::new(b))
        };
        for (a, b) in [(&far, &near), (&near, &far)] {
            assert!((0.0..1e-300).contains(&oks(a, b).unwrap()));
        }
        assert_eq!(oks(&far, &far), Some(1.0));
        assert_eq!(oks(&near, &near[..2]), None);
    }
}
