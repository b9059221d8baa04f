//! One server of Electric as a peer on the network.

use std::sync::Arc;
use std::time::Duration;

use pingora::connectors::http::Connector;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::{HttpPeer, Peer};

use super::addresses::Addresses;
use super::secrets::SecretInUse;
use super::settings::{ServerUrl, UpstreamSettings};
use crate::fault::Fault;

/// A server, and the addresses its name stands for.
pub(super) struct UpstreamServer {
    url: ServerUrl,
    config: Arc<UpstreamSettings>,
    /// That of its upstream: the pool of connections is by address.
    connector: Arc<Connector>,
    addresses: Addresses,
    pub(super) secret: SecretInUse,
}

/// A connection, and whether it was used before.
pub(super) struct Connection {
    pub(super) session: HttpSession,
    pub(super) peer: HttpPeer,
    pub(super) reused: bool,
}

impl UpstreamServer {
    /// Of this upstream; the name is looked up with the first request.
    pub(super) fn new(url: ServerUrl, config: Arc<UpstreamSettings>, connector: Arc<Connector>) -> Self {
        Self { addresses: Addresses::of(&url), url, config, connector, secret: SecretInUse::default() }
    }

    pub(super) fn url(&self) -> &ServerUrl {
        &self.url
    }

    /// The configuration of its upstream.
    pub(super) fn config(&self) -> &UpstreamSettings {
        &self.config
    }

    /// A connection, to any of its addresses; `retried` is called before each further attempt.
    pub(super) async fn connect(&self, retried: impl Fn()) -> Result<Connection, Fault> {
        let mut refusals = 0;
        loop {
            let peer = self.peer().await?;
            match self.connector.get_http_session(&peer).await {
                Ok((session, reused)) => return Ok(Connection { session, peer, reused }),
                Err(error) => {
                    refusals += 1;
                    if !self.addresses.move_on(peer.address().as_inet().copied(), refusals) {
                        return Err(Fault::of_upstream(&error));
                    }
                    retried();
                }
            }
        }
    }

    /// A connection that was never used and never will be again: whether new ones can be had is what a check asks.
    pub(super) async fn connect_anew(&self) -> Result<HttpSession, Fault> {
        let mut peer = self.peer().await?;
        peer.group_key = CHECKS;
        let connected = self.connector.get_http_session(&peer).await;
        connected.map(|(session, _)| session).map_err(|error| Fault::of_upstream(&error))
    }

    /// Gives a connection back for the next request.
    pub(super) async fn release(&self, session: HttpSession, peer: &HttpPeer) {
        self.connector.release_http_session(session, peer, peer.idle_timeout()).await;
    }

    /// The peer for a connection.
    async fn peer(&self) -> Result<HttpPeer, Fault> {
        let address = self.addresses.choose().await?;
        // Given an address, `new` looks nothing up; given a name, it would block, and panic where there is none.
        let mut peer = HttpPeer::new(address, self.url.tls, self.url.host.clone());
        peer.options.connection_timeout = Some(self.config.connect_timeout);
        peer.options.total_connection_timeout = Some(self.config.connect_timeout);
        peer.options.read_timeout = Some(self.config.read_timeout);
        peer.options.write_timeout = Some(WRITE_TIMEOUT);
        peer.options.idle_timeout = Some(self.config.idle_timeout);
        Ok(peer)
    }
}

/// An Electric that does not read is down.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Pingora's pool gives no connection of another group.
const CHECKS: u64 = 1;
