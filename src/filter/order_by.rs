//! A client's `order_by`: columns and directions, nothing to evaluate (CVE-2026-40906: Electric once ran what it got).

use std::fmt::Write as _;

use sqlparser::ast::{Expr, OrderByExpr, OrderByOptions, OrderBySort};

use super::tree::QuotedName;
use super::{FilterError, admit, syntax};

/// Terms of one `order_by`; more are refused.
const MAX_TERMS: usize = 16;

/// A client's `order_by`, read and printed anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderBy(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    column: String,
    descending: bool,
    nulls_first: Option<bool>,
}

impl OrderBy {
    /// Reads `text` (at most 4 KiB, 16 terms). `columns` are those it may name, as Postgres has them, without quotes;
    /// `None` for all.
    ///
    /// # Errors
    /// A [`FilterError`], fit for the client, for whatever is not a column with `ASC` or `DESC` and `NULLS FIRST` or
    /// `NULLS LAST`.
    pub fn parse(text: &str, columns: Option<&[String]>) -> Result<Self, FilterError> {
        let terms = syntax::order_by(text)?;
        if terms.len() > MAX_TERMS {
            return Err(FilterError::new("more than 16 terms in order_by"));
        }
        terms.iter().map(|term| Term::admit(term, columns)).collect::<Result<_, _>>().map(Self)
    }

    /// The SQL, without the words ORDER BY.
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
        const COLUMNS_ONLY: FilterError = FilterError::new("order_by takes columns, ASC or DESC, NULLS FIRST or LAST");
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
