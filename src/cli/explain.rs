//! `shapegate explain`: shows how one request is decided, and why.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use clap::Args;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Version};

use super::Usage;
use crate::auth::{BearerToken, Principal};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::decisions::Consulted;
use crate::metrics::Metrics;
use crate::proxy::{Caller, Decision, Grant, RequestHead, Rules, decide};
use crate::rejection::Rejection;
use crate::rewrite::UpstreamRequest;

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The client's token; @FILE reads it from a file, which keeps it out of the process list
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// The client's URL, complete or from the path on
    url: String,
}

impl Explain {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = super::load(&self.config)?;
        super::runtime(1)?.block_on(self.explain(config))
    }

    async fn explain(&self, mut config: Config) -> anyhow::Result<ExitCode> {
        // The saved key sets belong to a running server, so they are not used.
        (config.server.state, config.limits.verdicts) = (None, 1);
        let (gateway, _proxy) = super::gateway(config, Arc::new(Metrics::new()?))?;
        let rules = gateway.rules();
        let (headers, target) = (HeaderMap::from_iter([(HOST, HeaderValue::from_static("explain"))]), self.target()?);
        let head = RequestHead {
            method: &Method::GET,
            target: Bytes::copy_from_slice(target.as_bytes()),
            version: Version::HTTP_11,
            headers: &headers,
            has_body: false,
            sizes: Some(&rules.limits),
        };
        let mut asking = Asking { token: self.token()?, said: "none".to_owned(), refused: None, consulted: Vec::new() };
        let decision = decide(&rules, &SystemClock, &head, &mut asking).await;
        super::say(format_args!("token:    {}", asking.said))?;
        for Consulted { service, outcome, took, .. } in &asking.consulted {
            super::say(format_args!("service:  {service} says {outcome}, after {} ms", took.as_millis()))?;
        }
        match decision {
            Ok(Decision::Shape(Grant { upstream, .. })) => {
                print(&upstream, &rules)?;
                super::say(format_args!("decision: allow"))?;
                Ok(ExitCode::SUCCESS)
            }
            Ok(Decision::Document(document)) => {
                super::say(format_args!("decision: allow, {}", document.outcome))?;
                Ok(ExitCode::SUCCESS)
            }
            Ok(Decision::Subset(_) | Decision::Preflight(_)) => anyhow::bail!("a GET is neither a POST nor an OPTIONS"),
            Err(rejection) => {
                let why = asking.refused.unwrap_or_else(|| super::words(&rejection));
                super::say(format_args!("decision: deny, {why}"))?;
                Ok(ExitCode::FAILURE)
            }
        }
    }

    /// Returns the request target as the server would see it, without normalization.
    fn target(&self) -> Result<&str, Usage> {
        let target = match self.url.split_once("://") {
            None => self.url.as_str(),
            Some((_, rest)) => rest.find('/').map_or("", |slash| &rest[slash..]),
        };
        if !target.starts_with('/') {
            return Err(Usage("URL: give a URL with a path, or a path with a query"));
        }
        Ok(target)
    }

    fn token(&self) -> anyhow::Result<Option<String>> {
        self.token.as_deref().map(|token| super::argument("--token", token)).transpose()
    }
}

/// The request to explain. It is authenticated like a client's request, but does not count against limits.
struct Asking {
    token: Option<String>,
    /// What to print about the token.
    said: String,
    /// Why the token is rejected.
    refused: Option<String>,
    consulted: Vec<Consulted>,
}

impl Caller for Asking {
    async fn authenticate(
        &mut self,
        rules: &Rules,
        _head: &RequestHead<'_>,
        has_public: bool,
    ) -> Result<Option<Arc<Principal>>, Rejection> {
        let Some(token) = &self.token else {
            return if has_public { Ok(None) } else { Err(Rejection::TokenMissing) };
        };
        let verified = match BearerToken::new(token) {
            Ok(token) => rules.verifier.verify(&token).await.map_err(|error| error.as_str()),
            Err(_) => Err("malformed"),
        };
        let principal = verified.map_err(|why| {
            self.said = "not valid".to_owned();
            self.refused = Some(format!("the token is rejected: {why}"));
            Rejection::TokenInvalid
        })?;
        let principal = principal.principal;
        let (issuer, subject) = (principal.issuer(), principal.subject().unwrap_or("none"));
        let until =
            humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(principal.expires_at().as_secs()));
        self.said = format!("valid; issuer {issuer}, subject {subject}, until {until}");
        Ok(Some(principal))
    }

    fn consulted(&mut self, consulted: &[Consulted]) {
        self.consulted = consulted.to_vec();
    }
}

/// Prints the request that would be sent to Electric.
fn print(upstream: &UpstreamRequest, rules: &Rules) -> std::io::Result<()> {
    super::say(format_args!("rule:     {}", upstream.rule().as_str()))?;
    if upstream.has_client_where() {
        super::say(format_args!("client:   its where is combined with the rule's by AND"))?;
    }
    let name = upstream.upstream();
    super::say(format_args!("electric: {}", rules.upstreams.describe(name, upstream.definition())))?;
    let secret = rules.upstreams.secrets(name).next();
    super::say(format_args!("upstream: {}", upstream.redacted_target(secret)))?;
    match upstream.body() {
        Some(body) => {
            super::say(format_args!("subset:   POST {body}"))?;
            super::say(format_args!("key:      none: the response to a subset is not shared"))
        }
        None => super::say(format_args!("key:      {} (equal for equal upstream name and URL above)", upstream.key())),
    }
}
