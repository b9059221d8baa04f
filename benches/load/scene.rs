//! What the servers need: a stand-in for Electric, an issuer and its tokens; or a server that runs already.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::{Value, json};
use shapegate::clock::{Clock, SystemClock};
use shapegate::demo::electric::{Change, Column, Electric, Options};
use shapegate::demo::http::Limits;
use shapegate::demo::issuer::Issuer;
use tempfile::TempDir;

use crate::floor::whole;
use crate::options::Common;
use crate::server::{Build, FloorSource, Server};
use crate::target::Target;

/// Where the load goes.
pub(crate) enum Scene {
    /// To servers that the bench starts.
    Embedded(Box<Stage>),
    /// To a server that runs already, with its process if that is known.
    Running(Target, Option<u32>),
}

/// The parts that run in the process of the bench.
pub(crate) struct Stage {
    electric: Electric,
    tokens: Vec<String>,
    threads: usize,
    row_bytes: usize,
    rows: AtomicU64,
    folder: TempDir,
    builds: Vec<Build>,
    h2c: bool,
}

impl Scene {
    /// Builds the scene that the options describe. A stage has `rows` rows, and serves HTTP/2 if `h2c` is set.
    pub(crate) async fn open(common: &Common, rows: u64, h2c: bool) -> anyhow::Result<Self> {
        match common.running.target()? {
            Some(target) => Ok(Self::Running(target, common.running.pid)),
            None => Ok(Self::Embedded(Box::new(Stage::start(common, rows, h2c).await?))),
        }
    }

    /// Makes a change that reaches every waiting client. Does nothing with a server that runs already.
    pub(crate) fn change(&self) -> anyhow::Result<()> {
        match self {
            Self::Embedded(stage) => stage.insert(1),
            Self::Running(..) => Ok(()),
        }
    }

    /// Returns the requests that the stand-in has received.
    pub(crate) fn upstream_requests(&self) -> Option<usize> {
        match self {
            Self::Embedded(stage) => Some(stage.electric.request_count()),
            Self::Running(..) => None,
        }
    }

    /// Drops all shapes, as a change of the table does. Does nothing with a server that runs already.
    pub(crate) fn drop_shapes(&self) {
        if let Self::Embedded(stage) = self {
            stage.electric.delete_shapes_of("tasks");
        }
    }

    /// Returns how many rows there are; 0 with a server that runs already.
    pub(crate) fn rows(&self) -> u64 {
        match self {
            Self::Embedded(stage) => stage.rows.load(Ordering::Relaxed),
            Self::Running(..) => 0,
        }
    }

    /// Returns how many requests wait at the stand-in.
    pub(crate) fn upstream_waiting(&self) -> Option<usize> {
        match self {
            Self::Embedded(stage) => Some(stage.electric.waiting()),
            Self::Running(..) => None,
        }
    }

    /// Starts the servers of a round with waiting clients: shapegate and the floor, or the one that runs already.
    pub(crate) fn starts(&self, floor: bool) -> Vec<Box<dyn Fn() -> anyhow::Result<Server> + '_>> {
        match self {
            Self::Embedded(stage) => {
                let mut starts: Vec<Box<dyn Fn() -> anyhow::Result<Server>>> = Vec::new();
                for build in &stage.builds {
                    starts.push(Box::new(|| stage.shapegate(build, stage.electric.addr())));
                }
                if floor {
                    starts.push(Box::new(|| stage.floor(&FloorSource::Upstream(stage.electric.addr()))));
                }
                starts
            }
            Self::Running(target, id) => vec![Box::new(|| Ok(Server::running(target.clone(), *id)))],
        }
    }
}

impl Stage {
    async fn start(common: &Common, rows: u64, h2c: bool) -> anyhow::Result<Self> {
        let limits = Limits { connections: usize::MAX, ..Limits::default() };
        let electric = Electric::start(Options { secret: SECRET.to_owned(), hold: HOLD, limits, ..Options::default() });
        let electric = electric.await?;
        electric.create_table(
            "tasks",
            vec![
                Column::new("id", "uuid").not_null().primary_key(0),
                Column::new("organization_id", "text").not_null(),
                Column::new("title", "text"),
            ],
        );
        let issuer = Issuer::new(ISSUER).map_err(|_| anyhow!("cannot generate a key: the system has no randomness"))?;
        let folder = tempfile::Builder::new().prefix("shapegate-load-").tempdir()?;
        fs::write(folder.path().join("keys.json"), issuer.jwks().to_string())?;
        let tokens = (0..common.users.get()).map(|user| issuer.sign(&claims(user))).collect();
        let (threads, row_bytes) = (common.threads(), common.row_bytes);
        let mut builds = vec![Build::current()];
        builds.extend(common.against.clone().map(Build::other));
        let stage = Self { electric, tokens, threads, row_bytes, rows: AtomicU64::new(0), folder, builds, h2c };
        stage.insert(rows)?;
        Ok(stage)
    }

    /// Every build, in front of `electric`.
    pub(crate) fn all_builds(&self, electric: SocketAddr) -> anyhow::Result<Vec<Server>> {
        self.builds.iter().map(|build| self.shapegate(build, electric)).collect()
    }

    /// The address of the stand-in for Electric.
    pub(crate) fn electric(&self) -> SocketAddr {
        self.electric.addr()
    }

    fn shapegate(&self, build: &Build, electric: SocketAddr) -> anyhow::Result<Server> {
        let config = self.folder.path().join("shapegate.toml");
        fs::write(&config, configuration(electric, self.threads, self.h2c))?;
        Server::shapegate(build, &config, SECRET, self.target(QUERY, self.tokens.clone()))
    }

    /// A bare Pingora that passes requests on to `upstream`.
    pub(crate) async fn pingora(&self, upstream: &Server) -> anyhow::Result<Server> {
        let source = FloorSource::Upstream(upstream.target.address);
        Server::pingora(self.threads, &source, self.upstream_target()).await
    }

    /// A bare Pingora that answers every request with `body`.
    pub(crate) async fn answering_pingora(&self, body: &[u8]) -> anyhow::Result<Server> {
        let file = self.folder.path().join("body");
        fs::write(&file, body)?;
        Server::pingora(self.threads, &FloorSource::Answer(file), self.upstream_target()).await
    }

    /// Returns a target that is asked as shapegate asks Electric.
    pub(crate) fn floor(&self, source: &FloorSource) -> anyhow::Result<Server> {
        Server::floor(self.threads, source, self.upstream_target())
    }

    pub(crate) async fn nginx(&self, upstream: &Server) -> anyhow::Result<Server> {
        let (folder, target) = (self.folder.path(), self.upstream_target());
        Server::nginx(folder, self.threads, upstream.target.address, target).await
    }

    /// Returns the stand-in's response to these parameters, in a file for the floor, and its body.
    pub(crate) async fn record(&self, parameters: &str) -> anyhow::Result<(FloorSource, bytes::Bytes)> {
        let answer = self.upstream_target().get(parameters).await.context("the stand-in for Electric")?;
        let file = self.folder.path().join("answer");
        fs::write(&file, whole(&answer)?)?;
        Ok((FloorSource::Answer(file), answer.body))
    }

    fn upstream_target(&self) -> Target {
        self.target(&format!("{UPSTREAM_QUERY}&secret={SECRET}"), Vec::new())
    }

    fn target(&self, query: &str, tokens: Vec<String>) -> Target {
        let (host, path) = ("localhost".to_owned(), "/v1/shape".to_owned());
        Target { address: self.electric.addr(), host, path, query: query.to_owned(), tokens }
    }

    /// Inserts `count` rows in one transaction.
    fn insert(&self, count: u64) -> anyhow::Result<()> {
        let first = self.rows.fetch_add(count, Ordering::Relaxed);
        let row = |number: u64| {
            let id = format!("00000000-0000-4000-8000-{number:012}");
            let title = "x".repeat(self.row_bytes);
            Change::Insert("tasks".to_owned(), json!({ "id": id, "organization_id": ORGANIZATION, "title": title }))
        };
        let changes: Vec<Change> = (first..first + count).map(row).collect();
        self.electric.transaction(&changes).map(drop).map_err(|error| anyhow!("{error}"))
    }
}

fn configuration(electric: SocketAddr, threads: usize, h2c: bool) -> String {
    format!(
        r#"
[server]
listen = "127.0.0.1:0"
admin = "127.0.0.1:0"
threads = {threads}
drain = "0s"
h2c = {h2c}
[upstream]
url = "http://{electric}"
secret = {{ env = "ELECTRIC_SECRET" }}
read_timeout = "5m"
pool = 65536
[[issuer]]
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
algorithms = ["EdDSA"]
jwks = {{ file = "keys.json" }}
[[shape]]
table = "tasks"
allow = "query.organizationId in claims.organizationIds"
where = '"organization_id" = {{{{ query.organizationId }}}}'
[limits]
requests = 1000000
requests_per_subject = 1000000
rate_per_subject = 0
repeats = 0
connections = 1000000
[log]
format = "json"
access = false
"#
    )
}

/// Returns the claims of a user. All users have the same organization, so that they share one shape.
fn claims(user: usize) -> Value {
    let now = SystemClock.now().as_secs();
    let subject = format!("user-{user}");
    json!({ "sub": subject, "aud": AUDIENCE, "iat": now, "exp": now + 86_400, "organizationIds": [ORGANIZATION] })
}

const ISSUER: &str = "https://issuer.load";
const AUDIENCE: &str = "load";
const SECRET: &str = "load-secret";
const ORGANIZATION: &str = "org-1";
const QUERY: &str = "table=tasks&organizationId=org-1";
/// [`QUERY`] as shapegate rewrites it.
const UPSTREAM_QUERY: &str = "table=tasks&where=%22organization_id%22%20%3D%20%241&params%5B1%5D=org-1";

/// How long a live request waits: longer than thousands of clients take to connect.
const HOLD: Duration = Duration::from_secs(240);
