//! The order of decisions: what a request must pass, in one function.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, ORIGIN, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Version};
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use tokio::time::timeout;

use super::Gateway;
use crate::auth::{BearerError, BearerToken, Principal, TokenError, TokenVerifier};
use crate::clock::UnixTime;
use crate::fault::Fault;
use crate::gatekeeper::{Endpoint, Gatekeeper};
use crate::limits::LimitSettings;
use crate::limits::{Address, Client, Connection, Place, Position};
use crate::policy::{Denial, Permit, PolicySet, Refusal, UnknownPath};
use crate::rejection::Rejection;
use crate::rewrite::{RewriteError, UpstreamRequest};
use crate::shape::Log;
use crate::shape::protocol::ProtocolParam;
use crate::shape::{MAX_BODY_BYTES, ShapeRequest, SubsetQuery};
use crate::telemetry::{Record, TokenCheck};

/// What becomes of a request that is not rejected.
#[derive(Debug)]
pub(super) enum Decision {
    /// It is answered from a flight.
    Admit(Admission),
    /// It is answered with what is ours to say.
    Answer(Document),
    /// It asks what may be asked; the methods of what it asks about.
    Preflight(&'static str),
}

/// An answer of our own that is no rejection: JSON.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) body: String,
    pub(super) cache_control: &'static str,
    /// Its name in metrics and logs.
    pub(super) outcome: &'static str,
}

/// The proof that a request may have an answer, and which.
#[derive(Debug)]
pub(super) struct Admission {
    pub(super) upstream: UpstreamRequest,
    pub(super) bearer: Bearer,
    /// Where a loop would stay; `None` where none is looked for.
    pub(super) position: Option<Position>,
}

/// Who waits for an answer.
#[derive(Debug)]
pub(super) struct Bearer {
    principal: Option<Arc<Principal>>,
    /// Where it asks from, where addresses say who asks.
    address: Option<Address>,
    /// What it sent in its body.
    posted: Option<Box<SubsetQuery>>,
    /// Held for as long as the request is.
    _place: Place,
}

/// Decides, top to bottom; the first check that fails answers.
pub(super) async fn admit(
    gate: &Gateway,
    connection: &Connection,
    session: &mut ServerSession,
    record: &mut Record,
) -> Result<Decision, Rejection> {
    let bodiless = session.is_body_empty();
    let request = session.req_header();
    check_headers(request, &gate.limits)?;
    let policy = &gate.policy;
    // Whatever its target: a browser shows no answer whose preflight was refused.
    if request.method == Method::OPTIONS {
        return Ok(Decision::Preflight(preflight_methods(gate, policy, request)));
    }
    let address = gate.limiter.address(connection.peer(), &request.headers);
    gate.limiter.ask(address, record.started).map_err(|limited| gate.metrics.limited(limited))?;
    let (path, query) = split_target(request, &gate.limits)?;
    if let Some(attended) = gatekeeper(gate, path) {
        let asked = Asked { request, query, bodiless, address };
        return attend(gate, policy, attended, asked, record).await.map(Decision::Answer);
    }
    let own_path = policy.endpoint(path).map_err(|UnknownPath| Rejection::NotFound)?;
    let posted = request.method == Method::POST;
    match request.method {
        Method::GET => check_body(request, bodiless)?,
        Method::POST if policy.takes_subsets(own_path) => check_posted(request)?,
        _ => return Err(Rejection::MethodNotAllowed(methods(policy, own_path))),
    }
    let principal = authenticate(gate, request, address, policy.has_public(), record).await?;
    check_rate(gate, principal.as_deref(), record)?;
    let (shape, permit) = authorize(gate, policy, principal.as_deref(), own_path, query, record)?;
    gate.metrics.parameters_dropped(shape.dropped());
    let enter = || enter(gate, principal.as_deref(), address);
    let (upstream, posted, place) = if posted {
        if !permit.subset() {
            return Err(Rejection::MethodNotAllowed(METHODS));
        }
        // Not a byte of a body is read for a bearer who may not send it, or for whom there is no place.
        let place = enter()?;
        let subset = read_subset(session).await?;
        (rewrite(gate, shape, permit, Some(&subset))?, Some(Box::new(subset)), place)
    } else {
        (rewrite(gate, shape, permit, None)?, None, enter()?)
    };
    let bearer = Bearer { principal, address, posted, _place: place };
    let position = connection.position(bearer.client().as_ref(), address, &upstream);
    if let Some(position) = position {
        connection.check_repeat(position, record.started).map_err(|limited| gate.metrics.limited(limited))?;
    }
    Ok(Decision::Admit(Admission { upstream, bearer, position }))
}

/// Asks the gateway of now about a request that another one has admitted.
pub(super) async fn readmit(
    gate: &Gateway,
    request: &RequestHeader,
    bearer: &mut Bearer,
    record: &mut Record,
) -> Result<UpstreamRequest, Rejection> {
    // The size of what came in is not asked again.
    bearer.reverify(gate, request, record).await?;
    let policy = &gate.policy;
    let (path, query) = split_target(request, &gate.limits)?;
    let own_path = policy.endpoint(path).map_err(|UnknownPath| Rejection::NotFound)?;
    let (shape, permit) = authorize(gate, policy, bearer.principal.as_deref(), own_path, query, record)?;
    rewrite(gate, shape, permit, bearer.posted.as_deref())
}

fn authorize(
    gate: &Gateway,
    policy: &PolicySet,
    principal: Option<&Principal>,
    own_path: Option<&str>,
    query: &str,
    record: &mut Record,
) -> Result<(ShapeRequest, Permit), Rejection> {
    let judged = policy.judge(principal, own_path, query, gate.clock.now());
    let (shape, permit) = judged.map_err(|refusal| match refusal {
        Refusal::Denied(denial) => denied(denial, record),
        Refusal::Invalid(errors) => Rejection::InvalidRequest(errors),
    })?;
    record.rule = Some(permit.rule().clone());
    record.upstream = Some(permit.upstream().clone());
    Ok((shape, permit))
}

/// The request to Electric.
fn rewrite(
    gate: &Gateway,
    mut shape: ShapeRequest,
    permit: Permit,
    posted: Option<&SubsetQuery>,
) -> Result<UpstreamRequest, Rejection> {
    if let Some(subset) = posted {
        shape = shape.with_body(subset.clone()).map_err(Rejection::InvalidRequest)?;
    }
    let source_id = gate.upstreams.source_id(permit.upstream());
    UpstreamRequest::build(permit, &shape, source_id).map_err(|error| match error {
        RewriteError::Invalid(errors) => Rejection::InvalidRequest(errors),
        RewriteError::TooLong => Rejection::UriTooLong,
    })
}

/// A request as it came.
struct Asked<'a> {
    request: &'a RequestHeader,
    query: &'a str,
    bodiless: bool,
    /// From where, where addresses say who asks.
    address: Option<Address>,
}

/// Answers at the gatekeeper's paths: its public key for everybody, a token for one shape for whom the rules allow it.
async fn attend(
    gate: &Gateway,
    policy: &PolicySet,
    (gatekeeper, endpoint): (&Gatekeeper, Endpoint<'_>),
    Asked { request, query, bodiless, address }: Asked<'_>,
    record: &mut Record,
) -> Result<Document, Rejection> {
    let method = if matches!(endpoint, Endpoint::Keys) { Method::GET } else { Method::POST };
    if request.method != method {
        return Err(Rejection::MethodNotAllowed(endpoint.methods()));
    }
    check_body(request, bodiless)?;
    let table = match endpoint {
        Endpoint::Keys => {
            let body = gatekeeper.key.jwks().ok_or(Rejection::NotFound)?.to_string();
            return Ok(Document { body, cache_control: "public, max-age=300", outcome: "jwks" });
        }
        Endpoint::Table(table) => table,
    };
    let user = authenticate(gate, request, address, policy.has_public(), record).await?;
    check_rate(gate, user.as_deref(), record)?;
    // A token for one shape gives no other one.
    if user.as_ref().is_some_and(|user| user.shape().is_some()) {
        return Err(Rejection::Forbidden);
    }
    let _place = enter(gate, user.as_deref(), address)?;
    // The path names the table, and where in the log a client will start is not yet known.
    let query = format!("table={table}&offset=-1&{query}");
    let shape = ShapeRequest::parse(None, &query, policy.parameters()).map_err(Rejection::InvalidRequest)?;
    gate.metrics.parameters_dropped(shape.dropped());
    let now = gate.clock.now();
    let permit = policy.authorize(user.as_deref(), &shape, now).map_err(|denial| denied(denial, record))?.closed();
    record.rule = Some(permit.rule().clone());
    record.upstream = Some(permit.upstream().clone());
    permit.check_opened(&shape).map_err(Rejection::InvalidRequest)?;
    let log = Log::of(shape.protocol(ProtocolParam::Log)).unwrap_or_default();
    let minted = gatekeeper.mint(&permit, log, user.as_deref(), now).ok_or(Rejection::Internal)?;
    if minted.token_len() > gate.limits.token_bytes {
        return Err(Rejection::UriTooLong);
    }
    let body = minted.config(&gatekeeper.public_url);
    Ok(Document { body, cache_control: "no-store", outcome: "minted" })
}

fn gatekeeper<'a>(gate: &'a Gateway, path: &'a str) -> Option<(&'a Gatekeeper, Endpoint<'a>)> {
    let gatekeeper = gate.gatekeeper.as_ref()?;
    Some((gatekeeper, gatekeeper.endpoint(path)?))
}

/// The methods of a shape.
const METHODS: &str = "GET, OPTIONS";

/// The methods of an endpoint where a rule takes subsets.
const WITH_POST: &str = "GET, POST, OPTIONS";

fn methods(policy: &PolicySet, own_path: Option<&str>) -> &'static str {
    if policy.takes_subsets(own_path) { WITH_POST } else { METHODS }
}

/// What a preflight says of a target that may be any.
fn preflight_methods(gate: &Gateway, policy: &PolicySet, request: &RequestHeader) -> &'static str {
    let path = split_target(request, &gate.limits).map(|(path, _)| path).unwrap_or_default();
    if let Some((_, endpoint)) = gatekeeper(gate, path) {
        return endpoint.methods();
    }
    policy.endpoint(path).map_or(METHODS, |own_path| methods(policy, own_path))
}

impl Bearer {
    /// Asks again whether the bearer may go on: its time or its key may have ended while it waited (SECURITY T19, C8).
    pub(super) fn recheck(&self, verifier: &TokenVerifier) -> Result<(), Fault> {
        let Some(principal) = &self.principal else {
            return Ok(());
        };
        verifier.recheck(principal).map_err(|error| match error {
            TokenError::Expired => Fault::TokenExpired,
            TokenError::Invalid(_) => Fault::KeyGone,
            TokenError::KeysUnavailable { retry_after } => Fault::KeysUnavailable(retry_after),
        })
    }

    /// Has the token verified anew where its issuer is gone, or is not as it was.
    async fn reverify(
        &mut self,
        gate: &Gateway,
        request: &RequestHeader,
        record: &mut Record,
    ) -> Result<(), Rejection> {
        if self.principal.as_ref().is_none_or(|principal| gate.verifier.knows(principal)) {
            return Ok(());
        }
        // Keys that have to be fetched first are not waited for by somebody who may have no right to wait.
        let verified = timeout(REVERIFY, authenticate(gate, request, None, false, record)).await;
        self.principal = verified.unwrap_or(Err(Rejection::KeysUnavailable(REVERIFY)))?;
        Ok(())
    }

    /// How long the token is still good; at least a moment, since a wait of nothing is no wait. `None` where there is
    /// no token.
    pub(super) fn time_left(&self, now: UnixTime) -> Option<Duration> {
        let left = self.principal.as_ref()?.expires_at().saturating_since(now);
        Some(left.max(Duration::from_millis(1)))
    }

    /// Who it is; `None` where there is no token.
    pub(super) fn principal(&self) -> Option<&Arc<Principal>> {
        self.principal.as_ref()
    }

    /// Whose limits its flights count against; `None` where there is no token, and addresses say nothing. A token that
    /// was minted for nobody is no subject where there is an address: each would have limits of its own.
    pub(super) fn client(&self) -> Option<Client> {
        let address = self.address.map(Client::Address);
        match &self.principal {
            Some(principal) if !(principal.is_for_nobody() && address.is_some()) => {
                Some(Client::Subject(principal.subject_key().clone()))
            }
            _ => address,
        }
    }
}

/// Within it a request that waits is judged anew.
const REVERIFY: Duration = Duration::from_secs(1);

/// A shape has no body (SECURITY P4, P8). Over HTTP/2 one needs no header, and Pingora would send it on in chunks.
fn check_body(request: &RequestHeader, bodiless: bool) -> Result<(), Rejection> {
    let headers = &request.headers;
    let length = headers.get_all(CONTENT_LENGTH).iter().any(|length| length.as_bytes() != b"0");
    if !bodiless || length || headers.contains_key(TRANSFER_ENCODING) {
        return Err(Rejection::ContentTooLarge);
    }
    Ok(())
}

/// What the header says of a body that is going to be read.
fn check_posted(request: &RequestHeader) -> Result<(), Rejection> {
    let headers = &request.headers;
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > MAX_BODY_BYTES) {
        return Err(Rejection::ContentTooLarge);
    }
    let is_json = |value: &HeaderValue| {
        let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
    };
    if !headers.get_all(CONTENT_TYPE).iter().all(is_json) {
        return Err(Rejection::invalid("content-type", "must be application/json"));
    }
    if headers.contains_key(CONTENT_ENCODING) {
        return Err(Rejection::invalid("content-encoding", "is not supported"));
    }
    Ok(())
}

/// Reads the body, within bounds of size and time.
async fn read_subset(session: &mut ServerSession) -> Result<SubsetQuery, Rejection> {
    let reading = async {
        let mut body = Vec::new();
        let broken = |_| Rejection::invalid("body", "breaks off");
        while let Some(part) = session.read_request_body().await.map_err(broken)? {
            if body.len() + part.len() > MAX_BODY_BYTES {
                return Err(Rejection::ContentTooLarge);
            }
            body.extend_from_slice(&part);
        }
        SubsetQuery::from_body(&body).map_err(Rejection::InvalidRequest)
    };
    timeout(BODY_TIMEOUT, reading).await.unwrap_or(Err(Rejection::invalid("body", "did not arrive in 10 s")))
}

/// Within it a client has sent its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Sizes, and one of each header that must be one (SECURITY P11, T16, C17).
fn check_headers(request: &RequestHeader, limits: &LimitSettings) -> Result<(), Rejection> {
    let headers = &request.headers;
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if headers.len() > limits.headers || bytes > limits.header_bytes {
        return Err(Rejection::HeadersTooLarge);
    }
    let host = headers.get_all(HOST).iter().count();
    if host > 1 || (host == 0 && request.version == Version::HTTP_11) {
        return Err(Rejection::invalid("host", "must stand exactly once"));
    }
    if headers.get_all(ORIGIN).iter().count() > 1 {
        return Err(Rejection::invalid("origin", "stands more than once"));
    }
    if headers.contains_key(EXPECT) {
        return Err(Rejection::invalid("expect", "is not supported"));
    }
    Ok(())
}

/// Path and query of an origin-form target; every other form is refused (SECURITY Q7).
fn split_target<'a>(request: &'a RequestHeader, limits: &LimitSettings) -> Result<(&'a str, &'a str), Rejection> {
    let target = request.raw_path();
    if target.len() > limits.uri_bytes {
        return Err(Rejection::UriTooLong);
    }
    let text = std::str::from_utf8(target).map_err(|_| Rejection::invalid("target", "is not UTF-8"))?;
    if !text.starts_with('/') || text.contains('#') || text.chars().any(|c| c.is_control() || c == ' ') {
        return Err(Rejection::invalid("target", "must be a path and a query"));
    }
    Ok(text.split_once('?').unwrap_or((text, "")))
}

/// The verified principal; `None` where there is no token and a public rule may yet apply.
async fn authenticate(
    gate: &Gateway,
    request: &RequestHeader,
    address: Option<Address>,
    has_public: bool,
    record: &mut Record,
) -> Result<Option<Arc<Principal>>, Rejection> {
    let token = match BearerToken::from_headers(&request.headers, gate.limits.token_bytes) {
        Ok(token) => token,
        Err(BearerError::Malformed) => return Err(Rejection::TokenInvalid),
        Err(BearerError::Missing) if has_public => return Ok(None),
        Err(BearerError::Missing) => return Err(Rejection::TokenMissing),
        Err(BearerError::TooLong) => return Err(Rejection::HeadersTooLarge),
    };
    // Whoever has shown a good token is not kept out by others at his address.
    if let Err(limited) = gate.limiter.may_verify(address, record.started)
        && !gate.verifier.remembers(&token)
    {
        return Err(gate.metrics.limited(limited));
    }
    match gate.verifier.verify(&token).await {
        Ok(verified) => {
            gate.metrics.token_checked(TokenCheck::Accepted(verified.check));
            record.token = Some(verified.principal.token_hash().into());
            Ok(Some(verified.principal))
        }
        Err(error) => {
            gate.metrics.token_checked(TokenCheck::Refused(&error));
            record.token = Some(token.hash().into());
            Err(match error {
                TokenError::Expired => Rejection::TokenExpired,
                TokenError::Invalid(_) => {
                    gate.limiter.bad_token(address, record.started);
                    Rejection::TokenInvalid
                }
                TokenError::KeysUnavailable { retry_after } => Rejection::KeysUnavailable(retry_after),
            })
        }
    }
}

/// Whether this subject may ask once more by now.
fn check_rate(gate: &Gateway, principal: Option<&Principal>, record: &Record) -> Result<(), Rejection> {
    let Some(principal) = principal else { return Ok(()) };
    gate.limiter.ask_as(principal.subject_key(), record.started).map_err(|limited| gate.metrics.limited(limited))
}

fn enter(gate: &Gateway, principal: Option<&Principal>, address: Option<Address>) -> Result<Place, Rejection> {
    let place = gate.limiter.enter(principal.map(Principal::subject_key), address);
    place.map_err(|limited| gate.metrics.limited(limited))
}

fn denied(denial: Denial, record: &mut Record) -> Rejection {
    match denial {
        Denial::Forbidden(rule) => {
            record.rule = Some(rule);
            Rejection::Forbidden
        }
        Denial::ShapeNotFound => Rejection::ShapeNotFound,
        Denial::TokenMissing => Rejection::TokenMissing,
    }
}
