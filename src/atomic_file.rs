//! Files that appear complete or not at all.

use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Files of this process that have a temporary name now.
static TEMPORARIES: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn temporaries() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    TEMPORARIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Deletes every unfinished file of this process: for the moment before it exits on a signal.
pub fn remove_unfinished() {
    // Taken: a file that is being finished at the same time fails to appear, rather than appears half.
    for path in std::mem::take(&mut *temporaries()) {
        fs::remove_file(path).ok();
    }
}

/// A file being written under no name, or a temporary one; [`AtomicFile::commit`] gives it its own. Pipes and devices
/// are written directly.
///
/// On Linux the file has no name until it is complete (`O_TMPFILE`), so a killed process leaves nothing behind;
/// elsewhere, and on file systems that cannot do that, it has a hidden name beside the final one, and is removed when
/// the value is dropped.
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    place: Place,
    file: BufWriter<File>,
}

/// Where the bytes go before commit.
#[derive(Debug)]
enum Place {
    /// Into a file without a name.
    Nameless,
    /// Into a file of this name.
    Temporary(PathBuf),
    /// To where they belong: nothing is left to do.
    Final,
}

impl AtomicFile {
    /// Starts a file that will be at `path`; if that is a link, it stays, and what it points to is replaced.
    ///
    /// # Errors
    /// If the folder cannot be written, or `path` is a folder.
    pub fn create(path: impl Into<PathBuf>) -> Result<AtomicFile> {
        let mut path = path.into();
        if let Ok(kind) = fs::metadata(&path) {
            if kind.is_dir() {
                let source = io::ErrorKind::IsADirectory.into();
                return Err(Error::Io { path, action: "cannot replace", source });
            }
            if !kind.is_file() {
                let file =
                    File::options().write(true).open(&path).map_err(Error::io("cannot write", &path))?;
                return Ok(AtomicFile { path, place: Place::Final, file: BufWriter::new(file) });
            }
            path = path.canonicalize().map_err(Error::io("cannot replace", &path))?;
        }
        let (file, place) = start(&path).map_err(Error::io("cannot create", &path))?;
        Ok(AtomicFile { path, place, file: BufWriter::with_capacity(1 << 16, file) })
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
        if matches!(self.place, Place::Final) {
            return Ok(());
        }
        // Some file systems report a full disk only now.
        self.file.get_ref().sync_all()?;
        if matches!(self.place, Place::Nameless) {
            match link(self.file.get_ref(), &self.path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let temporary = beside(&self.path);
                    temporaries().insert(temporary.clone());
                    self.place = Place::Temporary(temporary.clone());
                    link(self.file.get_ref(), &temporary)?;
                }
                done => return done,
            }
        }
        if let Place::Temporary(temporary) = &self.place {
            fs::rename(temporary, &self.path)?;
            temporaries().remove(temporary);
            self.place = Place::Final;
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
        if let Place::Temporary(temporary) = &self.place {
            fs::remove_file(temporary).ok();
            temporaries().remove(temporary);
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

fn start(path: &Path) -> io::Result<(File, Place)> {
    match nameless(folder(path)) {
        Some(file) => Ok((file, Place::Nameless)),
        None => named(path),
    }
}

fn named(path: &Path) -> io::Result<(File, Place)> {
    let temporary = beside(path);
    // Noted first: a signal between the two leaves nothing either.
    temporaries().insert(temporary.clone());
    match File::options().write(true).create_new(true).open(&temporary) {
        Ok(file) => Ok((file, Place::Temporary(temporary))),
        Err(error) => {
            temporaries().remove(&temporary);
            Err(error)
        }
    }
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
            let (file, place) = named(&path).unwrap();
            let mut file = AtomicFile { path: path.clone(), place, file: BufWriter::new(file) };
            file.write_all(text.as_bytes()).unwrap();
            assert!(names().iter().any(|name| name.to_string_lossy().ends_with(".tmp")));
            file.commit().unwrap();
            assert_eq!(names(), ["w"]);
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let (file, place) = named(&path).unwrap();
        drop(AtomicFile { path: path.clone(), place, file: BufWriter::new(file) });
        assert_eq!(names(), ["w"]);
        assert!(temporaries().iter().all(|temporary| !temporary.starts_with(folder.path())));
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_and_devices_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let mut file = AtomicFile::create(&link).unwrap();
        file.write_all(b"new").unwrap();
        file.commit().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), "new");

        let mut null = AtomicFile::create("/dev/null").unwrap();
        null.write_all(b"gone").unwrap();
        null.commit().unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}
