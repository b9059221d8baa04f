//! `shapegate explain`: what becomes of one request, and why.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use url::Url;

use super::Usage;
use crate::auth::keys::HttpFetch;
use crate::auth::{BearerToken, Principal, TokenVerifier};
use crate::clock::{Clock, SystemClock, UnixTime};
use crate::config::Config;
use crate::policy::PolicySet;
use crate::shape::{SHAPE_PATH, ShapeRequest, UpstreamRequest};

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The client's token; @FILE reads it from a file, which keeps it out of the process list
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// The client's URL, whole or from its path on
    url: String,
}

impl Explain {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = super::load(&self.config)?;
        super::runtime(1)?.block_on(self.explain(config))
    }

    async fn explain(&self, config: Config) -> anyhow::Result<ExitCode> {
        let Config {
            issuers,
            policy,
            upstream,
            ..
        } = config;
        let verifier = TokenVerifier::new(issuers, 1, Arc::new(SystemClock), None, Arc::new(HttpFetch::new()?))?;
        let principal = match self.token()? {
            None => None,
            Some(token) => match verifier.verify(&BearerToken::new(&token)?).await {
                Ok(verified) => Some(verified.principal),
                Err(error) => return Ok(decision("deny", &format!("the token is refused: {}", error.as_str()))),
            },
        };
        match &principal {
            None => println!("token:    none"),
            Some(principal) => println!(
                "token:    valid; issuer {}, subject {}, until {}",
                principal.issuer(),
                principal.subject().unwrap_or("none"),
                date(principal.expires_at())
            ),
        }
        let url = Url::parse("http://client")?
            .join(&self.url)
            .map_err(|_| Usage("URL: give a URL, or a path with a query"))?;
        Ok(decide(
            &policy,
            principal.as_deref(),
            &url,
            upstream.source_id.as_deref(),
        ))
    }

    fn token(&self) -> anyhow::Result<Option<String>> {
        let Some(token) = &self.token else { return Ok(None) };
        let Some(path) = token.strip_prefix('@') else {
            return Ok(Some(token.clone()));
        };
        let text = std::fs::read_to_string(path).with_context(|| format!("--token: cannot read {path}"))?;
        Ok(Some(text.trim().to_owned()))
    }
}

fn decide(policy: &PolicySet, principal: Option<&Principal>, url: &Url, source_id: Option<&str>) -> ExitCode {
    let path = url.path();
    let own_path = if path == SHAPE_PATH {
        None
    } else if policy.has_path(path) {
        Some(path)
    } else {
        return decision("deny", "not_found: nothing is served at this path");
    };
    let request = match ShapeRequest::parse(own_path, url.query().unwrap_or_default(), policy.parameters()) {
        Ok(request) => request,
        Err(errors) => {
            let words: Vec<_> = errors
                .iter()
                .map(|error| format!("{} {}", error.name, error.problem))
                .collect();
            return decision("deny", &format!("invalid_request: {}", words.join("; ")));
        }
    };
    let permit = match policy.authorize(principal, &request, SystemClock.now()) {
        Ok(permit) => permit,
        Err(denial) => return decision("deny", denial.as_str()),
    };
    if let Err(error) = request.check_replica(permit.replica()) {
        return decision("deny", &format!("invalid_request: {} {}", error.name, error.problem));
    }
    println!("rule:     {}", permit.rule().as_str());
    match UpstreamRequest::build(permit, &request, source_id) {
        Err(error) => decision("deny", &format!("uri_too_long: {error}")),
        Ok(upstream) => {
            println!("upstream: {}", upstream.redacted_target());
            println!(
                "sharing:  with every request of the same upstream URL; key {}",
                upstream.key()
            );
            decision("allow", "")
        }
    }
}

fn date(time: UnixTime) -> String {
    httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(time.as_secs()))
}

fn decision(verdict: &str, why: &str) -> ExitCode {
    println!("decision: {verdict}{}{why}", if why.is_empty() { "" } else { ", " });
    if verdict == "allow" {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
