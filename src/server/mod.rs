//! The running service: sockets bound first, then the request path, the admin port and the key renewals on one runtime.
//!
//! A server binds its sockets, or takes them over from the process before (`takeover`). The drain ends with the last
//! connection, not after a fixed time.

mod admin;
mod listener;
pub(crate) mod notify;
mod probe;
mod readiness;
mod reload;
mod sockets;
mod takeover;
mod tls;
mod upgrade;
pub(crate) mod wire;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use pingora::listeners::tls::Acceptor;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::auth::Renewals;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, ServerSettings};
use crate::limits::{Limit, Limiter};
use crate::metrics::{Metrics, Upgrade};
use crate::policy::RuleId;
use crate::proxy::{Change, Gateway, Proxy};
use crate::telemetry::{Audit, Tracer};

pub use readiness::Readiness;
pub use reload::Reloader;
pub use tls::check as check_tls;
pub use upgrade::Upgrades;

use admin::{Admin, AdminPort};
use probe::Probe;
use sockets::{BoundSocket, Labelled, Sockets};
use takeover::{Offer, Takeover};
use tls::Certificates;
use wire::Observers;

/// A service with its sockets bound and nothing running yet.
pub struct Server {
    settings: ServerSettings,
    sockets: Sockets,
    gateway: Gateway,
    proxy: Arc<Proxy>,
    reloader: Reloader,
    audit: Option<Arc<Audit>>,
    upgrades: Upgrades,
}

impl Server {
    /// Binds every address and prepares everything that can fail.
    ///
    /// # Errors
    /// An address that cannot be bound, a certificate that cannot be read, an issuer that cannot be set up.
    pub fn bind(config: Config) -> anyhow::Result<Self> {
        Self::bind_at(config, Arc::new(SystemClock))
    }

    /// As [`Server::bind`], with a clock of the caller's.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub fn bind_at(config: Config, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        Self::with_sockets(config, clock, Vec::new())
    }

    /// Takes the sockets of the process that runs, once this one is ready: every issuer has keys, Electric is active, an
    /// admin port of its own says so. Until then nothing changes for the running process.
    ///
    /// # Errors
    /// As [`Server::bind`]; nobody to take over from; not ready within `server.upgrade_timeout`.
    pub async fn take_over(config: Config) -> anyhow::Result<Self> {
        let path = config.server.upgrade_socket.as_deref();
        let path = path.context("--upgrade: set server.upgrade_socket, the same as in the process that runs")?;
        let (mut takeover, inherited) = Takeover::request(path).await?;
        let server = Self::with_sockets(config, Arc::new(SystemClock), inherited)?;
        tokio::select! {
            ready = server.until_ready() => ready?,
            reason = takeover.withdrawn() => bail!("the running shapegate keeps its sockets: {reason}"),
        }
        takeover.finish().await?;
        // The process before was told of a change perhaps while this one waited, and this one was not.
        server.reloader.reload().await;
        server.gateway.metrics.upgraded(Upgrade::Ok);
        Ok(server)
    }

    fn with_sockets(config: Config, clock: Arc<dyn Clock>, inherited: Vec<Labelled>) -> anyhow::Result<Self> {
        install_crypto();
        let metrics = Arc::new(Metrics::new()?);
        let tls = config.server.tls.clone();
        let certificates = tls.map(|tls| Certificates::start(tls, Arc::clone(&metrics))).transpose()?;
        let sockets = Sockets::open(&config.server, inherited)?;
        let tracer = config.otel.as_ref().map(|otel| Tracer::new(otel, Arc::clone(&metrics))).transpose()?;
        metrics.limits_known(Limit::ALL.map(Limit::as_str));
        metrics.policy_loaded(config.policy.rule_ids().map(RuleId::as_str), clock.now().as_secs());
        let audit = config.audit.as_ref().map(Audit::start).transpose()?.map(Arc::new);
        let (changes, changed) = watch::channel(Change::default());
        let configured = reload::Configured::of(&config);
        let settings = config.server.clone();
        let observers = Observers { metrics: Arc::clone(&metrics), audit: audit.clone(), tracer };
        let (gateway, proxy) = wire::gateway(config, Arc::clone(&clock), observers.clone(), changed)?;
        let readiness = Arc::new(Readiness::new(gateway.clone()));
        let upgrades = Upgrades::new(
            settings.upgrade_socket.clone(),
            settings.upgrade_timeout,
            Arc::clone(&metrics),
            Arc::clone(&readiness),
        );
        let reloader = Reloader::new(reload::Running {
            gateway: gateway.clone(),
            proxy: Arc::downgrade(&proxy),
            observers,
            changes,
            readiness,
            certificates,
            clock,
            configured: Mutex::new(configured),
        });
        Ok(Self { settings, sockets, gateway, proxy, reloader, audit, upgrades })
    }

    /// The addresses of the client listeners, with the ports they got.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.listen.iter().map(|socket| socket.address).collect()
    }

    /// The address of the admin port.
    pub fn admin_address(&self) -> SocketAddr {
        self.sockets.admin.address
    }

    /// Where its configuration can be replaced.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// Where the next process is started.
    pub fn upgrades(&self) -> Upgrades {
        self.upgrades.clone()
    }

    /// Its limits, whose figures can be replaced.
    pub fn limiter(&self) -> Arc<Limiter> {
        Arc::clone(&self.gateway.limiter)
    }

    /// What `/readyz` asks.
    pub fn readiness(&self) -> Arc<Readiness> {
        Arc::clone(&self.reloader.running().readiness)
    }

    /// Serves until `stop` ends or the next process has taken the sockets, then drains: no new connection, and requests
    /// in flight have `server.drain` to finish.
    ///
    /// # Errors
    /// TLS settings that Pingora refuses.
    pub async fn run(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let (shutdown, watch) = watch::channel(false);
        let admin = self.admin();
        let serving_at = format!("serving on {}, admin {}", words(&self.addresses()), self.admin_address());
        let probe = Probe::new(self.admin_address())?;
        let mut sockets = self.sockets;
        let offer = Offer::new(&mut sockets, self.settings.upgrade_socket.as_deref(), self.upgrades)?;
        let running = self.reloader.running();
        let (gateway, certificates) = (self.gateway, running.certificates.clone());
        let tls = certificates.as_ref().map(|certificates| Arc::new(certificates.acceptor()));
        let tracer = gateway.tracer.clone();
        let mut serving = accept(sockets.listen, tls.as_ref(), &gateway, &self.proxy, &watch)?;
        let admin = AdminPort::open(admin, sockets.admin);
        gateway.rules().upstreams.watch();
        watch_until_shutdown(&gateway, watch);
        // They end with this.
        let mut background = JoinSet::new();
        certificates.into_iter().for_each(|certificates| drop(background.spawn(certificates.watch())));
        let sweeping = self.audit.clone().map(|audit| background.spawn(sweep(audit, Arc::clone(&running.clock))));
        let watchdog = background.spawn(notify::feed_watchdog(probe.clone()));
        let announcing = background.spawn(notify::announce(probe, serving_at));
        let ending = tokio::select! {
            () = stop => Ending::Stopped,
            pid = taken(offer.as_ref()) => Ending::TakenOver(pid),
            // It ends by itself only where it panicked, and a process without a listener is of no use.
            _ = serving.join_next() => bail!("the listeners ended"),
        };
        announcing.abort();
        running.readiness.stop();
        self.reloader.stop(self.settings.drain / STREAMS_END_IN);
        shutdown.send_replace(true);
        let admin = match ending {
            Ending::TakenOver(pid) => {
                watchdog.abort();
                hand_over(pid, offer, admin).await;
                None
            }
            Ending::Stopped => {
                notify::stopping(self.settings.drain);
                offer.into_iter().for_each(Offer::withdraw);
                Some(admin)
            }
        };
        drain(&shutdown, &gateway, self.settings.drain).await;
        // It stays until the end, so that a drain can be watched.
        if let Some(admin) = admin {
            admin.close().await;
        }
        serving.join_all().await;
        sweeping.into_iter().for_each(|sweeping| sweeping.abort());
        finish(tracer, self.audit).await;
        Ok(())
    }

    fn admin(&self) -> Admin {
        let running = self.reloader.running();
        let readiness = Arc::clone(&running.readiness);
        Admin::new(self.gateway.clone(), readiness, self.reloader.clone())
    }

    /// Waits until an admin port of its own, beside the one of the process that runs, says that all is there.
    async fn until_ready(&self) -> anyhow::Result<()> {
        let socket = BoundSocket::free()?;
        let probe = Probe::new(socket.address)?;
        tracing::info!(admin = %socket.address, "waiting beside the running process until this one is ready");
        let port = AdminPort::open(self.admin(), socket);
        self.gateway.rules().upstreams.watch();
        let (until, watch) = watch::channel(false);
        tokio::spawn(renew_keys(self.gateway.clone(), watch));
        let mut last = "Electric: not every server has answered or failed to".to_owned();
        let ready = async {
            self.gateway.rules().upstreams.settled().await;
            while let Err(missing) = probe.readiness().await {
                if missing != last {
                    tracing::warn!("not ready: {missing}");
                    last = missing;
                }
                tokio::time::sleep(notify::AGAIN).await;
            }
        };
        let limit = self.settings.upgrade_timeout;
        let ready = tokio::time::timeout(limit, ready).await;
        drop(until);
        port.close().await;
        ensure!(ready.is_ok(), "not ready after {} s (server.upgrade_timeout): {last}", limit.as_secs());
        Ok(())
    }
}

/// Why a server stops.
enum Ending {
    /// It was told to.
    Stopped,
    /// The process with this id serves.
    TakenOver(u32),
}

/// Starts to accept connections on each socket.
fn accept(
    sockets: Vec<BoundSocket>,
    tls: Option<&Arc<Acceptor>>,
    gateway: &Gateway,
    proxy: &Arc<Proxy>,
    shutdown: &watch::Receiver<bool>,
) -> anyhow::Result<JoinSet<()>> {
    let mut serving = JoinSet::new();
    for socket in sockets {
        let listener = TcpListener::from_std(socket.listener)?;
        let (gateway, proxy) = (gateway.clone(), Arc::clone(proxy));
        serving.spawn(listener::accept(listener, tls.cloned(), gateway, proxy, shutdown.clone()));
    }
    Ok(serving)
}

/// Renews keys and measures memory. Both end with the shutdown: a process that drains needs no new keys.
fn watch_until_shutdown(gateway: &Gateway, shutdown: watch::Receiver<bool>) {
    tokio::spawn(renew_keys(gateway.clone(), shutdown.clone()));
    let memory = Arc::clone(gateway.limiter.memory());
    tokio::spawn(async move { memory.watch(shutdown).await });
}

/// Leaves the admin port to the process with this id, where it stays open.
async fn hand_over(pid: u32, offer: Option<Offer>, admin: AdminPort) {
    tracing::info!(pid, "a new process serves; requests in flight finish here");
    drop(offer);
    admin.close().await;
}

/// Sends the last spans and writes the last sessions of the audit log.
async fn finish(tracer: Option<Arc<Tracer>>, audit: Option<Arc<Audit>>) {
    if let Some(tracer) = tracer {
        tracer.finish(SPANS_FINISH).await;
    }
    if let Some(audit) = audit {
        let _ = tokio::task::spawn_blocking(move || audit.finish(AUDIT_FINISH)).await;
    }
}

async fn taken(offer: Option<&Offer>) -> u32 {
    match offer {
        Some(offer) => offer.taken().await,
        None => std::future::pending().await,
    }
}

fn words(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// One TLS library has two back ends in this build, so the choice must be made once and out loud.
pub(crate) fn install_crypto() {
    // Fails only where it was made before, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// How long a slow disk may hold up the end.
const AUDIT_FINISH: Duration = Duration::from_secs(2);

/// How long a slow collector may.
const SPANS_FINISH: Duration = Duration::from_secs(2);

/// Keeps the key sets of the issuers of now current, until the shutdown.
async fn renew_keys(gateway: Gateway, mut shutdown: watch::Receiver<bool>) {
    let mut changes = gateway.changes.clone();
    let mut renewals = Renewals::default();
    loop {
        changes.mark_unchanged();
        renewals.follow(&gateway.rules().verifier);
        tokio::select! {
            Ok(()) = changes.changed() => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
    }
}

/// Writes the audit log's sessions as they end, for ever.
async fn sweep(audit: Arc<Audit>, clock: Arc<dyn Clock>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        audit.sweep(clock.now());
    }
}

/// Streams of events end in this part of the drain, the first: what is left is for those that are slow.
const STREAMS_END_IN: u32 = 4;

/// Waits for the last connection: each task that serves one listens to `shutdown`.
async fn drain(shutdown: &watch::Sender<bool>, gateway: &Gateway, limit: Duration) {
    let ended = tokio::time::timeout(limit, shutdown.closed()).await;
    let left = gateway.limiter.requests().in_flight();
    // Connections without a request are no loss.
    if ended.is_err() && left > 0 {
        tracing::warn!(left, "drain: requests in flight were cut");
    }
}
