//! Counts client requests: their responses and durations, and what was rejected before.

use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use super::rules::{JOINS, SERVED};
use super::{Metrics, Register, labels};

#[derive(Debug)]
pub(super) struct Requests {
    pub(super) answers: IntCounterVec,
    rejections: IntCounterVec,
    seconds: Seconds,
    pub(super) body_bytes: IntCounterVec,
    token_checks: IntCounterVec,
    /// Of `token_checks`, those of tokens that were verified before.
    seen: IntCounter,
    dropped_parameters: IntCounter,
    limited: IntCounterVec,
    accept_failures: IntCounter,
}

/// A response to a client.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The rule that allowed the request.
    pub rule: &'a str,
    /// `served`, or the error code of shapegate's own response.
    pub outcome: &'static str,
    /// The status sent; 0 if the client left before a response.
    pub status: u16,
    /// Why shapegate rejected the request; `None` if it did not.
    pub reason: Option<&'static str>,
    /// Size of the body in bytes.
    pub bytes: usize,
    /// Whether the request waits for a change.
    pub live: bool,
    /// The source of the response, as in [`Metrics::joined`]; `None` if the response is not Electric's.
    pub how: Option<&'static str>,
    /// The time from the request's header to the end of the response.
    pub elapsed: Duration,
}

/// The value of `how` for a response that is not Electric's.
const OWN: &str = "own";

/// The outcome of a check of a token that was verified before.
const SEEN: &str = "seen";

impl Requests {
    pub(super) fn new(register: &Register<'_>) -> prometheus::Result<Self> {
        let token_checks =
            register.counters("shapegate_token_checks_total", "Token checks by outcome.", &["outcome"])?;
        Ok(Self {
            answers: register.counters(
                "shapegate_requests_total",
                "Responses by rule, outcome and status.",
                &["rule", "outcome", "status"],
            )?,
            rejections: register.counters(
                "shapegate_rejections_total",
                "Requests that shapegate rejected, by rule and reason.",
                &["rule", "reason"],
            )?,
            seconds: Seconds::of(&register.histograms(
                "shapegate_answer_seconds",
                "Time to the end of a response, by its source: as in shapegate_joins_total, or own if it is not Electric's.",
                &["live", "how"],
            )?),
            body_bytes: register.counters(
                "shapegate_body_bytes_total",
                "Bytes of bodies sent to clients, by rule.",
                &["rule"],
            )?,
            seen: token_checks.with_label_values(&[SEEN]),
            token_checks,
            dropped_parameters: register.counter(
                "shapegate_dropped_parameters_total",
                "Query parameters that neither Electric's protocol nor a rule uses.",
            )?,
            limited: register.counters(
                "shapegate_limited_total",
                "Requests, connections and flights rejected, by the key of [limits] that is reached.",
                &["limit"],
            )?,
            accept_failures: register.counter(
                "shapegate_accept_failures_total",
                "Failed attempts to accept a connection: no file descriptor or memory was left.",
            )?,
        })
    }
}

/// Durations by the source of the response, for requests that do not wait for a change and those that do.
#[derive(Debug)]
struct Seconds([(&'static str, [Histogram; 2]); 1 + JOINS.len()]);

impl Seconds {
    fn of(histograms: &HistogramVec) -> Self {
        let [first, open, fresh, stale] = JOINS;
        Self(
            [OWN, first, open, fresh, stale]
                .map(|how| (how, [false, true].map(|live| histograms.with_label_values(&[labels::flag(live), how])))),
        )
    }

    fn observe(&self, live: bool, how: Option<&str>, elapsed: Duration) {
        let known = self.0.iter().find(|(known, _)| Some(*known) == how);
        let (_, histograms) = known.unwrap_or(&self.0[0]);
        histograms[usize::from(live)].observe(elapsed.as_secs_f64());
    }
}

impl Metrics {
    /// Creates the counters of these limits at 0, so that the first rejection of each is visible.
    pub fn limits_known(&self, limits: impl IntoIterator<Item = &'static str>) {
        for limit in limits {
            self.requests.limited.with_label_values(&[limit]);
        }
    }

    /// Counts a response.
    pub fn answered(&self, answer: Answer<'_>) {
        let Requests { answers, rejections, seconds, body_bytes, .. } = &self.requests;
        let (rules, bytes) = (self.rules.now(), answer.bytes as u64);
        let rule = rules.get(answer.rule);
        match rule.filter(|_| answer.outcome == SERVED && answer.status == 200) {
            Some(rule) => rule.served.inc(),
            None => answers.with_label_values(&[answer.rule, answer.outcome, labels::status(answer.status)]).inc(),
        }
        match rule {
            Some(rule) => rule.body_bytes.inc_by(bytes),
            None => body_bytes.with_label_values(&[answer.rule]).inc_by(bytes),
        }
        if let Some(reason) = answer.reason {
            rejections.with_label_values(&[answer.rule, reason]).inc();
        }
        seconds.observe(answer.live, answer.how, answer.elapsed);
    }

    /// Counts the check of a token.
    pub fn token_checked(&self, outcome: &'static str) {
        match outcome {
            SEEN => self.requests.seen.inc(),
            _ => self.requests.token_checks.with_label_values(&[outcome]).inc(),
        }
    }

    /// Counts `count` query parameters that nothing uses.
    pub fn parameters_dropped(&self, count: usize) {
        self.requests.dropped_parameters.inc_by(count as u64);
    }

    /// Counts a rejection because of `limit`.
    pub fn limited(&self, limit: &'static str) {
        self.requests.limited.with_label_values(&[limit]).inc();
    }

    /// Counts a connection that could not be accepted.
    pub fn accept_failed(&self) {
        self.requests.accept_failures.inc();
    }
}
