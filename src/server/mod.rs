//! The running service: sockets bound first, then the request path, the admin port and the key renewals on one runtime.
//!
//! The sockets are our own: a port that is taken is then an error at the start, where Pingora would log it and stay up
//! without a listener. The drain ends with the last request, not after a fixed time.

mod admin;
mod listener;
mod readiness;
mod reload;
mod socket;
mod tls;

use std::net::SocketAddr;
use std::os::fd::IntoRawFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use pingora::listeners::ListenerConfig;
use pingora::server::{Fds, ListenFds};
use pingora::services::Service as _;
use pingora::services::listening::Service;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::auth::keys::HttpFetch;
use crate::auth::{Renewals, TokenVerifier};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config};
use crate::flight::Hub;
use crate::limits::Budgets;
use crate::proxy::{Change, CorsPolicy, Front, Gateway};
use crate::telemetry::{Audit, Metrics};

use tls::Certificates;

pub use readiness::Readiness;
pub use reload::Reloader;
pub(crate) use socket::Socket;
pub use tls::check as check_tls;

/// A service with its sockets bound and nothing running yet.
pub struct Server {
    config: config::Server,
    listen: Vec<BoundSocket>,
    admin: BoundSocket,
    front: Arc<Front>,
    reloader: Reloader,
    audit: Option<Arc<Audit>>,
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
        let metrics = Arc::new(Metrics::new()?);
        let tls = config.server.tls.clone();
        let certificates = tls.map(|tls| Certificates::start(tls, Arc::clone(&metrics))).transpose()?;
        let listen = config.server.listen.iter().map(|address| bind(*address)).collect::<anyhow::Result<Vec<_>>>()?;
        let admin = bind(config.server.admin).context("server.admin")?;
        let verifier = Arc::new(TokenVerifier::new(
            config.issuers,
            config.limits.verdicts,
            Arc::clone(&clock),
            config.server.state.clone(),
            Arc::new(HttpFetch::new()?),
        )?);
        let budgets = Budgets::new(config.limits.requests, config.limits.requests_per_subject);
        let flights = Budgets::new(config.limits.flights, config.limits.flights_per_subject);
        let electric = reload::electric(&config.upstream, &metrics);
        let hub = Arc::new(Hub::new(electric, config.cache.clone(), flights, Arc::clone(&metrics)));
        metrics.policy_loaded(&config.policy, clock.now());
        let audit = config.audit.as_ref().map(Audit::start).transpose()?.map(Arc::new);
        let (changes, _) = watch::channel(Change::default());
        let gateway = Gateway {
            generation: 0,
            verifier,
            policy: config.policy,
            gatekeeper: config.gatekeeper,
            cors: CorsPolicy::new(config.cors),
            limits: config.limits,
            cache: config.cache,
            source_id: config.upstream.source_id.clone(),
            budgets,
            hub,
            metrics: Arc::clone(&metrics),
            audit: audit.clone(),
            clock: Arc::clone(&clock),
            changes: changes.subscribe(),
        };
        let front = Arc::new(Front::new(gateway, &config.server));
        let readiness = Arc::new(Readiness::new(Arc::clone(&front), &config.upstream)?);
        let reloader = Reloader::new(reload::Running {
            front: Arc::clone(&front),
            changes,
            readiness,
            certificates,
            metrics,
            clock,
            configured: Mutex::new(reload::Configured {
                server: config.server.clone(),
                log_format: config.log.format,
                audit: config.audit,
                upstream: config.upstream,
                file: config.file,
            }),
        });
        Ok(Self { config: config.server, listen, admin, front, reloader, audit })
    }

    /// The addresses of the client listeners, with the ports they got.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listen.iter().map(|socket| socket.address).collect()
    }

    /// The address of the admin port.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address
    }

    /// Where its configuration can be replaced.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// What `/readyz` asks.
    pub fn readiness(&self) -> Arc<Readiness> {
        Arc::clone(&self.reloader.running().readiness)
    }

    /// Serves until `stop` ends, then drains: no new connection, and requests in flight have `server.drain` to finish.
    ///
    /// # Errors
    /// TLS settings that Pingora refuses.
    pub async fn run(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let (shutdown, watch) = watch::channel(false);
        let running = self.reloader.running();
        let (front, certificates) = (self.front, running.certificates.clone());
        let tls = certificates.as_ref().map(|certificates| Arc::new(certificates.acceptor()));
        let mut serving = JoinSet::new();
        for socket in self.listen {
            let listener = TcpListener::from_std(socket.listener)?;
            serving.spawn(listener::accept(listener, tls.clone(), Arc::clone(&front), watch.clone()));
        }
        let mut admin = Service::new(
            "admin".to_owned(),
            admin::Admin::new(
                Arc::clone(&running.metrics),
                Arc::clone(&front),
                Arc::clone(&running.readiness),
                self.reloader.clone(),
            ),
        );
        let fds: ListenFds = Arc::new(parking_lot::Mutex::new(Fds::new()));
        admin.add_listener(self.admin.into_listener(&fds));
        // They end with the shutdown: who drains needs no new keys.
        tokio::spawn(renew_keys(Arc::clone(&front), watch));
        // They end with this.
        let mut background = JoinSet::new();
        certificates.into_iter().for_each(|certificates| drop(background.spawn(certificates.watch())));
        let sweeping = self.audit.clone().map(|audit| background.spawn(sweep(audit, Arc::clone(&running.clock))));
        // The admin port stays until the end, so that a drain can be watched.
        let (admin_shutdown, admin_watch) = watch::channel(false);
        let watching = tokio::spawn(async move { admin.start_service(Some(fds), admin_watch, 1).await });
        tokio::select! {
            () = stop => {}
            // It ends by itself only where it panicked, and a process without a listener is of no use.
            _ = serving.join_next() => bail!("the listeners ended"),
        }
        running.readiness.stop();
        self.reloader.stop();
        shutdown.send_replace(true);
        drain(&front.gate().budgets, self.config.drain).await;
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

/// How long a slow disk may hold up the end.
const AUDIT_FINISH: Duration = Duration::from_secs(2);

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
