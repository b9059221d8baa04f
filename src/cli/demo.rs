//! `shapegate demo`: runs everything embedded, on loopback.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::Usage;
use crate::config::{Config, Environment};
use crate::demo::scene::{AUDIENCE, SECRET, Scene};
use crate::server::Server;
use crate::telemetry;

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Address to listen on; loopback only, because the demo gives tokens to anyone
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

impl Demo {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        if !self.listen.ip().is_loopback() {
            return Err(Usage("--listen: choose a loopback address, because the demo gives tokens to anyone").into());
        }
        super::runtime(2)?.block_on(self.serve())?;
        Ok(ExitCode::SUCCESS)
    }

    async fn serve(&self) -> anyhow::Result<()> {
        let desk = Scene::server().await?;
        // The page needs shapegate's port and shapegate's configuration the page's: bind one, then the other.
        let reserved = std::net::TcpListener::bind(self.listen)
            .with_context(|| format!("cannot listen on {}; try --listen 127.0.0.1:0", self.listen))?;
        let listen = reserved.local_addr()?;
        drop(reserved);
        let shape_url = format!("http://{listen}/v1/shape");
        let scene = Scene::start(desk, shape_url.clone()).await?;
        let config = config(&scene, listen)?;
        telemetry::init_logging(&config.log)?;
        let server = Server::bind(config)?;
        let (admin, gateway) = (server.admin_address(), server.gateway());
        let write = async {
            for number in 1_u64.. {
                if number > FIRST_ROWS {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                }
                scene.write_row(number);
            }
        };
        let welcome = async {
            while !gateway.report().await.missing.is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            greet(&scene, &shape_url, admin).await?;
            std::future::pending::<anyhow::Result<()>>().await
        };
        tokio::select! {
            served = server.run(async { drop(tokio::signal::ctrl_c().await) }) => served,
            () = write => bail!("the demo ran out of row numbers"),
            failed = welcome => failed,
        }
    }
}

/// The number of rows at the start.
const FIRST_ROWS: u64 = 6;

fn config(scene: &Scene, listen: SocketAddr) -> anyhow::Result<Config> {
    let (issuer, electric) = (scene.issuer_url(), scene.electric_url());
    let text = format!(
        r#"
[server]
listen = "{listen}"
admin = "127.0.0.1:0"
drain = "1s"

[upstream]
url = "{electric}"
secret = {{ env = "ELECTRIC_SECRET" }}

[[issuer]]
issuer = "{issuer}"
audience = "{AUDIENCE}"
algorithms = ["EdDSA"]
jwks = {{ url = "{issuer}/jwks" }}

[[shape]]
table = "tasks"
allow = "query.organizationId in claims.organizationIds"
where = '"organization_id" = {{{{ query.organizationId }}}}'

[log]
level = "warn"
"#
    );
    Ok(Config::parse(&text, Path::new("demo.toml"), &Environment::from([("ELECTRIC_SECRET", SECRET)]))?)
}

/// Prints the URLs and commands to try, once they work.
async fn greet(scene: &Scene, shape_url: &str, admin: SocketAddr) -> anyhow::Result<()> {
    let desk = scene.issuer_url();
    let live = live_query(desk, shape_url).await?;
    let ask = |query: &str, token: Option<&str>| {
        let bearer = token
            .map_or(String::new(), |token| format!(" -H \"Authorization: Bearer $(curl -s {desk}/token/{token})\""));
        format!("curl -si '{shape_url}?{query}'{bearer}")
    };
    let org = |number: u8| format!("table=tasks&organizationId=org-{number}&offset=-1");
    super::say(format_args!(
        "shapegate demo: a row is written every three seconds, alternately for org-1 and org-2\n"
    ))?;
    super::say(format_args!("page: {desk}/"))?;
    super::say(format_args!("metrics: http://{admin}/metrics\n"))?;
    super::say(format_args!(
        "The rows of org-1, and those of org-2:\n  {}\n  {}",
        ask(&org(1), Some("org-1")),
        ask(&org(2), Some("org-2"))
    ))?;
    super::say(format_args!("The rows of org-2 with a token of org-1 (403):\n  {}", ask(&org(2), Some("org-1"))))?;
    super::say(format_args!("Without a token (401):\n  {}", ask(&org(1), None)))?;
    super::say(format_args!("A live poll, which waits for the next row of org-1:\n  {}", ask(&live, Some("org-1"))))?;
    super::say(format_args!("\nStop with Ctrl-C."))?;
    Ok(())
}

/// Returns the query of a live poll at the end of org-1's log, as a client that has caught up sends it.
async fn live_query(desk: &str, shape_url: &str) -> anyhow::Result<String> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let token = client.get(format!("{desk}/token/org-1")).send().await?.text().await?;
    let query = "table=tasks&organizationId=org-1";
    let answer = client.get(format!("{shape_url}?{query}&offset=now")).bearer_auth(token).send().await?;
    let header = |name: &str| {
        let value = answer.headers().get(name).and_then(|value| value.to_str().ok());
        value
            .map(str::to_owned)
            .with_context(|| format!("the response to the demo's own request has no {name}: {}", answer.status()))
    };
    let (handle, offset) = (header("electric-handle")?, header("electric-offset")?);
    Ok(format!("{query}&handle={handle}&offset={offset}&live=true"))
}
