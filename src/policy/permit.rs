//! The proof that a request may read the rows of one shape.

use std::sync::Arc;
use std::time::Instant;

use super::rule::RuleId;
use crate::shape::protocol::ProtocolParam;
use crate::shape::{self, Columns, ParameterError, Replica, ShapeRequest, UpstreamName};

/// Permission to read the rows of one shape. On the request path only [`super::PolicySet`] creates it.
#[derive(Debug)]
pub struct Permit {
    pub(super) rule: RuleId,
    pub(super) table: Arc<str>,
    pub(super) predicate: Option<String>,
    pub(super) params: Vec<String>,
    pub(super) columns: Option<Columns>,
    pub(super) queryable_columns: Option<Columns>,
    pub(super) replica: Replica,
    pub(super) subset: bool,
    pub(super) client_where: bool,
    pub(super) client_values: bool,
    pub(super) upstream: UpstreamName,
    pub(super) fingerprint: Option<Arc<str>>,
    pub(super) until: Option<Instant>,
}

impl Permit {
    /// When decision services have to be asked again; `None` if none was asked.
    pub const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// The rule that allowed the request.
    pub fn rule(&self) -> &RuleId {
        &self.rule
    }

    /// Takes the rule that allowed the request and its upstream, and drops the rest.
    pub fn into_rule(self) -> (RuleId, UpstreamName) {
        (self.rule, self.upstream)
    }

    /// The Electric upstream that has the rows.
    pub fn upstream(&self) -> &UpstreamName {
        &self.upstream
    }

    /// The table, as the rule writes it.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The `where` text; `None` only for a rule with `where = "none"` or a shape claim without `where`.
    pub fn predicate(&self) -> Option<&str> {
        self.predicate.as_deref()
    }

    /// The values of `$1`, `$2`, …. None contains NUL, and those of a rule are never empty.
    pub fn params(&self) -> &[String] {
        &self.params
    }

    /// Whether the client chose some of these values.
    pub const fn has_client_values(&self) -> bool {
        self.client_values
    }

    /// The columns that are sent; `None` for all.
    pub const fn columns(&self) -> Option<&Columns> {
        self.columns.as_ref()
    }

    /// Whether a client may request subsets.
    pub fn subset(&self) -> bool {
        self.subset
    }

    /// The columns that a filter may name; `None` for all. For a rule's permit they are the columns that are sent.
    pub const fn queryable_columns(&self) -> Option<&Columns> {
        self.queryable_columns.as_ref()
    }

    /// Returns the permit without the client's options: no subsets and no filter of the client.
    #[must_use]
    pub fn closed(self) -> Self {
        Self { subset: false, client_where: false, ..self }
    }

    /// The hash of the rule's configuration; `None` if no rule gave the permit. A changed rule has another hash.
    pub fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
    }

    /// Returns the permit for what the client asks for: for fewer columns if it names some. Filters may name the same
    /// columns as before.
    ///
    /// # Errors
    /// The parameter that only the rule may set.
    pub fn narrowed(self, request: &ShapeRequest) -> Result<Self, Vec<ParameterError>> {
        let filter = request.filtered_by().filter(|_| !self.client_where);
        if let Some(name) = filter.or(request.subset().filter(|_| !self.subset).map(|_| "subset")) {
            return Err(vec![shape::problem(name, shape::RESERVED)]);
        }
        // A client may repeat the rule's `replica`, but not change it: it decides which columns an update shows.
        match (request.protocol(ProtocolParam::Replica), self.replica) {
            (None, _) | (Some("default"), Replica::Default) | (Some("full"), Replica::Full) => {}
            _ => return Err(vec![shape::problem("replica", "is set by the rule; leave it out")]),
        }
        let Some(asked) = request.protocol(ProtocolParam::Columns) else { return Ok(self) };
        let columns = Columns::parse(asked).and_then(|asked| asked.within(self.columns.as_ref()));
        let problem = || vec![shape::problem("columns", "names a column that the rule does not have")];
        Ok(Self { columns: Some(columns.ok_or_else(problem)?), ..self })
    }

    /// Whether an update carries the whole row.
    pub fn replica(&self) -> Replica {
        self.replica
    }
}
