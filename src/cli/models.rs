//! `rtmo-engine models`

use super::{Ended, Outcome, terminal};
use clap::Args;
use rtmo_engine::shown;
use rtmo_engine::weights::registry::{self, PUBLISHED, Published, Search};
use rtmo_engine::weights::{Standing, remove, standing};
use rtmo_engine::{Error, Result};
use std::path::Path;
use std::time::UNIX_EPOCH;

/// List the published checkpoints, and which are here
///
/// Lists the checkpoints that the authors of RTMO published: name, network input, keypoints, training data, average
/// precision as published, where it can be downloaded, and whether the file is on this machine, whole, and since when.
#[derive(Args)]
#[command(after_help = "\
'rtmo-engine download NAME' fetches one. A file that was downloaded otherwise works as it is: put it into weights/ or \
~/.cache/rtmo-engine/, point $RTMO_WEIGHTS to its folder, or give it with --weights.")]
pub struct Models {
    /// Print names only
    #[arg(long)]
    names: bool,
    /// Delete a checkpoint that was downloaded into the user's cache folder
    #[arg(long, value_name = "NAME", conflicts_with = "names")]
    remove: Option<String>,
}

impl Models {
    pub fn run(self) -> Ended {
        if let Some(name) = &self.remove {
            return delete(name);
        }
        // With a wrong $RTMO_WEIGHTS every model would be listed as missing: warn of it.
        if let Err(error) = Search::from_environment().look(None, None) {
            terminal::complain("warning", error);
        }
        for model in &PUBLISHED {
            match self.names {
                true => terminal::print(model.name)?,
                false => terminal::print(describe(model))?,
            }
        }
        Ok(Outcome::Done)
    }
}

/// Deletes a checkpoint in the cache folder. A copy in another folder is the user's own: it is named and kept.
fn delete(name: &str) -> Ended {
    let model = registry::find(name).ok_or_else(|| Error::Usage(registry::not_published(name)))?;
    let freed = match registry::cache_folder() {
        Some(folder) => remove(model, &folder)?.map(|freed| (folder, freed)),
        None => None,
    };
    match &freed {
        Some((folder, freed)) => terminal::print(format!(
            "{}: removed from {}, {:.1} MB",
            model.name,
            shown(&folder),
            *freed as f64 / 1e6
        ))?,
        None => terminal::complain("error", format!("{}: not in the user's cache folder", model.name)),
    }
    if let Some(path) = model.installed() {
        terminal::complain("note", format!("{} is left", shown(&path)));
    }
    Ok(if freed.is_some() { Outcome::Done } else { Outcome::Incomplete })
}

fn describe(model: &Published) -> String {
    let Published { name, keypoints, training_data, benchmark, .. } = model;
    let (w, h) = model.input_size;
    let here = match model.installed() {
        Some(path) => match state(model, &path) {
            Ok(state) => format!("here{}: {}\n    {state}", since(&path), shown(&path)),
            Err(error) => format!("here, but {error}"),
        },
        None => "not here".into(),
    };
    let ap = 100.0 * model.ap;
    format!(
        "{name:<22}  {w}x{h}  {keypoints} keypoints  trained on {training_data:<9}  AP {ap:.1} on {benchmark:<14}\n    {}\n    \
         {here}",
        model.url
    )
}

/// Whether a file that is here is whole.
fn state(model: &Published, path: &Path) -> Result<String> {
    Ok(match standing(model, path)? {
        Standing::Whole => "whole: its SHA-256 is the published file's".into(),
        Standing::Pinned => {
            "whole: its SHA-256 is that of the first download, and agrees with the 32 bits published".into()
        }
        Standing::Prefix => "its SHA-256 agrees with the 32 bits published; no more of it is known".into(),
        Standing::Unnamed => {
            "not the published file itself but one of its model's names: nothing to compare it with".into()
        }
        Standing::Different(what) => format!("NOT the published file: {what}"),
    })
}

/// ` since 2026-11-30`, by the file's time.
fn since(path: &Path) -> String {
    let modified = std::fs::metadata(path).and_then(|found| found.modified()).ok();
    let seconds = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_secs());
    seconds.map_or(String::new(), |seconds| {
        let (year, month, day) = date(seconds / 86_400);
        format!(" since {year}-{month:02}-{day:02}")
    })
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
fn date(mut day: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    // Whole spans of 400 years are taken out first, because a file's time may be any number.
    year += 400 * (day / 146_097);
    day %= 146_097;
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    (year, month as u64 + 1, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_dates() {
        for (day, expected) in [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (11_016, (2000, 2, 29)),
            (19_722, (2023, 12, 31)),
            (20_787, (2026, 11, 30)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
            (146_097, (2370, 1, 1)),
        ] {
            assert_eq!(date(day), expected);
        }
    }
}
