//! The running service: sockets bound first, then the request path, the admin port and the key renewals on one runtime.
//!
//! A server binds its sockets, or takes them over from the process before (`takeover`). The drain ends with the last
//! connection, not after a fixed time.

mod admin;
mod listener;
pub(crate) mod notify;
mod probe;
mod readiness;
mod socket;
mod sockets;
mod takeover;
mod tls;
mod upgrade;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use arc_swap::ArcSwap;
use pingora::apps::HttpServerOptions;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::auth::TokenVerifier;
use crate::auth::keys::HttpFetch;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config};
use crate::flight::Hub;
use crate::limits::Budgets;
use crate::policy::PolicySet;
use crate::proxy::{Change, CorsPolicy, Gateway};
use crate::telemetry::{Audit, Metrics, Upgrade};
use crate::upstream::{Electric, UpstreamServer};

pub use readiness::Readiness;
pub use tls::check as check_tls;
pub use upgrade::Upgrades;

use admin::{Admin, AdminPort};
use probe::Probe;
use sockets::{BoundSocket, Labelled, Sockets};
use takeover::{Offer, Takeover};

/// A service with its sockets bound and nothing running yet.
pub struct Server {
    config: config::Server,
    sockets: Sockets,
    certificate: Option<tls::Certificate>,
    gateway: Gateway,
    verifier: Arc<TokenVerifier>,
    metrics: Arc<Metrics>,
    budgets: Arc<Budgets>,
    hub: Arc<Hub>,
    policy: PolicySwitch,
    readiness: Arc<Readiness>,
    audit: Option<Arc<Audit>>,
    upgrades: Upgrades,
}

/// Replaces the rules of a running server.
#[derive(Clone)]
pub struct PolicySwitch {
    policy: Arc<ArcSwap<PolicySet>>,
    changes: watch::Sender<Change>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

impl PolicySwitch {
    /// From here on `policy` decides; those who wait for an answer are judged by it at once.
    pub fn replace(&self, policy: PolicySet) {
        self.metrics.policy_loaded(&policy, self.clock.now());
        self.policy.store(Arc::new(policy));
        self.changes.send_modify(|change| change.policy += 1);
    }
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
        let (takeover, inherited) = Takeover::request(path).await?;
        let server = Self::with_sockets(config, Arc::new(SystemClock), inherited)?;
        server.until_ready().await?;
        takeover.finish().await?;
        server.metrics.upgraded(Upgrade::Ok);
        Ok(server)
    }

    fn with_sockets(config: Config, clock: Arc<dyn Clock>, inherited: Vec<Labelled>) -> anyhow::Result<Self> {
        install_crypto();
        let certificate = config.server.tls.as_ref().map(tls::Certificate::read).transpose()?;
        let sockets = Sockets::open(&config.server, inherited)?;
        let metrics = Arc::new(Metrics::new()?);
        let verifier = Arc::new(TokenVerifier::new(
            config.issuers,
            config.limits.verdicts,
            Arc::clone(&clock),
            config.server.state.clone(),
            Arc::new(HttpFetch::new()?),
        )?);
        let budgets = Budgets::new(config.limits.requests, config.limits.requests_per_subject);
        let flights = Budgets::new(config.limits.flights, config.limits.flights_per_subject);
        let readiness = Arc::new(Readiness::new(Arc::clone(&verifier), &config.upstream)?);
        let source_id = config.upstream.source_id.clone();
        let electric = Electric::new(Arc::new(UpstreamServer::new(config.upstream)), Arc::clone(&metrics));
        let hub = Hub::new(Box::new(electric), config.cache.clone(), flights, Arc::clone(&metrics));
        let hub = Arc::new(hub);
        metrics.policy_loaded(&config.policy, clock.now());
        let audit = config.audit.as_ref().map(Audit::start).transpose()?.map(Arc::new);
        let policy = Arc::new(ArcSwap::from_pointee(config.policy));
        let (changes, _) = watch::channel(Change::default());
        let gateway = Gateway {
            verifier: Arc::clone(&verifier),
            policy: Arc::clone(&policy),
            gatekeeper: config.gatekeeper,
            cors: CorsPolicy::new(config.cors),
            limits: config.limits,
            cache: config.cache,
            source_id,
            budgets: Arc::clone(&budgets),
            hub: Arc::clone(&hub),
            metrics: Arc::clone(&metrics),
            audit: audit.clone(),
            clock: Arc::clone(&clock),
            options: server_options(&config.server),
            changes: changes.subscribe(),
        };
        let upgrades = Upgrades::new(
            config.server.upgrade_socket.clone(),
            config.server.upgrade_timeout,
            Arc::clone(&metrics),
            Arc::clone(&readiness),
        );
        let policy = PolicySwitch { policy, changes, metrics: Arc::clone(&metrics), clock };
        Ok(Self {
            config: config.server,
            sockets,
            certificate,
            gateway,
            verifier,
            metrics,
            budgets,
            hub,
            policy,
            readiness,
            audit,
            upgrades,
        })
    }

    /// The addresses of the client listeners, with the ports they got.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.listen.iter().map(|socket| socket.address).collect()
    }

    /// The address of the admin port.
    pub fn admin_address(&self) -> SocketAddr {
        self.sockets.admin.address
    }

    /// Where its rules can be replaced.
    pub fn policy(&self) -> PolicySwitch {
        self.policy.clone()
    }

    /// Where the next process is started.
    pub fn upgrades(&self) -> Upgrades {
        self.upgrades.clone()
    }

    /// What `/readyz` asks.
    pub fn readiness(&self) -> Arc<Readiness> {
        Arc::clone(&self.readiness)
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
        let readiness = self.readiness;
        let tls = self.certificate.as_ref().map(|certificate| Arc::new(certificate.acceptor()));
        let gateway = Arc::new(self.gateway);
        let mut serving = JoinSet::new();
        for socket in sockets.listen {
            let listener = TcpListener::from_std(socket.listener)?;
            serving.spawn(listener::accept(listener, tls.clone(), Arc::clone(&gateway), watch.clone()));
        }
        let admin = AdminPort::open(admin, sockets.admin);
        // They end with the shutdown: who drains needs no new keys.
        tokio::spawn(Arc::clone(&self.verifier).run_renewals(watch));
        let sweeping = self.audit.clone().map(|audit| tokio::spawn(sweep(audit, Arc::clone(&self.policy.clock))));
        let announcing = tokio::spawn(notify::announce(probe.clone(), serving_at));
        let watchdog = tokio::spawn(notify::feed_watchdog(probe));
        let ending = tokio::select! {
            () = stop => Ending::Stopped,
            pid = taken(offer.as_ref()) => Ending::TakenOver(pid),
            // It ends by itself only where it panicked, and a process without a listener is of no use.
            _ = serving.join_next() => bail!("the listeners ended"),
        };
        announcing.abort();
        readiness.stop();
        self.policy.changes.send_modify(|change| {
            change.stopping = true;
            change.leave_within = self.config.drain / STREAMS_END_IN;
        });
        shutdown.send_replace(true);
        let admin = match ending {
            // It is the new process's, and stays open there.
            Ending::TakenOver(pid) => {
                tracing::info!(pid, "a new process serves; requests in flight finish here");
                watchdog.abort();
                drop(offer);
                admin.close().await;
                None
            }
            Ending::Stopped => {
                notify::stopping(self.config.drain);
                offer.into_iter().for_each(Offer::withdraw);
                Some(admin)
            }
        };
        drain(&shutdown, &self.budgets, self.config.drain).await;
        // It stays until the end, so that a drain can be watched.
        if let Some(admin) = admin {
            admin.close().await;
        }
        serving.join_all().await;
        if let (Some(audit), Some(sweeping)) = (self.audit, sweeping) {
            sweeping.abort();
            let _ = tokio::task::spawn_blocking(move || audit.finish(AUDIT_FINISH)).await;
        }
        Ok(())
    }

    fn admin(&self) -> Admin {
        Admin::new(
            Arc::clone(&self.metrics),
            Arc::clone(&self.verifier),
            Arc::clone(&self.budgets),
            Arc::clone(&self.hub),
            self.audit.clone(),
            Arc::clone(&self.readiness),
        )
    }

    /// Waits until an admin port of its own, beside the one of the process that runs, says that all is there.
    async fn until_ready(&self) -> anyhow::Result<()> {
        let socket = BoundSocket::free()?;
        let probe = Probe::new(socket.address)?;
        tracing::info!(admin = %socket.address, "waiting beside the running process until this one is ready");
        let port = AdminPort::open(self.admin(), socket);
        let (until, watch) = watch::channel(false);
        tokio::spawn(Arc::clone(&self.verifier).run_renewals(watch));
        let mut last = String::new();
        let ready = async {
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

fn server_options(server: &config::Server) -> HttpServerOptions {
    let mut options = HttpServerOptions::default();
    options.h2c = server.h2c;
    options.h2_idle_timeout = Some(H2_IDLE_TIMEOUT);
    options
}

/// Pingora's default leaves an idle HTTP/2 connection open for ever.
const H2_IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a slow disk may hold up the end.
const AUDIT_FINISH: Duration = Duration::from_secs(2);

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
async fn drain(shutdown: &watch::Sender<bool>, budgets: &Budgets, limit: Duration) {
    let ended = tokio::time::timeout(limit, shutdown.closed()).await;
    let left = budgets.in_flight();
    // Connections without a request are no loss.
    if ended.is_err() && left > 0 {
        tracing::warn!(left, "drain: requests in flight were cut");
    }
}
