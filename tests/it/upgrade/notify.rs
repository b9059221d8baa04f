//! Notifications to systemd (sd_notify(3)).

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use shapegate::demo::electric::Options;
use tokio::net::UnixDatagram;

use super::{Around, status};
use crate::harness::{Service, shapegate};

/// The listening side, as systemd has it.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn listen(path: &Path) -> Self {
        Self { socket: UnixDatagram::bind(path).unwrap() }
    }

    /// Waits for the next message in which a line starts with `start`, and returns its variables.
    async fn hears(&self, start: &str) -> HashMap<String, String> {
        let mut bytes = [0; 4096];
        loop {
            let length = self.socket.recv(&mut bytes).await.unwrap();
            let message = std::str::from_utf8(&bytes[..length]).unwrap();
            if message.lines().any(|line| line.starts_with(start)) {
                let lines = message.lines().map(|line| line.split_once('=').unwrap());
                return lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            }
        }
    }

    /// Reads pending messages until a line starts with `start`; returns whether one did.
    fn heard(&self, start: &str) -> bool {
        let mut bytes = [0; 4096];
        while let Ok(length) = self.socket.try_recv(&mut bytes) {
            if std::str::from_utf8(&bytes[..length]).unwrap().lines().any(|line| line.starts_with(start)) {
                return true;
            }
        }
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_notified_of_start_upgrade_and_stop() {
    let around = Around::start(Options::default()).await;
    let config = around.config("drain = \"7s\"");
    let path = around.folder.path().join("notify");
    let manager = Manager::listen(&path);
    let mut command = shapegate(&["--config", config.to_str().unwrap()]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000").env_remove("WATCHDOG_PID");
    around.issuer.set_up(false);
    let mut service = Service::with(command).await;
    let missing = manager.hears("STATUS=not ready").await;
    assert!(missing["STATUS"].contains("no usable keys") && !missing.contains_key("READY"), "{missing:?}");
    // It serves and feeds the watchdog before it is ready.
    manager.hears("WATCHDOG=1").await;
    assert_eq!(status(&service.url, &around.token(1)).await, 503);
    assert!(!manager.heard("READY=1"));
    around.issuer.set_up(true);
    let ready = manager.hears("READY=1").await;
    assert!(ready["STATUS"].starts_with("serving on 127.0.0.1:"), "{ready:?}");

    service.signal(Signal::USR2);
    let reloading = manager.hears("RELOADING=1").await;
    assert!(reloading["MONOTONIC_USEC"].parse::<u64>().unwrap() > 0);
    let handed = manager.hears("MAINPID=").await;
    service.pid = handed["MAINPID"].parse().unwrap();
    assert_eq!(handed["READY"], "1");
    assert!(std::fs::read_to_string(format!("/proc/{}/cmdline", service.pid)).unwrap().contains("--upgrade"));
    assert_eq!(service.first_ended().await.code(), Some(0));
    // The old process has ended, so the new one feeds the watchdog.
    while manager.heard("") {}
    manager.hears("WATCHDOG=1").await;

    service.signal(Signal::TERM);
    let stopping = manager.hears("STOPPING=1").await;
    assert_eq!(stopping["EXTEND_TIMEOUT_USEC"], "12000000");
    service.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_notified_of_a_failed_upgrade_and_foreign_processes_are_rejected() {
    let around = Around::start(Options::default()).await;
    let config = around.config("");
    let path = around.folder.path().join("notify");
    let manager = Manager::listen(&path);
    let mut command = shapegate(&["--config", config.to_str().unwrap()]);
    command.env("NOTIFY_SOCKET", &path);
    let mut service = Service::with(command).await;
    manager.hears("READY=1").await;
    assert!(!manager.heard("WATCHDOG"), "the unit has no watchdog");
    // A process outside the unit, which systemd would not accept as its main process.
    let stranger = shapegate(&["--config", config.to_str().unwrap(), "--upgrade"]).output().await.unwrap();
    let said = String::from_utf8(stranger.stderr).unwrap();
    assert!(stranger.status.code() == Some(1) && said.contains("systemctl kill -s SIGUSR2"), "{said}");
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, "nonsense").unwrap();
    service.signal(Signal::USR2);
    manager.hears("RELOADING=1").await;
    let failed = manager.hears("READY=1").await;
    assert!(failed["STATUS"].contains("the last upgrade failed") && !failed.contains_key("MAINPID"), "{failed:?}");
    std::fs::write(&config, good).unwrap();
    service.upgrade().await;
    assert_eq!(status(&service.url, &around.token(1)).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn suspended_process_sends_no_watchdog_messages() {
    let around = Around::start(Options::default()).await;
    let config = around.config("");
    let path = around.folder.path().join("notify");
    let manager = Manager::listen(&path);
    let mut command = shapegate(&["--config", config.to_str().unwrap()]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let service = Service::with(command).await;
    manager.hears("WATCHDOG=1").await;
    service.signal(Signal::STOP);
    while tokio::time::timeout(Duration::from_secs(1), manager.hears("WATCHDOG=1")).await.is_ok() {}
    service.signal(Signal::CONT);
    manager.hears("WATCHDOG=1").await;
}
