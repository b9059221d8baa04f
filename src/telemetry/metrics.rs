//! Prometheus metrics; the registry is hidden behind one verb per event.

use std::time::Duration;

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::auth::keys::KeyStatus;
use crate::auth::{Check, TokenError};
use crate::limits::Budgets;

/// Every metric of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    token_checks: IntCounterVec,
    dropped_parameters: IntCounter,
    upstream_seconds: HistogramVec,
    upstream_refusals: IntCounterVec,
    upstream_retries: IntCounterVec,
    in_flight: IntGauge,
    keys: IntGaugeVec,
    key_set_age: IntGaugeVec,
    key_refreshes: IntGaugeVec,
    keys_rejected: IntGaugeVec,
    key_saves_failed: IntGaugeVec,
}

/// How the check of a token ended.
#[derive(Clone, Copy, Debug)]
pub enum TokenCheck<'a> {
    /// Valid, checked in full or seen before.
    Accepted(Check),
    /// Refused, and why.
    Refused(&'a TokenError),
}

impl TokenCheck<'_> {
    fn label(self) -> &'static str {
        match self {
            Self::Accepted(check) => check.as_str(),
            Self::Refused(error) => error.as_str(),
        }
    }
}

impl Metrics {
    /// An empty set of metrics.
    ///
    /// # Errors
    /// Where two metrics have one name, which a test would have shown.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone())).map(|()| counters)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauges.clone())).map(|()| gauges)
        };
        let requests = counters(
            "shapegate_requests_total",
            "Answers by rule, outcome and status.",
            &["rule", "outcome", "status"],
        )?;
        let token_checks = counters("shapegate_token_checks_total", "Token checks by outcome.", &["outcome"])?;
        let upstream_refusals = counters(
            "shapegate_upstream_errors_total",
            "Answers of Electric that are no shape, by rule and status.",
            &["rule", "status"],
        )?;
        let upstream_retries = counters(
            "shapegate_upstream_retries_total",
            "Requests sent to Electric again, on another connection or address.",
            &["rule"],
        )?;
        let keys = gauges("shapegate_keys", "Usable keys of an issuer.", &["issuer"])?;
        let key_set_age = gauges("shapegate_key_set_age_seconds", "Age of an issuer's fetched key set.", &["issuer"])?;
        let key_refreshes = gauges(
            "shapegate_key_refreshes",
            "Fetches of an issuer's key set since the start.",
            &["issuer", "result"],
        )?;
        let keys_rejected =
            gauges("shapegate_keys_rejected", "Keys of an issuer's set that are not used.", &["issuer"])?;
        let key_saves_failed =
            gauges("shapegate_key_saves_failed", "Writes of an issuer's key set to disk that failed.", &["issuer"])?;
        let in_flight = IntGauge::new("shapegate_requests_in_flight", "Requests being answered.")?;
        registry.register(Box::new(in_flight.clone()))?;
        let dropped_parameters = IntCounter::new(
            "shapegate_dropped_parameters_total",
            "Query parameters that neither Electric's protocol nor a rule knows.",
        )?;
        registry.register(Box::new(dropped_parameters.clone()))?;
        let upstream_seconds = HistogramVec::new(
            HistogramOpts::new("shapegate_upstream_seconds", "Time to the header of Electric's answer.").buckets(vec![
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0,
            ]),
            &["live"],
        )?;
        registry.register(Box::new(upstream_seconds.clone()))?;
        Ok(Self {
            registry,
            requests,
            token_checks,
            dropped_parameters,
            upstream_seconds,
            upstream_refusals,
            upstream_retries,
            in_flight,
            keys,
            key_set_age,
            key_refreshes,
            keys_rejected,
            key_saves_failed,
        })
    }

    /// An answer was given.
    pub fn answered(&self, rule: &str, outcome: &str, status: u16) {
        self.requests.with_label_values(&[rule, outcome, status_label(status)]).inc();
    }

    /// A token was checked.
    pub fn token_checked(&self, check: TokenCheck<'_>) {
        self.token_checks.with_label_values(&[check.label()]).inc();
    }

    /// A request carried `count` parameters that nobody reads.
    pub fn parameters_dropped(&self, count: usize) {
        self.dropped_parameters.inc_by(count as u64);
    }

    /// Electric's header came after `elapsed`.
    pub fn upstream_answered(&self, live: bool, elapsed: Duration) {
        self.upstream_seconds.with_label_values(&[if live { "true" } else { "false" }]).observe(elapsed.as_secs_f64());
    }

    /// Electric answered with an error.
    pub fn upstream_refused(&self, rule: &str, status: u16) {
        self.upstream_refusals.with_label_values(&[rule, status_label(status)]).inc();
    }

    /// A request is sent to Electric again.
    pub fn upstream_retried(&self, rule: &str) {
        self.upstream_retries.with_label_values(&[rule]).inc();
    }

    /// The text of `/metrics`, with the state of keys and budgets as they are now.
    ///
    /// # Errors
    /// Where the registry cannot be written as text.
    pub fn render(&self, keys: &[KeyStatus], budgets: &Budgets) -> prometheus::Result<Vec<u8>> {
        for status in keys {
            let issuer = status.issuer.as_str();
            self.keys.with_label_values(&[issuer]).set(gauge(status.keys as u64));
            if let Some(age) = status.age {
                self.key_set_age.with_label_values(&[issuer]).set(gauge(age.as_secs()));
            }
            self.key_refreshes.with_label_values(&[issuer, "ok"]).set(gauge(status.refreshes_ok));
            self.key_refreshes.with_label_values(&[issuer, "failed"]).set(gauge(status.refreshes_failed));
            self.keys_rejected.with_label_values(&[issuer]).set(gauge(status.rejected as u64));
            self.key_saves_failed.with_label_values(&[issuer]).set(gauge(status.saves_failed));
        }
        self.in_flight.set(gauge(budgets.in_flight() as u64));
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Statuses that are not ours to give are folded, so that Electric cannot make up labels either.
fn status_label(status: u16) -> &'static str {
    STATUSES.iter().find(|(known, _)| *known == status).map_or("other", |(_, label)| label)
}

const STATUSES: [(u16, &str); 20] = [
    (0, "none"),
    (200, "200"),
    (204, "204"),
    (304, "304"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (409, "409"),
    (413, "413"),
    (414, "414"),
    (422, "422"),
    (429, "429"),
    (431, "431"),
    (500, "500"),
    (501, "501"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
];
