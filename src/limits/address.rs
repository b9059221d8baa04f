//! Determines a client's address: the peer's, or the one that a trusted proxy reports.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

use crate::auth::SubjectKey;

/// An address as limits count it: an IPv4 address, or an IPv6 /64, which is the least that one customer gets and can
/// change addresses within (RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address(u64);

impl Address {
    /// Reduces an address to what is counted. IPv4 addresses map to `::/32`, in which there are no IPv6 hosts.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(four) => Self(u64::from(four.to_bits())),
            IpAddr::V6(six) => Self(u64::try_from(six.to_bits() >> 64).unwrap_or_default()),
        }
    }
}

/// The client that something is counted for: the subject of its token, or its address if it has no token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// The subject of a token.
    Subject(SubjectKey),
    /// An address, if addresses identify clients.
    Address(Address),
}

/// The proxies that may report a client's address.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    /// `None` if `trusted_proxies` is not set: an address could then be that of a load balancer, shared by all clients.
    trusted: Option<Vec<IpNet>>,
}

impl Proxies {
    pub(super) fn new(trusted: Option<&[IpNet]>) -> Self {
        Self { trusted: trusted.map(<[_]>::to_vec) }
    }

    /// Returns the address of a client that is connected without a proxy.
    pub(super) fn direct(&self, peer: Option<IpAddr>) -> Option<Address> {
        let trusted = self.trusted.as_ref()?;
        peer.filter(|peer| !contains(trusted, *peer)).map(Address::of)
    }

    /// Whether a peer is a trusted proxy. The peer of a Unix socket is one, since it was let in by the file's folder.
    pub(super) fn trusts(&self, peer: Option<IpAddr>) -> bool {
        self.trusted.as_ref().is_some_and(|trusted| peer.is_none_or(|peer| contains(trusted, peer)))
    }

    /// Returns the address closest to us on the request's path that is not a trusted proxy. Reads `X-Forwarded-For`
    /// from its end, where each proxy adds its peer. A malformed entry ends the search at the proxy that forwarded it.
    pub(super) fn client_address(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        let trusted = self.trusted.as_ref()?;
        let mut client = peer;
        if self.trusts(peer) {
            let lines = headers.get_all("x-forwarded-for").iter().rev();
            let named = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
            for named in named.map_while(parse) {
                client = Some(named);
                if !contains(trusted, named) {
                    break;
                }
            }
        }
        client.map(|client| client.to_canonical())
    }

    /// Returns the same address as limits count it.
    pub(super) fn client(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<Address> {
        self.client_address(peer, headers).map(Address::of)
    }
}

fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// Parses an address, with or without a port, as some proxies write one.
fn parse(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
}
