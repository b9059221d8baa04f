//! What was too much, and what its client is told.

use std::time::Duration;

use crate::metrics::Metrics;
use crate::rejection::Rejection;

/// A limit, by the key of `[limits]` that sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // `as_str` says it
pub enum Limit {
    BadTokensPerAddress,
    Connections,
    ConnectionsPerAddress,
    Flights,
    FlightsPerSubject,
    InitialFlights,
    InitialFlightsPerSubject,
    Memory,
    RatePerAddress,
    RatePerSubject,
    Repeats,
    Requests,
    RequestsPerAddress,
    RequestsPerSubject,
    ShapesPerSubject,
}

impl Limit {
    /// Every limit, in the order of the alphabet.
    pub const ALL: [Self; 15] = [
        Self::BadTokensPerAddress,
        Self::Connections,
        Self::ConnectionsPerAddress,
        Self::Flights,
        Self::FlightsPerSubject,
        Self::InitialFlights,
        Self::InitialFlightsPerSubject,
        Self::Memory,
        Self::RatePerAddress,
        Self::RatePerSubject,
        Self::Repeats,
        Self::Requests,
        Self::RequestsPerAddress,
        Self::RequestsPerSubject,
        Self::ShapesPerSubject,
    ];

    /// The key in `[limits]`, which is also the metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadTokensPerAddress => "bad_tokens_per_address",
            Self::Connections => "connections",
            Self::ConnectionsPerAddress => "connections_per_address",
            Self::Flights => "flights",
            Self::FlightsPerSubject => "flights_per_subject",
            Self::InitialFlights => "initial_flights",
            Self::InitialFlightsPerSubject => "initial_flights_per_subject",
            Self::Memory => "memory",
            Self::RatePerAddress => "rate_per_address",
            Self::RatePerSubject => "rate_per_subject",
            Self::Repeats => "repeats",
            Self::Requests => "requests",
            Self::RequestsPerAddress => "requests_per_address",
            Self::RequestsPerSubject => "requests_per_subject",
            Self::ShapesPerSubject => "shapes_per_subject",
        }
    }

    /// Whether all clients together are too many, and not one client too much.
    pub const fn is_of_all(self) -> bool {
        matches!(self, Self::Connections | Self::Flights | Self::InitialFlights | Self::Memory | Self::Requests)
    }
}

/// A refusal: one limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    limit: Limit,
    after: Duration,
}

/// For those limits that cannot say when there will be room.
const AFTER: Duration = Duration::from_secs(2);

/// What was shed to relieve us must not be back at once.
const AFTER_SHEDDING: Duration = Duration::from_secs(5);

impl Limited {
    /// A refusal that ends when others have finished, which nobody knows.
    pub(super) const fn by(limit: Limit) -> Self {
        let after = if matches!(limit, Limit::Memory) { AFTER_SHEDDING } else { AFTER };
        Self { limit, after }
    }

    /// A refusal that ends `after` this time.
    pub(super) const fn until(limit: Limit, after: Duration) -> Self {
        Self { limit, after }
    }

    /// Which limit it was.
    pub const fn limit(self) -> Limit {
        self.limit
    }

    /// The earliest moment for another try.
    #[cfg(test)]
    pub(super) const fn after(self) -> Duration {
        self.after
    }

    /// Counts the refusal and gives its answer.
    pub fn refuse(self, metrics: &Metrics) -> Rejection {
        metrics.limited(self.limit().as_str());
        self.rejection()
    }

    /// The answer: 503 where all are too many, 429 where one client asks too much. Its `Retry-After` is the time to
    /// wait, in whole seconds, and up to as much again (2 s at least) by chance, so that those who were refused together
    /// do not come back together.
    pub(super) fn rejection(self) -> Rejection {
        let least = self.after.as_millis().div_ceil(1000).clamp(1, 3600);
        let least = u64::try_from(least).unwrap_or(3600);
        let after = Duration::from_secs(rand::random_range(least..=least + least.clamp(2, MOST_JITTER)));
        if self.limit.is_of_all() { Rejection::Overloaded(after) } else { Rejection::TooManyRequests(after) }
    }
}

/// Seconds: enough to spread any crowd.
const MOST_JITTER: u64 = 15;
