//! The library's messages name options of its program where those help. Here they name what C has in their place.

/// What stands for an option, the longest first.
const WORDS: [(&str, &str); 12] = [
    ("'rtmo-engine download' fetches", "rtmo_download() fetches"),
    ("'rtmo-engine models' lists", "rtmo_models_create() lists"),
    ("give a file with --weights", "give the path of a file"),
    ("a file is given with --weights", "the path of a file has a slash or a suffix"),
    ("and --weights names another file", "and the path is that of another file"),
    (" (--weights)", ""),
    ("--offline or RTMO_OFFLINE", "offline or RTMO_OFFLINE"),
    ("give a folder with --to", "give a folder"),
    ("such as --size", "input_width and input_height"),
    ("--device ", "device "),
    ("--allow-http", "allow_http or RTMO_ALLOW_HTTP=1"),
    ("--mirror", "mirror or RTMO_MIRROR"),
];

/// A message in C's words.
pub fn in_c(message: &str) -> String {
    let mut text = message.to_string();
    for (option, words) in WORDS {
        text = text.replace(option, words);
    }
    // 'rtmo-engine download NAME' fetches it
    let Some((head, rest)) = text.split_once("'rtmo-engine download ") else { return text };
    let Some((name, tail)) = rest.split_once('\'') else { return text };
    format!("{head}rtmo_download(\"{name}\", NULL){tail}")
}
