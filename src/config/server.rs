//! `[server]`: what only the server and the commands read.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::proxy::Http2Settings;

/// `[server]`.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Addresses for client traffic; port 0 takes a free port.
    pub listen: Vec<SocketAddr>,
    /// Address of `/metrics`, `/healthz` and `/readyz`.
    pub admin: SocketAddr,
    /// Worker threads; never 0 (0 in the file means one per core).
    pub threads: usize,
    /// How long requests in flight may take after SIGTERM.
    pub drain: Duration,
    /// Certificate and key of the client listeners.
    pub tls: Option<TlsSettings>,
    /// HTTP/2: `h2c`, `h2_streams` and `h2_idle_timeout`.
    pub http2: Http2Settings,
    /// Where the last good key sets are kept; `None` keeps them in memory alone.
    pub state: Option<PathBuf>,
    /// The Unix socket over which the next process takes the listening sockets; `None`: it cannot.
    pub upgrade_socket: Option<PathBuf>,
    /// How long the next process may take until it is ready; after that the old one goes on alone.
    pub upgrade_timeout: Duration,
}

/// Certificate chain and private key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Certificate chain, leaf first.
    pub cert: PathBuf,
    /// Private key of the leaf.
    pub key: PathBuf,
    /// How often both are looked at for a change. No file says it: 5 s.
    pub poll: Duration,
}
