//! Implements the commands. Results go to standard output, everything else to standard error.
//!
//! Exit status 64 means wrong usage or configuration, 1 any other failure.

mod check;
#[cfg(feature = "demo")]
mod demo;
mod explain;
mod init;
mod jwks;
mod keys;
mod probe;
mod run;
mod schema;
mod shell;
mod test;
mod token;
mod trial;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::config::{Config, ConfigErrors};
use crate::metrics::Metrics;
use crate::proxy::{Change, Gateway, Proxy};
use crate::rejection::Rejection;
use crate::server::wire::{self, Observers};

/// An authorizing proxy in front of Electric's sync service.
#[derive(Debug, Parser)]
#[command(version = env!("SHAPEGATE_VERSION"), max_term_width = 100, after_long_help = HELP)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
struct Cli {
    /// Run with this configuration
    #[arg(short, long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// Take over the sockets of the running process once this one is ready
    #[arg(long)]
    upgrade: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Validate a configuration and print every error
    Check(check::Check),
    /// Run a demo: embedded issuer, stand-in for Electric, proxy and web page
    #[cfg(feature = "demo")]
    Demo(demo::Demo),
    /// Print shell completions
    Completions(shell::Completions),
    /// Show how one request is decided, and why
    Explain(Box<explain::Explain>),
    /// Fetch an issuer's keys into a file for `jwks = { file = … }`
    Jwks(jwks::Jwks),
    /// Write a commented configuration to start from
    Init(init::Init),
    /// Print the manual page
    Man(shell::Man),
    /// Print a JSON Schema of the configuration, for editors
    Schema(schema::Schema),
    /// Run policy tests
    Test(test::Test),
    /// Make a development key, and tokens that it signs
    Token(token::Token),
}

const HELP: &str = "\
Examples:
  shapegate demo                                        try it, with nothing else installed
  shapegate init --issuer https://auth.example.com      write shapegate.toml
  shapegate check --config shapegate.toml               find its errors
  shapegate --config shapegate.toml                     run
  shapegate explain --config shapegate.toml --token @token.txt '/v1/shape?table=tasks'

Environment:
  RUST_LOG   overrides log.level: debug, or shapegate=debug,warn
  NO_COLOR   if not empty: no colors

Exit status:
  0   success
  1   failure: a denied request (explain), a rejected rule (check --probe), or a server that cannot start
  64  wrong usage or configuration";

/// Runs the command that `arguments` names, and returns its exit status.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    crate::server::install_crypto();
    let result = match (cli.command, cli.config) {
        (Some(Command::Check(check)), _) => check.run(),
        #[cfg(feature = "demo")]
        (Some(Command::Demo(demo)), _) => demo.run(),
        (Some(Command::Explain(explain)), _) => explain.run(),
        (Some(Command::Init(init)), _) => init.run(),
        (Some(Command::Jwks(jwks)), _) => jwks.run(),
        (Some(Command::Completions(completions)), _) => completions.run(),
        (Some(Command::Man(man)), _) => man.run(),
        (Some(Command::Schema(schema)), _) => schema.run(),
        (Some(Command::Test(test)), _) => test.run(),
        (Some(Command::Token(token)), _) => token.run(),
        (None, Some(config)) => run::run(&config, cli.upgrade),
        (None, None) => Err(Usage("give --config FILE").into()),
    };
    crate::telemetry::flush_logs();
    match result {
        Ok(code) => code,
        Err(error) => report(&error),
    }
}

/// Invalid usage of the command line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(&'static str);

/// `EX_USAGE` of sysexits.h.
const USAGE: u8 = 64;

fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(errors) = error.downcast_ref::<ConfigErrors>() {
        eprintln!("{}", errors.report());
        return ExitCode::from(USAGE);
    }
    let broken_pipe = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::BrokenPipe;
    if error.downcast_ref().is_some_and(broken_pipe) {
        return ExitCode::FAILURE;
    }
    eprintln!("shapegate: {error:#}");
    if error.is::<Usage>() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
}

/// Returns the value of an option. For `@FILE`, returns the trimmed content of that file.
fn argument(option: &str, value: &str) -> anyhow::Result<String> {
    let Some(path) = value.strip_prefix('@') else { return Ok(value.to_owned()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("{option}: cannot read {path}"))?;
    Ok(text.trim().to_owned())
}

/// Writes a line of the result. If the reader has closed the pipe (`| head`), the error ends the command without a
/// message.
fn say(line: std::fmt::Arguments<'_>) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_fmt(line)?;
    out.write_all(b"\n")
}

/// Returns a number of things: `1 rule`, `2 rules`.
fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Creates a gateway that serves no clients: it decides requests and queries Electric as a server does.
fn gateway(config: Config, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> anyhow::Result<(Gateway, Arc<Proxy>)> {
    let observers = Observers { metrics, audit: None, tracer: None };
    wire::gateway(config, clock, observers, watch::channel(Change::default()).1)
}

/// Formats a rejection: its code, and the problem of each parameter.
fn words(rejection: &Rejection) -> String {
    let (_, code, message) = rejection.answer();
    match rejection {
        Rejection::InvalidHead(name, problem) => format!("{code}: {name} {problem}"),
        Rejection::InvalidRequest(errors) => {
            let errors: Vec<_> = errors.iter().map(|error| format!("{} {}", error.name, error.problem)).collect();
            format!("{code}: {}", errors.join("; "))
        }
        _ => format!("{code}: {message}"),
    }
}

fn load(path: &Path) -> anyhow::Result<Config> {
    Ok(Config::load(path)?)
}

fn runtime(threads: usize) -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?)
}
