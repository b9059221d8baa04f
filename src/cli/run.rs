//! `shapegate --config FILE`: runs the proxy.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Resource, getrlimit};
use tokio::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::config::Config;
use crate::limits::LimitSettings;
use crate::proxy::Gateway;
use crate::server::{Reloader, Server, notify};
use crate::telemetry;

/// Runs with the configuration at `path`; with `upgrade`, on the sockets of the running process.
pub(super) fn run(path: &Path, upgrade: bool) -> anyhow::Result<ExitCode> {
    let program = Program::of_this_process()?;
    let config = super::load(path)?;
    let more = crate::server::check(&config)?;
    telemetry::init_logging(&config.log)?;
    for warning in config.warnings.iter().chain(&more) {
        tracing::warn!("{warning}");
    }
    if let Some(files) = getrlimit(Resource::Nofile).current.filter(|files| *files < files_needed(&config.limits)) {
        let needed = files_needed(&config.limits);
        tracing::warn!(
            files,
            needed,
            "the open file limit is lower than `limits` may need: raise LimitNOFILE (ulimit -n)"
        );
    }
    let runtime = super::runtime(config.server.threads)?;
    runtime.block_on(serve(config, upgrade, &program))?;
    tracing::info!("stopped");
    // Tasks aborted by a second signal or the end of the drain are not waited for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(ExitCode::SUCCESS)
}

/// Returns the number of files that are open when `connections` and `flights` are both reached, plus a reserve.
fn files_needed(limits: &LimitSettings) -> u64 {
    const REST: usize = 64;
    u64::try_from(limits.connections + limits.flights + REST).unwrap_or(u64::MAX)
}

async fn serve(config: Config, upgrade: bool, program: &Program) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let hangup = signal(SignalKind::hangup())?;
    let (rules, issuers) = (config.policy.rule_ids().count(), config.issuers.len());
    let start = async { if upgrade { Server::take_over(config).await } else { Server::bind(config) } };
    let server = tokio::select! {
        server = start => server?,
        () = signals.stop() => return Ok(()),
    };
    let addresses: Vec<_> = server.addresses().iter().map(ToString::to_string).collect();
    let (version, listen, admin) = (env!("SHAPEGATE_VERSION"), addresses.join(", "), server.admin_address());
    tracing::info!(version, rules, issuers, listen, %admin, "serving");
    if !notify::is_heard() {
        tokio::spawn(announce(server.gateway()));
    }
    // In a separate task, so that a reload never delays a signal to stop. The task ends with the runtime.
    tokio::spawn(reload_at(hangup, server.reloader()));
    let upgrades = server.upgrades();
    let (stop, stopped) = oneshot::channel::<()>();
    let mut stop = Some(stop);
    let mut serving = pin!(server.run(async { drop(stopped.await) }));
    loop {
        let order = tokio::select! {
            ended = &mut serving => return ended,
            // systemd notices only when this process, the parent, has ended too, and then restarts the service.
            () = upgrades.lost() => bail!("the new process has failed and this one no longer serves: exiting immediately"),
            order = signals.next() => order,
        };
        match order {
            Order::Upgrade => upgrades.start(program.successor()),
            Order::Stop if stop.take().is_some() => {
                tracing::info!("stopping: finishing requests in flight; a second signal stops immediately");
            }
            Order::Stop => {
                tracing::warn!("second signal: stopping immediately");
                return Ok(());
            }
        }
    }
}

/// Logs what is missing for readiness, and when nothing is. Under systemd, the server does.
async fn announce(gateway: Gateway) {
    let mut said = false;
    loop {
        let missing = gateway.report().await.missing;
        if missing.is_empty() {
            break;
        }
        if !std::mem::replace(&mut said, true) {
            tracing::warn!("not ready: {}", missing.join("; "));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    tracing::info!("ready");
}

/// Reloads at each SIGHUP, one after the other. Signals during a reload cause one more.
async fn reload_at(mut hangup: Signal, reloader: Reloader) {
    while hangup.recv().await.is_some() {
        reloader.reload().await;
    }
}

/// The action that a signal requests.
enum Order {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGUSR2.
    Upgrade,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    user2: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.terminate.recv() => Order::Stop,
            _ = self.interrupt.recv() => Order::Stop,
            _ = self.user2.recv() => Order::Upgrade,
        }
    }

    /// Waits for a signal to stop, and ignores others, which are for a serving process.
    async fn stop(&mut self) {
        while !matches!(self.next().await, Order::Stop) {}
    }
}

/// How this process was started.
struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// Returns the path as it was invoked, not the file it resolves to: an upgrade puts another file there.
    fn of_this_process() -> anyhow::Result<Self> {
        let mut arguments = std::env::args_os();
        let name = PathBuf::from(arguments.next().unwrap_or_default());
        // Without a slash, the shell found the program in its PATH.
        let path = if name.components().count() > 1 { std::path::absolute(name) } else { std::env::current_exe() };
        Ok(Self { path: path.context("cannot determine the path of this program")?, arguments: arguments.collect() })
    }

    /// Returns the command that starts a process to take over from this one.
    fn successor(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(self.arguments.iter().filter(|argument| *argument != "--upgrade")).arg("--upgrade");
        command.stdin(Stdio::null());
        command
    }
}
