//! Electric as a peer on the network.

use std::time::Duration;

use pingora::upstreams::peer::{HttpPeer, Peer};

use super::addresses::Addresses;
use crate::config::Upstream;
use crate::fault::Fault;

/// The configured Electric and the addresses its name stands for.
#[derive(Debug)]
pub struct UpstreamServer {
    config: Upstream,
    addresses: Addresses,
}

impl UpstreamServer {
    /// Of this configuration; the name is looked up with the first request.
    pub fn new(config: Upstream) -> Self {
        Self { addresses: Addresses::of(&config), config }
    }

    /// The configuration.
    pub fn config(&self) -> &Upstream {
        &self.config
    }

    /// The peer for a connection.
    pub(super) async fn peer(&self) -> Result<HttpPeer, Fault> {
        let address = self.addresses.choose().await?;
        // Given an address, `new` looks nothing up; given a name, it would block, and panic where there is none.
        let mut peer = HttpPeer::new(address, self.config.tls, self.config.host.clone());
        peer.options.connection_timeout = Some(self.config.connect_timeout);
        peer.options.total_connection_timeout = Some(self.config.connect_timeout);
        peer.options.read_timeout = Some(self.config.read_timeout);
        peer.options.write_timeout = Some(WRITE_TIMEOUT);
        peer.options.idle_timeout = Some(self.config.idle_timeout);
        Ok(peer)
    }

    /// Notes that `peer` takes no connection; says whether there is another to try after `attempts` such.
    pub(super) fn move_on(&self, peer: &HttpPeer, attempts: usize) -> bool {
        self.addresses.move_on(peer.address().as_inet().copied(), attempts)
    }
}

/// An Electric that does not read is down.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
