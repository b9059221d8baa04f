//! Settings of CORS and of HTTP.

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

/// The HTTP settings of `[server]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// `server.h1_idle_timeout`: how long an HTTP/1.1 connection without a request stays open.
    pub h1_idle_timeout: Duration,
    /// `server.h2c`: whether HTTP/2 without TLS (prior knowledge) is accepted.
    pub h2c: bool,
    /// `server.h2_streams`: concurrent requests on one connection; 100 to 1000.
    pub h2_streams: usize,
    /// `server.h2_idle_timeout`: how long an HTTP/2 connection without a request stays open.
    pub h2_idle_timeout: Duration,
    /// `server.health_path`: the path at which load balancers check this process; `None` for none.
    pub health_path: Option<String>,
}
