//! Admits a client's request: decides and counts it, then answers it or lets it follow a flight.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use pingora::protocols::http::ServerSession;
use pingora::{Error, Result};
use pingora_proxy::Session;
use tokio::time::timeout;

use super::bearer::{Bearer, authenticate};
use super::context::{Arrival, ClientRequest, RequestContext};
use super::decide::{Caller, Decision, Document, decide};
use super::exchange::Exchange;
use super::flight_session::FlightSession;
use super::follow::Waiting;
use super::gateway::{Gateway, Parts};
use super::head::RequestHead;
use super::rules::Rules;
use crate::auth::Principal;
use crate::decisions::Consulted;
use crate::fault::Fault;
use crate::limits::{Address, LimitSettings, Place, Position};
use crate::policy::RuleId;
use crate::rejection::Rejection;
use crate::rewrite::UpstreamRequest;
use crate::shape::{SubsetQuery, UpstreamName};
use crate::telemetry::Record;

/// How an admitted request is answered.
#[allow(clippy::large_enum_variant)] // a request has one, for a moment; nearly all are the largest
enum Admitted {
    /// A response from a flight.
    Follow(UpstreamRequest, Bearer),
    Document(Document),
    Preflight(&'static str),
}

impl Gateway {
    /// Starts the context of a request whose header has arrived: of a client's or a flight's.
    pub(super) fn begin(&self, session: &mut Session) -> Result<RequestContext> {
        let flight = session.subrequest_ctx.as_mut().and_then(|context| context.user_ctx_mut());
        let flight = flight.and_then(|context| context.downcast_mut::<Option<Box<Exchange>>>());
        if let Some(exchange) = flight.and_then(Option::take) {
            return Ok(RequestContext::Flight(exchange));
        }
        let arrival = Arrival::current().ok_or_else(|| Error::new_str("a request without a connection"))?;
        arrival.begin();
        Ok(RequestContext::Client(Box::new(ClientRequest::new(self, arrival, session))))
    }

    /// Answers a client's request, or takes it out of the phases to follow a flight.
    pub(super) async fn filter(&self, session: &mut Session, context: &mut RequestContext) -> Result<bool> {
        let RequestContext::Client(client) = context else { return Ok(false) };
        match self.answer(&mut session.downstream_session, client).await {
            Ok(None) => {}
            Ok(Some((upstream, bearer))) => hand_over(session, context, upstream, bearer)?,
            Err(fault) => {
                client.record.note(&fault);
                return Err(Error::new_str("the client did not take its response"));
            }
        }
        Ok(true)
    }

    /// Decides about the request. Answers it, unless it may follow a flight: then it is returned.
    async fn answer(
        &self,
        session: &mut ServerSession,
        client: &mut ClientRequest,
    ) -> Result<Option<(UpstreamRequest, Bearer)>, Fault> {
        if is_health_check(self.settings().health_path.as_deref(), session) {
            return self.answer_health_check(session, client).await.map(|()| None);
        }
        match self.admit(session, client).await {
            Ok(Admitted::Follow(upstream, bearer)) => return Ok(Some((upstream, bearer))),
            Ok(Admitted::Document(document)) => {
                client.record.outcome = document.outcome;
                let header = client.negotiated.document_header(&document, &client.record.request_id);
                self.write_whole(session, &client.rules.limits, header, document.body.into()).await?;
            }
            Ok(Admitted::Preflight(methods)) => {
                client.record.outcome = "preflight";
                let request = session.req_header();
                let header = client.negotiated.preflight_header(request, methods, &client.record.request_id);
                self.write_whole(session, &client.rules.limits, header, Bytes::new()).await?;
            }
            Err(rejection) => self.reject(session, client, &rejection).await?,
        }
        Ok(None)
    }

    /// Tells a load balancer whether this process is ready, without detail.
    async fn answer_health_check(&self, session: &mut ServerSession, client: &mut ClientRequest) -> Result<(), Fault> {
        client.record.outcome = "health";
        let ready = self.report().await.missing.is_empty();
        let header = client.negotiated.health_header(ready, &client.record.request_id);
        self.write_whole(session, &client.rules.limits, header, Bytes::new()).await
    }

    async fn admit(&self, session: &mut ServerSession, client: &mut ClientRequest) -> Result<Admitted, Rejection> {
        let ClientRequest { rules, arrival, record, .. } = client;
        let has_body = !session.is_body_empty();
        let head = head_of(session, has_body, Some(&rules.limits));
        let mut arriving = ArrivingCaller { gateway: self, arrival, record, address: None, place: None };
        let decision = decide(rules, &*self.clock, &head, &mut arriving).await?;
        let ArrivingCaller { address, place, .. } = arriving;
        let grant = match decision {
            Decision::Document(document) => return Ok(Admitted::Document(document)),
            Decision::Preflight(methods) => return Ok(Admitted::Preflight(methods)),
            Decision::Shape(grant) => grant,
            // The body is read only now that the request is authorized and within its limits.
            Decision::Subset(pending) => pending.read(rules, read_subset(session, &rules.limits).await?)?,
        };
        let bearer = Bearer::new(grant.principal, address, grant.posted, place, grant.until);
        client.position = self.check_repeats(client, &bearer, &grant.upstream)?;
        Ok(Admitted::Follow(grant.upstream, bearer))
    }

    /// Rejects a client that repeats the same request in a loop. Returns its position in the shape's log, if requests
    /// like it are checked.
    fn check_repeats(
        &self,
        client: &ClientRequest,
        bearer: &Bearer,
        upstream: &UpstreamRequest,
    ) -> Result<Option<Position>, Rejection> {
        let connection = &client.arrival.connection;
        let position = connection.position(bearer.client().as_ref(), bearer.address(), upstream);
        if let Some(position) = position {
            let repeated = connection.check_repeat(position, client.arrival.at);
            repeated.map_err(|limited| Rejection::limited(limited, &self.metrics))?;
        }
        Ok(position)
    }
}

/// Takes the request out of the phases, with its session.
fn hand_over(
    session: &mut Session,
    context: &mut RequestContext,
    upstream: UpstreamRequest,
    bearer: Bearer,
) -> Result<()> {
    let RequestContext::Client(client) = std::mem::replace(context, RequestContext::Waiting) else { return Ok(()) };
    let placeholder = Box::new(FlightSession::session(None, None)?);
    let session = std::mem::replace(&mut session.downstream_session, placeholder);
    let arrival = Arc::clone(&client.arrival);
    arrival.hand_over(Waiting { session, client, upstream, bearer });
    Ok(())
}

/// Whether this is a health check, which counts against no limit.
fn is_health_check(path: Option<&str>, session: &ServerSession) -> bool {
    let request = session.req_header();
    path.is_some_and(|path| request.raw_path() == path.as_bytes())
        && matches!(request.method, Method::GET | Method::HEAD)
}

/// Returns the head of a request. `sizes` is `None` if the sizes were checked before.
pub(super) fn head_of<'a>(
    session: &'a ServerSession,
    has_body: bool,
    sizes: Option<&'a LimitSettings>,
) -> RequestHead<'a> {
    let request = session.req_header();
    RequestHead {
        method: &request.method,
        target: raw_target(session).unwrap_or_else(|| Bytes::copy_from_slice(request.raw_path())),
        version: request.version,
        headers: &request.headers,
        has_body,
        sizes,
    }
}

/// Returns the request target as it arrived over HTTP/1.1. The parsed header lacks everything after a `#`.
fn raw_target(session: &ServerSession) -> Option<Bytes> {
    let ServerSession::H1(session) = session else { return None };
    let raw = session.get_headers_raw_bytes();
    Some(raw.slice_ref(raw.split(|byte| *byte == b' ').nth(1)?))
}

/// A request that has just arrived on a connection.
struct ArrivingCaller<'a> {
    gateway: &'a Gateway,
    arrival: &'a Arrival,
    record: &'a mut Record,
    /// The client's address, if addresses distinguish clients.
    address: Option<Address>,
    /// Taken when the request is authorized, or before it waits for its issuer's keys.
    place: Option<Place>,
}

impl Caller for ArrivingCaller<'_> {
    fn arrive(&mut self, head: &RequestHead<'_>) -> Result<(), Rejection> {
        if self.arrival.misdirected {
            return Err(Rejection::invalid("scheme", "must be https: this port speaks TLS"));
        }
        let Parts { limiter, metrics, .. } = &**self.gateway;
        self.address = limiter.address(self.arrival.connection.peer(), head.headers);
        limiter.ask(self.address, self.record.started).map_err(|limited| Rejection::limited(limited, metrics))
    }

    async fn authenticate(
        &mut self,
        rules: &Rules,
        head: &RequestHead<'_>,
        has_public: bool,
    ) -> Result<Option<Arc<Principal>>, Rejection> {
        let (gateway, address, place) = (self.gateway, self.address, &mut self.place);
        let before_wait = || {
            let entered = gateway.limiter.enter(None, address);
            *place = Some(entered.map_err(|limited| Rejection::limited(limited, &gateway.metrics))?);
            Ok(())
        };
        authenticate(gateway, rules, head, address, has_public, self.record, before_wait).await
    }

    fn count(&mut self, principal: Option<&Principal>) -> Result<(), Rejection> {
        let Some(principal) = principal else { return Ok(()) };
        let counted = self.gateway.limiter.ask_as(principal.subject_key(), self.record.started);
        counted.map_err(|limited| Rejection::limited(limited, &self.gateway.metrics))
    }

    fn enter(&mut self, principal: Option<&Principal>) -> Result<(), Rejection> {
        let subject = principal.map(Principal::subject_key);
        let place = match self.place.take() {
            Some(place) => place.for_subject(subject),
            None => self.gateway.limiter.enter(subject, self.address),
        };
        self.place = Some(place.map_err(|limited| Rejection::limited(limited, &self.gateway.metrics))?);
        Ok(())
    }

    fn dropped(&mut self, parameters: usize) {
        self.gateway.metrics.parameters_dropped(parameters);
    }

    fn consulted(&mut self, consulted: &[Consulted]) {
        self.record.consulted(consulted);
    }

    fn ruled(&mut self, rule: &RuleId, upstream: Option<&UpstreamName>) {
        self.record.ruled(rule, upstream);
    }
}

/// Reads the body of a POST, within bounds of size and time.
async fn read_subset(session: &mut ServerSession, limits: &LimitSettings) -> Result<SubsetQuery, Rejection> {
    let read = timeout(BODY_TIMEOUT, read_body(session, limits.body_bytes)).await;
    let body = read.unwrap_or(Err(Rejection::invalid("body", "did not arrive in 10 s"))).inspect_err(|_| {
        // The rest of the body must not be taken for the next request (docs/security.md, P4).
        session.set_keepalive(None);
    })?;
    SubsetQuery::from_body(&body).map_err(Rejection::InvalidRequest)
}

async fn read_body(session: &mut ServerSession, most: usize) -> Result<Vec<u8>, Rejection> {
    let mut body = Vec::new();
    let broken = |_| Rejection::invalid("body", "is cut off or not well framed");
    while let Some(part) = session.read_request_body().await.map_err(broken)? {
        if body.len() + part.len() > most {
            return Err(Rejection::ContentTooLarge);
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
