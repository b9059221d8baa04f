//! Represents the file as written: tables and values that know their line and collect every error.
//!
//! Nothing here knows a key by name, except which of them may be quoted. Reading continues after an error: the method
//! that records it returns `None` or the default, and [`Document::finish`] returns an error if any was recorded.

mod hint;
mod quote;
mod section;
mod units;
mod value;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeTable;

pub(super) use quote::Quote;
pub(super) use section::Section;
pub(super) use units::{Bounds, KIB, MIB};
pub(super) use value::Value;

use super::error::{ConfigError, ConfigErrors, Severity};
use crate::policy::Problem;

/// One file, with the errors and warnings found in it so far.
pub(super) struct Document<'a> {
    text: &'a str,
    file: &'a Path,
    errors: RefCell<Vec<Found>>,
    warnings: RefCell<Vec<Found>>,
    /// The values that must not be quoted.
    hidden: RefCell<Vec<Range<usize>>>,
    /// The keys whose value was rejected before it was read.
    rejected: RefCell<Vec<String>>,
    /// Whether the text is not TOML.
    is_broken: Cell<bool>,
}

/// A place in the file: the bytes to mark, and the text whose parts a [`Problem`] can name.
#[derive(Clone)]
struct At<'a> {
    span: Range<usize>,
    text: Option<&'a str>,
}

impl At<'_> {
    const fn of(span: Range<usize>) -> Self {
        Self { span, text: None }
    }
}

/// An error or warning with the bytes that it is about.
#[derive(Clone, PartialEq, Eq)]
struct Found {
    span: Range<usize>,
    key: String,
    message: String,
    help: Option<String>,
}

/// Returns an error that was found after the file was read, placed at the value of its key. If the file does not have the
/// key, only the file is named.
pub(super) fn place(text: &str, file: &Path, error: ConfigError) -> ConfigError {
    let document = Document::new(text, file);
    let Some(span) = document.table().and_then(|table| span_of(&table, &error.key)) else {
        return ConfigError { file: file.to_owned(), ..error };
    };
    let ConfigError { severity, key, message, help, .. } = error;
    document.placed(Found { span, key, message, help }, severity)
}

/// Returns the bytes to mark for a key such as `server.tls.cert`: its value, or the name of a table.
fn span_of(table: &DeTable<'_>, key: &str) -> Option<Range<usize>> {
    let (name, rest) = key.split_once('.').map_or((key, None), |(name, rest)| (name, Some(rest)));
    let (name, value) = table.get_key_value(name)?;
    match (rest, value.get_ref().as_table()) {
        (Some(rest), inner) => span_of(inner?, rest),
        (None, Some(_)) => Some(name.span()),
        (None, None) => Some(value.span()),
    }
}

impl<'a> Document<'a> {
    /// Creates a document without errors.
    pub(super) fn new(text: &'a str, file: &'a Path) -> Self {
        let (errors, warnings, hidden, rejected) = Default::default();
        Self { text, file, errors, warnings, hidden, rejected, is_broken: Cell::new(false) }
    }

    /// Parses the root table. If the text is not valid TOML, records an error for each faulty line.
    pub(super) fn table(&self) -> Option<DeTable<'a>> {
        let (table, faults) = DeTable::parse_recoverable(self.text);
        let mut last = None;
        for fault in &faults {
            let span = fault.span().unwrap_or(0..0);
            let line = self.line(span.start);
            if last.replace(line) == Some(line) {
                continue;
            }
            // Not the fault's `Display`: it quotes the line, which may contain a secret.
            let message = format!("not TOML: {}", fault.message());
            let hint = hint::of(self.text, span.start);
            let ends = hint.as_ref().is_some_and(|hint| hint.of_whole_file);
            let help = hint.map(|hint| hint.text);
            let help = help.or_else(|| (fault.message() == "duplicate key").then(|| "write each key once".to_owned()));
            self.error(&At::of(span), "", Problem { message, help, part: None });
            if ends {
                break;
            }
        }
        self.is_broken.set(!faults.is_empty());
        *self.hidden.borrow_mut() = quote::hidden(table.get_ref());
        faults.is_empty().then(|| Spanned::into_inner(table))
    }

    /// Returns `outcome` if no error was recorded.
    pub(super) fn finish<T>(self, outcome: Option<T>) -> Result<T, ConfigErrors> {
        let errors = self.sorted(&self.errors.borrow(), Severity::Error);
        match outcome {
            Some(outcome) if errors.is_empty() => Ok(outcome),
            _ => Err(errors.into()),
        }
    }

    /// Returns the warnings so far, sorted by line.
    pub(super) fn warnings(&self) -> Vec<ConfigError> {
        self.sorted(&self.warnings.borrow(), Severity::Warning)
    }

    /// Records an error, unless the same error has been recorded before: a rule is compiled once for each of its tables.
    fn error(&self, at: &At<'_>, key: &str, problem: impl Into<Problem>) {
        self.record(&self.errors, at, key, problem.into());
    }

    /// Records an error about the value of a key before the tables are read. Reading it then causes no other error.
    pub(super) fn reject(&self, span: Range<usize>, key: &str, message: String) {
        self.error(&At::of(span), key, message);
        self.rejected.borrow_mut().push(key.to_owned());
    }

    /// Records a warning. Warnings do not prevent the file's use.
    fn warning(&self, at: &At<'_>, key: &str, problem: impl Into<Problem>) {
        self.record(&self.warnings, at, key, problem.into());
    }

    fn record(&self, list: &RefCell<Vec<Found>>, at: &At<'_>, key: &str, problem: Problem) {
        if self.rejected.borrow().iter().any(|rejected| rejected == key) {
            return;
        }
        let Problem { message, help, part } = problem;
        let span = self.narrowed(at, part);
        let found = Found { span, key: key.to_owned(), message, help };
        let mut list = list.borrow_mut();
        if !list.contains(&found) {
            list.push(found);
        }
    }

    /// Returns the bytes of a part of a value's text. A text with escapes is not found in the file as it reads; then the
    /// whole value is marked.
    fn narrowed(&self, at: &At<'_>, part: Option<Range<usize>>) -> Range<usize> {
        let part = at.text.zip(part).and_then(|(text, part)| {
            let start = at.span.start + self.text.get(at.span.clone())?.find(text)?;
            Some(start + part.start..start + part.end)
        });
        part.unwrap_or_else(|| at.span.clone())
    }

    /// Hides every value of an unknown key.
    fn hide(&self, value: &Spanned<toml::de::DeValue<'_>>) {
        quote::all_of(value, &mut self.hidden.borrow_mut());
    }

    fn sorted(&self, found: &[Found], severity: Severity) -> Vec<ConfigError> {
        let mut errors: Vec<_> = found.iter().cloned().map(|found| self.placed(found, severity)).collect();
        errors.sort_by_key(|error| error.line);
        errors
    }

    fn placed(&self, found: Found, severity: Severity) -> ConfigError {
        let Found { span, key, message, help } = found;
        let quote = match self.is_broken.get() {
            true => Some(quote::broken_line(self.text, &span)),
            // The file as a whole.
            false if span == (0..0) => None,
            false => Some(quote::line(self.text, &span, &self.hidden.borrow())),
        };
        let line = self.line(span.start);
        let columns = quote.as_ref().map(|_| self.columns(&span));
        ConfigError { severity, file: self.file.to_owned(), line: Some(line), columns, quote, key, message, help }
    }

    /// Returns the line, counted from 1, of a byte offset.
    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().iter().take(at);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    /// Returns the columns of the first line of a span, in characters counted from 1.
    fn columns(&self, span: &Range<usize>) -> Range<usize> {
        let start = self.text[..span.start].rfind('\n').map_or(0, |newline| newline + 1);
        let marked = &self.text[span.clone()];
        let first = 1 + self.text[start..span.start].chars().count();
        first..first + marked.lines().next().map_or(0, |line| line.chars().count())
    }

    /// Resolves a relative path against the folder of the file.
    fn path(&self, path: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }
}
