//! Reads a table key by key and reports keys that were never asked for.

use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::{At, Bounds, Document, Value};
use crate::nearest::nearest;
use crate::policy::Problem;

/// A table. Dropping it records an error for every key that was not asked for, so ask for all keys before an early
/// return.
pub(in crate::config) struct Section<'a> {
    document: &'a Document<'a>,
    /// The path of the table, as in `issuer[0].jwks`; empty for the root.
    name: String,
    /// Its header or key.
    at: At<'a>,
    /// `None` if the table is not in the file: all its keys are then absent.
    table: Option<&'a DeTable<'a>>,
    asked: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// Returns the root table of the file.
    pub(in crate::config) fn root(document: &'a Document<'a>, table: &'a DeTable<'a>) -> Self {
        Self::new(document, String::new(), At::of(0..0), Some(table))
    }

    pub(super) const fn new(
        document: &'a Document<'a>,
        name: String,
        at: At<'a>,
        table: Option<&'a DeTable<'a>>,
    ) -> Self {
        Self { document, name, at, table, asked: Vec::new() }
    }

    /// Returns the value of a key.
    pub(in crate::config) fn value(&mut self, key: &'static str) -> Option<Value<'a>> {
        self.asked.push(key);
        let (_, value) = self.table?.get_key_value(key)?;
        Some(Value::new(self.document, self.path(key), self.place(key), value.get_ref()))
    }

    /// Returns the value of a required key; `remedy` says what to write if it is missing.
    pub(in crate::config) fn required(&mut self, key: &'static str, remedy: &str) -> Option<Value<'a>> {
        let value = self.value(key);
        if value.is_none() {
            self.error(key, format!("missing: {remedy}"));
        }
        value
    }

    /// Returns an optional table. If it is missing, all its keys are absent.
    pub(in crate::config) fn section(&mut self, key: &'static str) -> Self {
        let section = self.value(key).and_then(Value::section);
        section.unwrap_or_else(|| Self::new(self.document, self.path(key), self.at.clone(), None))
    }

    /// Returns the tables of `[[key]]`, in the order of the file.
    pub(in crate::config) fn sections(&mut self, key: &'static str) -> Vec<Self> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let DeValue::Array(_) = value.raw() else {
            value.error(format!("expected a list of tables: write [[{key}]], with two brackets"));
            return Vec::new();
        };
        value.elements().into_iter().filter_map(Value::section).collect()
    }

    /// Reads `true` or `false`.
    pub(in crate::config) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        self.value(key).and_then(|value| value.boolean()).unwrap_or(default)
    }

    /// Reads a whole number within `bounds`.
    pub(in crate::config) fn integer(&mut self, key: &'static str, default: usize, bounds: Bounds<usize>) -> usize {
        self.value(key).and_then(|value| value.integer(bounds)).unwrap_or(default)
    }

    /// Reads a duration within `bounds`.
    pub(in crate::config) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        bounds: Bounds<Duration>,
    ) -> Duration {
        self.value(key).and_then(|value| value.duration(bounds)).unwrap_or(default)
    }

    /// Reads a size in bytes within `bounds`.
    pub(in crate::config) fn size(&mut self, key: &'static str, default: usize, bounds: Bounds<usize>) -> usize {
        self.value(key).and_then(|value| value.size(bounds)).unwrap_or(default)
    }

    /// Reads one of a few words and returns its meaning.
    pub(in crate::config) fn choice<T: Copy>(&mut self, key: &'static str, default: T, words: &[(&str, T)]) -> T {
        self.value(key).and_then(|value| value.choice(words)).unwrap_or(default)
    }

    /// Returns the line of its header, counted from 1.
    pub(in crate::config) fn line(&self) -> usize {
        self.document.line(self.at.span.start)
    }

    /// Returns whether the key is in the file. This does not count as asking for it.
    pub(in crate::config) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Records an error at a key's line, or at the section's line if the key is absent.
    pub(in crate::config) fn error(&self, key: &str, problem: impl Into<Problem>) {
        self.document.error(&self.place(key), &self.path(key), problem);
    }

    /// Records a warning at a key's line, or at the section's line if the key is absent.
    pub(in crate::config) fn warning(&self, key: &str, problem: impl Into<Problem>) {
        self.document.warning(&self.place(key), &self.path(key), problem);
    }

    /// Records a warning about the whole section.
    pub(in crate::config) fn warning_here(&self, problem: impl Into<Problem>) {
        self.document.warning(&self.at, &self.name, problem);
    }

    /// Records an error about the whole section.
    pub(in crate::config) fn error_here(&self, problem: impl Into<Problem>) {
        self.document.error(&self.at, &self.name, problem);
    }

    /// Returns the place of a key's value; of the section if the key is absent. A table is marked at its name.
    fn place(&self, key: &str) -> At<'a> {
        let Some((name, value)) = self.table.and_then(|table| table.get_key_value(key)) else {
            return self.at.clone();
        };
        match value.get_ref() {
            DeValue::Table(_) => At::of(name.span()),
            DeValue::Array(list) if list.iter().any(|element| element.get_ref().is_table()) => At::of(name.span()),
            DeValue::String(text) => At { span: value.span(), text: Some(text) },
            _ => At::of(value.span()),
        }
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn unknown(&self, key: &str) -> String {
        match nearest(key, self.asked.iter().copied()) {
            Some(known) => format!("unknown key; did you mean `{known}`?"),
            None => format!("unknown key; known keys are {}", self.asked.join(", ")),
        }
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        for (name, value) in self.table.into_iter().flatten() {
            let key: &str = name.get_ref();
            if !self.asked.contains(&key) {
                self.document.hide(value);
                self.document.error(&At::of(name.span()), &self.path(key), self.unknown(key));
            }
        }
    }
}
