//! `shapegate jwks`: fetches an issuer's keys into a file at deploy time.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::Args;

use super::Usage;
use crate::auth::keys::{HttpFetch, JwksFetch, KeySet};
use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct Jwks {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
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
        let issuers = Config::load_issuers(&self.config)?;
        let candidates: Vec<_> =
            issuers.iter().filter_map(|issuer| Some((issuer, issuer.keys.remote.as_ref()?))).collect();
        let wanted =
            candidates.iter().filter(|(issuer, _)| self.issuer.as_ref().is_none_or(|name| *name == issuer.issuer));
        let [(issuer, keys)] = wanted.collect::<Vec<_>>()[..] else {
            return Err(Usage("choose one issuer that has `jwks.url` with --issuer").into());
        };
        let fetched = super::runtime(1)?
            .block_on(HttpFetch::new()?.fetch(keys))
            .map_err(|error| anyhow!("{}: {error}", issuer.issuer))?;
        let parsed =
            KeySet::parse(&fetched.body, &issuer.algorithms).map_err(|error| anyhow!("{}: {error}", issuer.issuer))?;
        for key in &parsed.rejected {
            eprintln!("skipped: key {} ({}): {}", key.index, key.kid.as_deref().unwrap_or("no kid"), key.reason);
        }
        let set = parsed.set;
        std::fs::write(&self.out, format!("{:#}\n", set.to_json()))
            .with_context(|| format!("--out: cannot write {}", self.out.display()))?;
        super::say(format_args!("{}: {} keys of {}", self.out.display(), set.len(), issuer.issuer))?;
        Ok(ExitCode::SUCCESS)
    }
}
