//! Notifies systemd of state changes (sd_notify(3)). Does nothing if `NOTIFY_SOCKET` is not set.

use std::num::NonZeroU32;
use std::time::Duration;

use sd_notify::NotifyState;

use super::probe::Probe;

/// Returns whether systemd expects notifications.
pub(crate) fn is_heard() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Reports that the process is busy with a reload or upgrade and keeps serving.
pub(crate) fn reloading(status: &str) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now, NotifyState::Status(status)]),
        Err(error) => tracing::warn!(%error, "cannot read the monotonic clock for a systemd notification"),
    }
}

/// Reports that the process serves.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Reports that process `pid` is now the main process of the service. systemd ignores later messages of this one.
pub(super) fn handed_over(pid: NonZeroU32) {
    let status = format!("upgraded: process {pid} serves");
    tell(&[NotifyState::MainPid(pid.get()), NotifyState::Ready, NotifyState::Status(&status)]);
}

/// Reports that the process will stop within `limit`, which overrides the unit's `TimeoutStopSec=`.
pub(super) fn stopping(limit: Duration) {
    let limit = u32::try_from((limit + AFTER_DRAIN).as_micros()).unwrap_or(u32::MAX);
    let status = NotifyState::Status("stopping: finishing requests in flight");
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(limit), status]);
}

/// Sets the status line of the unit.
pub(super) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Reports what is missing until the process is ready, then that it is ready.
pub(super) async fn announce(probe: Probe, serving: String) {
    if !is_heard() {
        return;
    }
    let mut said = String::new();
    loop {
        match probe.readiness().await {
            Ok(()) => break,
            Err(missing) if missing != said => {
                tracing::warn!("not ready: {missing}");
                status(&format!("not ready: {missing}"));
                said = missing;
            }
            Err(_) => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
    tracing::info!("ready");
    ready(&serving);
}

/// Resets the unit's watchdog (`WatchdogSec=`) twice per period while the admin port responds.
///
/// A response needs the accept loop, the timers and a worker thread. systemd replaces a process that does not respond.
pub(super) async fn feed_watchdog(probe: Probe) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(limit / 2);
    loop {
        ticks.tick().await;
        match probe.health().await {
            Ok(()) => tell(&[NotifyState::Watchdog]),
            Err(cause) => tracing::error!(cause, "the admin port does not respond: the watchdog is not reset"),
        }
    }
}

/// The time between two readiness checks.
pub(super) const AGAIN: Duration = Duration::from_millis(250);

/// The time after the drain, to write the audit log's last lines and abort tasks.
const AFTER_DRAIN: Duration = Duration::from_secs(5);

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd through NOTIFY_SOCKET");
    }
}
