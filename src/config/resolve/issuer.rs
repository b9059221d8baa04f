//! Resolves `[[issuer]]`.

use std::sync::Arc;

use super::secret::secret;
use super::{hours, jwks, secs};
use crate::auth::Algorithm;
use crate::auth::{IssuerSettings, KeySource, Requirement};
use crate::config::Environment;
use crate::config::raw::{Bounds, Section, Value};
use crate::policy::ClaimRequirement;
use crate::shape::ShapeClaims;

/// The minimum size of an HS256 secret in bytes: the size of the hash (RFC 7518 section 3.2).
pub(super) const SHARED_SECRET_BYTES: usize = 32;

const NO_AUDIENCE: &str = "missing: write the value that `aud` must contain; there is no default. For tokens without \
                           `aud`, write a condition on another claim, as in require = \"claims.azp == 'my-app'\"";

/// Resolves every issuer; `None` if one has an error.
pub(super) fn issuers(sections: Vec<Section<'_>>, environment: &Environment) -> Option<Vec<IssuerSettings>> {
    let mut seen: Vec<(&str, usize)> = Vec::new();
    let mut issuers = Vec::new();
    for mut section in sections {
        let value = section.required("issuer", "write the exact `iss` of its tokens");
        let name = value.as_ref().and_then(Value::text);
        if let (Some(value), Some(name)) = (&value, name) {
            match seen.iter().find(|(other, _)| *other == name) {
                Some((_, line)) => {
                    value.error(format!("the same issuer as on line {line}: write one table for each issuer"))
                }
                None => seen.push((name, value.line())),
            }
        }
        issuers.push(issuer(section, name, environment));
    }
    issuers.into_iter().collect()
}

fn issuer(mut section: Section<'_>, name: Option<&str>, environment: &Environment) -> Option<IssuerSettings> {
    let (audience, require) = (section.value("audience"), section.value("require"));
    if audience.is_none() && require.is_none() {
        section.error("audience", NO_AUDIENCE);
    }
    let leeway = section.duration("leeway", secs(5), Bounds::new(secs(0), secs(60)));
    let max_lifetime = section.value("max_lifetime");
    let types = section.value("types");
    let shape_claim = section.boolean("shape_claim", false);
    let keys = keys(&mut section, environment);

    let audience = audience.map_or_else(|| Some(Vec::new()), |value| value.texts());
    let require = require.and_then(|value| requirement(&value));
    let max_lifetime = max_lifetime.and_then(|value| value.duration(Bounds::new(secs(1), hours(24 * 365))));
    let types =
        types.and_then(|value| token_types(&value)).unwrap_or_else(|| vec!["jwt".to_owned(), "at+jwt".to_owned()]);
    let (keys, algorithms) = keys?;
    let shape_claims = if shape_claim { ShapeClaims::Honoured } else { ShapeClaims::Ignored };
    let (issuer, audience) = (name?.to_owned(), audience?);
    Some(IssuerSettings { issuer, audience, require, algorithms, keys, leeway, max_lifetime, types, shape_claims })
}

/// Compiles `require`. One with an error reads as absent, because a file with an error is rejected anyway.
fn requirement(value: &Value<'_>) -> Option<Arc<dyn Requirement>> {
    let compiled = ClaimRequirement::compile(value.text()?).map_err(|message| value.error(message)).ok()?;
    Some(Arc::new(compiled))
}

/// Reads the keys, public or shared, and the algorithms they are used with.
fn keys(section: &mut Section<'_>, environment: &Environment) -> Option<(KeySource, Vec<Algorithm>)> {
    let jwks = section.value("jwks");
    let shared = section.value("hs256");
    let algorithms = match &shared {
        None => section
            .required("algorithms", r#"write the algorithms that the issuer signs with, as in ["EdDSA", "ES256"]"#),
        Some(_) => section.value("algorithms"),
    };
    let listed = |symmetric| algorithms.as_ref().and_then(|value| algorithm_list(value, symmetric));
    match (jwks, shared) {
        (Some(jwks), None) => {
            let algorithms = listed(false);
            let keys = jwks::published(jwks.section()?, algorithms.as_deref(), environment);
            Some((keys, algorithms?))
        }
        (None, Some(shared)) => {
            listed(true);
            Some((KeySource::Shared(secret(shared, SHARED_SECRET_BYTES, environment)?), vec![Algorithm::Hs256]))
        }
        _ => {
            section.error_here("needs exactly one of `jwks` (public keys) and `hs256` (one shared secret)");
            None
        }
    }
}

/// Reads a list of distinct algorithms: all symmetric if `symmetric`, otherwise none.
fn algorithm_list(value: &Value<'_>, symmetric: bool) -> Option<Vec<Algorithm>> {
    let mut algorithms = Vec::new();
    let values = value.list()?;
    for value in &values {
        match value.text()?.parse::<Algorithm>() {
            Err(unknown) => value.error(unknown.to_string()),
            Ok(algorithm) if algorithms.contains(&algorithm) => {
                value.error(format!("{algorithm} is given more than once"))
            }
            Ok(algorithm) if algorithm.is_symmetric() != symmetric => value.error(mismatch(algorithm)),
            Ok(algorithm) => algorithms.push(algorithm),
        }
    }
    (algorithms.len() == values.len()).then_some(algorithms)
}

fn mismatch(algorithm: Algorithm) -> String {
    if algorithm.is_symmetric() {
        format!("{algorithm} needs a shared secret, not `jwks`: remove it, or write an issuer with `hs256`")
    } else {
        format!("{algorithm} needs public keys, not `hs256`: remove it, or write an issuer with `jwks`")
    }
}

/// Normalizes `typ` values for comparison: lower case, without `application/` (RFC 7515 section 4.1.9).
fn token_types(value: &Value<'_>) -> Option<Vec<String>> {
    let types = value.texts()?.into_iter().map(|name| name.to_ascii_lowercase());
    Some(types.map(|name| name.strip_prefix("application/").unwrap_or(&name).to_owned()).collect())
}
