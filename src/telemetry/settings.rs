//! What the configuration says of logs and spans.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// One JSON object, or one readable line, per entry.
    pub format: LogFormat,
    /// The filter, in the syntax of `RUST_LOG` (`info`, `shapegate=debug,warn`).
    pub level: String,
    /// Whether each answer gets a line.
    pub access: bool,
}

/// How a log entry is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// One readable line.
    Text,
}

/// `[audit]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSettings {
    /// Where its lines go.
    pub target: AuditTarget,
    /// A session of a subject with a shape ends when it was idle for so long.
    pub idle: Duration,
    /// Sessions in memory; above, the oldest is written.
    pub sessions: usize,
}

/// Where audit lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditTarget {
    /// A file, appended to and followed through rotations.
    File(PathBuf),
    /// Standard error, among the log's lines; journald keeps both.
    Stderr,
}

/// `[otel]`.
#[derive(Clone, Debug, PartialEq)]
pub struct OtelSettings {
    /// The collector, without the path of its traces.
    pub endpoint: Url,
    /// How spans are written.
    pub protocol: OtelProtocol,
    /// The part of all traces that is recorded, 0 to 1.
    pub sample: f64,
    /// `service.name` of the spans.
    pub service: String,
}

/// How spans are written; OpenTelemetry's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtelProtocol {
    /// `http/protobuf`.
    HttpProtobuf,
    /// `http/json`.
    HttpJson,
}
