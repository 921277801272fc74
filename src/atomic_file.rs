//! Files that appear complete or not at all.

use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tempfile::{NamedTempFile, TempPath};

/// Files of this process that have a temporary name now.
static TEMPORARIES: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn temporaries() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    TEMPORARIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Deletes every unfinished file of this process: for the moment before it exits on a signal.
pub fn remove_unfinished() {
    // The list is emptied: a file that is being finished at the same time fails to appear, rather than appears half.
    for path in std::mem::take(&mut *temporaries()) {
        fs::remove_file(path).ok();
    }
}

/// Has [`remove_unfinished`] delete this file, which this process has made.
pub fn keep_track(path: &Path) {
    temporaries().insert(path.to_path_buf());
}

/// Has [`remove_unfinished`] leave this file.
pub fn lose_track(path: &Path) {
    temporaries().remove(path);
}

/// A file that has no name, or a temporary one, until [`AtomicFile::commit`] gives it its own. Pipes and devices are
/// written directly.
///
/// On Linux the file has no name until it is complete (`O_TMPFILE`), so a killed process leaves nothing behind.
/// Elsewhere, and on file systems without such files, it has a hidden name with random letters beside the final one,
/// and is removed when the value is dropped. Only files that this process made are ever removed.
///
/// A file that replaces another takes over its permissions.
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    place: Place,
    file: BufWriter<File>,
    /// Of the file to be replaced.
    permissions: Option<Permissions>,
}

/// Where the bytes go before commit.
#[derive(Debug)]
enum Place {
    /// Into a file without a name.
    Nameless,
    /// Into a file with this name.
    Temporary(Temporary),
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
        let mut permissions = None;
        if let Ok(found) = fs::metadata(&path) {
            if found.is_dir() {
                let source = io::ErrorKind::IsADirectory.into();
                return Err(Error::Io { path, action: "cannot replace", source });
            }
            if !found.is_file() {
                let file =
                    File::options().write(true).open(&path).map_err(Error::io("cannot write", &path))?;
                return Ok(AtomicFile { path, place: Place::Final, file: BufWriter::new(file), permissions });
            }
            path = path.canonicalize().map_err(Error::io("cannot replace", &path))?;
            permissions = Some(found.permissions());
        }
        let (file, place) = start(&path).map_err(Error::io("cannot create", &path))?;
        Ok(AtomicFile { path, place, file: BufWriter::with_capacity(1 << 16, file), permissions })
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
        let file = self.file.get_ref();
        if let Some(permissions) = &self.permissions {
            take_over(file, permissions)?;
        }
        // Some file systems report a full disk only now.
        file.sync_all()?;
        match std::mem::replace(&mut self.place, Place::Final) {
            Place::Final => Ok(()),
            Place::Temporary(temporary) => temporary.rename(&self.path),
            Place::Nameless => match link(file, &self.path) {
                // A new name can be given to it only where there is none; to replace a file takes a rename.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    Temporary::make(&self.path, |temporary| link(file, temporary))?.1.rename(&self.path)
                }
                done => done,
            },
        }
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

/// A temporary name that this process has given to a file; without it the file is deleted.
#[derive(Debug)]
struct Temporary {
    path: TempPath,
}

impl Temporary {
    /// A hidden name beside `path`, with random letters; `make` makes the file, and fails if there is one.
    fn make<T>(path: &Path, mut make: impl FnMut(&Path) -> io::Result<T>) -> io::Result<(T, Temporary)> {
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(path.file_name().unwrap_or_default());
        prefix.push(".");
        let made = tempfile::Builder::new().prefix(&prefix).suffix(".tmp").rand_bytes(12).make_in(
            folder(path),
            |temporary| {
                let made = make(temporary)?;
                keep_track(temporary);
                Ok(made)
            },
        );
        let (made, path) = made.map(NamedTempFile::into_parts)?;
        Ok((made, Temporary { path }))
    }

    /// Gives the file its final name, in place of what has it.
    fn rename(self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        lose_track(&self.path);
        // The name is no longer this process's to delete.
        self.forget();
        Ok(())
    }

    fn forget(mut self) {
        self.path.disable_cleanup(true);
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // `path` deletes the file next.
        lose_track(&self.path);
    }
}

/// The folder that holds `path`.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn start(path: &Path) -> io::Result<(File, Place)> {
    match nameless(folder(path)) {
        Some(file) => Ok((file, Place::Nameless)),
        None => named(path),
    }
}

fn named(path: &Path) -> io::Result<(File, Place)> {
    let (file, temporary) =
        Temporary::make(path, |temporary| File::options().write(true).create_new(true).open(temporary))?;
    Ok((file, Place::Temporary(temporary)))
}

/// Gives a new file the permissions of the one that it replaces.
#[cfg(unix)]
fn take_over(file: &File, permissions: &Permissions) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    // Not the set-user-ID bits, which were given to other content.
    file.set_permissions(Permissions::from_mode(permissions.mode() & 0o777))
}

/// Other systems' files inherit theirs from the folder.
#[cfg(not(unix))]
fn take_over(_: &File, _: &Permissions) -> io::Result<()> {
    Ok(())
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
            let mut file =
                AtomicFile { path: path.clone(), place, file: BufWriter::new(file), permissions: None };
            file.write_all(text.as_bytes()).unwrap();
            assert!(names().iter().any(|name| name.to_string_lossy().ends_with(".tmp")));
            file.commit().unwrap();
            assert_eq!(names(), ["w"]);
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let (file, place) = named(&path).unwrap();
        drop(AtomicFile { path: path.clone(), place, file: BufWriter::new(file), permissions: None });
        assert_eq!(names(), ["w"]);
        // One that cannot be renamed is removed, too.
        let (file, place) = named(&path).unwrap();
        let nowhere = folder.path().join("no/where");
        let lost = AtomicFile { path: nowhere, place, file: BufWriter::new(file), permissions: None };
        assert!(lost.commit().is_err());
        assert_eq!(names(), ["w"]);
        assert!(temporaries().iter().all(|temporary| !temporary.starts_with(folder.path())));
    }

    #[test]
    fn only_files_of_ones_own_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w");
        let taken = folder.path().join("taken");
        fs::write(&taken, "another's").unwrap();
        // A name that another process has taken meanwhile: the file is made under the next one.
        let mut first = true;
        let (_, temporary) = Temporary::make(&path, |temporary| {
            let temporary = if std::mem::take(&mut first) { &taken } else { temporary };
            File::options().write(true).create_new(true).open(temporary)
        })
        .unwrap();
        assert!(temporary.path.exists() && *temporary.path != *taken);
        drop(temporary);
        // A name that cannot be had at all.
        assert!(Temporary::make(&path, |_| File::open(folder.path().join("none"))).is_err());
        assert!(temporaries().iter().all(|temporary| !temporary.starts_with(folder.path())));
        assert_eq!(fs::read_to_string(taken).unwrap(), "another's");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_replaces_another_takes_over_its_mode() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        for (old, nameless) in [(0o600, true), (0o640, false), (0o444, true), (0o666, false)] {
            fs::remove_file(&path).ok();
            fs::write(&path, "old").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(old)).unwrap();
            let mut file = AtomicFile::create(&path).unwrap();
            if !nameless {
                let (inner, place) = named(&path).unwrap();
                (file.file, file.place) = (BufWriter::new(inner), place);
            }
            file.write_all(b"new").unwrap();
            file.commit().unwrap();
            assert_eq!((mode(), fs::read_to_string(&path).unwrap().as_str()), (old, "new"));
        }
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
