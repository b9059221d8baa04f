//! Whose address it is: the peer's, or the one that a trusted proxy names.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

use crate::auth::SubjectKey;

/// An address as limits count it: IPv4 whole, IPv6 by its /64, which is the least that one customer gets and may change
/// within at will (RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address(u64);

impl Address {
    /// What is counted for this address. No IPv6 host is in `::/32`, where the numbers of IPv4 lie.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(four) => Self(u64::from(four.to_bits())),
            IpAddr::V6(six) => Self(u64::try_from(six.to_bits() >> 64).unwrap_or_default()),
        }
    }
}

/// Whom something counts for: the subject of a token, or the address of who has none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// A token's subject.
    Subject(SubjectKey),
    /// An address, where addresses say who asks.
    Address(Address),
}

/// Who may name a client's address.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    /// `None`: nobody has said what stands in front, so an address may be that of a balancer and of all clients.
    trusted: Option<Vec<IpNet>>,
}

impl Proxies {
    pub(super) fn new(trusted: Option<&[IpNet]>) -> Self {
        Self { trusted: trusted.map(<[_]>::to_vec) }
    }

    /// The address of a client that is connected without a proxy.
    pub(super) fn direct(&self, peer: IpAddr) -> Option<Address> {
        let trusted = self.trusted.as_ref()?;
        (!contains(trusted, peer)).then(|| Address::of(peer))
    }

    /// The last address that no trusted proxy has, on the way from the client to us: `X-Forwarded-For` from its end, as
    /// each proxy adds its peer there. What is malformed ends the search at the proxy that let it pass.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Option<Address> {
        let trusted = self.trusted.as_ref()?;
        let mut client = peer;
        if contains(trusted, peer) {
            let lines = headers.get_all("x-forwarded-for").iter().rev();
            let named = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
            for named in named.map_while(parse) {
                client = named;
                if !contains(trusted, named) {
                    break;
                }
            }
        }
        Some(Address::of(client))
    }
}

fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// An address, with a port perhaps, as some proxies write it.
fn parse(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
}
