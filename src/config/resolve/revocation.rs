//! Resolves `[revocation]`.

use std::path::PathBuf;
use std::sync::Arc;

use super::endpoint::{ACCESS, Purpose, access};
use super::secret::secret;
use super::{hours, secs};
use crate::auth::revocation::List;
use crate::auth::{RevocationSettings, RevocationSource};
use crate::config::Environment;
use crate::config::raw::{Bounds, Section, Value};

/// The minimum size of the secret for pushes, in bytes.
const SECRET_BYTES: usize = 32;

const LIST: Purpose = Purpose {
    example: "https://auth.example.com/revocations.json",
    risk: "plain http lets anyone on the network empty the list",
};

/// Resolves the section; `None` if it is missing or has an error.
pub(super) fn revocation(root: &mut Section<'_>, environment: &Environment) -> Option<RevocationSettings> {
    let mut section = root.value("revocation")?.section()?;
    let (file, url) = (section.value("file"), section.value("url"));
    let interval = section.duration("interval", secs(10), Bounds::new(secs(1), hours(1)));
    let pushed = section.value("secret");
    let keep = section.duration("keep", hours(24), Bounds::new(secs(60), hours(24 * 365)));
    let remote_push = section.boolean("danger_remote_push", false);
    let access = access(&mut section, secs(5));
    if url.is_none() {
        for key in ACCESS.into_iter().filter(|key| section.has(key)) {
            section.error(key, "has no effect without `url`: remove it");
        }
    }
    for key in ["keep", "danger_remote_push"].into_iter().filter(|key| pushed.is_none() && section.has(key)) {
        section.error(key, "has no effect without `secret`, which enables POST /revocations: remove it");
    }
    let (source, first) = match (file, url) {
        (Some(_), Some(url)) => {
            url.error("contradicts `file`: write one of them");
            return None;
        }
        (Some(file), None) => {
            let (path, list) = list_file(&file, environment)?;
            (Some(RevocationSource::File(path)), list)
        }
        (None, Some(url)) => (Some(RevocationSource::Url(access.endpoint(&url, &LIST, environment)?)), None),
        (None, None) => (None, None),
    };
    if source.is_none() && pushed.is_none() {
        section.error_here("revokes nothing: write `file` or `url` for a list, `secret` for pushes, or both");
    }
    let secret = match pushed {
        Some(value) => Some(secret(value, SECRET_BYTES, environment)?),
        None => None,
    };
    Some(RevocationSettings { source, first, interval, secret, remote_push, keep })
}

/// Reads the list, which must be readable and valid when the configuration is loaded. Returns it with its path; without
/// it if files are not read.
fn list_file(value: &Value<'_>, environment: &Environment) -> Option<(PathBuf, Option<Arc<List>>)> {
    let path = value.path()?;
    if environment.is_deploy() {
        return Some((path, None));
    }
    let list = List::read(&path).map_err(|problem| value.error(format!("{}: {problem}", path.display()))).ok()?;
    Some((path, Some(list.into())))
}
