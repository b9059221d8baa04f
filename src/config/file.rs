//! Remembers which file a configuration was read from: to detect later changes, and to quote its lines.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::ConfigError;
use super::raw;

/// The path and text of a configuration file, as it was read.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
    text: Arc<str>,
}

impl ConfigFile {
    pub(super) fn of(path: &Path, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.into() }
    }

    /// The path, as the caller named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the error with the file and, if the file has its key, the line.
    pub fn place(&self, error: ConfigError) -> ConfigError {
        raw::place(&self.text, &self.path, error)
    }

    /// Returns whether the file still has the same bytes as when it was read; `false` if it cannot be read. Blocks on
    /// file I/O.
    pub fn is_unchanged(&self) -> bool {
        std::fs::read(&self.path).is_ok_and(|bytes| bytes == self.text.as_bytes())
    }
}
