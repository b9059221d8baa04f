//! Counts flights: how requests share responses, and what happens to cached responses.

use prometheus::{Histogram, IntCounter, IntCounterVec};

use super::{Metrics, Register};

#[derive(Debug)]
pub(super) struct Flights {
    opened: IntCounterVec,
    pub(super) joins: IntCounterVec,
    cuts: IntCounterVec,
    fan_out: Histogram,
    evictions: IntCounter,
    purges: IntCounter,
    outdated: IntCounterVec,
}

/// Histogram buckets for the number of requests that one flight served. A quantile is at most a third above its value.
const FAN_OUT: [f64; 25] = [
    0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 400.0,
    500.0, 750.0, 1000.0, 2000.0, 5000.0, 10_000.0,
];

impl Flights {
    pub(super) fn new(register: &Register<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            opened: register.counters(
                "shapegate_upstream_requests_total",
                "Requests to Electric, including those that replace a cached response.",
                &["rule"],
            )?,
            joins: register.counters(
                "shapegate_joins_total",
                "Requests by rule and by the source of their response: first (a new request to Electric), open, fresh or stale.",
                &["rule", "how"],
            )?,
            cuts: register.counters(
                "shapegate_followers_cut_total",
                "Requests that ended before their response was complete, by cause.",
                &["cause"],
            )?,
            fan_out: register.histogram(
                "shapegate_fan_out",
                "Requests served by one response of Electric while it was in flight.",
                &FAN_OUT,
            )?,
            evictions: register.counter("shapegate_evictions_total", "Cached responses evicted for space.")?,
            purges: register.counter("shapegate_purges_total", "Cached responses removed because their handle is no longer valid.")?,
            outdated: register.counters(
                "shapegate_outdated_responses_total",
                "Cached responses that were not served, because clients had seen later changes or another handle.",
                &["rule"],
            )?,
        })
    }
}

impl Metrics {
    /// Counts a request to Electric.
    pub fn opened(&self, rule: &str) {
        self.flights.opened.with_label_values(&[rule]).inc();
    }

    /// Counts a request that has a response to follow; `how` is first, open, fresh or stale.
    pub fn joined(&self, rule: &str, how: &'static str) {
        match self.rules.now().get(rule).and_then(|rule| rule.joined(how)) {
            Some(joins) => joins.inc(),
            None => self.flights.joins.with_label_values(&[rule, how]).inc(),
        }
    }

    /// Counts a request that ended before its response was complete.
    pub fn follower_cut(&self, cause: &str) {
        self.flights.cuts.with_label_values(&[cause]).inc();
    }

    /// Records that a flight ended, which `joined` requests had followed.
    pub fn landed(&self, joined: usize) {
        self.flights.fan_out.observe(joined as f64);
    }

    /// Counts a cached response that was not served, because it is outdated.
    pub fn outdated(&self, rule: &str) {
        self.flights.outdated.with_label_values(&[rule]).inc();
    }

    /// Counts a cached response evicted for space.
    pub fn evicted(&self) {
        self.flights.evictions.inc();
    }

    /// Counts `count` cached responses removed because their handle is no longer valid.
    pub fn purged(&self, count: usize) {
        self.flights.purges.inc_by(count as u64);
    }
}
