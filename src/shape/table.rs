//! Parses table names so that they compare as in Postgres.

use std::fmt;

use super::identifier;

/// A table's schema and name, with quotes and letter case resolved.
///
/// `items`, `ITEMS`, `"items"` and `public.items` are one table (docs/electric.md, "Parameters"); `"Items"` is another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableName {
    schema: String,
    name: String,
}

impl TableName {
    /// Parses `name` or `schema.name`, each part plain or in double quotes.
    ///
    /// # Errors
    /// A part is empty, contains NUL or an unquoted character that needs quotes, or is longer than 63 bytes. Postgres
    /// truncates longer names, so that they could mean another table.
    pub fn parse(text: &str) -> Result<Self, TableNameError> {
        let (first, rest) = Self::part(text)?;
        let Some(rest) = rest else {
            return Ok(Self { schema: DEFAULT_SCHEMA.to_owned(), name: first });
        };
        match Self::part(rest)? {
            (name, None) => Ok(Self { schema: first, name }),
            (_, Some(_)) => Err(TableNameError),
        }
    }

    /// Creates a table name from an exact schema (`public` if `None`) and an exact name.
    ///
    /// # Errors
    /// A part is empty, longer than 63 bytes, or contains NUL.
    pub fn exact(schema: Option<&str>, name: &str) -> Result<Self, TableNameError> {
        let schema = schema.unwrap_or(DEFAULT_SCHEMA);
        if [schema, name].into_iter().any(|part| part.is_empty() || part.len() > 63 || part.contains('\0')) {
            return Err(TableNameError);
        }
        Ok(Self { schema: schema.to_owned(), name: name.to_owned() })
    }

    /// The exact schema; `None` for `public`.
    pub fn schema(&self) -> Option<&str> {
        Some(self.schema.as_str()).filter(|schema| *schema != DEFAULT_SCHEMA)
    }

    /// The exact name, without the schema.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Splits off the first part; the second value is the text after the dot.
    fn part(text: &str) -> Result<(String, Option<&str>), TableNameError> {
        let (name, rest) = identifier::first(text, '.').ok_or(TableNameError)?;
        if name.is_empty() || name.len() > 63 || name.contains('\0') {
            return Err(TableNameError);
        }
        match rest.strip_prefix('.') {
            Some(next) => Ok((name, Some(next))),
            None if rest.is_empty() => Ok((name, None)),
            None => Err(TableNameError),
        }
    }
}

/// The schema of a table that is named without one.
const DEFAULT_SCHEMA: &str = "public";

/// Writes the name in the syntax of Electric's `table`. Parsing it gives the same table.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = self.schema() {
            write!(f, "{}.", ColumnName(schema))?;
        }
        ColumnName(&self.name).fmt(f)
    }
}

/// The text is not a table name.
#[derive(Debug, thiserror::Error)]
#[error("not a table name: write name or schema.name, with double quotes around a part that needs them")]
pub struct TableNameError;

/// Writes an identifier for Electric's `columns` and `table`: plain if that is safe, otherwise in double quotes.
pub(super) struct ColumnName<'a>(pub(super) &'a str);

impl fmt::Display for ColumnName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = self.0.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && self.0.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if plain { f.write_str(self.0) } else { write!(f, "\"{}\"", self.0.replace('"', "\"\"")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(a: &str, b: &str) -> bool {
        TableName::parse(a).unwrap() == TableName::parse(b).unwrap()
    }

    #[test]
    fn all_spellings_of_a_table_are_equal() {
        for spelling in ["ITEMS", "\"items\"", "public.items", "\"public\".\"items\"", "Public.Items"] {
            assert!(same("items", spelling), "{spelling}");
        }
        for other in ["\"Items\"", "auth.items", "item", "\"public.items\"", "\"it\"\"ems\""] {
            assert!(!same("items", other), "{other}");
        }
    }

    #[test]
    fn a_displayed_name_parses_to_the_same_table() {
        for (schema, name, shown) in [
            (None, "items", "items"),
            (Some("public"), "items", "items"),
            (Some("auth"), "users", "auth.users"),
            (None, "Items", "\"Items\""),
            (Some("a.b"), "c\"d", "\"a.b\".\"c\"\"d\""),
        ] {
            let table = TableName::exact(schema, name).unwrap();
            assert_eq!(table.to_string(), shown);
            assert_eq!(TableName::parse(shown).unwrap(), table);
        }
        assert!(TableName::exact(Some(""), "a").is_err() && TableName::exact(None, "a\0").is_err());
    }

    #[test]
    fn invalid_table_names_are_rejected() {
        let long = "x".repeat(64);
        let bad = [
            "", ".", "a.", ".a", "a.b.c", "a b", "a;", "\"a", "\"\"", "a\"b\"", "\"a\"b", "a\0", "\"a\0\"", "1a",
            "ïtems", "a-b", "a,b", "a(b)", " a", &long,
        ];
        for text in bad {
            assert!(TableName::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn column_names_are_quoted_if_needed() {
        assert_eq!(ColumnName("created_at").to_string(), "created_at");
        assert_eq!(ColumnName("createdAt").to_string(), "\"createdAt\"");
        assert_eq!(ColumnName("a\"b,c").to_string(), "\"a\"\"b,c\"");
    }
}
