//! The one error type: what went wrong, where, what was expected and what was found.

use std::fmt::{self, Display, Write};
use std::path::{Path, PathBuf};

/// Result of every fallible function of the crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong. Messages say what, where, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("{}: {action}: {source}", shown(path))]
    Io {
        /// File or folder concerned.
        path: PathBuf,
        /// What was being done, e.g. "cannot read".
        action: &'static str,
        /// The system's own reason.
        source: std::io::Error,
    },
    /// A weights file that is damaged, hostile, or not an RTMO checkpoint.
    #[error("{}: {}", shown(path), printable_lines(what))]
    Weights {
        /// The weights file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// One tensor of a weights file is missing, unexpected, of the wrong shape or type, or not finite.
    #[error("{}: tensor '{}': expected {expected}, got {}", shown(path), printable(tensor), printable(got))]
    Tensor {
        /// The weights file.
        path: PathBuf,
        /// Upstream (state_dict) name of the tensor.
        tensor: String,
        /// What the network needs.
        expected: String,
        /// What the file holds.
        got: String,
    },
    /// An image that cannot be decoded or is out of limits.
    #[error("{}: {}", shown(path), printable_lines(what))]
    Image {
        /// The image file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Annotations or results in JSON that are damaged, incomplete, or contradict each other.
    #[error("{}: {}", shown(path), printable_lines(what))]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        what: String,
    },
    /// A file that could not be had from a server.
    #[error("{}: {}", printable(address), printable_lines(what))]
    Download {
        /// Where it was asked for.
        address: String,
        /// What went wrong.
        what: String,
    },
    /// An option or argument that makes no sense, alone or together with others.
    #[error("{}", printable_lines(_0))]
    Usage(String),
    /// A device, instruction set or driver that is missing or failed.
    #[error("{}", printable_lines(_0))]
    Device(String),
}

impl Error {
    /// An [`Error::Io`] for `path`, as a closure for `map_err`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, action, source }
    }

    /// An [`Error::Weights`] for `path`.
    pub fn weights(path: impl AsRef<Path>, what: impl Into<String>) -> Error {
        Error::Weights { path: path.as_ref().to_path_buf(), what: what.into() }
    }

    /// An [`Error::Json`] for `path`.
    pub fn json(path: impl AsRef<Path>, what: impl Into<String>) -> Error {
        Error::Json { path: path.as_ref().to_path_buf(), what: what.into() }
    }

    /// An [`Error::Image`] for `path`.
    pub fn image(path: impl AsRef<Path>, what: impl Into<String>) -> Error {
        Error::Image { path: path.as_ref().to_path_buf(), what: what.into() }
    }
}

/// A name or another piece of text from outside (a file's name, a server's answer), as it is shown: control characters
/// and those that turn the direction of text are escaped, so that none of them reaches a terminal.
pub fn printable<T: Display>(text: T) -> impl Display {
    Printable { text, lines: false }
}

/// As [`printable`], for text of several lines: line ends and tabs stay.
pub fn printable_lines<T: Display>(text: T) -> impl Display {
    Printable { text, lines: true }
}

/// A path as it is shown: as [`printable`].
pub fn shown(path: &(impl AsRef<Path> + ?Sized)) -> impl Display {
    printable(path.as_ref().display())
}

struct Printable<T> {
    text: T,
    lines: bool,
}

impl<T: Display> Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escape { to: f, lines: self.lines }, "{}", self.text)
    }
}

/// Escapes what passes through.
struct Escape<'a, 'b> {
    to: &'a mut fmt::Formatter<'b>,
    lines: bool,
}

impl Write for Escape<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = 0;
        for (at, c) in text.char_indices() {
            let turns =
                matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            let stays = self.lines && matches!(c, '\n' | '\t');
            if turns || c.is_control() && !stays {
                self.to.write_str(&text[plain..at])?;
                write!(self.to, "{}", c.escape_default())?;
                plain = at + c.len_utf8();
            }
        }
        self.to.write_str(&text[plain..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_reach_no_terminal() {
        let text = "a\x1b[2Jb\u{9b}\n\tc\u{202e}d \u{e9}";
        assert_eq!(printable(text).to_string(), r"a\u{1b}[2Jb\u{9b}\n\tc\u{202e}d ".to_string() + "\u{e9}");
        assert_eq!(printable_lines(text).to_string(), "a\\u{1b}[2Jb\\u{9b}\n\tc\\u{202e}d \u{e9}");
        let escape = || "\x1b]0;x\x07".to_string();
        let source = std::io::Error::other("no");
        let errors = [
            Error::Io { path: escape().into(), action: "cannot read", source },
            Error::weights(escape(), escape()),
            Error::image(escape(), escape()),
            Error::json(escape(), escape()),
            Error::Tensor { path: escape().into(), tensor: escape(), expected: "a".into(), got: escape() },
            Error::Download { address: escape(), what: escape() },
            Error::Usage(escape()),
            Error::Device(escape()),
        ];
        for error in errors {
            let shown = error.to_string();
            assert!(!shown.contains(char::is_control) && shown.contains(r"\u{1b}]0;x\u{7}"), "{shown}");
        }
        // A line end in a name must not start a new line.
        assert_eq!(Error::weights("a\nerror: b", "c").to_string(), r"a\nerror: b: c");
    }
}
