//! Measures how many responses a server gives in a second, and what each costs it.

use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::http::Connection;
use crate::options::Common;
use crate::progress::Progress;
use crate::report::{Answers, Report, Round, milliseconds, quantile};
use crate::scene::{Scene, Stage};
use crate::server::Server;
use crate::target::Target;

/// Request the same shape again and again; report the rate, the latency and the server's CPU time for each response
#[derive(Debug, Args)]
pub(crate) struct Throughput {
    /// Connections, each with one request at a time
    #[arg(long, value_name = "N", default_value = "64")]
    connections: NonZeroUsize,
    /// The duration of each round
    #[arg(long, value_name = "S", default_value = "5")]
    seconds: NonZeroU64,
    /// Rounds of each server, alternating; medians are reported
    #[arg(long, value_name = "N", default_value = "3")]
    rounds: NonZeroUsize,
    /// Rows in a response; with --row-bytes, they set its size
    #[arg(long, value_name = "N", default_value_t = 10)]
    rows: u64,
    /// Compare with another server too, one that only forwards what the floor serves
    #[arg(long, value_enum, conflicts_with = "url")]
    compare: Option<Compare>,
    /// Ask for another place in the log each time, so that no two requests share an answer; beside a bare Pingora
    #[arg(long, conflicts_with_all = ["url", "compare"])]
    unique: bool,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Compare {
    /// A plain reverse proxy without authentication, and a bare Pingora that gives the answer itself
    Nginx,
}

impl Throughput {
    pub(crate) async fn run(&self) -> anyhow::Result<Report> {
        let connections = self.connections.get();
        crate::files::allow(connections)?;
        let scene = Scene::open(&self.common, self.rows, false).await?;
        let (servers, expected) = match &scene {
            Scene::Embedded(stage) => self.servers(stage).await?,
            Scene::Running(target, id) => (vec![Server::running(target.clone(), *id)], None),
        };
        let bytes = expected.as_ref().map(Bytes::len);
        let setting = json!({
            "connections": connections, "seconds": self.seconds, "rounds": self.rounds, "users": self.common.users,
            "body_bytes": bytes, "threads": self.common.threads(),
        });
        let mut report = Report::new("throughput", setting);
        let mut loads = Vec::new();
        for server in servers {
            loads.push(Load::warm(server, expected.clone(), self.unique).await?);
        }
        let progress = Progress::new(self.rounds.get() * loads.len());
        for _ in 0..self.rounds.get() {
            for load in &loads {
                progress.side(load.server.name);
                let round = load.round(&scene, connections, Duration::from_secs(self.seconds.get())).await?;
                report.add(load.server.name, round);
            }
        }
        Ok(report)
    }

    async fn servers(&self, stage: &Stage) -> anyhow::Result<(Vec<Server>, Option<Bytes>)> {
        let (source, body) = stage.record(PARAMETERS).await?;
        let floor = stage.floor(&source)?;
        if self.unique {
            // The floor is Electric here: a recorded answer costs least.
            let mut servers = stage.all_builds(floor.target.address)?;
            servers.extend([stage.pingora(&floor).await?, floor]);
            return Ok((servers, Some(body)));
        }
        let mut servers = stage.all_builds(stage.electric())?;
        servers.push(floor);
        if let Some(Compare::Nginx) = self.compare {
            let nginx = stage.nginx(&servers[servers.len() - 1]).await?;
            servers.extend([nginx, stage.answering_pingora(&body).await?]);
        }
        Ok((servers, Some(body)))
    }
}

/// What every request asks for: the shape from its start.
const PARAMETERS: &str = "offset=-1";

/// A server with the requests that it gets.
struct Load {
    server: Server,
    /// One request for each user, written once.
    requests: Arc<[Bytes]>,
    expected: Option<Bytes>,
    /// Counts requests that are to differ from each other.
    unique: Option<Arc<AtomicU64>>,
}

impl Load {
    /// Sends every request once, so that tokens are checked, connections opened and caches filled.
    async fn warm(server: Server, expected: Option<Bytes>, unique: bool) -> anyhow::Result<Self> {
        let users = server.target.tokens.len().max(1);
        let requests: Arc<[Bytes]> = (0..users).map(|user| server.target.request(user, PARAMETERS)).collect();
        let mut connection = Connection::open(server.target.address).await?;
        for request in requests.iter() {
            let answer = match connection.exchange(request).await? {
                Some(answer) => answer,
                None => {
                    connection = Connection::open(server.target.address).await?;
                    connection.ask(request).await?
                }
            };
            ensure!(answer.status == 200, "{} answered {}", server.name, answer.summary());
        }
        Ok(Self { server, requests, expected, unique: unique.then(Arc::default) })
    }

    async fn round(&self, scene: &Scene, connections: usize, time: Duration) -> anyhow::Result<Round> {
        let Target { address, .. } = self.server.target;
        let mut clients = Vec::new();
        for number in 0..connections {
            let connection = Connection::open(address).await?;
            let (requests, expected) = (Arc::clone(&self.requests), self.expected.clone());
            let unique = self.unique.clone().map(|number| (number, self.server.target.clone()));
            clients.push(Client { connection, requests, expected, unique, next: number, tally: Tally::default() });
        }
        let (before, requests) = (self.server.usage()?, scene.upstream_requests());
        let start = Instant::now();
        let tasks: Vec<_> = clients.into_iter().map(|client| tokio::spawn(client.run(address, start + time))).collect();
        let mut sum = Tally::default();
        for task in tasks {
            sum.add(task.await.context("a client task failed")?);
        }
        let (elapsed, after) = (start.elapsed(), self.server.usage()?);

        sum.latencies.sort_unstable();
        let count = sum.latencies.len() as f64;
        let at = |permille| milliseconds(quantile(&sum.latencies, permille));
        let mut figures =
            vec![("answers_per_s", count / elapsed.as_secs_f64()), ("p50_ms", at(500)), ("p99_ms", at(990))];
        if let (Some(before), Some(after)) = (before, after) {
            let cpu = after.cpu.saturating_sub(before.cpu);
            figures.push(("cpu_us_per_answer", cpu.as_secs_f64() * 1e6 / count));
            figures.push(("rss_mb", after.rss_kb / 1024.0));
        }
        if let (Some(before), Some(now)) = (requests, scene.upstream_requests()) {
            figures.push(("upstream_requests", (now - before) as f64));
        }
        figures.push(("reconnects", sum.reconnects as f64));
        Ok(Round { figures, answers: sum.answers })
    }
}

/// A connection that sends one request after the other.
struct Client {
    connection: Connection,
    requests: Arc<[Bytes]>,
    expected: Option<Bytes>,
    unique: Option<(Arc<AtomicU64>, Target)>,
    next: usize,
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    latencies: Vec<Duration>,
    answers: Answers,
    reconnects: u64,
}

impl Client {
    async fn run(mut self, address: SocketAddr, until: Instant) -> Tally {
        while Instant::now() < until {
            match self.ask().await {
                Ok(true) => {}
                Ok(false) => match Connection::open(address).await {
                    Ok(connection) => {
                        self.connection = connection;
                        self.tally.reconnects += 1;
                    }
                    Err(error) => return self.fail(&error),
                },
                Err(error) => return self.fail(&error),
            }
        }
        self.tally
    }

    /// Sends one request. Returns false if the connection takes no further request.
    async fn ask(&mut self) -> anyhow::Result<bool> {
        let request = self.request();
        let sent = Instant::now();
        let Some(answer) = self.connection.exchange(&request).await? else { return Ok(false) };
        self.next += 1;
        self.tally.latencies.push(answer.at - sent);
        *self.tally.answers.statuses.entry(answer.status).or_default() += 1;
        if answer.status != 200 || self.expected.as_ref().is_some_and(|body| *body != answer.body) {
            self.tally.answers.wrong(|| answer.summary());
        }
        Ok(!answer.closes)
    }

    fn request(&self) -> Bytes {
        match &self.unique {
            None => self.requests[self.next % self.requests.len()].clone(),
            Some((number, target)) => {
                let number = number.fetch_add(1, Ordering::Relaxed);
                target.request(self.next, &format!("handle=1-1&offset={number}_0"))
            }
        }
    }

    fn fail(mut self, error: &anyhow::Error) -> Tally {
        self.tally.answers.wrong(|| format!("{error:#}"));
        self.tally
    }
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.answers.add(other.answers);
        self.reconnects += other.reconnects;
    }
}
