//! The options of all subcommands.

use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use url::{Host, Url};

use crate::Usage;
use crate::target::Target;

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// Users, each with a token of its own, all in one organization
    #[arg(long, value_name = "M", default_value = "1000")]
    pub users: NonZeroUsize,
    /// Threads of each server; by default as many as there are cores
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Bytes of text in a row
    #[arg(long, value_name = "BYTES", default_value_t = 200)]
    pub row_bytes: usize,
    /// Measure another build of the program by turns
    #[arg(long, value_name = "PROGRAM", conflicts_with = "url")]
    pub against: Option<PathBuf>,
    #[command(flatten)]
    pub running: Running,
}

impl Common {
    pub(crate) fn threads(&self) -> usize {
        self.threads.map_or_else(cores, NonZeroUsize::get)
    }
}

pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A server that runs already
#[derive(Debug, Args)]
#[command(next_help_heading = "A server that runs already")]
pub(crate) struct Running {
    /// Put the load on this URL instead of starting servers; changes are then up to you
    #[arg(long)]
    url: Option<Url>,
    /// The part of the URL's query that names the shape: table=tasks&organizationId=org-1
    #[arg(long, requires = "url")]
    query: Option<String>,
    /// A file with one token on each line; there are as many users as tokens
    #[arg(long, value_name = "FILE", requires = "url")]
    token_file: Option<PathBuf>,
    /// The server's process, if it runs on this machine; its CPU time and memory are reported
    #[arg(long, requires = "url")]
    pub pid: Option<u32>,
    /// Allow a host that is not this machine; without its owner's consent the load is an attack
    #[arg(long, requires = "url")]
    remote: bool,
}

impl Running {
    /// Returns the shape at the URL, if one is given.
    pub(crate) fn target(&self) -> anyhow::Result<Option<Target>> {
        let Some(url) = &self.url else { return Ok(None) };
        if url.scheme() != "http" {
            return Err(
                Usage(format!("--url {url}: the scheme must be http; measure behind the TLS termination")).into()
            );
        }
        let host = url.host().context("--url: no host")?;
        let local = match host {
            Host::Domain(name) => name == "localhost",
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        };
        if !local && !self.remote {
            let message =
                format!("--url {url}: {host} is not this machine; give --remote if its owner agrees to the load");
            return Err(Usage(message).into());
        }
        let addresses = url.socket_addrs(|| None).with_context(|| format!("--url {url}"))?;
        let address = *addresses.first().with_context(|| format!("--url {url}: the host has no address"))?;
        let query = [url.query(), self.query.as_deref()].into_iter().flatten().collect::<Vec<_>>().join("&");
        let host = url.authority().to_owned();
        Ok(Some(Target { address, host, path: url.path().to_owned(), query, tokens: self.tokens()? }))
    }

    fn tokens(&self) -> anyhow::Result<Vec<String>> {
        let Some(file) = &self.token_file else { return Ok(Vec::new()) };
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let tokens: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        if tokens.is_empty() {
            return Err(Usage(format!("{}: the file has no token", file.display())).into());
        }
        Ok(tokens)
    }
}
