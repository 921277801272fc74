//! A list of photos from standard input, read as it arrives.

use crate::cli::video::is_clip_head;
use memchr::memchr;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// No path is longer.
const MAX_NAME: usize = 1 << 16;

/// The most that standard input may hold where it is a photo itself.
const MAX_PHOTO: u64 = 3 << 30;

/// What standard input holds.
pub enum Input {
    /// Names of photos.
    List(List),
    /// The bytes of one photo.
    Photo(Vec<u8>),
    /// A clip, of which nothing has been read yet.
    Clip(Box<dyn Read + Send>),
}

/// Names, one a line, or with `null` each with a zero byte behind it. A name is bytes, as the file system has it.
pub struct List {
    from: BufReader<Box<dyn Read + Send>>,
    end: u8,
    line: usize,
    waits: Arc<AtomicBool>,
}

/// A line of a list.
pub enum Line {
    /// A path; the line is not empty.
    Path(PathBuf),
    /// Why it is none, and the number of the line.
    Wrong(String),
}

impl Input {
    /// Looks at the first bytes. `waits` is true while nothing is there to be read.
    ///
    /// # Errors
    /// If standard input cannot be read.
    pub fn open(from: Box<dyn Read + Send>, null: bool, waits: Arc<AtomicBool>) -> io::Result<Input> {
        let mut list = List { from: BufReader::new(from), end: if null { 0 } else { b'\n' }, line: 0, waits };
        let head = list.fill()?;
        if is_photo(head) {
            let mut bytes = Vec::new();
            list.from.take(MAX_PHOTO + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > MAX_PHOTO {
                return Err(io::Error::other(format!("a photo of more than {MAX_PHOTO} bytes")));
            }
            return Ok(Input::Photo(bytes));
        }
        if is_clip_head(head) {
            return Ok(Input::Clip(Box::new(list.from)));
        }
        // A byte-order mark, as editors on Windows write it.
        if head.starts_with(b"\xef\xbb\xbf") {
            list.from.consume(3);
        }
        Ok(Input::List(list))
    }
}

/// Whether these are the first bytes of a photo. No path begins like a JPEG or PNG; the others begin with letters, but have a
/// zero where no line of text has one.
fn is_photo(head: &[u8]) -> bool {
    let webp = head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP");
    let letters = [&b"BM"[..], b"GIF8", b"II*\0", b"MM\0*"].iter().any(|magic| head.starts_with(magic));
    // The first zero of a list of names with zeros behind them comes after a whole name.
    let early = head.iter().take(16).any(|&byte| byte == 0);
    head.starts_with(b"\xff\xd8\xff") || head.starts_with(b"\x89PNG") || webp || letters && early
}

impl List {
    /// The next line that is not empty; `None` after the last.
    ///
    /// # Errors
    /// If the list cannot be read: then it has ended.
    pub fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let (mut name, mut length, mut ended) = (Vec::new(), 0, false);
            while !ended {
                let end = self.end;
                let chunk = self.fill()?;
                if chunk.is_empty() {
                    break;
                }
                let at = memchr(end, chunk);
                let part = &chunk[..at.unwrap_or(chunk.len())];
                let room = MAX_NAME.saturating_sub(name.len()).min(part.len());
                name.extend_from_slice(&part[..room]);
                length += part.len();
                let taken = part.len() + usize::from(at.is_some());
                ended = at.is_some();
                self.from.consume(taken);
            }
            if length == 0 && !ended {
                return Ok(None);
            }
            self.line += 1;
            let unit = if self.end == 0 { "name" } else { "line" };
            let wrong =
                |what: String| Ok(Some(Line::Wrong(format!("the list, {unit} {}: {what}", self.line))));
            if length > MAX_NAME {
                return wrong(format!("{length} bytes, expected a path of at most {MAX_NAME}"));
            }
            // Some tools end lines with a carriage return.
            while self.end != 0 && name.last() == Some(&b'\r') {
                name.pop();
            }
            if name.trim_ascii().is_empty() {
                continue;
            }
            if self.line == 1 && (name.starts_with(b"\xff\xfe") || name.starts_with(b"\xfe\xff")) {
                return wrong(
                    "begins as UTF-16 text, expected UTF-8 or the bytes that the file system has".into(),
                );
            }
            if memchr(0, &name).is_some() {
                return wrong(
                    "has a zero byte; expected one path a line (--null reads what 'find -print0' writes)"
                        .into(),
                );
            }
            return match path(name) {
                Ok(path) => Ok(Some(Line::Path(path))),
                Err(what) => wrong(what),
            };
        }
    }

    /// What is there to be read; nothing at the end.
    fn fill(&mut self) -> io::Result<&[u8]> {
        if self.from.buffer().is_empty() {
            self.waits.store(true, Ordering::SeqCst);
            while let Err(error) = self.from.fill_buf() {
                // A process that was suspended reads on.
                if error.kind() != io::ErrorKind::Interrupted {
                    self.waits.store(false, Ordering::SeqCst);
                    return Err(error);
                }
            }
            self.waits.store(false, Ordering::SeqCst);
        }
        Ok(self.from.buffer())
    }
}

#[cfg(unix)]
fn path(name: Vec<u8>) -> Result<PathBuf, String> {
    use std::os::unix::ffi::OsStringExt;
    Ok(std::ffi::OsString::from_vec(name).into())
}

/// Where names are text.
#[cfg(not(unix))]
fn path(name: Vec<u8>) -> Result<PathBuf, String> {
    String::from_utf8(name)
        .map(PathBuf::from)
        .map_err(|_| "no UTF-8 text, as names are on this system".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8], null: bool) -> Vec<String> {
        let from: Box<dyn Read + Send> = Box::new(io::Cursor::new(text.to_vec()));
        let Input::List(mut list) = Input::open(from, null, Arc::default()).unwrap() else {
            panic!("no list")
        };
        std::iter::from_fn(|| list.next().unwrap())
            .map(|line| match line {
                Line::Path(path) => path.display().to_string(),
                Line::Wrong(what) => format!("! {what}"),
            })
            .collect()
    }

    #[test]
    fn lines_are_bytes_without_marks_and_line_ends() {
        assert_eq!(
            lines(b"\xef\xbb\xbfa.jpg\r\n\r\n  \n b c.jpg \nlast", false),
            ["a.jpg", " b c.jpg ", "last"]
        );
        assert_eq!(lines(b"a\nb.jpg\0c\n.jpg\0\0d", true), ["a\nb.jpg", "c\n.jpg", "d"]);
        assert!(lines(b"", false).is_empty() && lines(b"\n\n", false).is_empty());
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt;
            let from: Box<dyn Read + Send> = Box::new(io::Cursor::new(b"x\xffy.jpg\n".to_vec()));
            let Input::List(mut list) = Input::open(from, false, Arc::default()).unwrap() else {
                panic!("no list")
            };
            let Some(Line::Path(path)) = list.next().unwrap() else { panic!("no path") };
            assert_eq!(path.as_os_str().as_bytes(), b"x\xffy.jpg");
        }
    }

    #[test]
    fn bad_lines_have_numbers_and_do_not_end_the_list() {
        let long = [&b"a\n"[..], &vec![b'x'; MAX_NAME + 1], b"\nb\nc\0d\ne"].concat();
        let got = lines(&long, false);
        assert_eq!((got.len(), &got[0], &got[2], &got[4]), (5, &"a".into(), &"b".into(), &"e".into()));
        assert!(
            got[1].contains("line 2: 65537 bytes") && got[3].contains("line 4: has a zero byte"),
            "{got:?}"
        );
        assert!(lines(b"\xff\xfea\0\n\0", false)[0].contains("line 1: begins as UTF-16"));
        assert_eq!(lines(&vec![b'x'; MAX_NAME], false).len(), 1);
    }

    #[test]
    fn photos_are_told_from_lists() {
        for (photo, head) in [
            (true, &b"\xff\xd8\xff\xe0\0\x10JFIF"[..]),
            (true, b"\x89PNG\r\n\x1a\n"),
            (true, b"RIFF\x10\0\0\0WEBPVP8 "),
            (true, b"BM\x36\x10\0\0\0\0\0\0"),
            (true, b"GIF89a\x10\0\x10\0"),
            (true, b"II*\0\x08\0\0\0"),
            (false, b"BM.jpg\nother.jpg\n"),
            (false, b"GIF89a.gif\n"),
            (false, b"RIFF.webp\n"),
            (false, b"a.jpg\n"),
            (false, b""),
        ] {
            assert_eq!(is_photo(head), photo, "{head:?}");
        }
    }
}
