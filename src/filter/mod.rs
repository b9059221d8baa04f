//! A client's own SQL: parsed, checked against an allow-list, and printed from the parsed tree.
//!
//! | file | does |
//! |---|---|
//! | `syntax` | parses text to tokens and to sqlparser's tree, with limits on size, nesting and tokens |
//! | `admit` | converts sqlparser's tree to ours, and rejects everything that is not on the allow-list |
//! | `rows` | rejects expressions that can fail on some rows and not on others |
//! | `tree` | defines our tree, and prints it |
//! | `order_by` | parses and prints `order_by`, which allows columns only |
//! | `lint` | finds what Electric rejects or evaluates slowly in a rule's own `where` |
//! | `doubts` | finds what a rule's own `where` probably does not mean |
//!
//! The client's own text is never forwarded: each of several guards around it was broken (docs/electric.md,
//! "Composing a where"; tests/electric/112, 113, 124). The printed SQL contains only operators and keywords of the
//! allow-list, quoted columns, texts without a backslash, digits and `$n`.
//!
//! The rule's condition does not protect rows from the client's: Postgres evaluates both in any order. If a client's
//! condition could fail on some rows and not on others, the error would reveal rows that the rule hides. So such
//! conditions are rejected; `rows` lists them.
//!
//! `CASE WHEN rule THEN filter ELSE false END` would be a second line of defence, but Electric rejects it: its parser
//! (`eval/parser.ex` of sync-service 1.x) supports neither `CASE` nor `COALESCE`. It supports `(rule AND filter) IS
//! TRUE`, but some versions lose these parentheses on the way to Postgres (libpg_query issue 206). A subset has a
//! separate `where`, which Electric combines with the rule's. So there is no second line of defence.
//!
//! The types of columns are not known here. Electric checks them, and rejects constants of types without operators,
//! such as `json[]`. Two failures remain possible and cannot be detected here: `LIKE` fails on a column with a
//! nondeterministic collation, and an extension can replace an operator with one that fails (`intarray`). Such columns
//! must not be in a rule's `columns`.

mod admit;
pub mod doubts;
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

/// The most values that a client may give.
pub const MAX_PARAMS: usize = 64;

/// A client's `where`: one condition on the columns of a row, and the values it uses.
///
/// Texts give equal filters if they differ only in spaces, in the case of unquoted words, in redundant parentheses or
/// in the numbering of parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFilter {
    condition: Condition,
    /// In the order of first use. The tree refers to them by their index.
    params: Vec<String>,
}

impl ClientFilter {
    /// Parses `text` (at most 4 KiB) with the values of its `$1`, `$2`, … in `params` (at most 64). A value
    /// may be an array of any length: only the size of the request bounds it.
    /// `columns` lists the columns it may name, folded as Postgres does and without quotes; `None` allows all.
    ///
    /// # Errors
    /// A [`FilterError`] for the client, for everything that is not on the allow-list or exceeds a limit.
    pub fn parse(text: &str, params: &BTreeMap<u32, String>, columns: Option<&[String]>) -> Result<Self, FilterError> {
        check_params(params)?;
        let expr = syntax::condition(text)?;
        let mut admission = Admission::new(params, columns);
        let condition = admission.condition(&expr)?;
        Ok(Self { condition, params: admission.into_values() })
    }

    /// Returns the SQL and the values of its parameters, which are numbered from `offset + 1` in the order of first
    /// use. Values that the text does not use are left out.
    pub fn render(&self, offset: usize) -> (String, Vec<String>) {
        (self.condition.print(offset), self.params.clone())
    }

    /// Returns the SQL that selects the rule's rows that match this filter, and the values of its parameters, the
    /// rule's first.
    ///
    /// `rule` is trusted SQL with balanced brackets and without comments, which is checked for `where` templates;
    /// `None` if the rule serves every row.
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

/// Checks the number of values, and that none contains a NUL, at which Electric would truncate it
/// (docs/electric.md, "Composing a where").
fn check_params(params: &BTreeMap<u32, String>) -> Result<(), FilterError> {
    if params.len() > MAX_PARAMS {
        return Err(FilterError::new("must not have more than 64 params"));
    }
    if params.values().any(|value| value.contains('\0')) {
        return Err(FilterError::new("a value in params contains a NUL"));
    }
    Ok(())
}
