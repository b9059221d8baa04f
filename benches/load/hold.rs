//! Measures the memory of a waiting client, in its first wait and in the next one.

use std::num::NonZeroUsize;

use clap::Args;
use serde_json::json;

use crate::crowd::Crowd;
use crate::fanout::judge;
use crate::options::Common;
use crate::progress::Progress;
use crate::report::{Answers, Figures, Report, Round};
use crate::scene::Scene;
use crate::server::Server;
use crate::target::Position;

/// Let many clients wait, twice, and report the memory for each
#[derive(Debug, Args)]
pub(crate) struct Hold {
    /// Waiting clients
    #[arg(long, value_name = "N", default_value = "1000")]
    clients: NonZeroUsize,
    /// Rounds of each server, alternating; medians are reported
    #[arg(long, value_name = "N", default_value = "1")]
    rounds: NonZeroUsize,
    /// Open new connections for the second wait
    #[arg(long)]
    reconnect: bool,
    /// Use HTTP/2 without TLS, 100 clients on a connection; the floor does not speak it
    #[arg(long)]
    h2: bool,
    #[command(flatten)]
    pub common: Common,
}

impl Hold {
    pub(crate) async fn run(&self) -> anyhow::Result<Report> {
        let clients = self.clients.get();
        crate::files::allow(clients)?;
        let scene = Scene::open(&self.common, 10, self.h2).await?;
        let (reconnect, http) = (self.reconnect, if self.h2 { "2" } else { "1.1" });
        let setting = json!({ "clients": clients, "rounds": self.rounds, "http": http, "reconnect": reconnect });
        let mut report = Report::new("hold", setting);
        let starts = scene.starts(!self.h2);
        let progress = Progress::new(self.rounds.get() * starts.len());
        for _ in 0..self.rounds.get() {
            for start in &starts {
                let server = start()?;
                progress.side(server.name);
                report.add(server.name, self.round(&scene, &server, clients).await?);
            }
        }
        Ok(report)
    }

    async fn round(&self, scene: &Scene, server: &Server, clients: usize) -> anyhow::Result<Round> {
        let mut position = Position::end(&server.target).await?;
        let (empty, requests) = (server.usage()?, scene.upstream_requests());
        let (mut figures, mut answers, mut crowd) = (Figures::new(), Answers::default(), Crowd::default());
        for wave in ["wave_1_kb_per_client", "wave_2_kb_per_client"] {
            if self.reconnect {
                crowd = Crowd::default();
            }
            crowd.fill(&server.target, clients, self.h2).await?;
            let mut asked = crowd.ask(&server.target, &position);
            asked.wait_until_all_wait(server, scene).await?;
            if let (Some(empty), Some(waiting)) = (empty, server.usage()?) {
                figures.push((wave, (waiting.rss_kb - empty.rss_kb) / clients as f64));
            }
            scene.change()?;
            let (again, received) = asked.answers().await;
            crowd = again;
            if let Some(answer) = received.iter().flatten().find(|answer| answer.status == 200) {
                position = Position::behind(answer)?;
            }
            answers.add(judge(&received).0);
        }
        if let Some(served) = server.usage()? {
            figures.push(("rss_after_mb", served.rss_kb / 1024.0));
        }
        if let (Some(before), Some(now)) = (requests, scene.upstream_requests()) {
            figures.push(("upstream_requests", (now - before) as f64));
        }
        Ok(Round { figures, answers })
    }
}
