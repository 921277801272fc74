//! Expected mean and variance of maps in a network with generated weights. Builders carry it along
//! with the maps, so that each layer's weights and batch norm can be generated to suit its input.

/// Mean and variance of a map's values: those of a sum of `maps` independent ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Signal {
    mean: f64,
    var: f64,
    maps: usize,
}

impl Signal {
    /// A picture's values.
    pub const PIXELS: Signal = Signal::new(114.0, 50.0 * 50.0);
    /// What leaves a norm without an activation.
    pub const NORMAL: Signal = Signal::new(0.0, 1.0);
    /// `SiLU(z)` for a normal `z` of mean and variance 1.
    pub const SILU: Signal = Signal::new(0.875, 0.716);
    /// `max(z, 0)` for such a `z`; and nearly so for the sum of such a map and one that brings `z` back to mean and
    /// variance 1.
    pub const RELU: Signal = Signal::new(1.083, 0.751);
    /// The maxima of windows of 3 pixels of such a map of a picture.
    pub const POOLED_RELU: Signal = Signal::new(1.4, 0.8);
    /// The maxima of windows of 5, 9 and 13 pixels of a map of [`Signal::SILU`].
    pub const POOLED_SILU: Signal = Signal::new(3.0, 0.8);

    const fn new(mean: f64, var: f64) -> Signal {
        Signal { mean, var, maps: 1 }
    }

    /// The signal less its mean.
    pub const fn centered(self) -> Signal {
        Signal { mean: 0.0, ..self }
    }

    /// The sum of two maps.
    pub fn plus(self, other: Signal) -> Signal {
        if (self.mean, self.var) == (other.mean, other.var) {
            return Signal { maps: self.maps + other.maps, ..self };
        }
        Signal::new(self.mean() + other.mean(), self.var() + other.var())
    }

    pub const fn mean(self) -> f64 {
        self.maps as f64 * self.mean
    }

    pub const fn var(self) -> f64 {
        self.maps as f64 * self.var
    }
}

/// A layer's input channels in the order of its weight: ranges, and what each holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Inputs(Vec<(usize, Signal)>);

impl Inputs {
    /// `channels` of one signal.
    pub fn of(channels: usize, signal: Signal) -> Inputs {
        Inputs(vec![(channels, signal)])
    }

    /// Appends channels.
    pub fn push(&mut self, channels: usize, signal: Signal) {
        if channels > 0 {
            self.0.push((channels, signal));
        }
    }

    /// These channels, and `channels` of another signal after them.
    pub fn then(mut self, channels: usize, signal: Signal) -> Inputs {
        self.push(channels, signal);
        self
    }

    /// What the first channel holds.
    pub fn first(&self) -> Signal {
        self.0.first().map_or(Signal::NORMAL, |&(_, signal)| signal)
    }

    /// Mean of each of the channels; where a weight has several groups, of those of one.
    pub fn means(&self) -> impl Iterator<Item = f64> {
        self.0.iter().flat_map(|&(n, signal)| std::iter::repeat_n(signal.mean(), n))
    }

    /// Variance, averaged over the channels at quarters of the way.
    pub fn var(&self) -> f64 {
        let channels: usize = self.0.iter().map(|(n, _)| n).sum();
        let at = |channel: usize| {
            let mut end = 0;
            let found = self.0.iter().find(|(n, _)| {
                end += n;
                channel < end
            });
            found.map_or(0.0, |(_, signal)| signal.var())
        };
        let [a, b, c, d] = [0, 1, 2, 3].map(|quarter| at(quarter * channels / 4));
        (a + b + c + d) / 4.0
    }
}
