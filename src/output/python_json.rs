//! JSON as Python writes it: with NaN and infinities, which the standard has not.

use std::collections::VecDeque;
use std::io::{BufRead, Read, Result};

/// What Python writes for numbers that are not finite.
const WORDS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];

/// Gives the bytes of a file with `null` in place of NaN, Infinity and -Infinity, except within texts.
pub struct PythonJson<R> {
    from: R,
    /// Bytes to be given next.
    ready: VecDeque<u8>,
    in_text: bool,
    /// Whether the last byte of a text was a backslash that escapes the next.
    escaped: bool,
}

impl<R: BufRead> PythonJson<R> {
    pub fn new(from: R) -> PythonJson<R> {
        PythonJson { from, ready: VecDeque::new(), in_text: false, escaped: false }
    }

    /// Takes a byte, or a whole word, from the file; false at its end.
    fn step(&mut self) -> Result<bool> {
        let Some(byte) = self.peek()? else { return Ok(false) };
        if self.in_text {
            self.in_text = self.escaped || byte != b'"';
            self.escaped = !self.escaped && byte == b'\\';
        } else {
            self.in_text = byte == b'"';
            if WORDS.iter().any(|word| word[0] == byte) {
                return self.word();
            }
        }
        self.from.consume(1);
        self.ready.push_back(byte);
        Ok(true)
    }

    /// Takes as many bytes as one of the words begins with.
    fn word(&mut self) -> Result<bool> {
        let mut read = Vec::new();
        while let Some(byte) = self.peek()?
            && WORDS.iter().any(|word| word.starts_with(&read) && word.get(read.len()) == Some(&byte))
        {
            read.push(byte);
            self.from.consume(1);
        }
        self.ready.extend(if WORDS.contains(&&read[..]) { b"null" } else { &read[..] });
        Ok(true)
    }

    fn peek(&mut self) -> Result<Option<u8>> {
        Ok(self.from.fill_buf()?.first().copied())
    }
}

impl<R: BufRead> Read for PythonJson<R> {
    fn read(&mut self, to: &mut [u8]) -> Result<usize> {
        while self.ready.len() < to.len() && self.step()? {}
        self.ready.read(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_null_outside_of_texts() {
        let read = |text: &str| {
            let mut out = String::new();
            PythonJson::new(text.as_bytes()).read_to_string(&mut out).unwrap();
            out
        };
        assert_eq!(read(r#"[NaN,-Infinity, Infinity,-1]"#), "[null,null, null,-1]");
        for same in [r#"["NaN \" Infinity", "\\"]"#, "Nan", "-Infinit", "I", "-", "", r#"{"a": -5e-3}"#] {
            assert_eq!(read(same), same);
        }
        assert_eq!(read(r#"["\\", NaN, "\"NaN"]"#), r#"["\\", null, "\"NaN"]"#);
    }
}
