//! `[server]`: settings that only the server and the commands use.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::proxy::HttpSettings;

/// `[server]`: listeners, threads, TLS and process lifecycle.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Addresses for client traffic; port 0 picks a free port.
    pub listen: Vec<ListenAddress>,
    /// Whether connections of trusted proxies begin with a header of the PROXY protocol, version 1 or 2.
    pub proxy_protocol: bool,
    /// Address of `/metrics`, `/healthz` and `/readyz`.
    pub admin: SocketAddr,
    /// Worker threads; never 0 (0 in the file means one per core).
    pub threads: usize,
    /// How long requests in flight may run after SIGTERM or an upgrade; 0 s to 1 h.
    pub drain: Duration,
    /// Certificate and key of the client listeners; `None` serves plain HTTP.
    pub tls: Option<TlsSettings>,
    /// HTTP settings: `h1_idle_timeout`, `h2c`, `h2_streams`, `h2_idle_timeout` and `health_path`.
    pub http: HttpSettings,
    /// Folder for the last valid key sets and the pushed revocations; `None` keeps both only in memory.
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

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum ListenAddress {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// `unix:PATH`: a Unix socket, for a proxy on this host.
    Unix(PathBuf),
}

const UNIX: &str = "unix:";

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl From<ListenAddress> for String {
    fn from(address: ListenAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = std::net::AddrParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.strip_prefix(UNIX) {
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp),
        }
    }
}
