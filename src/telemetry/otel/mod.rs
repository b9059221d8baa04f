//! Spans of requests and of the requests to Electric that they cause, for an OpenTelemetry collector.
//!
//! The sampler, the queue and its thread are those of `opentelemetry_sdk`. Ours are the span's contents, the rule that a
//! client cannot ask for more than its share, and the count of what was sent and dropped. A recorded request costs a
//! small object when it ends; one that is not recorded costs a comparison when it starts.

#[cfg(not(feature = "otel"))]
mod absent;
#[cfg(feature = "otel")]
mod collector;
#[cfg(feature = "otel")]
mod tracer;

#[cfg(not(feature = "otel"))]
use absent as tracer;

pub use tracer::Tracer;
pub(crate) use tracer::UpstreamSpan;
