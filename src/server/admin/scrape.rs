//! Renders `/metrics`: the counted events, and the state of the process at the time of the request.
//!
//! Each scrape creates its gauges from scratch, so that what was removed from the configuration also disappears from
//! the metrics.

use prometheus::proto::MetricFamily;
use prometheus::{Encoder, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::auth::keys::KeyStatus;
use crate::auth::revocation::RevocationStatus;
use crate::flight::Hub;
use crate::limits::{Budgets, Limiter};
use crate::metrics::Metrics;
use crate::telemetry::{self, Audit};
use crate::upstream::ServerStatus;

/// The state that a scrape reads.
#[derive(Debug)]
pub(super) struct State<'a> {
    /// The keys of every issuer.
    pub(super) keys: &'a [KeyStatus],
    /// The revocations; `None` if none are configured.
    pub(super) revocations: Option<RevocationStatus>,
    pub(super) limiter: &'a Limiter,
    pub(super) hub: &'a Hub,
    pub(super) audit: Option<&'a Audit>,
    /// Whether `/readyz` returns 200.
    pub(super) ready: bool,
    /// Whether the configuration on disk is the one in use.
    pub(super) config_current: bool,
    /// The status of every Electric server.
    pub(super) servers: &'a [ServerStatus],
}

/// Renders the text of `/metrics`: the events counted so far and the current state.
///
/// # Errors
/// If a metric cannot be registered or written as text.
pub(super) fn render(metrics: &Metrics, state: &State<'_>) -> prometheus::Result<Vec<u8>> {
    let scraped = Scrape::default();
    scraped.keys(state.keys)?;
    scraped.revocations(state.revocations)?;
    scraped.budgets(state)?;
    scraped.flights(state.hub)?;
    scraped.servers(state.servers)?;
    scraped.logs(state.audit)?;
    scraped.gauge("shapegate_ready", "1 if /readyz returns 200.", state.ready.into())?;
    let current = state.config_current.into();
    scraped.gauge("shapegate_config_current", "1 if the configuration file on disk is the one in use.", current)?;
    let mut families = metrics.gather();
    families.extend(scraped.0.gather());
    families.sort_by(|one, other| one.name().cmp(other.name()));
    text(&families)
}

/// The gauges of one scrape.
#[derive(Default)]
struct Scrape(Registry);

impl Scrape {
    fn keys(&self, keys: &[KeyStatus]) -> prometheus::Result<()> {
        let by_issuer = |value: fn(&KeyStatus) -> Option<u64>| {
            keys.iter().filter_map(move |of| value(of).map(|value| ([of.issuer.as_str()], value)))
        };
        let usable = by_issuer(|of| Some(of.keys as u64));
        self.gauges("shapegate_keys", "Usable keys of an issuer.", ["issuer"], usable)?;
        let age = by_issuer(|of| of.age.map(|age| age.as_secs()));
        self.gauges("shapegate_key_set_age_seconds", "Age of an issuer's fetched key set.", ["issuer"], age)?;
        let refreshes = keys.iter().flat_map(|of| {
            let issuer = of.issuer.as_str();
            [([issuer, "ok"], of.refreshes_ok), ([issuer, "failed"], of.refreshes_failed)]
        });
        let help = "Fetches of an issuer's key set since the start.";
        self.counters("shapegate_key_refreshes_total", help, ["issuer", "result"], refreshes)?;
        let rejected = by_issuer(|of| Some(of.rejected as u64));
        self.gauges("shapegate_keys_rejected", "Keys of an issuer's set that are not used.", ["issuer"], rejected)?;
        let failed = by_issuer(|of| Some(of.saves_failed));
        let help = "Writes of an issuer's key set to disk that failed.";
        self.counters("shapegate_key_saves_failed_total", help, ["issuer"], failed)
    }

    fn revocations(&self, status: Option<RevocationStatus>) -> prometheus::Result<()> {
        let of = status.into_iter().flat_map(|of| [(["list"], of.listed as u64), (["pushed"], of.pushed as u64)]);
        self.gauges("shapegate_revocations", "Revocations in use.", ["from"], of)?;
        let age = status.and_then(|status| status.age).map(|age| ([], age.as_secs()));
        self.gauges("shapegate_revocation_list_age_seconds", "Age of the list of revocations.", [], age)?;
        let reads = status.into_iter().flat_map(|of| [(["ok"], of.reads_ok), (["failed"], of.reads_failed)]);
        let help = "Reads of the list of revocations since the start.";
        self.gauges("shapegate_revocation_list_reads", help, ["result"], reads)
    }

    /// Renders the current use of each limit, and the limit.
    fn budgets(&self, state: &State<'_>) -> prometheus::Result<()> {
        let (limiter, places) = (state.limiter, state.hub.places());
        let budgets: [(_, _, &Budgets); 4] = [
            ("requests_in_flight", "Requests in flight, waiting polls included.", limiter.requests()),
            (
                "upstream_requests_in_flight",
                "Requests to Electric counted by limits.flights, abandoned polls that Electric keeps open included.",
                places.all(),
            ),
            (
                "upstream_initial_requests_in_flight",
                "Requests to Electric that may open a shape or query Postgres and have no response header yet.",
                places.initial(),
            ),
            ("connections", "Open client connections.", limiter.connections()),
        ];
        for (name, help, budget) in budgets {
            self.gauge(&format!("shapegate_{name}"), help, budget.in_flight() as u64)?;
        }
        let limits = budgets.map(|(name, _, budget)| ([name], budget.capacity() as u64));
        let limits = limits.into_iter().chain([
            (["kept_bytes"], state.hub.capacity() as u64),
            (["open_bytes"], places.open_bytes().most() as u64),
        ]);
        self.gauges("shapegate_limit", "The configured limit of a gauge.", ["of"], limits)
    }

    fn flights(&self, hub: &Hub) -> prometheus::Result<()> {
        self.gauge("shapegate_followers", "Requests that follow an open flight.", hub.followers() as u64)?;
        self.gauge("shapegate_open_flights", "Responses of Electric in flight.", hub.open_flights() as u64)?;
        self.gauge("shapegate_open_shapes", "Shapes with a response in flight.", hub.open_shapes() as u64)?;
        let held = hub.places().open_bytes().used() as u64;
        self.gauge("shapegate_open_bytes", "Bytes that responses in flight hold for their clients.", held)?;
        self.gauge("shapegate_kept_flights", "Cached responses.", hub.kept_flights() as u64)?;
        self.gauge("shapegate_kept_bytes", "Approximate size of the cached responses in bytes.", hub.kept_bytes())
    }

    fn servers(&self, servers: &[ServerStatus]) -> prometheus::Result<()> {
        let by_server = |value: fn(&ServerStatus) -> u64| {
            servers.iter().map(move |of| ([of.upstream.as_str(), of.server.as_str()], value(of)))
        };
        let labels = ["upstream", "server"];
        let help = "1 if an Electric server serves shapes.";
        self.gauges("shapegate_upstream_active", help, labels, by_server(|of| of.active.into()))?;
        let help = "1 if an Electric server receives its shapes, 0 if they go to another server.";
        self.gauges("shapegate_upstream_in_rotation", help, labels, by_server(|of| of.in_rotation.into()))?;
        let help = "Which secret an Electric server accepts: 1 for secret, 2 for secret_next.";
        self.gauges("shapegate_upstream_secret", help, labels, by_server(|of| of.secret as u64))
    }

    fn logs(&self, audit: Option<&Audit>) -> prometheus::Result<()> {
        let sessions = audit.map_or(0, Audit::open_sessions) as u64;
        self.gauge("shapegate_audit_sessions", "Open sessions that are not yet in the audit log.", sessions)?;
        let lost = audit.map_or(0, Audit::dropped);
        let help = "Audit lines lost: the disk was full or too slow.";
        self.counter("shapegate_audit_lines_dropped_total", help, lost)?;
        let lost = telemetry::dropped_log_lines();
        self.counter(
            "shapegate_log_lines_dropped_total",
            "Log lines lost: standard error was not read fast enough.",
            lost,
        )
    }

    fn gauge(&self, name: &str, help: &str, value: u64) -> prometheus::Result<()> {
        self.gauges(name, help, [], [([], value)])
    }

    fn gauges<'v, const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&str; N],
        values: impl IntoIterator<Item = ([&'v str; N], u64)>,
    ) -> prometheus::Result<()> {
        let gauges = IntGaugeVec::new(Opts::new(name, help), &labels)?;
        for (labels, value) in values {
            gauges.with_label_values(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        self.0.register(Box::new(gauges))
    }

    fn counter(&self, name: &str, help: &str, total: u64) -> prometheus::Result<()> {
        self.counters(name, help, [], [([], total)])
    }

    fn counters<'v, const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&str; N],
        totals: impl IntoIterator<Item = ([&'v str; N], u64)>,
    ) -> prometheus::Result<()> {
        let counters = IntCounterVec::new(Opts::new(name, help), &labels)?;
        for (labels, total) in totals {
            counters.with_label_values(&labels).inc_by(total);
        }
        self.0.register(Box::new(counters))
    }
}

fn text(families: &[MetricFamily]) -> prometheus::Result<Vec<u8>> {
    let mut text = Vec::new();
    TextEncoder::new().encode(families, &mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_sorted_and_metrics_without_series_are_omitted() {
        let scraped = Scrape::default();
        scraped.gauges("b", "Of servers.", ["server"], [(["y"], 2), (["x"], 1)]).unwrap();
        scraped.gauges("none", "Of nothing.", ["server"], []).unwrap();
        scraped.counter("c_total", "Lost.", 3).unwrap();
        scraped.gauge("a", "Ready.", 0).unwrap();
        assert!(scraped.gauge("a", "Ready.", 1).is_err());
        let text = String::from_utf8(text(&scraped.0.gather()).unwrap()).unwrap();
        let series: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(series, ["a 0", "b{server=\"x\"} 1", "b{server=\"y\"} 2", "c_total 3"]);
        assert!(text.starts_with("# HELP a Ready.\n# TYPE a gauge\n") && text.contains("# TYPE c_total counter\n"));
    }
}
