//! A rule as the configuration writes it, before it is compiled.

use std::collections::BTreeMap;

use crate::shape::Replica;

/// One `[[shape]]` of the file.
#[derive(Clone, Debug)]
pub struct RuleSource {
    /// The table, as Electric takes it: `tasks`, `auth.organizations`, `"Mixed"."Case"`.
    pub table: String,
    /// A path of its own; without one the rule serves `/v1/shape?table=…`.
    pub path: Option<String>,
    /// CEL over `claims`, `query` and `now`; absent: any valid token.
    pub allow: Option<String>,
    /// Which rows.
    pub predicate: PredicateSource,
    /// The columns sent and queryable; absent: all.
    pub columns: Option<Vec<String>>,
    /// Whether no token is needed.
    pub public: bool,
    /// What an update carries.
    pub replica: Replica,
    /// Whether a client may ask for subsets.
    pub subset: bool,
    /// Whether a client may narrow the rows by a `where` of its own.
    pub client_where: bool,
    /// Which Electric it reads from.
    pub upstream: UpstreamSource,
}

/// `upstream`: absent, it is `[upstream]`.
#[derive(Clone, Debug)]
pub enum UpstreamSource {
    /// Always this one.
    Named(String),
    /// By the token.
    ByClaim {
        /// CEL over `claims`, for a text.
        claim: String,
        /// From its value to a name.
        map: BTreeMap<String, String>,
    },
}

/// `where`: there is no default.
#[derive(Clone, Debug)]
pub enum PredicateSource {
    /// `where = "none"`: every row of the table.
    Unfiltered,
    /// SQL with `{{ CEL }}` in the places of values.
    Template(String),
}

/// What is wrong with one key of a rule.
#[derive(Debug)]
pub struct RuleError {
    /// The key of the `[[shape]]` table: `where`, `allow`, `columns`, `table`, `path` or `upstream`.
    pub key: &'static str,
    /// What is wrong and what to write instead; holds no secret (rules have none).
    pub message: String,
}
