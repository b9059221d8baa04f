//! `shapegate check`: validates a configuration and, with `--probe`, tries every rule against Electric.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::{USAGE, Usage};
use crate::auth::Claims;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::policy::Scope;
use crate::proxy::{Electric, rewrite};
use crate::shape::ShapeRequest;

#[derive(Debug, Args)]
pub(super) struct Check {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Do not read secrets and key files, for a machine or a process that does not have them
    #[arg(long, conflicts_with = "probe")]
    without_secrets: bool,
    /// Send one request per rule to Electric and print the result
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
        let config =
            if self.without_secrets { Config::load_without_secrets(&self.config)? } else { super::load(&self.config)? };
        for warning in &config.warnings {
            eprintln!("warning: {warning}");
        }
        let tls = config.server.tls.as_ref().filter(|_| !self.without_secrets);
        if let Some(Err(error)) = tls.map(crate::server::check_tls) {
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
        super::runtime(1)?.block_on(self.probe(config))
    }

    async fn probe(&self, config: Config) -> anyhow::Result<ExitCode> {
        let probe = config.probe.clone();
        let claims = self.claims()?.unwrap_or(probe.claims);
        let claims = Claims::sample(&claims).ok_or(Usage("--claims: give a JSON object"))?;
        // With these parameters, Electric creates the shape but neither takes a snapshot nor sends rows
        // (tests/electric/09).
        let query = format!("{}&offset=now&log=changes_only", self.query.as_ref().unwrap_or(&probe.query));
        let metrics = Arc::new(Metrics::new()?);
        let (gateway, proxy) = super::gateway(config, Arc::clone(&metrics))?;
        let rules = gateway.rules();
        let electric = Electric::new(Arc::downgrade(&proxy), Arc::clone(&rules.upstreams), metrics, None);
        let request = ShapeRequest::parse(Some("/"), &query, rules.policy.parameters()).map_err(|_| {
            Usage("--query, or `query` of [probe]: give name=value pairs without Electric's own parameters")
        })?;
        let scope = Scope::new(Some(claims.cel()), request.parameters(), SystemClock.now());
        let mut code = ExitCode::SUCCESS;
        for (rule, permit) in rules.policy.samples(&scope) {
            let answer = match permit.map(|permit| rewrite(&rules, &request, permit)) {
                None => {
                    Err("not probed: `where` or `upstream` lacks a value; give it in --claims or --query".to_owned())
                }
                Some(Err(rejection)) => Err(format!("not probed: {}", super::words(&rejection))),
                Some(Ok(upstream)) => electric.probe(upstream).await,
            };
            if answer.is_err() {
                code = ExitCode::FAILURE;
            }
            let words = answer.map_or_else(|problem| problem, |()| "ok".to_owned());
            super::say(format_args!("{}: {words}", rule.as_str()))?;
        }
        Ok(code)
    }

    fn claims(&self) -> anyhow::Result<Option<String>> {
        self.claims.as_deref().map(|claims| super::argument("--claims", claims)).transpose()
    }
}
