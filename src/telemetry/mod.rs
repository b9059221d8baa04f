//! What an operator sees: metrics and the access log.
//!
//! Every label comes from the configuration or from an enum, never from a client.

mod access_log;
mod logging;
mod metrics;
mod trace_context;

pub use access_log::{Record, SERVED, TARGET as ACCESS_TARGET};
pub use logging::init as init_logging;
pub use metrics::{Metrics, TokenCheck};
pub use trace_context::{TRACEPARENT, TraceParent};
