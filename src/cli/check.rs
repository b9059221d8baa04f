//! `shapegate check`: validates a configuration and, with `--probe`, tries it against the issuers and Electric.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::USAGE;

#[derive(Debug, Args)]
pub(super) struct Check {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Fetch each key set, check Electric's secret, and send one request per rule to Electric
    #[arg(long)]
    probe: bool,
    /// With --probe: sample claims for the rules' expressions; @FILE reads them from a file
    #[arg(long, value_name = "JSON", requires = "probe")]
    claims: Option<String>,
    /// With --probe: sample parameters of a client, as in a URL (organizationId=org-1)
    #[arg(long, value_name = "QUERY", requires = "probe")]
    query: Option<String>,
}

impl Check {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = super::load(&self.config)?;
        for warning in &config.warnings {
            eprintln!("warning: {warning}");
        }
        if let Some(Err(error)) = config.server.tls.as_ref().map(crate::server::check_tls) {
            eprintln!("{}: {error:#}", self.config.display());
            return Ok(ExitCode::from(USAGE));
        }
        super::say(format_args!(
            "{}: ok, {} rules, {} issuers",
            self.config.display(),
            config.policy.rule_ids().count(),
            config.issuers.len()
        ))?;
        if !self.probe {
            return Ok(ExitCode::SUCCESS);
        }
        super::runtime(1)?.block_on(super::probe::run(config, self.claims()?, self.query.as_deref()))
    }

    fn claims(&self) -> anyhow::Result<Option<String>> {
        self.claims.as_deref().map(|claims| super::argument("--claims", claims)).transpose()
    }
}
