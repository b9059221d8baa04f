//! Builds a gateway from a configuration.

use std::sync::{Arc, Weak};

use tokio::sync::watch;

use crate::auth::TokenVerifier;
use crate::auth::keys::HttpFetch;
use crate::clock::Clock;
use crate::config::Config;
use crate::decisions::Services;
use crate::flight::Hub;
use crate::limits::Limiter;
use crate::metrics::Metrics;
use crate::proxy::{Change, CorsPolicy, Electric, Gateway, Parts, Proxy, Rules};
use crate::telemetry::{Audit, Tracer};
use crate::upstream::Upstreams;

/// The metrics, audit log and tracer that observe a gateway.
#[derive(Clone)]
pub(crate) struct Observers {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) audit: Option<Arc<Audit>>,
    pub(crate) tracer: Option<Arc<Tracer>>,
}

/// Builds a gateway from a configuration. Nothing runs yet.
///
/// # Errors
/// If an issuer or the system's certificates cannot be set up.
pub(crate) fn gateway(
    mut config: Config,
    clock: Arc<dyn Clock>,
    observers: Observers,
    changes: watch::Receiver<Change>,
) -> anyhow::Result<(Gateway, Arc<Proxy>)> {
    let upstreams = Arc::new(Upstreams::new(&config.upstream, &config.upstreams)?);
    let verifier = Arc::new(TokenVerifier::new(
        std::mem::take(&mut config.issuers),
        config.limits.verdict_bytes,
        Arc::clone(&clock),
        config.server.state.clone(),
        Arc::new(HttpFetch::new()?),
    )?);
    let services = Services::new(std::mem::take(&mut config.decisions), &observers.metrics)?;
    verifier.revocations().configure(config.revocation.take());
    let limiter = Limiter::new(&config.limits);
    let Observers { metrics, audit, tracer } = observers.clone();
    let hub = Arc::new(Hub::new(config.cache.clone(), Arc::clone(limiter.flights()), Arc::clone(&metrics)));
    let explain_denials = config.server.explain_denials;
    let parts = Parts { limiter, hub, metrics, audit, tracer, clock, changes, explain_denials };
    let (http, pool) = (config.server.http.clone(), idle_connections(&config));
    Gateway::start(parts, http, pool, |proxy| rules(0, config, verifier, services, upstreams, proxy, observers))
}

/// Builds the rules of a configuration. Their requests to Electric go through `proxy`.
pub(crate) fn rules(
    generation: u64,
    config: Config,
    verifier: Arc<TokenVerifier>,
    services: Services,
    upstreams: Arc<Upstreams>,
    proxy: &Weak<Proxy>,
    observers: Observers,
) -> Rules {
    let Observers { metrics, tracer, .. } = observers;
    let electric = Arc::new(Electric::new(Weak::clone(proxy), Arc::clone(&upstreams), metrics, tracer));
    Rules {
        generation,
        verifier,
        policy: config.policy.with_services(services),
        gatekeeper: config.gatekeeper,
        cors: CorsPolicy::new(config.cors),
        limits: config.limits,
        cache: config.cache,
        upstreams,
        electric,
    }
}

/// Returns the number of idle connections to keep, for all upstreams together.
pub(super) fn idle_connections(config: &Config) -> usize {
    config.upstreams.values().map(|upstream| upstream.pool).sum::<usize>() + config.upstream.pool
}
