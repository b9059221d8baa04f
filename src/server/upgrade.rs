//! Starts a new process for an upgrade. The running process starts it, so that systemd sees both in one unit.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::notify;
use crate::metrics::{Metrics, Upgrade};
use crate::proxy::Gateway;

/// Starts and supervises upgrades of a running server, one at a time.
#[derive(Clone)]
pub struct Upgrades(Arc<State>);

struct State {
    socket: Option<PathBuf>,
    limit: Duration,
    metrics: Arc<Metrics>,
    gateway: Gateway,
    /// The id of the started process; 0 if no upgrade is in progress.
    started: AtomicU32,
    taken: AtomicBool,
    lost: Notify,
}

impl Upgrades {
    pub(super) fn new(socket: Option<PathBuf>, limit: Duration, metrics: Arc<Metrics>, gateway: Gateway) -> Self {
        let (started, taken, lost) = (AtomicU32::new(0), AtomicBool::new(false), Notify::new());
        Self(Arc::new(State { socket, limit, metrics, gateway, started, taken, lost }))
    }

    /// Starts a new process, which will take over the sockets. A failure is logged and counted, and changes nothing
    /// else.
    pub fn start(&self, mut next: Command) {
        if self.0.gateway.changes.borrow().stopping {
            return tracing::warn!("no upgrade: this process is stopping");
        }
        if self.0.started.load(Ordering::Relaxed) != 0 {
            return tracing::warn!("an upgrade is already in progress");
        }
        if self.0.socket.is_none() {
            return self.failed("set server.upgrade_socket, or RuntimeDirectory= in the unit, and restart once");
        }
        // It contains this process's id, which the new process must not inherit.
        next.env_remove("WATCHDOG_PID");
        match next.spawn() {
            Ok(child) => {
                let pid = child.id().unwrap_or_default();
                self.0.started.store(pid, Ordering::Relaxed);
                tracing::info!(pid, "upgrade: started a new process");
                notify::reloading("upgrade: the new process is preparing");
                tokio::spawn(self.clone().attend(child));
            }
            Err(error) => self.failed(&format!("cannot start the new process: {error}")),
        }
    }

    /// Waits until the process that took over fails before this one has ended. No process then serves.
    pub async fn lost(&self) {
        self.0.lost.notified().await;
    }

    /// Waits for the new process, and handles its failure.
    async fn attend(self, mut child: Child) {
        let ended = timeout(self.0.limit + TO_GIVE_UP, child.wait()).await;
        if self.0.taken.load(Ordering::Relaxed) {
            // A process that stopped successfully is not lost.
            if !child.wait().await.is_ok_and(|status| status.success()) {
                self.0.lost.notify_one();
            }
            return;
        }
        if self.0.gateway.changes.borrow().stopping {
            return tracing::info!("this process is stopping, so the new process has ended too");
        }
        match ended {
            Ok(Ok(status)) => self.failed(&format!("the new process ended ({status}); see its log lines")),
            Ok(Err(error)) => self.failed(&format!("cannot wait for the new process: {error}")),
            Err(_) => {
                let _ = child.kill().await;
                self.failed("the new process neither took over nor ended, so it was killed");
            }
        }
    }

    fn failed(&self, reason: &str) {
        tracing::error!("upgrade failed, this process keeps serving: {reason}");
        self.0.metrics.upgraded(Upgrade::Failed);
        self.0.started.store(0, Ordering::Relaxed);
        notify::ready(&format!("serving; the last upgrade failed: {reason}"));
    }

    /// Records that a new process has the sockets.
    pub(super) fn taken(&self) {
        self.0.taken.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_started(&self, pid: u32) -> bool {
        self.0.started.load(Ordering::Relaxed) == pid
    }

    /// Returns how long a new process may take to become ready.
    pub(super) fn limit(&self) -> Duration {
        self.0.limit
    }
}

/// Extra time after `server.upgrade_timeout`, at which a new process ends by itself.
const TO_GIVE_UP: Duration = Duration::from_secs(15);
