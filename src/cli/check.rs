//! `shapegate check`: validate a configuration, and on request every rule against Electric.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::{USAGE, Usage};
use crate::auth::Claims;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::policy::Scope;
use crate::rewrite::UpstreamRequest;
use crate::shape::ShapeRequest;
use crate::telemetry::Metrics;
use crate::upstream::{Electric, Upstreams};

#[derive(Debug, Args)]
pub(super) struct Check {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Send one request per rule to Electric and print its words
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
        super::runtime(1)?.block_on(self.probe(config))
    }

    async fn probe(&self, config: Config) -> anyhow::Result<ExitCode> {
        let upstreams = Arc::new(Upstreams::new(&config.upstream, &config.upstreams)?);
        let electric = Electric::new(Arc::clone(&upstreams), Arc::new(Metrics::new()?));
        let claims = self.claims()?.unwrap_or(config.probe.claims);
        let claims = Claims::sample(&claims).ok_or(Usage("--claims: give a JSON object"))?;
        // Only the shape is wanted: Electric then neither takes a snapshot nor sends a row (transcript 09).
        let query = format!("{}&offset=now&log=changes_only", self.query.as_ref().unwrap_or(&config.probe.query));
        let request = ShapeRequest::parse(Some("/"), &query, config.policy.parameters())
            .map_err(|_| Usage("--query, or `query` of [probe]: give name=value pairs, none of them Electric's own"))?;
        let scope = Scope::new(Some(claims.cel()), request.parameters(), SystemClock.now());
        let mut code = ExitCode::SUCCESS;
        for (rule, permit) in config.policy.samples(&scope) {
            let built = permit.map(|permit| {
                let source_id = upstreams.source_id(permit.upstream());
                UpstreamRequest::build(permit, &request, source_id)
            });
            let answer = match built {
                None => {
                    Err("not asked: `where` or `upstream` lacks a value; give it by --claims or --query".to_owned())
                }
                Some(Err(error)) => Err(format!("not asked: {error}")),
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
