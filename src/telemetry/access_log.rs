//! Writes the access log, with one line per response.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{Method, Uri};
use percent_encoding::percent_decode_str;

use super::Reading;
use super::text::sanitized;
use crate::auth::Principal;
use crate::decisions::Consulted;
use crate::fault::Fault;
use crate::flight::Join;
use crate::hex::hex;
use crate::metrics::{Answer, Metrics, SERVED};
use crate::policy::RuleId;
use crate::rejection::{Reason, Rejection};
use crate::shape::UpstreamName;
use crate::trace_context::TraceParent;

/// The tracing target of access lines, to filter by.
pub(super) const TARGET: &str = "shapegate::access";

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
    /// The caller, once its token is verified. Only the audit log names it.
    pub principal: Option<Arc<Principal>>,
    /// A short hash of the token, never the token.
    pub token: Option<Box<str>>,
    /// The decision service that mattered most: the first that did not allow the request, else the slowest.
    pub consulted: Option<Box<Consulted>>,
    /// `served`, or the error code of shapegate's own response.
    pub outcome: &'static str,
    /// Why shapegate rejected it; `None` if it did not.
    pub reason: Option<Reason>,
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
            request_id: hex(&rand::random::<[u8; 16]>()),
            started: Instant::now(),
            rule: None,
            upstream: None,
            principal: None,
            token: None,
            consulted: None,
            outcome: SERVED,
            reason: None,
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

    /// Records that shapegate rejected it.
    pub fn rejected(&mut self, rejection: &Rejection) {
        let (_, code, _) = rejection.answer();
        self.ended(code);
        self.reason = Some(rejection.reason());
    }

    /// Records and logs what went wrong.
    pub fn note(&mut self, fault: &Fault) {
        let (request_id, rule, name) = (&self.request_id, self.rule_name(), fault.as_str());
        if fault.is_everyday() || fault.is_of_electric() {
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
            reason: self.reason.map(Reason::as_str),
            bytes,
            live: self.live,
            how: self.join.map(Join::as_str),
            elapsed: self.started.elapsed(),
        });
    }

    /// Writes the line of a response to `asked` with `status` (0 if the client left before one) and `bytes` of body. It
    /// leaves absent fields out.
    pub fn log(&self, asked: &Asked<'_>, status: u16, bytes: usize) {
        tracing::info!(
            target: TARGET,
            request_id = %self.request_id,
            method = &*sanitized(asked.method.as_str(), SHORT),
            table = asked.table().as_deref(),
            rule = self.rule.as_ref().map(RuleId::as_str),
            upstream = self.upstream.as_ref().map(UpstreamName::as_str),
            outcome = self.outcome,
            reason = self.reason.map(Reason::as_str),
            status,
            bytes,
            live = self.live || asked.is_live(),
            cache = self.join.map(Join::as_str),
            duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            client = asked.client.map(tracing::field::display),
            token = self.token.as_deref(),
            service = self.consulted.as_ref().map(|consulted| &*consulted.service),
            decision = self.consulted.as_ref().map(|consulted| consulted.outcome),
            decision_ms = self.consulted.as_ref().and_then(|consulted| consulted.asked_ms()),
            trace = self.trace.as_ref().map(TraceParent::trace_id),
        );
    }
}

/// The parts of a request that the access log shows as the client sent them.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The method.
    pub method: &'a Method,
    /// The request target.
    pub target: &'a Uri,
    /// The client's address; `None` if it may be that of a load balancer.
    pub client: Option<IpAddr>,
}

/// The most characters of a method or a table in the log. A name of Postgres has at most 63 bytes, and two make a table.
const SHORT: usize = 130;

impl Asked<'_> {
    /// Whether the query asks for changes. A rejected request is not parsed any further.
    fn is_live(&self) -> bool {
        self.target.query().is_some_and(|query| query.split('&').any(|pair| pair == "live=true"))
    }

    /// Returns the first `table` of the query, whether or not it is valid.
    fn table(&self) -> Option<Box<str>> {
        let table = self.target.query()?.split('&').find_map(|pair| pair.strip_prefix("table="))?;
        Some(sanitized(&percent_decode_str(table).decode_utf8_lossy(), SHORT))
    }
}

impl Default for Record {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_decoded_and_bounded_text_of_the_client() {
        let long = "a".repeat(999);
        for (target, table) in [
            ("/v1/shape?offset=-1&table=auth.users&table=b", Some("auth.users")),
            ("/v1/shape?table=%22A%22%0d%0a%ff", Some("\"A\"\u{fffd}\u{fffd}\u{fffd}")),
            ("/v1/shape?table=", Some("")),
            ("/v1/shape?tables=x", None),
            ("/v1/shape", None),
            (&format!("/?table={long}"), Some(&*format!("{}…", &long[..SHORT]))),
        ] {
            let asked = Asked { method: &Method::GET, target: &target.parse().unwrap(), client: None };
            assert_eq!(asked.table().as_deref(), table, "{target}");
        }
    }
}
