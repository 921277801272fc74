//! The one error type: what went wrong, where, what was expected and what was found.

use std::path::{Path, PathBuf};

/// Result of every fallible function of the crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong, worded for the person who has to mend it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("{}: {action}: {source}", path.display())]
    Io {
        /// File or folder concerned.
        path: PathBuf,
        /// What was being done, e.g. "cannot read".
        action: &'static str,
        /// The system's own reason.
        source: std::io::Error,
    },
    /// A weights file that is damaged, hostile, or not an RTMO checkpoint.
    #[error("{}: {what}", path.display())]
    Weights {
        /// The weights file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// One tensor of a weights file is missing, unexpected, of the wrong shape or type, or not finite.
    #[error("{}: tensor '{tensor}': expected {expected}, got {got}", path.display())]
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
    #[error("{}: {what}", path.display())]
    Image {
        /// The image file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A file that could not be had from a server.
    #[error("{address}: {what}")]
    Download {
        /// Where it was asked for.
        address: String,
        /// What went wrong.
        what: String,
    },
    /// An option or argument that makes no sense, alone or together with others.
    #[error("{0}")]
    Usage(String),
    /// A device, instruction set or driver that is missing or failed.
    #[error("{0}")]
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

    /// An [`Error::Image`] for `path`.
    pub fn image(path: impl AsRef<Path>, what: impl Into<String>) -> Error {
        Error::Image { path: path.as_ref().to_path_buf(), what: what.into() }
    }
}
