//! The request to Electric: built from empty, in one canonical order.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::digest::sha256;
use crate::hex::hex;
use crate::policy::{Permit, RuleId};
use crate::secret::Secret;
use crate::shape::protocol::ProtocolParam;
use crate::shape::{Columns, ParameterError, Replica, SHAPE_PATH, ShapeRequest, UpstreamName};

#[cfg(test)]
pub(crate) mod tests;

/// A request to Electric, whole but for the secret.
///
/// Two clients ask the same Electric for the same bytes exactly when their [`UpstreamRequest::upstream`],
/// [`UpstreamRequest::query`] and [`UpstreamRequest::body`] are equal.
#[derive(Debug)]
pub struct UpstreamRequest {
    query: String,
    body: Option<String>,
    client_where: bool,
    /// Bytes of `query` that define the shape; the rest says which part of it is asked for.
    definition: usize,
    handle: Option<String>,
    rule: RuleId,
    upstream: UpstreamName,
    live: bool,
}

/// Why a permitted request is not sent.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// The client sent what its rule does not open, or a filter that is not allowed.
    #[error("a parameter is not allowed")]
    Invalid(Vec<ParameterError>),
    /// The request line would pass Electric's limit of 9,999 bytes (tests/electric/60).
    #[error("the rule's values make the request to Electric longer than 9,999 bytes")]
    TooLong,
}

/// Room on Electric's request line for the path, the method, the version and the secret.
const MAX_QUERY: usize = 9_500;

impl UpstreamRequest {
    /// Builds the request that `permit` allows, at the point of the log that `request` names, narrowed by the client's
    /// own filter and subset where the permit opens them.
    ///
    /// # Errors
    /// A [`RewriteError`] where the client sent more than the permit opens, or where the bound values do not fit on
    /// Electric's request line.
    pub fn build(permit: Permit, request: &ShapeRequest, source_id: Option<&str>) -> Result<Self, RewriteError> {
        permit.check_opened(request).map_err(RewriteError::Invalid)?;
        let queryable = permit.queryable_columns().map(Columns::names);
        let filter = request.client_filter(queryable).map_err(RewriteError::Invalid)?;
        let body = request.subset().map(|subset| subset.body(queryable)).transpose();
        let body = body.map_err(RewriteError::Invalid)?;
        let mut query = Query::default();
        query.push("table", permit.table());
        match &filter {
            None => query.push_predicate(permit.predicate(), permit.params()),
            Some(filter) => {
                let (sql, params) = filter.and_with(permit.predicate(), permit.params().to_vec());
                query.push_predicate(Some(&sql), &params);
            }
        }
        query.push_some("columns", permit.columns().map(Columns::text));
        // Without it a hidden column could be read through a filter (docs/security.md, F3). A rule without columns hides
        // none: what may be queried is what is sent.
        query.push_some("queryable_columns", permit.queryable_columns().map(Columns::text));
        if permit.replica() == Replica::Full {
            query.push("replica", "full");
        }
        let definition = query.0.len();
        for param in PASSED {
            query.push_some(param.as_str(), request.protocol(param).filter(|value| *value != "false"));
        }
        query.push_some("source_id", source_id);
        if query.0.len() > MAX_QUERY {
            return Err(RewriteError::TooLong);
        }
        let handle = request.protocol(ProtocolParam::Handle).map(str::to_owned);
        let (client_where, live) = (filter.is_some(), request.is_live());
        let (rule, upstream) = permit.into_rule();
        Ok(Self { query: query.0, body, client_where, definition, handle, rule, upstream, live })
    }

    /// The canonical query without the secret: what two clients must agree on to share an answer.
    pub fn query(&self) -> &str {
        &self.query
    }

    /// The JSON of a subset, which makes it a POST; `None` for a GET.
    pub fn body(&self) -> Option<&str> {
        self.body.as_deref()
    }

    /// Whether equal requests may share an answer. No two answers to a subset are equal (docs/electric.md, "Subsets").
    pub fn is_shared(&self) -> bool {
        self.body.is_none()
    }

    /// Whether a client's own filter is a part of its `where`.
    pub fn has_client_where(&self) -> bool {
        self.client_where
    }

    /// The part of the query that defines the shape, whoever asks for which part of its log.
    pub fn definition(&self) -> &str {
        &self.query[..self.definition]
    }

    /// The definition and where it is read: equal for one and the same shape, and for no two.
    pub fn shape(&self) -> Cow<'_, str> {
        self.at_upstream(Cow::Borrowed(self.definition()))
    }

    /// The Electric that is asked.
    pub fn upstream(&self) -> &UpstreamName {
        &self.upstream
    }

    /// The handle that is asked for.
    pub fn handle(&self) -> Option<&str> {
        self.handle.as_deref()
    }

    /// The SHA-256 of upstream, query and body in hex, for people: equal exactly where both are.
    pub fn key(&self) -> String {
        hex(&sha256(&*self.identity()))
    }

    /// Upstream, query and body in one text. An encoded query has no line end, so no two of them give the same.
    pub fn identity(&self) -> Cow<'_, str> {
        self.at_upstream(match &self.body {
            None => Cow::Borrowed(&self.query),
            Some(body) => Cow::Owned(format!("{}\n{body}", self.query)),
        })
    }

    /// With the upstream's name before it, where that is not the default. A name has no `=`, and a query always has one
    /// before its end.
    fn at_upstream<'a>(&self, text: Cow<'a, str>) -> Cow<'a, str> {
        match self.upstream.named() {
            None => text,
            Some(name) => Cow::Owned(format!("{name}\n{text}")),
        }
    }

    /// The place in the shape's log that is asked for, as the client wrote it.
    pub fn offset(&self) -> &str {
        let mut passed = self.query[self.definition..].split('&');
        passed.find_map(|pair| pair.strip_prefix("offset=")).unwrap_or_default()
    }

    /// Whether Electric may have to open a shape, or to query Postgres, before it can answer.
    pub fn is_initial(&self) -> bool {
        self.body.is_some() || self.handle.is_none() || matches!(self.offset(), "-1" | "now")
    }

    /// The rule that allowed it.
    pub fn rule(&self) -> &RuleId {
        &self.rule
    }

    /// Whether Electric may hold its answer back until something changes.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// The request target for the wire, the secret at its end: not for logs.
    pub fn target(&self, secret: Option<&Secret>) -> Secret {
        let mut query = Query(self.query.clone());
        query.push_some("secret", secret.map(Secret::expose));
        Secret::new(format!("{SHAPE_PATH}?{}", query.0))
    }

    /// The request target for people.
    pub fn redacted_target(&self, secret: Option<&Secret>) -> String {
        format!("{SHAPE_PATH}?{}{}", self.query, if secret.is_some() { "&secret=…" } else { "" })
    }
}

/// The protocol parameters that go upstream, in their order. `replica` is the rule's.
const PASSED: [ProtocolParam; 8] = [
    ProtocolParam::Log,
    ProtocolParam::Offset,
    ProtocolParam::Handle,
    ProtocolParam::Live,
    ProtocolParam::LiveSse,
    ProtocolParam::Cursor,
    ProtocolParam::ExpiredHandle,
    ProtocolParam::CacheBuster,
];

/// RFC 3986 section 2.3: everything but the unreserved characters is encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[derive(Default)]
struct Query(String);

impl Query {
    fn push(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.extend(utf8_percent_encode(name, ENCODED));
        self.0.push('=');
        self.0.extend(utf8_percent_encode(value, ENCODED));
    }

    fn push_predicate(&mut self, predicate: Option<&str>, params: &[String]) {
        self.push_some("where", predicate);
        for (index, value) in params.iter().enumerate() {
            self.push(&format!("params[{}]", index + 1), value);
        }
    }

    fn push_some(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.push(name, value);
        }
    }
}
