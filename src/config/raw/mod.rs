//! The file as it is written: tables and values that know their line and gather every error.
//!
//! Nothing here knows a key by name. Reading goes on after an error: a method that records one answers `None` or the
//! default, and [`Document::finish`] lets nothing out of a file that had any.

mod section;
mod units;
mod value;

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeTable;

pub(super) use section::Section;
pub(super) use units::{Bounds, KIB, MIB};
pub(super) use value::Value;

use super::error::{ConfigError, ConfigErrors};

/// One file, and the errors and warnings found in it so far.
pub(super) struct Document<'a> {
    text: &'a str,
    file: &'a Path,
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<ConfigError>>,
}

impl<'a> Document<'a> {
    /// A file without errors so far.
    pub(super) const fn new(text: &'a str, file: &'a Path) -> Self {
        Self { text, file, errors: RefCell::new(Vec::new()), warnings: RefCell::new(Vec::new()) }
    }

    /// The root table; where the text is not TOML, an error for each line that is at fault.
    pub(super) fn table(&self) -> Option<DeTable<'a>> {
        let (table, faults) = DeTable::parse_recoverable(self.text);
        let mut last = None;
        for fault in &faults {
            let at = fault.span().map_or(0, |span| span.start);
            let line = self.line(at);
            if last.replace(line) != Some(line) {
                // The fault's `Display` would quote the line, and the line may hold a secret.
                self.error(at, "", format!("not TOML: {}", fault.message()));
            }
        }
        faults.is_empty().then(|| Spanned::into_inner(table))
    }

    /// What came of the file, if it had no error.
    pub(super) fn finish<T>(self, outcome: Option<T>) -> Result<T, ConfigErrors> {
        let errors = self.errors.into_inner();
        match outcome {
            Some(outcome) if errors.is_empty() => Ok(outcome),
            _ => Err(ConfigErrors::sorted(errors)),
        }
    }

    /// The warnings so far, sorted by line.
    pub(super) fn warnings(&self) -> Vec<ConfigError> {
        let mut warnings = self.warnings.borrow().clone();
        warnings.sort_by_key(|warning| warning.line);
        warnings
    }

    /// Records an error at a byte of the text.
    fn error(&self, at: usize, key: &str, message: impl Into<String>) {
        self.errors.borrow_mut().push(self.finding(at, key, message.into()));
    }

    /// Records at a byte of the text what does not keep the file from being used.
    fn warning(&self, at: usize, key: &str, message: impl Into<String>) {
        self.warnings.borrow_mut().push(self.finding(at, key, message.into()));
    }

    fn finding(&self, at: usize, key: &str, message: String) -> ConfigError {
        ConfigError { file: self.file.to_owned(), line: Some(self.line(at)), key: key.to_owned(), message }
    }

    /// The line, from 1, of a byte of the text.
    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().iter().take(at);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    /// A path of the file: one that is relative starts at the file's folder.
    fn path(&self, path: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }
}
