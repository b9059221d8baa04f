//! The settings of a rule, before it is compiled.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::shape::Replica;

/// Settings of one `[[shape]]`.
#[derive(Clone, Debug)]
pub struct RuleSource {
    /// The name in logs and metrics; `None` derives one from the path or the table.
    pub name: Option<String>,
    /// The table in Electric's syntax: `tasks`, `auth.organizations`, `"Mixed"."Case"`.
    pub table: String,
    /// The path that the rule serves; `None` for `/v1/shape?table=…`.
    pub path: Option<String>,
    /// CEL over `claims`, `query` and `now` that must be true; `None` allows any valid token.
    pub allow: Option<String>,
    /// The `where`: which rows are sent.
    pub predicate: PredicateSource,
    /// The columns that are sent and that filters may name; `None` for all.
    pub columns: Option<Vec<String>>,
    /// Whether requests without a token are allowed.
    pub public: bool,
    /// Whether an update carries the whole row.
    pub replica: Replica,
    /// Whether a client may request subsets.
    pub subset: bool,
    /// Whether a client may narrow the rows with its own `where`.
    pub client_where: bool,
    /// The Electric upstream that the rule reads from.
    pub upstream: UpstreamSource,
    /// The client parameters that may reach `where` although `allow` does not restrict them.
    pub client_chosen: Vec<String>,
    /// The evaluation that must allow the request.
    pub evaluate: Option<QuestionSource>,
    /// The search whose ids `where` reads.
    pub search: Option<QuestionSource>,
}

/// A question to a decision service: the `evaluate` or `search` of a rule. In ids, properties and context, texts may have
/// `{{ CEL }}` placeholders.
#[derive(Clone, Debug)]
pub struct QuestionSource {
    /// The name of the service.
    pub by: String,
    /// Who wants to read.
    pub subject: EntitySource,
    /// The name of the action.
    pub action: String,
    /// What is to be read; without `id` in a search.
    pub resource: EntitySource,
    /// The members of `context`.
    pub context: Map<String, Value>,
}

/// The subject or the resource of a question.
#[derive(Clone, Debug)]
pub struct EntitySource {
    /// Its type.
    pub kind: String,
    /// Its id.
    pub id: Option<String>,
    /// The members of `properties`.
    pub properties: Map<String, Value>,
}

/// The `upstream` of a rule. Without the key it is `[upstream]`.
#[derive(Clone, Debug)]
pub enum UpstreamSource {
    /// Always the upstream with this name.
    Named(String),
    /// The upstream that a claim of the token picks.
    ByClaim {
        /// CEL over `claims` that returns a string.
        claim: String,
        /// Maps that string to the name of an upstream.
        map: BTreeMap<String, String>,
    },
}

/// The `where` of a rule. There is no default.
#[derive(Clone, Debug)]
pub enum PredicateSource {
    /// `where = "none"`: every row of the table.
    Unfiltered,
    /// SQL with `{{ CEL }}` placeholders for values.
    Template(String),
}
