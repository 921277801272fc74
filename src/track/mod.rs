//! The same person in successive frames: identities, and keypoints without jitter.
//!
//! The method is ByteTrack's (surely found people are matched first, doubtful ones then continue what is left) over BoT-SORT's
//! motion model, with OC-SORT's correction after gaps and C-BIoU's widened boxes; keypoints decide between people who
//! overlap. How the camera has moved is told by what most people have in common. All is in seconds, so that the number of
//! frames a second does not matter.
//!
//! Constants were chosen on made-up scenes (tools/track); docs/tracking.md has the results.

mod assignment;
mod joints;
mod kalman;
mod one_track;
mod options;
mod similarity;
mod smooth;
#[cfg(test)]
mod tests;

pub use options::TrackerOptions;
pub use smooth::{Smoother, SmootherOptions};

use crate::error::{Error, Result};
use crate::pose::{Keypoint, Person};
use assignment::{Candidate, assign};
use joints::Joints;
use kalman::Place;
use one_track::{Seen, Track};

/// At most so many tracks are kept, seen ones and unseen ones; those unseen for longest go first. Twice what a network can
/// find in one frame.
const MOST_TRACKS: usize = 4096;

/// Doubtful people must be so much more alike than `min_iou` asks for: most that are doubtful are no person.
const DOUBT: f64 = 0.2;
/// People below this score are doubted, too, the more the lower it is: up to [`DOUBTED`] at `min_score`. Where people are often
/// missed, what is no person would take over their ids.
const SURE: f32 = 0.6;
const DOUBTED: f64 = 0.15;

/// How a camera has moved is told by so many people, the best.
const WITNESSES: usize = 50;
/// So many must have moved together before that is the camera's movement,
const TOGETHER: usize = 4;
/// and by this times as far as they differ from each other.
const BEYOND_DOUBT: f64 = 2.0;

/// Gives people of successive frames their ids: the same person has the same [`Person::id`] in every frame.
///
/// It needs no engine: it works on any people with boxes, and is better with keypoints.
///
/// ```
/// use rtmo_engine::{Person, Tracker, TrackerOptions};
///
/// let mut tracker = Tracker::new(TrackerOptions::default())?;
/// for frame in 0..3 {
///     let x = 10.0 * frame as f32;
///     let mut people = [
///         Person::new(0.8, [300.0 - x, 50.0, 360.0 - x, 200.0], Vec::new()),
///         Person::new(0.9, [100.0 + x, 40.0, 160.0 + x, 200.0], Vec::new()),
///     ];
///     tracker.update(&mut people, frame as f64 / 30.0)?;
///     assert_eq!(people.map(|person| person.id), [Some(2), Some(1)]);
/// }
/// # rtmo_engine::Result::Ok(())
/// ```
#[derive(Clone, Debug)]
pub struct Tracker {
    options: TrackerOptions,
    /// By age, the oldest first.
    tracks: Vec<Track>,
    /// Seconds of the frame before.
    time: Option<f64>,
    last_id: u64,
}

impl Tracker {
    /// A tracker that has seen no person yet.
    ///
    /// # Errors
    /// If a value in `options` is out of range.
    pub fn new(options: TrackerOptions) -> Result<Tracker> {
        options.check()?;
        Ok(Tracker { options, tracks: Vec::new(), time: None, last_id: 0 })
    }

    /// How it was set up.
    pub fn options(&self) -> &TrackerOptions {
        &self.options
    }

    /// Begins anew, as for another video: everybody is forgotten, and times may begin anywhere. Ids go on, so that none is
    /// ever given twice by one tracker.
    pub fn reset(&mut self) {
        self.tracks.clear();
        self.time = None;
    }

    /// Sets [`Person::id`] of the people of the next frame, which is at `time` in seconds; those who belong to no track have
    /// none. Ids begin at 1. The order of people does not matter.
    ///
    /// # Errors
    /// [`Error::Usage`] if `time` is not finite or not above that of the frame before, or if a person has a number that is not
    /// finite or a box whose sides are swapped. Nothing is changed then.
    pub fn update(&mut self, people: &mut [Person], time: f64) -> Result<()> {
        check_time("tracker", self.time, time)?;
        people.iter().enumerate().try_for_each(|(i, person)| check_person("tracker", i, person))?;
        let first = self.time.is_none();
        let passed = self.time.replace(time).map_or(0.0, |before| time - before);
        self.forget(time);
        self.tracks.iter_mut().for_each(|track| track.predict(passed));

        let order = by_score(people);
        let sure = order.partition_point(|&i| people[i].score >= self.options.min_score);
        let (sure, doubtful) = (order[..sure].to_vec(), order[sure..].to_vec());
        let (known, new): (Vec<usize>, Vec<usize>) =
            (0..self.tracks.len()).partition(|&t| self.tracks[t].id.is_some());
        let mut frame = Frame { people, time, passed, ids: vec![None; people.len()] };
        self.follow_camera(&known, &sure, &frame);
        let least = f64::from(self.options.min_iou);
        let (known, sure) = self.pair(known, sure, &mut frame, least);
        self.pair(known, doubtful, &mut frame, least + DOUBT);
        let (_, sure) = self.pair(new, sure, &mut frame, least);
        let mut ids = frame.ids;
        for i in sure {
            self.tracks.push(Track::new(Seen::new(&people[i], time)));
            let track = self.tracks.last_mut().expect("pushed");
            ids[i] = identify(track, if first { 1 } else { self.options.min_hits }, &mut self.last_id);
        }
        for track in self.tracks.iter_mut().filter(|track| track.seen.time < time) {
            track.missed += 1;
        }
        people.iter_mut().zip(ids).for_each(|(person, id)| person.id = id);
        Ok(())
    }

    /// Finds the best pairs of these tracks and people who are at least so much alike, and takes them in. Returns who is left,
    /// in the same order.
    fn pair(
        &mut self,
        tracks: Vec<usize>,
        people: Vec<usize>,
        frame: &mut Frame<'_>,
        least: f64,
    ) -> (Vec<usize>, Vec<usize>) {
        let mut seen: Vec<Option<Seen>> = people.iter().map(|&i| Some(frame.seen(i))).collect();
        let max_unseen = self.options.max_unseen;
        let mut sigmas = Sigmas { given: self.options.sigmas.as_deref(), made: Vec::new() };
        let asked = |i: usize| least + doubt(frame.people[i].score, self.options.min_score);
        let places: Vec<(Place, Joints, f64)> = people
            .iter()
            .zip(seen.iter().flatten())
            .map(|(&i, seen)| (seen.place, Joints::new(&seen.keypoints), asked(i)))
            .collect();
        let mut candidates = Vec::new();
        for (row, &t) in tracks.iter().enumerate() {
            let expected = self.tracks[t].expect(frame.time, frame.passed, max_unseen, |n| sigmas.of(n));
            let gains =
                places.iter().map(|(place, joints, asked)| expected.similarity(place, joints) - asked);
            candidates.extend(above_zero(row, gains));
        }
        let pairs = assign(tracks.len(), people.len(), &candidates);
        let (mut rows, mut columns) = (vec![true; tracks.len()], vec![true; people.len()]);
        for (row, column) in pairs {
            (rows[row], columns[column]) = (false, false);
            let track = &mut self.tracks[tracks[row]];
            track.take(seen[column].take().expect("in one pair"));
            frame.ids[people[column]] = identify(track, self.options.min_hits, &mut self.last_id);
        }
        let left = |all: Vec<usize>, open: Vec<bool>| -> Vec<usize> {
            all.into_iter().zip(open).filter_map(|(i, open)| open.then_some(i)).collect()
        };
        (left(tracks, rows), left(people, columns))
    }

    /// Finds whether most people who were seen in the frame before are off by the same from where they are expected: then the
    /// camera has moved, and all that is known moves with it.
    fn follow_camera(&mut self, tracks: &[usize], people: &[usize], frame: &Frame<'_>) {
        let tracks: Vec<usize> = tracks.iter().copied().filter(|&t| self.tracks[t].missed == 0).collect();
        if tracks.len().min(people.len()) < TOGETHER {
            return;
        }
        let seen: Vec<Seen> = people.iter().take(WITNESSES).map(|&i| frame.seen(i)).collect();
        let mut candidates = Vec::new();
        for (row, &t) in tracks.iter().enumerate() {
            let overlaps = seen.iter().map(|seen| self.tracks[t].sway(seen).0);
            candidates.extend(above_zero(row, overlaps));
        }
        let pairs = assign(tracks.len(), seen.len(), &candidates);
        if pairs.len() < TOGETHER {
            return;
        }
        let off: Vec<[f64; 2]> =
            pairs.iter().map(|&(row, column)| self.tracks[tracks[row]].sway(&seen[column]).1).collect();
        let common = [0, 1].map(|i| median(off.iter().map(|off| off[i]).collect()));
        let [x, y] = common;
        let differ = median(off.iter().map(|off| (off[0] - x).hypot(off[1] - y)).collect());
        if x.hypot(y) > BEYOND_DOUBT * differ {
            self.tracks.iter_mut().for_each(|track| track.shift(common));
        }
    }

    /// Ends the tracks of those who have not been seen for too long.
    fn forget(&mut self, time: f64) {
        let max_unseen = self.options.max_unseen;
        self.tracks.retain(|track| track.lives(time, max_unseen));
        if self.tracks.len() > MOST_TRACKS {
            let mut times: Vec<f64> = self.tracks.iter().map(|track| track.seen.time).collect();
            times.sort_unstable_by(|a, b| b.total_cmp(a));
            let oldest = times[MOST_TRACKS - 1];
            self.tracks.retain(|track| track.seen.time >= oldest);
            self.tracks.truncate(MOST_TRACKS);
        }
    }
}

/// The people of a frame, and who they are as far as that is known.
struct Frame<'a> {
    people: &'a [Person],
    /// Seconds, and since the frame before.
    time: f64,
    passed: f64,
    ids: Vec<Option<u64>>,
}

impl Frame<'_> {
    fn seen(&self, i: usize) -> Seen {
        Seen::new(&self.people[i], self.time)
    }
}

/// How much more alike than others somebody of this score must be. People below `min_score` are matched apart.
fn doubt(score: f32, min_score: f32) -> f64 {
    if score < min_score || score >= SURE {
        return 0.0;
    }
    DOUBTED * f64::from((SURE - score) / (SURE - min_score))
}

/// The candidates of a row: those whose gain is above 0.
fn above_zero(row: usize, gains: impl Iterator<Item = f64>) -> impl Iterator<Item = Candidate> {
    let candidates = gains.enumerate().map(move |(column, gain)| Candidate { row, column, gain });
    candidates.filter(|candidate| candidate.gain > 0.0)
}

/// Of at least one number.
fn median(mut of: Vec<f64>) -> f64 {
    of.sort_unstable_by(f64::total_cmp);
    (of[(of.len() - 1) / 2] + of[of.len() / 2]) / 2.0
}

/// Gives a track that has been seen often enough an id.
fn identify(track: &mut Track, min_hits: usize, last_id: &mut u64) -> Option<u64> {
    if track.id.is_none() && track.hits >= min_hits {
        *last_id += 1;
        track.id = Some(*last_id);
    }
    track.id
}

/// Places of people by falling score. Those of equal score are ordered by their other numbers, so that the result does not
/// depend on the order in which they come.
fn by_score(people: &[Person]) -> Vec<usize> {
    let numbers = |p: &Person| {
        let joints = p.keypoints.iter().flat_map(|k| [k.x, k.y, k.score]);
        p.bbox.into_iter().chain(joints).map(f32::to_bits).collect::<Vec<u32>>()
    };
    let mut order: Vec<usize> = (0..people.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (&people[a], &people[b]);
        b.score.total_cmp(&a.score).then_with(|| numbers(a).cmp(&numbers(b)))
    });
    order
}

/// Times are finite and rise.
fn check_time(whose: &str, before: Option<f64>, time: f64) -> Result<()> {
    match before {
        _ if !time.is_finite() => {
            Err(Error::Usage(format!("{whose}: time {time}: expected a finite number of seconds")))
        }
        Some(before) if time <= before => Err(Error::Usage(format!(
            "{whose}: time {time} s: expected more than {before} s, the time of the frame before ('reset' begins a new video)"
        ))),
        _ => Ok(()),
    }
}

/// Numbers are finite, and a box's sides in order.
fn check_person(whose: &str, index: usize, person: &Person) -> Result<()> {
    let wrong = |what: String, expected: &str| {
        Err(Error::Usage(format!("{whose}: person {}: {what}: expected {expected}", index + 1)))
    };
    let [x1, y1, x2, y2] = person.bbox;
    if !person.score.is_finite() {
        return wrong(format!("score {}", person.score), "a finite number");
    }
    if !person.bbox.iter().all(|v| v.is_finite()) {
        return wrong(format!("box {:?}", person.bbox), "finite numbers");
    }
    if x2 < x1 || y2 < y1 {
        return wrong(format!("box {:?}", person.bbox), "x1, y1, x2, y2 with x1 <= x2 and y1 <= y2");
    }
    let finite = |k: &Keypoint| k.x.is_finite() && k.y.is_finite() && k.score.is_finite();
    match person.keypoints.iter().position(|k| !finite(k)) {
        Some(i) => {
            let Keypoint { x, y, score } = person.keypoints[i];
            wrong(format!("keypoint {} at {x}, {y} with score {score}", i + 1), "finite numbers")
        }
        None => Ok(()),
    }
}

/// The constants of OKS for each number of keypoints that occurs.
struct Sigmas<'a> {
    given: Option<&'a [f32]>,
    made: Vec<Vec<f32>>,
}

impl Sigmas<'_> {
    fn of(&mut self, keypoints: usize) -> &[f32] {
        if let Some(given) = self.given {
            return given;
        }
        let at = self.made.iter().position(|sigmas| sigmas.len() == keypoints).unwrap_or_else(|| {
            self.made.push(similarity::sigmas(keypoints));
            self.made.len() - 1
        });
        &self.made[at]
    }
}
