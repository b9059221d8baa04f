//! Remembers which file a configuration was read from, to detect later changes.

use std::path::{Path, PathBuf};

use crate::digest::sha256;

/// The path and digest of a configuration file, as it was read.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
    sha256: [u8; 32],
}

impl ConfigFile {
    pub(super) fn of(path: &Path, text: &str) -> Self {
        Self { path: path.to_owned(), sha256: sha256(text) }
    }

    /// The path, as the caller named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the file still has the same bytes as when it was read; `false` if it cannot be read. Blocks on
    /// file I/O.
    pub fn is_unchanged(&self) -> bool {
        std::fs::read(&self.path).is_ok_and(|bytes| sha256(bytes) == self.sha256)
    }
}
