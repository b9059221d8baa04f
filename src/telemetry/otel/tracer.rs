//! Decides which requests are recorded, and creates their spans.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{Method, StatusCode, Version};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SamplingDecision, ShouldSample, SpanData, SpanEvents,
    SpanExporter, SpanLinks, SpanProcessor,
};
use tokio::sync::Semaphore;

use super::collector::Collector;
use crate::metrics::Metrics;
use crate::policy::RuleId;
use crate::telemetry::OtelSettings;
use crate::telemetry::Record;
use crate::trace_context::TraceParent;

/// Decides which requests are recorded, and queues their spans.
#[derive(Debug)]
pub struct Tracer {
    /// Samples a trace by its id, so that services with the same ratio record the same traces.
    sampler: Sampler,
    processor: BatchSpanProcessor,
    /// Places for spans that are queued or being sent. The processor has room for all of them, so spans it would drop
    /// without telling us are dropped and counted here.
    room: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// The maximum number of spans that are queued or being sent; a few MB.
const CAPACITY: usize = 4096;

/// The maximum number of spans sent in one request.
const BATCH: usize = 512;

/// How long a span waits for others to be sent with it.
const GATHER: Duration = Duration::from_secs(1);

impl Tracer {
    /// Creates a tracer that sends spans on the current runtime.
    ///
    /// # Errors
    /// If the collector's URL cannot be used, or there is no current runtime.
    pub fn new(config: &OtelSettings, metrics: Arc<Metrics>) -> anyhow::Result<Arc<Self>> {
        let room = Arc::new(Semaphore::new(CAPACITY));
        let collector = Collector::new(config, Arc::clone(&room), Arc::clone(&metrics))?;
        Ok(Arc::new(Self::with(config.sample, collector, room, metrics)))
    }

    fn with(sample: f64, exporter: impl SpanExporter + 'static, room: Arc<Semaphore>, metrics: Arc<Metrics>) -> Self {
        let batches = BatchConfigBuilder::default().with_max_queue_size(CAPACITY).with_max_export_batch_size(BATCH);
        let processor = BatchSpanProcessor::new(exporter, batches.with_scheduled_delay(GATHER).build());
        Self { sampler: Sampler::TraceIdRatioBased(sample), processor, room, metrics }
    }

    /// Returns the trace to use for a request whose client sent `parent`, and the parent of the request's own span if
    /// it is recorded.
    ///
    /// If the client does not record its trace, neither does shapegate. If it does, the sampler still decides, so that
    /// clients cannot cause more spans than configured. That is why the sampler is not `ParentBased`.
    pub fn begin(&self, parent: Option<TraceParent>) -> (Option<TraceParent>, Option<u64>) {
        let (trace, above) = match &parent {
            None => (rand::random::<u128>().max(1), 0),
            Some(theirs) if theirs.is_sampled() => (theirs.trace(), theirs.span()),
            Some(_) => return (parent, None),
        };
        if self.takes(trace) { (Some(TraceParent::recorded(trace, span_id())), Some(above)) } else { (parent, None) }
    }

    fn takes(&self, trace: u128) -> bool {
        let sampled = self.sampler.should_sample(None, trace.into(), "", &SpanKind::Server, &[], &[]);
        sampled.decision == SamplingDecision::RecordAndSample
    }

    /// Queues the span of a request that ended with `status` (0 if no response was sent) and `bytes` of body.
    pub fn answered(&self, record: &Record, method: &Method, version: Version, status: u16, bytes: usize) {
        let (Some(parent), Some(context)) = (record.span, &record.trace) else { return };
        let method = known(method);
        let mut span = span(context, parent, SpanKind::Server, name(method, record.rule.as_ref()));
        span.attributes = vec![
            KeyValue::new("http.request.method", method),
            KeyValue::new("network.protocol.version", if version == Version::HTTP_2 { "2" } else { "1.1" }),
            KeyValue::new("http.response.body.size", integer(bytes)),
            KeyValue::new("shapegate.outcome", record.outcome),
            KeyValue::new("shapegate.live", record.live),
            KeyValue::new("shapegate.request_id", record.request_id.clone()),
        ];
        if status > 0 {
            span.attributes.push(KeyValue::new("http.response.status_code", i64::from(status)));
        }
        span.attributes.extend(record.reason.map(|reason| KeyValue::new("shapegate.reason", reason.as_str())));
        span.attributes.extend(record.join.map(|join| KeyValue::new("shapegate.cache", join.as_str())));
        span.attributes.extend(record.rule.as_ref().map(rule));
        // The status does not show a response that was interrupted; the outcome does.
        if status >= 500 || record.outcome.starts_with("upstream_") || record.outcome == "internal" {
            span.status = Status::error(record.outcome);
        }
        self.end(span, record.started);
    }

    /// Starts the span of a request to Electric, and replaces `trace` with the one to send there. Returns `None` if the
    /// span is not recorded.
    pub(crate) fn upstream(
        self: &Arc<Self>,
        trace: &mut Option<TraceParent>,
        of: &RuleId,
        live: bool,
    ) -> Option<Box<UpstreamSpan>> {
        let above = trace.take_if(|trace| trace.is_sampled() && self.takes(trace.trace()))?;
        let context = trace.insert(TraceParent::recorded(above.trace(), span_id()));
        let mut span = span(context, above.span(), SpanKind::Client, name("electric", Some(of)));
        span.attributes = vec![rule(of), KeyValue::new("shapegate.live", live)];
        Some(Box::new(UpstreamSpan { span, started: Instant::now(), tracer: Arc::clone(self) }))
    }

    /// Queues a span that ends now, or drops it.
    #[expect(
        clippy::disallowed_methods,
        reason = "spans are compared with those of other machines; nothing is decided"
    )]
    fn end(&self, mut span: SpanData, started: Instant) {
        let Ok(place) = self.room.try_acquire() else { return self.metrics.spans_dropped(1) };
        // The collector releases it.
        place.forget();
        span.end_time = SystemTime::now();
        span.start_time = span.end_time.checked_sub(started.elapsed()).unwrap_or(span.end_time);
        self.processor.on_end(span);
    }

    /// Sends the queued spans, for at most `limit`, and accepts no more. For the end of the process.
    pub async fn finish(self: &Arc<Self>, limit: Duration) {
        self.room.close();
        let tracer = Arc::clone(self);
        // Spans not sent in time are lost.
        let _ = tokio::task::spawn_blocking(move || tracer.processor.shutdown_with_timeout(limit)).await;
    }
}

/// The span of a request to Electric in flight. It ends when this is dropped.
pub(crate) struct UpstreamSpan {
    span: SpanData,
    started: Instant,
    tracer: Arc<Tracer>,
}

impl UpstreamSpan {
    /// Records that Electric's response header has arrived.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        let elapsed = self.started.elapsed().as_millis();
        self.span.attributes.push(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        self.span.attributes.push(KeyValue::new("shapegate.header_ms", integer(elapsed)));
    }

    /// Records that the request failed or its response was interrupted.
    pub(crate) fn failed(&mut self, fault: &'static str) {
        self.span.status = Status::error(fault);
    }
}

impl Drop for UpstreamSpan {
    fn drop(&mut self) {
        self.tracer.end(self.span.clone(), self.started);
    }
}

/// Creates a span without times and attributes.
fn span(context: &TraceParent, parent: u64, kind: SpanKind, name: String) -> SpanData {
    let (trace, id) = (TraceId::from(context.trace()), SpanId::from(context.span()));
    SpanData {
        span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::NONE),
        parent_span_id: SpanId::from(parent),
        parent_span_is_remote: kind == SpanKind::Server && parent != 0,
        span_kind: kind,
        name: name.into(),
        start_time: SystemTime::UNIX_EPOCH,
        end_time: SystemTime::UNIX_EPOCH,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("shapegate").build(),
    }
}

/// Returns the method as OpenTelemetry's conventions require: unknown methods become `_OTHER`, because a client can
/// invent any.
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

fn rule(rule: &RuleId) -> KeyValue {
    KeyValue::new("shapegate.rule", rule.as_str().to_owned())
}

fn integer(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

/// Returns a random id that is not 0, since 0 means no span.
fn span_id() -> u64 {
    rand::random::<u64>().max(1)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use opentelemetry_sdk::error::OTelSdkResult;

    use super::*;

    /// Keeps the spans it is sent, and never releases their places.
    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    fn tracer(sample: f64, room: usize) -> (Arc<Tracer>, Kept) {
        let (kept, metrics) = (Kept::default(), Arc::new(Metrics::new().unwrap()));
        let tracer = Tracer::with(sample, kept.clone(), Arc::new(Semaphore::new(room)), metrics);
        (Arc::new(tracer), kept)
    }

    #[test]
    fn the_sampling_ratio_holds_and_is_consistent_for_each_trace() {
        let (none, quarter, all) = (tracer(0.0, 1).0, tracer(0.25, 1).0, tracer(1.0, 1).0);
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

    #[tokio::test]
    async fn a_span_without_a_place_is_dropped_and_counted() {
        let (tracer, kept) = tracer(1.0, 1);
        let mut record = Record::new();
        (record.trace, record.span) = tracer.begin(None);
        (0..3).for_each(|_| tracer.answered(&record, &Method::PATCH, Version::HTTP_11, 503, 9));
        tracer.finish(Duration::from_secs(10)).await;
        tracer.answered(&record, &Method::PATCH, Version::HTTP_11, 503, 9);
        let spans = kept.0.lock().unwrap();
        let [span] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!((&*span.name, &span.status), ("_OTHER", &Status::error("served")));
        let families = tracer.metrics.gather();
        let counted = families.iter().find(|family| family.name() == "shapegate_spans_total").unwrap();
        let values: Vec<_> = counted.get_metric().iter().map(|metric| metric.get_counter().get_value()).collect();
        assert_eq!(values, [3.0, 0.0], "dropped, sent");
    }
}
