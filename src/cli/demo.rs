//! `shapegate demo`: runs everything embedded, on loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::mpsc;

use super::Usage;
use crate::demo::scene::{self, RULE, Running, SECRET, Scene, Settings};
use crate::proxy::Gateway;
use crate::server::Server;
use crate::telemetry;

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Address to listen on; loopback only, because the demo gives tokens to anyone [default: 127.0.0.1:8080, or a
    /// free port if that is taken]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Use your own Electric instead of the stand-in; its secret is read from ELECTRIC_SECRET
    #[arg(long, value_name = "URL")]
    electric: Option<String>,
}

impl Demo {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        if self.listen.is_some_and(|listen| !listen.ip().is_loopback()) {
            return Err(Usage("--listen: choose a loopback address, because the demo gives tokens to anyone").into());
        }
        super::runtime(2)?.block_on(self.serve())?;
        Ok(ExitCode::SUCCESS)
    }

    async fn serve(&self) -> anyhow::Result<()> {
        raise_file_limit();
        let scene = Scene::start(self.electric.clone()).await.context("cannot start the issuer or the stand-in")?;
        let settings = self.settings(&scene);
        let config = settings.with(RULE)?;
        telemetry::init_logging(&config.log)?;
        let server = Server::bind(config)
            .with_context(|| format!("cannot listen on {}; try --listen 127.0.0.1:0", settings.listen))?;
        let [listen, ..] = &server.addresses()[..] else { anyhow::bail!("no address to listen on") };
        let (admin, gateway) = (server.admin_address(), server.gateway());
        let desk = scene::bind(if self.listen.is_some() { 0 } else { PAGE_PORT }).await?;
        let page = desk.local_addr()?;
        let (told, mut lines) = mpsc::unbounded_channel();
        let shape_url = format!("http://{listen}/v1/shape");
        let running = Running { shape_url: shape_url.clone(), admin, reloader: server.reloader(), settings, told };
        let _show = scene.show(desk, running)?;
        let talk = async {
            until_ready(&gateway).await?;
            greet(page, &shape_url, admin, self.electric.is_some())?;
            while let Some(line) = lines.recv().await {
                super::say(format_args!("{line}"))?;
            }
            anyhow::Ok(())
        };
        tokio::select! {
            served = server.run(async { drop(tokio::signal::ctrl_c().await) }) => served,
            failed = talk => failed,
        }
    }

    /// Returns the configuration with the default ports, or free ones if they are taken or `--listen` is given.
    fn settings(&self, scene: &Scene) -> Settings {
        let or_free = |port| match self.listen {
            None if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() => port,
            _ => 0,
        };
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, or_free(port)));
        let secret = self.electric.as_ref().and_then(|_| std::env::var("ELECTRIC_SECRET").ok());
        Settings {
            listen: self.listen.unwrap_or_else(|| loopback(LISTEN_PORT)),
            admin: loopback(ADMIN_PORT),
            issuer: scene.issuer_url().to_owned(),
            electric: scene.electric_url().to_owned(),
            secret: secret.unwrap_or_else(|| SECRET.to_owned()),
        }
    }
}

/// The default ports of shapes, page and metrics.
const LISTEN_PORT: u16 = 8080;
const PAGE_PORT: u16 = 8081;
const ADMIN_PORT: u16 = 9090;

/// Raises the limit of open files, of which each of the demo's clients needs two.
fn raise_file_limit() {
    const WANTED: u64 = 8192;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(WANTED, |maximum| maximum.min(WANTED));
    if current.is_some_and(|current| current < wanted) {
        // If it fails, the demo has room for fewer clients.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}

/// Waits until shapegate is ready, and says what is missing if that takes long.
async fn until_ready(gateway: &Gateway) -> std::io::Result<()> {
    for round in 0.. {
        let missing = gateway.report().await.missing;
        if missing.is_empty() {
            break;
        }
        if round == 40 {
            super::say(format_args!("not ready: {}", missing.join("; ")))?;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Prints the URLs and commands to try, once they work.
fn greet(page: SocketAddr, shape_url: &str, admin: SocketAddr, own_electric: bool) -> std::io::Result<()> {
    let desk = format!("http://{page}");
    let ask = |query: &str, token: Option<&str>| {
        let bearer = token
            .map_or(String::new(), |token| format!(" -H \"Authorization: Bearer $(curl -s {desk}/token/{token})\""));
        format!("curl -si \"{shape_url}?{query}\"{bearer}")
    };
    let org = |number: u8| format!("table=tasks&organizationId=org-{number}&offset=-1");
    super::say(format_args!("shapegate demo\n\npage: {desk}/\nmetrics: http://{admin}/metrics\n"))?;
    if own_electric {
        super::say(format_args!("{TABLE}"))?;
    }
    super::say(format_args!(
        "The rows of org-1, and those of org-2:\n  {}\n  {}",
        ask(&org(1), Some("org-1")),
        ask(&org(2), Some("org-2"))
    ))?;
    super::say(format_args!("The rows of org-2 with a token of org-1 (403):\n  {}", ask(&org(2), Some("org-1"))))?;
    super::say(format_args!("Without a token (401):\n  {}", ask(&org(1), None)))?;
    let live = format!("$(curl -s {desk}/live)");
    super::say(format_args!("A live poll, which waits for the next row of org-1:\n  {}", ask(&live, Some("org-1"))))?;
    super::say(format_args!("\nStop with Ctrl-C.\n"))
}

/// What the demo expects of the user's own database.
const TABLE: &str = "It serves this table of your Postgres; write rows for org-1 and org-2:
  CREATE TABLE tasks (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), organization_id text NOT NULL, title text);
  INSERT INTO tasks (organization_id, title) VALUES ('org-1', 'Water the plants');
";
