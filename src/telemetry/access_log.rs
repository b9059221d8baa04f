//! The access log: one line per answer.

use std::time::Instant;

use super::Reading;
use crate::fault::Fault;
use crate::flight::Join;
use crate::policy::RuleId;
use crate::shape::UpstreamName;
use crate::trace_context::TraceParent;

/// The tracing target of access lines, to filter by.
pub const TARGET: &str = "shapegate::access";

/// The outcome of a request that Electric answered.
pub const SERVED: &str = "served";

/// What is known of one request, for observers only: no decision reads it.
#[derive(Debug)]
pub struct Record {
    /// Our own id of the request, also sent as `x-request-id`.
    pub request_id: String,
    /// When it arrived.
    pub started: Instant,
    /// The rule that allowed it.
    pub rule: Option<RuleId>,
    /// The Electric that the rule reads from.
    pub upstream: Option<UpstreamName>,
    /// A short hash of the token, never the token.
    pub token: Option<Box<str>>,
    /// `served`, or the code of our own answer.
    pub outcome: &'static str,
    /// How it came to its answer, where that is Electric's.
    pub join: Option<Join>,
    /// Whether that waits for a change.
    pub live: bool,
    /// What the audit log is to hold of it.
    pub reading: Option<Reading>,
    /// The trace it belongs to; of its own span, where that is recorded.
    pub trace: Option<TraceParent>,
    /// The parent of its span, 0 for none; `None` where none is recorded.
    pub span: Option<u64>,
}

impl Record {
    /// A record of a request that arrives now.
    pub fn new() -> Self {
        Self {
            request_id: format!("{:032x}", rand::random::<u128>()),
            started: Instant::now(),
            rule: None,
            upstream: None,
            token: None,
            outcome: SERVED,
            join: None,
            live: false,
            reading: None,
            trace: None,
            span: None,
        }
    }

    /// The rule's name; `-` where none was reached.
    pub fn rule_name(&self) -> &str {
        self.rule.as_ref().map_or("-", RuleId::as_str)
    }

    /// Notes how it ended. An answer of ours that the client did not take is still that answer.
    pub fn ended(&mut self, outcome: &'static str) {
        if self.outcome == SERVED {
            self.outcome = outcome;
        }
    }

    /// Notes and logs what went wrong.
    pub fn note(&mut self, fault: &Fault) {
        let (request_id, rule, name) = (&self.request_id, self.rule_name(), fault.as_str());
        if fault.is_everyday() {
            tracing::debug!(%request_id, rule, fault = name, "{fault}");
        } else {
            tracing::warn!(%request_id, rule, fault = name, "{fault}");
        }
        self.ended(name);
    }

    /// Writes the line of an answer with `status` (0 where the client left before one) and `bytes` of body.
    pub fn log(&self, status: u16, bytes: usize) {
        tracing::info!(
            target: TARGET,
            request_id = %self.request_id,
            rule = self.rule_name(),
            upstream = self.upstream.as_ref().map_or("-", UpstreamName::as_str),
            outcome = self.outcome,
            status,
            bytes,
            cache = self.join.map_or("-", Join::as_str),
            duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            token = self.token.as_deref().unwrap_or("-"),
            trace = self.trace.as_ref().map_or("-", TraceParent::trace_id),
        );
    }
}

impl Default for Record {
    fn default() -> Self {
        Self::new()
    }
}
