//! Where a person's box is and how it moves: BoT-SORT's Kalman filter of centre and size, in seconds.
//!
//! BoT-SORT counts frames. Here the same noise is a process in continuous time, so that one prediction over a second equals
//! thirty over a thirtieth each. Its four coordinates do not mix, so the filter is four filters of two numbers.

/// A box by its centre and size, in photo pixels. Sizes are at least 1: a box without area has a place, too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    pub x: f64,
    pub y: f64,
    pub w: f64,
    pub h: f64,
}

impl Place {
    /// From `x1, y1, x2, y2`.
    pub fn of(bbox: [f32; 4]) -> Place {
        let [x1, y1, x2, y2] = bbox.map(f64::from);
        Place { x: (x1 + x2) / 2.0, y: (y1 + y2) / 2.0, w: (x2 - x1).max(1.0), h: (y2 - y1).max(1.0) }
    }

    /// The place on the straight way from here to `to`; `part` 0 is here, 1 is there.
    pub fn towards(&self, to: &Place, part: f64) -> Place {
        let between = |a: f64, b: f64| a + (b - a) * part;
        Place {
            x: between(self.x, to.x),
            y: between(self.y, to.y),
            w: between(self.w, to.w),
            h: between(self.h, to.h),
        }
    }

    pub fn area(&self) -> f64 {
        self.w * self.h
    }
}

/// Standard deviations as shares of the person's size. BoT-SORT's are 1/20 and 1/160 a frame; at its 30 frames a second these
/// are the same.
const MEASURED: f64 = 1.0 / 20.0;
/// Of a place that is measured once.
const FIRST: f64 = 2.0 / 20.0;
/// Of the speed after one measurement, in sizes a second.
const FIRST_SPEED: f64 = 30.0 / 16.0;
/// Variance that a place gains in a second: 30 (1/20)^2.
const WANDERING: f64 = 30.0 / 400.0;
/// Variance that a speed gains in a second: 30 (30/160)^2.
const TURNING: f64 = 30.0 * (30.0 / 160.0) * (30.0 / 160.0);
/// Seconds after which a speed has fallen to 1/e: people turn and stop.
const KEEPS_GOING: f64 = 5.0;
/// The same for the speed of a size: arms that spread stop soon.
const KEEPS_GROWING: f64 = 0.3;

/// One coordinate, its speed a second, and their covariance.
#[derive(Clone, Copy, Debug)]
struct Axis {
    value: f64,
    speed: f64,
    value_var: f64,
    covariance: f64,
    speed_var: f64,
}

impl Axis {
    fn new(value: f64, size: f64) -> Axis {
        let square = |share: f64| (share * size) * (share * size);
        Axis { value, speed: 0.0, value_var: square(FIRST), covariance: 0.0, speed_var: square(FIRST_SPEED) }
    }

    /// A speed that falls off (an Ornstein-Uhlenbeck process) with time constant `tau`, integrated exactly: the result does
    /// not depend on the number of steps.
    fn predict(&mut self, seconds: f64, size: f64, tau: f64) {
        let kept = (-seconds / tau).exp();
        let reach = tau * (1.0 - kept);
        let q = TURNING * size * size;
        let spread = seconds - 2.0 * reach + tau / 2.0 * (1.0 - kept * kept);
        self.value += reach * self.speed;
        self.speed *= kept;
        self.value_var += 2.0 * reach * self.covariance
            + reach * reach * self.speed_var
            + q * tau * tau * spread.max(0.0)
            + WANDERING * size * size * seconds;
        self.covariance = kept * (self.covariance + reach * self.speed_var) + q / 2.0 * reach * reach;
        self.speed_var = kept * kept * self.speed_var + q * tau / 2.0 * (1.0 - kept * kept);
    }

    fn update(&mut self, measured: f64, size: f64) {
        let noise = (MEASURED * size) * (MEASURED * size);
        let all = self.value_var + noise;
        let (gain, speed_gain) = (self.value_var / all, self.covariance / all);
        let off = measured - self.value;
        self.value += gain * off;
        self.speed += speed_gain * off;
        self.speed_var -= speed_gain * self.covariance;
        self.covariance *= 1.0 - gain;
        self.value_var *= 1.0 - gain;
    }
}

/// The filter of one person's box.
#[derive(Clone, Copy, Debug)]
pub struct Motion {
    x: Axis,
    y: Axis,
    w: Axis,
    h: Axis,
}

impl Motion {
    /// Of a person that was seen once.
    pub fn new(at: &Place) -> Motion {
        let &Place { x, y, w, h } = at;
        Motion { x: Axis::new(x, w), y: Axis::new(y, h), w: Axis::new(w, w), h: Axis::new(h, h) }
    }

    /// The most likely place.
    pub fn place(&self) -> Place {
        Place { x: self.x.value, y: self.y.value, w: self.w.value.max(1.0), h: self.h.value.max(1.0) }
    }

    /// Moves on by some seconds.
    pub fn predict(&mut self, seconds: f64) {
        let Place { w, h, .. } = self.place();
        self.x.predict(seconds, w, KEEPS_GOING);
        self.y.predict(seconds, h, KEEPS_GOING);
        self.w.predict(seconds, w, KEEPS_GROWING);
        self.h.predict(seconds, h, KEEPS_GROWING);
    }

    /// Moves by some pixels at once, as when the camera has moved.
    pub fn shift(&mut self, x: f64, y: f64) {
        self.x.value += x;
        self.y.value += y;
    }

    /// Takes in where the person was seen.
    pub fn update(&mut self, seen: &Place) {
        let Place { w, h, .. } = self.place();
        self.x.update(seen.x, w);
        self.y.update(seen.y, h);
        self.w.update(seen.w, w);
        self.h.update(seen.h, h);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_second_is_thirty_thirtieths() {
        let mut whole = Motion::new(&Place { x: 100.0, y: 50.0, w: 40.0, h: 90.0 });
        whole.predict(0.1);
        whole.update(&Place { x: 104.0, y: 49.0, w: 40.0, h: 90.0 });
        let mut parts = whole;
        whole.x.predict(1.0, 40.0, KEEPS_GOING);
        (0..30).for_each(|_| parts.x.predict(1.0 / 30.0, 40.0, KEEPS_GOING));
        for (a, b) in [
            (whole.x.value, parts.x.value),
            (whole.x.speed, parts.x.speed),
            (whole.x.value_var, parts.x.value_var),
            (whole.x.covariance, parts.x.covariance),
            (whole.x.speed_var, parts.x.speed_var),
        ] {
            assert!((a - b).abs() < 1e-9 * a.abs().max(1.0), "{a} {b}");
        }
    }

    #[test]
    fn a_steady_walk_is_foreseen() {
        for fps in [5.0, 10.0, 30.0, 60.0] {
            let at = |t: f64| Place { x: 100.0 + 80.0 * t, y: 200.0, w: 50.0, h: 120.0 };
            let mut motion = Motion::new(&at(0.0));
            for i in 1..=(3.0 * fps) as usize {
                motion.predict(1.0 / fps);
                motion.update(&at(i as f64 / fps));
            }
            motion.predict(0.2);
            // Within a tenth of the width: the filter's speed falls off with time and lags behind by a little.
            assert!((motion.place().x - at(3.2).x).abs() < 5.0, "{fps} fps: {}", motion.place().x);
        }
    }
}
