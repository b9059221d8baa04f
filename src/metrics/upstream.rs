//! Measures requests to Electric: their durations, errors and retries.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec};

use super::{Metrics, Register, labels};

#[derive(Debug)]
pub(super) struct Upstream {
    seconds: HistogramVec,
    refusals: IntCounterVec,
    retries: IntCounterVec,
}

impl Upstream {
    pub(super) fn new(register: &Register<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            seconds: register.histograms(
                "shapegate_upstream_seconds",
                "Time to the header of Electric's response, by upstream.",
                &["live", "upstream"],
            )?,
            refusals: register.counters(
                "shapegate_upstream_errors_total",
                "Error responses of Electric, by rule, status and upstream.",
                &["rule", "status", "upstream"],
            )?,
            retries: register.counters(
                "shapegate_upstream_retries_total",
                "Requests sent to Electric again, on another connection or address.",
                &["rule", "upstream"],
            )?,
        })
    }

    /// Creates the counters of a rule and its upstream at 0, so that its first event is visible.
    pub(super) fn rule_loaded(&self, rule: &str, upstream: &str) {
        self.retries.with_label_values(&[rule, upstream]);
    }
}

impl Metrics {
    /// Records the time until Electric's response header arrived.
    pub fn upstream_answered(&self, live: bool, upstream: &str, elapsed: Duration) {
        self.upstream.seconds.with_label_values(&[labels::flag(live), upstream]).observe(elapsed.as_secs_f64());
    }

    /// Counts an error response of Electric.
    pub fn upstream_refused(&self, rule: &str, upstream: &str, status: u16) {
        self.upstream.refusals.with_label_values(&[rule, labels::status(status), upstream]).inc();
    }

    /// Counts a request that is sent to Electric again.
    pub fn upstream_retried(&self, rule: &str, upstream: &str) {
        self.upstream.retries.with_label_values(&[rule, upstream]).inc();
    }
}
