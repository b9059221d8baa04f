//! Connects to one Electric server.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use pingora::connectors::http::Connector;
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::{HttpPeer, Peer as _};
use pingora::utils::tls::{WrappedX509, parse_x509};

use super::addresses::Addresses;
use super::secrets::{self, SecretInUse};
use super::settings::{ServerUrl, UpstreamSettings};
use crate::fault::Fault;
use crate::secret::Secret;
use crate::shape::{SHAPE_PATH, UpstreamName};

/// An Electric server, and the addresses of its host.
pub(crate) struct UpstreamServer {
    url: ServerUrl,
    config: Arc<UpstreamSettings>,
    trust: Trust,
    /// For health checks. Requests for shapes go through `proxy::Gateway`.
    connector: Arc<Connector>,
    addresses: Addresses,
    pub(super) secret: SecretInUse,
}

/// The certificate authorities that are trusted for a server.
#[derive(Clone, Default)]
pub(super) struct Trust {
    /// Those of `upstream.ca`; `None` for those of the system.
    ca: Option<Arc<CaType>>,
    /// Separates pooled connections that were verified against different authorities, because the pool ignores `ca`.
    group: u64,
}

impl Trust {
    /// Returns the trusted authorities of an upstream.
    pub(super) fn of(upstream: &UpstreamSettings) -> Self {
        let Some(ca) = &upstream.ca else { return Self::default() };
        let certificates = ca.certificates.iter().map(|der| WrappedX509::new(der.to_vec(), parse_x509));
        let mut hasher = DefaultHasher::new();
        ca.certificates.hash(&mut hasher);
        Self { ca: Some(certificates.collect()), group: hasher.finish() }
    }
}

impl UpstreamServer {
    /// Creates a server of this upstream. Its name is resolved at the first request.
    pub(super) fn new(url: ServerUrl, config: Arc<UpstreamSettings>, trust: Trust, connector: Arc<Connector>) -> Self {
        Self { addresses: Addresses::of(&url), url, config, trust, connector, secret: SecretInUse::default() }
    }

    pub(crate) fn url(&self) -> &ServerUrl {
        &self.url
    }

    /// Opens a connection for a health check. It is never reused: the check asks whether new ones can be opened.
    pub(super) async fn connect_anew(&self) -> Result<HttpSession, Fault> {
        let peer = self.peer().await?;
        let connected = self.connector.get_http_session(&peer).await;
        connected.map(|(session, _)| session).map_err(|error| Fault::of_upstream(&error))
    }

    /// Returns the place of the secret to try first.
    pub(crate) fn secret_in_use(&self) -> usize {
        self.secret.place()
    }

    /// Returns the secret at `place`; `None` if the upstream has none.
    pub(crate) fn secret(&self, place: usize) -> Option<&Secret> {
        secrets::secret(place, &self.config)
    }

    /// Returns the place of the secret to try if the one at `place` is refused; `None` if there is no other.
    pub(crate) fn other_secret(&self, place: usize) -> Option<usize> {
        SecretInUse::other(place, &self.config)
    }

    /// Uses the secret at `place` from now on if `status` proves that Electric accepted it. Returns whether that is new.
    pub(crate) fn take_secret(&self, place: usize, status: StatusCode) -> bool {
        self.secret.take(place, status)
    }

    /// Notes what a response says about the secrets after all were tried. Logs it once if Electric refuses them.
    pub(crate) fn judge_secret(&self, name: &UpstreamName, status: StatusCode) {
        if self.secret.judge(status) {
            let (upstream, keys) = (name.as_str(), secrets::keys(name, &self.config));
            tracing::error!(upstream, server = %self.url, "Electric rejects `{keys}`: every request fails until it is right");
        }
    }

    /// Returns the target of a request that Electric answers 400 if it accepts the secret at `place`, else 401.
    pub(super) fn secret_check(&self, place: usize) -> Option<Secret> {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        if let Some(source) = &self.config.source_id {
            query.append_pair("source_id", source);
        }
        query.append_pair("secret", self.secret(place)?.expose());
        Some(Secret::new(format!("{SHAPE_PATH}?{}", query.finish())))
    }

    /// Returns the configuration key of the secret at `place`, for logs.
    pub(crate) fn secret_key(place: usize) -> &'static str {
        SecretInUse::key(place)
    }

    /// Records that `failed` refuses connections. Returns whether there is another address to try after `attempts`.
    pub(crate) fn move_on(&self, failed: &HttpPeer, attempts: usize) -> bool {
        self.addresses.move_on(failed.address().as_inet().copied(), attempts)
    }

    /// Returns the peer for a connection.
    ///
    /// # Errors
    /// If the host name cannot be resolved and never could.
    pub(crate) async fn peer(&self) -> Result<HttpPeer, Fault> {
        let address = self.addresses.choose().await?;
        // `new` resolves names itself, which would block, and panics if there is no address. So it gets an address.
        let mut peer = HttpPeer::new(address, self.url.tls, self.url.host.clone());
        peer.group_key = self.trust.group;
        peer.options.ca.clone_from(&self.trust.ca);
        peer.options.connection_timeout = Some(self.config.connect_timeout);
        peer.options.total_connection_timeout = Some(self.config.connect_timeout);
        peer.options.read_timeout = Some(self.config.read_timeout);
        peer.options.write_timeout = Some(WRITE_TIMEOUT);
        peer.options.idle_timeout = Some(self.config.idle_timeout);
        Ok(peer)
    }
}

/// The timeout of a write. An Electric server that does not read for this long is down.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
