//! The files that a run reads and writes. They are compared before the work, so that no file is overwritten by mistake.

use rtmo_engine::shown;
use rtmo_engine::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The files of one run, each with its role. All are registered before anything is computed: an output that would replace a
/// photo, the weights or another output is an error.
#[derive(Default)]
pub struct Files {
    read: HashMap<PathBuf, String>,
    written: HashMap<PathBuf, String>,
}

impl Files {
    /// Notes an input. `what` completes "PATH is ...".
    pub fn reads(&mut self, path: &Path, what: &str) {
        self.read.entry(identity(path)).or_insert_with(|| what.into());
    }

    /// Notes an output, the value of `option`; '-' is standard output.
    ///
    /// # Errors
    /// If it is an input, or what another option writes.
    pub fn writes(&mut self, path: &Path, option: &str) -> Result<()> {
        let stdout = Path::new("standard output");
        let (key, name) =
            if path == Path::new("-") { (stdout.into(), stdout) } else { (identity(path), path) };
        // Several options may write to the same device or pipe.
        let written = self.written.get(&key).filter(|_| !path.exists() || path.is_file());
        if let Some(what) = self.read.get(&key).or(written) {
            return Err(Error::Usage(format!(
                "{}: {option} would replace it, but it is {what}",
                shown(name)
            )));
        }
        self.written.insert(key, format!("what {option} writes"));
        Ok(())
    }

    /// What a file is to this run: an input, or what an option writes; `None` if it is neither.
    pub fn what(&self, path: &Path) -> Option<&str> {
        let key = identity(path);
        self.read.get(&key).or_else(|| self.written.get(&key)).map(String::as_str)
    }

    /// Whether an option writes there.
    pub fn is_written(&self, path: &Path) -> bool {
        self.written.contains_key(&identity(path))
    }

    /// All of them, by names that no link hides, with what they are.
    pub fn all(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.read.iter().chain(&self.written).map(|(path, what)| (path.as_path(), what.as_str()))
    }
}

/// One name for a file however it is called, also if it is not there yet, or not even its folder.
pub fn identity(path: &Path) -> PathBuf {
    if let Ok(found) = path.canonicalize() {
        return found;
    }
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    match (whole.parent(), whole.file_name()) {
        (Some(folder), Some(name)) => identity(folder).join(name),
        _ => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_has_one_identity() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("a.png"), "").unwrap();
        std::fs::create_dir(at("sub")).unwrap();
        for (one, other) in
            [("a.png", "sub/../a.png"), ("new/b.json", "./new/./b.json"), ("sub/c", "sub/../sub/c")]
        {
            assert_eq!(identity(&at(one)), identity(&at(other)));
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(at("a.png"), at("link.png")).unwrap();
            std::os::unix::fs::symlink(at("sub"), at("way")).unwrap();
            assert_eq!(identity(&at("link.png")), identity(&at("a.png")));
            assert_eq!(identity(&at("way/new/b")), identity(&at("sub/new/b")));
        }
        assert_ne!(identity(&at("a.png")), identity(&at("b.png")));
    }

    #[test]
    fn outputs_are_neither_inputs_nor_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("a.png"), "").unwrap();
        let mut files = Files::default();
        files.reads(&at("a.png"), "a photo to read");
        files.writes(&at("b.json"), "--json").unwrap();
        let error = files.writes(&at("./a.png"), "--coco").unwrap_err().to_string();
        assert!(error.contains("--coco would replace it, but it is a photo to read"), "{error}");
        let error = files.writes(&at("./b.json"), "--coco").unwrap_err().to_string();
        assert!(error.contains("but it is what --json writes"), "{error}");
        files.writes(Path::new("-"), "--json").unwrap();
        assert!(files.writes(Path::new("-"), "--coco").is_err());
        assert_eq!(files.what(&at("b.json")), Some("what --json writes"));
        assert_eq!(files.what(&at("c.json")), None);
        #[cfg(unix)]
        for option in ["--json", "--coco"] {
            files.writes(Path::new("/dev/null"), option).unwrap();
        }
    }
}
