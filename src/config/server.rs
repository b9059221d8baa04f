//! `[server]`: settings that only the server and the commands use.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::proxy::Http2Settings;

/// `[server]`: listeners, threads, TLS and process lifecycle.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Addresses for client traffic; port 0 picks a free port.
    pub listen: Vec<SocketAddr>,
    /// Address of `/metrics`, `/healthz` and `/readyz`.
    pub admin: SocketAddr,
    /// Worker threads; never 0 (0 in the file means one per core).
    pub threads: usize,
    /// How long requests in flight may run after SIGTERM or an upgrade; 0 s to 1 h.
    pub drain: Duration,
    /// Certificate and key of the client listeners; `None` serves plain HTTP.
    pub tls: Option<TlsSettings>,
    /// HTTP/2 settings: `h2c`, `h2_streams` and `h2_idle_timeout`.
    pub http2: Http2Settings,
    /// Folder in which the last valid key sets are saved; `None` keeps them only in memory.
    pub state: Option<PathBuf>,
    /// Unix socket over which a new process takes over the listening sockets; `None` disables upgrades.
    pub upgrade_socket: Option<PathBuf>,
    /// `danger_explain_denials`: whether the body of a rejection has its reason. For development only.
    pub explain_denials: bool,
    /// How long a new process may take to become ready, 1 s to 1 h. After that, the old process keeps serving.
    pub upgrade_timeout: Duration,
}

/// Paths of the certificate chain and private key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Certificate chain, leaf first.
    pub cert: PathBuf,
    /// Private key of the leaf.
    pub key: PathBuf,
    /// How often both files are checked for changes: 5 s. Not configurable.
    pub poll: Duration,
}
