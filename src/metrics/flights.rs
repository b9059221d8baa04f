//! Flights: how requests share answers, and what becomes of the answers that are kept.

use prometheus::{Histogram, IntCounter, IntCounterVec};

use super::{Metrics, Register};

#[derive(Debug)]
pub(super) struct Flights {
    joins: IntCounterVec,
    cuts: IntCounterVec,
    fan_out: Histogram,
    evictions: IntCounter,
    purges: IntCounter,
}

/// Buckets of requests answered by one flight.
const FAN_OUT: [f64; 11] = [0.0, 1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1000.0, 5000.0, 10_000.0];

impl Flights {
    pub(super) fn new(register: &Register<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            joins: register.counters(
                "shapegate_joins_total",
                "Requests by rule and by how they came to their answer: first (asked Electric), open, fresh or stale.",
                &["rule", "how"],
            )?,
            cuts: register.counters(
                "shapegate_followers_cut_total",
                "Requests that ended before their answer did, by cause.",
                &["cause"],
            )?,
            fan_out: register.histogram(
                "shapegate_fan_out",
                "Requests answered by one answer of Electric while it was open.",
                &FAN_OUT,
            )?,
            evictions: register.counter("shapegate_evictions_total", "Kept answers dropped for want of room.")?,
            purges: register.counter("shapegate_purges_total", "Kept answers dropped because their handle is dead.")?,
        })
    }
}

impl Metrics {
    /// Counts a request that found its answer.
    pub fn joined(&self, rule: &str, how: &'static str) {
        self.flights.joins.with_label_values(&[rule, how]).inc();
    }

    /// Counts a request that ended before its answer did.
    pub fn follower_cut(&self, cause: &str) {
        self.flights.cuts.with_label_values(&[cause]).inc();
    }

    /// Counts a flight that ended, and the requests that `joined` it.
    pub fn landed(&self, joined: usize) {
        self.flights.fan_out.observe(joined as f64);
    }

    /// Counts a kept answer evicted for space.
    pub fn evicted(&self) {
        self.flights.evictions.inc();
    }

    /// Counts `count` kept answers whose handle is dead.
    pub fn purged(&self, count: usize) {
        self.flights.purges.inc_by(count as u64);
    }
}
