//! Which photos a list of arguments means.

use crate::error::{Error, Result};
use glob::MatchOptions;
use std::collections::HashSet;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

/// Suffixes of images, for folders and patterns.
const SUFFIXES: [&str; 15] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "dib", "tif", "tiff", "gif", "pnm", "pbm", "pgm",
    "ppm",
];

/// Suffixes of images that are not read, and are missed where a folder holds some.
const OTHERS: [&str; 12] =
    ["heic", "heif", "avif", "jxl", "jp2", "tga", "ico", "dng", "cr2", "nef", "arw", "psd"];

/// No path is longer.
const MAX_LINE: u64 = 1 << 16;

/// Photos to read, and what of the arguments could not be understood.
#[derive(Debug, Default)]
pub struct Sources {
    /// In the order of the arguments, each file once.
    pub files: Vec<PathBuf>,
    /// One for each argument that gives no photo. They do not touch the others.
    pub errors: Vec<Error>,
    /// What else somebody may have meant that folders hold: images of other formats, subfolders.
    pub notes: Vec<String>,
}

/// Expands arguments into photos:
/// * a file is taken whatever its suffix;
/// * a folder means the images in it (by suffix), not in its subfolders, by name;
/// * a pattern with `*`, `?`, `[...]` or `**` that is not itself a file means the images that match, by name;
/// * `-` means the files and folders that `stdin` lists, one a line.
///
/// A file that is named twice, also in different ways (`a.jpg`, `./a.jpg`), is taken once.
pub fn expand<S: AsRef<Path>>(arguments: &[S], stdin: &mut dyn BufRead) -> Sources {
    let mut found = Found::default();
    for argument in arguments {
        let argument = argument.as_ref();
        if argument == Path::new("-") {
            while let Some(line) = next_line(stdin).transpose() {
                match line {
                    Ok(line) if line.trim().is_empty() => {}
                    // Some tools end lines with a carriage return.
                    Ok(line) => found.add(Path::new(line.trim_end_matches(['\r', '\n'])), false),
                    Err(error) => {
                        found.sources.errors.push(error);
                        break;
                    }
                }
            }
        } else {
            found.add(argument, true);
        }
    }
    found.sources
}

/// The next line of a list of paths, with its end; `None` after the last.
fn next_line(list: &mut dyn BufRead) -> Result<Option<String>> {
    let mut line = Vec::new();
    let read = Read::take(list, MAX_LINE).read_until(b'\n', &mut line);
    read.map_err(Error::io("cannot read the list of photos", "-"))?;
    let wrong = |what: &str| Err(Error::Usage(format!("'-' takes one path a line, got {what}")));
    match String::from_utf8(line) {
        Ok(line) if line.contains('\0') => wrong("a zero byte (find needs no -print0)"),
        Ok(line) if line.len() as u64 == MAX_LINE => wrong(&format!("a line of {MAX_LINE} bytes or more")),
        Ok(line) => Ok((!line.is_empty()).then_some(line)),
        Err(_) => wrong("something that is not UTF-8 text"),
    }
}

#[derive(Default)]
struct Found {
    sources: Sources,
    seen: HashSet<PathBuf>,
}

impl Found {
    fn add(&mut self, path: &Path, patterns: bool) {
        match resolve(path, patterns, &mut self.sources.notes) {
            Ok(files) => {
                for file in files {
                    // Absolute, without "." parts; links stay what they are.
                    let key = std::path::absolute(&file).unwrap_or_else(|_| file.clone());
                    if self.seen.insert(key) {
                        self.sources.files.push(file);
                    }
                }
            }
            Err(e) => self.sources.errors.push(e),
        }
    }
}

fn resolve(path: &Path, patterns: bool, notes: &mut Vec<String>) -> Result<Vec<PathBuf>> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => folder(path, notes),
        Ok(_) => Ok(vec![path.to_path_buf()]),
        Err(e) => match path.to_str().filter(|p| patterns && p.contains(['*', '?', '['])) {
            Some(pattern) => matches(pattern),
            None => Err(Error::io("cannot read", path)(e)),
        },
    }
}

fn folder(path: &Path, notes: &mut Vec<String>) -> Result<Vec<PathBuf>> {
    let cannot = || Error::io("cannot list the folder", path);
    let (mut files, mut others, mut subfolders) = (Vec::new(), 0, 0);
    for entry in std::fs::read_dir(path).map_err(cannot())? {
        let file = entry.map_err(cannot())?.path();
        let hidden = file.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        match file {
            _ if hidden => {}
            file if file.is_dir() => subfolders += 1,
            file if has_suffix(&file, &SUFFIXES) => files.push(file),
            file => others += usize::from(has_suffix(&file, &OTHERS)),
        }
    }
    let left_out = left_out(path, others, subfolders);
    if files.is_empty() {
        let suffixes = SUFFIXES.join(", ");
        let besides = left_out.map_or(String::new(), |left_out| format!("; {left_out}"));
        return Err(Error::Usage(format!(
            "the folder '{}' holds no image ({suffixes}){besides}",
            path.display()
        )));
    }
    notes.extend(left_out.map(|left_out| format!("{}: {left_out}", path.display())));
    files.sort();
    Ok(files)
}

/// What of a folder is not taken.
fn left_out(folder: &Path, others: usize, subfolders: usize) -> Option<String> {
    let count = |n: usize, one: &str, many: &str| match n {
        0 => None,
        1 => Some(format!("1 {one}")),
        n => Some(format!("{n} {many}")),
    };
    let parts = [
        count(others, "image of another format", "images of other formats"),
        count(subfolders, "subfolder", "subfolders"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let deeper = match subfolders {
        0 => String::new(),
        _ => format!(" ('{}' goes deeper)", folder.join("**").join("*").display()),
    };
    (!parts.is_empty()).then(|| format!("left out {}{deeper}", parts.join(" and ")))
}

fn matches(pattern: &str) -> Result<Vec<PathBuf>> {
    // As in a shell, hidden files must be asked for.
    let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
    let paths = glob::glob_with(pattern, options)
        .map_err(|e| Error::Usage(format!("'{pattern}' is no valid pattern: {e}")))?;
    let mut files = Vec::new();
    for path in paths {
        // A subfolder that cannot be listed hides matches: say so rather than miss them.
        let path = path.map_err(|e| {
            let folder = e.path().to_path_buf();
            Error::io("cannot list the folder", folder)(e.into())
        })?;
        if has_suffix(&path, &SUFFIXES) && !path.is_dir() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(Error::Usage(format!("no image matches '{pattern}'")));
    }
    files.sort();
    Ok(files)
}

fn has_suffix(path: &Path, suffixes: &[&str]) -> bool {
    let suffix = path.extension().and_then(|s| s.to_str()).unwrap_or("");
    suffixes.iter().any(|s| s.eq_ignore_ascii_case(suffix))
}
