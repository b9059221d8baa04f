//! Resolves `[gatekeeper]`.

use url::Url;

use super::secret::secret;
use super::{hours, secs};
use crate::auth::{Algorithm, IssuerSettings};
use crate::config::Environment;
use crate::config::raw::{Bounds, Section, Value};
use crate::gatekeeper::{Gatekeeper, SigningKey};
use crate::policy::PolicySet;
use crate::secret::Secret;
use crate::shape::SHAPE_PATH;

const PATH: &str = "/gatekeeper";

/// Resolves the gatekeeper and the issuer of its tokens; `None` if the section is missing or has an error.
pub(super) fn gatekeeper(
    root: &mut Section<'_>,
    issuers: Option<&[IssuerSettings]>,
    policy: Option<&PolicySet>,
    environment: &Environment,
) -> Option<(Gatekeeper, IssuerSettings)> {
    let mut section = root.value("gatekeeper")?.section()?;
    let path = section.value("path");
    let issuer = section.required("issuer", "write the `iss` of minted tokens, as in \"https://shapes.example.com\"");
    let audience = section.required("audience", "write the `aud` of minted tokens");
    let lifetime = section.duration("lifetime", hours(2), Bounds::new(secs(60), hours(24)));
    let public_url = section.required("public_url", "write the URL of the shape path as clients reach it");
    let key = signing_key(&mut section, issuers, environment);

    let path = path.as_ref().map_or(Some(PATH), |value| own_path(value, policy));
    let issuer = issuer.and_then(|value| own_name(&value, issuers));
    let audience = audience.and_then(|value| value.texts());
    let public_url = public_url.and_then(|value| shape_url(&value));
    if path == Some(PATH) && !section.has("path") && shadows(PATH, policy) {
        section.error("path", format!("a [[shape]] has a path below {PATH}, the default: choose another"));
    }
    let gatekeeper = Gatekeeper {
        path: path?.to_owned(),
        issuer: issuer?.to_owned(),
        audience: audience?,
        lifetime,
        public_url: public_url?,
        key: key?,
    };
    let issuer = gatekeeper.issuer().map_err(|cause| section.error_here(cause.to_string())).ok()?;
    Some((gatekeeper, issuer))
}

/// Reads the signing key from `hs256` or `signing_key`. At deploy time neither key is available.
fn signing_key(
    section: &mut Section<'_>,
    issuers: Option<&[IssuerSettings]>,
    environment: &Environment,
) -> Option<SigningKey> {
    let (shared, file) = (section.value("hs256"), section.value("signing_key"));
    match (shared, file) {
        (Some(shared), None) => {
            let secret = secret(shared, Algorithm::Hs256.secret_bytes()?, environment)?;
            let known = |issuer: &IssuerSettings| issuer.keys.shared.iter().any(|other| other.secret == secret);
            if !environment.is_deploy() && issuers.is_some_and(|issuers| issuers.iter().any(known)) {
                section.error(
                    "hs256",
                    "is also the secret of an [[issuer]], which could then mint shape tokens: generate another",
                );
                return None;
            }
            Some(SigningKey::shared(secret))
        }
        (None, Some(file)) => pem(file, environment),
        _ => {
            section.error_here("needs exactly one of `hs256` (a shared secret) and `signing_key` (a private key)");
            None
        }
    }
}

fn pem(value: Value<'_>, environment: &Environment) -> Option<SigningKey> {
    let mut section = value.section()?;
    let file = section.required("file", "write the path of the private key (PEM)")?;
    if environment.is_deploy() {
        return Some(SigningKey::shared(Secret::new("unknown at deploy time")));
    }
    let pem = std::fs::read(file.path()?).map_err(|cause| file.error(format!("cannot be read: {cause}"))).ok()?;
    SigningKey::from_pem(&pem).map_err(|cause| file.error(cause.to_string())).ok()
}

/// Reads `path`: the same syntax as the `path` of a `[[shape]]`, with no shape path below it.
fn own_path<'a>(value: &Value<'a>, policy: Option<&PolicySet>) -> Option<&'a str> {
    let path = value.text()?;
    if !is_plain_path(path) {
        value.error("write /segments of letters, digits and - . _ ~ without a slash at the end");
    } else if path == SHAPE_PATH || is_below(SHAPE_PATH, path) {
        value.error(format!("{SHAPE_PATH} is where shapes are served: choose another"));
    } else if shadows(path, policy) {
        value.error("a [[shape]] has a path below this one: choose another");
    } else {
        return Some(path);
    }
    None
}

/// Whether a path is `/segments` of plain characters, none of them empty or hidden.
pub(super) fn is_plain_path(path: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
    path.starts_with('/')
        && path.chars().all(plain)
        && !path.ends_with('/')
        && !path.contains("//")
        && !path.contains("/.")
}

fn shadows(path: &str, policy: Option<&PolicySet>) -> bool {
    policy.is_some_and(|policy| policy.paths().any(|own| is_below(own, path)))
}

fn is_below(own: &str, path: &str) -> bool {
    own.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
}

/// Reads `issuer`, which no `[[issuer]]` may have: the verifier selects key and token type by this name.
fn own_name<'a>(value: &Value<'a>, issuers: Option<&[IssuerSettings]>) -> Option<&'a str> {
    let name = value.text()?;
    if issuers.is_some_and(|issuers| issuers.iter().any(|issuer| issuer.issuer == name)) {
        value.error("is also the name of an [[issuer]]: minted tokens need a separate one");
        return None;
    }
    Some(name)
}

fn shape_url(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let bare = |url: &Url| url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    if !url.as_ref().is_some_and(|url| bare(url) && url.password().is_none() && url.path().ends_with(SHAPE_PATH)) {
        value.error(format!(
            "not the URL of a shape path: write the full URL, as in \"https://sync.example.com{SHAPE_PATH}\""
        ));
        return None;
    }
    Some(text.to_owned())
}
