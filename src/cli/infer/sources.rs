//! Which photos and which footage the arguments of a run mean.

use super::list::{Input, Line, List};
use crate::cli::video::{self, Footage, RawFormat};
use crate::cli::words;
use glob::MatchOptions;
use rtmo_engine::{Error, Result, shown};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::FileType;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use walkdir::WalkDir;

/// Suffixes of images, for folders and patterns.
const SUFFIXES: [&str; 15] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "dib", "tif", "tiff", "gif", "pnm", "pbm", "pgm",
    "ppm",
];

/// Suffixes of images that are not read, and are missed where a folder holds some.
const OTHERS: [&str; 12] =
    ["heic", "heif", "avif", "jxl", "jp2", "tga", "ico", "dng", "cr2", "nef", "arw", "psd"];

/// What a photo from standard input is called.
pub const STDIN: &str = "stdin";

/// Notes of paths that are given twice; more are only counted.
const MOST_NOTES: usize = 3;

/// What arguments mean, one thing after the other.
#[derive(Debug)]
pub enum Item {
    /// A file that is a photo, or claims to be one.
    File(PathBuf),
    /// A photo from standard input, called [`STDIN`].
    Photo(Vec<u8>),
    /// Moving pictures: many frames.
    Clip(Clip),
    /// An argument or a line of a list that means no photo. It does not touch the others.
    Error(Error),
    /// What else somebody may have meant: what a folder holds besides photos, a path that is given twice.
    Note(String),
}

/// Moving pictures, to be read when it is their turn.
pub struct Clip {
    pub footage: Footage,
    /// Standard input, where they come from there.
    pub stdin: Option<Box<dyn Read + Send>>,
}

impl Clip {
    pub fn new(footage: Footage) -> Clip {
        Clip { footage, stdin: None }
    }
}

/// What is known of a run before it begins.
#[derive(Clone, Debug)]
pub enum Known {
    Photo(PathBuf),
    Clip(Footage),
}

impl Known {
    /// As results name it.
    pub fn path(&self) -> PathBuf {
        match self {
            Known::Photo(path) => path.clone(),
            Known::Clip(footage) => footage.name(),
        }
    }

    pub fn is_clip(&self) -> bool {
        matches!(self, Known::Clip(_))
    }

    pub fn item(&self) -> Item {
        match self {
            Known::Photo(path) => Item::File(path.clone()),
            Known::Clip(footage) => Item::Clip(Clip::new(footage.clone())),
        }
    }
}

impl std::fmt::Debug for Clip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.footage)
    }
}

/// Expands arguments into photos and footage:
/// * a camera (`cam:0`) and an address (`rtsp://...`) are footage by their form, a clip by its suffix or its first bytes;
/// * any other file is taken for a photo whatever its suffix;
/// * a folder means the images and clips in it (by suffix), in natural order (`frame2` before `frame10`), with `recursive` those of its
///   subfolders too; what is no regular file (a pipe, a device) is left out;
/// * a pattern with `*`, `?`, `[...]` or `**` that is not itself a file means the images and clips that match, in natural order;
/// * `-` means what standard input lists ([`List`]), which is read when it is asked for; or the photo or clip that it holds;
///   with a raw format the frames.
///
/// A file that is named twice, also in different ways (`a.jpg`, `x/../a.jpg`), is taken once; a note says so.
pub struct Sources {
    arguments: VecDeque<PathBuf>,
    found: VecDeque<Item>,
    list: Option<List>,
    options: Options,
    seen: HashSet<PathBuf>,
    /// Folders without `..` and links.
    folders: HashMap<PathBuf, PathBuf>,
    repeated: usize,
}

/// How arguments are read.
pub struct Options {
    /// Folders mean their subfolders too.
    pub recursive: bool,
    /// Names of a list end in zero bytes, not in lines.
    pub null: bool,
    /// Standard input holds frames of this format, not a list.
    pub raw: Option<RawFormat>,
    /// Opens standard input.
    pub stdin: fn() -> Box<dyn Read + Send>,
    /// True while a list has nothing to be read and has not ended.
    pub waits: Arc<AtomicBool>,
}

impl Iterator for Sources {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.found.pop_front() {
                match item {
                    Item::File(path) if !self.is_new(&path) => self.note_repeated(&path),
                    Item::Clip(Clip { footage: Footage::File(path), .. }) if !self.is_new(&path) => {
                        self.note_repeated(&path);
                    }
                    item => return Some(item),
                }
            } else if self.list.is_some() {
                self.read_line();
            } else if let Some(argument) = self.arguments.pop_front() {
                if argument == Path::new("-") { self.open_list() } else { self.resolve(&argument, true) }
            } else {
                let more =
                    std::mem::take(&mut self.repeated).checked_sub(MOST_NOTES).filter(|&more| more > 0)?;
                let paths = if more == 1 { "path is" } else { "paths are" };
                return Some(Item::Note(format!(
                    "{more} more {paths} given more than once; each is done once"
                )));
            }
        }
    }
}

impl Sources {
    pub fn new(arguments: &[PathBuf], options: Options) -> Sources {
        Sources {
            arguments: arguments.iter().cloned().collect(),
            found: VecDeque::new(),
            list: None,
            options,
            seen: HashSet::new(),
            folders: HashMap::new(),
            repeated: 0,
        }
    }

    fn open_list(&mut self) {
        if self.options.raw.is_some() {
            let footage = Footage::Stdin(self.options.raw);
            let stdin = Some((self.options.stdin)());
            return self.found.push_back(Item::Clip(Clip { footage, stdin }));
        }
        match Input::open((self.options.stdin)(), self.options.null, self.options.waits.clone()) {
            Ok(Input::List(list)) => self.list = Some(list),
            Ok(Input::Photo(bytes)) => self.found.push_back(Item::Photo(bytes)),
            Ok(Input::Clip(stdin)) => {
                self.found.push_back(Item::Clip(Clip { footage: Footage::Stdin(None), stdin: Some(stdin) }));
            }
            Err(error) => self.found.push_back(Item::Error(unreadable(error))),
        }
    }

    fn read_line(&mut self) {
        match self.list.as_mut().map(List::next) {
            Some(Ok(Some(Line::Path(path)))) => self.resolve(&path, false),
            Some(Ok(Some(Line::Wrong(what)))) => self.found.push_back(Item::Error(Error::Usage(what))),
            Some(Err(error)) => {
                self.found.push_back(Item::Error(unreadable(error)));
                self.list = None;
            }
            Some(Ok(None)) | None => self.list = None,
        }
    }

    fn resolve(&mut self, path: &Path, patterns: bool) {
        match Footage::by_name(path) {
            Ok(None) => {}
            // A file may have any name.
            _ if path.exists() => {}
            Ok(Some(footage)) => return self.found.push_back(Item::Clip(Clip::new(footage))),
            Err(error) => return self.found.push_back(Item::Error(error)),
        }
        let found = match std::fs::metadata(path) {
            Ok(meta) if meta.is_dir() => folder(path, self.options.recursive, &mut self.found),
            Ok(_) => Ok(vec![path.to_path_buf()]),
            Err(error) => match path.to_str().filter(|p| patterns && p.contains(['*', '?', '['])) {
                Some(pattern) => matches(pattern, &mut self.found),
                None => Err(match path.to_str().and_then(words::assignment).filter(|_| patterns) {
                    Some(ours) => Error::Usage(format!("{}: no such file; {ours}", shown(path))),
                    None => Error::io("cannot read", path)(error),
                }),
            },
        };
        match found {
            Ok(files) => self.found.extend(files.into_iter().map(item)),
            Err(error) => self.found.push_back(Item::Error(error)),
        }
    }

    /// Whether a file was not met before, by its folder's real name and its own: links stay what they are.
    fn is_new(&mut self, file: &Path) -> bool {
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = self.folders.entry(parent.to_path_buf()).or_insert_with(|| {
            parent
                .canonicalize()
                .or_else(|_| std::path::absolute(parent))
                .unwrap_or_else(|_| parent.to_path_buf())
        });
        self.seen.insert(folder.join(file.file_name().unwrap_or_default()))
    }

    fn note_repeated(&mut self, file: &Path) {
        self.repeated += 1;
        if self.repeated <= MOST_NOTES {
            self.found
                .push_front(Item::Note(format!("{} is given more than once; it is done once", shown(file))));
        }
    }
}

/// A file, as what it is.
fn item(path: PathBuf) -> Item {
    match Footage::is_clip(&path, has_suffix(&path, &SUFFIXES)) {
        true => Item::Clip(Clip::new(Footage::File(path))),
        false => Item::File(path),
    }
}

fn unreadable(error: std::io::Error) -> Error {
    Error::io("cannot read the list", "standard input")(error)
}

/// What of a folder is not taken.
#[derive(Default)]
struct LeftOut {
    other_formats: usize,
    special: usize,
    subfolders: usize,
}

fn folder(path: &Path, recursive: bool, notes: &mut VecDeque<Item>) -> Result<Vec<PathBuf>> {
    let (mut files, mut left_out) = (Vec::new(), LeftOut::default());
    let depth = if recursive { usize::MAX } else { 1 };
    let visible = |name: &std::ffi::OsStr| !name.as_encoded_bytes().starts_with(b".");
    // Links to folders are no subfolders: they may lead in a circle.
    let entries = WalkDir::new(path).min_depth(1).max_depth(depth).into_iter();
    for entry in entries.filter_entry(|entry| entry.depth() == 0 || visible(entry.file_name())) {
        let entry = entry.map_err(|error| {
            let at = error.path().unwrap_or(path).to_path_buf();
            Error::io("cannot list the folder", at)(error.into())
        })?;
        let file = entry.into_path();
        match kind(&file) {
            Some(kind) if kind.is_dir() => left_out.subfolders += usize::from(!recursive),
            Some(kind) if !kind.is_file() => left_out.special += usize::from(is_taken(&file)),
            // What vanished, or is a link to nothing, is told when it is read.
            _ if is_taken(&file) => files.push(file),
            _ => left_out.other_formats += usize::from(has_suffix(&file, &OTHERS)),
        }
    }
    let left_out = left_out.message(path);
    if files.is_empty() {
        let suffixes = SUFFIXES.join(", ");
        let clips = video::SUFFIXES.join(", ");
        let besides = left_out.map_or(String::new(), |left_out| format!("; {left_out}"));
        let folder = shown(path);
        return Err(Error::Usage(format!(
            "the folder '{folder}' holds no image ({suffixes}) and no clip ({clips}){besides}"
        )));
    }
    notes.extend(left_out.map(|left_out| Item::Note(format!("{}: {left_out}", shown(path)))));
    sort(&mut files);
    Ok(files)
}

/// What a path leads to, through links.
fn kind(path: &Path) -> Option<FileType> {
    path.metadata().ok().map(|meta| meta.file_type())
}

/// Natural order, numbers by their value; names that are equal in it by their bytes.
fn sort(files: &mut [PathBuf]) {
    files.sort();
    alphanumeric_sort::sort_path_slice(files);
}

impl LeftOut {
    fn message(&self, folder: &Path) -> Option<String> {
        let count = |n: usize, one: &str, many: &str| match n {
            0 => None,
            1 => Some(format!("1 {one}")),
            n => Some(format!("{n} {many}")),
        };
        let parts = [
            count(self.other_formats, "image of another format", "images of other formats"),
            count(self.special, "pipe, socket or device", "pipes, sockets or devices"),
            count(self.subfolders, "subfolder", "subfolders"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        let deeper = match self.subfolders {
            0 => String::new(),
            _ => format!(" (--recursive or '{}' goes deeper)", shown(&folder.join("**").join("*"))),
        };
        (!parts.is_empty()).then(|| format!("left out {}{deeper}", parts.join(" and ")))
    }
}

fn matches(pattern: &str, notes: &mut VecDeque<Item>) -> Result<Vec<PathBuf>> {
    // As in a shell, hidden files must be asked for.
    let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
    let paths = glob::glob_with(&meant(pattern), options)
        .map_err(|error| Error::Usage(format!("'{pattern}' is no valid pattern: {error}")))?;
    let (mut files, mut special) = (Vec::new(), 0);
    for path in paths {
        // A subfolder that cannot be listed hides matches: say so rather than miss them.
        let path = path.map_err(|error| {
            let folder = error.path().to_path_buf();
            Error::io("cannot list the folder", folder)(error.into())
        })?;
        match kind(&path) {
            _ if !is_taken(&path) => {}
            Some(kind) if kind.is_dir() => {}
            Some(kind) if !kind.is_file() => special += 1,
            _ => files.push(path),
        }
    }
    let left_out = LeftOut { special, ..LeftOut::default() }.message(Path::new(""));
    if files.is_empty() {
        let besides = left_out.map_or(String::new(), |left_out| format!("; {left_out}"));
        return Err(Error::Usage(format!("no image matches '{pattern}'{besides}")));
    }
    notes.extend(left_out.map(|left_out| Item::Note(format!("'{pattern}': {left_out}"))));
    sort(&mut files);
    // `**` matches no folder and folders, so that some files may match twice.
    files.dedup();
    Ok(files)
}

/// The pattern as people mean it: `**` at the end, and `**` with the beginning of a name behind it, are any depth
/// (`photos/**`, `photos/**.jpg`); within a name `**` is `*`.
fn meant(pattern: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    let last = pattern.split('/').count() - 1;
    for (i, part) in pattern.split('/').enumerate() {
        match part.strip_prefix("**") {
            Some("") if i == last => parts.extend(["**".into(), "*".into()]),
            Some("") => parts.push("**".into()),
            Some(rest) if i == last => {
                parts.extend(["**".into(), single_stars(&format!("*{rest}"))]);
            }
            _ => parts.push(single_stars(part)),
        }
    }
    parts.join("/")
}

fn single_stars(part: &str) -> String {
    let mut part = part.to_string();
    while part.contains("**") {
        part = part.replace("**", "*");
    }
    part
}

/// Whether folders and patterns mean a file.
fn is_taken(path: &Path) -> bool {
    has_suffix(path, &SUFFIXES) || has_suffix(path, &video::SUFFIXES)
}

fn has_suffix(path: &Path, suffixes: &[&str]) -> bool {
    let suffix = path.extension().and_then(|s| s.to_str()).unwrap_or("");
    suffixes.iter().any(|s| s.eq_ignore_ascii_case(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Files below `root`, errors and notes, as text.
    fn expand(root: &Path, arguments: &[&str], recursive: bool) -> (Vec<String>, Vec<String>, Vec<String>) {
        let arguments: Vec<PathBuf> = arguments.iter().map(|argument| root.join(argument)).collect();
        let stdin = || -> Box<dyn Read + Send> { Box::new(std::io::empty()) };
        let options = Options { recursive, null: false, raw: None, stdin, waits: Arc::default() };
        let (mut files, mut errors, mut notes) = (vec![], vec![], vec![]);
        for item in Sources::new(&arguments, options) {
            match item {
                Item::File(path) => {
                    files.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_string())
                }
                Item::Error(error) => errors.push(error.to_string()),
                Item::Note(note) => notes.push(note),
                Item::Photo(_) | Item::Clip(_) => panic!("no photo and no clip"),
            }
        }
        (files, errors, notes)
    }

    fn folder_of(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    #[test]
    fn folders_and_patterns_in_natural_order() {
        let folder = folder_of(&[
            "f10.jpg",
            "f2.jpg",
            "f1.png",
            ".hidden.jpg",
            "n.txt",
            "sub/x.jpg",
            "sub/.h/y.jpg",
            "sub/z/f3.jpg",
        ]);
        let files = |argument: &str, recursive| expand(folder.path(), &[argument], recursive).0;
        assert_eq!(files("", false), ["f1.png", "f2.jpg", "f10.jpg"]);
        let all = ["f1.png", "f2.jpg", "f10.jpg", "sub/x.jpg", "sub/z/f3.jpg"];
        for argument in ["**", "**/*", "**/**"] {
            assert_eq!(files(argument, false), all, "{argument}");
        }
        assert_eq!(files("", true), all);
        let jpg = ["f2.jpg", "f10.jpg", "sub/x.jpg", "sub/z/f3.jpg"];
        for argument in ["**.jpg", "**/*.jpg", "**/**.jpg"] {
            assert_eq!(files(argument, false), jpg, "{argument}");
        }
        assert_eq!(files("f**.jpg", false), ["f2.jpg", "f10.jpg"]);
        assert_eq!(files("sub/**.jpg", false), ["sub/x.jpg", "sub/z/f3.jpg"]);
        assert_eq!(files("f?.*", false), ["f1.png", "f2.jpg"]);
    }

    #[test]
    fn each_file_is_taken_once_and_repeats_are_told() {
        let folder = folder_of(&["a.jpg", "b.jpg", "x/c.jpg"]);
        let arguments = ["a.jpg", "./a.jpg", "x/../a.jpg", "b.jpg", "missing.jpg", "*.jpg", "x", "no*.png"];
        let (files, errors, notes) = expand(folder.path(), &arguments, false);
        assert_eq!(files, ["a.jpg", "b.jpg", "x/c.jpg"]);
        assert!(
            errors.len() == 2 && errors[0].contains("missing.jpg") && errors[1].contains("no image matches"),
            "{errors:?}"
        );
        // Twice by name, and both files once more by the pattern.
        assert!(
            notes.len() == 4 && notes[0].ends_with("a.jpg is given more than once; it is done once"),
            "{notes:?}"
        );
        assert!(notes[3].starts_with("1 more path"), "{notes:?}");
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_of_folders_are_taken() {
        let folder = folder_of(&["a.jpg", "sub/b.jpg"]);
        let at = |name: &str| folder.path().join(name);
        let _socket = std::os::unix::net::UnixListener::bind(at("s.jpg")).unwrap();
        std::os::unix::fs::symlink("..", at("sub/up")).unwrap();
        std::os::unix::fs::symlink("../a.jpg", at("sub/link.jpg")).unwrap();
        let (files, errors, notes) = expand(folder.path(), &[""], true);
        assert_eq!(
            (files, errors.len()),
            (["a.jpg", "sub/b.jpg", "sub/link.jpg"].map(String::from).to_vec(), 0)
        );
        assert!(notes.len() == 1 && notes[0].ends_with("left out 1 pipe, socket or device"), "{notes:?}");
        let (files, _, notes) = expand(folder.path(), &["*.jpg"], false);
        assert_eq!((files, notes.len()), (vec!["a.jpg".to_string()], 1));
        // Named itself, it is taken.
        assert_eq!(expand(folder.path(), &["s.jpg"], false).0, ["s.jpg"]);
        let (_, errors, _) = expand(folder.path(), &["s*.jpg"], false);
        assert!(errors[0].contains("left out 1 pipe"), "{errors:?}");
    }
}
