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
mod socket;
mod sockets;
mod takeover;
mod tls;
mod upgrade;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use pingora::listeners::tls::Acceptor;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::auth::keys::HttpFetch;
use crate::auth::{Renewals, TokenVerifier};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, ServerSettings};
use crate::flight::Hub;
use crate::limits::Limiter;
use crate::proxy::{Change, CorsPolicy, Front, Gateway};
use crate::telemetry::{Audit, Exporter, Metrics, Tracer, Upgrade};
use crate::upstream::Upstreams;

pub use readiness::Readiness;
pub use reload::Reloader;
pub(crate) use socket::Socket;
pub use tls::check as check_tls;
pub use upgrade::Upgrades;

use admin::{Admin, AdminPort};
use probe::Probe;
use sockets::{BoundSocket, Labelled, Sockets};
use takeover::{Offer, Takeover};
use tls::Certificates;

/// A service with its sockets bound and nothing running yet.
pub struct Server {
    config: ServerSettings,
    sockets: Sockets,
    front: Arc<Front>,
    reloader: Reloader,
    audit: Option<Arc<Audit>>,
    upgrades: Upgrades,
    exporter: Option<Exporter>,
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
        server.reloader.running().metrics.upgraded(Upgrade::Ok);
        Ok(server)
    }

    fn with_sockets(config: Config, clock: Arc<dyn Clock>, inherited: Vec<Labelled>) -> anyhow::Result<Self> {
        install_crypto();
        let configured = Mutex::new(reload::Configured::of(&config));
        let metrics = Arc::new(Metrics::new()?);
        let tls = config.server.tls.clone();
        let certificates = tls.map(|tls| Certificates::start(tls, Arc::clone(&metrics))).transpose()?;
        let sockets = Sockets::open(&config.server, inherited)?;
        let upstreams = Arc::new(Upstreams::new(&config.upstream, &config.upstreams)?);
        let (fetch, state) = (Arc::new(HttpFetch::new()?), config.server.state.clone());
        let verifier = TokenVerifier::new(config.issuers, config.limits.verdicts, Arc::clone(&clock), state, fetch)?;
        let limiter = Limiter::new(&config.limits);
        let spans = config.otel.as_ref().map(|otel| Tracer::new(otel, Arc::clone(&metrics))).transpose()?;
        let (tracer, exporter) = spans.unzip();
        let electric = reload::electric(&upstreams, &metrics, tracer.as_ref());
        let places = Arc::clone(limiter.flights());
        let hub = Arc::new(Hub::new(electric, config.cache.clone(), places, Arc::clone(&metrics)));
        metrics.policy_loaded(&config.policy, clock.now());
        let audit = config.audit.as_ref().map(Audit::start).transpose()?.map(Arc::new);
        let (changes, _) = watch::channel(Change::default());
        let gateway = Gateway {
            generation: 0,
            verifier: Arc::new(verifier),
            policy: config.policy,
            gatekeeper: config.gatekeeper,
            cors: CorsPolicy::new(config.cors),
            limits: config.limits,
            cache: config.cache,
            upstreams,
            limiter,
            hub,
            metrics: Arc::clone(&metrics),
            audit: audit.clone(),
            tracer,
            clock: Arc::clone(&clock),
            changes: changes.subscribe(),
        };
        let front = Arc::new(Front::new(gateway, &config.server.http2));
        let readiness = Arc::new(Readiness::new(Arc::clone(&front)));
        let (socket, limit) = (config.server.upgrade_socket.clone(), config.server.upgrade_timeout);
        let upgrades = Upgrades::new(socket, limit, Arc::clone(&metrics), Arc::clone(&readiness));
        let reloader = Reloader::new(reload::Running {
            front: Arc::clone(&front),
            changes,
            readiness,
            certificates,
            metrics,
            clock,
            configured,
        });
        Ok(Self { config: config.server, sockets, front, reloader, audit, upgrades, exporter })
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
        Arc::clone(&self.front.gate().limiter)
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
        let offer = Offer::new(&mut sockets, self.config.upgrade_socket.as_deref(), self.upgrades)?;
        let running = self.reloader.running();
        let (front, certificates) = (self.front, running.certificates.clone());
        let tls = certificates.as_ref().map(|certificates| Arc::new(certificates.acceptor()));
        let tracer = front.gate().tracer.clone();
        self.exporter.map(|exporter| tokio::spawn(exporter.run()));
        let mut serving = accept(sockets.listen, tls.as_ref(), &front, &watch)?;
        let admin = AdminPort::open(admin, sockets.admin);
        front.gate().upstreams.watch();
        watch_until_shutdown(&front, watch);
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
        self.reloader.stop(self.config.drain / STREAMS_END_IN);
        shutdown.send_replace(true);
        let admin = match ending {
            Ending::TakenOver(pid) => {
                watchdog.abort();
                hand_over(pid, offer, admin).await;
                None
            }
            Ending::Stopped => {
                notify::stopping(self.config.drain);
                offer.into_iter().for_each(Offer::withdraw);
                Some(admin)
            }
        };
        drain(&shutdown, &front, self.config.drain).await;
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
        let (metrics, readiness) = (Arc::clone(&running.metrics), Arc::clone(&running.readiness));
        Admin::new(metrics, Arc::clone(&self.front), readiness, self.reloader.clone())
    }

    /// Waits until an admin port of its own, beside the one of the process that runs, says that all is there.
    async fn until_ready(&self) -> anyhow::Result<()> {
        let socket = BoundSocket::free()?;
        let probe = Probe::new(socket.address)?;
        tracing::info!(admin = %socket.address, "waiting beside the running process until this one is ready");
        let port = AdminPort::open(self.admin(), socket);
        self.front.gate().upstreams.watch();
        let (until, watch) = watch::channel(false);
        tokio::spawn(renew_keys(Arc::clone(&self.front), watch));
        let mut last = "Electric: not every server has answered or failed to".to_owned();
        let ready = async {
            self.front.gate().upstreams.settled().await;
            while let Err(missing) = probe.readiness().await {
                if missing != last {
                    tracing::warn!("not ready: {missing}");
                    last = missing;
                }
                tokio::time::sleep(notify::AGAIN).await;
            }
        };
        let limit = self.config.upgrade_timeout;
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
    front: &Arc<Front>,
    shutdown: &watch::Receiver<bool>,
) -> anyhow::Result<JoinSet<()>> {
    let mut serving = JoinSet::new();
    for socket in sockets {
        let listener = TcpListener::from_std(socket.listener)?;
        serving.spawn(listener::accept(listener, tls.cloned(), Arc::clone(front), shutdown.clone()));
    }
    Ok(serving)
}

/// Renews keys and measures memory. Both end with the shutdown, since a process that drains needs no new keys.
fn watch_until_shutdown(front: &Arc<Front>, shutdown: watch::Receiver<bool>) {
    tokio::spawn(renew_keys(Arc::clone(front), shutdown.clone()));
    let memory = Arc::clone(front.gate().limiter.memory());
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
        tracer.flush(SPANS_FINISH).await;
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
async fn renew_keys(front: Arc<Front>, mut shutdown: watch::Receiver<bool>) {
    let mut changes = front.gate().changes.clone();
    let mut renewals = Renewals::default();
    loop {
        changes.mark_unchanged();
        renewals.follow(&front.gate().verifier);
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
async fn drain(shutdown: &watch::Sender<bool>, front: &Front, limit: Duration) {
    let ended = tokio::time::timeout(limit, shutdown.closed()).await;
    let left = front.gate().limiter.requests().in_flight();
    // Connections without a request are no loss.
    if ended.is_err() && left > 0 {
        tracing::warn!(left, "drain: requests in flight were cut");
    }
}
