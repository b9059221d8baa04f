//! A client's own SQL: read, cut to an allow-list, and printed anew.
//!
//! | file | does |
//! |---|---|
//! | `syntax` | text to tokens to sqlparser's tree, within bounds of size, nesting and alphabet |
//! | `admit` | sqlparser's tree to ours: what is not on the list is refused |
//! | `rows` | refuses what can fail on some rows and not on others |
//! | `tree` | our tree, and the only printer |
//! | `order_by` | `order_by`, columns alone |
//! | `lint` | what Electric refuses or evaluates slowly in a rule's own `where` |
//!
//! The client's own text is never forwarded: of several guards put around it, each was broken (docs/electric.md,
//! "Composing a where"; tests/electric/112, 113, 124). What is sent holds quoted columns, texts without a backslash,
//! digits and
//! `$n`.
//!
//! The rule's condition does not protect rows from the client's: Postgres evaluates both in any order. If a client's
//! condition could fail on some rows and not on others, the error would tell about rows that the rule hides. So such
//! conditions are refused; `rows` lists them.
//!
//! SQL has a second wall, `CASE WHEN rule THEN filter ELSE false END`, but Electric does not take it: its parser
//! (`eval/parser.ex` of sync-service 1.x) knows neither `CASE` nor `COALESCE`. It knows `(rule AND filter) IS TRUE`, but
//! some versions lose these parentheses on the way to Postgres (libpg_query issue 206). A subset is a `where` of its own,
//! which Electric joins to the rule's. So there is no second wall.
//!
//! The types of columns are not known here. Electric checks them, and refuses constants of types without operators, such
//! as `json[]`. Two faults remain possible, and neither can be seen from here: `LIKE` fails on a column with a
//! nondeterministic collation, and an extension can replace an operator by one that fails (`intarray`). Such columns must
//! not be in a rule's `columns`.

mod admit;
mod error;
pub mod lint;
mod order_by;
mod rows;
mod syntax;
#[cfg(test)]
pub(crate) mod tests;
mod tree;

use std::collections::BTreeMap;

pub use error::FilterError;
pub use order_by::OrderBy;

use admit::Admission;
use tree::Condition;

/// Values that a client may give; more are refused.
pub const MAX_PARAMS: usize = 64;

/// Bytes of one value.
pub const MAX_PARAM_BYTES: usize = 8 * 1024;

/// A client's `where`: one condition on the columns of one row, and the values it uses.
///
/// Two texts that differ in spaces, letter case of words, superfluous parentheses or the numbering of their parameters
/// give equal filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFilter {
    condition: Condition,
    /// In the order of first use; the tree names them by their place here.
    params: Vec<String>,
}

impl ClientFilter {
    /// Reads `text` (at most 4 KiB) with the values of its `$1`, `$2`, … in `params` (at most 64 of 8 KiB each).
    /// `columns` are those it may name, as Postgres has them, without quotes; `None` for all.
    ///
    /// # Errors
    /// A [`FilterError`], fit for the client, for whatever is not on the allow-list or out of bounds.
    pub fn parse(text: &str, params: &BTreeMap<u32, String>, columns: Option<&[String]>) -> Result<Self, FilterError> {
        check_params(params)?;
        let expr = syntax::condition(text)?;
        let mut admission = Admission::new(params, columns);
        let condition = admission.condition(&expr)?;
        Ok(Self { condition, params: admission.into_values() })
    }

    /// The SQL and the values of its parameters, which are numbered from `offset + 1` in the order of first use. A
    /// value that the text does not use is left out.
    pub fn render(&self, offset: usize) -> (String, Vec<String>) {
        (self.condition.print(offset), self.params.clone())
    }

    /// The SQL of a rule's rows that this filter keeps, and the values of its parameters, the rule's first.
    ///
    /// `rule` is SQL of ours whose brackets are balanced and which holds no comment, as `where` templates are checked
    /// to be; `None` where a rule serves every row.
    pub fn and_with(&self, rule: Option<&str>, mut rule_params: Vec<String>) -> (String, Vec<String>) {
        let (filter, params) = self.render(rule_params.len());
        rule_params.extend(params);
        let sql = match rule {
            Some(rule) => format!("({rule}) AND {filter}"),
            None => filter,
        };
        (sql, rule_params)
    }
}

/// A NUL would cut the value off at Electric (docs/electric.md, "Composing a where").
fn check_params(params: &BTreeMap<u32, String>) -> Result<(), FilterError> {
    if params.len() > MAX_PARAMS {
        return Err(FilterError::new("more than 64 params"));
    }
    if params.values().any(|value| value.len() > MAX_PARAM_BYTES) {
        return Err(FilterError::new("a value in params is longer than 8 KiB"));
    }
    if params.values().any(|value| value.contains('\0')) {
        return Err(FilterError::new("a value in params holds a NUL"));
    }
    Ok(())
}
