//! Annotated photos, and pages of heatmaps.

use super::budget::Share;
use crate::cli::files::{Files, identity};
use rtmo_engine::Skeleton;
use rtmo_engine::atomic_file::AtomicFile;
use rtmo_engine::output::draw::{DrawOptions, draw_heatmaps, draw_people};
use rtmo_engine::vision::encode;
use rtmo_engine::{Error, Person, Photo, Result};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// A photo whose people are known.
pub struct Done {
    /// Its place in the list.
    pub index: usize,
    pub photo: Photo,
    pub people: Vec<Person>,
    /// What the photo takes of the budget, until it is drawn.
    pub share: Share,
}

/// Where each photo's picture goes.
pub struct Pictures {
    /// As the user calls it.
    out: PathBuf,
    /// As nothing can rename it.
    folder: PathBuf,
    names: Vec<Name>,
    options: DrawOptions,
    heatmaps: bool,
}

/// A picture's file name.
struct Name {
    name: String,
    /// Another picture has the photo's own.
    renamed: bool,
}

impl Pictures {
    /// Gives every photo a picture of its own, which is none of the run's other `files`. Makes nothing yet.
    ///
    /// # Errors
    /// If a picture, or a page of heatmaps, would replace one of those; if a picture would replace anything but an earlier one.
    pub fn plan(
        out: &Path,
        photos: &[PathBuf],
        options: DrawOptions,
        heatmaps: bool,
        files: &Files,
    ) -> Result<Pictures> {
        let folder = identity(out);
        let mut taken = Taken { heatmaps, ..Taken::default() };
        let names: Vec<Name> = photos.iter().map(|photo| taken.name_for(photo)).collect();
        for (photo, Name { name, .. }) in photos.iter().zip(&names) {
            let what = files.what(&folder.join(name)).map(String::from);
            let lost = || encode::may_replace(folder.join(name)).is_err();
            if let Some(what) = what.or_else(|| lost().then(|| "a file that is no earlier picture".into())) {
                let (photo, picture) = (photo.display(), out.join(name));
                return Err(Error::Usage(format!(
                    "{photo}: its picture, {}, would replace {what}; give another --out",
                    picture.display()
                )));
            }
        }
        let page = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            path.parent() == Some(&folder) && taken.is_page(name)
        };
        if let Some((path, what)) = files.all().find(|(path, _)| page(path)) {
            return Err(Error::Usage(format!(
                "{}: a page of --heatmaps could replace it, and it is {what}; give another --out",
                path.display()
            )));
        }
        Ok(Pictures { out: out.into(), folder, names, options, heatmaps })
    }

    /// Makes the folder.
    ///
    /// # Errors
    /// If it cannot be made, or written.
    pub fn make_folder(&self) -> Result<()> {
        std::fs::create_dir_all(&self.out).map_err(Error::io("cannot make the folder", &self.out))?;
        // Whether it can be written is known only by writing.
        AtomicFile::create(self.out.join(".rtmo-engine")).map(drop)
    }

    /// Where a photo's picture goes, if that is not by the photo's own name.
    pub fn renamed(&self, index: usize) -> Option<PathBuf> {
        let Name { name, renamed } = &self.names[index];
        renamed.then(|| self.out.join(name))
    }

    pub fn draw(&self, done: Done, skeleton: Option<&Skeleton>) -> Result<()> {
        let Done { index, mut photo, people, share: _share } = done;
        let path = self.folder.join(&self.names[index].name);
        if self.heatmaps {
            for (i, person) in people.iter().enumerate() {
                if let Some(page) = draw_heatmaps(&photo, person, skeleton) {
                    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                    encode::save_result(&page, path.with_file_name(format!("{stem}.person{}.png", i + 1)))?;
                }
            }
        }
        draw_people(&mut photo, &people, skeleton, &self.options);
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
    /// Stems whose pages the names could be.
    pages_of: HashSet<String>,
}

impl Taken {
    fn name_for(&mut self, photo: &Path) -> Name {
        let stem = photo.file_stem().unwrap_or_default().to_string_lossy();
        let png = photo.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("png"));
        let suffix = if png { "png" } else { "jpg" };
        let stems = (1..).map(|n| if n == 1 { stem.to_string() } else { format!("{stem}-{n}") });
        let free = stems.into_iter().find(|stem| self.take(&stem.to_lowercase(), suffix)).expect("endless");
        Name { renamed: free != stem, name: format!("{free}.{suffix}") }
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
    fn pages_tell_whose_they_are() {
        assert_eq!(page_of("a.person1.png"), Some("a"));
        assert_eq!(page_of("a.person1.person20.png"), Some("a.person1"));
        for other in ["a.person.png", "a.person1x.png", "a.person1.jpg", "person1.png"] {
            assert_eq!(page_of(other), None, "{other}");
        }
    }
}
