//! Reports every error of a configuration file at once, in the order of the file.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

/// One error or warning. Messages never contain a secret, nor a value that could be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as the caller named it.
    pub file: PathBuf,
    /// The line, counted from 1; `None` if the file cannot be read.
    pub line: Option<usize>,
    /// The key, as in `shape[2].where` (indices count from 0); empty if the file is not valid TOML.
    pub key: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl Error for ConfigError {}

/// Every error of one file, sorted by line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// The errors, sorted by line.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }

    pub(super) fn sorted(mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by_key(|error| error.line);
        Self(errors)
    }

    pub(super) fn unreadable(file: &Path, cause: &std::io::Error) -> Self {
        let message = format!("cannot be read: {cause}");
        Self(vec![ConfigError { file: file.to_owned(), line: None, key: String::new(), message }])
    }
}

/// Writes one line for each error.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl Error for ConfigErrors {}
