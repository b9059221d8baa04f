//! The gateway: the state that all requests share, and the current rules.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::{Arc, Weak};

use anyhow::Context as _;
use arc_swap::{ArcSwap, Guard};
use pingora::apps::HttpServerOptions;
use pingora::protocols::http::v2::server::H2Options;
use pingora::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;
use tokio::sync::watch;

use super::http2::Http2;
use super::rules::{Change, Rules};
use super::settings::HttpSettings;
use crate::clock::Clock;
use crate::flight::Hub;
use crate::limits::{Connection, Limiter};
use crate::metrics::Metrics;
use crate::rejection::Rejection;
use crate::telemetry::{Audit, Tracer};
use crate::upstream::system_trust;

/// Answers requests. Cheap to clone. Its `impl ProxyHttp` is in the parent module.
#[derive(Clone)]
pub struct Gateway(Arc<Shared>);

/// The gateway, driven by Pingora's proxy.
pub type Proxy = HttpProxy<Gateway>;

/// The state that all requests share.
struct Shared {
    rules: ArcSwap<Rules>,
    parts: Parts,
    http2: Http2,
    options: HttpServerOptions,
    settings: HttpSettings,
}

/// The parts of a gateway that last as long as the process.
pub struct Parts {
    /// Counts requests, connections and flights.
    pub limiter: Arc<Limiter>,
    /// Shares responses.
    pub hub: Arc<Hub>,
    /// Counts for Prometheus.
    pub metrics: Arc<Metrics>,
    /// Records which subject has read or was denied which shape; `None` if it is not configured.
    pub audit: Option<Arc<Audit>>,
    /// Records spans; `None` if it is not configured.
    pub tracer: Option<Arc<Tracer>>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Notifies waiting requests of a reload or a stop.
    pub changes: watch::Receiver<Change>,
    /// Whether the body of a rejection has its reason.
    pub explain_denials: bool,
}

impl Deref for Gateway {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0.parts
    }
}

impl Gateway {
    /// Starts a gateway. `pool` is the number of idle connections to Electric that are kept open. `rules` makes the
    /// first rules; their [`Source`](crate::flight::Source) sends its requests through the returned proxy.
    ///
    /// # Errors
    /// The system's certificates cannot be read.
    pub fn start(
        parts: Parts,
        settings: HttpSettings,
        pool: usize,
        rules: impl FnOnce(&Weak<Proxy>) -> Rules,
    ) -> anyhow::Result<(Self, Arc<Proxy>)> {
        let conf = ServerConf { upstream_keepalive_pool_size: pool, max_retries: usize::MAX, ..ServerConf::default() };
        let mut options = HttpServerOptions::default();
        options.h2c = settings.h2c;
        options.h2_idle_timeout = Some(settings.h2_idle_timeout);
        // Lets CONNECT reach `decide`, which rejects it with a response that a browser can read.
        options.allow_connect_method_proxying = true;
        let http2 = Http2::new(&settings);
        let mut gateway = None;
        let proxy = system_trust(|| {
            Arc::new_cyclic(|proxy| {
                let rules = ArcSwap::from_pointee(rules(proxy));
                let started = Self(Arc::new(Shared { rules, parts, http2, options: options.clone(), settings }));
                gateway = Some(started.clone());
                let mut proxy = HttpProxy::new(started, Arc::new(conf));
                proxy.server_options = Some(options);
                proxy
            })
        })?;
        Ok((gateway.context("the gateway did not start")?, proxy))
    }

    /// Returns the current rules.
    pub fn rules(&self) -> Arc<Rules> {
        self.0.rules.load_full()
    }

    /// Borrows the current rules for a short time, without cloning the `Arc`.
    pub(super) fn peek(&self) -> Guard<Arc<Rules>> {
        self.0.rules.load()
    }

    /// Swaps in new rules. Waiting requests are notified through [`Parts::changes`].
    pub fn replace(&self, rules: Rules) {
        self.0.rules.store(Arc::new(rules));
    }

    /// Counts a new connection, until the result is dropped. The peer of a Unix socket has no address.
    ///
    /// # Errors
    /// A limit on connections is reached.
    pub(crate) fn connect(&self, peer: Option<IpAddr>) -> Result<Connection, Rejection> {
        self.limiter.connect(peer).map_err(|limited| Rejection::limited(limited, &self.metrics))
    }

    pub(super) fn settings(&self) -> &HttpSettings {
        &self.0.settings
    }

    pub(super) fn options(&self) -> &HttpServerOptions {
        &self.0.options
    }

    /// Returns the settings of a new HTTP/2 connection.
    pub(super) fn h2_options(&self) -> H2Options {
        self.0.http2.options(&self.peek().limits)
    }
}
