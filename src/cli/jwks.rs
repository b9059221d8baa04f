//! `shapegate jwks`: fetches an issuer's keys into a file at deploy time.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::Args;

use super::Usage;
use super::keys::RemoteIssuer;
use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct Jwks {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// The file to write the keys to
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The issuer whose keys to fetch, if several have a `jwks.url`
    #[arg(long, value_name = "ISSUER")]
    issuer: Option<String>,
}

impl Jwks {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let issuers: Vec<_> = Config::load_issuers(&self.config)?.iter().filter_map(RemoteIssuer::of).collect();
        let wanted = issuers.iter().filter(|issuer| self.issuer.as_ref().is_none_or(|name| *name == issuer.name));
        let [issuer] = wanted.collect::<Vec<_>>()[..] else {
            return Err(Usage("choose one issuer that has `jwks.url` with --issuer").into());
        };
        let parsed =
            super::runtime(1)?.block_on(issuer.fetch()).map_err(|error| anyhow!("{}: {error}", issuer.name))?;
        for key in &parsed.rejected {
            eprintln!("skipped: key {} ({}): {}", key.index, key.kid.as_deref().unwrap_or("no kid"), key.reason);
        }
        let set = parsed.set;
        std::fs::write(&self.out, format!("{:#}\n", set.to_json()))
            .with_context(|| format!("--out: cannot write {}", self.out.display()))?;
        super::say(format_args!("{}: {} keys of {}", self.out.display(), set.len(), issuer.name))?;
        Ok(ExitCode::SUCCESS)
    }
}
