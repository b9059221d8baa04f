//! `shapegate --config FILE`: the main job.

use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::config::Config;
use crate::server::{Reloader, Server};
use crate::telemetry;

pub(super) fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let config = super::load(path)?;
    telemetry::init_logging(&config.log)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = super::runtime(config.server.threads)?;
    runtime.block_on(serve(config))?;
    // What a second signal, or the end of the drain, has cut is not waited for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(ExitCode::SUCCESS)
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let hangup = signal(SignalKind::hangup())?;
    let server = Server::bind(config)?;
    let addresses: Vec<_> = server.addresses().iter().map(ToString::to_string).collect();
    tracing::info!(listen = addresses.join(", "), admin = %server.admin_address(), "serving");
    // As a task of its own, so that a signal to stop is never kept waiting; it ends with the runtime.
    tokio::spawn(reload_at(hangup, server.reloader()));
    let (stop, stopped) = oneshot::channel::<()>();
    let mut serving = pin!(server.run(async { drop(stopped.await) }));
    tokio::select! {
        ended = &mut serving => return ended,
        () = signals.next() => {}
    }
    tracing::info!("stopping: requests in flight finish first; a second signal stops at once");
    drop(stop);
    tokio::select! {
        ended = serving => ended,
        () = signals.next() => {
            tracing::warn!("second signal: stopping at once");
            Ok(())
        }
    }
}

/// Reloads at each SIGHUP, one after the other; those that come meanwhile are one.
async fn reload_at(mut hangup: Signal, reloader: Reloader) {
    while hangup.recv().await.is_some() {
        reloader.reload().await;
    }
}

/// SIGTERM and SIGINT, which say the same.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! { _ = self.terminate.recv() => {} _ = self.interrupt.recv() => {} }
    }
}
