//! What the configuration says of browsers and of HTTP/2.

use std::time::Duration;

/// `[cors]`.
#[derive(Clone, Debug)]
pub struct CorsSettings {
    /// Which origins may read answers.
    pub origins: Origins,
    /// Whether browsers may send credentials; never with [`Origins::Any`].
    pub credentials: bool,
    /// How long a preflight may be remembered.
    pub max_age: Duration,
}

/// Which origins may read answers.
#[derive(Clone, Debug)]
pub enum Origins {
    /// `*`: any; the bearer token is what protects the rows.
    Any,
    /// These, compared byte for byte (scheme, host, port).
    List(Vec<String>),
}

/// The part of `[server]` about HTTP/2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http2Settings {
    /// `server.h2c`: whether HTTP/2 without TLS (prior knowledge) is answered.
    pub h2c: bool,
    /// `server.h2_streams`: concurrent requests on one connection; 100 to 1000.
    pub streams: usize,
    /// `server.h2_idle_timeout`: a connection without a request is closed after this.
    pub idle_timeout: Duration,
}
