//! Counts the requests to Electric while clients join one after another and rows are written all along.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::{interval, sleep};

use crate::following::Following;
use crate::options::Common;
use crate::progress::Progress;
use crate::report::{Report, Round};
use crate::scene::Scene;
use crate::server::Server;

/// Let clients join one after another while rows are written, and report the requests to Electric per write
#[derive(Debug, Args)]
pub(crate) struct Trickle {
    /// Clients
    #[arg(long, value_name = "N", default_value = "240")]
    clients: NonZeroUsize,
    /// Milliseconds between two clients that join, and between two writes
    #[arg(long, value_name = "MS", default_value_t = 500)]
    every: u64,
    /// Writes once all clients have joined
    #[arg(long, value_name = "N", default_value_t = 40)]
    writes: u32,
    #[command(flatten)]
    pub common: Common,
}

/// Rows before the first client joins.
const ROWS: u64 = 10;

impl Trickle {
    pub(crate) async fn run(&self) -> anyhow::Result<Report> {
        crate::files::allow(self.clients.get())?;
        let setting = json!({ "clients": self.clients, "every_ms": self.every, "writes": self.writes });
        let mut report = Report::new("trickle", setting);
        let scene = Scene::open(&self.common, ROWS, false).await?;
        let starts = scene.starts(false);
        let progress = Progress::new(starts.len());
        for start in &starts {
            let server = start()?;
            progress.side(server.name);
            report.add(server.name, self.round(&scene, &server).await?);
        }
        Ok(report)
    }

    async fn round(&self, scene: &Scene, server: &Server) -> anyhow::Result<Round> {
        let every = Duration::from_millis(self.every.max(1));
        let mut following = Following::new(&server.target);
        let requests = || scene.upstream_requests().unwrap_or_default() as f64;
        let start = requests();
        let mut joins = interval(every);
        for _ in 0..self.clients.get() {
            joins.tick().await;
            following.join().await?;
            scene.change()?;
        }
        following.until(scene.rows(), 0).await?;
        let joined = requests();
        for _ in 0..self.writes {
            scene.change()?;
            sleep(every).await;
        }
        following.until(scene.rows(), 0).await?;
        let figures = vec![
            ("requests_per_write_while_joining", (joined - start) / self.clients.get() as f64),
            ("requests_per_write", (requests() - joined) / f64::from(self.writes.max(1))),
            ("waiting_at_electric", scene.upstream_waiting().unwrap_or_default() as f64),
        ];
        Ok(Round { figures, answers: following.answers(scene.rows()) })
    }
}
