//! Measures requests to decision services.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec};

use super::{Metrics, Register};

#[derive(Debug)]
pub(super) struct Decisions {
    seconds: HistogramVec,
    outcomes: IntCounterVec,
}

impl Decisions {
    pub(super) fn new(register: &Register<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            seconds: register.histograms(
                "shapegate_decision_seconds",
                "Time to the answer of a decision service, or to its failure.",
                &["service"],
            )?,
            outcomes: register.counters(
                "shapegate_decisions_total",
                "Requests to decision services, by outcome. Cached answers are not counted.",
                &["service", "outcome"],
            )?,
        })
    }
}

impl Metrics {
    /// Creates the metrics of a decision service at 0, so that its first request is visible.
    pub fn service_loaded(&self, service: &str, outcomes: impl IntoIterator<Item = &'static str>) {
        self.decisions.seconds.with_label_values(&[service]);
        for outcome in outcomes {
            self.decisions.outcomes.with_label_values(&[service, outcome]);
        }
    }

    /// Records the answer of a decision service, or its failure.
    pub fn decided(&self, service: &str, outcome: &'static str, elapsed: Duration) {
        self.decisions.seconds.with_label_values(&[service]).observe(elapsed.as_secs_f64());
        self.decisions.outcomes.with_label_values(&[service, outcome]).inc();
    }
}
