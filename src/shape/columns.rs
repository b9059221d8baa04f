//! A list of columns, compared without regard to order, quotes and the case of what is not quoted.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::identifier;
use super::table::ColumnName;

/// Columns, each once and at least one; equal in any order, as for Electric (docs/electric.md, "Parameters").
#[derive(Clone, Debug)]
pub struct Columns {
    names: Arc<[String]>,
    text: Arc<str>,
}

/// Why names are not a list of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColumnsError {
    /// There is none, or one is empty or has NUL.
    #[error("name at least one column, the primary key among them")]
    NoName,
    /// One is there twice.
    #[error("names a column twice")]
    Twice,
}

impl Columns {
    /// Makes a list of columns with exactly these names.
    ///
    /// # Errors
    /// There is no name, or one twice, empty or with NUL.
    pub fn exact(names: &[String]) -> Result<Self, ColumnsError> {
        let unique: BTreeSet<_> = names.iter().collect();
        if names.is_empty() || names.iter().any(|name| name.is_empty() || name.contains('\0')) {
            return Err(ColumnsError::NoName);
        }
        if unique.len() < names.len() {
            return Err(ColumnsError::Twice);
        }
        let quoted: Vec<_> = names.iter().map(|name| ColumnName(name).to_string()).collect();
        Ok(Self { names: names.into(), text: quoted.join(",").into() })
    }

    /// The columns of a comma list of identifiers, plain or in double quotes; `None` where it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut names = Vec::new();
        let mut rest = text;
        loop {
            let (name, after) = identifier::first(rest, ',')?;
            names.push(name);
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None if after.is_empty() => return Self::exact(&names).ok(),
                None => return None,
            }
        }
    }

    /// Parses a list that may be absent: `Some(None)` if it is, `None` if the text is no list.
    pub(crate) fn parse_optional(text: Option<&str>) -> Option<Option<Self>> {
        text.map_or(Some(None), |text| Self::parse(text).map(Some))
    }

    /// The names, in the order they were given.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// As Electric's `columns` takes them.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn sorted(&self) -> BTreeSet<&str> {
        self.names.iter().map(String::as_str).collect()
    }
}

impl PartialEq for Columns {
    fn eq(&self, other: &Self) -> bool {
        self.sorted() == other.sorted()
    }
}

impl Eq for Columns {}
