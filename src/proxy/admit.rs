//! The order of decisions: what a request must pass, in one function.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, EXPECT, HOST, ORIGIN, TRANSFER_ENCODING};
use http::{Method, Version};
use pingora::http::RequestHeader;

use super::Gateway;
use crate::auth::{BearerError, BearerToken, Principal, SubjectKey, TokenError, TokenVerifier};
use crate::clock::UnixTime;
use crate::config::Limits;
use crate::fault::Fault;
use crate::gatekeeper::{Endpoint, Gatekeeper, Log, ScopedRequest};
use crate::limits::Place;
use crate::policy::{Denial, PolicySet, UnknownPath};
use crate::rejection::Rejection;
use crate::shape::protocol::ProtocolParam;
use crate::shape::{ShapeRequest, UpstreamRequest};
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
}

/// Who waits for an answer.
#[derive(Debug)]
pub(super) struct Bearer {
    principal: Option<Arc<Principal>>,
    /// Held for as long as the request is.
    _place: Place,
}

/// Decides, top to bottom; the first check that fails answers. `bodiless`: the request ends with its header.
pub(super) async fn admit(
    gate: &Gateway,
    request: &RequestHeader,
    bodiless: bool,
    record: &mut Record,
) -> Result<Decision, Rejection> {
    check_headers(request, &gate.limits)?;
    // Whatever its target: a browser shows no answer whose preflight was refused.
    if request.method == Method::OPTIONS {
        return Ok(Decision::Preflight(methods(gate, request)));
    }
    let policy = gate.policy.load_full();
    let (path, query) = split_target(request, &gate.limits)?;
    if let Some((gatekeeper, endpoint)) = gatekeeper(gate, path) {
        return attend(gate, &policy, gatekeeper, &endpoint, request, bodiless, record).await.map(Decision::Answer);
    }
    let own_path = policy.endpoint(path).map_err(|UnknownPath| Rejection::NotFound)?;
    if request.method != Method::GET {
        return Err(Rejection::MethodNotAllowed(METHODS));
    }
    check_body(request, bodiless)?;
    let principal = authenticate(gate, request, policy.has_public(), record).await?;
    let upstream = authorize(gate, &policy, principal.as_deref(), own_path, query, record)?;
    let place = gate.budgets.enter(principal.as_ref().map(|principal| principal.subject_key().clone()))?;
    Ok(Decision::Admit(Admission { upstream, bearer: Bearer { principal, _place: place } }))
}

/// Asks the policy of now about a request that was admitted under another one.
pub(super) fn readmit(
    gate: &Gateway,
    request: &RequestHeader,
    bearer: &Bearer,
    record: &mut Record,
) -> Result<UpstreamRequest, Rejection> {
    let policy = gate.policy.load_full();
    let (path, query) = split_target(request, &gate.limits)?;
    let own_path = policy.endpoint(path).map_err(|UnknownPath| Rejection::NotFound)?;
    authorize(gate, &policy, bearer.principal.as_deref(), own_path, query, record)
}

fn authorize(
    gate: &Gateway,
    policy: &PolicySet,
    principal: Option<&Principal>,
    own_path: Option<&str>,
    query: &str,
    record: &mut Record,
) -> Result<UpstreamRequest, Rejection> {
    if let Some(claim) = principal.and_then(Principal::shape) {
        let request = ScopedRequest::parse(own_path, query).map_err(Rejection::InvalidRequest)?;
        let permit = policy.authorize_shape(claim, &request).map_err(|denial| denied(denial, record))?;
        record.rule = Some(permit.rule().clone());
        gate.metrics.parameters_dropped(request.protocol().dropped());
        return UpstreamRequest::build(permit, request.protocol(), gate.source_id.as_deref())
            .map_err(|_| Rejection::UriTooLong);
    }
    let shape = ShapeRequest::parse(own_path, query, policy.parameters()).map_err(Rejection::InvalidRequest)?;
    gate.metrics.parameters_dropped(shape.dropped());
    let permit = policy.authorize(principal, &shape, gate.clock.now()).map_err(|denial| denied(denial, record))?;
    record.rule = Some(permit.rule().clone());
    shape.check_replica(permit.replica()).map_err(|error| Rejection::InvalidRequest(vec![error]))?;
    UpstreamRequest::build(permit, &shape, gate.source_id.as_deref()).map_err(|_| Rejection::UriTooLong)
}

/// Answers at the gatekeeper's paths: its public key for everybody, a token for one shape for whom the rules allow it.
async fn attend(
    gate: &Gateway,
    policy: &PolicySet,
    gatekeeper: &Gatekeeper,
    endpoint: &Endpoint<'_>,
    request: &RequestHeader,
    bodiless: bool,
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
    let user = authenticate(gate, request, policy.has_public(), record).await?;
    // A token for one shape gives no other one.
    if user.as_ref().is_some_and(|user| user.shape().is_some()) {
        return Err(Rejection::Forbidden);
    }
    let (_, query) = split_target(request, &gate.limits)?;
    let _place = gate.budgets.enter(user.as_ref().map(|user| user.subject_key().clone()))?;
    // The path names the table, and where in the log a client will start is not yet known.
    let query = format!("table={table}&offset=-1&{query}");
    let shape = ShapeRequest::parse(None, &query, policy.parameters()).map_err(Rejection::InvalidRequest)?;
    gate.metrics.parameters_dropped(shape.dropped());
    let now = gate.clock.now();
    let permit = policy.authorize(user.as_deref(), &shape, now).map_err(|denial| denied(denial, record))?;
    record.rule = Some(permit.rule().clone());
    shape.check_replica(permit.replica()).map_err(|error| Rejection::InvalidRequest(vec![error]))?;
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

/// What `Allow` says of a target; of one that is not served, what it says of a shape.
fn methods(gate: &Gateway, request: &RequestHeader) -> &'static str {
    let path = split_target(request, &gate.limits).map(|(path, _)| path);
    path.ok().and_then(|path| gatekeeper(gate, path)).map_or(METHODS, |(_, endpoint)| endpoint.methods())
}

/// The methods of a shape.
const METHODS: &str = "GET, OPTIONS";

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

    /// How long the token is still good; at least a moment, since a wait of nothing is no wait. `None` where there is
    /// no token.
    pub(super) fn time_left(&self, now: UnixTime) -> Option<Duration> {
        let left = self.principal.as_ref()?.expires_at().saturating_since(now);
        Some(left.max(Duration::from_millis(1)))
    }

    /// Whose budget its flights count against.
    pub(super) fn subject(&self) -> Option<&SubjectKey> {
        self.principal.as_ref().map(|principal| principal.subject_key())
    }
}

/// A shape has no body (SECURITY P4, P8). Over HTTP/2 one needs no header, and Pingora would send it on in chunks.
fn check_body(request: &RequestHeader, bodiless: bool) -> Result<(), Rejection> {
    let headers = &request.headers;
    let length = headers.get_all(CONTENT_LENGTH).iter().any(|length| length.as_bytes() != b"0");
    if !bodiless || length || headers.contains_key(TRANSFER_ENCODING) {
        return Err(Rejection::ContentTooLarge);
    }
    Ok(())
}

/// Sizes, and one of each header that must be one (SECURITY P11, T16, C17).
fn check_headers(request: &RequestHeader, limits: &Limits) -> Result<(), Rejection> {
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
fn split_target<'a>(request: &'a RequestHeader, limits: &Limits) -> Result<(&'a str, &'a str), Rejection> {
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
                TokenError::Invalid(_) => Rejection::TokenInvalid,
                TokenError::KeysUnavailable { retry_after } => Rejection::KeysUnavailable(retry_after),
            })
        }
    }
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
