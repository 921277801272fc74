//! Annotated photos, and pages of heatmaps.

use super::budget::Share;
use super::sources::Known;
use crate::cli::files::{Files, identity};
use crate::cli::video::{self, Footage};
use rtmo_engine::atomic_file::AtomicFile;
use rtmo_engine::output::draw::{DrawOptions, draw_heatmaps, draw_people};
use rtmo_engine::vision::encode;
use rtmo_engine::{Error, People, Photo, Result, Skeleton, shown};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// A photo whose people are known.
pub struct Done {
    pub photo: Photo,
    pub people: People,
    /// Where its picture goes, if it is drawn.
    pub picture: Option<PathBuf>,
    /// What the photo takes of the budget, until it is drawn.
    pub share: Option<Share>,
}

/// Where each photo's picture goes.
pub struct Pictures {
    /// As the user calls it.
    out: PathBuf,
    /// As nothing can rename it.
    folder: PathBuf,
    taken: Taken,
    /// Names of the photos and clips that were known before the run began.
    planned: HashMap<PathBuf, Name>,
    /// Pictures of this run.
    own: HashSet<PathBuf>,
}

/// A picture's file name.
struct Name {
    name: String,
    /// Another picture has the photo's own.
    renamed: bool,
}

/// A picture's place.
pub struct Place {
    pub path: PathBuf,
    /// As the user calls it, if that is not by the photo's own name.
    pub renamed: Option<PathBuf>,
}

impl Pictures {
    /// Gives every photo and clip a picture of its own, which is none of the run's other `files`. Makes nothing yet.
    ///
    /// # Errors
    /// If a picture, or a page of heatmaps, would replace one of those; if a picture would replace anything but an earlier one.
    pub fn plan(out: &Path, known: &[Known], heatmaps: bool, files: &Files) -> Result<Pictures> {
        let taken = Taken { heatmaps, ..Taken::default() };
        let (folder, out) = (identity(out), out.into());
        let mut pictures = Pictures { out, folder, taken, planned: HashMap::new(), own: HashSet::new() };
        for known in known {
            let name = match known {
                Known::Photo(photo) => pictures.name(photo, files)?,
                Known::Clip(footage) => pictures.clip_name(footage, files)?,
            };
            pictures.planned.insert(known.path(), name);
        }
        let page = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            path.parent() == Some(&pictures.folder) && pictures.taken.is_page(name)
        };
        if let Some((path, what)) = files.all().find(|(path, _)| page(path)) {
            return Err(Error::Usage(format!(
                "{}: a page of --heatmaps could replace it, and it is {what}; give another --out",
                shown(path)
            )));
        }
        Ok(pictures)
    }

    /// A name for a photo's picture, under which nothing is lost.
    fn name(&mut self, photo: &Path, files: &Files) -> Result<Name> {
        let name = self.taken.name_for(photo);
        let lost = encode::may_replace(self.folder.join(&name.name)).is_err();
        self.without_loss(photo, name, lost.then_some("a file that is no earlier picture"), files)
    }

    /// A name for an annotated clip, under which nothing is lost.
    fn clip_name(&mut self, footage: &Footage, files: &Files) -> Result<Name> {
        let name = self.taken.name_of(&footage.stem(), "mp4");
        let path = self.folder.join(&name.name);
        let lost = path.exists() && !video::is_earlier(&path);
        self.without_loss(&footage.name(), name, lost.then_some("a file that is no earlier clip"), files)
    }

    fn without_loss(&self, of: &Path, name: Name, lost: Option<&str>, files: &Files) -> Result<Name> {
        match files.what(&self.folder.join(&name.name)).or(lost) {
            None => Ok(name),
            Some(what) => Err(Error::Usage(format!(
                "{}: its picture, {}, would replace {what}; give another --out",
                shown(of),
                shown(&self.out.join(&name.name))
            ))),
        }
    }

    /// The place of an annotated clip; to be asked once for each.
    ///
    /// # Errors
    /// As [`Pictures::plan`], for a clip that it did not know; if it is itself a clip that this run has drawn.
    pub fn place_clip(&mut self, footage: &Footage, files: &Files) -> Result<PathBuf> {
        if let Footage::File(path) = footage
            && self.has_drawn(path)
        {
            return Err(Error::image(path, "is a clip that this run has drawn"));
        }
        let Name { name, .. } = match self.planned.remove(&footage.name()) {
            Some(name) => name,
            None => self.clip_name(footage, files)?,
        };
        self.own.insert(self.folder.join(&name));
        Ok(self.out.join(name))
    }

    /// Whether a file is one that this run draws, or has drawn.
    pub fn has_drawn(&self, path: &Path) -> bool {
        self.own.contains(&identity(path))
    }

    /// The place of a photo's picture; to be asked once for each photo.
    ///
    /// # Errors
    /// As [`Pictures::plan`], for a photo that it did not know.
    pub fn place(&mut self, photo: &Path, files: &Files) -> Result<Place> {
        let Name { name, renamed } = match self.planned.remove(photo) {
            Some(name) => name,
            None => self.name(photo, files)?,
        };
        let path = self.folder.join(&name);
        self.own.insert(path.clone());
        Ok(Place { path, renamed: renamed.then(|| self.out.join(name)) })
    }

    /// Makes the folder.
    ///
    /// # Errors
    /// If it cannot be made, or written.
    pub fn make_folder(&self) -> Result<()> {
        std::fs::create_dir_all(&self.out).map_err(Error::io("cannot make the folder", &self.out))?;
        // Whether it can be written is known only by writing.
        match AtomicFile::create(self.out.join(".rtmo-engine")) {
            Err(Error::Io { source, .. }) => {
                Err(Error::io("cannot write into the folder", &self.out)(source))
            }
            made => made.map(drop),
        }
    }
}

/// Draws photos, and pages of heatmaps beside them.
#[derive(Clone, Copy)]
pub struct Drawing<'a> {
    pub options: DrawOptions,
    pub heatmaps: bool,
    pub skeleton: Option<&'a Skeleton>,
}

impl Drawing<'_> {
    pub fn draw(&self, done: Done) -> Result<()> {
        let Done { mut photo, people, picture, share: _share } = done;
        let Some(path) = picture else { return Ok(()) };
        if self.heatmaps {
            for (i, person) in people.iter().enumerate() {
                if let Some(page) = draw_heatmaps(&photo, person, self.skeleton) {
                    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                    encode::save_result(&page, path.with_file_name(format!("{stem}.person{}.png", i + 1)))?;
                }
            }
        }
        draw_people(&mut photo, &people, self.skeleton, &self.options);
        encode::save_result(&photo, path)
    }
}

/// Names that pictures and pages have, in lower case: some file systems make no difference.
#[derive(Default)]
struct Taken {
    /// Whether there are pages: a picture `a.jpg` takes `a.person1.png` and so on, however many people there will be.
    heatmaps: bool,
    names: HashSet<String>,
    stems: HashSet<String>,
    /// Where counting goes on for a stem and suffix that have been given out before.
    next: HashMap<(String, &'static str), usize>,
    /// Stems whose pages the names could be.
    pages_of: HashSet<String>,
}

impl Taken {
    fn name_for(&mut self, photo: &Path) -> Name {
        let stem = photo.file_stem().unwrap_or_default().to_string_lossy();
        let png = photo.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("png"));
        self.name_of(&stem, if png { "png" } else { "jpg" })
    }

    fn name_of(&mut self, stem: &str, suffix: &'static str) -> Name {
        let key = (stem.to_lowercase(), suffix);
        let first = self.next.get(&key).copied().unwrap_or(1);
        let stem_of = |n: usize| if n == 1 { stem.to_string() } else { format!("{stem}-{n}") };
        let n = (first..).find(|&n| self.take(&stem_of(n).to_lowercase(), suffix)).expect("endless");
        self.next.insert(key, n + 1);
        Name { renamed: n != 1, name: format!("{}.{suffix}", stem_of(n)) }
    }

    /// Takes a picture's name and those of its pages, if all are free.
    fn take(&mut self, stem: &str, suffix: &str) -> bool {
        let name = format!("{stem}.{suffix}");
        let free = !self.names.contains(&name);
        let apart = !self.stems.contains(stem) && !self.pages_of.contains(stem) && !self.is_page(&name);
        if !free || self.heatmaps && !apart {
            return false;
        }
        self.pages_of.extend(page_of(&name).map(String::from));
        self.stems.insert(stem.into());
        self.names.insert(name)
    }

    /// Whether a file name is one that a page may get.
    fn is_page(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.heatmaps && page_of(&name).is_some_and(|stem| self.stems.contains(stem))
    }
}

/// The stem of the picture that a page belongs to, if `name` is that of a page.
fn page_of(name: &str) -> Option<&str> {
    let (stem, number) = name.strip_suffix(".png")?.rsplit_once(".person")?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(photos: &[&str], heatmaps: bool) -> Vec<String> {
        let mut taken = Taken { heatmaps, ..Taken::default() };
        photos.iter().map(|photo| taken.name_for(Path::new(photo)).name).collect()
    }

    #[test]
    fn every_picture_has_a_name_of_its_own() {
        assert_eq!(
            names(&["a.bmp", "x/a.JPG", "a.png", "A.webp", "a-2.jpg"], false),
            ["a.jpg", "a-2.jpg", "a.png", "A-3.jpg", "a-2-2.jpg"]
        );
        // Pages of heatmaps have names, too, and those of a.jpg and a.png would be the same.
        assert_eq!(names(&["p.jpg", "p.person1.png"], false), ["p.jpg", "p.person1.png"]);
        assert_eq!(names(&["p.jpg", "p.person1.png"], true), ["p.jpg", "p.person1-2.png"]);
        assert_eq!(names(&["p.person12.png", "P.jpg"], true), ["p.person12.png", "P-2.jpg"]);
        assert_eq!(names(&["p.person1.jpg", "p.jpg"], true), ["p.person1.jpg", "p.jpg"]);
        assert_eq!(names(&["a.jpg", "a.png"], true), ["a.jpg", "a-2.png"]);
    }

    #[test]
    fn many_photos_of_one_name_take_one_try_each() {
        let mut taken = Taken::default();
        // Counted from 1 each time, these took a minute.
        for n in 1..=30_000 {
            let name = taken.name_for(Path::new("x/frame.jpg")).name;
            assert_eq!(name, if n == 1 { "frame.jpg".into() } else { format!("frame-{n}.jpg") });
        }
    }

    #[test]
    fn pages_tell_whose_they_are() {
        assert_eq!(page_of("a.person1.png"), Some("a"));
        assert_eq!(page_of("a.person1.person20.png"), Some("a.person1"));
        for other in ["a.person.png", "a.person1x.png", "a.person1.jpg", "person1.png"] {
            assert_eq!(page_of(other), None, "{other}");
        }
    }
}
