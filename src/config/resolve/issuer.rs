//! Resolves `[[issuer]]`.

use std::sync::Arc;

use super::secret::secret;
use super::{hours, introspection, jwks, secs};
use crate::auth::Algorithm;
use crate::auth::{IssuerSettings, KeySource, Requirement, SharedSecret};
use crate::config::Environment;
use crate::config::raw::{Bounds, Section, Value};
use crate::policy::ClaimRequirement;
use crate::shape::ShapeClaims;

const NO_AUDIENCE: &str = "missing: write the value that `aud` must contain; there is no default. For tokens without \
                           `aud`, write a condition on another claim, as in require = \"claims.azp == 'my-app'\"";

/// Resolves every issuer; `None` if one has an error.
pub(super) fn issuers(sections: Vec<Section<'_>>, environment: &Environment) -> Option<Vec<IssuerSettings>> {
    let mut seen: Vec<(&str, usize)> = Vec::new();
    let mut issuers = Vec::new();
    let mut introspects = false;
    for mut section in sections {
        if section.has("introspection") && std::mem::replace(&mut introspects, true) {
            section
                .error("introspection", "is in another [[issuer]] too: an opaque token does not say which one to ask");
        }
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
        issuers.push(issuer(section, value.as_ref().filter(|_| name.is_some()), environment));
    }
    issuers.into_iter().collect()
}

fn issuer(mut section: Section<'_>, name: Option<&Value<'_>>, environment: &Environment) -> Option<IssuerSettings> {
    let (audience, require) = (section.value("audience"), section.value("require"));
    if audience.is_none() && require.is_none() {
        section.error("audience", NO_AUDIENCE);
    }
    let leeway = section.duration("leeway", secs(5), Bounds::new(secs(0), secs(60)));
    let max_lifetime = section.value("max_lifetime");
    let types = section.value("types");
    let cookie = section.value("cookie");
    let shape_claim = section.boolean("shape_claim", false);
    let introspection = section.value("introspection");
    let introspects = introspection.is_some();
    let introspection =
        introspection.and_then(Value::section).map(|section| introspection::introspection(section, environment));
    let discovered = section.boolean("discover", false).then_some(name).flatten();
    let keys = keys(&mut section, discovered, introspects, environment);

    let audience = audience.map_or_else(|| Some(Vec::new()), |value| value.texts());
    let require = require.and_then(|value| requirement(&value));
    let max_lifetime = max_lifetime.and_then(|value| value.duration(Bounds::new(secs(1), hours(24 * 365))));
    let types =
        types.and_then(|value| token_types(&value)).unwrap_or_else(|| vec!["jwt".to_owned(), "at+jwt".to_owned()]);
    let cookie = cookie.and_then(|value| cookie_name(&value));
    let (keys, algorithms) = keys?;
    let shape_claims = if shape_claim { ShapeClaims::Honoured } else { ShapeClaims::Ignored };
    let (issuer, audience) = (name?.text()?.to_owned(), audience?);
    let introspection = match introspection {
        Some(read) => Some(read?),
        None if introspects => return None,
        None => None,
    };
    Some(IssuerSettings {
        issuer,
        audience,
        require,
        algorithms,
        keys,
        introspection,
        leeway,
        max_lifetime,
        types,
        cookie,
        shape_claims,
    })
}

/// Reads the name of a cookie (RFC 6265 section 4.1.1).
fn cookie_name(value: &Value<'_>) -> Option<Arc<str>> {
    let name = value.text()?;
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)) {
        value.error("not the name of a cookie: write letters, digits and - _ ., as in \"__session\"");
        return None;
    }
    Some(name.into())
}

/// Compiles `require`. One with an error reads as absent, because a file with an error is rejected anyway.
fn requirement(value: &Value<'_>) -> Option<Arc<dyn Requirement>> {
    let compiled = ClaimRequirement::compile(value.text()?).map_err(|message| value.error(message)).ok()?;
    Some(Arc::new(compiled))
}

/// The keys of shared secrets: the current one, the next one, and their algorithm.
const SHARED: [(&str, &str, Algorithm); 3] = [
    ("hs256", "hs256_next", Algorithm::Hs256),
    ("hs384", "hs384_next", Algorithm::Hs384),
    ("hs512", "hs512_next", Algorithm::Hs512),
];

/// Reads the public keys and shared secrets, and the algorithms they are used with.
fn keys(
    section: &mut Section<'_>,
    discovered: Option<&Value<'_>>,
    introspects: bool,
    environment: &Environment,
) -> Option<(KeySource, Vec<Algorithm>)> {
    let jwks = section.value("jwks");
    let shared = shared_secrets(section, environment);
    let published = jwks.is_some() || discovered.is_some();
    let algorithms = match published {
        true => section
            .required("algorithms", r#"write the algorithms that the issuer signs with, as in ["EdDSA", "ES256"]"#),
        false => section.value("algorithms"),
    };
    if !published && !introspects && !SHARED.iter().any(|(key, ..)| section.has(key)) {
        section.error_here(
            "needs keys: write `jwks` or `discover` (public keys), `hs256`, `hs384` or `hs512` (a shared secret), or `introspection`",
        );
        return None;
    }
    let has_secret = |algorithm: Algorithm| SHARED.iter().any(|(key, _, of)| *of == algorithm && section.has(key));
    let has_keys = |algorithm: Algorithm| if algorithm.is_symmetric() { has_secret(algorithm) } else { published };
    let public = match &algorithms {
        Some(value) => public_algorithms(value, has_keys),
        None => (!published).then(Vec::new),
    };
    if let (Some(value), Some([]), true) = (&algorithms, public.as_deref(), published) {
        value.error("names no algorithm for the public keys of `jwks`: add one, as in \"ES256\"");
    }
    let (fixed, remote) = if published {
        let jwks = jwks.map_or_else(|| Some(section.section("jwks")), Value::section)?;
        jwks::published(jwks, discovered, public.as_deref(), environment)
    } else {
        (None, None)
    };
    let (shared, mut accepted) = (shared?, public?);
    accepted.extend(shared.iter().map(|shared| shared.algorithm));
    accepted.dedup();
    Some((KeySource { shared, fixed, remote }, accepted))
}

/// Reads the shared secrets; `None` if one has an error.
fn shared_secrets(section: &mut Section<'_>, environment: &Environment) -> Option<Vec<SharedSecret>> {
    let mut secrets = Vec::new();
    for (key, next_key, algorithm) in SHARED {
        let (current, next) = (section.value(key), section.value(next_key));
        if let (None, Some(next)) = (&current, &next) {
            next.error(format!("has no effect without `{key}`: write the new secret there"));
        }
        let read = |value| {
            let secret = secret(value, algorithm.secret_bytes()?, environment)?;
            Some(SharedSecret { algorithm, secret })
        };
        secrets.extend([current, next].into_iter().flatten().map(read));
    }
    secrets.into_iter().collect()
}

/// Reads a list of distinct algorithms, each with keys, and returns the public-key ones.
fn public_algorithms(value: &Value<'_>, has_keys: impl Fn(Algorithm) -> bool) -> Option<Vec<Algorithm>> {
    let mut algorithms = Vec::new();
    let values = value.list()?;
    for value in &values {
        match value.text()?.parse::<Algorithm>() {
            Err(unknown) => value.error(unknown.to_string()),
            Ok(algorithm) if algorithms.contains(&algorithm) => {
                value.error(format!("{algorithm} is given more than once"))
            }
            Ok(algorithm) if !has_keys(algorithm) => value.error(no_keys(algorithm)),
            Ok(algorithm) => algorithms.push(algorithm),
        }
    }
    let valid = algorithms.len() == values.len();
    algorithms.retain(|algorithm| !algorithm.is_symmetric());
    valid.then_some(algorithms)
}

fn no_keys(algorithm: Algorithm) -> String {
    match SHARED.iter().find(|(_, _, of)| *of == algorithm) {
        Some((key, ..)) => format!("{algorithm} needs a shared secret: write `{key}`, or remove it here"),
        None => format!("{algorithm} needs public keys: write `jwks`, or remove it here"),
    }
}

/// Normalizes `typ` values for comparison: lower case, without `application/` (RFC 7515 section 4.1.9).
fn token_types(value: &Value<'_>) -> Option<Vec<String>> {
    let types = value.texts()?.into_iter().map(|name| name.to_ascii_lowercase());
    Some(types.map(|name| name.strip_prefix("application/").unwrap_or(&name).to_owned()).collect())
}
