//! Prometheus metrics; the registry is hidden behind one verb per event.

mod scrape;

use std::sync::Mutex;
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    process_collector::ProcessCollector,
};

use super::Record;
use crate::auth::{Check, TokenError};
use crate::clock::UnixTime;
use crate::flight::Join;
use crate::limits::{Limit, Limited};
use crate::policy::PolicySet;
use crate::rejection::Rejection;

pub use scrape::Observed;

/// Every metric of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// One scrape at a time: counters that are kept elsewhere are caught up with.
    scrape: Mutex<()>,
    requests: IntCounterVec,
    /// By whether the answer waits for a change, then as in [`ORIGINS`]: found without a look-up.
    answer_seconds: [[Histogram; ORIGINS.len()]; 2],
    body_bytes: IntCounterVec,
    token_checks: IntCounterVec,
    dropped_parameters: IntCounter,
    accept_failures: IntCounter,
    spans: IntCounterVec,
    upstream_seconds: HistogramVec,
    upstream_refusals: IntCounterVec,
    upstream_retries: IntCounterVec,
    in_flight: IntGauge,
    upstream_in_flight: IntGauge,
    upstream_initial: IntGauge,
    connections: IntGauge,
    limits: IntGaugeVec,
    limited: IntCounterVec,
    followers: IntGauge,
    joins: IntCounterVec,
    cuts: IntCounterVec,
    fan_out: Histogram,
    evictions: IntCounter,
    purges: IntCounter,
    open_flights: IntGauge,
    kept_flights: IntGauge,
    kept_bytes: IntGauge,
    keys: IntGaugeVec,
    key_set_age: IntGaugeVec,
    key_refreshes: IntGaugeVec,
    keys_rejected: IntGaugeVec,
    key_saves_failed: IntGaugeVec,
    ready: IntGauge,
    servers: [IntGaugeVec; 3],
    config_loaded: IntGauge,
    config_current: IntGauge,
    reloads: IntCounterVec,
    certificate_loads: IntCounterVec,
    certificate_expiry: IntGauge,
    audit_sessions: IntGauge,
    audit_lines_dropped: IntCounter,
    log_lines_dropped: IntCounter,
    upgrades: [IntCounter; 2],
}

/// How the check of a token ended.
#[derive(Clone, Copy, Debug)]
pub enum TokenCheck<'a> {
    /// Valid, checked in full or seen before.
    Accepted(Check),
    /// Refused, and why.
    Refused(&'a TokenError),
}

/// How a change of processes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// This process has taken the sockets of the one before.
    Ok,
    /// This process serves on, since the next one could not.
    Failed,
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
    #[expect(clippy::too_many_lines, reason = "a list of all metrics")]
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
        let body_bytes =
            counters("shapegate_body_bytes_total", "Bytes of bodies sent to clients, by rule.", &["rule"])?;
        let answer_seconds = HistogramVec::new(
            HistogramOpts::new(
                "shapegate_answer_seconds",
                "Time to the end of an answer, by how it came: as in shapegate_joins_total, or own where it is not Electric's.",
            )
            .buckets(SECONDS.to_vec()),
            &["live", "how"],
        )?;
        registry.register(Box::new(answer_seconds.clone()))?;
        let answer_seconds = [false, true]
            .map(|live| ORIGINS.map(|join| answer_seconds.with_label_values(&[bool_label(live), origin_label(join)])));
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
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone())).map(|()| gauge)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone())).map(|()| counter)
        };
        let in_flight = gauge("shapegate_requests_in_flight", "Requests being answered, those that wait included.")?;
        let upstream_in_flight = gauge(
            "shapegate_upstream_requests_in_flight",
            "Requests to Electric that take a place of limits.flights, polls that it still holds included.",
        )?;
        let upstream_initial = gauge(
            "shapegate_upstream_initial_requests_in_flight",
            "Those of them that may open a shape or query Postgres, and have no header yet.",
        )?;
        let connections = gauge("shapegate_connections", "Open connections of clients.")?;
        let limited = counters(
            "shapegate_limited_total",
            "Requests, connections and flights refused, by the key of [limits] that says so.",
            &["limit"],
        )?;
        for limit in Limit::ALL {
            limited.with_label_values(&[limit.as_str()]);
        }
        let limits = gauges("shapegate_limit", "The configured bound of a gauge.", &["of"])?;
        let followers = gauge("shapegate_followers", "Requests aboard of open flights.")?;
        let ready = gauge("shapegate_ready", "1 where /readyz says 200.")?;
        let servers = [
            gauges(
                "shapegate_upstream_active",
                "1 where a server of Electric serves shapes.",
                &["upstream", "server"],
            )?,
            gauges(
                "shapegate_upstream_in_rotation",
                "1 where the shapes of a server go to it, 0 where they go to another one.",
                &["upstream", "server"],
            )?,
            gauges(
                "shapegate_upstream_secret",
                "Which secret a server of Electric takes: 1 for secret, 2 for secret_next.",
                &["upstream", "server"],
            )?,
        ];
        let config_loaded = gauge(
            "shapegate_config_loaded_timestamp_seconds",
            "When the configuration in use was loaded, in seconds since 1970.",
        )?;
        let config_current =
            gauge("shapegate_config_current", "1 where the file on disk is the configuration in use.")?;
        let reloads = counters("shapegate_reloads_total", "Reloads of the configuration.", &["result"])?;
        let certificate_loads =
            counters("shapegate_certificate_loads_total", "Certificates read, the first included.", &["result"])?;
        for result in RESULTS {
            reloads.with_label_values(&[result]);
            certificate_loads.with_label_values(&[result]);
        }
        let certificate_expiry = gauge(
            "shapegate_certificate_expiry_timestamp_seconds",
            "When the certificate in use expires, in seconds since 1970; 0 without TLS.",
        )?;
        let build_info = gauges("shapegate_build_info", "1, with the version of this build.", &["version"])?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let audit_sessions = gauge("shapegate_audit_sessions", "Sessions that the audit log has not written yet.")?;
        let audit_lines_dropped =
            counter("shapegate_audit_lines_dropped_total", "Audit lines lost: the disk was full or too slow.")?;
        let log_lines_dropped =
            counter("shapegate_log_lines_dropped_total", "Log lines lost: nobody read standard error in time.")?;
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let upgrades = counters(
            "shapegate_upgrades_total",
            "Changes of processes: ok counts in the new one, failed in the one that serves on.",
            &["result"],
        )?;
        let upgrades = ["ok", "failed"].map(|result| upgrades.with_label_values(&[result]));
        let dropped_parameters = counter(
            "shapegate_dropped_parameters_total",
            "Query parameters that neither Electric's protocol nor a rule knows.",
        )?;
        let accept_failures = counter(
            "shapegate_accept_failures_total",
            "Tries to accept a connection that failed: no file or memory was left.",
        )?;
        let spans = counters(
            "shapegate_spans_total",
            "Spans for OpenTelemetry: sent to the collector, or dropped because it was slow or away.",
            &["result"],
        )?;
        SPANS.iter().for_each(|result| drop(spans.with_label_values(&[*result])));
        let joins = counters(
            "shapegate_joins_total",
            "Requests by rule and by how they came to their answer: first (asked Electric), open, fresh or stale.",
            &["rule", "how"],
        )?;
        let cuts = counters(
            "shapegate_followers_cut_total",
            "Requests that ended before their answer did, by cause.",
            &["cause"],
        )?;
        let open_flights = gauge("shapegate_open_flights", "Answers of Electric under way.")?;
        let kept_flights = gauge("shapegate_kept_flights", "Finished answers kept.")?;
        let kept_bytes = gauge("shapegate_kept_bytes", "Bytes that the kept answers hold, about.")?;
        let evictions = counter("shapegate_evictions_total", "Kept answers dropped for want of room.")?;
        let purges = counter("shapegate_purges_total", "Kept answers dropped because their handle is dead.")?;
        let fan_out = Histogram::with_opts(
            HistogramOpts::new("shapegate_fan_out", "Requests answered by one answer of Electric while it was open.")
                .buckets(vec![0.0, 1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1000.0, 5000.0, 10_000.0]),
        )?;
        registry.register(Box::new(fan_out.clone()))?;
        let upstream_seconds = HistogramVec::new(
            HistogramOpts::new("shapegate_upstream_seconds", "Time to the header of Electric's answer.")
                .buckets(SECONDS.to_vec()),
            &["live"],
        )?;
        registry.register(Box::new(upstream_seconds.clone()))?;
        Ok(Self {
            registry,
            scrape: Mutex::default(),
            requests,
            answer_seconds,
            body_bytes,
            token_checks,
            dropped_parameters,
            accept_failures,
            spans,
            upstream_seconds,
            upstream_refusals,
            upstream_retries,
            in_flight,
            upstream_in_flight,
            upstream_initial,
            connections,
            limits,
            limited,
            followers,
            joins,
            cuts,
            fan_out,
            evictions,
            purges,
            open_flights,
            kept_flights,
            kept_bytes,
            keys,
            key_set_age,
            key_refreshes,
            keys_rejected,
            key_saves_failed,
            ready,
            servers,
            config_loaded,
            config_current,
            reloads,
            certificate_loads,
            certificate_expiry,
            audit_sessions,
            audit_lines_dropped,
            log_lines_dropped,
            upgrades,
        })
    }

    /// These rules are in use from `now` on; their counters start at 0, so that the first event of each is seen.
    pub fn policy_loaded(&self, policy: &PolicySet, now: UnixTime) {
        for rule in policy.rule_ids() {
            self.body_bytes.with_label_values(&[rule.as_str()]);
            self.upstream_retries.with_label_values(&[rule.as_str()]);
        }
        self.config_loaded.set(scrape::gauge(now.as_secs()));
    }

    /// The configuration was read anew, and taken or refused.
    pub fn reloaded(&self, taken: bool) {
        self.reloads.with_label_values(&[RESULTS[usize::from(!taken)]]).inc();
    }

    /// A certificate is in use from now on; it expires at this time, in seconds since 1970.
    pub fn certificate_loaded(&self, expires_at: Option<i64>) {
        self.certificate_loads.with_label_values(&[RESULTS[0]]).inc();
        self.certificate_expiry.set(expires_at.unwrap_or_default());
    }

    /// A certificate was read that cannot be used.
    pub fn certificate_refused(&self) {
        self.certificate_loads.with_label_values(&[RESULTS[1]]).inc();
    }

    /// An answer was given, with `bytes` of body.
    pub fn answered(&self, record: &Record, status: u16, bytes: usize) {
        let rule = record.rule_name();
        self.requests.with_label_values(&[rule, record.outcome, status_label(status)]).inc();
        self.body_bytes.with_label_values(&[rule]).inc_by(bytes as u64);
        let by_origin = &self.answer_seconds[usize::from(record.live)];
        for (_, seconds) in ORIGINS.iter().zip(by_origin).filter(|(join, _)| **join == record.join) {
            seconds.observe(record.started.elapsed().as_secs_f64());
        }
    }

    /// A token was checked.
    pub fn token_checked(&self, check: TokenCheck<'_>) {
        self.token_checks.with_label_values(&[check.label()]).inc();
    }

    /// Counts what a limit refused; gives the answer that says so.
    pub fn limited(&self, limited: Limited) -> Rejection {
        self.limited.with_label_values(&[limited.limit().as_str()]).inc();
        limited.rejection()
    }

    /// A request carried `count` parameters that nobody reads.
    pub fn parameters_dropped(&self, count: usize) {
        self.dropped_parameters.inc_by(count as u64);
    }

    /// An upgrade has ended, well or not.
    pub fn upgraded(&self, how: Upgrade) {
        let [ok, failed] = &self.upgrades;
        match how {
            Upgrade::Ok => ok.inc(),
            Upgrade::Failed => failed.inc(),
        }
    }

    /// No connection could be accepted.
    pub fn accept_failed(&self) {
        self.accept_failures.inc();
    }

    /// The collector has taken `count` spans.
    pub fn spans_sent(&self, count: usize) {
        self.spans.with_label_values(&[SPANS[0]]).inc_by(count as u64);
    }

    /// `count` spans were lost.
    pub fn spans_dropped(&self, count: usize) {
        self.spans.with_label_values(&[SPANS[1]]).inc_by(count as u64);
    }

    /// Electric's header came after `elapsed`.
    pub fn upstream_answered(&self, live: bool, elapsed: Duration) {
        self.upstream_seconds.with_label_values(&[bool_label(live)]).observe(elapsed.as_secs_f64());
    }

    /// Electric answered with an error.
    pub fn upstream_refused(&self, rule: &str, status: u16) {
        self.upstream_refusals.with_label_values(&[rule, status_label(status)]).inc();
    }

    /// A request is sent to Electric again.
    pub fn upstream_retried(&self, rule: &str) {
        self.upstream_retries.with_label_values(&[rule]).inc();
    }

    /// A request has found its answer.
    pub fn joined(&self, rule: &str, join: Join) {
        self.joins.with_label_values(&[rule, join.as_str()]).inc();
    }

    /// A request was ended before its answer, or in its middle.
    pub fn follower_cut(&self, cause: &str) {
        self.cuts.with_label_values(&[cause]).inc();
    }

    /// A flight has ended that `joined` requests were aboard of.
    pub fn landed(&self, joined: usize) {
        self.fan_out.observe(joined as f64);
    }

    /// A kept answer made room for another.
    pub fn evicted(&self) {
        self.evictions.inc();
    }

    /// `count` kept answers were of a handle that is dead.
    pub fn purged(&self, count: usize) {
        self.purges.inc_by(count as u64);
    }
}

/// How a reload ends.
const RESULTS: [&str; 2] = ["ok", "refused"];

/// What became of a span.
const SPANS: [&str; 2] = ["sent", "dropped"];

/// How an answer came: without a join it is our own.
const ORIGINS: [Option<Join>; 5] = [None, Some(Join::First), Some(Join::Open), Some(Join::Fresh), Some(Join::Stale)];

fn origin_label(join: Option<Join>) -> &'static str {
    join.map_or("own", Join::as_str)
}

fn bool_label(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

/// From a kept answer to Electric's longest silence and more.
const SECONDS: [f64; 15] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0];

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
