//! Where the responses of flights come from.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::flight::Flight;
use super::head::Head;
use super::sink::Sink;
use crate::fault::Fault;
use crate::metrics::Metrics;
use crate::rewrite::UpstreamRequest;
use crate::trace_context::TraceParent;

/// Fetches the responses of flights: from Electric, or in a test.
#[async_trait]
pub trait Source: Send + Sync {
    /// Fetches the response and writes it to `sink`, to the end.
    ///
    /// # Errors
    /// Why the response is missing or incomplete. Before the header, followers get a fault; after it, an incomplete
    /// body.
    async fn fetch(&self, ask: Ask, sink: &Sink) -> Result<(), Fault>;

    /// Identifies the Electric that answers `request`. A reload may give an upstream's name to another Electric; two
    /// requests share a response only if this text is equal too.
    fn identity(&self, request: &UpstreamRequest) -> Arc<str>;
}

/// A request for a source.
#[derive(Debug)]
pub struct Ask {
    /// The request to Electric.
    pub request: UpstreamRequest,
    /// The id of the client's request that opened the flight.
    pub request_id: Box<str>,
    /// The trace of the request that opened the flight. Requests that join later are not in it.
    pub trace: Option<TraceParent>,
    /// A cached response to revalidate. Its entity tag makes the request conditional.
    pub known: Option<KnownAnswer>,
}

/// The client's request that opens a flight, as Electric is told of it.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Its id in the access log.
    pub request_id: &'a str,
    /// The trace it belongs to.
    pub trace: Option<&'a TraceParent>,
}

impl Ask {
    pub(super) fn new(request: UpstreamRequest, origin: Origin<'_>, known: Option<KnownAnswer>) -> Self {
        Self { request, request_id: origin.request_id.into(), trace: origin.trace.cloned(), known }
    }
}

/// An earlier response, in case Electric confirms it with a 304.
#[derive(Debug)]
pub struct KnownAnswer {
    /// Its header.
    pub head: Arc<Head>,
    /// The pieces of its body.
    pub body: Vec<bytes::Bytes>,
}

/// A stream of events that ends sooner is not at its regular end, which is after 60 s.
const SHORT: Duration = Duration::from_secs(5);

/// How often a short stream is continued.
const CONTINUATIONS: usize = 8;

/// Fetches the response of a flight, and counts the requests to Electric.
///
/// Electric ends a stream of events at once if it starts behind the end of the log, and a client that gets several such
/// streams falls back to long polls (docs/electric.md, "Event streams"). So the stream is continued with another
/// request, where it ended.
pub(super) async fn fetch(
    source: &dyn Source,
    ask: Ask,
    flight: &Flight,
    sink: &Sink,
    metrics: &Metrics,
) -> Result<(), Fault> {
    metrics.opened(flight.rule.as_str());
    let request_id = ask.request_id.clone();
    let fetched = fetch_all(source, ask, flight, sink, metrics).await;
    if let Err(fault) = &fetched {
        // Once for all followers.
        tracing::warn!(%request_id, rule = flight.rule.as_str(), fault = fault.as_str(), "{fault}");
    }
    fetched
}

async fn fetch_all(
    source: &dyn Source,
    ask: Ask,
    flight: &Flight,
    sink: &Sink,
    metrics: &Metrics,
) -> Result<(), Fault> {
    let stream = ask.request.is_stream().then(|| (ask.request.clone(), ask.request_id.clone(), ask.trace.clone()));
    let mut started = Instant::now();
    source.fetch(ask, sink).await?;
    let Some((request, request_id, trace)) = stream else { return Ok(()) };
    for _ in 0..CONTINUATIONS {
        let Some(end) = sink.pause().await.filter(|_| started.elapsed() < SHORT && flight.followers() > 0) else {
            break;
        };
        metrics.opened(flight.rule.as_str());
        started = Instant::now();
        let request = request.starting_at(&end.to_string());
        let ask = Ask { request, request_id: request_id.clone(), trace: trace.clone(), known: None };
        if let Err(fault) = source.fetch(ask, sink).await {
            // Between two transactions, the stream may end as if it had not been continued.
            return if sink.pause().await.is_some() { Ok(()) } else { Err(fault) };
        }
    }
    Ok(())
}
