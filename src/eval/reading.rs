//! Reading a file of JSON as Python writes it, to its end.

use crate::error::{Error, Result};
use crate::output::PythonJson;
use serde::de::DeserializeSeed;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Reads all of a file, without the mark that some editors put before it.
pub fn json<'de, T: DeserializeSeed<'de>>(mut file: impl BufRead, path: &Path, seed: T) -> Result<T::Value> {
    let mark = file.fill_buf().map_err(Error::io("cannot read", path))?.starts_with(b"\xef\xbb\xbf");
    file.consume(if mark { 3 } else { 0 });
    let mut from = serde_json::Deserializer::from_reader(BufReader::new(PythonJson::new(file)));
    let read = seed.deserialize(&mut from).and_then(|read| from.end().map(|()| read));
    read.map_err(|error| match error.io_error_kind() {
        Some(kind) => Error::io("cannot read", path)(kind.into()),
        None => Error::json(path, shortened(error.to_string())),
    })
}

/// A message that may quote a text of the file, to some 400 letters: its beginning, and its end, where the place is.
fn shortened(message: String) -> String {
    let letters = message.chars().count();
    if letters <= 400 {
        return message;
    }
    let (head, tail): (String, String) =
        (message.chars().take(200).collect(), message.chars().skip(letters - 200).collect());
    format!("{head} ... {tail}")
}
