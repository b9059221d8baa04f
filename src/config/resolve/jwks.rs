//! Resolves `jwks` of an `[[issuer]]`: public keys from a file, a URL or both.

use url::{Host, Url};

use super::{hours, millis, secs};
use crate::auth::Algorithm;
use crate::auth::RemoteKeys;
use crate::auth::keys::KeySet;
use crate::config::Environment;
use crate::config::raw::{Bounds, Section, Value};

/// Settings that have no effect without `url`.
const REMOTE: [&str; 6] =
    ["refresh", "cooldown", "timeout", "max_stale", "danger_plain_http", "danger_private_address"];

/// Resolves the section: the set of the file and the endpoint. `algorithms` is `None` if the list has an error; the key file is then not read.
pub(super) fn published(
    mut section: Section<'_>,
    algorithms: Option<&[Algorithm]>,
    environment: &Environment,
) -> (Option<KeySet>, Option<RemoteKeys>) {
    let file = section.value("file");
    let url = section.value("url");
    if file.is_none() && url.is_none() {
        section.error_here("needs a source: write `url`, `file` or both");
    }
    let remote = remote(&mut section, url);
    let file = file.filter(|_| !environment.is_deploy());
    let fixed = file.and_then(|value| key_set(&value, algorithms?));
    (fixed, remote)
}

fn key_set(value: &Value<'_>, algorithms: &[Algorithm]) -> Option<KeySet> {
    let bytes = std::fs::read(value.path()?).map_err(|cause| value.error(format!("cannot be read: {cause}"))).ok()?;
    KeySet::parse(&bytes, algorithms)
        .map_err(|cause| value.error(format!("contains no usable key set: {cause}")))
        .map(|parsed| parsed.set)
        .ok()
}

fn remote(section: &mut Section<'_>, url: Option<Value<'_>>) -> Option<RemoteKeys> {
    let refresh = section.duration("refresh", secs(600), Bounds::new(secs(30), hours(1)));
    let cooldown = section.duration("cooldown", secs(30), Bounds::new(secs(1), secs(600)));
    let timeout = section.duration("timeout", secs(5), Bounds::new(millis(100), secs(5)));
    let max_stale = section.duration("max_stale", hours(24), Bounds::new(secs(30), hours(30 * 24)));
    let plain_http = section.boolean("danger_plain_http", false);
    let private_address = section.boolean("danger_private_address", false);

    let Some(url) = url else {
        for key in REMOTE.into_iter().filter(|key| section.has(key)) {
            section.error(key, "has no effect without `url`: remove it");
        }
        return None;
    };
    if max_stale < refresh {
        section.error(
            "max_stale",
            "is shorter than `refresh` (default 10m): every key set would expire before it is refreshed",
        );
    }
    let url = endpoint(&url, plain_http)?;
    let private_address = private_address || is_private(&url);
    Some(RemoteKeys { url, refresh, cooldown, timeout, max_stale, private_address })
}

/// Parses the URL. Errors do not show it, because it may contain a password.
fn endpoint(value: &Value<'_>, plain_http: bool) -> Option<Url> {
    let parsed = Url::parse(value.text()?).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let Some(url) = parsed else {
        value.error(r#"not a URL: write the full URL, as in "https://auth.example.com/.well-known/jwks.json""#);
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        value.error("must not contain user, password or fragment: remove them");
        return None;
    }
    if url.scheme() == "http" && !plain_http && !is_loopback(&url) {
        value.error(
            "keys fetched over plain http can be replaced in transit: write https, or `danger_plain_http = true`",
        );
        return None;
    }
    Some(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Returns whether the host is written as a private or loopback address: connecting to one is then intended.
fn is_private(url: &Url) -> bool {
    let private = match url.host() {
        Some(Host::Ipv4(address)) => address.is_private(),
        Some(Host::Ipv6(address)) => address.is_unique_local(),
        Some(Host::Domain(_)) | None => false,
    };
    private || is_loopback(url)
}
