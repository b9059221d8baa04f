//! Reads secrets from `{ env = … }`, `{ file = … }` or `{ credential = … }`.

use std::path::Path;

use toml::de::DeValue;

use crate::auth::keys::Key;
use crate::auth::{Algorithm, SharedSecret};
use crate::config::Environment;
use crate::config::raw::Value;
use crate::owner;
use crate::secret::Secret;

const REMEDY: &str = r#"write { env = "NAME" }, { file = "/path" } or { credential = "name" }"#;

/// Reads a secret of at least `least` bytes.
///
/// Errors show neither the secret nor the path or name written in the file, in case the secret itself was written
/// there. Only a name that looks like an environment variable is shown.
pub(super) fn secret(value: Value<'_>, least: usize, environment: &Environment) -> Option<Secret> {
    let DeValue::Table(_) = value.raw() else {
        value.error(format!("secrets are never written in this file: {REMEDY}"));
        return None;
    };
    let mut section = value.section()?;
    let (env, file, name) = (section.value("env"), section.value("file"), section.value("credential"));
    let found = match (&env, &file, &name) {
        (Some(_), None, None) | (None, Some(_), None) | (None, None, Some(_)) if environment.is_deploy() => {
            return Some(Secret::new("unknown at deploy time"));
        }
        (Some(value), None, None) => variable(value.text()?, environment),
        (None, Some(value), None) => {
            let path = value.path()?;
            warn_if_readable(value, &path);
            contents(&path)
        }
        (None, None, Some(value)) => credential(value.text()?, environment),
        _ => Err(format!("needs exactly one source: {REMEDY}")),
    };
    let long_enough = found.and_then(|text| match text.len() {
        _ if text.trim().is_empty() => Err("the secret is empty".to_owned()),
        bytes if bytes < least => Err(format!("the secret has {bytes} bytes: it needs at least {least}")),
        // An HMAC secret: the verifier rejects the same ones.
        _ if least > 1 && is_weak(&text) => {
            Err("the secret is one byte repeated, or a published example: make one with `openssl rand -hex 32`"
                .to_owned())
        }
        _ => Ok(Secret::new(text)),
    });
    let secret = long_enough.map_err(|message| section.error_here(message)).ok()?;
    if secret.is_development() {
        for key in ["env", "file", "credential"].into_iter().filter(|key| section.has(key)) {
            section.warning(key, "a key of `shapegate token`, for development only: generate another for production");
        }
    }
    Some(secret)
}

/// Whether a text is refused as a shared secret although it is long enough (docs/security.md, T4).
fn is_weak(text: &str) -> bool {
    Key::shared(&SharedSecret { algorithm: Algorithm::Hs256, secret: Secret::new(text) }).is_err()
}

fn variable(name: &str, environment: &Environment) -> Result<String, String> {
    environment.variable(name).ok_or_else(|| {
        let conventional = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let shown = if name.chars().all(conventional) { name } else { "of this name" };
        format!(
            "the environment variable {shown} is not set, or is not UTF-8 (`check --without-secrets` does not need it)"
        )
    })
}

fn credential(name: &str, environment: &Environment) -> Result<String, String> {
    if name.contains('/') || name == ".." {
        return Err("the name of a credential is one file name, without `/`".to_owned());
    }
    let folder = environment.credentials_directory();
    let folder = folder.ok_or("$CREDENTIALS_DIRECTORY is not set: add LoadCredential= to the systemd unit")?;
    contents(&folder.join(name))
}

/// Warns if every user can read the secret in this file.
pub(super) fn warn_if_readable(value: &Value<'_>, path: &Path) {
    if owner::all_can_read(path) {
        value.warning(
            "every user of this machine can read this file: make it 0600, or put it into a folder of mode 0700",
        );
    }
}

/// Reads a file and removes newlines at its end.
fn contents(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|cause| format!("the secret's file cannot be read: {cause}"))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
