//! Builds the request to Electric. It starts empty, and its parameters have one canonical order.

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

/// A request to Electric, complete except for the secret.
///
/// Two requests are the same for Electric exactly if their [`UpstreamRequest::upstream`], [`UpstreamRequest::query`]
/// and [`UpstreamRequest::body`] are equal. What changes nothing in Electric's response is not sent, so that requests
/// of different clients are equal (docs/electric.md, "Identity of a response").
#[derive(Clone, Debug)]
pub struct UpstreamRequest {
    query: String,
    body: Option<String>,
    client_columns: bool,
    client_where: bool,
    client_values: bool,
    /// How many bytes of `query` define the shape. The rest says which part of its log is requested.
    definition: usize,
    handle: Option<String>,
    expired_handle: Option<Box<str>>,
    cursor: Option<u64>,
    rule: RuleId,
    upstream: UpstreamName,
    live: bool,
}

/// Why a permitted request is not sent.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// The client sent a parameter that its rule does not let it set, or a filter that is not allowed.
    #[error("a parameter is not allowed")]
    Invalid(Vec<ParameterError>),
    /// The request line would exceed Electric's limit of 9,999 bytes (tests/electric/60).
    #[error("the rule's values make the request to Electric longer than 9,999 bytes")]
    TooLong,
}

/// The most bytes of a query. The rest of Electric's 9,999 bytes is for method, path, secret and version.
const MAX_QUERY: usize = 9_500;

/// More bytes than most queries have.
const USUAL: usize = 512;

impl UpstreamRequest {
    /// Builds the request that `permit` allows, with the offset and other protocol parameters of `request`. It includes
    /// the client's own filter and subset if the permit allows them.
    ///
    /// # Errors
    /// The client sent a parameter that the permit does not allow, or the query does not fit Electric's request line.
    pub fn build(permit: Permit, request: &ShapeRequest, source_id: Option<&str>) -> Result<Self, RewriteError> {
        // Compared only if the client names columns, since that sorts them.
        let of_rule = request.protocol(ProtocolParam::Columns).map(|_| permit.columns().cloned());
        let permit = permit.narrowed(request).map_err(RewriteError::Invalid)?;
        let client_columns = of_rule.is_some_and(|of_rule| permit.columns() != of_rule.as_ref());
        let queryable = permit.queryable_columns().map(Columns::names);
        let filter = request.client_filter(queryable).map_err(RewriteError::Invalid)?;
        let body = request.subset().map(|subset| subset.body(queryable)).transpose();
        let body = body.map_err(RewriteError::Invalid)?;
        let mut query = Query(String::with_capacity(USUAL));
        query.push("table", permit.table());
        match &filter {
            None => query.push_predicate(permit.predicate(), permit.params()),
            Some(filter) => {
                let (sql, params) = filter.and_with(permit.predicate(), permit.params().to_vec());
                query.push_predicate(Some(&sql), &params);
            }
        }
        query.push_some("columns", permit.columns().map(Columns::text));
        // Without it a filter could reveal a hidden column (docs/security.md, F3). A rule without columns hides none.
        query.push_some("queryable_columns", permit.queryable_columns().map(Columns::text));
        if permit.replica() == Replica::Full {
            query.push("replica", "full");
        }
        let definition = query.0.len();
        let handle = request.protocol(ProtocolParam::Handle);
        for param in PASSED {
            query.push_some(param.as_str(), request.protocol(param).filter(|value| matters(param, value, request)));
        }
        query.push_some("source_id", source_id);
        if query.0.len() > MAX_QUERY {
            return Err(RewriteError::TooLong);
        }
        let expired_handle = request.protocol(ProtocolParam::ExpiredHandle).map(Into::into);
        let cursor = request.protocol(ProtocolParam::Cursor).and_then(|cursor| cursor.parse().ok());
        let (client_where, client_values) = (filter.is_some(), permit.has_client_values());
        let (live, handle) = (request.is_live(), handle.map(str::to_owned));
        let (rule, upstream) = permit.into_rule();
        let query = query.0;
        Ok(Self {
            query,
            body,
            client_columns,
            client_where,
            client_values,
            definition,
            handle,
            expired_handle,
            cursor,
            rule,
            upstream,
            live,
        })
    }

    /// The canonical query without the secret. Two clients share a response only if it is equal.
    pub fn query(&self) -> &str {
        &self.query
    }

    /// The JSON body of a subset, which is sent as a POST; `None` for a GET.
    pub fn body(&self) -> Option<&str> {
        self.body.as_deref()
    }

    /// Whether equal requests may share a response. Subsets do not: no two of their responses are equal
    /// (docs/electric.md, "Subsets").
    pub fn is_shared(&self) -> bool {
        self.body.is_none()
    }

    /// Whether the client asks for fewer columns than the rule has.
    pub fn has_client_columns(&self) -> bool {
        self.client_columns
    }

    /// Whether the `where` includes a client's own filter.
    pub fn has_client_where(&self) -> bool {
        self.client_where
    }

    /// Whether the client chose a value in the rule's `where`.
    pub fn has_client_values(&self) -> bool {
        self.client_values
    }

    /// The part of the query that defines the shape, without the parameters that select a part of its log.
    pub fn definition(&self) -> &str {
        &self.query[..self.definition]
    }

    /// The definition together with the upstream. It is equal exactly for requests to the same shape.
    pub fn shape(&self) -> Cow<'_, str> {
        self.at_upstream(Cow::Borrowed(self.definition()))
    }

    /// The SHA-256 of [`Self::shape`], which identifies the shape in the audit log.
    pub fn shape_digest(&self) -> [u8; 32] {
        sha256(&*self.shape())
    }

    /// The Electric upstream that the request goes to.
    pub fn upstream(&self) -> &UpstreamName {
        &self.upstream
    }

    /// The requested handle. With the offsets `-1` and `now` it is not sent, since Electric ignores it there.
    pub fn handle(&self) -> Option<&str> {
        self.handle.as_deref()
    }

    /// The handle that a 409 has invalidated for this client, which must not get a response with it.
    pub fn expired_handle(&self) -> Option<&str> {
        self.expired_handle.as_deref()
    }

    /// The last `electric-cursor` that the client got.
    pub fn cursor(&self) -> Option<u64> {
        self.cursor
    }

    /// The SHA-256 of upstream, query and body, in hex. Equal for equal requests; for display.
    pub fn key(&self) -> String {
        hex(&sha256(&*self.identity()))
    }

    /// Upstream, query and body in one string, separated by newlines. It is unique, because an encoded query contains
    /// no newline.
    pub fn identity(&self) -> Cow<'_, str> {
        self.at_upstream(match &self.body {
            None => Cow::Borrowed(&self.query),
            Some(body) => Cow::Owned(format!("{}\n{body}", self.query)),
        })
    }

    /// Prefixes a string with the upstream's name and a newline, unless it is the default upstream. The result is
    /// unique: a name contains no `=`, but a query always does.
    fn at_upstream<'a>(&self, text: Cow<'a, str>) -> Cow<'a, str> {
        match self.upstream.named() {
            None => text,
            Some(name) => Cow::Owned(format!("{name}\n{text}")),
        }
    }

    /// Whether the request starts without a position in the shape's log.
    pub fn is_start(&self) -> bool {
        is_start(self.offset())
    }

    /// The requested position in the shape's log, as the client wrote it.
    pub fn offset(&self) -> &str {
        let mut passed = self.query[self.definition..].split('&');
        passed.find_map(|pair| pair.strip_prefix("offset=")).unwrap_or_default()
    }

    /// Returns the same request for another position in the shape's log.
    #[must_use]
    pub fn starting_at(&self, offset: &str) -> Self {
        let (definition, passed) = self.query.split_at(self.definition);
        let parts = passed.split('&').map(|pair| {
            if pair.starts_with("offset=") { Cow::Owned(format!("offset={offset}")) } else { Cow::Borrowed(pair) }
        });
        let query = definition.to_owned() + &parts.collect::<Vec<_>>().join("&");
        Self { query, ..self.clone() }
    }

    /// Whether Electric may have to create a shape or query Postgres before it can respond.
    pub fn is_initial(&self) -> bool {
        self.body.is_some() || self.handle.is_none() || self.is_start()
    }

    /// The rule that allowed the request.
    pub fn rule(&self) -> &RuleId {
        &self.rule
    }

    /// Whether Electric may delay its response until something changes.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Whether the response is a stream of events.
    pub fn is_stream(&self) -> bool {
        self.query[self.definition..].contains("&live_sse=")
    }

    /// The request target to send, with the secret at its end. Never log it.
    pub fn target(&self, secret: Option<&Secret>) -> Secret {
        let mut target = Query(format!("{SHAPE_PATH}?{}", self.query));
        target.push_some("secret", secret.map(Secret::expose));
        Secret::new(target.0)
    }

    /// The request target for display, without the secret.
    pub fn redacted_target(&self, secret: Option<&Secret>) -> String {
        format!("{SHAPE_PATH}?{}{}", self.query, if secret.is_some() { "&secret=…" } else { "" })
    }
}

/// The protocol parameters that are forwarded, in their order. `replica` is not one of them: the rule sets it.
const PASSED: [ProtocolParam; 5] =
    [ProtocolParam::Log, ProtocolParam::Offset, ProtocolParam::Handle, ProtocolParam::Live, ProtocolParam::LiveSse];

/// Whether Electric's response depends on the value: it does not on a default, nor on a handle at the start.
fn matters(param: ProtocolParam, value: &str, request: &ShapeRequest) -> bool {
    match param {
        ProtocolParam::Log => value != "full",
        ProtocolParam::Handle => !request.protocol(ProtocolParam::Offset).is_some_and(is_start),
        _ => value != "false",
    }
}

fn is_start(offset: &str) -> bool {
    matches!(offset, "-1" | "now")
}

/// The characters to encode: all except the unreserved ones of RFC 3986 section 2.3.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

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
