//! `shapegate check`: validate a configuration, and on request every rule against Electric.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{USAGE, Usage};
use crate::auth::Claims;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Upstream};
use crate::policy::Scope;
use crate::shape::{ShapeRequest, UpstreamRequest};

#[derive(Debug, Args)]
pub(super) struct Check {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Send one request per rule to Electric and print its words
    #[arg(long)]
    probe: bool,
    /// With --probe: sample claims for the rules' expressions
    #[arg(long, value_name = "JSON", default_value = "{}", requires = "probe")]
    claims: String,
    /// With --probe: sample parameters of a client, as in a URL (organizationId=org-1)
    #[arg(long, value_name = "QUERY", default_value = "", requires = "probe")]
    query: String,
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
        super::runtime(1)?.block_on(self.probe(&config))
    }

    async fn probe(&self, config: &Config) -> anyhow::Result<ExitCode> {
        let claims = Claims::sample(&self.claims).ok_or(Usage("--claims: give a JSON object"))?;
        // Only the shape is wanted, not its rows.
        let query = format!("{}&offset=-1&log=changes_only", self.query);
        let request = ShapeRequest::parse(Some("/"), &query, config.policy.parameters())
            .map_err(|_| Usage("--query: give name=value pairs, none of them Electric's own"))?;
        let scope = Scope::new(Some(claims.cel()), request.parameters(), SystemClock.now());
        let client = reqwest::Client::builder()
            .timeout(config.upstream.read_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        let mut code = ExitCode::SUCCESS;
        for (rule, permit) in config.policy.samples(&scope) {
            let words = match permit
                .map(|permit| UpstreamRequest::build(permit, &request, config.upstream.source_id.as_deref()))
            {
                None => Err("not asked: `where` lacks a value; give it by --claims or --query".to_owned()),
                Some(Err(error)) => Err(format!("not asked: {error}")),
                Some(Ok(upstream)) => ask(&client, &config.upstream, &upstream).await,
            };
            if words.is_err() {
                code = ExitCode::FAILURE;
            }
            super::say(format_args!("{}: {}", rule.as_str(), words.unwrap_or_else(|problem| problem)))?;
        }
        Ok(code)
    }
}

/// Electric's answer in words; its own where it refuses.
async fn ask(client: &reqwest::Client, upstream: &Upstream, request: &UpstreamRequest) -> Result<String, String> {
    let target = request.target(upstream.secret.as_ref());
    let url = format!("{}{}", upstream.origin(), target.expose());
    // The error's own text would show the URL, and with it the secret.
    let answer = client.get(url).send().await.map_err(|error| format!("Electric: {}", error.without_url()))?;
    let status = answer.status();
    if status.is_success() {
        return Ok("ok".to_owned());
    }
    let words = answer.text().await.unwrap_or_default();
    Err(format!("Electric says {}: {}", status.as_u16(), words.trim()))
}
