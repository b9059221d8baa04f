//! What all subcommands take.

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
    /// Users, each with a token of its own, all of one organization
    #[arg(long, value_name = "M", default_value = "1000")]
    pub users: NonZeroUsize,
    /// Threads of each server; as many as cores by default
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
    /// Put the load on this URL instead of servers of its own; changes are then up to you
    #[arg(long)]
    url: Option<Url>,
    /// What names the shape in the URL's query: table=tasks&organizationId=org-1
    #[arg(long, requires = "url")]
    query: Option<String>,
    /// A file with a token on each line, for as many users
    #[arg(long, value_name = "FILE", requires = "url")]
    token_file: Option<PathBuf>,
    /// The server's process, where it runs on this machine: reports its CPU time and memory
    #[arg(long, requires = "url")]
    pub pid: Option<u32>,
    /// Allow a host that is not this machine: a load that its owner does not expect is an attack
    #[arg(long, requires = "url")]
    remote: bool,
}

impl Running {
    /// The shape at the URL, if there is one.
    pub(crate) fn target(&self) -> anyhow::Result<Option<Target>> {
        let Some(url) = &self.url else { return Ok(None) };
        if url.scheme() != "http" {
            return Err(Usage(format!("--url {url}: only http is spoken here; measure behind TLS")).into());
        }
        let host = url.host().context("--url: no host")?;
        let local = match host {
            Host::Domain(name) => name == "localhost",
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        };
        if !local && !self.remote {
            let message =
                format!("--url {url}: {host} is not this machine; give --remote if its owner expects the load");
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
            return Err(Usage(format!("{}: no token in it", file.display())).into());
        }
        Ok(tokens)
    }
}
