//! The user's cache folder, as the environment names it.

use std::ffi::OsString;
use std::path::PathBuf;

/// This program's folder in the user's cache folder, which holds weights and measured tiles. It need not exist. `None`
/// where the environment names no cache folder.
pub(crate) fn own_folder() -> Option<PathBuf> {
    folder(|name| std::env::var_os(name)).map(|cache| cache.join("rtmo-engine"))
}

/// The folder for files that can be made or fetched again; it need not exist. `variable` looks up the environment.
///
/// `XDG_CACHE_HOME`, else the system's own place. Paths that are empty or relative are ignored, as the XDG Base
/// Directory Specification says: a relative one would be another folder in each working directory.
pub(crate) fn folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    path("XDG_CACHE_HOME").or_else(|| {
        if cfg!(windows) {
            path("LOCALAPPDATA")
        } else if cfg!(target_os = "macos") {
            path("HOME").map(|home| home.join("Library/Caches"))
        } else {
            path("HOME").map(|home| home.join(".cache"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(all(unix, not(target_os = "macos")))]
    #[test]
    fn the_folder_is_never_a_relative_one() {
        let of = |set: &[(&str, &str)]| {
            folder(|name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
        };
        let home = ("HOME", "/home/me");
        assert_eq!(of(&[home, ("XDG_CACHE_HOME", "/cache")]), Some("/cache".into()));
        for nothing in ["", "cache", "./cache"] {
            assert_eq!(of(&[home, ("XDG_CACHE_HOME", nothing)]), Some("/home/me/.cache".into()));
            assert_eq!(of(&[("HOME", nothing)]), None);
        }
    }
}
