//! What the configuration says of limits.

use std::time::Duration;

use ipnet::IpNet;

/// `[limits]`.
#[derive(Clone, Debug)]
pub struct LimitSettings {
    /// Bytes of a request's header names and values; more is 431.
    pub header_bytes: usize,
    /// Number of a request's headers; more is 431.
    pub headers: usize,
    /// Bytes of the request target; more is 414.
    pub uri_bytes: usize,
    /// Bytes of a token; more is 431, without a look at it.
    pub token_bytes: usize,
    /// Requests being answered at one time; more is 503.
    pub requests: usize,
    /// Requests of one subject being answered at one time; more is 429.
    pub requests_per_subject: usize,
    /// Requests of one address being answered at one time; more is 429. 0: no bound, as in all that can be 0 here.
    pub requests_per_address: usize,
    /// Requests of one subject a second, on average over five; more is 429.
    pub rate_per_subject: usize,
    /// Requests of one address a second, on average over five; more is 429.
    pub rate_per_address: usize,
    /// Bad tokens of one address a minute; after them a token that is not known is 429, without a look at it.
    pub bad_tokens_per_address: usize,
    /// How often one connection gets the same, without progress, in half a second; more is 429.
    pub repeats: usize,
    /// Verified tokens remembered.
    pub verdicts: usize,
    /// Requests to Electric at one time; more is 503.
    pub flights: usize,
    /// Requests to Electric of one subject at one time; more is 429.
    pub flights_per_subject: usize,
    /// Those of `flights` that may open a shape or query Postgres, until their answer begins; more is 503.
    pub initial_flights: usize,
    /// The same of one subject; more is 429.
    pub initial_flights_per_subject: usize,
    /// Different shapes that one subject makes Electric open in `shapes_window`; more is 429.
    pub shapes_per_subject: usize,
    /// See there.
    pub shapes_window: Duration,
    /// Connections of clients; more are closed at once.
    pub connections: usize,
    /// Connections of one address that is no trusted proxy; more are closed at once.
    pub connections_per_address: usize,
    /// Bytes of resident memory; above, new flights are 503 and new connections closed.
    pub memory: usize,
    /// Who may name a client's address. `None`: nobody has said what stands in front, and no limit per address is set.
    pub trusted_proxies: Option<Vec<IpNet>>,
    /// A client that takes no bytes for so long is cut.
    pub write_timeout: Duration,
}
