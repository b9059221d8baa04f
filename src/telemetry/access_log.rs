//! Writes the access log, with one line per response.

use std::time::Instant;

use super::Reading;
use crate::decisions::Consulted;
use crate::fault::Fault;
use crate::flight::Join;
use crate::metrics::{Answer, Metrics};
use crate::policy::RuleId;
use crate::shape::UpstreamName;
use crate::trace_context::TraceParent;

/// The tracing target of access lines, to filter by.
pub(super) const TARGET: &str = "shapegate::access";

/// The outcome of a request that Electric answered.
const SERVED: &str = "served";

/// Data about one request, for observers only. No decision reads it.
#[derive(Debug)]
pub struct Record {
    /// The request id, chosen by shapegate and also sent as `x-request-id`.
    pub request_id: String,
    /// When it arrived.
    pub started: Instant,
    /// The rule that allowed it.
    pub rule: Option<RuleId>,
    /// The upstream that the rule reads from.
    pub upstream: Option<UpstreamName>,
    /// A short hash of the token, never the token.
    pub token: Option<Box<str>>,
    /// The decision service that mattered most: the first that did not allow the request, else the slowest.
    pub consulted: Option<Box<Consulted>>,
    /// `served`, or the error code of shapegate's own response.
    pub outcome: &'static str,
    /// The source of its response; `None` if the response is not Electric's.
    pub join: Option<Join>,
    /// Whether it waits for a change.
    pub live: bool,
    /// The audit log's record of it, before the response ends.
    pub reading: Option<Reading>,
    /// The trace it belongs to, with the id of the request's own span if that is recorded.
    pub trace: Option<TraceParent>,
    /// The parent of its span, 0 for none; `None` if the span is not recorded.
    pub span: Option<u64>,
}

impl Record {
    /// Starts the record of a request that arrives now.
    pub fn new() -> Self {
        Self {
            request_id: format!("{:032x}", rand::random::<u128>()),
            started: Instant::now(),
            rule: None,
            upstream: None,
            token: None,
            consulted: None,
            outcome: SERVED,
            join: None,
            live: false,
            reading: None,
            trace: None,
            span: None,
        }
    }

    /// Returns the rule's name; `-` if no rule was reached.
    pub fn rule_name(&self) -> &str {
        self.rule.as_ref().map_or("-", RuleId::as_str)
    }

    /// Notes the rule that decided; `upstream` is `None` if it denied.
    pub fn ruled(&mut self, rule: &RuleId, upstream: Option<&UpstreamName>) {
        (self.rule, self.upstream) = (Some(rule.clone()), upstream.cloned());
    }

    /// Notes what decision services said.
    pub fn consulted(&mut self, consulted: &[Consulted]) {
        let most = consulted.iter().find(|one| !one.allows).or_else(|| consulted.iter().max_by_key(|one| one.took));
        self.consulted = most.cloned().map(Box::new);
    }

    /// Records how the request ended. One that shapegate answered itself keeps its outcome, even if the client did not
    /// receive the response.
    pub fn ended(&mut self, outcome: &'static str) {
        if self.outcome == SERVED {
            self.outcome = outcome;
        }
    }

    /// Records and logs what went wrong.
    pub fn note(&mut self, fault: &Fault) {
        let (request_id, rule, name) = (&self.request_id, self.rule_name(), fault.as_str());
        if fault.is_everyday() {
            tracing::debug!(%request_id, rule, fault = name, "{fault}");
        } else {
            tracing::warn!(%request_id, rule, fault = name, "{fault}");
        }
        self.ended(name);
    }

    /// Counts a response with `status` (0 if the client left before one) and `bytes` of body.
    pub fn count(&self, metrics: &Metrics, status: u16, bytes: usize) {
        metrics.answered(Answer {
            rule: self.rule_name(),
            outcome: self.outcome,
            status,
            bytes,
            live: self.live,
            how: self.join.map(Join::as_str),
            elapsed: self.started.elapsed(),
        });
    }

    /// Writes the line of a response with `status` (0 if the client left before one) and `bytes` of body.
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
            service = self.consulted.as_ref().map(|consulted| &*consulted.service),
            decision = self.consulted.as_ref().map(|consulted| consulted.outcome),
            decision_ms = self.consulted.as_ref().and_then(|consulted| consulted.asked_ms()),
            trace = self.trace.as_ref().map_or("-", TraceParent::trace_id),
        );
    }
}

impl Default for Record {
    fn default() -> Self {
        Self::new()
    }
}
