//! Limits what one client, one address and all clients together may use.
//!
//! [`Limiter`] holds every counted limit of `[limits]`; each rejection is a [`Limited`] that names its limit. Nothing
//! here waits. Memory is bounded whatever the number of clients: the least recently used entries are forgotten first.

mod address;
mod budgets;
mod connection;
mod flights;
mod limit;
mod memory;
mod open_bytes;
mod rates;
mod repeats;
mod settings;
mod shapes;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::HeaderMap;

use crate::auth::SubjectKey;

pub use address::{Address, Client};
pub use budgets::{Budgets, Place};
pub use connection::Connection;
pub use flights::{FlightLimits, FlightPlace};
pub use limit::{Limit, Limited};
pub use memory::{Memory, available};
pub use open_bytes::{OpenBytes, Reserve};
pub use repeats::Position;
pub use settings::{LimitSettings, MAX_URI_BYTES};

use address::Proxies;
use rates::{Quota, Rates};
use repeats::MaxRepeats;

/// Every limit that counts something, shared by all connections.
pub struct Limiter {
    requests: Arc<Budgets>,
    flights: Arc<FlightLimits>,
    connections: Arc<Budgets>,
    subjects: Rates<SubjectKey>,
    addresses: Rates<Address>,
    bad_tokens: Rates<Address>,
    /// Signature checks of addresses over the limit of `bad_tokens`, and of expired tokens.
    signatures: Rates<Address>,
    repeats: Arc<MaxRepeats>,
    proxies: ArcSwap<Proxies>,
    memory: Arc<Memory>,
}

/// How many seconds' worth of requests may arrive at once before a rate limit applies.
const BURST: u64 = 5;

impl Limiter {
    /// Creates a limiter with these limits and zero counts.
    pub fn new(limits: &LimitSettings) -> Arc<Self> {
        let memory = Arc::new(Memory::default());
        let limiter = Self {
            requests: Budgets::new(Limit::Requests, Limit::RequestsPerSubject, Limit::RequestsPerAddress),
            flights: Arc::new(FlightLimits::new(Arc::clone(&memory))),
            connections: Budgets::new(Limit::Connections, Limit::Connections, Limit::ConnectionsPerAddress),
            subjects: Rates::new(Limit::RatePerSubject),
            addresses: Rates::new(Limit::RatePerAddress),
            bad_tokens: Rates::new(Limit::BadTokensPerAddress),
            signatures: Rates::new(Limit::BadTokensPerAddress),
            repeats: Arc::new(MaxRepeats::new()),
            proxies: ArcSwap::default(),
            memory,
        };
        limiter.set(limits);
        Arc::new(limiter)
    }

    /// Replaces the limits. Counts stay: a client over its new limit keeps what it has and gets no more.
    pub fn set(&self, limits: &LimitSettings) {
        let per_second = |count: usize| Quota::new(count as u64, Duration::from_secs(1), BURST * count as u64);
        let per_minute = |count: usize| Quota::new(count as u64, Duration::from_secs(60), count as u64);
        self.requests.set(limits.requests, limits.requests_per_subject, limits.requests_per_address);
        self.flights.set(limits);
        self.connections.set(limits.connections, 0, limits.connections_per_address);
        self.subjects.set(per_second(limits.rate_per_subject));
        self.addresses.set(per_second(limits.rate_per_address));
        self.bad_tokens.set(per_minute(limits.bad_tokens_per_address));
        let signatures = limits.signatures_per_address as u64;
        self.signatures.set(Quota::new(signatures, Duration::from_secs(1), signatures));
        self.repeats.set(limits.repeats);
        self.proxies.store(Arc::new(Proxies::new(limits.trusted_proxies.as_deref())));
        self.memory.set(limits.memory);
    }

    /// The budget of requests in flight, waiting polls included.
    pub fn requests(&self) -> &Arc<Budgets> {
        &self.requests
    }

    /// The limits of requests to Electric.
    pub fn flights(&self) -> &Arc<FlightLimits> {
        &self.flights
    }

    /// The budget of open client connections.
    pub fn connections(&self) -> &Budgets {
        &self.connections
    }

    /// The resident memory and its limit.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Takes a place for a new connection from `peer`, which is `None` on a Unix socket.
    ///
    /// # Errors
    /// If `connections` or `connections_per_address` is reached, or memory is over its limit.
    pub fn connect(&self, peer: impl Into<Option<IpAddr>>) -> Result<Connection, Limited> {
        let peer = peer.into();
        self.memory.check()?;
        // A proxy's connections carry many clients, so they do not count by address.
        let place = self.connections.enter(None, self.proxies.load().direct(peer))?;
        Ok(Connection::new(peer, place, Arc::clone(&self.repeats)))
    }

    /// Returns the client address of a request; `None` if `trusted_proxies` is not set, when an address could be that
    /// of a load balancer.
    pub fn address(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<Address> {
        self.proxies.load().client(peer, headers)
    }

    /// Whether `peer` is a trusted proxy, which may say for whom it connects. So may a process on this host that opens
    /// a Unix socket.
    pub fn is_proxy(&self, peer: Option<IpAddr>) -> bool {
        self.proxies.load().trusts(peer)
    }

    /// Returns the same address in full, for the log.
    pub fn client_address(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        self.proxies.load().client_address(peer, headers)
    }

    /// Counts a request from this address.
    ///
    /// # Errors
    /// If `rate_per_address` is exceeded.
    pub fn ask(&self, address: Option<Address>, now: Instant) -> Result<(), Limited> {
        address.map_or(Ok(()), |address| self.addresses.take(&address, now))
    }

    /// Counts a request from this subject.
    ///
    /// # Errors
    /// If `rate_per_subject` is exceeded.
    pub fn ask_as(&self, subject: &SubjectKey, now: Instant) -> Result<(), Limited> {
        self.subjects.take(subject, now)
    }

    /// Checks whether the signature of a new token from this address may be checked.
    ///
    /// Once an address has reached `bad_tokens_per_address`, only `signatures_per_address` of its new tokens a second
    /// are, good or bad. So good tokens are still accepted, unless more bad ones than that arrive with them.
    ///
    /// # Errors
    /// If both limits are reached.
    pub fn may_verify(&self, address: Option<Address>, now: Instant) -> Result<(), Limited> {
        let Some(address) = address else { return Ok(()) };
        self.bad_tokens.check(&address, now).or_else(|_| self.may_check(Some(address), now))
    }

    /// Counts a check of a signature from this address against `signatures_per_address` alone.
    ///
    /// # Errors
    /// If that limit is reached.
    pub fn may_check(&self, address: Option<Address>, now: Instant) -> Result<(), Limited> {
        address.map_or(Ok(()), |address| self.signatures.take(&address, now))
    }

    /// Counts a token from this address that was rejected after its signature was checked.
    pub fn bad_token(&self, address: Option<Address>, now: Instant) {
        if let Some(address) = address {
            // An error only means that the limit is now reached; the next `may_verify` reports it.
            let _ = self.bad_tokens.take(&address, now);
        }
    }

    /// Returns the position that a client at `position` reaches with this handle and offset.
    pub fn next(&self, position: Position, handle: &str, offset: &str) -> Position {
        self.repeats.next(position, handle, offset)
    }

    /// Takes a place for a request.
    ///
    /// # Errors
    /// If `requests`, `requests_per_subject` or `requests_per_address` is reached.
    pub fn enter(&self, subject: Option<&SubjectKey>, address: Option<Address>) -> Result<Place, Limited> {
        self.requests.enter(subject, address)
    }
}

impl std::fmt::Debug for Limiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limiter").field("requests", &self.requests).finish_non_exhaustive()
    }
}
