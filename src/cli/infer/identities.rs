//! Options for the same people in successive frames.

use crate::cli::options::fraction;
use clap::Args;
use rtmo_engine::{Error, People, Result, Smoother, SmootherOptions, Tracker, TrackerOptions};

/// Whether and how people are followed.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Identities")]
pub struct IdentityOptions {
    /// Give people ids: the same person has the same id in all frames of a clip, and no id is given twice in a run. People
    /// without one, who are seen in a single frame, are left out
    #[arg(long)]
    pub track: bool,
    /// Photos are frames of one clip, so many a second: for --track over photos
    #[arg(long, value_name = "RATE", requires = "track", value_parser = rate, allow_negative_numbers = true)]
    pub rate: Option<f64>,
    /// How alike a person must be to what is expected of an id: overlap of widened boxes, or similarity of keypoints
    #[arg(long, value_name = "0..1", requires = "track", value_parser = fraction, allow_negative_numbers = true, default_value_t = TrackerOptions::default().min_iou)]
    track_min_iou: f32,
    /// Seconds out of sight after which a person who comes back gets a new id
    #[arg(long, value_name = "SECONDS", requires = "track", allow_negative_numbers = true, default_value_t = TrackerOptions::default().max_unseen)]
    track_max_unseen: f64,
    /// Score from which on a person gets a new id; people of lower scores keep the one they have
    #[arg(long, value_name = "0..1", requires = "track", value_parser = fraction, allow_negative_numbers = true, default_value_t = TrackerOptions::default().min_score)]
    track_min_score: f32,
    /// Frames in which a person must be seen before there is an id
    #[arg(long, value_name = "N", requires = "track", allow_negative_numbers = true, default_value_t = TrackerOptions::default().min_hits)]
    track_min_hits: usize,
    /// Smooth the motion of each person's keypoints, so that they do not tremble
    #[arg(long, requires = "track")]
    smooth: bool,
}

/// Follows people through the clips of a run.
pub struct Identities {
    tracker: Tracker,
    smoother: Option<Smoother>,
    /// Photos a second, and how many there were.
    photos: Option<f64>,
    last: f64,
}

/// Times that do not rise, as some files have them, count so much later than the one before.
const LEAST_STEP: f64 = 1e-4;

impl IdentityOptions {
    /// What follows people, if they are to be followed.
    ///
    /// # Errors
    /// If an option is out of its range.
    pub fn begin(&self) -> Result<Option<Identities>> {
        if !self.track {
            return Ok(None);
        }
        let options = TrackerOptions::default()
            .with_min_iou(self.track_min_iou)
            .with_max_unseen(self.track_max_unseen)
            .with_min_score(self.track_min_score)
            .with_min_hits(self.track_min_hits);
        let smoother = SmootherOptions::default().with_max_unseen(self.track_max_unseen);
        let smoother = self.smooth.then(|| Smoother::new(smoother)).transpose()?;
        let (tracker, photos) = (Tracker::new(options)?, self.rate);
        Ok(Some(Identities { tracker, smoother, photos, last: f64::NEG_INFINITY }))
    }

    /// That photos have times, if they are to be followed.
    ///
    /// # Errors
    /// If they have none.
    pub fn check(&self, photos: bool) -> Result<()> {
        if self.track && self.rate.is_none() && photos {
            let what = "--track needs times, and photos have none; --rate says how many there are a second";
            return Err(Error::Usage(what.into()));
        }
        Ok(())
    }
}

impl Identities {
    /// A new clip begins.
    pub fn reset(&mut self) {
        self.tracker.reset();
        if let Some(smoother) = &mut self.smoother {
            smoother.reset();
        }
        self.last = f64::NEG_INFINITY;
    }

    /// Gives the people of a clip's frame their ids; those without one are taken out.
    ///
    /// # Errors
    /// If a number is not finite.
    pub fn follow(&mut self, people: &mut People, time: f64) -> Result<()> {
        let time = time.max(self.last + LEAST_STEP);
        self.last = time;
        self.tracker.update(people, time)?;
        people.retain(|person| person.id.is_some());
        match &mut self.smoother {
            Some(smoother) => smoother.smooth(people, time),
            None => Ok(()),
        }
    }

    /// As [`Identities::follow`], for the photo with this number, from 0.
    ///
    /// # Errors
    /// As there; if photos have no times.
    pub fn follow_photo(&mut self, people: &mut People, number: usize) -> Result<()> {
        let rate =
            self.photos.ok_or_else(|| Error::Usage("photos have no times; --rate gives them".into()))?;
        self.follow(people, number as f64 / rate)
    }
}

fn rate(text: &str) -> std::result::Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (1e-3..=1e5).contains(rate));
    rate.ok_or_else(|| "expected 0.001 to 100000 photos a second".into())
}
