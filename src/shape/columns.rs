//! A list of columns. Order, quotes and the case of unquoted names do not matter when lists are compared.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::identifier;
use super::table::ColumnName;

/// One or more different columns. Lists in another order are equal, as for Electric (docs/electric.md, "Parameters").
#[derive(Clone, Debug)]
pub struct Columns {
    names: Arc<[String]>,
    text: Arc<str>,
}

/// Why names are not a valid list of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColumnsError {
    /// There is no name, or a name is empty or contains NUL.
    #[error("name at least one column, including the primary key")]
    NoName,
    /// A name is repeated.
    #[error("names a column twice")]
    Twice,
}

impl Columns {
    /// Makes a list of columns with exactly these names.
    ///
    /// # Errors
    /// There is no name, or a name is repeated, empty, or contains NUL.
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

    /// Parses identifiers, plain or in double quotes, separated by commas; `None` if the text is not such a list.
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

    /// Parses an optional list: `Some(None)` if it is absent, `None` if the text is not a list.
    pub(crate) fn parse_optional(text: Option<&str>) -> Option<Option<Self>> {
        text.map_or(Some(None), |text| Self::parse(text).map(Some))
    }

    /// Returns these columns in an order that does not depend on the client's; `None` if `all` lacks one of them.
    /// Without `all`, every column is allowed.
    pub(crate) fn within(&self, all: Option<&Self>) -> Option<Self> {
        let asked = self.sorted();
        let Some(all) = all else { return Self::exact(&asked.into_iter().map(str::to_owned).collect::<Vec<_>>()).ok() };
        let names: Vec<_> = all.names.iter().filter(|name| asked.contains(name.as_str())).cloned().collect();
        if names.len() == asked.len() { Self::exact(&names).ok() } else { None }
    }

    /// The names, in their original order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The list in the syntax of Electric's `columns`.
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
