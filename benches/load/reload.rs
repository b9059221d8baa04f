//! Counts the requests to Electric when all clients get a 409 at the same moment.

use std::num::NonZeroUsize;

use clap::Args;
use serde_json::json;

use crate::following::Following;
use crate::options::Common;
use crate::progress::Progress;
use crate::report::{Report, Round};
use crate::scene::Scene;
use crate::server::Server;

/// Answer all clients 409, as a change of the table does, and report the requests to Electric until all have reloaded
#[derive(Debug, Args)]
pub(crate) struct Reload {
    /// Clients
    #[arg(long, value_name = "N", default_value = "300")]
    clients: NonZeroUsize,
    /// Reloads of each server
    #[arg(long, value_name = "N", default_value = "3")]
    rounds: NonZeroUsize,
    #[command(flatten)]
    pub common: Common,
}

impl Reload {
    pub(crate) async fn run(&self) -> anyhow::Result<Report> {
        crate::files::allow(self.clients.get())?;
        let setting = json!({ "clients": self.clients, "rounds": self.rounds });
        let mut report = Report::new("reload", setting);
        let scene = Scene::open(&self.common, 100, false).await?;
        let starts = scene.starts(false);
        let progress = Progress::new(starts.len());
        for start in &starts {
            let server = start()?;
            progress.side(server.name);
            let mut following = Following::new(&server.target);
            for _ in 0..self.clients.get() {
                following.join().await?;
            }
            following.until(scene.rows(), 0).await?;
            for round in 1..=self.rounds.get() as u64 {
                report.add(server.name, reload(&scene, &server, &mut following, round).await?);
            }
        }
        Ok(report)
    }
}

async fn reload(scene: &Scene, server: &Server, following: &mut Following, round: u64) -> anyhow::Result<Round> {
    // All clients wait.
    scene.change()?;
    following.until(scene.rows(), round - 1).await?;
    let before = (scene.upstream_requests(), server.usage()?);
    scene.drop_shapes();
    following.until(scene.rows(), round).await?;
    let mut figures = Vec::new();
    if let (Some(before), Some(now)) = (before.0, scene.upstream_requests()) {
        figures.push(("requests_per_reload", (now - before) as f64));
    }
    if let (Some(before), Some(now)) = (before.1, server.usage()?) {
        figures.push(("cpu_ms", crate::report::milliseconds(now.cpu.saturating_sub(before.cpu))));
    }
    Ok(Round { figures, answers: following.answers(scene.rows()) })
}
