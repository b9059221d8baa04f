//! Settings of CORS and of HTTP/2.

use std::time::Duration;

/// `[cors]`.
#[derive(Clone, Debug)]
pub struct CorsSettings {
    /// Which origins may read responses.
    pub origins: Origins,
    /// Whether browsers may send credentials. Never set with [`Origins::Any`].
    pub credentials: bool,
    /// Whether a token may come in a cookie, so that responses depend on cookies. Never set with [`Origins::Any`].
    pub cookies: bool,
    /// How long a browser may cache a preflight response.
    pub max_age: Duration,
}

/// Which origins may read responses.
#[derive(Clone, Debug)]
pub enum Origins {
    /// `*`: any origin. The bearer token protects the rows.
    Any,
    /// Only these. Scheme, host and port are compared byte for byte.
    List(Vec<String>),
}

/// The HTTP/2 settings of `[server]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http2Settings {
    /// `server.h2c`: whether HTTP/2 without TLS (prior knowledge) is accepted.
    pub h2c: bool,
    /// `server.h2_streams`: concurrent requests on one connection; 100 to 1000.
    pub streams: usize,
    /// `server.h2_idle_timeout`: how long a connection without a request stays open.
    pub idle_timeout: Duration,
}
