//! Starts a new process for an upgrade. The running process starts it, so that systemd sees both in one unit.

use std::io;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
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
    phase: Mutex<Phase>,
    lost: Notify,
}

/// How far an upgrade is. Every step is one change under one lock, so that no end of a process is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// This process serves, and no upgrade is in progress.
    Serving,
    /// This process serves, and has started the process with this id.
    Preparing(NonZeroU32),
    /// The process with this id has the sockets. This is final.
    HandedOver(NonZeroU32),
}

/// What the end of a started process means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The upgrade has failed, and this process keeps serving.
    Failed,
    /// The process that has the sockets has ended.
    OfSuccessor,
    /// Another process has the sockets.
    Irrelevant,
}

impl Phase {
    /// Whether process `pid` may have the sockets. With `only_started`, it must be the one that this process started.
    fn admits(self, pid: NonZeroU32, only_started: bool) -> Result<(), &'static str> {
        match self {
            Self::HandedOver(_) => Err("another process has taken over"),
            Self::Preparing(started) if started == pid => Ok(()),
            Self::Serving | Self::Preparing(_) if only_started => Err(START_IT),
            Self::Serving | Self::Preparing(_) => Ok(()),
        }
    }

    /// Gives the sockets to process `pid`, unless `tell` fails to say so to it.
    fn hand_over(&mut self, pid: NonZeroU32, tell: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        tell()?;
        *self = Self::HandedOver(pid);
        Ok(())
    }

    /// Records that process `pid`, which this one started, has ended.
    fn end(&mut self, pid: NonZeroU32) -> End {
        match *self {
            Self::Preparing(started) if started == pid => {
                *self = Self::Serving;
                End::Failed
            }
            Self::HandedOver(successor) if successor == pid => End::OfSuccessor,
            Self::Serving | Self::Preparing(_) | Self::HandedOver(_) => End::Irrelevant,
        }
    }
}

/// systemd would not accept a process of another unit as this service's main process, and would consider the service
/// dead.
const START_IT: &str =
    "under systemd, the running process must start the new one: systemctl kill -s SIGUSR2 --kill-whom=main";

impl Upgrades {
    pub(super) fn new(socket: Option<PathBuf>, limit: Duration, metrics: Arc<Metrics>, gateway: Gateway) -> Self {
        let (phase, lost) = (Mutex::new(Phase::Serving), Notify::new());
        Self(Arc::new(State { socket, limit, metrics, gateway, phase, lost }))
    }

    /// Starts a new process, which will take over the sockets. A failure is logged and counted, and changes nothing
    /// else.
    pub fn start(&self, next: Command) {
        if self.0.gateway.changes.borrow().stopping {
            return tracing::warn!("no upgrade: this process is stopping");
        }
        if self.0.socket.is_none() {
            return self.failed("set server.upgrade_socket, or RuntimeDirectory= in the unit, and restart once");
        }
        let mut phase = self.0.phase.lock();
        if *phase != Phase::Serving {
            return tracing::warn!("an upgrade is already in progress");
        }
        match spawn(next) {
            Ok((pid, child)) => {
                *phase = Phase::Preparing(pid);
                drop(phase);
                tracing::info!(pid, "upgrade: started a new process");
                notify::reloading("upgrade: the new process is preparing");
                tokio::spawn(self.clone().attend(pid, child));
            }
            Err(error) => {
                drop(phase);
                self.failed(&format!("cannot start the new process: {error}"));
            }
        }
    }

    /// Waits until the process that took over fails before this one has ended. No process then serves.
    pub async fn lost(&self) {
        self.0.lost.notified().await;
    }

    /// Waits for the end of a started process. Kills it if it takes too long to take over.
    async fn attend(self, pid: NonZeroU32, mut child: Child) {
        let mut killed = false;
        let ended = match timeout(self.0.limit + TO_GIVE_UP, child.wait()).await {
            Ok(ended) => ended,
            Err(_) => {
                killed = self.give_up(pid, &mut child);
                child.wait().await
            }
        };
        self.ended(pid, ended, killed);
    }

    /// Kills a started process that has not taken over; returns whether it did.
    fn give_up(&self, pid: NonZeroU32, child: &mut Child) -> bool {
        let phase = self.0.phase.lock();
        *phase == Phase::Preparing(pid) && child.start_kill().is_ok()
    }

    fn ended(&self, pid: NonZeroU32, ended: io::Result<ExitStatus>, killed: bool) {
        let end = self.0.phase.lock().end(pid);
        match (end, ended) {
            (End::Irrelevant, _) => {}
            // A process that stopped successfully is not lost.
            (End::OfSuccessor, Ok(status)) if status.success() => {}
            (End::OfSuccessor, _) => self.0.lost.notify_one(),
            (End::Failed, _) if self.0.gateway.changes.borrow().stopping => {
                tracing::info!("this process is stopping, so the new process has ended too");
            }
            (End::Failed, _) if killed => {
                self.failed("the new process neither took over nor ended, so it was killed");
            }
            (End::Failed, Ok(status)) => self.failed(&format!("the new process ended ({status}); see its log lines")),
            (End::Failed, Err(error)) => self.failed(&format!("cannot wait for the new process: {error}")),
        }
    }

    fn failed(&self, reason: &str) {
        tracing::error!("upgrade failed, this process keeps serving: {reason}");
        self.0.metrics.upgraded(Upgrade::Failed);
        notify::ready(&format!("serving; the last upgrade failed: {reason}"));
    }

    /// Checks whether process `pid` may have the sockets.
    ///
    /// # Errors
    /// The reason why it may not.
    pub(super) fn admits(&self, pid: NonZeroU32) -> Result<(), &'static str> {
        self.0.phase.lock().admits(pid, notify::is_heard())
    }

    /// Gives the sockets to process `pid`: `tell` says so to it, without waiting. If that fails, this process keeps
    /// them.
    ///
    /// # Errors
    /// The process may not have the sockets (any more), or has ended.
    pub(super) fn hand_over(&self, pid: NonZeroU32, tell: impl FnOnce() -> io::Result<()>) -> anyhow::Result<()> {
        let mut phase = self.0.phase.lock();
        phase.admits(pid, notify::is_heard()).map_err(anyhow::Error::msg)?;
        Ok(phase.hand_over(pid, tell)?)
    }

    /// Returns how long a new process may take to become ready.
    pub(super) fn limit(&self) -> Duration {
        self.0.limit
    }
}

fn spawn(mut next: Command) -> io::Result<(NonZeroU32, Child)> {
    // It contains this process's id, which the new process must not inherit.
    let child = next.env_remove("WATCHDOG_PID").spawn()?;
    let pid = child.id().and_then(NonZeroU32::new).ok_or(io::ErrorKind::NotFound)?;
    Ok((pid, child))
}

/// Extra time after `server.upgrade_timeout`, at which a new process ends by itself.
const TO_GIVE_UP: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NonZeroU32 = NonZeroU32::new(100).unwrap();
    const OTHER: NonZeroU32 = NonZeroU32::new(200).unwrap();

    #[test]
    fn only_the_started_process_is_admitted_under_systemd() {
        for (phase, pid, admitted) in [
            (Phase::Serving, ONE, [true, false]),
            (Phase::Preparing(ONE), ONE, [true, true]),
            (Phase::Preparing(ONE), OTHER, [true, false]),
            (Phase::HandedOver(ONE), ONE, [false, false]),
            (Phase::HandedOver(ONE), OTHER, [false, false]),
        ] {
            let found = [false, true].map(|systemd| phase.admits(pid, systemd).is_ok());
            assert_eq!(found, admitted, "{phase:?} {pid}");
        }
    }

    #[test]
    fn a_process_that_ends_before_it_is_told_leaves_this_one_serving() {
        let mut phase = Phase::Preparing(ONE);
        assert!(phase.hand_over(ONE, || Err(io::ErrorKind::BrokenPipe.into())).is_err());
        assert_eq!(phase, Phase::Preparing(ONE));
        assert_eq!((phase.end(ONE), phase), (End::Failed, Phase::Serving));
        assert_eq!(phase.end(ONE), End::Irrelevant, "it is counted once");
    }

    #[test]
    fn a_process_that_ends_after_it_was_told_is_lost() {
        let mut phase = Phase::Preparing(ONE);
        assert!(phase.hand_over(ONE, || Ok(())).is_ok());
        assert_eq!((phase.end(ONE), phase), (End::OfSuccessor, Phase::HandedOver(ONE)));
        // Of two new processes, only the one that has the sockets matters.
        let mut phase = Phase::Preparing(ONE);
        assert!(phase.hand_over(OTHER, || Ok(())).is_ok());
        assert_eq!((phase.end(ONE), phase), (End::Irrelevant, Phase::HandedOver(OTHER)));
    }
}
