//! The settings of an Electric service: `[upstream]` and `[upstreams.NAME]`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use url::Url;

use crate::secret::Secret;

/// One Electric service: one server, or several on the same database. Two settings are equal only if everything is,
/// including the certificates of `ca`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// Its servers; never empty, and no two with the same host and port.
    pub servers: Vec<ServerUrl>,
    /// Electric's API secret; `None` only with `danger_no_secret`.
    pub secret: Option<Secret>,
    /// The second secret during a rotation; tried if Electric refuses the one in use.
    pub secret_next: Option<Secret>,
    /// The Electric Cloud source.
    pub source_id: Option<String>,
    /// The certificates trusted for TLS instead of the system's.
    pub ca: Option<Ca>,
    /// The timeout for opening a connection; 100 ms to 1 min.
    pub connect_timeout: Duration,
    /// How long Electric may be silent, 22 s to 5 min. Its longest silence is 21 s (docs/electric.md, "Long polls").
    pub read_timeout: Duration,
    /// How long an idle connection is kept, 1 s to 59 s; Electric closes it after 60 s
    /// (docs/electric.md, "Connections").
    pub idle_timeout: Duration,
    /// The maximum number of idle connections kept for reuse.
    pub pool: usize,
    /// The time between health checks of each server, if there are several; 100 ms to 1 min.
    pub health_interval: Duration,
    /// How long one of several servers must be unhealthy before its shapes move to another, and healthy again before
    /// they return; at most 10 min.
    pub failover: Duration,
}

impl UpstreamSettings {
    /// Returns the secrets to try, the usual one first; none with `danger_no_secret`.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.secret.iter().chain(&self.secret_next)
    }
}

/// The certificates of `ca`, each usable as a trust anchor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ca {
    /// The PEM file.
    pub path: PathBuf,
    /// The certificates in the file when it was read.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// The URL of one server; displayed as scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    /// Host name or address, without brackets for IPv6.
    pub host: String,
    /// Port; 80 or 443 if the URL names none.
    pub port: u16,
    /// Whether the URL is `https`.
    pub tls: bool,
}

impl ServerUrl {
    /// Converts a URL that has only scheme, host and port; `None` for others.
    pub(crate) fn of(url: &Url) -> Option<Self> {
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !bare || !url.username().is_empty() || url.password().is_some() {
            return None;
        }
        let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
        Some(Self { host, port: url.port_or_known_default()?, tls: url.scheme() == "https" })
    }

    /// Returns host and port as written in a URL and a `Host` header.
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
