//! Reads one value of the file as text, number, duration, path and so on.

use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeString, DeValue};

use super::units::{parse_duration, parse_size, show_duration, show_size};
use super::{At, Bounds, Document, Section};
use crate::policy::Problem;

/// A value and its key. A method that returns `None` has recorded the error.
pub(in crate::config) struct Value<'a> {
    document: &'a Document<'a>,
    key: String,
    /// The value; of a table, its key.
    at: At<'a>,
    raw: &'a DeValue<'a>,
}

impl<'a> Value<'a> {
    pub(super) const fn new(document: &'a Document<'a>, key: String, at: At<'a>, raw: &'a DeValue<'a>) -> Self {
        Self { document, key, at, raw }
    }

    /// Returns the parsed TOML value.
    pub(in crate::config) const fn raw(&self) -> &'a DeValue<'a> {
        self.raw
    }

    /// Returns its line, counted from 1.
    pub(in crate::config) fn line(&self) -> usize {
        self.document.line(self.at.span.start)
    }

    /// Records an error about this value. The message must not show the value if the key may hold a secret.
    pub(in crate::config) fn error(&self, problem: impl Into<Problem>) {
        self.document.error(&self.at, &self.key, problem);
    }

    /// Records a warning about this value.
    pub(in crate::config) fn warning(&self, problem: impl Into<Problem>) {
        self.document.warning(&self.at, &self.key, problem);
    }

    /// Reads a string that is not blank.
    pub(in crate::config) fn text(&self) -> Option<&'a str> {
        self.text_or("write a value")
    }

    /// Reads a string that is not blank; `remedy` says what to write if it is.
    pub(in crate::config) fn text_or(&self, remedy: &str) -> Option<&'a str> {
        let DeValue::String(text) = self.raw else {
            return self.mistyped("a string");
        };
        if text.trim().is_empty() {
            self.error(format!("is empty: {remedy}"));
            return None;
        }
        Some(text)
    }

    /// Reads one string or a non-empty list of strings, each as a separate value.
    pub(in crate::config) fn list(&self) -> Option<Vec<Self>> {
        let values = match self.raw {
            DeValue::String(_) => vec![Self::new(self.document, self.key.clone(), self.at.clone(), self.raw)],
            DeValue::Array(_) => self.elements(),
            _ => return self.mistyped("a string or a list of strings"),
        };
        if values.is_empty() {
            self.error("is empty: name at least one");
            return None;
        }
        Some(values)
    }

    /// Reads one string or a non-empty list of strings, none of them blank.
    pub(in crate::config) fn texts(&self) -> Option<Vec<String>> {
        let texts: Vec<_> = self.list()?.iter().map(|value| value.text().map(str::to_owned)).collect();
        texts.into_iter().collect()
    }

    /// Returns the elements of a list; empty if the value is not a list.
    pub(super) fn elements(&self) -> Vec<Self> {
        let elements = self.raw.as_array().into_iter().flatten().enumerate();
        let value = |(index, element): (usize, &'a Spanned<DeValue<'a>>)| {
            let text = element.get_ref().as_str();
            let at = At { span: element.span(), text };
            Self::new(self.document, format!("{}[{index}]", self.key), at, element.get_ref())
        };
        elements.map(value).collect()
    }

    /// Reads a table whose keys are chosen by the user; each value is located at its key.
    pub(in crate::config) fn entries(&self) -> Option<Vec<(&'a str, Self)>> {
        let DeValue::Table(table) = self.raw else {
            return self.mistyped("a table");
        };
        let entry = |(name, value): (&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>)| {
            let key = format!("{}.{}", self.key, name.get_ref());
            (name.get_ref().as_ref(), Self::new(self.document, key, At::of(name.span()), value.get_ref()))
        };
        Some(table.iter().map(entry).collect())
    }

    /// Reads a table.
    pub(in crate::config) fn section(self) -> Option<Section<'a>> {
        let DeValue::Table(table) = self.raw else {
            return self.mistyped("a table");
        };
        Some(Section::new(self.document, self.key, self.at, Some(table)))
    }

    /// Reads `true` or `false`.
    pub(in crate::config) fn boolean(&self) -> Option<bool> {
        let DeValue::Boolean(value) = self.raw else {
            return self.mistyped("true or false");
        };
        Some(*value)
    }

    /// Reads a path. A relative path is resolved against the folder of the configuration file.
    pub(in crate::config) fn path(&self) -> Option<PathBuf> {
        Some(self.document.path(self.text()?))
    }

    /// Resolves a path in this value against the folder of the configuration file.
    pub(in crate::config) fn resolve(&self, path: &str) -> PathBuf {
        self.document.path(path)
    }

    /// Reads a whole number within `bounds`.
    pub(in crate::config) fn integer(&self, bounds: Bounds<usize>) -> Option<usize> {
        let DeValue::Integer(integer) = self.raw else {
            return self.mistyped("a whole number");
        };
        // A number that does not fit in `usize`, or is negative, is outside any bounds.
        let number = usize::from_str_radix(integer.as_str(), integer.radix()).ok();
        self.within(number, bounds, |number| number.to_string())
    }

    /// Reads a duration within `bounds`.
    pub(in crate::config) fn duration(&self, bounds: Bounds<Duration>) -> Option<Duration> {
        let DeValue::String(text) = self.raw else {
            return self.mistyped(r#"a duration with its unit, as in "25s""#);
        };
        let Some(duration) = parse_duration(text) else {
            self.error(r#"not a duration: write a number and its unit, as in "500ms", "25s", "1m30s" or "2h""#);
            return None;
        };
        self.within(Some(duration), bounds, show_duration)
    }

    /// Reads a size in bytes within `bounds`.
    pub(in crate::config) fn size(&self, bounds: Bounds<usize>) -> Option<usize> {
        let DeValue::String(text) = self.raw else {
            return self.mistyped(r#"a size with its unit, as in "8KiB""#);
        };
        let Some(size) = parse_size(text) else {
            self.error(r#"not a size: write a whole number and its unit, as in "512B", "8KiB", "1MB" or "256MiB""#);
            return None;
        };
        self.within(Some(size), bounds, show_size)
    }

    /// Reads one of a few words and returns its meaning.
    pub(in crate::config) fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let meaning = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        if meaning.is_none() {
            let known: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.error(format!("unknown value {text:?}: write {}", known.join(" or ")));
        }
        meaning
    }

    fn within<T: Copy + PartialOrd>(&self, value: Option<T>, bounds: Bounds<T>, show: fn(T) -> String) -> Option<T> {
        let inside = value.filter(|value| (bounds.least..=bounds.most).contains(value));
        if inside.is_none() {
            let (least, most) = (show(bounds.least), show(bounds.most));
            self.error(format!("out of bounds: write {least} to {most}{}", bounds.reason));
        }
        inside
    }

    fn mistyped<T>(&self, expected: &str) -> Option<T> {
        self.error(format!("expected {expected}, found {}", described(self.raw)));
        None
    }
}

const fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
