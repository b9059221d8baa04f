//! What the configuration says of an Electric: `[upstream]` and `[upstreams.NAME]`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use url::Url;

use crate::secret::Secret;

/// One Electric: a server, or several on the same database. Equal where nothing is different, the certificates of `ca`
/// included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// Its servers; never empty, and no two at one host and port.
    pub servers: Vec<ServerUrl>,
    /// Electric's API secret; `None` only with `danger_no_secret`.
    pub secret: Option<Secret>,
    /// The other secret while Electric's is being replaced; tried where Electric refuses the one in use.
    pub secret_next: Option<Secret>,
    /// Electric Cloud's source.
    pub source_id: Option<String>,
    /// What is trusted for TLS instead of the system's certificates.
    pub ca: Option<Ca>,
    /// How long a connection may take to open.
    pub connect_timeout: Duration,
    /// How long Electric may be silent; above 21 s, its longest silence (docs/electric.md, "Long polls").
    pub read_timeout: Duration,
    /// How long a connection is kept unused; below 60 s, when Electric closes it (docs/electric.md, "Connections").
    pub idle_timeout: Duration,
    /// Connections kept for reuse.
    pub pool: usize,
    /// How often each of several servers is asked for its health.
    pub health_interval: Duration,
    /// How long one of several servers must be unready before its shapes go to another one, and ready again before
    /// they come back.
    pub failover: Duration,
}

impl UpstreamSettings {
    /// The secrets it may take, the usual one first; none with `danger_no_secret`.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.secret.iter().chain(&self.secret_next)
    }
}

/// Certificates of one's own, each of which can be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ca {
    /// Their file, PEM.
    pub path: PathBuf,
    /// What it held when it was read.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Where one server listens; shown as scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    /// Host name or address, without brackets for IPv6.
    pub host: String,
    /// Port; 80 or 443 where the URL names none.
    pub port: u16,
    /// Whether the URL is `https`.
    pub tls: bool,
}

impl ServerUrl {
    /// Of a URL that has scheme, host and port and nothing else; `None` for others.
    pub(crate) fn of(url: &Url) -> Option<Self> {
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !bare || !url.username().is_empty() || url.password().is_some() {
            return None;
        }
        let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
        Some(Self { host, port: url.port_or_known_default()?, tls: url.scheme() == "https" })
    }

    /// Host and port as a URL and a `Host` header write them.
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}
