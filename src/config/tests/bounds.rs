//! Checks every bound at both ends: the last value inside and the first outside.

use super::{accepted, errors};

/// Section, key, values inside, values outside, and the bounds that the error shows.
type Row = (&'static str, &'static str, [&'static str; 2], [&'static str; 2], &'static str);

const UPSTREAM: &str = "[upstream]\nurl = 'http://e'\ndanger_no_secret = true";
const ISSUER: &str = "[[issuer]]\nissuer = 'a'\naudience = 'b'\nalgorithms = ['ES256']\njwks.url = 'https://e'";
const PROXIED: &str = "[limits]\ntrusted_proxies = []";
const SILENCE: &str = "22s to 5m (Electric is silent for up to 21 s in a long poll or between keep-alives)";
const CLOSING: &str = "1s to 59s (Electric closes a connection after 60 s without a request)";
const BROWSERS: &str = "100 to 1000 (a browser sends all its polls on one connection)";
const PIECES: &str = "256KiB to 1024MiB (responses are processed in chunks of 64KiB)";
const SHORT: &str = "0s to 55s (an event stream lasts 60 s, and clients stop using streams that end early)";

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("[server]\nlisten = '[::]:0'", "threads", ["0", "1024"], ["-1", "1025"], "0 to 1024 (0: one per core)"),
    ("[server]\nlisten = '[::]:0'", "drain", ["'0s'", "'1h'"], ["'1h1ns'", "'2h'"], "0s to 1h"),
    ("[server]\nlisten = '[::]:0'", "h1_idle_timeout", ["'1s'", "'1h'"], ["'999ms'", "'61m'"], "1s to 1h"),
    ("[server]\nlisten = '[::]:0'", "h2_streams", ["100", "1000"], ["99", "1001"], BROWSERS),
    ("[server]\nlisten = '[::]:0'", "h2_idle_timeout", ["'1s'", "'1h'"], ["'999ms'", "'61m'"], "1s to 1h"),
    (UPSTREAM, "connect_timeout", ["'100ms'", "'60s'"], ["'99ms'", "'61s'"], "100ms to 1m"),
    (UPSTREAM, "read_timeout", ["'22s'", "'5m'"], ["'21s'", "'301s'"], SILENCE),
    (UPSTREAM, "idle_timeout", ["'1s'", "'59s'"], ["'999ms'", "'60s'"], CLOSING),
    (UPSTREAM, "pool", ["1", "65536"], ["0", "65537"], "1 to 65536"),
    (ISSUER, "leeway", ["'0s'", "'60s'"], ["'60001ms'", "'61s'"], "0s to 1m"),
    (ISSUER, "max_lifetime", ["'1s'", "'8760h'"], ["'0s'", "'8761h'"], "1s to 365d"),
    (ISSUER, "jwks.refresh", ["'30s'", "'1h'"], ["'29s'", "'61m'"], "30s to 1h"),
    (ISSUER, "jwks.cooldown", ["'1s'", "'10m'"], ["'999ms'", "'601s'"], "1s to 10m"),
    (ISSUER, "jwks.timeout", ["'100ms'", "'5s'"], ["'99ms'", "'5001ms'"], "100ms to 5s"),
    (ISSUER, "jwks.max_stale", ["'10m'", "'30d'"], ["'29s'", "'31d'"], "30s to 30d"),
    ("[cors]", "max_age", ["'0s'", "'24h'"], ["'24h1s'", "'2d'"], "0s to 1d"),
    ("[limits]", "header_bytes", ["'1KiB'", "'1MiB'"], ["'1023B'", "'2MiB'"], "1KiB to 1MiB (Pingora accepts no more)"),
    ("[limits]", "headers", ["8", "256"], ["7", "257"], "8 to 256 (Pingora accepts no more)"),
    ("[limits]", "uri_bytes", ["'256B'", "'60KiB'"], ["'255B'", "'61441B'"], "256B to 60KiB (the parser accepts no more)"),
    ("[limits]", "token_bytes", ["'256B'", "'64KiB'"], ["'255B'", "'65537B'"], "256B to 64KiB"),
    ("[limits]", "body_bytes", ["'1KiB'", "'8MB'"], ["'1023B'", "'8000001B'"], "1KiB to 8000000B (Electric accepts no more)"),
    ("[limits]", "requests", ["1", "10_000_000"], ["0", "10_000_001"], "1 to 10000000"),
    ("[limits]", "requests_per_subject", ["1", "10_000_000"], ["0", "10_000_001"], "1 to 10000000"),
    ("[limits]", "rate_per_subject", ["0", "10_000_000"], ["-1", "10_000_001"], "0 to 10000000 (0: no limit)"),
    ("[limits]", "repeats", ["0", "1000"], ["-1", "1001"], "0 to 1000 (0: no limit)"),
    ("[limits]", "initial_flights", ["1", "10_000_000"], ["0", "10_000_001"], "1 to 10000000"),
    ("[limits]", "initial_flights_per_subject", ["1", "10_000_000"], ["0", "10_000_001"], "1 to 10000000"),
    ("[limits]", "shapes_per_subject", ["0", "10_000_000"], ["-1", "10_000_001"], "0 to 10000000 (0: no limit)"),
    ("[limits]", "shapes_window", ["'1s'", "'1h'"], ["'999ms'", "'61m'"], "1s to 1h"),
    ("[limits]", "connections", ["1", "10_000_000"], ["0", "10_000_001"], "1 to 10000000"),
    ("[limits]", "open_bytes", ["'1MiB'", "'1GiB'"], ["'1023KiB'", "'1048577MiB'"], "1MiB to 1048576MiB"),
    ("[limits]", "memory", ["'0B'", "'1GiB'"], ["'1048577MiB'", "'2000000MiB'"], "0B to 1048576MiB"),
    (PROXIED, "requests_per_address", ["0", "10_000_000"], ["-1", "10_000_001"], "0 to 10000000 (0: no limit)"),
    (PROXIED, "rate_per_address", ["0", "10_000_000"], ["-1", "10_000_001"], "0 to 10000000 (0: no limit)"),
    (PROXIED, "bad_tokens_per_address", ["0", "10_000_000"], ["-1", "10_000_001"], "0 to 10000000 (0: no limit)"),
    (PROXIED, "signatures_per_address", ["0", "10_000_000"], ["-1", "10_000_001"], "0 to 10000000 (0: no limit)"),
    (PROXIED, "connections_per_address", ["0", "10_000_000"], ["-1", "10_000_001"], "0 to 10000000 (0: no limit)"),
    ("[limits]", "verdict_bytes", ["'1MiB'", "'1GiB'"], ["'1MB'", "'1048577MiB'"], "1MiB to 1048576MiB"),
    ("[limits]", "flights", ["1", "10_000_000"], ["0", "10_000_001"], "1 to 10000000"),
    ("[limits]", "flights_per_subject", ["1", "10_000_000"], ["0", "10_000_001"], "1 to 10000000"),
    ("[limits]", "write_timeout", ["'1s'", "'5m'"], ["'999ms'", "'301s'"], "1s to 5m"),
    ("[cache]", "bytes", ["'0B'", "'1GiB'"], ["'1048577MiB'", "'2000000MiB'"], "0B to 1048576MiB"),
    ("[cache]", "flight_bytes", ["'256KiB'", "'1GiB'"], ["'255KiB'", "'1025MiB'"], PIECES),
    ("[cache]", "max_age", ["'0s'", "'24h'"], ["'24h1s'", "'2d'"], "0s to 1d"),
    ("[cache]", "grace", ["'0s'", "'1m'"], ["'61s'", "'2m'"], "0s to 1m"),
    ("[cache]", "sse_join", ["'0s'", "'55s'"], ["'56s'", "'1m'"], SHORT),
    ("[cache]", "compress_min", ["'0B'", "'1MiB'"], ["'2MiB'", "'1GiB'"], "0B to 1MiB"),
    ("[audit]\nstderr = true", "idle", ["'1s'", "'24h'"], ["'999ms'", "'25h'"], "1s to 1d"),
    ("[audit]\nstderr = true", "sessions", ["1", "10_000_000"], ["0", "10_000_001"], "1 to 10000000"),
];

#[test]
fn values_outside_their_bounds_are_rejected() {
    for (section, key, inside, outside, bounds) in ROWS {
        for value in inside {
            accepted(&format!("{section}\n{key} = {value}\n"));
        }
        for value in outside {
            let found = errors(&format!("{section}\n{key} = {value}\n"));
            assert!(found.ends_with(&format!("{key}: out of bounds: write {bounds}")), "{value}: {found}");
        }
    }
}

#[test]
fn durations_and_sizes_without_a_unit_are_rejected() {
    for (section, key, inside, ..) in ROWS.iter().filter(|row| row.2[0].starts_with('\'')) {
        let found = errors(&format!("{section}\n{key} = 30\n"));
        assert!(found.contains(" with its unit, as in ") && found.ends_with(", found an integer"), "{found}");
        let found = errors(&format!("{section}\n{key} = '30'\n"));
        assert!(found.contains(": write a ") && found.contains("number and its unit"), "{inside:?}: {found}");
    }
}
