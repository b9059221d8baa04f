//! Measures the time from one change until each of many waiting clients has it.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use crate::crowd::Crowd;
use crate::http::Answer;
use crate::options::Common;
use crate::progress::Progress;
use crate::report::{Answers, Report, Round, milliseconds, quantile};
use crate::scene::Scene;
use crate::server::Server;
use crate::target::Position;

/// Let many clients wait for one change, and report when each has it
#[derive(Debug, Args)]
pub(crate) struct Fanout {
    /// Waiting clients
    #[arg(long, value_name = "N", default_value = "1000")]
    clients: NonZeroUsize,
    /// Rounds of each server, alternating; medians are reported
    #[arg(long, value_name = "N", default_value = "3")]
    rounds: NonZeroUsize,
    #[command(flatten)]
    pub common: Common,
}

impl Fanout {
    pub(crate) async fn run(&self) -> anyhow::Result<Report> {
        let clients = self.clients.get();
        crate::files::allow(clients)?;
        let scene = Scene::open(&self.common, 10, false).await?;
        let setting = json!({ "clients": clients, "rounds": self.rounds, "threads": self.common.threads() });
        let mut report = Report::new("fanout", setting);
        let starts = scene.starts(true);
        let progress = Progress::new(self.rounds.get() * starts.len());
        for _ in 0..self.rounds.get() {
            for start in &starts {
                let server = start()?;
                progress.side(server.name);
                report.add(server.name, round(&scene, &server, clients).await?);
            }
        }
        Ok(report)
    }
}

async fn round(scene: &Scene, server: &Server, clients: usize) -> anyhow::Result<Round> {
    let position = Position::end(&server.target).await?;
    let (empty, requests) = (server.usage()?, scene.upstream_requests());
    let mut crowd = Crowd::default();
    crowd.fill(&server.target, clients, false).await?;
    let mut asked = crowd.ask(&server.target, &position);
    asked.wait_until_all_wait(server, scene).await?;
    let waiting = server.usage()?;
    let commit = Instant::now();
    scene.change()?;
    let (_, answers) = asked.answers().await;
    let served = server.usage()?;

    // A change that the operator makes has no known time: the first response counts as the start.
    let first = answers.iter().flatten().map(|answer| answer.at).min().unwrap_or(commit);
    let start = if scene.upstream_requests().is_some() { commit } else { first };
    let mut after: Vec<Duration> = answers.iter().flatten().map(|answer| answer.at - start).collect();
    after.sort_unstable();
    let at = |permille| milliseconds(quantile(&after, permille));
    let mut figures = vec![("first_ms", at(0)), ("p50_ms", at(500)), ("p99_ms", at(990)), ("last_ms", at(1000))];
    if let (Some(before), Some(now)) = (requests, scene.upstream_requests()) {
        figures.push(("upstream_requests", (now - before) as f64));
    }
    if let (Some(empty), Some(waiting), Some(served)) = (empty, waiting, served) {
        figures.push(("cpu_ms", milliseconds(served.cpu.saturating_sub(waiting.cpu))));
        figures.push(("rss_mb", waiting.rss_kb / 1024.0));
        figures.push(("kb_per_client", (waiting.rss_kb - empty.rss_kb) / clients as f64));
    }
    let (answers, bodies) = judge(&answers);
    figures.push(("bodies", bodies as f64));
    Ok(Round { figures, answers })
}

/// Checks that every client got a 200 with the same body, and counts the different bodies.
pub(crate) fn judge(answers: &[anyhow::Result<Answer>]) -> (Answers, usize) {
    let mut judged = Answers::default();
    let mut bodies = HashSet::new();
    let expected = answers.iter().flatten().find(|answer| answer.status == 200).map(|answer| &answer.body);
    for answer in answers {
        match answer {
            Ok(answer) => {
                *judged.statuses.entry(answer.status).or_default() += 1;
                bodies.insert(&answer.body);
                if answer.status != 200 || Some(&answer.body) != expected {
                    judged.wrong(|| answer.summary());
                }
            }
            Err(error) => judged.wrong(|| format!("{error:#}")),
        }
    }
    (judged, bodies.len())
}
