//! Limits the addresses to which a key endpoint's name may resolve (docs/security.md, J6).
//!
//! The client connects to the very addresses that passed the check, so DNS rebinding has no effect. A URL with a
//! literal IP address is not checked here: the operator wrote it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Resolves names and keeps only the allowed addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GuardedResolver {
    /// Any address, as `private_address` allows.
    AnyAddress,
    /// Addresses of the public internet, and loopback for `localhost`.
    PublicAddresses,
}

impl GuardedResolver {
    fn allows(self, host: &str, address: IpAddr) -> bool {
        match self {
            Self::AnyAddress => true,
            Self::PublicAddresses if is_localhost(host) => address.is_loopback(),
            Self::PublicAddresses => is_public(address),
        }
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = *self;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|found| resolver.allows(name.as_str(), found.ip())).collect();
            if allowed.is_empty() {
                return Err("the name resolves to no public address (see `private_address`)".into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Whether the name is `localhost` or below it (RFC 6761 section 6.3).
pub(super) fn is_localhost(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// Whether the address is outside the special-purpose registry (RFC 6890). Cloud metadata addresses are link-local.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_documentation()
        || a == 0
        || a >= 224
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19));
    !special
}

/// Whether the address is in 2000::/3, the only allocated global unicast range (RFC 4291 section 2.4). An embedded IPv4
/// address is judged instead, if there is one.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let embedded = match (a, b) {
        (0, 0) if [c, d, e] == [0; 3] && f == 0xffff => Some((g, h)), // mapped
        (0x64, 0xff9b) if [c, d, e, f] == [0; 4] => Some((g, h)),     // NAT64, RFC 6052
        (0x2002, _) => Some((b, c)),                                  // 6to4, RFC 3056
        _ => None,
    };
    if let Some((high, low)) = embedded {
        return is_public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    }
    let documentation = a == 0x2001 && b == 0xdb8;
    let teredo_and_protocols = a == 0x2001 && b < 0x200;
    a & 0xe000 == 0x2000 && !documentation && !teredo_and_protocols
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn j6_only_public_addresses_are_allowed() {
        let guard = GuardedResolver::PublicAddresses;
        for address in ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"] {
            assert!(guard.allows("auth.example.com", address.parse().unwrap()), "{address}");
        }
        for address in [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.192",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::1",
            "2001:db8::1",
            "2001::1",
            "::127.0.0.1",
        ] {
            assert!(!guard.allows("auth.example.com", address.parse().unwrap()), "{address}");
            assert!(GuardedResolver::AnyAddress.allows("auth.example.com", address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn j6_localhost_means_loopback_and_nothing_else() {
        let guard = GuardedResolver::PublicAddresses;
        for host in ["localhost", "LOCALHOST.", "a.localhost"] {
            assert!(guard.allows(host, "127.0.0.1".parse().unwrap()), "{host}");
            assert!(!guard.allows(host, "8.8.8.8".parse().unwrap()), "{host}");
        }
        assert!(!guard.allows("localhost.example.com", "127.0.0.1".parse().unwrap()));
    }

    #[tokio::test]
    async fn j6_a_name_that_resolves_to_loopback_is_rejected_unless_it_is_localhost() {
        let resolve = |host: &str| GuardedResolver::PublicAddresses.resolve(host.parse().unwrap());
        assert!(resolve("localhost").await.is_ok());
        // The system's resolver understands this short form of 127.0.0.1; reqwest passes such a name to the resolver.
        assert!(resolve("127.1").await.is_err());
    }
}
