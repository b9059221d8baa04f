//! The settings of `[limits]`.

use std::time::Duration;

use ipnet::IpNet;

/// The most that `uri_bytes` can be. The `http` crate accepts targets of at most 65,534 bytes.
pub const MAX_URI_BYTES: usize = 60 * 1024;

/// `[limits]`. A limit documented with "0: no limit" can be 0. The others are positive.
#[derive(Clone, Debug)]
pub struct LimitSettings {
    /// Bytes of a request's header names and values; 431 above.
    pub header_bytes: usize,
    /// Number of a request's headers; 431 above.
    pub headers: usize,
    /// Bytes of the request target; 414 above.
    pub uri_bytes: usize,
    /// Bytes of a token; 431 above, before it is parsed.
    pub token_bytes: usize,
    /// Bytes of the body that describes a subset; 413 above.
    pub body_bytes: usize,
    /// Concurrent requests, waiting polls included; 503 above.
    pub requests: usize,
    /// Concurrent requests of one subject; 429 above.
    pub requests_per_subject: usize,
    /// Concurrent requests of one address; 429 above. 0: no limit.
    pub requests_per_address: usize,
    /// Requests per second of one subject, averaged over five seconds; 429 above. 0: no limit.
    pub rate_per_subject: usize,
    /// Requests per second of one address, averaged over five seconds; 429 above. 0: no limit.
    pub rate_per_address: usize,
    /// Tokens with a wrong signature per minute from one address; above, `signatures_per_address` applies. 0: no limit.
    pub bad_tokens_per_address: usize,
    /// Signature checks per second for an address over `bad_tokens_per_address`, and of its expired tokens. 0: no limit.
    pub signatures_per_address: usize,
    /// Responses without progress for one position on one connection in half a second; 429 above. 0: no limit.
    pub repeats: usize,
    /// Bytes of memory for verified tokens, so that they are not verified again at each request.
    pub verdict_bytes: usize,
    /// Concurrent requests to Electric; 503 above.
    pub flights: usize,
    /// Concurrent requests to Electric of one subject; 429 above.
    pub flights_per_subject: usize,
    /// Those of `flights` that may open a shape or query Postgres, until Electric's response begins; 503 above.
    pub initial_flights: usize,
    /// Those of one subject; 429 above.
    pub initial_flights_per_subject: usize,
    /// Different shapes that one subject makes Electric open in `shapes_window`; 429 above. 0: no limit.
    pub shapes_per_subject: usize,
    /// The window of `shapes_per_subject`; 1 s to 1 h.
    pub shapes_window: Duration,
    /// Client connections; more are closed at once.
    pub connections: usize,
    /// Connections of one address that is not a trusted proxy; more are closed at once. 0: no limit.
    pub connections_per_address: usize,
    /// Bytes that all responses in flight hold for their clients. Above, each goes on at the pace of its slowest client,
    /// and new requests to Electric that are not live get 503.
    pub open_bytes: usize,
    /// Bytes of resident memory. Above, new requests to Electric get 503 and new connections are closed. 0: no limit.
    pub memory: usize,
    /// The proxies that may report a client's address; empty if clients connect directly. `None` if not configured:
    /// limits per address are then off.
    pub trusted_proxies: Option<Vec<IpNet>>,
    /// A client that accepts no bytes for this long is disconnected; 1 s to 5 min.
    pub write_timeout: Duration,
}
