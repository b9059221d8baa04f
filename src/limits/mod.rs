//! How much one client, one address and all together may ask for.
//!
//! [`Limiter`] holds every limit of `[limits]` that counts something; each refusal is a [`Limited`] with the name of its
//! limit. Nothing here waits, and nothing grows with the number of clients that come by: what is remembered of them is
//! bounded, the least used is forgotten first.

mod address;
mod budgets;
mod connection;
mod flights;
mod limit;
mod memory;
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
pub use memory::Memory;
pub use repeats::Position;
pub use settings::LimitSettings;

use address::Proxies;
use rates::{Quota, Rates};
use repeats::MaxRepeats;

/// Every limit that counts something; shared by all that count.
pub struct Limiter {
    requests: Arc<Budgets>,
    flights: Arc<FlightLimits>,
    connections: Arc<Budgets>,
    subjects: Rates<SubjectKey>,
    addresses: Rates<Address>,
    bad_tokens: Rates<Address>,
    repeats: Arc<MaxRepeats>,
    proxies: ArcSwap<Proxies>,
    memory: Arc<Memory>,
}

/// A rate may be passed for a moment, by so many seconds' worth of requests.
const BURST: u64 = 5;

impl Limiter {
    /// With these figures, and nothing counted yet.
    pub fn new(limits: &LimitSettings) -> Arc<Self> {
        let memory = Arc::new(Memory::default());
        let limiter = Self {
            requests: Budgets::new(Limit::Requests, Limit::RequestsPerSubject, Limit::RequestsPerAddress),
            flights: Arc::new(FlightLimits::new(Arc::clone(&memory))),
            connections: Budgets::new(Limit::Connections, Limit::Connections, Limit::ConnectionsPerAddress),
            subjects: Rates::new(Limit::RatePerSubject),
            addresses: Rates::new(Limit::RatePerAddress),
            bad_tokens: Rates::new(Limit::BadTokensPerAddress),
            repeats: Arc::new(MaxRepeats::new()),
            proxies: ArcSwap::default(),
            memory,
        };
        limiter.set(limits);
        Arc::new(limiter)
    }

    /// From here on these figures hold. What is counted stays: who has more than he may have keeps it, and gets no more.
    pub fn set(&self, limits: &LimitSettings) {
        let per_second = |count: usize| Quota::new(count as u64, Duration::from_secs(1), BURST * count as u64);
        let per_minute = |count: usize| Quota::new(count as u64, Duration::from_secs(60), count as u64);
        self.requests.set(limits.requests, limits.requests_per_subject, limits.requests_per_address);
        self.flights.set(limits);
        self.connections.set(limits.connections, 0, limits.connections_per_address);
        self.subjects.set(per_second(limits.rate_per_subject));
        self.addresses.set(per_second(limits.rate_per_address));
        self.bad_tokens.set(per_minute(limits.bad_tokens_per_address));
        self.repeats.set(limits.repeats);
        self.proxies.store(Arc::new(Proxies::new(limits.trusted_proxies.as_deref())));
        self.memory.set(limits.memory);
    }

    /// Requests being answered.
    pub fn requests(&self) -> &Arc<Budgets> {
        &self.requests
    }

    /// Requests to Electric.
    pub fn flights(&self) -> &Arc<FlightLimits> {
        &self.flights
    }

    /// Open connections.
    pub fn connections(&self) -> &Budgets {
        &self.connections
    }

    /// What the process holds, and may hold.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Takes a place for a new connection from `peer`.
    ///
    /// # Errors
    /// Where all places are taken, or those of this address, or memory is short.
    pub fn connect(&self, peer: IpAddr) -> Result<Connection, Limited> {
        self.memory.check()?;
        // A proxy's connections are those of all its clients.
        let place = self.connections.enter(None, self.proxies.load().direct(peer))?;
        Ok(Connection::new(peer, place, Arc::clone(&self.repeats)))
    }

    /// The address that asks on a connection from `peer`; `None` where addresses say nothing of who asks.
    pub fn address(&self, peer: IpAddr, headers: &HeaderMap) -> Option<Address> {
        self.proxies.load().client(peer, headers)
    }

    /// A request of this address has come.
    ///
    /// # Errors
    /// Where it asks too often.
    pub fn ask(&self, address: Option<Address>, now: Instant) -> Result<(), Limited> {
        address.map_or(Ok(()), |address| self.addresses.take(&address, now))
    }

    /// A request of this subject has come.
    ///
    /// # Errors
    /// Where it asks too often.
    pub fn ask_as(&self, subject: &SubjectKey, now: Instant) -> Result<(), Limited> {
        self.subjects.take(subject, now)
    }

    /// Whether a token of this address that was never seen before is worth a check.
    ///
    /// # Errors
    /// Where too many of its tokens were bad.
    pub fn may_verify(&self, address: Option<Address>, now: Instant) -> Result<(), Limited> {
        address.map_or(Ok(()), |address| self.bad_tokens.check(&address, now))
    }

    /// A token of this address was bad.
    pub fn bad_token(&self, address: Option<Address>, now: Instant) {
        if let Some(address) = address {
            // Where there were too many already, this was the last that was looked at.
            let _ = self.bad_tokens.take(&address, now);
        }
    }

    /// Where an answer with this handle and offset sends whoever was at `position`.
    pub fn next(&self, position: Position, handle: &str, offset: &str) -> Position {
        self.repeats.next(position, handle, offset)
    }

    /// Takes a place for a request.
    ///
    /// # Errors
    /// Where all places are taken, or those of this subject or address.
    pub fn enter(&self, subject: Option<&SubjectKey>, address: Option<Address>) -> Result<Place, Limited> {
        self.requests.enter(subject, address)
    }
}

impl std::fmt::Debug for Limiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limiter").field("requests", &self.requests).finish_non_exhaustive()
    }
}
