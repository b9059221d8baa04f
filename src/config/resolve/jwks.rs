//! Resolves `jwks` of an `[[issuer]]`: public keys from a file, a URL or both.

use super::endpoint::{ACCESS, Access, Purpose, access};
use super::{hours, secs};
use crate::auth::Algorithm;
use crate::auth::RemoteKeys;
use crate::auth::keys::KeySet;
use crate::config::Environment;
use crate::config::raw::{Bounds, Section, Value};

/// Settings that have no effect without an endpoint, beside [`ACCESS`].
const REMOTE: [&str; 3] = ["refresh", "cooldown", "max_stale"];

const SET: Purpose = Purpose {
    example: "https://auth.example.com/.well-known/jwks.json",
    risk: "keys fetched over plain http can be replaced in transit",
};

const METADATA: Purpose = Purpose {
    example: "https://auth.example.com",
    risk: "`discover` over plain http lets keys be replaced in transit",
};

/// Resolves the section: the set of the file, and the endpoint. `discovered` is the issuer's name with
/// `discover = true`. `algorithms` is `None` if the list has an error; the key file is then not read.
pub(super) fn published(
    mut section: Section<'_>,
    discovered: Option<&Value<'_>>,
    algorithms: Option<&[Algorithm]>,
    environment: &Environment,
) -> (Option<KeySet>, Option<RemoteKeys>) {
    let file = section.value("file");
    let url = section.value("url");
    match (&url, discovered) {
        (Some(url), Some(_)) => url.error("contradicts `discover = true`, which finds the URL: remove one of them"),
        (None, None) if file.is_none() => section.error_here("needs a source: write `url`, `file` or both"),
        _ => {}
    }
    let remote = remote(&mut section, url, discovered, environment);
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

fn remote(
    section: &mut Section<'_>,
    url: Option<Value<'_>>,
    discovered: Option<&Value<'_>>,
    environment: &Environment,
) -> Option<RemoteKeys> {
    let refresh = section.duration("refresh", secs(600), Bounds::new(secs(30), hours(1)));
    let cooldown = section.duration("cooldown", secs(30), Bounds::new(secs(1), secs(600)));
    let access: Access<'_> = access(section, secs(5));
    let max_stale = section.duration("max_stale", hours(24), Bounds::new(secs(30), hours(30 * 24)));

    if url.is_none() && discovered.is_none() {
        for key in REMOTE.into_iter().chain(ACCESS).filter(|key| section.has(key)) {
            section.error(key, "has no effect without `url`: remove it");
        }
        return None;
    }
    if max_stale < refresh {
        section.error(
            "max_stale",
            "is shorter than `refresh` (default 10m): every key set would expire before it is refreshed",
        );
    }
    let (endpoint, metadata_of) = match (url, discovered) {
        (Some(url), _) => (access.endpoint(&url, &SET, environment)?, None),
        (None, Some(issuer)) => (access.endpoint(issuer, &METADATA, environment)?, Some(issuer.text()?.to_owned())),
        (None, None) => return None,
    };
    Some(RemoteKeys { endpoint, metadata_of, refresh, cooldown, max_stale })
}
