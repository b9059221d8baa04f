//! `shapegate explain`: shows how one request is decided, and why.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use http::Method;

use super::keys::RemoteIssuer;
use super::trial::{self, Allowed, Court, Request, Verdict};
use crate::auth::{BearerToken, Principal, TokenError};
use crate::clock::UnixTime;
use crate::decisions::Consulted;
use crate::hex::hex;
use crate::proxy::Rules;
use crate::rewrite::UpstreamRequest;

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// The client's token; @FILE reads it from a file, which keeps it out of the process list
    #[arg(long, value_name = "TOKEN", conflicts_with = "claims")]
    token: Option<String>,
    /// Claims instead of a token, for which neither keys nor secrets are needed; @FILE reads them from a file
    #[arg(long, value_name = "JSON")]
    claims: Option<String>,
    /// The method [default: GET, or POST with --body]
    #[arg(long, value_name = "METHOD")]
    method: Option<Method>,
    /// The body of a POST for a subset; @FILE reads it from a file
    #[arg(long, value_name = "JSON")]
    body: Option<String>,
    /// The time to decide at: seconds since 1970, or as in 2026-01-31T12:00:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    now: Option<String>,
    /// The client's URL, complete or from the path on
    url: String,
}

impl Explain {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        super::runtime(1)?.block_on(self.explain())
    }

    async fn explain(&self) -> anyhow::Result<ExitCode> {
        let now = trial::time(self.now.as_deref())?;
        let (court, issuers) = self.court(now)?;
        let request = self.request(&court)?;
        let verdict = court.judge(&request).await?;
        let rules = court.rules();
        super::say(format_args!("token:    {}", token_words(&rules, &request, &verdict, &issuers, now).await))?;
        for Consulted { service, outcome, took, .. } in &verdict.consulted {
            super::say(format_args!("service:  {service} says {outcome}, after {} ms", took.as_millis()))?;
        }
        for missed in &verdict.missed {
            super::say(format_args!("tried:    {}", missed.words))?;
        }
        match verdict.decision {
            Ok(Allowed::Electric(upstream)) => {
                print(&upstream, &rules)?;
                super::say(format_args!("decision: allow"))?;
                Ok(ExitCode::SUCCESS)
            }
            Ok(Allowed::Own(outcome)) => {
                super::say(format_args!("decision: allow, {outcome}"))?;
                Ok(ExitCode::SUCCESS)
            }
            Err(rejection) => {
                super::say(format_args!("reason:   {}", rejection.reason().as_str()))?;
                super::say(format_args!("decision: deny, {}", super::words(&rejection)))?;
                Ok(ExitCode::FAILURE)
            }
        }
    }

    /// Returns the court, and the issuers whose keys it fetches.
    fn court(&self, now: UnixTime) -> anyhow::Result<(Court, Vec<RemoteIssuer>)> {
        // Without a token there is nothing to verify.
        if self.token.is_none() {
            return Ok((Court::for_claims(&self.config, now)?, Vec::new()));
        }
        let config = super::load(&self.config)?;
        let issuers = config.issuers.iter().filter_map(RemoteIssuer::of).collect();
        Ok((Court::for_tokens(config, now)?, issuers))
    }

    fn request(&self, court: &Court) -> anyhow::Result<Request> {
        let token = match (&self.claims, &self.token) {
            (Some(claims), _) => Some(court.sign(trial::claims(&super::argument("--claims", claims)?)?)?),
            (None, Some(token)) => Some(super::argument("--token", token)?),
            (None, None) => None,
        };
        let body = self.body.as_deref().map(|body| super::argument("--body", body)).transpose()?;
        let default = if body.is_some() { Method::POST } else { Method::GET };
        Ok(Request {
            method: self.method.clone().unwrap_or(default),
            target: Request::target_of(&self.url)?,
            token,
            body: body.map(String::into_bytes),
        })
    }
}

/// Describes the caller, or what is wrong with its token.
async fn token_words(
    rules: &Rules,
    request: &Request,
    verdict: &Verdict,
    issuers: &[RemoteIssuer],
    now: UnixTime,
) -> String {
    if let Some(principal) = &verdict.principal {
        return caller(principal);
    }
    let (token, error) = match (request.token.as_deref().map(BearerToken::new), verdict.token_error) {
        (None, _) => return "none".to_owned(),
        (Some(Err(error)), _) => return format!("the token is rejected: {error}"),
        (Some(Ok(_)), None) => return "not looked at".to_owned(),
        (Some(Ok(token)), Some(error)) => (token, error),
    };
    let why = match (rules.verifier.explain(&token, error, now), error) {
        (Some(why), _) => why,
        (None, TokenError::KeysUnavailable { .. }) => keys_error(issuers).await,
        // The name says all, and docs/reasons.md what it means.
        (None, TokenError::Invalid(reason)) => return format!("the token is rejected: {}", reason.as_str()),
        (None, error) => error.to_string(),
    };
    format!("the token is rejected: {}: {why}", error.as_str())
}

fn caller(principal: &Principal) -> String {
    let (issuer, subject) = (principal.issuer(), principal.subject().unwrap_or("none"));
    let until = UNIX_EPOCH + Duration::from_secs(principal.expires_at().as_secs());
    format!("valid; issuer {issuer}, subject {subject}, until {}", humantime::format_rfc3339_seconds(until))
}

/// Says what is wrong with the key sets that cannot be fetched.
async fn keys_error(issuers: &[RemoteIssuer]) -> String {
    let mut errors = Vec::new();
    for issuer in issuers {
        errors.extend(issuer.fetch().await.err());
    }
    if errors.is_empty() { "the key set can be fetched now".to_owned() } else { errors.join("; ") }
}

/// Prints the request that would be sent to Electric.
fn print(upstream: &UpstreamRequest, rules: &Rules) -> std::io::Result<()> {
    let line = rules.policy.rules().find(|(id, _)| *id == upstream.rule()).map_or(0, |(_, rule)| rule.line());
    let place = if line == 0 { String::new() } else { format!(" (line {line})") };
    super::say(format_args!("rule:     {}{place}", upstream.rule().as_str()))?;
    if upstream.has_client_where() {
        super::say(format_args!("client:   its where is combined with the rule's by AND"))?;
    }
    let name = upstream.upstream();
    super::say(format_args!("electric: {}", rules.upstreams.describe(name, upstream.definition())))?;
    let secret = rules.upstreams.secrets(name).next();
    super::say(format_args!("upstream: {}", upstream.redacted_target(secret)))?;
    super::say(format_args!("shape:    {} (as in the audit log)", hex(&upstream.shape_digest())))?;
    match upstream.body() {
        Some(body) => {
            super::say(format_args!("subset:   POST {body}"))?;
            super::say(format_args!("key:      none: the response to a subset is not shared"))
        }
        None => super::say(format_args!("key:      {} (equal for equal upstream name and URL above)", upstream.key())),
    }
}
