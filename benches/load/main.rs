//! Load on the program as a process of its own, beside a floor that does the same work without authentication.
//!
//! `cargo bench --bench load -- --help`; the ratios matter, the absolute figures are the machine's. Clients, issuer and
//! the stand-in for Electric run in this process and share the cores with the servers. Without a subcommand every part
//! runs for a moment and only the answers are checked.

#![allow(clippy::cast_precision_loss)] // figures for people

mod crowd;
mod fanout;
mod files;
mod floor;
mod hold;
mod http;
mod http2;
mod options;
mod pass_through;
mod process;
mod progress;
mod report;
mod scene;
mod server;
mod target;
mod throughput;

use std::process::ExitCode;

use anyhow::bail;
use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;

use fanout::Fanout;
use floor::FloorServer;
use hold::Hold;
use pass_through::PassThrough;
use report::Report;
use throughput::Throughput;

/// As in the program, so that the floor is no slower for another allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Load on shapegate
#[derive(Debug, Parser)]
#[command(name = "load", bin_name = "cargo bench --bench load --", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// What cargo says to every bench
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Throughput(Throughput),
    Fanout(Fanout),
    Hold(Hold),
    #[command(hide = true)]
    FloorServer(FloorServer),
    #[command(hide = true)]
    PassThrough(PassThrough),
}

/// The command line asks for something that cannot be.
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
    /// Runs and prints; says whether every answer was right.
    fn run(self) -> anyhow::Result<bool> {
        let (report, json) = match self {
            Self::Throughput(throughput) => (finish(throughput.run())?, throughput.common.json),
            Self::Fanout(fanout) => (finish(fanout.run())?, fanout.common.json),
            Self::Hold(hold) => (finish(hold.run())?, hold.common.json),
            Self::FloorServer(floor) => return floor.run().map(|()| true),
            Self::PassThrough(proxy) => return proxy.run().map(|()| true),
        };
        print(&report, json);
        Ok(report.wrong() == 0)
    }
}

/// Runs to the end, or to an interrupt: what was started is stopped and the temporary folder removed either way.
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

/// Every subcommand for a moment: that the bench works, and that the answers are right.
fn smoke() -> anyhow::Result<bool> {
    let mut all_right = true;
    for line in [
        "load fanout --clients 50 --rounds 1",
        "load hold --clients 20",
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
