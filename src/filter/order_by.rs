//! A client's `order_by`: only columns and directions, no expressions (Electric once ran arbitrary SQL in it,
//! CVE-2026-40906).

use std::fmt::Write as _;

use sqlparser::ast::{Expr, OrderByExpr, OrderByOptions, OrderBySort};

use super::tree::QuotedName;
use super::{FilterError, admit, syntax};

/// The most terms of one `order_by`.
const MAX_TERMS: usize = 16;

/// A client's `order_by`, parsed and printed from the parsed terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderBy(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    column: String,
    descending: bool,
    nulls_first: Option<bool>,
}

impl OrderBy {
    /// Parses `text` (at most 4 KiB, 16 terms). `columns` lists the columns it may name, folded as Postgres does and
    /// without quotes; `None` allows all.
    ///
    /// # Errors
    /// A [`FilterError`] for the client, for everything but columns with `ASC` or `DESC` and `NULLS FIRST` or `NULLS
    /// LAST`.
    pub fn parse(text: &str, columns: Option<&[String]>) -> Result<Self, FilterError> {
        let terms = syntax::order_by(text)?;
        if terms.len() > MAX_TERMS {
            return Err(FilterError::new("must not have more than 16 terms"));
        }
        terms.iter().map(|term| Term::admit(term, columns)).collect::<Result<_, _>>().map(Self)
    }

    /// Returns the SQL, without the words ORDER BY.
    pub fn render(&self) -> String {
        let mut sql = String::new();
        for (index, Term { column, descending, nulls_first }) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            let direction = if *descending { "DESC" } else { "ASC" };
            let nulls = match nulls_first {
                None => "",
                Some(true) => " NULLS FIRST",
                Some(false) => " NULLS LAST",
            };
            // Writing to a `String` does not fail.
            let _ = write!(sql, "{comma}{} {direction}{nulls}", QuotedName(column));
        }
        sql
    }
}

impl Term {
    fn admit(term: &OrderByExpr, columns: Option<&[String]>) -> Result<Self, FilterError> {
        const COLUMNS_ONLY: FilterError =
            FilterError::new("must be columns with ASC or DESC and NULLS FIRST or NULLS LAST");
        let OrderByExpr { expr: Expr::Identifier(name), options, with_fill: None } = term else {
            return Err(COLUMNS_ONLY);
        };
        let OrderByOptions { sort, nulls_first } = options;
        let descending = match sort {
            None | Some(OrderBySort::Asc) => false,
            Some(OrderBySort::Desc) => true,
            Some(OrderBySort::Using(_)) => return Err(COLUMNS_ONLY),
        };
        Ok(Self { column: admit::column(name, columns)?, descending, nulls_first: *nulls_first })
    }
}
