//! `shapegate explain`: what becomes of one request, and why.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;

use super::Usage;
use crate::auth::IssuerSettings;
use crate::auth::keys::HttpFetch;
use crate::auth::{BearerToken, Principal, TokenVerifier};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::policy::{PolicySet, Refusal, UnknownPath};
use crate::rewrite::{RewriteError, UpstreamRequest};
use crate::shape::ParameterError;
use crate::upstream::Upstreams;

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
        match self.decide(config).await? {
            Ok(()) => {
                super::say(format_args!("decision: allow"))?;
                Ok(ExitCode::SUCCESS)
            }
            Err(Denied(why)) => {
                super::say(format_args!("decision: deny, {why}"))?;
                Ok(ExitCode::FAILURE)
            }
        }
    }

    /// The order of `proxy::admit`, told step by step.
    async fn decide(&self, config: Config) -> anyhow::Result<Result<(), Denied>> {
        // Made here for where a shape's place is, and for its source; nothing is asked.
        let upstreams = Upstreams::new(&config.upstream, &config.upstreams)?;
        let principal = match self.authenticate(config.issuers).await? {
            Ok(principal) => principal,
            Err(denied) => return Ok(Err(denied)),
        };
        let (path, query) = self.target()?;
        let upstream = match rewrite(&config.policy, principal.as_deref(), path, query, &upstreams) {
            Ok(upstream) => upstream,
            Err(denied) => return Ok(Err(denied)),
        };
        super::say(format_args!("rule:     {}", upstream.rule().as_str()))?;
        if upstream.has_client_where() {
            super::say(format_args!("client:   its own where is ANDed to the rule's"))?;
        }
        let name = upstream.upstream();
        let configured = name.named().and_then(|name| config.upstreams.get(name)).unwrap_or(&config.upstream);
        super::say(format_args!("electric: {}", upstreams.describe(name, upstream.definition())))?;
        let target = upstream.redacted_target(configured.secret.as_ref());
        super::say(format_args!("upstream: {target}"))?;
        if let Some(body) = upstream.body() {
            super::say(format_args!("subset:   POST {body}"))?;
            super::say(format_args!("key:      none: the answer to a subset is not shared"))?;
            return Ok(Ok(()));
        }
        super::say(format_args!("key:      {} (equal where Electric's name and the URL above are)", upstream.key()))?;
        Ok(Ok(()))
    }

    async fn authenticate(
        &self,
        issuers: Vec<IssuerSettings>,
    ) -> anyhow::Result<Result<Option<Arc<Principal>>, Denied>> {
        let Some(token) = self.token()? else {
            super::say(format_args!("token:    none"))?;
            return Ok(Ok(None));
        };
        let verifier = TokenVerifier::new(issuers, 1, Arc::new(SystemClock), None, Arc::new(HttpFetch::new()?))?;
        let Ok(token) = BearerToken::new(&token) else {
            return Ok(Err(Denied("the token is refused: malformed".to_owned())));
        };
        let principal = match verifier.verify(&token).await {
            Ok(verified) => verified.principal,
            Err(error) => return Ok(Err(Denied(format!("the token is refused: {}", error.as_str())))),
        };
        let (issuer, subject) = (principal.issuer(), principal.subject().unwrap_or("none"));
        let until = UNIX_EPOCH + Duration::from_secs(principal.expires_at().as_secs());
        let until = httpdate::fmt_http_date(until);
        super::say(format_args!("token:    valid; issuer {issuer}, subject {subject}, until {until}"))?;
        Ok(Ok(Some(principal)))
    }

    /// Path and query as the server would see them: nothing is normalized.
    fn target(&self) -> Result<(&str, &str), Usage> {
        let target = match self.url.split_once("://") {
            None => self.url.as_str(),
            Some((_, rest)) => rest.find('/').map_or("", |slash| &rest[slash..]),
        };
        if !target.starts_with('/') {
            return Err(Usage("URL: give a URL with a path, or a path with a query"));
        }
        Ok(target.split_once('?').unwrap_or((target, "")))
    }

    fn token(&self) -> anyhow::Result<Option<String>> {
        self.token.as_deref().map(|token| super::argument("--token", token)).transpose()
    }
}

/// Why the request would not go through, as a code of the answer and words.
struct Denied(String);

fn rewrite(
    policy: &PolicySet,
    principal: Option<&Principal>,
    path: &str,
    query: &str,
    upstreams: &Upstreams,
) -> Result<UpstreamRequest, Denied> {
    let unknown = |UnknownPath| Denied("not_found: nothing is served at this path".to_owned());
    let own_path = policy.endpoint(path).map_err(unknown)?;
    let invalid = |errors: Vec<ParameterError>| {
        let words: Vec<_> = errors.iter().map(|error| format!("{} {}", error.name, error.problem)).collect();
        Denied(format!("invalid_request: {}", words.join("; ")))
    };
    let judged = policy.judge(principal, own_path, query, SystemClock.now());
    let (request, permit) = judged.map_err(|refusal| match refusal {
        Refusal::Denied(denial) => Denied(denial.as_str().to_owned()),
        Refusal::Invalid(errors) => invalid(errors),
    })?;
    let source_id = upstreams.source_id(permit.upstream());
    UpstreamRequest::build(permit, &request, source_id).map_err(|error| match error {
        RewriteError::Invalid(errors) => invalid(errors),
        RewriteError::TooLong => Denied(format!("uri_too_long: {error}")),
    })
}
