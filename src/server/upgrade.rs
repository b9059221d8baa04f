//! Starting the next process: the running one does it itself, so that under systemd both are of one unit.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::notify;
use super::readiness::Readiness;
use crate::metrics::{Metrics, Upgrade};

/// Upgrades of a running server, one at a time.
#[derive(Clone)]
pub struct Upgrades(Arc<State>);

struct State {
    socket: Option<PathBuf>,
    limit: Duration,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    /// The process that was started; 0 where none is under way.
    started: AtomicU32,
    taken: AtomicBool,
    lost: Notify,
}

impl Upgrades {
    pub(super) fn new(
        socket: Option<PathBuf>,
        limit: Duration,
        metrics: Arc<Metrics>,
        readiness: Arc<Readiness>,
    ) -> Self {
        let (started, taken, lost) = (AtomicU32::new(0), AtomicBool::new(false), Notify::new());
        Self(Arc::new(State { socket, limit, metrics, readiness, started, taken, lost }))
    }

    /// Starts the next process, which is to take the sockets over; a failure is logged and counted, and changes nothing.
    pub fn start(&self, mut next: Command) {
        if self.0.readiness.is_stopping() {
            return tracing::warn!("no upgrade: this process is stopping");
        }
        if self.0.started.load(Ordering::Relaxed) != 0 {
            return tracing::warn!("an upgrade is under way already");
        }
        if self.0.socket.is_none() {
            return self.failed("set server.upgrade_socket, or RuntimeDirectory= in the unit, and restart once");
        }
        // It is for this process's id, and the next one has another.
        next.env_remove("WATCHDOG_PID");
        match next.spawn() {
            Ok(child) => {
                let pid = child.id().unwrap_or_default();
                self.0.started.store(pid, Ordering::Relaxed);
                tracing::info!(pid, "upgrade: a new process is started");
                notify::reloading("upgrade: the new process prepares itself");
                tokio::spawn(self.clone().attend(child));
            }
            Err(error) => self.failed(&format!("the new process cannot be started: {error}")),
        }
    }

    /// Ends when the process that took over has died before this one has ended: nobody serves then.
    pub async fn lost(&self) {
        self.0.lost.notified().await;
    }

    /// Waits for the end of a process that does not take over.
    async fn attend(self, mut child: Child) {
        let ended = timeout(self.0.limit + TO_GIVE_UP, child.wait()).await;
        if self.0.taken.load(Ordering::Relaxed) {
            // One that was told to stop is not lost.
            if !child.wait().await.is_ok_and(|status| status.success()) {
                self.0.lost.notify_one();
            }
            return;
        }
        if self.0.readiness.is_stopping() {
            return tracing::info!("the new process has ended too: this one was told to stop");
        }
        match ended {
            Ok(Ok(status)) => self.failed(&format!("the new process ended ({status}); its own lines say why")),
            Ok(Err(error)) => self.failed(&format!("the new process is lost: {error}")),
            Err(_) => {
                let _ = child.kill().await;
                self.failed("the new process neither took over nor ended, and was killed");
            }
        }
    }

    fn failed(&self, reason: &str) {
        tracing::error!("upgrade failed, this process serves on: {reason}");
        self.0.metrics.upgraded(Upgrade::Failed);
        self.0.started.store(0, Ordering::Relaxed);
        notify::ready(&format!("serving; the last upgrade failed: {reason}"));
    }

    /// A new process has the sockets.
    pub(super) fn taken(&self) {
        self.0.taken.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_started(&self, pid: u32) -> bool {
        self.0.started.load(Ordering::Relaxed) == pid
    }

    /// How long a new process may take until it is ready.
    pub(super) fn limit(&self) -> Duration {
        self.0.limit
    }
}

/// Above `server.upgrade_timeout`, at which a new process ends by itself.
const TO_GIVE_UP: Duration = Duration::from_secs(15);
