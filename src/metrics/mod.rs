//! Counts and measures events for Prometheus.
//!
//! [`Metrics`] has one method for each event; the metrics of one topic are in one file. This module imports nothing
//! else of the crate. Callers pass labels as text, which must come from an enum or from the configuration, never from a
//! client. State that is only read at a scrape is in `server::admin`.

mod decisions;
mod flights;
mod labels;
mod process;
mod requests;
mod rules;
mod upstream;

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

pub use process::Upgrade;
pub use requests::Answer;
pub use rules::SERVED;

/// Every metric that is updated when something happens.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: requests::Requests,
    decisions: decisions::Decisions,
    flights: flights::Flights,
    upstream: upstream::Upstream,
    process: process::Process,
    rules: rules::Rules,
}

impl Metrics {
    /// Creates and registers every metric.
    ///
    /// # Errors
    /// If two metrics have the same name, which any test would show.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let register = Register(&registry);
        Ok(Self {
            requests: requests::Requests::new(&register)?,
            decisions: decisions::Decisions::new(&register)?,
            flights: flights::Flights::new(&register)?,
            upstream: upstream::Upstream::new(&register)?,
            process: process::Process::new(&register)?,
            rules: rules::Rules::default(),
            registry,
        })
    }

    /// Collects the current values.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }
}

/// Creates metrics and registers them.
struct Register<'a>(&'a Registry);

impl Register<'_> {
    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> prometheus::Result<C> {
        let metric = made?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help))
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<HistogramVec> {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), labels))
    }
}

/// Histogram buckets in seconds, from a cached response to beyond an event stream, which lasts 60 s.
const SECONDS: [f64; 17] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 75.0];
