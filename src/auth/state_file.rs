//! Files in the state folder (`server.state`), which hold what the next process must know (docs/security.md, J10).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::owner;

/// A file that only this user and root can change. It is replaced as a whole.
#[derive(Clone, Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
}

/// Differs whenever the file was replaced.
pub(crate) type Version = (u64, i64, i64, u64);

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("another user owns the file or can write to it, or it is not a regular file: remove it")]
    Unsafe,
    #[error("other users can write to its folder (server.state): {}", owner::MAKE_IT_OURS)]
    UnsafeFolder,
}

impl StateFile {
    /// Names a file in `folder`. Reads and writes nothing.
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        Self { path: folder.join(name) }
    }

    /// Reads the file, unless another user can choose what is in it: by writing to it, or by replacing it in its folder.
    /// Reads at most one byte more than `max_bytes`. Blocks.
    pub(crate) fn read(&self, max_bytes: usize) -> Result<Vec<u8>, StateError> {
        let (Some(folder), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Err(StateError::Unsafe);
        };
        let folder = File::open(folder)?;
        if !owner::is_ours(&folder.metadata()?) {
            return Err(StateError::UnsafeFolder);
        }
        // In the folder that was checked, without following a link or waiting for a writer.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(&folder, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::LOOP) => return Err(StateError::Unsafe),
            Err(error) => return Err(StateError::Io(error.into())),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() || !owner::is_ours(&metadata) {
            return Err(StateError::Unsafe);
        }
        let mut bytes = Vec::new();
        file.take(max_bytes as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Replaces the file atomically, with mode 0600. Blocks until it is on disk.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        // During an upgrade two processes write to this folder.
        let temporary = self.path.with_extension(format!("{}.tmp", std::process::id()));
        let result = write_whole(&temporary, bytes).and_then(|()| self.replace_by(&temporary));
        if result.is_err() {
            let _ = fs::remove_file(&temporary); // the error of the write is the one to report
        }
        result
    }

    /// Returns the version of the file; `None` if there is none. Blocks.
    pub(crate) fn version(&self) -> Option<Version> {
        let metadata = fs::symlink_metadata(&self.path).ok()?;
        Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.size()))
    }

    #[cfg(test)]
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn replace_by(&self, temporary: &Path) -> io::Result<()> {
        fs::rename(temporary, &self.path)?;
        match self.path.parent() {
            None => Ok(()),
            Some(folder) => File::open(folder)?.sync_all(),
        }
    }
}

impl StateError {
    /// Whether the file does not exist, as on a first start.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Removes the file of a process that was killed while it wrote. `create_new` then follows no planted link.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    fn saved(folder: &Path) -> StateFile {
        let file = StateFile::new(folder, "saved.json");
        file.write(b"saved").unwrap();
        file
    }

    #[test]
    fn j10_the_file_is_private_and_no_temporary_file_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let file = saved(folder.path());
        let version = file.version();
        saved(folder.path());
        assert_ne!(file.version(), version);
        assert_eq!(fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(file.read(5).unwrap(), b"saved");
        assert_eq!(file.read(3).unwrap(), b"save", "one byte more than it may have");
    }

    #[test]
    fn j10_a_file_that_another_user_can_change_or_replace_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = saved(folder.path());
        let read = || file.read(10);
        let allow = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        for mode in [0o600, 0o644] {
            allow(&file.path, mode);
            assert!(read().is_ok(), "{mode:o}");
        }
        for mode in [0o620, 0o602] {
            allow(&file.path, mode);
            assert!(matches!(read(), Err(StateError::Unsafe)), "{mode:o}");
        }
        allow(&file.path, 0o600);
        for mode in [0o770, 0o777, 0o1777] {
            allow(folder.path(), mode);
            assert!(matches!(read(), Err(StateError::UnsafeFolder)), "{mode:o}");
        }
        allow(folder.path(), 0o755);
        assert!(read().is_ok());
        if !rustix::process::geteuid().is_root() {
            return eprintln!("SKIPPED in part: only root can give a file to another user");
        }
        chown(&file.path, Some(65534), None).unwrap();
        assert!(matches!(read(), Err(StateError::Unsafe)));
        chown(&file.path, Some(0), None).unwrap();
        chown(folder.path(), Some(65534), None).unwrap();
        assert!(matches!(read(), Err(StateError::UnsafeFolder)));
    }

    #[test]
    fn j10_a_link_or_a_pipe_in_the_place_of_the_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = saved(folder.path());
        let elsewhere = folder.path().join("elsewhere");
        fs::rename(&file.path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &file.path).unwrap();
        assert!(matches!(file.read(10), Err(StateError::Unsafe)));
        fs::remove_file(&file.path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &file.path, Mode::RUSR | Mode::WUSR).unwrap();
        assert!(matches!(file.read(10), Err(StateError::Unsafe)));
        fs::rename(&elsewhere, &file.path).unwrap();
        assert!(file.read(10).is_ok());
    }

    #[test]
    fn a_missing_folder_is_an_error_not_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::new(&folder.path().join("missing"), "saved.json");
        assert!(file.write(b"saved").is_err() && file.version().is_none());
        assert!(file.read(10).unwrap_err().is_absence());
    }
}
