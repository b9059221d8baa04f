//! Reports every error of a configuration file at once, in the order of the file.

use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;

use super::raw::Quote;

/// Whether a file can be used in spite of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It cannot be used.
    Error,
    /// It can.
    Warning,
}

/// One error or warning. Neither the message nor the quoted line contains a secret, nor a value that could be one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigError {
    /// How bad it is.
    pub severity: Severity,
    /// The file, as the caller named it.
    pub file: PathBuf,
    /// The line, counted from 1; `None` if the file cannot be read.
    pub line: Option<usize>,
    /// The columns of that line that are wrong, in characters counted from 1; `None` if the line as a whole is meant.
    pub columns: Option<Range<usize>>,
    /// The line as it may be shown.
    #[serde(skip)]
    pub(super) quote: Option<Quote>,
    /// The key, as in `shape[2].where` (indices count from 0); empty if the file is not valid TOML.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead, if the message does not say it.
    pub help: Option<String>,
}

impl ConfigError {
    /// An error of a key that was found after the file was read.
    pub fn of_key(key: impl Into<String>, message: impl Into<String>) -> Self {
        let (file, columns, quote) = (PathBuf::new(), None, None);
        let (key, message) = (key.into(), message.into());
        Self { severity: Severity::Error, file, line: None, columns, quote, key, message, help: None }
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// Makes it a warning.
    #[must_use]
    pub fn as_warning(self) -> Self {
        Self { severity: Severity::Warning, ..self }
    }

    /// Whether it prevents the file's use.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Formats the error for people: message, file, the line with a mark, and help, each on lines of their own.
    pub fn report(&self) -> String {
        let title = if self.key.is_empty() { self.message.clone() } else { format!("{}: {}", self.key, self.message) };
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let path = self.file.display().to_string();
        let mut group = Group::with_title(level.primary_title(title));
        if let Some(quote) = &self.quote {
            let snippet = Snippet::source(quote.text.as_str()).line_start(self.line.unwrap_or(1)).path(&path);
            group = group.element(snippet.annotation(AnnotationKind::Primary.span(quote.part.clone())));
        } else {
            group = group.element(Origin::path(&path));
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        Renderer::plain().term_width(usize::MAX / 2).render(&[group])
    }
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
        write!(f, ": {}", self.message)?;
        self.help.iter().try_for_each(|help| write!(f, ": {help}"))
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

    /// Formats the errors for people, with an empty line between them.
    pub fn report(&self) -> String {
        let reports: Vec<_> = self.0.iter().map(ConfigError::report).collect();
        reports.join("\n\n")
    }

    /// An error about the file as a whole.
    pub(super) fn of_file(file: &Path, line: Option<usize>, message: String, help: Option<&str>) -> Self {
        Self(vec![ConfigError {
            line,
            help: help.map(str::to_owned),
            file: file.to_owned(),
            ..ConfigError::of_key("", message)
        }])
    }
}

impl From<Vec<ConfigError>> for ConfigErrors {
    fn from(errors: Vec<ConfigError>) -> Self {
        Self(errors)
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
