//! The settings of `[log]`, `[audit]` and `[otel]`.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

/// `[log]`: format, level and access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Whether entries are JSON objects or readable lines.
    pub format: LogFormat,
    /// The filter, in the syntax of `RUST_LOG` (`info`, `shapegate=debug,warn`).
    pub level: String,
    /// Whether each response is logged.
    pub access: bool,
}

/// How a log entry is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// One readable line.
    Text,
}

/// `[audit]`: target and sessions of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSettings {
    /// Where its lines go.
    pub target: AuditTarget,
    /// A session of a subject with a shape ends after this time without a response; 1 s to 24 h.
    pub idle: Duration,
    /// The maximum number of sessions in memory; above, the oldest is written.
    pub sessions: usize,
}

/// Where audit lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditTarget {
    /// A file, appended to and followed through rotations.
    File(PathBuf),
    /// Standard error, between the lines of the log; journald keeps both.
    Stderr,
}

/// `[otel]`: where and how spans are exported.
#[derive(Clone, Debug, PartialEq)]
pub struct OtelSettings {
    /// The collector's URL, without the path `/v1/traces`.
    pub endpoint: Url,
    /// The encoding of spans.
    pub protocol: OtelProtocol,
    /// The fraction of traces that is recorded, 0 to 1.
    pub sample: f64,
    /// `service.name` of the spans.
    pub service: String,
}

/// The encoding of spans, by OpenTelemetry's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtelProtocol {
    /// `http/protobuf`.
    HttpProtobuf,
    /// `http/json`.
    HttpJson,
}
