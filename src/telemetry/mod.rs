//! Reports to operators: the log, the access log, the audit log and spans.

mod access_log;
mod audit;
mod journal;
mod lines;
mod logging;
mod otel;
mod settings;
mod text;

pub use access_log::{Asked, Record};
pub use audit::{Audit, Reading};
pub(crate) use logging::dropped as dropped_log_lines;
pub use logging::{flush as flush_logs, init as init_logging, refilter as refilter_logs};
pub use otel::Tracer;
pub(crate) use otel::UpstreamSpan;
pub use settings::{AuditSettings, AuditTarget, LogFormat, LogSettings, OtelProtocol, OtelSettings};
