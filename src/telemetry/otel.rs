//! Spans of requests and of what they ask Electric, on their way to an OpenTelemetry collector.
//!
//! A request that is recorded costs a small object at its end, one that is not a comparison at its start. A task of its
//! own writes and sends them; what it cannot keep up with is dropped and counted.

#[cfg(feature = "otel")]
mod otlp;
#[cfg(not(feature = "otel"))]
#[path = "otel/absent.rs"]
mod otlp;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{Method, StatusCode, Version};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

use self::otlp::Otlp;
use super::settings::OtelSettings;
use super::{Metrics, Record};
use crate::policy::RuleId;
use crate::trace_context::TraceParent;

/// Decides what is recorded, and queues it.
#[derive(Debug)]
pub struct Tracer {
    /// A trace whose last 63 bits are below this is recorded: the same traces at every service with the same ratio.
    threshold: u64,
    entries: Sender<Entry>,
    metrics: Arc<Metrics>,
}

/// Sends what a [`Tracer`] queues.
pub struct Exporter {
    entries: Receiver<Entry>,
    collector: Otlp,
    metrics: Arc<Metrics>,
    /// Whether the last batch was lost: the first one lost is told, not each.
    failing: bool,
}

#[derive(Debug)]
enum Entry {
    Span(Box<Span>),
    /// Answered once all before it is sent or lost.
    Flush(oneshot::Sender<()>),
}

/// One thing that was done, from its start to its end.
#[derive(Debug)]
#[cfg_attr(not(feature = "otel"), expect(dead_code, reason = "only what sends them reads them"))]
struct Span {
    /// Its own id, and the trace's.
    context: TraceParent,
    /// 0: there is none.
    parent: u64,
    kind: Kind,
    name: String,
    started: SystemTime,
    ended: SystemTime,
    /// Why it failed, where that is our fault or Electric's.
    failure: Option<&'static str>,
    attributes: Vec<(&'static str, Value)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Asked by a client.
    Server,
    /// Asks Electric.
    Client,
}

#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "otel"), expect(dead_code, reason = "only what sends them reads them"))]
enum Value {
    Flag(bool),
    Number(u64),
    Text(Cow<'static, str>),
}

/// Spans that wait to be sent: some MB at most.
const CAPACITY: usize = 4096;

/// Spans sent at one time.
const BATCH: usize = 512;

/// How long a span waits for others to be sent with.
const GATHER: Duration = Duration::from_secs(1);

impl Tracer {
    /// A tracer, and what sends its spans once it [runs](Exporter::run).
    ///
    /// # Errors
    /// A build without the feature `otel`; a collector's URL that cannot be used.
    pub fn new(config: &OtelSettings, metrics: Arc<Metrics>) -> anyhow::Result<(Arc<Self>, Exporter)> {
        let collector = Otlp::new(config)?;
        let (sender, entries) = channel(CAPACITY);
        let tracer = Self { threshold: threshold(config.sample), entries: sender, metrics: Arc::clone(&metrics) };
        Ok((Arc::new(tracer), Exporter { entries, collector, metrics, failing: false }))
    }

    /// The trace of a request whose client names `parent`, and the parent of its own span where it is recorded.
    /// A client that does not record its trace is followed; one that does cannot ask for more than its share.
    pub fn begin(&self, parent: Option<TraceParent>) -> (Option<TraceParent>, Option<u64>) {
        let (trace, above) = match &parent {
            None => {
                let low = rand::random::<u64>();
                if !self.takes(low) {
                    return (None, None);
                }
                ((u128::from(rand::random::<u64>()) << 64) | u128::from(low.max(1)), 0)
            }
            Some(theirs) if theirs.is_sampled() && self.takes(theirs.trace() as u64) => (theirs.trace(), theirs.span()),
            Some(_) => return (parent, None),
        };
        (Some(TraceParent::recorded(trace, span_id())), Some(above))
    }

    const fn takes(&self, low: u64) -> bool {
        low >> 1 < self.threshold
    }

    /// Queues the span of a request that was answered with `status` (0: not at all) and `bytes` of body.
    pub fn answered(&self, record: &Record, method: &Method, version: Version, status: u16, bytes: usize) {
        let (Some(parent), Some(context)) = (record.span, &record.trace) else { return };
        let method = known(method);
        let mut attributes = vec![
            ("http.request.method", method.into()),
            ("network.protocol.version", if version == Version::HTTP_2 { "2" } else { "1.1" }.into()),
            ("http.response.body.size", Value::Number(bytes as u64)),
            ("shapegate.outcome", record.outcome.into()),
            ("shapegate.live", Value::Flag(record.live)),
            ("shapegate.request_id", Value::Text(record.request_id.clone().into())),
        ];
        if status > 0 {
            attributes.push(("http.response.status_code", Value::Number(status.into())));
        }
        attributes.extend(record.join.map(|join| ("shapegate.cache", join.as_str().into())));
        attributes.extend(record.rule.as_ref().map(rule));
        // An answer that was broken off has the status of one that was not.
        let failed = status >= 500 || record.outcome.starts_with("upstream_") || record.outcome == "internal";
        let (started, ended) = since(record.started);
        self.queue(Span {
            context: context.clone(),
            parent,
            kind: Kind::Server,
            name: name(method, record.rule.as_ref()),
            started,
            ended,
            failure: failed.then_some(record.outcome),
            attributes,
        });
    }

    /// The span of a request to Electric, which is sent in the trace that it sets; `None` where that is not recorded.
    pub(crate) fn upstream(
        self: &Arc<Self>,
        trace: &mut Option<TraceParent>,
        of: &RuleId,
        live: bool,
    ) -> Option<Box<UpstreamSpan>> {
        let above = trace.take_if(|trace| trace.is_sampled() && self.takes(trace.trace() as u64))?;
        let context = TraceParent::recorded(above.trace(), span_id());
        *trace = Some(context.clone());
        Some(Box::new(UpstreamSpan {
            context,
            parent: above.span(),
            name: name("electric", Some(of)),
            failure: None,
            attributes: vec![rule(of), ("shapegate.live", Value::Flag(live))],
            started: Instant::now(),
            tracer: Arc::clone(self),
        }))
    }

    fn queue(&self, span: Span) {
        if self.entries.try_send(Entry::Span(Box::new(span))).is_err() {
            self.metrics.spans_dropped(1);
        }
    }

    /// Waits until what is queued is sent, no longer than `limit`: for the end of the process.
    pub async fn flush(&self, limit: Duration) {
        let (done, sent) = oneshot::channel();
        let flushed = async {
            if self.entries.send(Entry::Flush(done)).await.is_ok() {
                let _ = sent.await;
            }
        };
        let _ = tokio::time::timeout(limit, flushed).await;
    }
}

impl Exporter {
    /// Sends until every tracer is gone.
    pub async fn run(mut self) {
        let mut batch = Vec::new();
        let mut due = None;
        loop {
            let entry = match due {
                None => self.entries.recv().await,
                Some(due) => match tokio::time::timeout_at(due, self.entries.recv()).await {
                    Ok(entry) => entry,
                    Err(_) => Some(Entry::Flush(oneshot::channel().0)),
                },
            };
            let flushed = match entry {
                None => return self.send(batch).await,
                Some(Entry::Flush(done)) => Some(done),
                Some(Entry::Span(span)) => {
                    batch.push(*span);
                    due.get_or_insert(tokio::time::Instant::now() + GATHER);
                    None
                }
            };
            if flushed.is_some() || batch.len() >= BATCH {
                due = None;
                self.send(std::mem::take(&mut batch)).await;
            }
            // Who asked may have given up.
            flushed.map(|done| done.send(()));
        }
    }

    async fn send(&mut self, batch: Vec<Span>) {
        let count = batch.len();
        if count == 0 {
            return;
        }
        match self.collector.send(batch).await {
            Ok(()) => {
                self.metrics.spans_sent(count);
                if self.failing {
                    tracing::info!("spans are sent again");
                }
                self.failing = false;
            }
            Err(cause) => {
                self.metrics.spans_dropped(count);
                if !self.failing {
                    tracing::warn!(%cause, "spans are lost");
                }
                self.failing = true;
            }
        }
    }
}

/// A request to Electric that is under way; it ends when this is dropped.
pub(crate) struct UpstreamSpan {
    context: TraceParent,
    parent: u64,
    name: String,
    failure: Option<&'static str>,
    attributes: Vec<(&'static str, Value)>,
    started: Instant,
    tracer: Arc<Tracer>,
}

impl UpstreamSpan {
    /// Electric's header has come.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.attributes.push(("http.response.status_code", Value::Number(status.as_u16().into())));
        self.attributes.push(("shapegate.header_ms", Value::Number(elapsed)));
    }

    /// It has failed, or its answer has broken off.
    pub(crate) fn failed(&mut self, fault: &'static str) {
        self.failure = Some(fault);
    }
}

impl Drop for UpstreamSpan {
    fn drop(&mut self) {
        let (started, ended) = since(self.started);
        self.tracer.queue(Span {
            context: self.context.clone(),
            parent: self.parent,
            kind: Kind::Client,
            name: std::mem::take(&mut self.name),
            started,
            ended,
            failure: self.failure,
            attributes: std::mem::take(&mut self.attributes),
        });
    }
}

/// A part of all numbers of 63 bits.
fn threshold(sample: f64) -> u64 {
    (sample * (1_u64 << 63) as f64) as u64
}

/// The wall clock's time of `started`, and of now.
#[expect(clippy::disallowed_methods, reason = "spans are compared with those of other machines; nothing is decided")]
fn since(started: Instant) -> (SystemTime, SystemTime) {
    let ended = SystemTime::now();
    (ended.checked_sub(started.elapsed()).unwrap_or(ended), ended)
}

/// As OpenTelemetry's conventions ask: a client may make up any.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::POST => "POST",
        _ => "_OTHER",
    }
}

fn name(verb: &str, rule: Option<&RuleId>) -> String {
    rule.map_or_else(|| verb.to_owned(), |rule| format!("{verb} {}", rule.as_str()))
}

fn rule(rule: &RuleId) -> (&'static str, Value) {
    ("shapegate.rule", Value::Text(rule.as_str().to_owned().into()))
}

/// 0 is no id.
fn span_id() -> u64 {
    rand::random::<u64>().max(1)
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Exporter").field("failing", &self.failing).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(sample: f64) -> (Tracer, Receiver<Entry>) {
        let (entries, receiver) = channel(1);
        let metrics = Arc::new(Metrics::new().unwrap());
        (Tracer { threshold: threshold(sample), entries, metrics }, receiver)
    }

    #[test]
    fn the_ratio_is_that_of_all_traces_and_the_same_trace_is_judged_the_same() {
        let (none, quarter, all) = (tracer(0.0).0, tracer(0.25).0, tracer(1.0).0);
        let mut taken = 0;
        for _ in 0..4_000 {
            let (trace, parent) = all.begin(None);
            let trace = trace.unwrap();
            assert!(parent == Some(0) && trace.trace() != 0 && trace.span() != 0);
            assert_eq!(none.begin(Some(trace.clone())), (Some(trace.clone()), None));
            let (ours, parent) = quarter.begin(Some(trace.clone()));
            let ours = ours.unwrap();
            assert_eq!(ours.trace(), trace.trace());
            assert_eq!(parent, (ours != trace).then(|| trace.span()));
            assert_eq!(parent.is_some(), quarter.begin(Some(trace)).1.is_some());
            taken += usize::from(parent.is_some());
        }
        assert!((700..1_300).contains(&taken), "{taken} of 4000");
        assert_eq!(none.begin(None), (None, None));
    }

    #[test]
    fn a_full_queue_keeps_nobody_waiting() {
        let (tracer, mut queued) = tracer(1.0);
        let mut record = Record::new();
        (record.trace, record.span) = tracer.begin(None);
        (0..3).for_each(|_| tracer.answered(&record, &Method::PATCH, Version::HTTP_11, 503, 9));
        let Some(Entry::Span(span)) = queued.blocking_recv() else { panic!("no span") };
        assert_eq!((span.name.as_str(), span.failure), ("_OTHER", Some("served")));
        assert!(queued.try_recv().is_err());
    }
}
