//! Puts load on the program, which runs as a process of its own, and compares it with a floor that does the same work
//! without authentication.
//!
//! `cargo bench --bench load -- --help`. The ratios matter; the absolute figures depend on the machine. Clients, issuer
//! and the stand-in for Electric run in this process and share the cores with the servers. Without a subcommand every
//! part runs briefly, and only the responses are checked.

#![allow(clippy::cast_precision_loss)] // figures for people

mod crowd;
mod fanout;
mod files;
mod floor;
mod following;
mod hold;
mod http;
mod http2;
mod options;
mod pass_through;
mod process;
mod progress;
mod reload;
mod report;
mod scene;
mod server;
mod target;
mod throughput;
mod trickle;

use std::process::ExitCode;

use anyhow::bail;
use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;

use fanout::Fanout;
use floor::FloorServer;
use hold::Hold;
use pass_through::PassThrough;
use reload::Reload;
use report::Report;
use throughput::Throughput;
use trickle::Trickle;

/// The program's allocator, so that the comparison with the floor is fair.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measure shapegate under load
#[derive(Debug, Parser)]
#[command(name = "load", bin_name = "cargo bench --bench load --", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Passed by cargo to every bench
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Throughput(Throughput),
    Fanout(Fanout),
    Hold(Hold),
    Trickle(Trickle),
    Reload(Reload),
    #[command(hide = true)]
    FloorServer(FloorServer),
    #[command(hide = true)]
    PassThrough(PassThrough),
}

/// The command line is invalid.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// `EX_USAGE` of sysexits.h.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let all_right = match cli.command {
        Some(command) => command.run(),
        None => smoke(),
    };
    match all_right {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("load: {error:#}");
            if error.is::<Usage>() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}

impl Command {
    /// Runs and prints. Returns whether every response was right.
    fn run(self) -> anyhow::Result<bool> {
        let (report, json) = match self {
            Self::Throughput(throughput) => (finish(throughput.run())?, throughput.common.json),
            Self::Fanout(fanout) => (finish(fanout.run())?, fanout.common.json),
            Self::Hold(hold) => (finish(hold.run())?, hold.common.json),
            Self::Trickle(trickle) => (finish(trickle.run())?, trickle.common.json),
            Self::Reload(reload) => (finish(reload.run())?, reload.common.json),
            Self::FloorServer(floor) => return floor.run().map(|()| true),
            Self::PassThrough(proxy) => return proxy.run().map(|()| true),
        };
        print(&report, json);
        Ok(report.wrong() == 0)
    }
}

/// Runs to the end, or until an interrupt. Either way the servers are stopped and the temporary folder is removed.
fn finish(run: impl Future<Output = anyhow::Result<Report>>) -> anyhow::Result<Report> {
    runtime(options::cores())?.block_on(async {
        tokio::select! {
            report = run => report,
            interrupt = tokio::signal::ctrl_c() => interrupt.map_or_else(|error| Err(error.into()), |()| bail!("interrupted")),
        }
    })
}

fn print(report: &Report, json: bool) {
    if json {
        println!("{}", report.json());
    } else {
        println!("{}\n", report.table());
    }
}

/// Runs every subcommand briefly, to check that the bench works and that the responses are right.
fn smoke() -> anyhow::Result<bool> {
    let mut all_right = true;
    for line in [
        "load fanout --clients 50 --rounds 1",
        "load hold --clients 20",
        "load trickle --clients 20 --every 20 --writes 20",
        "load reload --clients 20 --rounds 1",
        "load throughput --seconds 1 --rounds 1 --connections 8 --users 20",
        "load throughput --unique --seconds 1 --rounds 1 --connections 8 --users 20",
    ] {
        if let Some(command) = Cli::try_parse_from(line.split(' '))?.command {
            all_right &= command.run()?;
        }
    }
    Ok(all_right)
}

fn runtime(threads: usize) -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?)
}
