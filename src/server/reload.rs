//! Replaces the configuration of a running server, as a whole or not at all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;

use super::tls::Certificates;
use super::wire::{self, Observers};
use crate::clock::Clock;
use crate::config::{Config, ConfigErrors, ConfigFile, ServerSettings};
use crate::proxy::{Change, Gateway, HttpSettings, Proxy};
use crate::telemetry::{AuditSettings, LogFormat, OtelSettings, refilter_logs};

/// Reloads the configuration of a running server.
#[derive(Clone)]
pub struct Reloader(Arc<Running>);

/// The parts of a running server that a reload changes or uses.
pub(super) struct Running {
    pub(super) gateway: Gateway,
    pub(super) proxy: Weak<Proxy>,
    pub(super) observers: Observers,
    pub(super) changes: watch::Sender<Change>,
    pub(super) certificates: Option<Arc<Certificates>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) configured: Mutex<Configured>,
    /// Whether the configuration file on disk is the one in use, when it was checked last.
    pub(super) current: AtomicBool,
}

/// The configuration values that later reloads compare with. Its lock is held during a reload, so that reloads run one
/// after the other.
pub(super) struct Configured {
    /// As configured at the start; stays in effect until the process ends.
    server: ServerSettings,
    log_format: LogFormat,
    audit: Option<AuditSettings>,
    otel: Option<OtelSettings>,
    idle_connections: usize,
    /// The file of the last successful reload.
    file: Option<ConfigFile>,
}

impl Reloader {
    pub(super) fn new(running: Running) -> Self {
        Self(Arc::new(running))
    }

    /// Reloads the configuration file, with its secrets, key files and certificates. A file with any error changes
    /// nothing. The log and the metrics report the result.
    pub async fn reload(&self) {
        let running = Arc::clone(&self.0);
        // On a blocking thread: it reads files and compiles expressions.
        let done = tokio::task::spawn_blocking(move || running.reload()).await;
        if done.is_err() {
            // Not the panic's message, which may quote secrets.
            self.0.refused(&anyhow::anyhow!("the reload panicked; the previous log line says where"));
        }
    }

    /// Applies `config`. Settings that take effect only after a restart are named in the log.
    ///
    /// Blocks while it reads the saved key sets of new issuers and the certificate.
    ///
    /// # Errors
    /// If `config` cannot be used; nothing has changed then.
    pub fn take(&self, config: Config) -> anyhow::Result<()> {
        self.0.take(config)
    }

    /// Returns whether the configuration file on disk was the one in use at the last check.
    pub(super) fn is_current(&self) -> bool {
        self.0.current.load(Ordering::Relaxed)
    }

    /// Checks at once and then every second, forever, whether the configuration file has changed, and whether another
    /// process has saved pushed revocations.
    pub(super) async fn watch(self) {
        loop {
            let running = Arc::clone(&self.0);
            let check = move || {
                running.compare_file();
                running.gateway.rules().verifier.revocations().read_saved();
            };
            // On a blocking thread, because a disk may be slow. If it panics, the next check runs as usual.
            let _ = tokio::task::spawn_blocking(check).await;
            tokio::time::sleep(FILE_CHECK).await;
        }
    }

    /// Notifies waiting requests that the process is about to stop; event streams end within `leave_within`.
    pub(super) fn stop(&self, leave_within: Duration) {
        self.0.changes.send_modify(|change| (change.stopping, change.leave_within) = (true, leave_within));
    }

    /// Notifies waiting requests of each change of the revocations, forever.
    pub(super) async fn watch_revocations(self) {
        let mut changed = self.0.gateway.rules().verifier.revocations().changes();
        while changed.changed().await.is_ok() {
            let revocations = *changed.borrow_and_update();
            self.0.changes.send_modify(|change| change.revocations = revocations);
        }
    }

    pub(super) fn running(&self) -> &Running {
        &self.0
    }
}

impl Running {
    fn reload(&self) {
        let file = self.configured().file.clone();
        let path = file.as_ref().map(ConfigFile::path).context("the configuration was not read from a file");
        let taken = path.and_then(|path| Ok(Config::load(path)?)).and_then(|config| self.take(config));
        self.compare_file();
        match taken {
            Ok(()) => {
                self.observers.metrics.reloaded(true);
                tracing::info!("configuration reloaded");
            }
            Err(error) => self.refused(&error),
        }
    }

    /// Notes whether the file is still the one in use.
    fn compare_file(&self) {
        // Not while holding the lock, because a reload may take a moment.
        let file = self.configured().file.clone();
        self.current.store(file.is_none_or(|file| file.is_unchanged()), Ordering::Relaxed);
    }

    fn refused(&self, error: &anyhow::Error) {
        self.observers.metrics.reloaded(false);
        let faults = match error.downcast_ref::<ConfigErrors>() {
            Some(errors) => errors.iter().map(ToString::to_string).collect(),
            None => vec![format!("{error:#}")],
        };
        for fault in faults {
            tracing::error!(fault, "configuration rejected; keeping the current one");
        }
    }

    fn take(&self, mut config: Config) -> anyhow::Result<()> {
        let mut configured = self.configured();
        let before = self.gateway.rules();
        let upstreams = Arc::new(before.upstreams.renewed(&config.upstream, &config.upstreams)?);
        let issuers = std::mem::take(&mut config.issuers);
        let verifier = Arc::new(before.verifier.successor(issuers, config.limits.verdict_bytes)?);
        let decisions = std::mem::take(&mut config.decisions);
        let services = before.policy.services().renewed(decisions, &self.observers.metrics)?;
        let found = match (&self.certificates, &config.server.tls) {
            (Some(certificates), Some(tls)) => Some((certificates, certificates.find(tls)?)),
            _ => None,
        };
        refilter_logs(&config.log)?;
        // Nothing after this can fail.
        config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        configured.warn_of_restart(&config);
        if let Some((certificates, found)) = found {
            certificates.take(found);
        }
        verifier.revocations().configure(config.revocation.take());
        upstreams.watch();
        self.gateway.hub.configure(config.cache.clone());
        self.gateway.limiter.set(&config.limits);
        self.observers.metrics.policy_loaded(config.policy.destinations(), self.clock.now().as_secs());
        let generation = before.generation + 1;
        configured.file = config.file.take().or_else(|| configured.file.take());
        let observers = self.observers.clone();
        self.gateway.replace(wire::rules(generation, config, verifier, services, upstreams, &self.proxy, observers));
        // After the rules are replaced: a notified request must find the new ones.
        self.changes.send_modify(|change| change.generation = generation);
        Ok(())
    }

    fn configured(&self) -> std::sync::MutexGuard<'_, Configured> {
        self.configured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time between two checks of the files.
const FILE_CHECK: Duration = Duration::from_secs(1);

impl Configured {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            server: config.server.clone(),
            log_format: config.log.format,
            audit: config.audit.clone(),
            otel: config.otel.clone(),
            idle_connections: wire::idle_connections(config),
            file: config.file.clone(),
        }
    }

    fn warn_of_restart(&self, config: &Config) {
        let kept = self.kept_until_restart(config);
        if !kept.is_empty() {
            tracing::warn!(keys = kept.join(", "), "these settings take effect after a restart");
        }
    }

    /// Returns the keys whose new values a running process cannot use.
    fn kept_until_restart(&self, config: &Config) -> Vec<&'static str> {
        let old = &self.server;
        // Destructured completely, so that a new field cannot be forgotten here.
        let ServerSettings {
            listen,
            proxy_protocol,
            admin,
            threads,
            drain,
            tls,
            http: HttpSettings { h1_idle_timeout, h2c, h2_streams, h2_idle_timeout, health_path },
            state,
            upgrade_socket,
            explain_denials,
            upgrade_timeout,
        } = &config.server;
        let changed = [
            ("server.listen", *listen != old.listen),
            ("server.proxy_protocol", *proxy_protocol != old.proxy_protocol),
            ("server.admin", *admin != old.admin),
            ("server.threads", *threads != old.threads),
            ("server.drain", *drain != old.drain),
            // Other files can be loaded; only switching TLS on or off needs a restart.
            ("server.tls", tls.is_some() != old.tls.is_some()),
            ("server.h1_idle_timeout", *h1_idle_timeout != old.http.h1_idle_timeout),
            ("server.h2c", *h2c != old.http.h2c),
            ("server.h2_streams", *h2_streams != old.http.h2_streams),
            ("server.h2_idle_timeout", *h2_idle_timeout != old.http.h2_idle_timeout),
            ("server.health_path", *health_path != old.http.health_path),
            ("server.state", *state != old.state),
            ("server.upgrade_socket", *upgrade_socket != old.upgrade_socket),
            ("server.danger_explain_denials", *explain_denials != old.explain_denials),
            ("server.upgrade_timeout", *upgrade_timeout != old.upgrade_timeout),
            ("upstream.pool", wire::idle_connections(config) != self.idle_connections),
            ("log.format", config.log.format != self.log_format),
            ("audit", config.audit != self.audit),
            ("otel", config.otel != self.otel),
        ];
        changed.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
    }
}
