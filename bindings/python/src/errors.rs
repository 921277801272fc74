//! The crate's errors as Python exceptions, with the same texts.

use crate::words::in_python;
use pyo3::prelude::*;
use rtmo_engine::{Error, Result};
use std::io::ErrorKind;

/// The exception for an error: a class of `rtmo_engine._errors`.
pub fn exception(error: &Error) -> PyErr {
    let class = match error {
        Error::Io { source, .. } if source.kind() == ErrorKind::NotFound => "MissingFileError",
        Error::Io { .. } => "FileError",
        Error::Weights { .. } | Error::Tensor { .. } => "WeightsError",
        Error::Image { .. } => "ImageError",
        Error::Json { .. } => "JsonError",
        Error::Download { .. } => "DownloadError",
        Error::Usage(_) => "UsageError",
        Error::Device(_) => "DeviceError",
        _ => "Error",
    };
    of_class(class, &in_python(&error.to_string()))
}

/// An exception of a class of `rtmo_engine._errors`.
pub fn of_class(class: &str, text: &str) -> PyErr {
    Python::attach(|py| {
        let made = py
            .import("rtmo_engine._errors")
            .and_then(|module| module.getattr(class))
            .and_then(|class| class.call1((text,)));
        made.map_or_else(|error| error, PyErr::from_value)
    })
}

/// That an argument makes no sense. Control characters are escaped, as in the crate's own errors.
pub fn usage(text: impl AsRef<str>) -> PyErr {
    exception(&Error::Usage(text.as_ref().into()))
}

/// Errors of the crate, for `?`.
pub trait OrRaise<T> {
    /// The value, or the exception for the error.
    fn or_raise(self) -> PyResult<T>;
}

impl<T> OrRaise<T> for Result<T> {
    fn or_raise(self) -> PyResult<T> {
        self.map_err(|error| exception(&error))
    }
}
