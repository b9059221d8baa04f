//! Which file a configuration was read from, and whether that is still what it was.

use std::path::{Path, PathBuf};

use crate::digest::sha256;

/// A configuration file as it was read.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
    sha256: [u8; 32],
}

impl ConfigFile {
    pub(super) fn of(path: &Path, text: &str) -> Self {
        Self { path: path.to_owned(), sha256: sha256(text) }
    }

    /// Where it is, as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file says byte for byte what was read; one that cannot be read does not. Blocks for it.
    pub fn is_unchanged(&self) -> bool {
        std::fs::read(&self.path).is_ok_and(|bytes| sha256(bytes) == self.sha256)
    }
}
