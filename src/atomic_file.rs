//! Files that appear complete or not at all.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A file being written under no name, or a temporary one; [`AtomicFile::commit`] gives it its own.
///
/// On Linux the file has no name until it is complete (`O_TMPFILE`), so a killed process leaves nothing behind;
/// elsewhere, and on file systems that cannot do that, it has a hidden name beside the final one, and is removed when
/// the value is dropped.
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    /// Present until the file has its final name or is gone.
    temporary: Option<PathBuf>,
    file: BufWriter<File>,
}

impl AtomicFile {
    /// Starts a file that will be at `path`.
    ///
    /// # Errors
    /// If the folder cannot be written, or `path` is a folder, a device or a pipe.
    pub fn create(path: impl Into<PathBuf>) -> Result<AtomicFile> {
        let path = path.into();
        match fs::metadata(&path) {
            Ok(kind) if !kind.is_file() => {
                let source =
                    io::Error::other(if kind.is_dir() { "is a folder" } else { "is not a regular file" });
                return Err(Error::Io { path, action: "cannot replace", source });
            }
            _ => {}
        }
        let (file, temporary) = start(&path).map_err(Error::io("cannot create", &path))?;
        Ok(AtomicFile { path, temporary, file: BufWriter::new(file) })
    }

    /// Writes what is left to the disk and puts the file at its path, in place of what was there.
    ///
    /// # Errors
    /// If the system refuses; then `path` is as it was before.
    pub fn commit(mut self) -> Result<()> {
        self.finish().map_err(Error::io("cannot write", &self.path))
    }

    fn finish(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        if self.temporary.is_none() {
            match link(self.file.get_ref(), &self.path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let temporary = beside(&self.path);
                    link(self.file.get_ref(), &temporary)?;
                    self.temporary = Some(temporary);
                }
                done => return done,
            }
        }
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, &self.path)?;
            self.temporary = None;
        }
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            fs::remove_file(temporary).ok();
        }
    }
}

/// The folder that holds `path`.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A name beside `path` that no other file of this process takes.
fn beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    folder(path).join(name)
}

fn start(path: &Path) -> io::Result<(File, Option<PathBuf>)> {
    match nameless(folder(path)) {
        Some(file) => Ok((file, None)),
        None => named(path),
    }
}

fn named(path: &Path) -> io::Result<(File, Option<PathBuf>)> {
    let temporary = beside(path);
    let file = File::options().write(true).create_new(true).open(&temporary)?;
    Ok((file, Some(temporary)))
}

/// A file in `folder` that goes away with its handle, where the system has such.
#[cfg(target_os = "linux")]
fn nameless(folder: &Path) -> Option<File> {
    use rustix::fs::{Mode, OFlags};
    // Its name is given through /proc in the end.
    if !Path::new("/proc/self/fd").exists() {
        return None;
    }
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666)).ok().map(File::from)
}

#[cfg(not(target_os = "linux"))]
fn nameless(_: &Path) -> Option<File> {
    None
}

/// Gives a file without a name one; an existing file is not replaced.
#[cfg(target_os = "linux")]
fn link(file: &File, path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD};
    use std::os::fd::AsRawFd;
    let handle = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(CWD, handle, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(not(target_os = "linux"))]
fn link(_: &File, _: &Path) -> io::Result<()> {
    unreachable!("only Linux makes files without a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The way of systems that have no files without a name.
    #[test]
    fn named_temporaries_are_renamed_or_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w");
        let names =
            || fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        for text in ["old", "new"] {
            let (file, temporary) = named(&path).unwrap();
            let mut file = AtomicFile { path: path.clone(), temporary, file: BufWriter::new(file) };
            file.write_all(text.as_bytes()).unwrap();
            assert!(names().iter().any(|name| name.to_string_lossy().ends_with(".tmp")));
            file.commit().unwrap();
            assert_eq!(names(), ["w"]);
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let (file, temporary) = named(&path).unwrap();
        drop(AtomicFile { path: path.clone(), temporary, file: BufWriter::new(file) });
        assert_eq!(names(), ["w"]);
    }
}
