//! Appends to the audit log's file, and opens it again after an error or a rotation.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::telemetry::lines::LineSink;

/// The audit log's file, reopened by its name when needed. Only one thread writes to it.
#[derive(Debug)]
pub(super) struct AuditFile {
    path: PathBuf,
    open: Option<File>,
    /// Whether the file ends in the middle of a line.
    torn: bool,
    /// Whether the last line was lost. Only the first of several lost lines is logged.
    failing: bool,
}

impl AuditFile {
    /// Opens or creates the file. One that is not regular (a pipe) is opened with the first line, since that may block.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let other = fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
        let open = if other { None } else { Some(append(path)?) };
        Ok(Self { path: path.to_owned(), open, torn: false, failing: false })
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let file = match self.open.take().filter(|file| is_at(file, &self.path)) {
            Some(file) => file,
            None => {
                self.torn = false;
                append(&self.path)?
            }
        };
        let file = self.open.insert(file);
        if self.torn {
            file.write_all(b"\n")?;
            self.torn = false;
        }
        // One call, so that lines of two processes do not mix, and to know how much of a line fit on a full disk.
        let written = file.write(line)?;
        self.torn = 0 < written && written < line.len();
        if written < line.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl LineSink for AuditFile {
    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        let result = self.append(line);
        match &result {
            Err(error) if !self.failing => tracing::error!(%error, "audit lines are lost"),
            Ok(()) if self.failing => tracing::info!("audit lines are written again"),
            _ => {}
        }
        self.failing = result.is_err();
        result
    }
}

/// Opens the file, readable only by its owner because it names subjects.
fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Returns whether `path` still names `file`. After a rotation, it names another file or none.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => identity(open) == identity(named),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn lines_are_appended_and_a_renamed_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (path, rotated) = (folder.path().join("audit.jsonl"), folder.path().join("audit.jsonl.1"));
        let mut file = AuditFile::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        file.write_line(b"a\n").unwrap();
        fs::rename(&path, &rotated).unwrap();
        file.write_line(b"b\n").unwrap();
        file.write_line(b"c\n").unwrap();
        assert_eq!((read(&rotated).as_str(), read(&path).as_str()), ("a\n", "b\nc\n"));
        fs::remove_file(&path).unwrap();
        file.write_line(b"d\n").unwrap();
        assert_eq!(read(&path), "d\n");
        AuditFile::open(&path).unwrap().write_line(b"e\n").unwrap();
        assert_eq!(read(&path), "d\ne\n");
    }

    #[test]
    fn a_full_disk_is_an_error_until_there_is_space() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut file = AuditFile::open(&path).unwrap();
        assert!(file.write_line(b"a\n").is_err() && file.failing);
        fs::remove_file(&path).unwrap();
        file.write_line(b"b\n").unwrap();
        assert!(!file.failing);
        // A torn line is ended first.
        file.torn = true;
        file.write_line(b"c\n").unwrap();
        assert_eq!(read(&path), "b\n\nc\n");
    }

    #[test]
    fn a_missing_folder_is_an_error_at_the_start() {
        assert!(AuditFile::open(Path::new("/nonexistent/audit.jsonl")).is_err());
    }
}
