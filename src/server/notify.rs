//! What systemd is told (sd_notify(3)); nothing where no `NOTIFY_SOCKET` is set.

use std::time::Duration;

use sd_notify::NotifyState;

use super::probe::Probe;

/// Whether anybody wants to know.
pub(super) fn is_heard() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// The process does something that takes its time, and serves on.
pub(crate) fn reloading(status: &str) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now, NotifyState::Status(status)]),
        Err(error) => tracing::warn!(%error, "the clock of systemd's messages cannot be read"),
    }
}

/// The process serves.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The process serves, and its service is another process from here on: this one is heard no more.
pub(super) fn handed_over(pid: u32) {
    let status = format!("upgraded: process {pid} serves");
    tell(&[NotifyState::MainPid(pid), NotifyState::Ready, NotifyState::Status(&status)]);
}

/// The process ends within `limit`, whatever the unit's `TimeoutStopSec=`.
pub(super) fn stopping(limit: Duration) {
    let limit = u32::try_from((limit + AFTER_DRAIN).as_micros()).unwrap_or(u32::MAX);
    let status = NotifyState::Status("stopping: requests in flight finish");
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(limit), status]);
}

/// What is said in a word or two.
pub(super) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Says what is missing until nothing is, then that the process is ready.
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

/// Tells the watchdog of the unit (`WatchdogSec=`) at half of its time that this process answers: with an answer of the
/// admin port, which takes the accept loop, the timers and a worker. A process that does not answer is replaced.
pub(super) async fn feed_watchdog(probe: Probe) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(limit / 2);
    loop {
        ticks.tick().await;
        match probe.health().await {
            Ok(()) => tell(&[NotifyState::Watchdog]),
            Err(cause) => tracing::error!(cause, "the admin port does not answer: the watchdog is not told"),
        }
    }
}

/// Between two questions whether all is there.
pub(super) const AGAIN: Duration = Duration::from_millis(250);

/// What comes after the drain: the audit log's last lines, tasks that are cut.
const AFTER_DRAIN: Duration = Duration::from_secs(5);

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd cannot be told: NOTIFY_SOCKET");
    }
}
