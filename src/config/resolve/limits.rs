//! Resolves `[limits]`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{hours, secs};
use crate::config::raw::{Bounds, KIB, MIB, Section, Value};
use crate::limits::{LimitSettings, MAX_URI_BYTES, available};

pub(super) fn limits(mut section: Section<'_>) -> LimitSettings {
    const HEADERS: &str = " (Pingora accepts no more)";
    const TARGET: &str = " (the parser accepts no more)";
    const BODY: &str = " (Electric accepts no more)";
    let count = Bounds::new(1, 10_000_000);
    let or_none = Bounds::new(0, 10_000_000).because(" (0: no limit)");
    let trusted_proxies = section.value("trusted_proxies").map(|value| networks(&value));
    let mut per_address = |key: &'static str, default: usize| {
        let most = section.integer(key, if trusted_proxies.is_some() { default } else { 0 }, or_none);
        if most > 0 && trusted_proxies.is_none() {
            section.error(key, NEEDS_PROXIES);
        }
        most
    };
    let requests_per_address = per_address("requests_per_address", 2_000);
    let rate_per_address = per_address("rate_per_address", 1_000);
    let bad_tokens_per_address = per_address("bad_tokens_per_address", 300);
    let signatures_per_address = per_address("signatures_per_address", 100);
    let connections_per_address = per_address("connections_per_address", 2_000);
    let token_bytes = section.size("token_bytes", 16 * KIB, Bounds::new(256, 64 * KIB));
    // A token and as much for the other headers.
    let header_bytes = token_bytes + 16 * KIB;
    let memory = section.size("memory", most_memory(), Bounds::new(0, 1024 * 1024 * MIB));
    let open_bytes = if memory == 0 { most_memory() / 4 } else { memory / 4 };
    let limits = LimitSettings {
        header_bytes: section.size("header_bytes", header_bytes, Bounds::new(KIB, MIB).because(HEADERS)),
        headers: section.integer("headers", 64, Bounds::new(8, 256).because(HEADERS)),
        uri_bytes: section.size("uri_bytes", 8 * KIB, Bounds::new(256, MAX_URI_BYTES).because(TARGET)),
        token_bytes,
        body_bytes: section.size("body_bytes", MIB, Bounds::new(KIB, 8_000_000).because(BODY)),
        requests: section.integer("requests", 20_000, count),
        requests_per_subject: section.integer("requests_per_subject", 256, count),
        requests_per_address,
        rate_per_subject: section.integer("rate_per_subject", 100, or_none),
        rate_per_address,
        bad_tokens_per_address,
        signatures_per_address,
        repeats: section.integer("repeats", 5, Bounds::new(0, 1_000).because(" (0: no limit)")),
        verdict_bytes: section.size("verdict_bytes", 64 * MIB, Bounds::new(MIB, 1024 * 1024 * MIB)),
        flights: section.integer("flights", 8_000, count),
        flights_per_subject: section.integer("flights_per_subject", 256, count),
        initial_flights: section.integer("initial_flights", 250, count),
        initial_flights_per_subject: section.integer("initial_flights_per_subject", 64, count),
        shapes_per_subject: section.integer("shapes_per_subject", 300, or_none),
        shapes_window: section.duration("shapes_window", secs(60), Bounds::new(secs(1), hours(1))),
        connections: section.integer("connections", 50_000, count),
        connections_per_address,
        open_bytes: section.size("open_bytes", open_bytes.max(MIB), Bounds::new(MIB, 1024 * 1024 * MIB)),
        memory,
        write_timeout: section.duration("write_timeout", secs(20), Bounds::new(secs(1), secs(300))),
        trusted_proxies: trusted_proxies.flatten(),
    };
    check_together(&section, &limits);
    limits
}

/// Returns four fifths of the memory that this process may use, in bytes; 2 GiB if that is unknown.
fn most_memory() -> usize {
    available().map_or(2 * 1024 * MIB, |bytes| bytes / 5 * 4)
}

/// Warns about limits that have no effect because of another limit.
fn check_together(section: &Section<'_>, limits: &LimitSettings) {
    for (key, all, one) in [
        ("requests", limits.requests, limits.requests_per_subject),
        ("flights", limits.flights, limits.flights_per_subject),
        ("initial_flights", limits.initial_flights, limits.initial_flights_per_subject),
    ] {
        if one >= all {
            section.warning(key, format!("one subject can use them all: lower `{key}_per_subject`, which is {one}"));
        }
    }
    if limits.header_bytes < limits.token_bytes {
        section.warning("header_bytes", "is less than `token_bytes`, so no token can be that long: raise it");
    }
    if limits.flights < limits.initial_flights {
        section
            .warning("flights", "is less than `initial_flights`, which leaves none for polls: lower `initial_flights`");
    }
}

/// Reads a list of networks. It may be empty, which means that clients connect directly.
fn networks(value: &Value<'_>) -> Option<Vec<IpNet>> {
    if value.raw().as_array().is_some_and(|list| list.is_empty()) {
        return Some(Vec::new());
    }
    let networks: Vec<_> = value.list()?.iter().map(network).collect();
    networks.into_iter().collect()
}

fn network(value: &Value<'_>) -> Option<IpNet> {
    let text = value.text()?;
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let fault = match network {
        Err(_) => r#"not a network: write an address and a prefix length, as in "10.0.0.0/8" or "fd00::/8""#,
        Ok(network) if network.prefix_len() == 0 => ALL_TRUSTED,
        Ok(IpNet::V6(network)) if network.addr().to_ipv4_mapped().is_some() => {
            r#"is an IPv4-mapped IPv6 network, which matches no client: write it as IPv4, as in "10.0.0.0/8""#
        }
        Ok(network) => return Some(network),
    };
    value.error(fault);
    None
}

const ALL_TRUSTED: &str = "trusts every client to name any address: list only the proxies";

const NEEDS_PROXIES: &str = "needs `trusted_proxies`: behind a proxy that is not listed there, all clients have its \
                             address and share this limit; write `trusted_proxies = []` if clients connect directly";
