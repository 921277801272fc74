//! Which of several choices a launch gets. Decisions only: what runs is behind [`Bench`], so that tests decide about
//! choices that are right, wrong and failing without a GPU.

use super::tiles::Choice;
use crate::error::{Error, Result};
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::time::Duration;

/// What trying a choice for a launch on this GPU has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It computes what the reference does.
    Good,
    /// It computes something else, or its process died.
    Bad,
    /// It did not end in time.
    Hung,
}

impl Verdict {
    pub const ALL: [Verdict; 3] = [Verdict::Good, Verdict::Bad, Verdict::Hung];

    /// Its word in files and between processes.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Good => "good",
            Verdict::Bad => "bad",
            Verdict::Hung => "hung",
        }
    }

    /// The verdict of this name.
    pub fn parse(name: &str) -> Option<Verdict> {
        Verdict::ALL.into_iter().find(|verdict| verdict.name() == name)
    }
}

/// What a launch wrote.
pub struct Output {
    /// Its results.
    pub values: Vec<f16>,
    /// Whether it wrote beside them, too.
    pub spilled: bool,
}

/// Where choices for one launch are tried, always on the same data.
pub trait Bench {
    /// Runs a choice once, on memory without traces of an earlier run.
    ///
    /// # Errors
    /// If it cannot be launched, or fails.
    fn output(&mut self, choice: &Choice) -> Result<Output>;

    /// Time of a launch. May give up at a choice that is clearly slower than `best`, and returns its time so far.
    ///
    /// # Errors
    /// As `output`.
    fn time(&mut self, choice: &Choice, best: Option<Duration>) -> Result<Duration>;
}

/// Relative error of a convolution's results, as in its tests: rounding to fp16 takes 2.8e-4, `tanh.approx` the rest.
const CLOSE: f64 = 6e-4;
/// Largest error of a single result, absolute and relative. Two kernels round nearly the same sum, so they differ by one
/// unit in the last place, 1e-3 of the result. A sum without one of its products differs by more than this.
const EACH: f32 = 4e-3;

/// What is wrong with a choice's results, if anything is.
pub fn fault(got: &Output, want: &Output) -> Option<String> {
    if got.spilled {
        return Some("it writes beside its output".into());
    }
    let (relative, worst) = distance(&got.values, &want.values);
    // NaN is not within, either.
    let within = relative <= CLOSE && worst <= EACH;
    (!within).then(|| format!("its results differ by {relative:.1e} in all, and one by {worst:.1e}"))
}

/// Relative L2 distance, and the largest of `|got - want| / (1 + |want|)`. NaN if a number of one side is not finite.
pub fn distance(got: &[f16], want: &[f16]) -> (f64, f32) {
    if got.len() != want.len() {
        return (f64::NAN, f32::NAN);
    }
    const PART: usize = 1024;
    let (mut g, mut w) = ([0f32; PART], [0f32; PART]);
    let (mut difference, mut norm, mut worst, mut bad) = (0f64, 0f64, 0f32, false);
    for (got, want) in got.chunks(PART).zip(want.chunks(PART)) {
        let (g, w) = (&mut g[..got.len()], &mut w[..got.len()]);
        got.convert_to_f32_slice(g);
        want.convert_to_f32_slice(w);
        let (mut d2, mut n2, mut most) = (0f32, 0f32, 0f32);
        for (&mut g, &mut w) in g.iter_mut().zip(w.iter_mut()) {
            let d = g - w;
            d2 += d * d;
            n2 += w * w;
            most = most.max(d.abs() / (1.0 + w.abs()));
        }
        // Infinities and NaNs end up in a sum.
        bad |= !(d2 + n2).is_finite();
        difference += f64::from(d2);
        norm += f64::from(n2);
        worst = worst.max(most);
    }
    if bad { (f64::NAN, f32::NAN) } else { ((difference / norm.max(1e-30)).sqrt(), worst) }
}

/// The fastest right choice, and those that came close.
#[derive(Debug)]
pub struct Chosen {
    pub time: Duration,
    pub choice: Choice,
    /// By rising time.
    pub close: Vec<(Duration, Choice)>,
}

/// Compares each choice with `reference` and times those that agree with it. `first` is the built-in choice: another one
/// must be 3 % faster to replace it. A choice that computes something else, or that leaves the device unusable, is told
/// to `bad`; one that only cannot be launched is passed over.
///
/// # Errors
/// If the reference fails, or fails after a choice has.
pub fn choose(
    bench: &mut dyn Bench,
    reference: Choice,
    first: Choice,
    others: &[Choice],
    bad: &mut dyn FnMut(&Choice),
) -> Result<Chosen> {
    /// How many that came close are returned, and how close.
    const CLOSE: (usize, f64) = (4, 1.25);
    let want = bench.output(&reference)?;
    // The distance from itself is NaN if a number is not finite.
    if let Some(why) = fault(&want, &want) {
        return Err(Error::Device(format!(
            "kernel {}, the reference, is of no use here: {why}",
            reference.tile.name
        )));
    }
    let mut all: Vec<(Duration, Choice)> = Vec::new();
    let mut best: Option<(Duration, Choice)> = None;
    for choice in [first].iter().chain(others).chain([&reference]) {
        if all.iter().any(|known| known.1 == *choice) {
            continue;
        }
        let tried = bench.output(choice).map(|got| fault(&got, &want));
        let timed = match tried {
            Ok(None) => bench.time(choice, best.map(|b| b.0)),
            Ok(Some(_)) => {
                bad(choice);
                continue;
            }
            Err(error) => Err(error),
        };
        match timed {
            Ok(time) => {
                all.push((time, *choice));
                let margin = if best.is_some_and(|b| b.1 == first) { 0.97 } else { 1.0 };
                if best.is_none_or(|b| time.as_secs_f64() < b.0.as_secs_f64() * margin) {
                    best = Some((time, *choice));
                }
            }
            // After some failures a device does nothing more in this process. Then the next start must know why.
            Err(error) => {
                if bench.output(&reference).is_err() {
                    bad(choice);
                    return Err(Error::Device(format!(
                        "kernel {} failed, and the GPU with it ({error}); the next start leaves it out",
                        choice.tile.name
                    )));
                }
            }
        }
    }
    let (time, choice) =
        best.ok_or_else(|| Error::Device(format!("kernel {} cannot be timed", reference.tile.name)))?;
    all.retain(|c| c.1 != choice && c.0 < time.mul_f64(CLOSE.1));
    all.sort_by_key(|c| c.0);
    all.truncate(CLOSE.0);
    Ok(Chosen { time, choice, close: all })
}

/// Which of `n` parts must be left out so that a whole does not differ from its reference. `differs` is told for each part
/// whether it is taken or as in the reference.
///
/// Finds one part after the other, each by halving: taking one part more makes the difference.
///
/// # Errors
/// Those of `differs`.
pub fn offenders(n: usize, mut differs: impl FnMut(&[bool]) -> Result<bool>) -> Result<Vec<usize>> {
    let mut taken = vec![true; n];
    let mut found = Vec::new();
    while taken.contains(&true) && differs(&taken)? {
        let (mut same, mut other) = (0, n);
        while other - same > 1 {
            let middle = same.midpoint(other);
            let first: Vec<bool> = taken.iter().enumerate().map(|(i, &taken)| taken && i < middle).collect();
            if differs(&first)? { other = middle } else { same = middle }
        }
        if !taken[same] {
            // One run differed and the same one did not: a race. Nothing is trusted.
            found.extend((0..n).filter(|&i| taken[i]));
            break;
        }
        taken[same] = false;
        found.push(same);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::tune::tests::{H100, shape};
    use super::super::tune::{candidates, fallback};
    use super::*;
    use std::collections::HashMap;

    /// What a choice does in a test, by its index in [`Fake::choices`].
    #[derive(Clone, Copy, PartialEq)]
    enum Does {
        Right(u64),
        /// One result is off, and it is fast.
        Wrong,
        NotFinite,
        Spills,
        /// Cannot be launched.
        Refused,
        /// Runs, but not in a chain.
        FailsLater,
        /// Takes the device with it.
        Breaks,
    }

    struct Fake {
        choices: Vec<Choice>,
        does: HashMap<usize, Does>,
        broken: bool,
        timed: Vec<usize>,
    }

    impl Fake {
        fn new(does: &[Does]) -> Fake {
            let shapes = [shape(3, 1, 64, 64, 20)];
            let reference = fallback(&H100, &shapes, 1);
            let others = candidates(&H100, &shapes, 1).into_iter().filter(|c| *c != reference);
            let choices = std::iter::once(reference).chain(others.take(does.len())).collect();
            // The reference is right and slow.
            let does = std::iter::once(&Does::Right(1000)).chain(does).copied().enumerate().collect();
            Fake { choices, does, broken: false, timed: vec![] }
        }

        fn of(&mut self, choice: &Choice) -> Result<(usize, Does)> {
            let i = self.choices.iter().position(|c| c == choice).unwrap();
            self.broken |= self.does[&i] == Does::Breaks;
            if self.broken { Err(Error::Device("lost".into())) } else { Ok((i, self.does[&i])) }
        }

        /// Chooses; returns the index of the chosen one, those that came close, and those told to be bad.
        fn choose(&mut self) -> Result<(usize, Vec<usize>)> {
            let (reference, first, others) = (self.choices[0], self.choices[1], self.choices[2..].to_vec());
            let mut bad = vec![];
            let chosen = choose(self, reference, first, &others, &mut |c| bad.push(*c));
            let index = |c: &Choice| self.choices.iter().position(|other| other == c).unwrap();
            let bad: Vec<usize> = bad.iter().map(index).collect();
            match chosen {
                Ok(chosen) => Ok((index(&chosen.choice), bad)),
                Err(error) => Err(Error::Device(format!("{error}; bad: {bad:?}"))),
            }
        }
    }

    impl Bench for Fake {
        fn output(&mut self, choice: &Choice) -> Result<Output> {
            let (_, does) = self.of(choice)?;
            let mut values: Vec<f16> = (0..5000).map(|i| f16::from_f32((i as f32 * 0.37).sin())).collect();
            match does {
                Does::Refused => return Err(Error::Device("too many threads".into())),
                // A single one of 5000, so little that the sum over all does not show it.
                Does::Wrong => values[4321] = f16::from_f32(values[4321].to_f32() + 0.02),
                Does::NotFinite => values[17] = f16::NAN,
                // as another order of sums does
                Does::Right(_) => values[5] = f16::from_bits(values[5].to_bits() ^ 1),
                _ => {}
            }
            Ok(Output { values, spilled: does == Does::Spills })
        }

        fn time(&mut self, choice: &Choice, _: Option<Duration>) -> Result<Duration> {
            let (i, does) = self.of(choice)?;
            self.timed.push(i);
            match does {
                Does::Right(us) => Ok(Duration::from_micros(us)),
                Does::FailsLater => Err(Error::Device("out of resources".into())),
                _ => Ok(Duration::from_micros(1)),
            }
        }
    }

    #[test]
    fn the_fastest_right_choice_is_taken() {
        use Does::*;
        let mut fake =
            Fake::new(&[Right(90), Wrong, Right(50), Refused, NotFinite, Right(60), Spills, FailsLater]);
        let (chosen, bad) = fake.choose().unwrap();
        assert_eq!((chosen, bad.as_slice()), (3, [2, 5, 7].as_slice()));
        assert!(bad.iter().all(|i| !fake.timed.contains(i)), "what is wrong is not timed");
    }

    #[test]
    fn the_built_in_choice_is_replaced_by_a_clearly_faster_one() {
        assert_eq!(Fake::new(&[Does::Right(100), Does::Right(98)]).choose().unwrap().0, 1);
        assert_eq!(Fake::new(&[Does::Right(100), Does::Right(96)]).choose().unwrap().0, 2);
        assert_eq!(Fake::new(&[Does::Wrong, Does::Right(98)]).choose().unwrap().0, 2);
    }

    #[test]
    fn where_nothing_else_is_right_the_reference_is_taken() {
        let mut fake = Fake::new(&[Does::Wrong, Does::Refused, Does::NotFinite]);
        assert_eq!(fake.choose().unwrap(), (0, vec![1, 3]));
    }

    #[test]
    fn a_choice_that_takes_the_device_with_it_is_known_at_the_next_start() {
        let mut fake = Fake::new(&[Does::Right(5), Does::Breaks, Does::Right(4)]);
        let error = fake.choose().unwrap_err().to_string();
        assert!(error.contains(fake.choices[2].tile.name) && error.contains("bad: [2]"), "{error}");
        // the same of a reference that fails at once
        let mut fake = Fake::new(&[Does::Right(5)]);
        fake.broken = true;
        assert!(fake.choose().is_err());
        let mut fake = Fake::new(&[Does::Right(5)]);
        fake.does.insert(0, Does::NotFinite);
        assert!(fake.choose().unwrap_err().to_string().contains("reference"));
    }

    /// Every set of offenders among seven parts; where two parts differ only together, one of them.
    #[test]
    fn offenders_are_found() {
        for set in 0..128u32 {
            let of_set = |i: usize| set >> i & 1 == 1;
            let mut runs = 0;
            let mut found = offenders(7, |taken| {
                runs += 1;
                Ok((0..7).any(|i| taken[i] && of_set(i)))
            })
            .unwrap();
            found.sort();
            assert_eq!(found, (0..7).filter(|&i| of_set(i)).collect::<Vec<_>>());
            assert!(runs <= 1 + 4 * found.len(), "{runs} runs for {found:?}");
        }
        assert_eq!(offenders(5, |taken| Ok(taken[1] && taken[3])).unwrap(), [3]);
        assert_eq!(offenders(0, |_| Ok(true)).unwrap(), [0usize; 0]);
        assert!(offenders(3, |_| Err(Error::Device("lost".into()))).is_err());
        // A whole that differs at random leaves no part.
        let mut runs = 0;
        let random = |_: &[bool]| {
            runs += 1;
            Ok([true, false, true, true, false, true, true, true][(runs - 1) % 8])
        };
        let mut found = offenders(4, random).unwrap();
        found.sort();
        found.dedup();
        assert!(!found.is_empty() && found.len() <= 4);
        assert_eq!(offenders(3, |_| Ok(true)).unwrap().len(), 3);
    }

    #[test]
    fn distances_see_what_is_not_finite() {
        let ones = vec![f16::ONE; 3000];
        assert_eq!(distance(&ones, &ones), (0.0, 0.0));
        for bad in [f16::NAN, f16::INFINITY, f16::NEG_INFINITY] {
            let mut other = ones.clone();
            other[2999] = bad;
            assert!(distance(&other, &ones).0.is_nan() && distance(&ones, &other).1.is_nan());
            assert!(distance(&other, &other).0.is_nan(), "even from itself");
        }
        assert!(distance(&ones, &ones[1..]).0.is_nan());
        // The largest numbers of fp16 fit into the sums.
        let large = vec![f16::MAX; 3000];
        assert_eq!(distance(&large, &large), (0.0, 0.0));
    }
}
