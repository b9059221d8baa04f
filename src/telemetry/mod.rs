//! What an operator sees: metrics, the access log, the audit log and spans.
//!
//! Every label comes from the configuration or from an enum, never from a client.

mod access_log;
mod audit;
mod lines;
mod logging;
mod metrics;
mod otel;
mod settings;

pub use access_log::{Record, SERVED, TARGET as ACCESS_TARGET};
pub use audit::{Audit, Reading};
pub use logging::{flush as flush_logs, init as init_logging, refilter as refilter_logs};
pub use metrics::{Metrics, Observed, TokenCheck, Upgrade};
pub(crate) use otel::UpstreamSpan;
pub use otel::{Exporter, Tracer};
pub use settings::{AuditSettings, AuditTarget, LogFormat, LogSettings, OtelProtocol, OtelSettings};
