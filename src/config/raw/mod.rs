//! Represents the file as written: tables and values that know their line and collect every error.
//!
//! Nothing here knows a key by name. Reading continues after an error: the method that records it returns `None` or the
//! default, and [`Document::finish`] returns an error if any was recorded.

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

/// One file, with the errors and warnings found in it so far.
pub(super) struct Document<'a> {
    text: &'a str,
    file: &'a Path,
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<ConfigError>>,
}

impl<'a> Document<'a> {
    /// Creates a document without errors.
    pub(super) const fn new(text: &'a str, file: &'a Path) -> Self {
        Self { text, file, errors: RefCell::new(Vec::new()), warnings: RefCell::new(Vec::new()) }
    }

    /// Parses the root table. If the text is not valid TOML, records an error for each faulty line.
    pub(super) fn table(&self) -> Option<DeTable<'a>> {
        let (table, faults) = DeTable::parse_recoverable(self.text);
        let mut last = None;
        for fault in &faults {
            let at = fault.span().map_or(0, |span| span.start);
            let line = self.line(at);
            if last.replace(line) != Some(line) {
                // Not the fault's `Display`: it quotes the line, which may contain a secret.
                self.error(at, "", format!("not TOML: {}", fault.message()));
            }
        }
        faults.is_empty().then(|| Spanned::into_inner(table))
    }

    /// Returns `outcome` if no error was recorded.
    pub(super) fn finish<T>(self, outcome: Option<T>) -> Result<T, ConfigErrors> {
        let errors = self.errors.into_inner();
        match outcome {
            Some(outcome) if errors.is_empty() => Ok(outcome),
            _ => Err(ConfigErrors::sorted(errors)),
        }
    }

    /// Returns the warnings so far, sorted by line.
    pub(super) fn warnings(&self) -> Vec<ConfigError> {
        let mut warnings = self.warnings.borrow().clone();
        warnings.sort_by_key(|warning| warning.line);
        warnings
    }

    /// Records an error at a byte offset of the text, unless the same error has been recorded before: a rule is compiled
    /// once for each of its tables.
    fn error(&self, at: usize, key: &str, message: impl Into<String>) {
        let error = self.finding(at, key, message.into());
        let mut errors = self.errors.borrow_mut();
        if !errors.contains(&error) {
            errors.push(error);
        }
    }

    /// Records a warning at a byte offset of the text. Warnings do not prevent the file's use.
    fn warning(&self, at: usize, key: &str, message: impl Into<String>) {
        self.warnings.borrow_mut().push(self.finding(at, key, message.into()));
    }

    fn finding(&self, at: usize, key: &str, message: String) -> ConfigError {
        ConfigError { file: self.file.to_owned(), line: Some(self.line(at)), key: key.to_owned(), message }
    }

    /// Returns the line, counted from 1, of a byte offset.
    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().iter().take(at);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    /// Resolves a relative path against the folder of the file.
    fn path(&self, path: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }
}
