//! The program as a service: one process after the other on the same sockets, with what all of them log.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::{config, shapegate};

/// A running shapegate that can be upgraded.
pub(crate) struct Service {
    pub url: String,
    pub admin: String,
    /// The process that serves.
    pub pid: u32,
    child: Child,
    log: watch::Receiver<Vec<Value>>,
    seen: usize,
}

impl Service {
    /// A configuration with an upgrade socket; `server` is more of `[server]`.
    pub(crate) fn config(folder: &Path, electric: &str, issuer: &str, server: &str) -> PathBuf {
        let path = config(folder, electric, issuer);
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace("[server]\n", &format!("[server]\nupgrade_socket = \"upgrade.sock\"\n{server}\n"));
        // One client asks here what many do.
        let more = "[limits]\nrate_per_subject = 0\nrepeats = 0\n[log]\nformat = \"json\"\naccess = false\n";
        std::fs::write(&path, format!("{text}\n{more}")).unwrap();
        path
    }

    pub(crate) async fn start(config: &Path) -> Self {
        Self::with(shapegate(&["--config", config.to_str().unwrap()])).await
    }

    /// Starts `command`, and reads the addresses from the line that says so.
    pub(crate) async fn with(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (entries, log) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let entry = serde_json::from_str(&line).unwrap_or(Value::String(line));
                entries.send_modify(|entries| entries.push(entry));
            }
        });
        let pid = child.id().unwrap();
        let mut service = Self { url: String::new(), admin: String::new(), pid, child, log, seen: 0 };
        let serving = service.line("serving").await;
        let url = |name: &str| format!("http://{}", serving[name].as_str().unwrap());
        (service.url, service.admin) = (url("listen"), url("admin"));
        service
    }

    /// The next line of any of the processes whose message starts with `text`; those before it are passed over.
    pub(crate) async fn line(&mut self, text: &str) -> Value {
        loop {
            let log = self.log.borrow_and_update().clone();
            while let Some(entry) = log.get(self.seen) {
                self.seen += 1;
                let message = entry["message"].as_str().or(entry.as_str()).unwrap_or_default();
                if message.starts_with(text) {
                    return entry.clone();
                }
            }
            assert!(self.log.changed().await.is_ok(), "nobody says {text:?}: {log:#?}");
        }
    }

    /// Whether any of the processes has said `text` so far, wherever in a line.
    pub(crate) fn said(&self, text: &str) -> bool {
        self.log.borrow().iter().any(|entry| entry.to_string().contains(text))
    }

    /// Sends the signal for an upgrade, and waits for the process that serves from then on.
    pub(crate) async fn upgrade(&mut self) {
        self.signal(Signal::USR2);
        self.taken_over().await;
    }

    /// Waits for the process that serves from then on.
    pub(crate) async fn taken_over(&mut self) {
        let entry = self.line("a new process serves").await;
        self.pid = u32::try_from(entry["pid"].as_u64().unwrap()).unwrap();
    }

    /// To the process that serves.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid(self.pid), signal).unwrap();
    }

    /// How the first process has ended.
    pub(crate) async fn first_ended(&mut self) -> ExitStatus {
        self.child.wait().await.unwrap()
    }

    /// Waits until the process that serves has ended. One that was not started here is not ours to wait for.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        if self.child.id() == Some(self.pid) {
            return self.first_ended().await;
        }
        while is_running(self.pid) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        ExitStatus::from_raw(0)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = kill_process(pid(self.pid), Signal::KILL);
        if std::thread::panicking() {
            self.log.borrow().iter().for_each(|entry| eprintln!("{entry}"));
        }
    }
}

fn pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

/// A process whose parent has not asked for its end counts as ended.
fn is_running(process: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    test_kill_process(pid(process)).is_ok() && !state.rsplit(')').next().unwrap_or_default().starts_with(" Z")
}
