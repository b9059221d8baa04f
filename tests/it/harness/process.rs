//! Starts the program as a process.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::{AUDIENCE, RULES, SECRET};

pub(crate) fn shapegate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shapegate"));
    command.args(arguments).env("ELECTRIC_SECRET", SECRET).kill_on_drop(true);
    command
}

/// Writes a configuration with this Electric and this issuer to `folder`, and returns its path.
pub(crate) fn config(folder: &Path, electric: &str, issuer: &str) -> PathBuf {
    let path = folder.join("shapegate.toml");
    let config = format!(
        r#"
[server]
listen = "127.0.0.1:0"
admin = "127.0.0.1:0"
[upstream]
url = "{electric}"
secret = {{ env = "ELECTRIC_SECRET" }}
[[issuer]]
issuer = "{issuer}"
audience = "{AUDIENCE}"
algorithms = ["EdDSA"]
jwks = {{ url = "{issuer}/jwks" }}
{RULES}"#
    );
    std::fs::write(&path, config).unwrap();
    path
}

/// A running shapegate whose JSON log is collected.
pub(crate) struct Process {
    pub url: String,
    pub admin: String,
    child: Child,
    log: JoinHandle<Vec<String>>,
}

impl Process {
    /// Starts it and reads its addresses from the log line `serving`.
    pub(crate) async fn start(config: &Path) -> Self {
        Self::launch(&[], config).await
    }

    /// Starts it through `launcher`, a command that executes the command given after it.
    pub(crate) async fn launch(launcher: &[&str], config: &Path) -> Self {
        let arguments = ["--config", config.to_str().unwrap()];
        let mut command = match launcher {
            [] => shapegate(&arguments),
            [program, first @ ..] => {
                let mut command = Command::new(program);
                command.args(first).arg(env!("CARGO_BIN_EXE_shapegate")).args(arguments);
                command.env("ELECTRIC_SECRET", SECRET).kill_on_drop(true);
                command
            }
        };
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = Vec::new();
        let serving: Value = loop {
            let line = lines.next_line().await.unwrap();
            let line = line.unwrap_or_else(|| panic!("no log line `serving`: {log:#?}"));
            log.push(line.clone());
            match serde_json::from_str::<Value>(&line) {
                Ok(entry) if entry["message"] == "serving" => break entry,
                _ => {}
            }
        };
        let url = |name: &str| format!("http://{}", serving[name].as_str().unwrap());
        Self {
            url: url("listen"),
            admin: url("admin"),
            child,
            log: tokio::spawn(async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    log.push(line);
                }
                log
            }),
        }
    }

    /// Sends a signal, named as for `kill`: `HUP`.
    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().await.unwrap().success());
    }

    /// Returns its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Stops it with SIGTERM and returns the log.
    pub(crate) async fn stop(mut self) -> Vec<String> {
        let pid = self.child.id().unwrap().to_string();
        let kill = Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
        assert!(kill.success() && self.child.wait().await.unwrap().success());
        self.log.await.unwrap()
    }
}
