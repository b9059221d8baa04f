//! The servers that are compared, each started as an operator would start it.

use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::floor::{LISTENING, METRICS};
use crate::http::Connection;
use crate::pass_through::LISTENING as PASS_THROUGH;
use crate::process::{Process, Usage};
use crate::target::Target;

/// A server under load.
pub(crate) struct Server {
    pub name: &'static str,
    pub target: Target,
    /// The address that reports how many requests it is answering.
    metrics: Option<SocketAddr>,
    id: Option<u32>,
    _process: Option<Process>,
}

impl Server {
    /// Starts a build of the program with this configuration; `target` is given its address.
    pub(crate) fn shapegate(build: &Build, config: &Path, secret: &str, target: Target) -> anyhow::Result<Self> {
        let mut command = Command::new(&build.program);
        command.arg("--config").arg(config).env("ELECTRIC_SECRET", secret).env_remove("RUST_LOG");
        let serving = |line: &str| {
            let entry: Value = serde_json::from_str(line).ok()?;
            let address = |name: &str| entry[name].as_str()?.parse::<SocketAddr>().ok();
            Some((address("listen")?, address("admin")?))
        };
        let trouble = |line: &str| line.contains(r#""level":"ERROR""#);
        let (process, (address, admin)) = Process::start_and_read(&mut command, serving, trouble)?;
        Ok(Self::new(build.name, Target { address, ..target }, process).with_metrics(admin))
    }

    /// Starts bare Pingora: this bench, run as another process. It passes requests on, or answers them with the body in a
    /// file.
    pub(crate) async fn pingora(threads: usize, source: &FloorSource, target: Target) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["pass-through", "--threads", &threads.to_string()]);
        source.pass_to(&mut command);
        let listening = |line: &str| line.strip_prefix(PASS_THROUGH)?.trim().parse::<SocketAddr>().ok();
        let (mut process, address) = Process::start_and_read(&mut command, listening, |_| true)?;
        while Connection::open(address).await.is_err() {
            if process.has_ended() {
                bail!("the pass-through ended at its start");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(Self::new("pingora", Target { address, ..target }, process))
    }

    /// Starts the floor: this bench, run as another process.
    pub(crate) fn floor(threads: usize, source: &FloorSource, target: Target) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["floor-server", "--threads", &threads.to_string()]);
        source.pass_to(&mut command);
        let listening = |line: &str| line.strip_prefix(LISTENING)?.trim().parse::<SocketAddr>().ok();
        let (process, address) = Process::start_and_read(&mut command, listening, |_| true)?;
        Ok(Self::new("floor", Target { address, ..target }, process).with_metrics(address))
    }

    /// Starts nginx as a plain reverse proxy in front of `upstream`.
    pub(crate) async fn nginx(
        folder: &Path,
        workers: usize,
        upstream: SocketAddr,
        target: Target,
    ) -> anyhow::Result<Self> {
        // Given port 0, nginx cannot report the port that it got.
        let address = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let (conf, errors) = (folder.join("nginx.conf"), folder.join("nginx-error.log"));
        fs::write(&conf, nginx_conf(folder, workers, address, upstream)?)?;
        // Debian keeps it in a folder that is only in root's path.
        let program = ["/usr/sbin/nginx", "/usr/local/sbin/nginx"].into_iter().find(|path| Path::new(path).exists());
        let mut command = Command::new(program.unwrap_or("nginx"));
        command.arg("-c").arg(&conf).arg("-p").arg(folder).arg("-e").arg(&errors).stderr(Stdio::null());
        let started = Process::start(&mut command);
        let mut process = started.context("--compare nginx needs nginx; Debian has it in the package nginx-light")?;
        while Connection::open(address).await.is_err() {
            if process.has_ended() {
                bail!("nginx exited at its start:\n{}", fs::read_to_string(&errors).unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(Self::new("nginx", Target { address, ..target }, process))
    }

    /// Uses a server that runs already.
    pub(crate) const fn running(target: Target, id: Option<u32>) -> Self {
        Self { name: "target", target, metrics: None, id, _process: None }
    }

    fn new(name: &'static str, target: Target, process: Process) -> Self {
        Self { name, target, metrics: None, id: Some(process.id()), _process: Some(process) }
    }

    fn with_metrics(self, address: SocketAddr) -> Self {
        Self { metrics: Some(address), ..self }
    }

    /// Returns its usage so far, if its process is known.
    pub(crate) fn usage(&self) -> anyhow::Result<Option<Usage>> {
        self.id.map(Usage::of).transpose()
    }

    /// Returns how many requests it is answering, if it reports that.
    pub(crate) async fn in_flight(&self) -> anyhow::Result<Option<usize>> {
        let Some(address) = self.metrics else { return Ok(None) };
        let request = format!("GET {METRICS} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        let answer = Connection::open(address).await?.ask(request.as_bytes()).await?;
        let page = std::str::from_utf8(&answer.body)?;
        let mut samples = page.lines().filter_map(|line| line.split_once(' '));
        let (_, value) = samples
            .find(|(name, _)| name.ends_with("_requests_in_flight"))
            .context("no metric of requests in flight")?;
        Ok(Some(value.parse().context("requests in flight")?))
    }
}

/// A build of the program.
pub(crate) struct Build {
    pub name: &'static str,
    pub program: PathBuf,
}

impl Build {
    /// The one that cargo has made for this bench.
    pub(crate) fn current() -> Self {
        Self { name: "shapegate", program: env!("CARGO_BIN_EXE_shapegate").into() }
    }

    pub(crate) const fn other(program: PathBuf) -> Self {
        Self { name: "against", program }
    }
}

/// Where the floor and bare Pingora get their responses.
pub(crate) enum FloorSource {
    /// Always this file: the whole response for the floor, the body for Pingora.
    Answer(PathBuf),
    /// This server.
    Upstream(SocketAddr),
}

impl FloorSource {
    fn pass_to(&self, command: &mut Command) {
        match self {
            Self::Answer(file) => command.arg("--answer").arg(file),
            Self::Upstream(address) => command.args(["--upstream", &address.to_string()]),
        };
    }
}

fn nginx_conf(folder: &Path, workers: usize, listen: SocketAddr, upstream: SocketAddr) -> anyhow::Result<String> {
    let mut conf = String::new();
    // As root, nginx would run its workers as a user that may have no access to the folder.
    if rustix::process::geteuid().is_root() {
        conf.push_str("user root;\n");
    }
    write!(conf, "daemon off;\nworker_processes {workers};\npid {}/nginx.pid;\n", folder.display())?;
    conf.push_str("events { worker_connections 16384; }\nhttp {\n  access_log off;\n  tcp_nodelay on;\n");
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(conf, "  {kind}_temp_path {}/nginx-{kind};", folder.display())?;
    }
    write!(
        conf,
        r#"  upstream floor {{ server {upstream}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen {listen};
    keepalive_requests 1000000000;
    location / {{
      proxy_pass http://floor;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}
}}
"#
    )?;
    Ok(conf)
}
