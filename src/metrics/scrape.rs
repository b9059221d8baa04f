//! What is no event but a state: looked at when somebody asks.

use std::sync::PoisonError;

use prometheus::{Encoder, IntCounter, IntGaugeVec, TextEncoder};

use super::Metrics;
use crate::auth::keys::KeyStatus;
use crate::flight::Hub;
use crate::limits::Limiter;
use crate::telemetry::{self, Audit};
use crate::upstream::ServerStatus;

/// What a scrape finds elsewhere.
#[derive(Debug)]
pub struct Observed<'a> {
    /// Of every issuer.
    pub keys: &'a [KeyStatus],
    /// What is taken of the limits.
    pub limiter: &'a Limiter,
    /// Flights.
    pub hub: &'a Hub,
    /// Sessions, where there is an audit log.
    pub audit: Option<&'a Audit>,
    /// As `/readyz` says.
    pub ready: bool,
    /// Whether the configuration on disk is the one in use.
    pub config_current: bool,
    /// Of every Electric.
    pub servers: &'a [ServerStatus],
}

impl Metrics {
    /// The text of `/metrics`, with what was observed just now.
    ///
    /// # Errors
    /// Where the registry cannot be written as text.
    pub fn render(&self, observed: &Observed<'_>) -> prometheus::Result<Vec<u8>> {
        let Observed { limiter, hub, .. } = observed;
        let scrape = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        // An issuer may be gone since the last scrape.
        for of_issuer in
            [&self.keys, &self.key_set_age, &self.key_refreshes, &self.keys_rejected, &self.key_saves_failed]
        {
            of_issuer.reset();
        }
        for status in observed.keys {
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
        self.in_flight.set(gauge(limiter.requests().in_flight() as u64));
        self.upstream_in_flight.set(gauge(hub.places().all().in_flight() as u64));
        self.upstream_initial.set(gauge(hub.places().initial().in_flight() as u64));
        self.connections.set(gauge(limiter.connections().in_flight() as u64));
        let limits = [
            ("requests_in_flight", limiter.requests().capacity() as u64),
            ("upstream_requests_in_flight", hub.places().all().capacity() as u64),
            ("upstream_initial_requests_in_flight", hub.places().initial().capacity() as u64),
            ("connections", limiter.connections().capacity() as u64),
            ("kept_bytes", hub.capacity() as u64),
        ];
        for (of, limit) in limits {
            self.limits.with_label_values(&[of]).set(gauge(limit));
        }
        self.followers.set(gauge(hub.followers() as u64));
        self.ready.set(observed.ready.into());
        self.config_current.set(observed.config_current.into());
        // A server that is gone from the configuration is gone from here.
        self.servers.iter().for_each(IntGaugeVec::reset);
        for server in observed.servers {
            let values = [i64::from(server.active), server.in_rotation.into(), gauge(server.secret as u64)];
            for (gauges, value) in self.servers.iter().zip(values) {
                gauges.with_label_values(&[server.upstream.as_str(), server.server.as_str()]).set(value);
            }
        }
        self.audit_sessions.set(gauge(observed.audit.map_or(0, Audit::open_sessions) as u64));
        catch_up(&self.audit_lines_dropped, observed.audit.map_or(0, Audit::dropped));
        catch_up(&self.log_lines_dropped, telemetry::dropped_log_lines());
        self.open_flights.set(gauge(hub.open_flights() as u64));
        self.kept_flights.set(gauge(hub.kept_flights() as u64));
        self.kept_bytes.set(gauge(hub.kept_bytes()));
        drop(scrape);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// Brings a counter to a total that is kept elsewhere.
fn catch_up(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

/// A count as gauges have it.
pub(super) fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
