//! Resolves `[audit]`.

use super::{hours, secs};
use crate::config::raw::{Bounds, Section, Value};
use crate::telemetry::{AuditSettings, AuditTarget};

/// Resolves `[audit]`; `None` if it names no target, which disables the audit log.
pub(super) fn audit(mut section: Section<'_>) -> Option<AuditSettings> {
    let path = section.value("path");
    let stderr = section.boolean("stderr", false);
    let idle = section.duration("idle", secs(300), Bounds::new(secs(1), hours(24)));
    let sessions = section.integer("sessions", 100_000, Bounds::new(1, 10_000_000));
    let target = match (path.as_ref().map(Value::path), stderr) {
        (Some(_), true) => {
            section.error("stderr", "contradicts `path`: write one of the two");
            return None;
        }
        (Some(path), false) => AuditTarget::File(path?),
        (None, true) => AuditTarget::Stderr,
        (None, false) => {
            if section.has("idle") || section.has("sessions") {
                section.error_here("names no target: write `path` or `stderr = true`");
            }
            return None;
        }
    };
    Some(AuditSettings { target, idle, sessions })
}
