//! One request to Electric, from the choice of an address to the end of the response.

use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, IF_NONE_MATCH, TRANSFER_ENCODING, USER_AGENT,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::HttpPeer;
use pingora::{Error, Result};
use tokio::time::Instant;

use crate::fault::Fault;
use crate::flight::{Ask, Head, Sink};
use crate::metrics::Metrics;
use crate::secret::redact;
use crate::telemetry::UpstreamSpan;
use crate::trace_context::TRACEPARENT;
use crate::upstream::{AGENT, MAX_REFUSAL, Pool, UpstreamServer, fault_of, refused_parameters};

/// The state of a flight's request while it runs through the phases.
pub struct Exchange {
    ask: Ask,
    pool: Arc<Pool>,
    server: Arc<UpstreamServer>,
    /// Where the response is written; `None` for a probe, which only checks that Electric accepts the request.
    sink: Option<Sink>,
    /// Which of the server's two secrets is sent.
    secret: usize,
    /// Which retries were made.
    retry: Retry,
    /// Connections refused so far, each by a different address.
    refusals: usize,
    asked: Instant,
    response: Response,
    fault: Option<Fault>,
    ending: Arc<OnceLock<Ending>>,
    metrics: Arc<Metrics>,
    span: Option<Box<UpstreamSpan>>,
}

/// How an exchange ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// The response is complete.
    Answered,
    /// There is no response, or it is incomplete.
    Failed(Fault),
    /// Electric refused a probe, with this status and body.
    Refused(StatusCode, String),
}

/// The reasons for a retry. Each allows one.
#[derive(Default)]
struct Retry {
    /// A reused connection broke before the response (docs/electric.md, "Connections").
    stale: bool,
    /// The server refused the secret, and another one is configured.
    secret: bool,
    /// Whether the phase that has just failed asks for another attempt.
    now: bool,
}

/// What is done with the body of the response.
enum Response {
    /// The header has not arrived.
    Awaited,
    /// It is forwarded to the flight.
    Forwarded,
    /// It is dropped: the flight has the body already, or this is a probe.
    Dropped,
    /// It is collected, because the response to the client depends on it.
    Refused(StatusCode, BytesMut),
}

impl Exchange {
    pub(super) fn new(
        ask: Ask,
        (pool, server): (Arc<Pool>, Arc<UpstreamServer>),
        sink: Option<Sink>,
        metrics: Arc<Metrics>,
        span: Option<Box<UpstreamSpan>>,
    ) -> Self {
        Self {
            ask,
            pool,
            sink,
            secret: server.secret_in_use(),
            server,
            retry: Retry::default(),
            refusals: 0,
            asked: Instant::now(),
            response: Response::Awaited,
            fault: None,
            ending: Arc::default(),
            metrics,
            span,
        }
    }

    /// Returns the cell in which [`Self::conclude`] stores how the exchange ended.
    pub(super) fn ending(&self) -> Arc<OnceLock<Ending>> {
        Arc::clone(&self.ending)
    }

    /// Returns the peer to connect to.
    pub(super) async fn peer(&mut self) -> Result<Box<HttpPeer>> {
        match self.server.peer().await {
            Ok(peer) if self.retry.stale => Ok(Box::new(fresh(peer))),
            Ok(peer) => Ok(Box::new(peer)),
            Err(fault) => {
                let fault = self.pool.failed(fault, false);
                Err(self.fail(fault))
            }
        }
    }

    /// Builds the request from empty. From the client's request, it contains only what was parsed.
    pub(super) fn request(&mut self) -> Result<RequestHeader> {
        self.asked = Instant::now();
        let target = self.ask.request.target(self.server.secret(self.secret));
        let body = self.ask.request.body();
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let mut header = RequestHeader::build_no_case(method, target.expose().as_bytes(), Some(8))?;
        header.set_version(Version::HTTP_11);
        header.insert_header(HOST, self.server.url().authority())?;
        header.insert_header(USER_AGENT, AGENT)?;
        header.insert_header(ACCEPT, "*/*")?;
        // Electric compresses errors only (docs/electric.md, "Compression"), and those are read here.
        header.insert_header(ACCEPT_ENCODING, "identity")?;
        header.insert_header("x-request-id", &*self.ask.request_id)?;
        if let Some(body) = body {
            header.insert_header(CONTENT_TYPE, "application/json")?;
            header.insert_header(CONTENT_LENGTH, body.len())?;
        }
        if let Some(trace) = &self.ask.trace {
            header.insert_header(TRACEPARENT, trace.as_str())?;
        }
        if let Some(etag) = self.ask.known.as_ref().and_then(|known| known.head.etag()) {
            header.insert_header(IF_NONE_MATCH, etag)?;
        }
        Ok(header)
    }

    /// Decides by the header what to do with the response.
    pub(super) async fn judge(&mut self, header: &ResponseHeader) -> Result<()> {
        let status = header.status;
        // Another header follows a 1xx, except 101, which is final and was not asked for.
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        self.metrics.upstream_answered(
            self.ask.request.is_live(),
            self.ask.request.upstream().as_str(),
            self.asked.elapsed(),
        );
        if status == StatusCode::UNAUTHORIZED && self.try_other_secret() {
            return Err(Error::new_str("trying the other secret"));
        }
        self.take_secret(status);
        self.server.judge_secret(self.pool.name(), status);
        if let Some(span) = &mut self.span {
            span.answered(status);
        }
        if status.as_u16() >= 400 && status != StatusCode::CONFLICT {
            self.metrics.upstream_refused(
                self.ask.request.rule().as_str(),
                self.ask.request.upstream().as_str(),
                status.as_u16(),
            );
        }
        match self.accept(status, &header.headers).await {
            Ok(response) => {
                self.response = response;
                Ok(())
            }
            Err(fault) => Err(self.fail(fault)),
        }
    }

    async fn accept(&self, status: StatusCode, headers: &HeaderMap) -> Result<Response, Fault> {
        let Some(sink) = &self.sink else {
            let refused = Response::Refused(status, BytesMut::new());
            return Ok(if status.is_success() { Response::Dropped } else { refused });
        };
        if let (Some(known), StatusCode::NOT_MODIFIED) = (&self.ask.known, status) {
            sink.head(known.head.renewed(headers));
            for piece in &known.body {
                sink.push(piece.clone()).await;
            }
            return Ok(Response::Dropped);
        }
        if let Some(fault) = fault_of(status, headers) {
            return Err(fault);
        }
        if status == StatusCode::BAD_REQUEST {
            return Ok(Response::Refused(status, BytesMut::new()));
        }
        // Without either header, the end of the body looks like a broken connection (pingora issue 932).
        if !headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(TRANSFER_ENCODING) {
            return Err(Fault::UpstreamUnreachable);
        }
        sink.head(Head::new(status, headers));
        Ok(Response::Forwarded)
    }

    /// Forwards a part of the body to the flight, or holds it back.
    pub(super) fn filter_body(&mut self, body: &mut Option<Bytes>) {
        match &mut self.response {
            Response::Forwarded => {}
            Response::Refused(_, whole) => {
                let part = body.take().unwrap_or_default();
                let room = MAX_REFUSAL.saturating_sub(whole.len());
                whole.extend_from_slice(&part[..part.len().min(room)]);
            }
            Response::Awaited | Response::Dropped => *body = None,
        }
    }

    /// Notes that `peer` refused the connection. The returned error says whether to try another address.
    pub(super) fn refused(&mut self, peer: &HttpPeer, mut error: Box<Error>) -> Box<Error> {
        self.refusals += 1;
        let retry = self.server.move_on(peer, self.refusals);
        if retry {
            self.metrics.upstream_retried(self.ask.request.rule().as_str(), self.ask.request.upstream().as_str());
        } else {
            self.fault = Some(self.pool.failed(Fault::of_upstream(&error), false));
        }
        error.set_retry(retry);
        error
    }

    /// Notes that the exchange failed on an open connection. The returned error says whether to try again. A POST is
    /// tried again too, since it asks for a subset and changes nothing.
    pub(super) fn broken(&mut self, mut error: Box<Error>, reused: bool) -> Box<Error> {
        let retry = std::mem::take(&mut self.retry.now) || self.retry_stale(&error, reused);
        if retry {
            self.metrics.upstream_retried(self.ask.request.rule().as_str(), self.ask.request.upstream().as_str());
        } else if self.fault.is_none() {
            let fault = Fault::of_upstream(&error);
            let headless = matches!(self.response, Response::Awaited);
            self.fault = Some(if headless { self.pool.failed(fault, true) } else { fault });
        }
        error.set_retry(retry);
        error
    }

    fn retry_stale(&mut self, error: &Error, reused: bool) -> bool {
        let stale = reused
            && !self.retry.stale
            && self.fault.is_none()
            && matches!(self.response, Response::Awaited)
            && Fault::of_upstream(error) != Fault::UpstreamTimeout;
        self.retry.stale |= stale;
        stale
    }

    fn try_other_secret(&mut self) -> bool {
        let other = self.server.other_secret(self.secret).filter(|_| !self.retry.secret);
        let Some(other) = other else { return false };
        self.secret = other;
        (self.retry.secret, self.retry.now) = (true, true);
        true
    }

    /// Notes that the server accepted the other secret.
    fn take_secret(&self, status: StatusCode) {
        if self.retry.secret && self.server.take_secret(self.secret, status) {
            let (upstream, key) = (self.pool.name().as_str(), UpstreamServer::secret_key(self.secret));
            tracing::info!(upstream, server = %self.server.url(), "Electric accepts the other secret: now sending `{key}`");
        }
    }

    fn fail(&mut self, fault: Fault) -> Box<Error> {
        self.fault = Some(fault);
        Error::new_str("the exchange with Electric failed")
    }

    /// Ends the exchange after the last phase.
    pub(super) async fn conclude(mut self) {
        let ending = self.end().await;
        if let (Some(span), Ending::Failed(fault)) = (&mut self.span, &ending) {
            span.failed(fault.as_str());
        }
        let _ = self.ending.set(ending);
    }

    async fn end(&mut self) -> Ending {
        if let Some(fault) = self.fault.take() {
            return Ending::Failed(fault);
        }
        match (std::mem::replace(&mut self.response, Response::Dropped), &self.sink) {
            (Response::Awaited, _) => Ending::Failed(Fault::Internal),
            (Response::Refused(status, words), None) => Ending::Refused(status, self.readable(&words)),
            (Response::Refused(status, words), Some(sink)) => match self.refuse(sink, status, &words).await {
                Ok(()) => Ending::Answered,
                Err(fault) => Ending::Failed(fault),
            },
            (Response::Forwarded | Response::Dropped, _) => Ending::Answered,
        }
    }

    /// Returns Electric's error without our secrets: it may quote the URL that it was asked for.
    fn readable(&self, words: &[u8]) -> String {
        redact(&String::from_utf8_lossy(words), self.pool.secrets())
    }

    /// Answers with Electric's errors about the client's own parameters. If there are none, the rule is at fault.
    async fn refuse(&self, sink: &Sink, status: StatusCode, words: &[u8]) -> Result<(), Fault> {
        let words = self.readable(words);
        let body = refused_parameters(words.as_bytes(), &self.ask.request).map_err(|words| {
            let (request_id, rule) = (&self.ask.request_id, self.ask.request.rule().as_str());
            tracing::warn!(%request_id, rule, electric = ?words, "Electric rejected a request because of its rule");
            Fault::UpstreamRefused(status.as_u16())
        })?;
        let json = HeaderValue::from_static("application/json; charset=utf-8");
        sink.head(Head::new(status, &HeaderMap::from_iter([(CONTENT_TYPE, json)])));
        sink.push(body).await;
        Ok(())
    }
}

/// Returns `peer` with a new connection that is not pooled. A retry could otherwise get another pooled connection that
/// Electric has closed.
fn fresh(mut peer: HttpPeer) -> HttpPeer {
    peer.group_key = rand::random();
    peer.options.idle_timeout = Some(std::time::Duration::ZERO);
    peer
}
