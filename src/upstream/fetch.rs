//! The one exchange with Electric behind a flight, in a task that no client can cancel.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, IF_NONE_MATCH, TRANSFER_ENCODING, USER_AGENT,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;
use tokio::time::Instant;

use super::pool::{Pool, Upstreams};
use super::refusal::{MAX_BODY, fault_of, refused_parameters};
use super::secrets::{self, SecretInUse};
use super::server::{Connection, UpstreamServer};
use crate::fault::Fault;
use crate::flight::{Ask, Head, Sink, Source};
use crate::rewrite::UpstreamRequest;
use crate::secret::Secret;
use crate::telemetry::{Metrics, Tracer, UpstreamSpan};
use crate::trace_context::TRACEPARENT;

/// Answers flights from the configured Electrics, over Pingora's connections.
pub struct Electric {
    upstreams: Arc<Upstreams>,
    metrics: Arc<Metrics>,
    tracer: Option<Arc<Tracer>>,
}

/// A request that was sent, and the header of its answer.
struct Exchange {
    server: Arc<UpstreamServer>,
    session: HttpSession,
    peer: HttpPeer,
    status: StatusCode,
    headers: HeaderMap,
}

/// Requests that meet a connection which Electric is just closing (PROTOCOL 4.4); each may meet another one.
const MAX_RETRIES: usize = 3;

/// What we call ourselves.
pub(super) const AGENT: &str = concat!("shapegate/", env!("CARGO_PKG_VERSION"));

impl Electric {
    /// Over these.
    pub fn new(upstreams: Arc<Upstreams>, metrics: Arc<Metrics>) -> Self {
        Self { upstreams, metrics, tracer: None }
    }

    /// Records what it asks, in the traces that are recorded.
    #[must_use]
    pub fn with_tracer(self, tracer: Option<Arc<Tracer>>) -> Self {
        Self { tracer, ..self }
    }

    /// Asks for the header of an answer, outside of any flight: for `check --probe`.
    ///
    /// # Errors
    /// Why there is no shape, in Electric's own words where it has any; our secrets are not among them.
    pub async fn probe(&self, request: UpstreamRequest) -> Result<(), String> {
        let ask = Ask { request, request_id: "check".into(), trace: None, known: None };
        let mut exchange = self.exchange(&ask).await.map_err(|fault| fault.to_string())?;
        if exchange.status.is_success() {
            return Ok(());
        }
        let body = read_whole(&mut exchange.session).await.map_err(|fault| fault.to_string())?;
        let mut words = String::from_utf8_lossy(&body).trim().to_owned();
        let mut secrets: Vec<_> = exchange.server.config().secrets().map(Secret::expose).collect();
        // One may begin as the other does.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        for secret in secrets {
            words = words.replace(secret, "…");
        }
        Err(format!("Electric says {}: {words}", exchange.status.as_u16()))
    }

    /// Asks the shape's server, with the other secret where it refuses the one in use.
    async fn exchange(&self, ask: &Ask) -> Result<Exchange, Fault> {
        // A name that is gone was given by rules of before.
        let pool = self.upstreams.find(ask.request.upstream()).ok_or(Fault::Reloaded)?;
        let server = pool.server(ask.request.definition())?;
        let place = server.secret.place();
        let mut exchange = self.exchange_with(pool, server, place, ask).await?;
        let other = SecretInUse::other(place, server.config()).filter(|_| exchange.status == StatusCode::UNAUTHORIZED);
        let Some(other) = other else { return Ok(exchange) };
        // A connection that breaks over it is not used again, and that is all.
        if read_whole(&mut exchange.session).await.is_ok() {
            release(exchange).await;
        }
        self.metrics.upstream_retried(ask.request.rule().as_str());
        let exchange = self.exchange_with(pool, server, other, ask).await?;
        if server.secret.take(other, exchange.status) {
            let (upstream, key) = (pool.name().as_str(), SecretInUse::key(other));
            tracing::info!(upstream, server = %server.url(), "Electric takes another secret: from here on `{key}` is sent");
        }
        Ok(exchange)
    }

    /// Sends, on a connection that takes it, and reads the header. A POST is sent again like a GET: it asks for a
    /// subset, and changes nothing.
    async fn exchange_with(
        &self,
        pool: &Pool,
        server: &Arc<UpstreamServer>,
        secret: usize,
        ask: &Ask,
    ) -> Result<Exchange, Fault> {
        let retried = || self.metrics.upstream_retried(ask.request.rule().as_str());
        let mut retries = 0;
        loop {
            let connection = server.connect(retried).await.map_err(|fault| pool.failed(fault, false))?;
            let reused = connection.reused;
            match self.send(server, connection, secret, ask).await {
                Ok(exchange) => return Ok(exchange),
                Err(fault) if !reused || fault == Fault::UpstreamTimeout || retries == MAX_RETRIES => {
                    return Err(pool.failed(fault, true));
                }
                Err(_) => {
                    retries += 1;
                    retried();
                }
            }
        }
    }

    async fn send(
        &self,
        server: &Arc<UpstreamServer>,
        connection: Connection,
        secret: usize,
        ask: &Ask,
    ) -> Result<Exchange, Fault> {
        let Connection { mut session, peer, .. } = connection;
        session.set_read_timeout(peer.options.read_timeout);
        session.set_write_timeout(peer.options.write_timeout);
        let asked = Instant::now();
        let header = request_header(server, secret, ask).map_err(|_| Fault::Internal)?;
        session.write_request_header(Box::new(header)).await.map_err(|error| Fault::of_upstream(&error))?;
        if let Some(body) = ask.request.body() {
            let body = Bytes::copy_from_slice(body.as_bytes());
            session.write_request_body(body, true).await.map_err(|error| Fault::of_upstream(&error))?;
        }
        session.finish_request_body().await.map_err(|error| Fault::of_upstream(&error))?;
        let (status, headers) = loop {
            session.read_response_header().await.map_err(|error| Fault::of_upstream(&error))?;
            let header = session.response_header().ok_or(Fault::Internal)?;
            if !header.status.is_informational() {
                break (header.status, header.headers.clone());
            }
        };
        if let HttpSession::H1(session) = &mut session {
            session.respect_keepalive();
        }
        self.metrics.upstream_answered(ask.request.is_live(), asked.elapsed());
        Ok(Exchange { server: Arc::clone(server), session, peer, status, headers })
    }
}

/// The request for the wire, built from empty: nothing of the client but what was parsed.
fn request_header(server: &UpstreamServer, secret: usize, ask: &Ask) -> pingora::Result<RequestHeader> {
    let target = ask.request.target(secrets::secret(secret, server.config()));
    let body = ask.request.body();
    let method = if body.is_some() { Method::POST } else { Method::GET };
    let mut header = RequestHeader::build_no_case(method, target.expose().as_bytes(), Some(8))?;
    header.set_version(Version::HTTP_11);
    header.insert_header(HOST, server.url().authority())?;
    header.insert_header(USER_AGENT, AGENT)?;
    header.insert_header(ACCEPT, "*/*")?;
    // Electric compresses errors only (PROTOCOL 2, Accept-Encoding), and those are read here.
    header.insert_header(ACCEPT_ENCODING, "identity")?;
    header.insert_header("x-request-id", &*ask.request_id)?;
    if let Some(body) = body {
        header.insert_header(CONTENT_TYPE, "application/json")?;
        header.insert_header(CONTENT_LENGTH, body.len())?;
    }
    if let Some(trace) = &ask.trace {
        header.insert_header(TRACEPARENT, trace.as_str())?;
    }
    if let Some(etag) = ask.known.as_ref().and_then(|known| known.head.etag()) {
        header.insert_header(IF_NONE_MATCH, etag)?;
    }
    Ok(header)
}

/// Gives the connection back, its answer read.
async fn release(exchange: Exchange) {
    exchange.server.release(exchange.session, &exchange.peer).await;
}

#[async_trait]
impl Source for Electric {
    async fn fetch(&self, mut ask: Ask, sink: &mut Sink) -> Result<(), Fault> {
        let tracer = self.tracer.as_ref();
        let mut span =
            tracer.and_then(|tracer| tracer.upstream(&mut ask.trace, ask.request.rule(), ask.request.is_live()));
        let fetched = self.answer(ask, sink, &mut span).await;
        if let (Some(span), Err(fault)) = (&mut span, &fetched) {
            span.failed(fault.as_str());
        }
        fetched
    }
}

impl Electric {
    async fn answer(&self, ask: Ask, sink: &mut Sink, span: &mut Option<Box<UpstreamSpan>>) -> Result<(), Fault> {
        let mut exchange = self.exchange(&ask).await?;
        let (status, rule) = (exchange.status, ask.request.rule().as_str());
        if let Some(span) = span {
            span.answered(status);
        }
        if status.as_u16() >= 400 && status != StatusCode::CONFLICT {
            self.metrics.upstream_refused(rule, status.as_u16());
        }
        match ask.known {
            Some(known) if status == StatusCode::NOT_MODIFIED => {
                sink.head(known.head.renewed(&exchange.headers));
                sink.push(known.body).await;
            }
            _ => match fault_of(status, &exchange.headers) {
                Some(fault) => return Err(fault),
                None if status == StatusCode::BAD_REQUEST => {
                    let body = read_whole(&mut exchange.session).await?;
                    let body = refused_parameters(&body, &ask.request).map_err(|words| {
                        let request_id = &ask.request_id;
                        tracing::warn!(%request_id, rule, electric = ?words, "Electric refused what the rule made of a request");
                        Fault::UpstreamRefused(400)
                    })?;
                    let mut headers = HeaderMap::new();
                    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
                    sink.head(Head::new(status, &headers));
                    sink.push(body).await;
                }
                None => {
                    // Its end could not be told from a connection that broke (SECURITY, pingora issue 932).
                    if !exchange.headers.contains_key(CONTENT_LENGTH)
                        && !exchange.headers.contains_key(TRANSFER_ENCODING)
                    {
                        return Err(Fault::UpstreamUnreachable);
                    }
                    sink.head(Head::new(status, &exchange.headers));
                    copy(&mut exchange.session, sink).await?;
                }
            },
        }
        sink.finish();
        release(exchange).await;
        Ok(())
    }
}

/// Copies the body; what Electric has sent is shown before it makes us wait for more.
async fn copy(session: &mut HttpSession, sink: &mut Sink) -> Result<(), Fault> {
    loop {
        let piece = {
            let mut read = pin!(session.read_response_body());
            match poll_fn(|context| Poll::Ready(read.as_mut().poll(context))).await {
                Poll::Ready(piece) => piece,
                Poll::Pending => {
                    sink.flush().await;
                    read.await
                }
            }
        };
        match piece.map_err(|error| Fault::of_upstream(&error))? {
            Some(bytes) => sink.push(bytes).await,
            None => return Ok(()),
        }
    }
}

/// The whole of an error's body, cut where it is longer than any of Electric's.
async fn read_whole(session: &mut HttpSession) -> Result<Bytes, Fault> {
    let mut whole = BytesMut::new();
    while let Some(bytes) = session.read_response_body().await.map_err(|error| Fault::of_upstream(&error))? {
        let room = MAX_BODY.saturating_sub(whole.len());
        whole.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
    Ok(whole.freeze())
}
