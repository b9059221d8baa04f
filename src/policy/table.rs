//! Table names, compared the way Postgres does.

use std::fmt;

/// A table's schema and name with quotes and letter case resolved.
///
/// `items`, `ITEMS`, `"items"` and `public.items` are one table (PROTOCOL 1, `table`); `"Items"` is another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableName {
    schema: String,
    name: String,
}

impl TableName {
    /// Reads `name` or `schema.name`, each part plain or in double quotes.
    ///
    /// # Errors
    /// Where a part is empty, longer than 63 bytes (Postgres cuts such a name, which could name another table), or
    /// holds a character that needs quotes it does not have.
    pub fn parse(text: &str) -> Result<Self, TableNameError> {
        let (first, rest) = Self::part(text)?;
        let Some(rest) = rest else {
            return Ok(Self { schema: "public".to_owned(), name: first });
        };
        match Self::part(rest)? {
            (name, None) => Ok(Self { schema: first, name }),
            (_, Some(_)) => Err(TableNameError),
        }
    }

    /// The first part, and what follows its dot.
    fn part(text: &str) -> Result<(String, Option<&str>), TableNameError> {
        let (name, rest) = match text.strip_prefix('"') {
            Some(quoted) => Self::quoted(quoted)?,
            None => {
                let end = text.find('.').unwrap_or(text.len());
                let (name, rest) = text.split_at(end);
                let plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                    && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$');
                if !plain {
                    return Err(TableNameError);
                }
                (name.to_ascii_lowercase(), rest)
            }
        };
        if name.is_empty() || name.len() > 63 || name.contains('\0') {
            return Err(TableNameError);
        }
        match rest.strip_prefix('.') {
            Some(next) => Ok((name, Some(next))),
            None if rest.is_empty() => Ok((name, None)),
            None => Err(TableNameError),
        }
    }

    fn quoted(text: &str) -> Result<(String, &str), TableNameError> {
        let mut name = String::new();
        let mut rest = text;
        loop {
            let end = rest.find('"').ok_or(TableNameError)?;
            name.push_str(&rest[..end]);
            rest = &rest[end + 1..];
            match rest.strip_prefix('"') {
                Some(next) => {
                    name.push('"');
                    rest = next;
                }
                None => return Ok((name, rest)),
            }
        }
    }
}

/// Not the name of a table.
#[derive(Debug, thiserror::Error)]
#[error("not a table name: write name or schema.name, with double quotes around a part that needs them")]
pub struct TableNameError;

/// A column as Electric's `columns` takes it: plain where that is safe, else in double quotes.
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
    fn one_table_in_all_its_spellings() {
        for spelling in ["ITEMS", "\"items\"", "public.items", "\"public\".\"items\"", "Public.Items"] {
            assert!(same("items", spelling), "{spelling}");
        }
        for other in ["\"Items\"", "auth.items", "item", "\"public.items\"", "\"it\"\"ems\""] {
            assert!(!same("items", other), "{other}");
        }
    }

    #[test]
    fn refuses_what_is_no_table_name() {
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
    fn quotes_a_column_where_it_must() {
        assert_eq!(ColumnName("created_at").to_string(), "created_at");
        assert_eq!(ColumnName("createdAt").to_string(), "\"createdAt\"");
        assert_eq!(ColumnName("a\"b,c").to_string(), "\"a\"\"b,c\"");
    }
}
