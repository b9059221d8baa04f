//! The request path on Pingora's HTTP sessions: [`Front`] decides nothing itself.
//!
//! It calls `admit`, the one function that knows the order of decisions, answers rejections, and lets `follow` answer
//! the admitted from a flight. It stands on Pingora's core, below `pingora-proxy`, whose phases would hold 14 KB for
//! each client that waits. A subset goes the same way, on a flight of its own: in those phases no body could be judged
//! before Electric is asked and then be replaced, and no wait would end with the token or the rule.

mod admit;
mod connected;
mod context;
mod cors;
mod follow;
mod http2;
mod reply;
mod settings;

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::StatusCode;
use pingora::ErrorType;
use pingora::apps::{HttpPersistentSettings, HttpServerOptions, ReusedHttpStream};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::H2Options;
use pingora::server::ShutdownWatch;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::auth::TokenVerifier;
use crate::clock::Clock;
use crate::fault::Fault;
use crate::flight::CacheSettings;
use crate::flight::Hub;
use crate::gatekeeper::Gatekeeper;
use crate::limits::LimitSettings;
use crate::limits::{Connection, Limiter};
use crate::policy::PolicySet;
use crate::rejection::Rejection;
use crate::telemetry::{Audit, Metrics, Record, Tracer};
use crate::trace_context::TraceParent;
use crate::upstream::Upstreams;

use admit::Decision;
pub(crate) use connected::Connected;
use context::RequestCtx;
pub use cors::CorsPolicy;
use http2::Http2;
use reply::Edge;
pub use settings::{CorsSettings, Http2Settings, Origins};

/// Answers clients by the [`Gateway`] of now. A reload replaces that as a whole: each request is judged by one, and one
/// that waits by the new one as soon as there is one.
pub struct Front {
    gate: ArcSwap<Gateway>,
    options: HttpServerOptions,
    http2: Http2,
}

/// Everything that answering a request needs.
pub struct Gateway {
    /// Which one it is: goes up with each reload.
    pub generation: u64,
    /// Checks tokens.
    pub verifier: Arc<TokenVerifier>,
    /// Decides.
    pub policy: PolicySet,
    /// Mints tokens for one shape, where it is configured.
    pub gatekeeper: Option<Gatekeeper>,
    /// What browsers are told.
    pub cors: CorsPolicy,
    /// Sizes.
    pub limits: LimitSettings,
    /// What is told of sharing, and when an answer is compressed.
    pub cache: CacheSettings,
    /// Every Electric.
    pub upstreams: Arc<Upstreams>,
    /// What is too much.
    pub limiter: Arc<Limiter>,
    /// Where answers come from.
    pub hub: Arc<Hub>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Who has read what, where that is kept.
    pub audit: Option<Arc<Audit>>,
    /// Records spans, where that is configured.
    pub tracer: Option<Arc<Tracer>>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Tells those who wait that something has changed.
    pub changes: watch::Receiver<Change>,
}

/// What those who wait are told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// Of the gateway of now.
    pub generation: u64,
    /// The process is about to stop.
    pub stopping: bool,
    /// Within this time, each at a moment of its own, streams of events are then ended: their clients come back at once,
    /// and all at one time would be a wave.
    pub leave_within: Duration,
}

impl Front {
    /// Answers by `gate`, and speaks HTTP/2 as `http2` says.
    pub fn new(gate: Gateway, http2: &Http2Settings) -> Self {
        let mut options = HttpServerOptions::default();
        options.h2c = http2.h2c;
        options.h2_idle_timeout = Some(http2.idle_timeout);
        Self { gate: ArcSwap::from_pointee(gate), options, http2: Http2::new(http2) }
    }

    /// What answers now.
    pub fn gate(&self) -> Arc<Gateway> {
        self.gate.load_full()
    }

    /// From here on `gate` answers. Those who wait learn of it by [`Gateway::changes`].
    pub fn replace(&self, gate: Gateway) {
        self.gate.store(Arc::new(gate));
    }

    /// Takes a place for a new connection.
    pub(crate) fn connect(&self, peer: IpAddr) -> Result<Connection, Rejection> {
        let gate = self.gate.load();
        gate.limiter.connect(peer).map_err(|limited| gate.metrics.limited(limited))
    }

    /// Counts a connection that could not be accepted.
    pub(crate) fn accept_failed(&self) {
        self.gate.load().metrics.accept_failed();
    }

    /// What is negotiated with a new connection of HTTP/2.
    fn h2_options(&self) -> H2Options {
        self.http2.options(&self.gate.load().limits)
    }

    /// Answers the next request on a connection; says whether there may be another.
    async fn process(
        &self,
        connection: &Connection,
        mut session: Box<ServerSession>,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if !read_request(&mut session, shutdown).await {
            return None;
        }
        let mut ctx = RequestCtx::default();
        let mut gate = self.gate();
        let answered = self.answer(&mut gate, connection, &mut session, &mut ctx).await;
        let by_session = || Some((session.response_written()?.status, session.body_bytes_sent()));
        let (status, bytes) = ctx.sent.or_else(by_session).map_or((0, 0), |(status, bytes)| (status.as_u16(), bytes));
        if let Err(fault) = &answered {
            ctx.record.note(fault);
        }
        gate.observe(&mut ctx.record, status, bytes);
        if let Some(tracer) = &gate.tracer {
            let request = session.req_header();
            tracer.answered(&ctx.record, &request.method, request.version, status, bytes);
        }
        // An answer that was broken off must be seen to be: the connection, or the stream, is dropped as it is.
        answered.ok()?;
        let settings = HttpPersistentSettings::for_session(&session);
        let stream = session.finish().await.ok().flatten()?;
        Some(ReusedHttpStream::from_reusable_stream(stream, settings))
    }
}

/// Pingora waits a minute for each read, and a header may come in as many of them as it has bytes.
const HEADER_TIMEOUT: Duration = Duration::from_secs(90);

/// How long an idle connection stays open when the process stops. Its client does not know yet, and a request may be on
/// its way: it is answered, with `Connection: close` (nginx has `keepalive_min_timeout` for the same).
const LAST_CALL: Duration = Duration::from_secs(5);

/// Reads the header of the next request, as long as there may be one. What is no HTTP is answered by Pingora.
async fn read_request(session: &mut ServerSession, shutdown: &ShutdownWatch) -> bool {
    let read = tokio::select! {
        biased; // what has been read already is answered
        read = session.read_request() => read,
        () = last_call(shutdown.clone()) => return false,
        () = sleep(HEADER_TIMEOUT) => return false,
    };
    match read {
        Ok(read) => read,
        Err(error) => {
            if matches!(error.etype(), ErrorType::InvalidHTTPHeader) {
                // The client may be gone already.
                let _ = session.respond_error(400).await;
            }
            session.shutdown().await;
            false
        }
    }
}

async fn last_call(mut shutdown: ShutdownWatch) {
    let _ = shutdown.wait_for(|stop| *stop).await;
    sleep(LAST_CALL).await;
    // What came in the meantime is seen before the end.
    tokio::task::yield_now().await;
}

impl Front {
    /// Answers one request; an error is an answer that could not be given, or not to its end. `gate` is the gateway of
    /// now, also where that is another one at the end.
    async fn answer(
        &self,
        gate: &mut Arc<Gateway>,
        connection: &Connection,
        session: &mut ServerSession,
        ctx: &mut RequestCtx,
    ) -> Result<(), Fault> {
        ctx.edge = Edge::of(session.req_header(), &gate.cors);
        let trace = TraceParent::from_headers(&session.req_header().headers);
        (ctx.record.trace, ctx.record.span) = match &gate.tracer {
            Some(tracer) => tracer.begin(trace),
            None => (trace, None),
        };
        match admit::admit(gate, connection, session, &mut ctx.record).await {
            Ok(Decision::Admit(admission)) => {
                let served = self.serve(gate, session, ctx, admission).await;
                if let Some(position) = ctx.position {
                    connection.answered(position, ctx.next, ctx.record.started, Instant::now());
                }
                served
            }
            Ok(Decision::Answer(document)) => {
                ctx.record.outcome = document.outcome;
                let header = ctx.edge.document_header(&document, &ctx.record.request_id);
                gate.write_whole(session, header, document.body.into()).await
            }
            Ok(Decision::Preflight(methods)) => {
                ctx.record.outcome = "preflight";
                let header = ctx.edge.preflight_header(session.req_header(), methods, &ctx.record.request_id);
                gate.write_whole(session, header, Bytes::new()).await
            }
            Err(rejection) => gate.reject(session, ctx, &rejection).await,
        }
    }
}

impl Gateway {
    /// Tells observers of an answer with `status` (0: none) and `bytes` of body.
    fn observe(&self, record: &mut Record, status: u16, bytes: usize) {
        self.metrics.answered(record, status, bytes);
        // Other answers hold nothing of a shape.
        if let (Some(audit), Some(reading), 200 | 304) = (&self.audit, record.reading.take(), status) {
            audit.record(reading, bytes, self.clock.now());
        }
        record.log(status, bytes);
    }

    async fn reject(
        &self,
        session: &mut ServerSession,
        ctx: &mut RequestCtx,
        rejection: &Rejection,
    ) -> Result<(), Fault> {
        let (_, code, _) = rejection.answer();
        ctx.record.ended(code);
        let body = Bytes::from(rejection.body());
        let header = ctx.edge.rejection_header(rejection, body.len(), &ctx.record.request_id);
        self.write_whole(session, header, body).await
    }

    async fn write_whole(
        &self,
        session: &mut ServerSession,
        header: pingora::Result<ResponseHeader>,
        body: Bytes,
    ) -> Result<(), Fault> {
        let header = header.map_err(|_| Fault::Internal)?;
        let bodiless = header.status == StatusCode::NO_CONTENT || session.req_header().method == http::Method::HEAD;
        // The rest of a request that was not read must not become the next one (SECURITY P4).
        if !session.is_body_done() || self.changes.borrow().stopping {
            session.set_keepalive(None);
        }
        let limit = self.limits.write_timeout;
        in_time(limit, session.write_response_header(Box::new(header))).await?;
        let body = if bodiless { Bytes::new() } else { body };
        in_time(limit, session.write_response_body(body, true)).await
    }
}

/// A client that does not take what is written is cut; nobody else notices.
async fn in_time<E>(limit: Duration, writing: impl Future<Output = Result<(), E>>) -> Result<(), Fault> {
    match timeout(limit, writing).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Fault::ClientGone),
        Err(_) => Err(Fault::SlowReader),
    }
}
