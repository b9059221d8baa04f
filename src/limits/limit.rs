//! Names the limits, and says how long to wait when one is reached.

use std::time::Duration;

/// A limit, named by its key in `[limits]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    OpenBytes,
    RatePerAddress,
    RatePerSubject,
    Repeats,
    Requests,
    RequestsPerAddress,
    RequestsPerSubject,
    ShapesPerSubject,
}

impl Limit {
    /// Every limit, in alphabetical order.
    pub const ALL: [Self; 16] = [
        Self::BadTokensPerAddress,
        Self::Connections,
        Self::ConnectionsPerAddress,
        Self::Flights,
        Self::FlightsPerSubject,
        Self::InitialFlights,
        Self::InitialFlightsPerSubject,
        Self::Memory,
        Self::OpenBytes,
        Self::RatePerAddress,
        Self::RatePerSubject,
        Self::Repeats,
        Self::Requests,
        Self::RequestsPerAddress,
        Self::RequestsPerSubject,
        Self::ShapesPerSubject,
    ];

    /// Returns the key in `[limits]`, which is also the metric label.
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
            Self::OpenBytes => "open_bytes",
            Self::RatePerAddress => "rate_per_address",
            Self::RatePerSubject => "rate_per_subject",
            Self::Repeats => "repeats",
            Self::Requests => "requests",
            Self::RequestsPerAddress => "requests_per_address",
            Self::RequestsPerSubject => "requests_per_subject",
            Self::ShapesPerSubject => "shapes_per_subject",
        }
    }

    /// Returns whether the limit is shared by all clients rather than per client.
    pub const fn is_of_all(self) -> bool {
        matches!(
            self,
            Self::Connections | Self::Flights | Self::InitialFlights | Self::Memory | Self::OpenBytes | Self::Requests
        )
    }
}

/// A rejection because one limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    limit: Limit,
    after: Duration,
}

/// The retry delay of limits that do not know when there will be room.
const AFTER: Duration = Duration::from_secs(2);

/// The retry delay after load shedding, longer so that the load does not return at once.
const AFTER_SHEDDING: Duration = Duration::from_secs(5);

impl Limited {
    /// Creates a rejection that ends at an unknown time, when other requests finish.
    pub(super) const fn by(limit: Limit) -> Self {
        let after = if matches!(limit, Limit::Memory) { AFTER_SHEDDING } else { AFTER };
        Self { limit, after }
    }

    /// Creates a rejection that ends `after` this time.
    pub(super) const fn until(limit: Limit, after: Duration) -> Self {
        Self { limit, after }
    }

    /// The limit that is reached.
    pub const fn limit(self) -> Limit {
        self.limit
    }

    /// The time until a retry can succeed.
    #[cfg(test)]
    pub(super) const fn after(self) -> Duration {
        self.after
    }

    /// Returns the value of `Retry-After`: the time to wait in whole seconds plus a random amount up to as much again (at
    /// least 2 s), so that clients rejected together do not return together.
    pub fn retry_after(self) -> Duration {
        let least = self.after.as_millis().div_ceil(1000).clamp(1, 3600);
        let least = u64::try_from(least).unwrap_or(3600);
        Duration::from_secs(rand::random_range(least..=least + least.clamp(2, MOST_JITTER)))
    }
}

/// The maximum random addition in seconds; enough to spread any number of clients.
const MOST_JITTER: u64 = 15;
