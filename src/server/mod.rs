//! The running service: sockets bound first, then the request path, the admin port and the key renewals on one runtime.
//!
//! The sockets are our own: a port that is taken is then an error at the start, where Pingora would log it and stay up
//! without a listener. The drain ends with the last request, not after a fixed time.

mod admin;
mod listener;
mod readiness;
mod socket;
mod tls;

use std::net::SocketAddr;
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use pingora::apps::HttpServerOptions;
use pingora::listeners::ListenerConfig;
use pingora::server::{Fds, ListenFds};
use pingora::services::Service as _;
use pingora::services::listening::Service;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::auth::TokenVerifier;
use crate::auth::keys::HttpFetch;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config};
use crate::flight::Hub;
use crate::limits::{Budgets, Limiter};
use crate::policy::PolicySet;
use crate::proxy::{Change, CorsPolicy, Gateway};
use crate::telemetry::{Audit, Metrics};
use crate::upstream::{Electric, UpstreamServer};

pub use readiness::Readiness;
pub use tls::check as check_tls;

/// A service with its sockets bound and nothing running yet.
pub struct Server {
    config: config::Server,
    listen: Vec<BoundSocket>,
    admin: BoundSocket,
    certificate: Option<tls::Certificate>,
    gateway: Gateway,
    verifier: Arc<TokenVerifier>,
    metrics: Arc<Metrics>,
    limiter: Arc<Limiter>,
    hub: Arc<Hub>,
    policy: PolicySwitch,
    readiness: Arc<Readiness>,
    audit: Option<Arc<Audit>>,
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

struct BoundSocket {
    address: SocketAddr,
    listener: std::net::TcpListener,
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
        install_crypto();
        let certificate = config.server.tls.as_ref().map(tls::Certificate::read).transpose()?;
        let listen = config.server.listen.iter().map(|address| bind(*address)).collect::<anyhow::Result<Vec<_>>>()?;
        let admin = bind(config.server.admin).context("server.admin")?;
        let metrics = Arc::new(Metrics::new()?);
        let verifier = Arc::new(TokenVerifier::new(
            config.issuers,
            config.limits.verdicts,
            Arc::clone(&clock),
            config.server.state.clone(),
            Arc::new(HttpFetch::new()?),
        )?);
        let limiter = Limiter::new(&config.limits);
        let readiness = Arc::new(Readiness::new(Arc::clone(&verifier), &config.upstream)?);
        let source_id = config.upstream.source_id.clone();
        let electric = Electric::new(Arc::new(UpstreamServer::new(config.upstream)), Arc::clone(&metrics));
        let places = Arc::clone(limiter.flights());
        let hub = Hub::new(Box::new(electric), config.cache.clone(), places, Arc::clone(&metrics));
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
            limiter: Arc::clone(&limiter),
            hub: Arc::clone(&hub),
            metrics: Arc::clone(&metrics),
            audit: audit.clone(),
            clock: Arc::clone(&clock),
            options: server_options(&config.server),
            changes: changes.subscribe(),
        };
        let policy = PolicySwitch { policy, changes, metrics: Arc::clone(&metrics), clock };
        Ok(Self {
            config: config.server,
            listen,
            admin,
            certificate,
            gateway,
            verifier,
            metrics,
            limiter,
            hub,
            policy,
            readiness,
            audit,
        })
    }

    /// The addresses of the client listeners, with the ports they got.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listen.iter().map(|socket| socket.address).collect()
    }

    /// The address of the admin port.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address
    }

    /// Where its rules can be replaced.
    pub fn policy(&self) -> PolicySwitch {
        self.policy.clone()
    }

    /// Its limits, whose figures can be replaced.
    pub fn limiter(&self) -> Arc<Limiter> {
        Arc::clone(&self.limiter)
    }

    /// What `/readyz` asks.
    pub fn readiness(&self) -> Arc<Readiness> {
        Arc::clone(&self.readiness)
    }

    /// Serves until `stop` ends, then drains: no new connection, and requests in flight have `server.drain` to finish.
    ///
    /// # Errors
    /// TLS settings that Pingora refuses.
    pub async fn run(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let (shutdown, watch) = watch::channel(false);
        let readiness = self.readiness;
        let tls = self.certificate.as_ref().map(|certificate| Arc::new(certificate.acceptor()));
        let gateway = Arc::new(self.gateway);
        let mut serving = JoinSet::new();
        for socket in self.listen {
            let listener = TcpListener::from_std(socket.listener)?;
            serving.spawn(listener::accept(listener, tls.clone(), Arc::clone(&gateway), watch.clone()));
        }
        let mut admin = Service::new(
            "admin".to_owned(),
            admin::Admin::new(
                self.metrics,
                Arc::clone(&self.verifier),
                Arc::clone(&self.limiter),
                self.hub,
                self.audit.clone(),
                Arc::clone(&readiness),
            ),
        );
        let fds: ListenFds = Arc::new(parking_lot::Mutex::new(Fds::new()));
        admin.add_listener(self.admin.into_listener(&fds));
        // They end with the shutdown: who drains needs no new keys.
        tokio::spawn(Arc::clone(&self.verifier).run_renewals(watch.clone()));
        let memory = Arc::clone(self.limiter.memory());
        tokio::spawn(async move { memory.watch(watch).await });
        let sweeping = self.audit.clone().map(|audit| tokio::spawn(sweep(audit, Arc::clone(&self.policy.clock))));
        // The admin port stays until the end, so that a drain can be watched.
        let (admin_shutdown, admin_watch) = watch::channel(false);
        let watching = tokio::spawn(async move { admin.start_service(Some(fds), admin_watch, 1).await });
        tokio::select! {
            () = stop => {}
            // It ends by itself only where it panicked, and a process without a listener is of no use.
            _ = serving.join_next() => bail!("the listeners ended"),
        }
        readiness.stop();
        self.policy.changes.send_modify(|change| change.stopping = true);
        shutdown.send_replace(true);
        drain(self.limiter.requests(), self.config.drain).await;
        admin_shutdown.send_replace(true);
        serving.join_all().await;
        // It ends with its watch, and has nothing to say.
        let _ = watching.await;
        if let (Some(audit), Some(sweeping)) = (self.audit, sweeping) {
            sweeping.abort();
            let _ = tokio::task::spawn_blocking(move || audit.finish(AUDIT_FINISH)).await;
        }
        Ok(())
    }
}

impl BoundSocket {
    /// Hands the socket to Pingora, which finds it in `fds` under the name of its address.
    fn into_listener(self, fds: &ListenFds) -> ListenerConfig {
        let name = self.address.to_string();
        fds.lock().add(name.clone(), self.listener.into_raw_fd());
        ListenerConfig::tcp(name)
    }
}

fn bind(address: SocketAddr) -> anyhow::Result<BoundSocket> {
    let listener = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        // A wave of reconnecting clients must find room (the kernel caps this at net.core.somaxconn).
        socket.listen(65_535)?.into_std()
    };
    let listener = listener().with_context(|| format!("cannot listen on {address}"))?;
    Ok(BoundSocket { address: listener.local_addr()?, listener })
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

async fn drain(budgets: &Budgets, limit: Duration) {
    let emptied = async {
        while budgets.in_flight() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(limit, emptied).await.is_err() {
        tracing::warn!(left = budgets.in_flight(), "drain: requests in flight were cut");
    }
}
