//! Resolves the file's tables into a [`Config`]; one module for each section.
//!
//! A function that returns `None` has recorded an error. A function that returns a value may have recorded one too: the
//! value then only serves to find further errors, since a file with an error yields no `Config`.

mod audit;
mod cors;
mod decisions;
mod endpoint;
mod gatekeeper;
mod introspection;
mod issuer;
mod jwks;
mod limits;
mod log;
mod otel;
mod probe;
mod revocation;
mod secret;
mod server;
mod shape;
mod upstream;

use std::time::Duration;

use super::raw::{Bounds, KIB, MIB, Section};
use super::{Config, Environment};
use crate::flight::CacheSettings;

/// Resolves the whole file.
pub(super) fn config(mut root: Section<'_>, environment: &Environment) -> Option<Config> {
    let mut section = root.section("server");
    let server = server::server(&mut section, environment);
    let upstream = upstream::upstream(root.section("upstream"), environment);
    let named = root.value("upstreams");
    let upstreams = upstream::named(named.as_ref(), environment);
    let mut issuers = issuer::issuers(root.sections("issuer"), environment);
    let asked = root.value("decisions");
    let decisions = decisions::services(asked.as_ref(), environment);
    let probe = probe::probe(root.section("probe"));
    let tables = shape::Named { upstreams: upstreams.as_ref(), services: decisions.as_ref() };
    let shapes = shape::shapes(root.sections("shape"), &tables, &probe.names());
    upstream::check_used(named.as_ref(), shapes.policy.as_ref());
    decisions::check_used(asked.as_ref(), shapes.policy.as_ref());
    let gatekeeper = gatekeeper::gatekeeper(&mut root, issuers.as_deref(), shapes.policy.as_ref(), environment);
    let cookies = issuers.iter().flatten().any(|issuer| issuer.cookie.is_some());
    let cors = cors::cors(root.section("cors"), cookies);
    let limits = limits::limits(root.section("limits"));
    let cache = cache(root.section("cache"));
    let log = log::log(root.section("log"));
    let audit = audit::audit(root.section("audit"));
    let otel = otel::otel(&mut root);
    let revocation = revocation::revocation(&mut root, environment);

    if shapes.count == 0 && !root.has("shape") {
        root.error("shape", "missing: write at least one [[shape]] table; without rules every request is denied");
    }
    if shapes.any_public && limits.trusted_proxies.is_none() {
        root.warning("shape", UNBOUNDED);
    }
    if issuers.as_ref().is_some_and(Vec::is_empty) && !shapes.all_public {
        root.error("issuer", "missing: write an [[issuer]] table, or `public = true` in every [[shape]]");
    }
    let (gatekeeper, own) = gatekeeper.unzip();
    if let Some(settings) = &server {
        server::check_together(&section, settings, shapes.policy.as_ref(), gatekeeper.as_ref(), &limits);
    }
    if let Some(issuers) = &mut issuers {
        issuers.extend(own);
    }
    Some(Config {
        server: server?,
        upstream: upstream?,
        upstreams: upstreams?,
        issuers: issuers?,
        decisions: decisions?,
        revocation,
        policy: shapes.policy?,
        gatekeeper,
        cors: cors?,
        limits,
        cache,
        log,
        probe,
        audit,
        otel,
        warnings: Vec::new(),
        file: None,
    })
}

const UNBOUNDED: &str = "one is public, and without `limits.trusted_proxies` nothing limits how much one client \
                        without a token requests: list the proxies in front, or write [] if there are none";

fn cache(mut section: Section<'_>) -> CacheSettings {
    const PIECES: &str = " (responses are processed in chunks of 64KiB)";
    const SHORT: &str = " (an event stream lasts 60 s, and clients stop using streams that end early)";
    CacheSettings {
        bytes: section.size("bytes", 256 * MIB, Bounds::new(0, 1024 * 1024 * MIB)),
        flight_bytes: section.size("flight_bytes", 64 * MIB, Bounds::new(256 * KIB, 1024 * MIB).because(PIECES)),
        max_age: section.duration("max_age", hours(1), Bounds::new(secs(0), hours(24))),
        grace: section.duration("grace", secs(5), Bounds::new(secs(0), secs(60))),
        sse_join: section.duration("sse_join", secs(30), Bounds::new(secs(0), secs(55)).because(SHORT)),
        compress: section.boolean("compress", true),
        compress_min: section.size("compress_min", KIB, Bounds::new(0, MIB)),
        header: section.boolean("header", false),
    }
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}
