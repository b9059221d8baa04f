//! What one request carries through the phases, and how it leaves them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::StatusCode;
use parking_lot::Mutex;
use pingora::protocols::http::ServerSession;
use pingora::{Error, ErrorType, Result};

use super::exchange::Exchange;
use super::follow::Waiting;
use super::gateway::Gateway;
use super::reply::Edge;
use super::rules::Rules;
use crate::limits::{Connection, Position};
use crate::telemetry::Record;
use crate::trace_context::TraceParent;

tokio::task_local! {
    /// The client's request that the phases run for. A flight's own request has none.
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
    /// A client's request that waits outside the phases by now.
    Waiting,
    /// A flight's request to Electric; no client is attached.
    Flight(Box<Exchange>),
}

/// A client's request: what its client is told, and what observers are told.
pub struct ClientRequest {
    /// The rules that judge it.
    pub(super) rules: Arc<Rules>,
    pub(super) arrival: Arc<Arrival>,
    pub(super) edge: Edge,
    pub(super) record: Record,
    /// Status and body bytes of a response that was written past Pingora's session.
    pub(super) sent: Option<(StatusCode, usize)>,
    /// Where in a shape's log it is, and where its response leads.
    pub(super) position: Option<Position>,
    pub(super) next: Option<Position>,
}

/// The place where the phases and the connection that drives them meet.
pub(super) struct Arrival {
    pub(super) connection: Arc<Connection>,
    /// Whether the header has arrived.
    begun: AtomicBool,
    /// A request that waits for its flight after the phases have ended.
    waiting: Mutex<Option<Box<Waiting>>>,
}

impl Arrival {
    pub(super) fn new(connection: Arc<Connection>) -> Arc<Self> {
        Arc::new(Self { connection, begun: AtomicBool::new(false), waiting: Mutex::new(None) })
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

    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Takes a request out of the phases: Pingora's future is about 14 KB, and would be held for as long as it waits.
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
        let edge = Edge::of(request, &rules.cors);
        Self { rules, arrival, edge, record, sent: None, position: None, next: None }
    }
}

impl RequestContext {
    /// The exchange with Electric of a flight's request. Only such a request gets to the phases that ask for it.
    pub(super) fn exchange(&mut self) -> Result<&mut Exchange> {
        match self {
            Self::Flight(exchange) => Ok(exchange),
            Self::New | Self::Client(_) | Self::Waiting => Error::e_explain(ErrorType::InternalError, "not a flight"),
        }
    }
}
