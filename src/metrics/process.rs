//! Counts events of the process: configuration, certificate, upgrades and spans.

#[cfg(target_os = "linux")]
use prometheus::process_collector::ProcessCollector;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts};

use super::{Metrics, Register, labels};

#[derive(Debug)]
pub(super) struct Process {
    config_loaded: IntGauge,
    reloads: IntCounterVec,
    certificate_loads: IntCounterVec,
    certificate_expiry: IntGauge,
    upgrades: IntCounterVec,
    spans: IntCounterVec,
}

/// How an upgrade ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// This process has taken over the sockets of the previous one.
    Ok,
    /// This process keeps serving, because the next one could not.
    Failed,
}

impl Upgrade {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
        }
    }
}

const SENT: &str = "sent";
const DROPPED: &str = "dropped";

impl Process {
    pub(super) fn new(register: &Register<'_>) -> prometheus::Result<Self> {
        // From /proc, which only Linux has.
        #[cfg(target_os = "linux")]
        register.0.register(Box::new(ProcessCollector::for_self()))?;
        let build = Opts::new("shapegate_build_info", "1, with the version of this build.");
        let build = register.add(IntGaugeVec::new(build, &["version"]))?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let process = Self {
            config_loaded: register.gauge(
                "shapegate_config_loaded_timestamp_seconds",
                "When the configuration in use was loaded, in seconds since 1970.",
            )?,
            reloads: register.counters("shapegate_reloads_total", "Reloads of the configuration.", &["result"])?,
            certificate_loads: register.counters(
                "shapegate_certificate_loads_total",
                "Certificate loads, including the first.",
                &["result"],
            )?,
            certificate_expiry: register.gauge(
                "shapegate_certificate_expiry_timestamp_seconds",
                "When the certificate in use expires, in seconds since 1970; 0 without TLS.",
            )?,
            upgrades: register.counters(
                "shapegate_upgrades_total",
                "Upgrades: ok is counted in the new process, failed in the one that keeps serving.",
                &["result"],
            )?,
            spans: register.counters(
                "shapegate_spans_total",
                "OpenTelemetry spans: sent to the collector, or dropped because it was slow or unreachable.",
                &["result"],
            )?,
        };
        process.start_at_zero();
        Ok(process)
    }

    /// Creates every series at 0, so that its first event is visible.
    fn start_at_zero(&self) {
        for ok in [true, false] {
            self.reloads.with_label_values(&[labels::result(ok)]);
            self.certificate_loads.with_label_values(&[labels::result(ok)]);
        }
        for how in [Upgrade::Ok, Upgrade::Failed] {
            self.upgrades.with_label_values(&[how.as_str()]);
        }
        for result in [SENT, DROPPED] {
            self.spans.with_label_values(&[result]);
        }
    }
}

impl Metrics {
    /// Records that the policy with these rules, each with an upstream that it can pick, is in use since `now`, in
    /// seconds since 1970.
    pub fn policy_loaded<'a>(&self, rules: impl IntoIterator<Item = (&'a str, &'a str)>, now: u64) {
        let rules: Vec<_> = rules.into_iter().collect();
        for (rule, upstream) in &rules {
            self.upstream.rule_loaded(rule, upstream);
        }
        self.rules.load(rules.iter().map(|(rule, _)| *rule), &self.requests, &self.flights);
        self.process.config_loaded.set(i64::try_from(now).unwrap_or(i64::MAX));
    }

    /// Counts a reload of the configuration, which was `taken` or rejected.
    pub fn reloaded(&self, taken: bool) {
        self.process.reloads.with_label_values(&[labels::result(taken)]).inc();
    }

    /// Counts a certificate that is now in use, and records its expiry in seconds since 1970; `None` if unknown.
    pub fn certificate_loaded(&self, expires_at: Option<i64>) {
        self.process.certificate_loads.with_label_values(&[labels::result(true)]).inc();
        self.process.certificate_expiry.set(expires_at.unwrap_or_default());
    }

    /// Counts a certificate that cannot be used.
    pub fn certificate_refused(&self) {
        self.process.certificate_loads.with_label_values(&[labels::result(false)]).inc();
    }

    /// Counts an upgrade that has ended.
    pub fn upgraded(&self, how: Upgrade) {
        self.process.upgrades.with_label_values(&[how.as_str()]).inc();
    }

    /// Counts spans that the collector accepted.
    pub fn spans_sent(&self, count: usize) {
        self.process.spans.with_label_values(&[SENT]).inc_by(count as u64);
    }

    /// Counts spans that were lost.
    pub fn spans_dropped(&self, count: usize) {
        self.process.spans.with_label_values(&[DROPPED]).inc_by(count as u64);
    }
}
