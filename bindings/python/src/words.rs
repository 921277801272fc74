//! The library's messages name options of its program where those help. Here they name what Python has in their place.

/// What stands for an option, the longest first.
const WORDS: [(&str, &str); 13] = [
    ("'rtmo-engine download' fetches", "rtmo_engine.download() fetches"),
    ("'rtmo-engine models' lists", "rtmo_engine.models() lists"),
    ("give a file with --weights", "give the path of a file"),
    ("a file is given with --weights", "the path of a file has a slash or a suffix"),
    ("and --weights names another file", "and the path is that of another file"),
    (" (--weights)", ""),
    ("--offline or RTMO_OFFLINE", "offline=True or RTMO_OFFLINE"),
    ("give a folder with --to", "give a folder"),
    ("such as --size", "size"),
    ("--device cpu", "device=\"cpu\""),
    ("--device cuda", "device=\"cuda\""),
    ("--allow-http", "allow_http=True or RTMO_ALLOW_HTTP=1"),
    ("--mirror", "mirror or RTMO_MIRROR"),
];

/// A message in Python's words.
pub fn in_python(message: &str) -> String {
    let mut text = message.to_string();
    for (option, words) in WORDS {
        text = text.replace(option, words);
    }
    // 'rtmo-engine download NAME' fetches it
    text = around(&text, "'rtmo-engine download ", "'", |name| format!("rtmo_engine.download(\"{name}\")"));
    // ('--max-pixels N' allows it)
    around(&text, "('--max-pixels ", ")", |_| "(an array of the pixels may have more)".into())
}

/// Replaces what is between two texts, and those.
fn around(text: &str, before: &str, after: &str, words: impl Fn(&str) -> String) -> String {
    let Some((head, rest)) = text.split_once(before) else { return text.into() };
    let Some((inner, tail)) = rest.split_once(after) else { return text.into() };
    format!("{head}{}{tail}", words(inner))
}
