//! Admission of a client's request: decided, counted, then answered or sent to follow a flight.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use pingora::{Error, Result};
use pingora_proxy::Session;
use tokio::time::timeout;

use super::bearer::{Bearer, authenticate};
use super::context::{Arrival, ClientRequest, RequestContext};
use super::decide::{Caller, Decision, Document, decide};
use super::exchange::Exchange;
use super::flight_end::FlightEnd;
use super::follow::Waiting;
use super::gateway::{Gateway, Parts};
use super::head::RequestHead;
use super::rules::Rules;
use crate::auth::Principal;
use crate::config::Limits;
use crate::fault::Fault;
use crate::limits::{Address, Place, Position};
use crate::policy::{RuleId, UpstreamName};
use crate::rejection::Rejection;
use crate::shape::{MAX_BODY_BYTES, SubsetQuery, UpstreamRequest};
use crate::telemetry::Record;

/// What a request that is not rejected gets.
enum Admitted {
    /// A response from a flight.
    Follow(UpstreamRequest, Bearer),
    Document(Document),
    Preflight(&'static str),
}

impl Gateway {
    /// Tells a flight's request from a client's, whose header has arrived.
    pub(super) fn begin(&self, session: &mut Session) -> Result<RequestContext> {
        let flight = session.subrequest_ctx.as_mut().and_then(|context| context.user_ctx_mut());
        let flight = flight.and_then(|context| context.downcast_mut::<Option<Box<Exchange>>>());
        if let Some(exchange) = flight.and_then(Option::take) {
            return Ok(RequestContext::Flight(exchange));
        }
        let arrival = Arrival::current().ok_or_else(|| Error::new_str("a request outside of a connection"))?;
        arrival.begin();
        Ok(RequestContext::Client(Box::new(ClientRequest::new(self, arrival, session))))
    }

    /// Answers a client's request, or takes it out of the phases to follow a flight.
    pub(super) async fn filter(&self, session: &mut Session, context: &mut RequestContext) -> Result<bool> {
        let RequestContext::Client(client) = context else { return Ok(false) };
        match self.answer(&mut session.downstream_session, client).await {
            Ok(None) => {}
            Ok(Some((upstream, bearer))) => self.hand_over(session, context, upstream, bearer)?,
            Err(fault) => {
                client.record.note(&fault);
                return Err(Error::new_str("the client did not take its response"));
            }
        }
<<<<<<< HEAD
        Ok(true)
=======
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
    shape.check_opened(&permit).map_err(Rejection::InvalidRequest)?;
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
    /// Asks again whether the bearer may go on: its time or its key may have ended while it waited (docs/security.md, T19,
    /// C8).
    pub(super) fn recheck(&self, verifier: &TokenVerifier) -> Result<(), Fault> {
        let Some(principal) = &self.principal else {
            return Ok(());
        };
        verifier.recheck(principal).map_err(|error| match error {
            TokenError::Expired => Fault::TokenExpired,
            TokenError::Invalid(_) => Fault::KeyGone,
            TokenError::KeysUnavailable { retry_after } => Fault::KeysUnavailable(retry_after),
        })
>>>>>>> h/clone
    }

    /// Takes the request out of the phases, with its session.
    fn hand_over(
        &self,
        session: &mut Session,
        context: &mut RequestContext,
        upstream: UpstreamRequest,
        bearer: Bearer,
    ) -> Result<()> {
        let RequestContext::Client(client) = std::mem::replace(context, RequestContext::Waiting) else { return Ok(()) };
        let nobody = Box::new(FlightEnd::session(None, None)?);
        let session = std::mem::replace(&mut session.downstream_session, nobody);
        let arrival = Arc::clone(&client.arrival);
        arrival.hand_over(Waiting { gateway: self.clone(), session, client, upstream, bearer });
        Ok(())
    }

    /// Decides, and answers everything but a request that may follow a flight.
    async fn answer(
        &self,
        session: &mut ServerSession,
        client: &mut ClientRequest,
    ) -> Result<Option<(UpstreamRequest, Bearer)>, Fault> {
        match self.admit(session, client).await {
            Ok(Admitted::Follow(upstream, bearer)) => return Ok(Some((upstream, bearer))),
            Ok(Admitted::Document(document)) => {
                client.record.outcome = document.outcome;
                let header = client.edge.document_header(&document, &client.record.request_id);
                self.write_whole(session, &client.rules.limits, header, document.body.into()).await?;
            }
            Ok(Admitted::Preflight(methods)) => {
                client.record.outcome = "preflight";
                let request = session.req_header();
                let header = client.edge.preflight_header(request, methods, &client.record.request_id);
                self.write_whole(session, &client.rules.limits, header, Bytes::new()).await?;
            }
            Err(rejection) => self.reject(session, client, &rejection).await?,
        }
        Ok(None)
    }

    async fn admit(&self, session: &mut ServerSession, client: &mut ClientRequest) -> Result<Admitted, Rejection> {
        let rules = Arc::clone(&client.rules);
        let has_body = !session.is_body_empty();
        let head = head_of(session.req_header(), has_body, Some(&rules.limits));
        let mut arriving = Arriving::new(self, client);
        let decision = decide(&rules, &*self.clock, &head, &mut arriving).await?;
        let Arriving { address, place, .. } = arriving;
        let grant = match decision {
            Decision::Document(document) => return Ok(Admitted::Document(document)),
            Decision::Preflight(methods) => return Ok(Admitted::Preflight(methods)),
            Decision::Shape(grant) => grant,
            // Not a byte of the body is read before the bearer may send it and there is a place for the request.
            Decision::Subset(pending) => pending.read(&rules, read_subset(session).await?)?,
        };
        let bearer = Bearer::new(grant.principal, address, grant.posted, place);
        client.position = self.check_repeats(client, &bearer, &grant.upstream)?;
        Ok(Admitted::Follow(grant.upstream, bearer))
    }

    /// Rejects a client that asks for the same again and again. Returns its position in the shape's log, if it counts.
    fn check_repeats(
        &self,
        client: &ClientRequest,
        bearer: &Bearer,
        upstream: &UpstreamRequest,
    ) -> Result<Option<Position>, Rejection> {
        let connection = &client.arrival.connection;
        let position = connection.position(bearer.client().as_ref(), bearer.address(), upstream);
        if let Some(position) = position {
            let repeated = connection.check_repeat(position, client.record.started);
            repeated.map_err(|limited| self.metrics.limited(limited))?;
        }
        Ok(position)
    }
}

<<<<<<< HEAD
/// Reads the head of a request. `sizes` is `None` if they were checked before.
pub(super) fn head_of<'a>(request: &'a RequestHeader, has_body: bool, sizes: Option<&'a Limits>) -> RequestHead<'a> {
    RequestHead {
        method: &request.method,
        target: request.raw_path(),
        version: request.version,
        headers: &request.headers,
        has_body,
        sizes,
=======
/// Within it a request that waits is judged anew.
const REVERIFY: Duration = Duration::from_secs(1);

/// A shape has no body (docs/security.md, P4, P8). Over HTTP/2 one needs no header, and Pingora would send it on in
/// chunks.
fn check_body(request: &RequestHeader, bodiless: bool) -> Result<(), Rejection> {
    let headers = &request.headers;
    let length = headers.get_all(CONTENT_LENGTH).iter().any(|length| length.as_bytes() != b"0");
    if !bodiless || length || headers.contains_key(TRANSFER_ENCODING) {
        return Err(Rejection::ContentTooLarge);
>>>>>>> h/clone
    }
}

/// A request that has just arrived on a connection.
struct Arriving<'a> {
    gateway: &'a Gateway,
    arrival: &'a Arrival,
    record: &'a mut Record,
    /// Where it comes from, if addresses tell clients apart.
    address: Option<Address>,
    place: Option<Place>,
}

impl<'a> Arriving<'a> {
    fn new(gateway: &'a Gateway, client: &'a mut ClientRequest) -> Self {
        Self { gateway, arrival: &client.arrival, record: &mut client.record, address: None, place: None }
    }
}

impl Caller for Arriving<'_> {
    fn arrive(&mut self, head: &RequestHead<'_>) -> Result<(), Rejection> {
        let Parts { limiter, metrics, .. } = &**self.gateway;
        self.address = limiter.address(self.arrival.connection.peer(), head.headers);
        limiter.ask(self.address, self.record.started).map_err(|limited| metrics.limited(limited))
    }

    async fn authenticate(
        &mut self,
        rules: &Rules,
        head: &RequestHead<'_>,
        has_public: bool,
    ) -> Result<Option<Arc<Principal>>, Rejection> {
        authenticate(self.gateway, rules, head, self.address, has_public, self.record).await
    }

    fn count(&mut self, principal: Option<&Principal>) -> Result<(), Rejection> {
        let Some(principal) = principal else { return Ok(()) };
        let counted = self.gateway.limiter.ask_as(principal.subject_key(), self.record.started);
        counted.map_err(|limited| self.gateway.metrics.limited(limited))
    }

    fn enter(&mut self, principal: Option<&Principal>) -> Result<(), Rejection> {
        let place = self.gateway.limiter.enter(principal.map(Principal::subject_key), self.address);
        self.place = Some(place.map_err(|limited| self.gateway.metrics.limited(limited))?);
        Ok(())
    }

    fn dropped(&mut self, parameters: usize) {
        self.gateway.metrics.parameters_dropped(parameters);
    }

    fn ruled(&mut self, rule: &RuleId, upstream: Option<&UpstreamName>) {
        self.record.rule = Some(rule.clone());
        self.record.upstream = upstream.cloned();
    }
}

/// Reads the body of a POST, within bounds of size and time.
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

/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
<<<<<<< HEAD
=======

/// Sizes, and one of each header that must be one (docs/security.md, P11, T16, C17).
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

/// Path and query of an origin-form target; every other form is refused (docs/security.md, Q7).
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
>>>>>>> h/clone
