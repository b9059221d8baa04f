//! Tries a configuration against the real world: each key set, each secret of Electric, and each rule.

use std::process::ExitCode;
use std::sync::Arc;

use super::keys::RemoteIssuer;
use super::{Usage, say};
use crate::auth::Claims;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::policy::Scope;
use crate::proxy::{Electric, Rules, rewrite};
use crate::shape::ShapeRequest;

/// Probes everything, and prints a line for each. `claims` and `query` replace those of `[probe]`.
pub(super) async fn run(config: Config, claims: Option<String>, query: Option<&str>) -> anyhow::Result<ExitCode> {
    let claims = claims.as_ref().unwrap_or(&config.probe.claims);
    let claims = Claims::sample(claims).ok_or(Usage("--claims: give a JSON object"))?;
    // With these parameters, Electric creates the shape but neither takes a snapshot nor sends rows
    // (tests/electric/09).
    let query = format!("{}&offset=now&log=changes_only", query.unwrap_or(&config.probe.query));
    let issuers: Vec<_> = config.issuers.iter().filter_map(RemoteIssuer::of).collect();
    let metrics = Arc::new(Metrics::new()?);
    let (gateway, proxy) = super::gateway(config, Arc::new(SystemClock), Arc::clone(&metrics))?;
    let rules = gateway.rules();
    let request = ShapeRequest::parse(Some("/"), &query, rules.policy.parameters()).map_err(|_| {
        Usage("--query, or `query` of [probe]: give name=value pairs without Electric's own parameters")
    })?;
    let electric = Electric::new(Arc::downgrade(&proxy), Arc::clone(&rules.upstreams), metrics, None);
    let keys = probe_keys(&issuers).await?;
    let secrets = probe_secrets(&rules).await?;
    // With a wrong secret, Electric would say the same of each rule.
    let shapes = secrets && probe_rules(&rules, &electric, &request, &claims).await?;
    Ok(if keys && secrets && shapes { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints a result. Returns whether it is a success.
fn report(subject: &str, result: Result<String, String>) -> std::io::Result<bool> {
    let success = result.is_ok();
    say(format_args!("{subject}: {}", result.unwrap_or_else(|problem| problem)))?;
    Ok(success)
}

async fn probe_keys(issuers: &[RemoteIssuer]) -> std::io::Result<bool> {
    let mut success = true;
    for issuer in issuers {
        let fetched = issuer.fetch().await.map(|parsed| match parsed.rejected.len() {
            0 => format!("ok, {}", super::count(parsed.set.len(), "key")),
            rejected => format!("ok, {}, {rejected} not usable", super::count(parsed.set.len(), "key")),
        });
        success &= report(&format!("issuer {}", issuer.name), fetched)?;
    }
    Ok(success)
}

async fn probe_secrets(rules: &Rules) -> std::io::Result<bool> {
    let mut success = true;
    for (server, checked) in rules.upstreams.check_secrets().await {
        success &= report(&server, checked.map(|()| "ok".to_owned()))?;
    }
    Ok(success)
}

async fn probe_rules(
    rules: &Rules,
    electric: &Electric,
    request: &ShapeRequest,
    claims: &Claims,
) -> std::io::Result<bool> {
    let scope = Scope::new(Some(claims.cel()), request.parameters(), SystemClock.now());
    let mut success = true;
    for (rule, permit) in rules.policy.samples(&scope) {
        let answer = match permit.map(|permit| rewrite(rules, request, permit)) {
            None => Err("not probed: `where` or `upstream` lacks a value; give it in --claims or --query (a decision cannot be given)".to_owned()),
            Some(Err(rejection)) => Err(format!("not probed: {}", super::words(&rejection))),
            Some(Ok(upstream)) => electric.probe(upstream).await,
        };
        success &= report(&rule, answer.map(|()| "ok".to_owned()))?;
    }
    Ok(success)
}
