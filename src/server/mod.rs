//! Runs the service: binds the sockets, then starts the proxy, the admin port and the key refreshes on one runtime.
//!
//! A server binds its sockets or takes them over from the running process (`takeover`). The drain ends when the last
//! connection closes, not after a fixed time.

mod admin;
mod certificate;
mod check;
mod flags;
mod listener;
pub(crate) mod notify;
mod probe;
mod reload;
mod sockets;
mod takeover;
mod tls;
mod upgrade;
pub(crate) mod wire;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::auth::Renewals;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, ListenAddress, ServerSettings};
use crate::limits::{Limit, Limiter};
use crate::metrics::{Metrics, Upgrade};
use crate::proxy::{Change, Gateway, Proxy};
use crate::telemetry::{Audit, Tracer};

pub use check::check;
pub use reload::Reloader;
pub use upgrade::Upgrades;

use admin::{Admin, AdminPort};
use listener::Serving;
use probe::Probe;
use sockets::{BoundSocket, Labelled, Sockets};
use takeover::{Offer, Takeover};
use tls::Certificates;
use wire::Observers;

/// A server whose sockets are bound but that does not serve yet.
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
    /// If an address cannot be bound, a certificate cannot be read, or an issuer cannot be set up.
    pub fn bind(config: Config) -> anyhow::Result<Self> {
        Self::bind_at(config, Arc::new(SystemClock))
    }

    /// Like [`Server::bind`], with a given clock.
    ///
    /// # Errors
    /// Like [`Server::bind`].
    pub fn bind_at(config: Config, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        Self::with_sockets(config, clock, Vec::new())
    }

    /// Takes over the sockets of the running process once this one is ready: every issuer has keys, Electric is active,
    /// and a temporary admin port confirms both. Until then the running process is unaffected.
    ///
    /// # Errors
    /// Like [`Server::bind`]; also if no process is running, or this one is not ready within `server.upgrade_timeout`.
    pub async fn take_over(config: Config) -> anyhow::Result<Self> {
        let path = config.server.upgrade_socket.as_deref();
        let path = path.context("--upgrade: set server.upgrade_socket to the same path as in the running process")?;
        let (mut takeover, inherited) = Takeover::request(path).await?;
        let server = Self::with_sockets(config, Arc::new(SystemClock), inherited)?;
        tokio::select! {
            ready = server.until_ready() => ready?,
            reason = takeover.withdrawn() => bail!("the running shapegate keeps its sockets: {reason}"),
        }
        takeover.finish().await?;
        // The configuration may have changed while this process waited; only the old process was told to reload.
        server.reloader.reload().await;
        server.gateway.metrics.upgraded(Upgrade::Ok);
        Ok(server)
    }

    fn with_sockets(config: Config, clock: Arc<dyn Clock>, inherited: Vec<Labelled>) -> anyhow::Result<Self> {
        install_crypto();
        let metrics = Arc::new(Metrics::new()?);
        let tls = config.server.tls.clone();
        let certificates =
            tls.map(|tls| Certificates::start(tls, Arc::clone(&metrics), Arc::clone(&clock))).transpose()?;
        let sockets = Sockets::open(&config.server, inherited)?;
        let tracer = config.otel.as_ref().map(|otel| Tracer::new(otel, Arc::clone(&metrics))).transpose()?;
        metrics.limits_known(Limit::ALL.map(Limit::as_str));
        metrics.policy_loaded(config.policy.destinations(), clock.now().as_secs());
        let audit = config.audit.as_ref().map(Audit::start).transpose()?.map(Arc::new);
        let (changes, changed) = watch::channel(Change::default());
        let configured = reload::Configured::of(&config);
        let settings = config.server.clone();
        let observers = Observers { metrics: Arc::clone(&metrics), audit: audit.clone(), tracer };
        let (gateway, proxy) = wire::gateway(config, Arc::clone(&clock), observers.clone(), changed)?;
        let upgrades = Upgrades::new(
            settings.upgrade_socket.clone(),
            settings.upgrade_timeout,
            Arc::clone(&metrics),
            gateway.clone(),
        );
        let reloader = Reloader::new(reload::Running {
            gateway: gateway.clone(),
            proxy: Arc::downgrade(&proxy),
            observers,
            changes,
            certificates,
            clock,
            configured: Mutex::new(configured),
            current: AtomicBool::new(true),
        });
        Ok(Self { settings, sockets, gateway, proxy, reloader, audit, upgrades })
    }

    /// Returns the addresses of the client listeners, with their actual ports.
    pub fn addresses(&self) -> Vec<ListenAddress> {
        self.sockets.listen.iter().map(|socket| socket.address.clone()).collect()
    }

    /// Returns the address of the admin port.
    pub fn admin_address(&self) -> SocketAddr {
        self.sockets.admin.address
    }

    /// Returns a handle that replaces the configuration.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// Returns a handle that starts upgrades.
    pub fn upgrades(&self) -> Upgrades {
        self.upgrades.clone()
    }

    /// Returns the limits, which can be changed while serving.
    pub fn limiter(&self) -> Arc<Limiter> {
        Arc::clone(&self.gateway.limiter)
    }

    /// Returns the gateway, which reports whether it is ready.
    pub fn gateway(&self) -> Gateway {
        self.gateway.clone()
    }

    /// Serves until `stop` completes or a new process has taken the sockets, then drains: accepts no new connections
    /// and gives requests in flight `server.drain` to finish.
    ///
    /// # Errors
    /// If Pingora rejects the TLS settings or the listeners end unexpectedly.
    pub async fn run(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let (shutdown, watch) = watch::channel(false);
        let (admin, listeners) = (self.admin(), self.listeners(watch.clone()));
        let serving_at = format!("serving on {}, admin {}", words(&self.addresses()), self.admin_address());
        let probe = Probe::new(self.admin_address())?;
        let mut sockets = self.sockets;
        let files = sockets.files();
        let offer = Offer::new(&mut sockets, self.settings.upgrade_socket.as_deref(), self.upgrades)?;
        let running = self.reloader.running();
        let (gateway, certificates) = (self.gateway, running.certificates.clone());
        let tracer = gateway.tracer.clone();
        let mut serving = accept(sockets.listen, listeners)?;
        let admin = AdminPort::open(admin, sockets.admin);
        gateway.rules().upstreams.watch();
        watch_until_shutdown(&gateway, watch);
        // These end when this function returns.
        let mut background = JoinSet::new();
        certificates.into_iter().for_each(|certificates| drop(background.spawn(certificates.watch())));
        background.spawn(self.reloader.clone().watch());
        let sweeping = self.audit.clone().map(|audit| background.spawn(sweep(audit, Arc::clone(&running.clock))));
        background.spawn(self.reloader.clone().watch_revocations());
        let watchdog = background.spawn(notify::feed_watchdog(probe.clone()));
        let announcing = background.spawn(notify::announce(probe, serving_at));
        let ending = tokio::select! {
            () = stop => Ending::Stopped,
            pid = taken(offer.as_ref()) => Ending::TakenOver(pid),
            // The listeners end by themselves only after a panic, and a process without listeners is useless.
            _ = serving.join_next() => bail!("the listeners ended unexpectedly"),
        };
        announcing.abort();
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
                files.iter().for_each(|file| drop(std::fs::remove_file(file)));
                Some(admin)
            }
        };
        drain(&shutdown, &gateway, self.settings.drain).await;
        // The admin port stays open until the end, so that a drain can be observed.
        if let Some(admin) = admin {
            admin.close().await;
        }
        serving.join_all().await;
        sweeping.into_iter().for_each(|sweeping| sweeping.abort());
        finish(tracer, self.audit).await;
        Ok(())
    }

    fn listeners(&self, shutdown: watch::Receiver<bool>) -> Serving {
        let certificates = self.reloader.running().certificates.as_ref();
        Serving {
            gateway: self.gateway.clone(),
            proxy: Arc::clone(&self.proxy),
            tls: certificates.map(|certificates| Arc::new(certificates.acceptor())),
            proxy_protocol: self.settings.proxy_protocol,
            shutdown,
        }
    }

    fn admin(&self) -> Admin {
        Admin::new(self.gateway.clone(), self.reloader.clone())
    }

    /// Waits until a temporary admin port, separate from the running process's, reports that this process is ready.
    async fn until_ready(&self) -> anyhow::Result<()> {
        let socket = BoundSocket::free()?;
        let probe = Probe::new(socket.address)?;
        tracing::info!(admin = %socket.address, "waiting until this process is ready; the running process keeps serving");
        let port = AdminPort::open(self.admin(), socket);
        self.gateway.rules().upstreams.watch();
        let (until, watch) = watch::channel(false);
        tokio::spawn(renew_keys(self.gateway.clone(), watch));
        let mut last = "Electric: not every server has been checked".to_owned();
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
    /// It received a signal to stop.
    Stopped,
    /// The process with this id has taken over.
    TakenOver(NonZeroU32),
}

/// Starts accepting connections on each socket. `serving` is dropped here, since the drain waits for its receivers of
/// `shutdown`.
#[expect(clippy::needless_pass_by_value, reason = "it must not outlive the call")]
fn accept(sockets: Vec<BoundSocket<ListenAddress>>, serving: Serving) -> anyhow::Result<JoinSet<()>> {
    let mut accepting = JoinSet::new();
    for socket in sockets {
        accepting.spawn(listener::accept(socket.into_listener()?, serving.clone()));
    }
    Ok(accepting)
}

/// Refreshes keys and measures memory until shutdown: a draining process needs no new keys.
fn watch_until_shutdown(gateway: &Gateway, shutdown: watch::Receiver<bool>) {
    tokio::spawn(renew_keys(gateway.clone(), shutdown.clone()));
    let memory = Arc::clone(gateway.limiter.memory());
    tokio::spawn(async move { memory.watch(shutdown).await });
}

/// Leaves the sockets to the process with this id. Its admin port stays open there.
async fn hand_over(pid: NonZeroU32, offer: Option<Offer>, admin: AdminPort) {
    tracing::info!(pid, "a new process serves; finishing requests in flight");
    drop(offer);
    admin.close().await;
}

/// Exports the remaining spans and writes the remaining audit sessions.
async fn finish(tracer: Option<Arc<Tracer>>, audit: Option<Arc<Audit>>) {
    if let Some(tracer) = tracer {
        tracer.finish(SPANS_FINISH).await;
    }
    if let Some(audit) = audit {
        let _ = tokio::task::spawn_blocking(move || audit.finish(AUDIT_FINISH)).await;
    }
}

async fn taken(offer: Option<&Offer>) -> NonZeroU32 {
    match offer {
        Some(offer) => offer.taken().await,
        None => std::future::pending().await,
    }
}

fn words(addresses: &[ListenAddress]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Selects the TLS crypto provider. This build contains two, so the choice must be made once, explicitly.
pub(crate) fn install_crypto() {
    // Fails only if a provider is already selected.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// How long shutdown waits for the audit log to be written.
const AUDIT_FINISH: Duration = Duration::from_secs(2);

/// How long shutdown waits for spans to be exported.
const SPANS_FINISH: Duration = Duration::from_secs(2);

/// Refreshes the key sets of the current issuers, and the list of revocations, until shutdown.
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

/// Writes ended audit sessions every second, forever.
async fn sweep(audit: Arc<Audit>, clock: Arc<dyn Clock>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        audit.sweep(clock.now());
    }
}

/// Event streams end within this fraction of the drain; the rest of it is left for slow requests.
const STREAMS_END_IN: u32 = 4;

/// Waits until the last connection closes: the task of each connection holds a receiver of `shutdown`.
async fn drain(shutdown: &watch::Sender<bool>, gateway: &Gateway, limit: Duration) {
    let ended = tokio::time::timeout(limit, shutdown.closed()).await;
    let left = gateway.limiter.requests().in_flight();
    // Closing idle connections loses nothing.
    if ended.is_err() && left > 0 {
        tracing::warn!(left, "drain timed out: requests in flight were aborted");
    }
}
