//! Runs the program as a service: processes that take over the same sockets one after another and share a log.

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
    /// The id of the process that currently serves.
    pub pid: u32,
    child: Child,
    log: watch::Receiver<Vec<Value>>,
    seen: usize,
}

impl Service {
    /// Writes a configuration with an upgrade socket, and `server` as additional lines of `[server]`.
    pub(crate) fn config(folder: &Path, electric: &str, issuer: &str, server: &str) -> PathBuf {
        let path = config(folder, electric, issuer);
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace("[server]\n", &format!("[server]\nupgrade_socket = \"upgrade.sock\"\n{server}\n"));
        // One test client sends as many requests as many real ones.
        let more = "[limits]\nrate_per_subject = 0\nrepeats = 0\n[log]\nformat = \"json\"\naccess = false\n";
        std::fs::write(&path, format!("{text}\n{more}")).unwrap();
        path
    }

    pub(crate) async fn start(config: &Path) -> Self {
        Self::with(shapegate(&["--config", config.to_str().unwrap()])).await
    }

    /// Starts `command` and reads the addresses from the log line `serving`.
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

    /// Waits for the next log entry, of any process, whose message starts with `text`. Entries before it are skipped.
    pub(crate) async fn line(&mut self, text: &str) -> Value {
        let entry = next_line(&mut self.log, &mut self.seen, text).await;
        entry.unwrap_or_else(|| panic!("no log entry starts with {text:?}: {:#?}", self.log.borrow()))
    }

    /// Like [`line`](Self::line), but also waits for the end of the first process, and returns its status if that
    /// comes first.
    pub(crate) async fn line_or_end(&mut self, text: &str) -> Result<Value, ExitStatus> {
        tokio::select! {
            Some(entry) = next_line(&mut self.log, &mut self.seen, text) => Ok(entry),
            status = self.child.wait() => Err(status.unwrap()),
        }
    }

    /// Returns whether any log entry so far contains `text`.
    pub(crate) fn said(&self, text: &str) -> bool {
        self.log.borrow().iter().any(|entry| entry.to_string().contains(text))
    }

    /// Sends the signal for an upgrade, and waits until the new process serves.
    pub(crate) async fn upgrade(&mut self) {
        self.signal(Signal::USR2);
        self.taken_over().await;
    }

    /// Waits until a new process serves: until the old one has handed over, and the new one takes signals. A signal
    /// before that would be ignored.
    pub(crate) async fn taken_over(&mut self) {
        let entry = self.line("a new process serves").await;
        self.pid = u32::try_from(entry["pid"].as_u64().unwrap()).unwrap();
        let count = |log: &[Value], start: &str| {
            log.iter()
                .filter(|entry| entry["message"].as_str().is_some_and(|message| message.starts_with(start)))
                .count()
        };
        // Each process logs the one, and each one that has handed over the other.
        let serving = self.log.wait_for(|log| count(log, "serving") > count(log, "a new process serves")).await;
        assert!(serving.is_ok(), "the new process does not serve");
    }

    /// Sends a signal to the process that currently serves.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid(self.pid), signal).unwrap();
    }

    /// Waits for the first process and returns its exit status.
    pub(crate) async fn first_ended(&mut self) -> ExitStatus {
        self.child.wait().await.unwrap()
    }

    /// Waits until the current process has ended. The status is 0 unless this test started the process: only a parent
    /// can wait for a process.
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

/// Waits for the next entry whose message starts with `text`; `None` if the log ends before.
async fn next_line(log: &mut watch::Receiver<Vec<Value>>, seen: &mut usize, text: &str) -> Option<Value> {
    loop {
        let entries = log.borrow_and_update().clone();
        while let Some(entry) = entries.get(*seen) {
            *seen += 1;
            let message = entry["message"].as_str().or(entry.as_str()).unwrap_or_default();
            if message.starts_with(text) {
                return Some(entry.clone());
            }
        }
        log.changed().await.ok()?;
    }
}

fn pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

/// Returns whether a process runs. A zombie, which its parent has not waited for, counts as ended.
fn is_running(process: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    test_kill_process(pid(process)).is_ok() && !state.rsplit(')').next().unwrap_or_default().starts_with(" Z")
}
