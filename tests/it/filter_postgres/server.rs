//! Starts a Postgres for one test, on a socket in a temporary folder.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use postgres::{Client, Config, NoTls};
use tempfile::TempDir;

/// The user that Debian's package creates. Postgres does not run as root.
const USER: &str = "postgres";

/// A running Postgres. Dropping it stops the server and removes its files.
pub(super) struct Postgres {
    folder: TempDir,
    child: Child,
}

impl Postgres {
    /// Starts a server; `None` if no Postgres is installed.
    pub(super) fn start() -> Option<Self> {
        let programs = newest_programs()?;
        let folder = TempDir::new().unwrap();
        if let Some((user, group)) = other_user() {
            chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        let data = folder.path().join("data");
        let made = unprivileged(&programs.join("initdb"))
            .args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--username=postgres", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let child = unprivileged(&programs.join("postgres"))
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(folder.path())
            // The port only names the socket; nothing listens on TCP.
            .args(["-p", "5432", "-c", "listen_addresses="])
            .args(["-c", "fsync=off", "-c", "autovacuum=off", "-c", "jit=off", "-c", "log_min_messages=fatal"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { folder, child })
    }

    /// Connects as superuser, and waits until the server accepts the connection.
    pub(super) fn connect(&mut self) -> Client {
        loop {
            match Config::new().host_path(self.folder.path()).user("postgres").dbname("postgres").connect(NoTls) {
                Ok(client) => return client,
                Err(error) => assert!(self.child.try_wait().unwrap().is_none(), "Postgres does not run: {error}"),
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // An immediate shutdown, since the files are deleted anyway.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        let _ = self.child.wait();
    }
}

/// Returns the folder with the programs of the newest version.
fn newest_programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let programs = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    programs
        .filter(|programs| programs.join("postgres").exists())
        .max_by_key(|programs| programs.parent()?.file_name()?.to_str()?.parse::<u32>().ok())
}

/// Returns a command that runs `program` as another user than root, and ends it with this thread.
fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if other_user().is_some() {
        command.args(["--reuid", USER, "--regid", USER, "--clear-groups"]);
    }
    command.arg("--").arg(program).current_dir("/").env("TZ", "UTC");
    command
}

/// Returns the user id and group id of [`USER`]; `None` if the test does not run as root.
fn other_user() -> Option<(u32, u32)> {
    let id = |which: &str| {
        let output = Command::new("id").args([which, USER]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().expect("the user postgres")
    };
    rustix::process::getuid().is_root().then(|| (id("-u"), id("-g")))
}
