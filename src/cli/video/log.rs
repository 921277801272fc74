//! What ffmpeg says on standard error.

use std::io::{BufRead, Read};

/// Longer lines are cut: some tell of whole blocks of data.
const LONGEST: u64 = 1 << 16;

/// How serious a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Error,
    Other,
}

/// A line of the log: `[component @ 0x...] [level] text`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The part of ffmpeg that speaks; empty where it is ffmpeg itself.
    pub component: &'a str,
    pub level: Level,
    pub text: &'a str,
}

/// Calls `heard` with each line until the end.
pub fn read(mut from: impl BufRead, mut heard: impl FnMut(Line<'_>)) {
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match from.by_ref().take(LONGEST).read_until(b'\n', &mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(_) => heard(parse(String::from_utf8_lossy(&bytes).trim_end())),
        }
    }
}

fn parse(line: &str) -> Line<'_> {
    let (mut component, mut level, mut text) = ("", Level::Other, line);
    while let Some((tag, rest)) = text.strip_prefix('[').and_then(|tagged| tagged.split_once("] ")) {
        match tag {
            "error" | "fatal" | "panic" => level = Level::Error,
            "quiet" | "warning" | "info" | "verbose" | "debug" | "trace" => {}
            _ => match tag.split_once(" @ ") {
                Some((name, _)) => component = name,
                None => break,
            },
        }
        text = rest;
    }
    Line { component, level, text: text.trim() }
}

/// The value behind `key:` in a line such as `n:   0 pts:    512 s:640x360`.
pub fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut from = 0;
    while let Some(at) = text[from..].find(key).map(|at| at + from) {
        let (before, behind) = (&text[..at], &text[at + key.len()..]);
        if let Some(rest) = behind.strip_prefix(':').filter(|_| before.is_empty() || before.ends_with(' ')) {
            return rest.split_whitespace().next();
        }
        from = at + key.len();
    }
    None
}

/// Seconds of `00:01:02.50`.
pub fn clock(text: &str) -> Option<f64> {
    let mut seconds = 0.0;
    for part in text.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>().ok().filter(|v| v.is_finite() && *v >= 0.0)?;
    }
    Some(seconds)
}

/// `a/b` as a number above 0.
pub fn ratio(text: &str) -> Option<f64> {
    let (a, b) = text.split_once('/')?;
    let (a, b) = (a.parse::<f64>().ok()?, b.parse::<f64>().ok()?);
    (a > 0.0 && b > 0.0).then(|| a / b).filter(|ratio| ratio.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_a_component_a_level_and_a_text() {
        let text = "[Parsed_showinfo_0 @ 0x5] [info] n:   3 pts:   1536 pts_time:0.1     pos:  8941 fmt:yuv420p s:640x360 i:P\n\
                    [error] clip.mp4: Invalid data found\n[x] y\n[in#0 @ 0x7] [fatal] no";
        let mut lines = Vec::new();
        read(text.as_bytes(), |line| {
            lines.push((line.component.to_string(), line.level, line.text.to_string()));
        });
        assert_eq!(lines[0].0, "Parsed_showinfo_0");
        let frame = &lines[0].2;
        assert_eq!(
            (value(frame, "n"), value(frame, "pts"), value(frame, "s")),
            (Some("3"), Some("1536"), Some("640x360"))
        );
        assert_eq!(value(frame, "time"), None);
        assert_eq!(lines[1], (String::new(), Level::Error, "clip.mp4: Invalid data found".into()));
        assert_eq!(lines[2], (String::new(), Level::Other, "[x] y".into()));
        assert_eq!(lines[3], ("in#0".into(), Level::Error, "no".into()));
    }

    #[test]
    fn numbers() {
        assert_eq!(clock("00:01:02.50"), Some(62.5));
        assert_eq!((clock("N/A"), clock("1:nan"), clock("-1:00")), (None, None, None));
        assert_eq!((ratio("1/15360"), ratio("0/0"), ratio("30")), (Some(1.0 / 15360.0), None, None));
    }
}
