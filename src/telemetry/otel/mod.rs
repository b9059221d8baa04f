//! Exports spans of requests, and of the requests to Electric that they cause, to an OpenTelemetry collector.
//!
//! `opentelemetry_sdk` provides the sampler, the queue and its thread. Written here are the spans' contents, a sampling
//! rule that clients cannot override, and the counts of spans sent and dropped. A recorded request costs a small object
//! when it ends; any other costs a comparison when it starts.

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
