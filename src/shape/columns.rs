//! A list of columns, compared without regard to order, quotes and the case of what is not quoted.

use std::collections::BTreeSet;
use std::fmt;

use super::identifier;
use super::table::ColumnName;

/// Columns, each once and at least one; equal in any order, as for Electric (docs/electric.md, "Parameters").
#[derive(Clone, Debug)]
pub struct Columns(Vec<String>);

impl Columns {
    /// The columns with exactly these names; `None` where there is none, or one twice, empty or with NUL.
    pub fn exact(names: Vec<String>) -> Option<Self> {
        let unique: BTreeSet<_> = names.iter().collect();
        let good = |name: &String| !name.is_empty() && !name.contains('\0');
        (!names.is_empty() && unique.len() == names.len() && names.iter().all(good)).then_some(Self(names))
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
                None if after.is_empty() => return Self::exact(names),
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
        &self.0
    }

    fn sorted(&self) -> BTreeSet<&str> {
        self.0.iter().map(String::as_str).collect()
    }
}

impl PartialEq for Columns {
    fn eq(&self, other: &Self) -> bool {
        self.sorted() == other.sorted()
    }
}

impl Eq for Columns {}

/// As Electric's `columns` takes them.
impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            ColumnName(name).fmt(f)?;
        }
        Ok(())
    }
}
