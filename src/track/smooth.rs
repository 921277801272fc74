//! Keypoints without jitter: the One Euro filter (Casiez, Roussel and Vogel, CHI 2012).

use crate::error::{Error, Result};
use crate::pose::{Keypoint, Person};
use std::collections::HashMap;
use std::f64::consts::TAU;

/// How a [`Smoother`] is set up.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct SmootherOptions {
    /// Cutoff frequency in hertz of a joint that rests, above 0 (1.5). Lower: less jitter, and more lag when a movement begins.
    pub min_cutoff: f64,
    /// By how many hertz the cutoff rises for a speed of one person's size a second, from 0 on (15). Higher: less lag in fast
    /// movements. (A person's size is the square root of the box's area; without unit-free speeds the right value would
    /// depend on how large people are.) A joint in steady motion lags by at most 1/(2 pi `beta`) sizes: by 1 %.
    pub beta: f64,
    /// Cutoff frequency in hertz for the speed itself, above 0 (4).
    pub speed_cutoff: f64,
    /// Keypoints of a lower score stay as they are and do not disturb those that follow, 0 to 1 (0.3).
    pub min_score: f32,
    /// Seconds after which a joint that was not seen begins anew, above 0 (0.5).
    pub max_unseen: f64,
}

impl Default for SmootherOptions {
    fn default() -> SmootherOptions {
        SmootherOptions { min_cutoff: 1.5, beta: 15.0, speed_cutoff: 4.0, min_score: 0.3, max_unseen: 0.5 }
    }
}

impl SmootherOptions {
    /// Sets [`SmootherOptions::min_cutoff`].
    pub fn with_min_cutoff(self, min_cutoff: f64) -> SmootherOptions {
        SmootherOptions { min_cutoff, ..self }
    }

    /// Sets [`SmootherOptions::beta`].
    pub fn with_beta(self, beta: f64) -> SmootherOptions {
        SmootherOptions { beta, ..self }
    }

    /// Sets [`SmootherOptions::speed_cutoff`].
    pub fn with_speed_cutoff(self, speed_cutoff: f64) -> SmootherOptions {
        SmootherOptions { speed_cutoff, ..self }
    }

    /// Sets [`SmootherOptions::min_score`].
    pub fn with_min_score(self, min_score: f32) -> SmootherOptions {
        SmootherOptions { min_score, ..self }
    }

    /// Sets [`SmootherOptions::max_unseen`].
    pub fn with_max_unseen(self, max_unseen: f64) -> SmootherOptions {
        SmootherOptions { max_unseen, ..self }
    }

    fn check(&self) -> Result<()> {
        let wrong = |what: &str, got: f64, expected: &str| {
            Err(Error::Usage(format!("smoother: {what} {got}: expected {expected}")))
        };
        let above_0 = [
            ("min_cutoff", self.min_cutoff),
            ("speed_cutoff", self.speed_cutoff),
            ("max_unseen", self.max_unseen),
        ];
        for (what, value) in above_0 {
            if !(value.is_finite() && value > 0.0) {
                return wrong(what, value, "a number above 0");
            }
        }
        if !(self.beta.is_finite() && self.beta >= 0.0) {
            return wrong("beta", self.beta, "a number from 0 on");
        }
        if !(0.0..=1.0).contains(&self.min_score) {
            return wrong("min_score", self.min_score.into(), "a number from 0 to 1");
        }
        Ok(())
    }
}

/// Takes the jitter out of keypoints of people with ids, frame by frame: a joint that rests is held, one that moves is followed.
/// Boxes and scores stay as they are, and so do people without [`Person::id`].
///
/// ```
/// use rtmo_engine::{Keypoint, Person, Smoother, SmootherOptions};
///
/// let mut smoother = Smoother::new(SmootherOptions::default())?;
/// for frame in 0..30 {
///     // A wrist that rests and is found a pixel further left or right.
///     let x = 80.0 + if frame % 2 == 0 { 1.0 } else { -1.0 };
///     let mut person = Person::new(0.9, [40.0, 40.0, 120.0, 240.0], vec![Keypoint::new(x, 130.0, 0.9)]);
///     person.id = Some(1);
///     smoother.smooth(std::slice::from_mut(&mut person), frame as f64 / 30.0)?;
///     assert!(frame < 10 || (person.keypoints[0].x - 80.0).abs() < 0.5);
/// }
/// # rtmo_engine::Result::Ok(())
/// ```
#[derive(Clone, Debug)]
pub struct Smoother {
    options: SmootherOptions,
    people: HashMap<u64, Vec<Option<Joint>>>,
    time: Option<f64>,
}

/// Pixels a second. What seems faster is a jump between two frames at almost the same time.
const FASTEST: f64 = 1e9;

/// What is known of a joint.
#[derive(Clone, Copy, Debug)]
struct Joint {
    at: [f64; 2],
    /// In pixels a second.
    speed: [f64; 2],
    time: f64,
}

impl Smoother {
    /// A smoother that has seen no person yet.
    ///
    /// # Errors
    /// If a value in `options` is out of range.
    pub fn new(options: SmootherOptions) -> Result<Smoother> {
        options.check()?;
        Ok(Smoother { options, people: HashMap::new(), time: None })
    }

    /// Begins anew, as for another video.
    pub fn reset(&mut self) {
        self.people.clear();
        self.time = None;
    }

    /// Smooths the keypoints of the next frame, which is at `time` in seconds.
    ///
    /// # Errors
    /// [`Error::Usage`] if `time` is not finite or not above that of the frame before, if two people have the same id, or if a
    /// person with an id has a number that is not finite. Nothing is changed then.
    pub fn smooth(&mut self, people: &mut [Person], time: f64) -> Result<()> {
        super::check_time("smoother", self.time, time)?;
        let mut ids: Vec<u64> = people.iter().filter_map(|person| person.id).collect();
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::Usage(format!("smoother: two people have the id {}", pair[0])));
        }
        for (i, person) in people.iter().enumerate().filter(|(_, person)| person.id.is_some()) {
            super::check_person("smoother", i, person)?;
        }
        self.time = Some(time);
        let gone = time - self.options.max_unseen;
        self.people.retain(|_, joints| joints.iter().flatten().any(|joint| joint.time >= gone));
        for person in people {
            let Some(id) = person.id else { continue };
            let joints = self.people.entry(id).or_default();
            joints.resize(person.keypoints.len(), None);
            let [x1, y1, x2, y2] = person.bbox.map(f64::from);
            let size = ((x2 - x1).max(1.0) * (y2 - y1).max(1.0)).sqrt();
            for (keypoint, joint) in person.keypoints.iter_mut().zip(joints) {
                if keypoint.score >= self.options.min_score {
                    let before = joint.filter(|joint| joint.time >= gone);
                    let now = self.options.step(before, keypoint, time, size);
                    (keypoint.x, keypoint.y) = (now.at[0] as f32, now.at[1] as f32);
                    *joint = Some(now);
                }
            }
        }
        Ok(())
    }
}

impl SmootherOptions {
    /// One step of the filter.
    fn step(&self, before: Option<Joint>, seen: &Keypoint, time: f64, size: f64) -> Joint {
        let seen = [f64::from(seen.x), f64::from(seen.y)];
        let Some(before) = before else { return Joint { at: seen, speed: [0.0; 2], time } };
        let seconds = time - before.time;
        // The share of what is new in a low-pass filter.
        let share = |cutoff: f64| {
            let turn = TAU * cutoff * seconds;
            1.0 - 1.0 / (turn + 1.0)
        };
        let mix = |old: f64, new: f64, share: f64| old + share * (new - old);
        let fresh = [0, 1].map(|i| ((seen[i] - before.at[i]) / seconds).clamp(-FASTEST, FASTEST));
        let speed = [0, 1].map(|i| mix(before.speed[i], fresh[i], share(self.speed_cutoff)));
        let cutoff = self.min_cutoff + self.beta * speed[0].hypot(speed[1]) / size;
        let at = [0, 1].map(|i| mix(before.at[i], seen[i], share(cutoff)));
        Joint { at, speed, time }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The wrist's way through frames at 30 a second, for a person of 200 pixels (square root of the area).
    fn smooth(way: impl Fn(f64) -> (f64, f32), frames: usize) -> Vec<f64> {
        let mut smoother = Smoother::new(SmootherOptions::default()).unwrap();
        (0..frames)
            .map(|i| {
                let (x, score) = way(i as f64 / 30.0);
                let mut person =
                    Person::new(0.9, [0.0, 0.0, 100.0, 400.0], vec![Keypoint::new(x as f32, 9.0, score)]);
                person.id = Some(7);
                smoother.smooth(std::slice::from_mut(&mut person), i as f64 / 30.0).unwrap();
                person.keypoints[0].x.into()
            })
            .collect()
    }

    /// Uniform noise of a standard deviation of 1.
    fn noise(t: f64) -> f64 {
        let z = ((t * 30.0).round() + 1.0) * 12.9898;
        ((z.sin() * 43758.5453).rem_euclid(1.0) - 0.5) * 12f64.sqrt()
    }

    fn deviation(of: &[f64]) -> f64 {
        let mean = of.iter().sum::<f64>() / of.len() as f64;
        (of.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / of.len() as f64).sqrt()
    }

    #[test]
    fn a_joint_at_rest_jitters_less_than_half() {
        let way = |t: f64| (150.0 + noise(t), 0.9);
        let smoothed = smooth(way, 600);
        let steps = |of: &[f64]| deviation(&of.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>());
        let raw: Vec<f64> = (0..600).map(|i| way(i as f64 / 30.0).0).collect();
        let (before, after) = (steps(&raw[30..]), steps(&smoothed[30..]));
        assert!(after < 0.35 * before, "from frame to frame: {before} before, {after} after");
        let (before, after) = (deviation(&raw[30..]), deviation(&smoothed[30..]));
        assert!(after < 0.6 * before, "about the mean: {before} before, {after} after");
    }

    #[test]
    fn a_joint_in_motion_does_not_lag_visibly() {
        // A wave of the hand: to and fro in 0.8 s, half the person's size wide.
        let wave = |t: f64| (150.0 + 50.0 * (TAU * t / 0.8).sin(), 0.9f32);
        let walk = |t: f64| (150.0 + 200.0 * t, 0.9);
        // Half a second at rest, then a reach of one size in 0.4 s.
        let reach = |t: f64| (150.0 + 200.0 * ((t - 0.5) / 0.4).clamp(0.0, 1.0), 0.9);
        for (name, way, most) in
            [("wave", &wave as &dyn Fn(f64) -> (f64, f32), 4.0), ("walk", &walk, 4.0), ("reach", &reach, 4.0)]
        {
            let smoothed = smooth(way, 60);
            let lag = smoothed.iter().enumerate().map(|(i, x)| (x - way(i as f64 / 30.0).0).abs());
            let lag = lag.fold(0.0, f64::max);
            // 4 pixels are 2 % of the person's size, less than a frame's way at these speeds.
            assert!(lag < most, "{name}: {lag}");
        }
    }

    #[test]
    fn low_scores_do_not_disturb() {
        // Every fourth frame the joint is far away, and the network doubts it.
        let way = |t: f64| if (t * 30.0).round() as i32 % 4 == 3 { (900.0, 0.1) } else { (150.0, 0.9) };
        for (i, x) in smooth(way, 100).into_iter().enumerate() {
            assert_eq!(x, if i % 4 == 3 { 900.0 } else { 150.0 });
        }
    }

    #[test]
    fn errors_and_odd_people() {
        let mut smoother = Smoother::new(SmootherOptions::default()).unwrap();
        let named = |id: Option<u64>, n: usize| {
            let mut person = Person::new(0.9, [0.0; 4], vec![Keypoint::new(1.0, 2.0, 0.9); n]);
            person.id = id;
            person
        };
        let error = smoother.smooth(&mut [named(Some(3), 1), named(Some(3), 1)], 0.0).unwrap_err();
        assert!(error.to_string().contains("two people have the id 3"), "{error}");
        let mut broken = named(Some(3), 1);
        broken.keypoints[0].x = f32::NAN;
        assert!(smoother.smooth(&mut [broken.clone()], 0.0).is_err());
        // Without an id there is no history to smooth with.
        broken.id = None;
        smoother.smooth(&mut [broken], 0.0).unwrap();
        assert!(
            smoother
                .smooth(&mut [], 0.0)
                .unwrap_err()
                .to_string()
                .contains("time 0 s: expected more than 0 s")
        );
        // Keypoints that come and go; a jump as far and as fast as numbers can say.
        for (i, n) in [3, 0, 17, 1].into_iter().enumerate() {
            let mut person = named(Some(5), n);
            person.keypoints.iter_mut().for_each(|k| k.x = [f32::MAX, f32::MIN][i % 2]);
            smoother.smooth(std::slice::from_mut(&mut person), 1e-300 * (i + 1) as f64).unwrap();
            assert!(person.keypoints.iter().all(|k| k.x.is_finite()));
        }
        for (options, part) in [
            (SmootherOptions::default().with_min_cutoff(0.0), "min_cutoff 0"),
            (SmootherOptions::default().with_beta(f64::NAN), "beta NaN"),
            (SmootherOptions::default().with_speed_cutoff(-1.0), "speed_cutoff -1"),
            (SmootherOptions::default().with_min_score(2.0), "min_score 2"),
            (SmootherOptions::default().with_max_unseen(0.0), "max_unseen 0"),
        ] {
            let error = Smoother::new(options).unwrap_err().to_string();
            assert!(error.starts_with("smoother: ") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn those_who_left_are_forgotten() {
        let mut smoother = Smoother::new(SmootherOptions::default()).unwrap();
        for i in 0..10_000u64 {
            let mut person = Person::new(0.9, [0.0, 0.0, 9.0, 9.0], vec![Keypoint::new(1.0, 2.0, 0.9)]);
            person.id = Some(i + 1);
            smoother.smooth(std::slice::from_mut(&mut person), i as f64 / 30.0).unwrap();
        }
        assert!(smoother.people.len() < 20, "{}", smoother.people.len());
    }
}
