//! The state of one request in the phases, and how a waiting request leaves them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use http::StatusCode;
use parking_lot::Mutex;
use pingora::protocols::http::ServerSession;
use pingora::{Error, ErrorType, Result};

use super::exchange::Exchange;
use super::follow::Waiting;
use super::gateway::Gateway;
use super::reply::Negotiated;
use super::rules::Rules;
use crate::limits::{Connection, Position};
use crate::telemetry::Record;
use crate::trace_context::TraceParent;

tokio::task_local! {
    /// The client's request whose phases run in this task. A flight's request has none.
    static CURRENT: Arc<Arrival>;
}

/// The two kinds of request that run through the phases of [`super::Gateway`].
#[derive(Default)]
pub enum RequestContext {
    /// It has not begun.
    #[default]
    New,
    /// A client's request.
    Client(Box<ClientRequest>),
    /// A client's request that has left the phases and waits.
    Waiting,
    /// A flight's request to Electric; no client is attached.
    Flight(Box<Exchange>),
}

/// A client's request: what decides its response, and what is recorded about it.
pub struct ClientRequest {
    /// The rules that judge it.
    pub(super) rules: Arc<Rules>,
    pub(super) arrival: Arc<Arrival>,
    pub(super) negotiated: Negotiated,
    pub(super) record: Record,
    /// Status and body bytes of a response that was written without Pingora's session.
    pub(super) sent: Option<(StatusCode, usize)>,
    /// The cursor of the client's previous live response.
    pub(super) cursor: Option<u64>,
    /// Where in a shape's log the request starts, and where its response ends.
    pub(super) position: Option<Position>,
    pub(super) next: Option<Position>,
}

/// State that the phases of a client's request share with the connection that drives them.
pub(super) struct Arrival {
    pub(super) connection: Arc<Connection>,
    /// When the bytes of the request arrived. Over HTTP/2 that may be long before it is handled.
    pub(super) at: Instant,
    /// Whether it is plain HTTP where TLS is expected.
    pub(super) misdirected: bool,
    /// Whether the header has arrived.
    begun: AtomicBool,
    /// The request, once it has left the phases to wait for its flight.
    waiting: Mutex<Option<Box<Waiting>>>,
}

impl Arrival {
    pub(super) fn new(connection: Arc<Connection>, at: Instant, misdirected: bool) -> Arc<Self> {
        Arc::new(Self { connection, at, misdirected, begun: AtomicBool::new(false), waiting: Mutex::new(None) })
    }

    /// Returns the arrival of the request whose phases run in this task.
    pub(super) fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Runs the phases of this request.
    pub(super) async fn scope<T>(self: &Arc<Self>, phases: impl Future<Output = T>) -> T {
        CURRENT.scope(Arc::clone(self), phases).await
    }

    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    pub(super) const fn begun(&self) -> &AtomicBool {
        &self.begun
    }

    /// Takes a request out of the phases. Otherwise, Pingora's future of about 14 KB would be kept while it waits.
    pub(super) fn hand_over(&self, waiting: Waiting) {
        *self.waiting.lock() = Some(Box::new(waiting));
    }

    pub(super) fn take(&self) -> Option<Box<Waiting>> {
        self.waiting.lock().take()
    }
}

impl ClientRequest {
    /// Starts the record of a request whose header has arrived.
    pub(super) fn new(gateway: &Gateway, arrival: Arc<Arrival>, session: &ServerSession) -> Self {
        let (rules, request) = (gateway.rules(), session.req_header());
        let mut record = Record::new();
        let trace = TraceParent::from_headers(&request.headers);
        (record.trace, record.span) = match &gateway.tracer {
            Some(tracer) => tracer.begin(trace),
            None => (trace, None),
        };
        let negotiated = Negotiated::of(request, &rules.cors);
        Self { rules, arrival, negotiated, record, sent: None, cursor: None, position: None, next: None }
    }
}

impl RequestContext {
    /// Returns the exchange of a flight's request. A client's request never reaches the phases that call this.
    pub(super) fn exchange(&mut self) -> Result<&mut Exchange> {
        match self {
            Self::Flight(exchange) => Ok(exchange),
            Self::New | Self::Client(_) | Self::Waiting => Error::e_explain(ErrorType::InternalError, "not a flight"),
        }
    }
}
