//! Turns a TOML configuration file into a [`Config`] that cannot be invalid.
//!
//! `raw` mirrors the file and knows the line of each key. `resolve` fills the settings structs, which are defined next
//! to the code that uses them, and collects every error with its file, line and key. The file is not read after that.

mod environment;
mod error;
mod file;
mod raw;
mod resolve;
mod server;
#[cfg(test)]
mod tests;
mod variables;

use std::collections::BTreeMap;
use std::path::Path;

use crate::auth::{IssuerSettings, RevocationSettings};
use crate::decisions::ServiceSettings;
use crate::flight::CacheSettings;
use crate::gatekeeper::Gatekeeper;
use crate::limits::LimitSettings;
use crate::policy::PolicySet;
use crate::proxy::CorsSettings;
use crate::telemetry::{AuditSettings, LogSettings, OtelSettings};
use crate::upstream::UpstreamSettings;

pub use environment::Environment;
pub use error::{ConfigError, ConfigErrors, Severity};
pub use file::ConfigFile;
pub use server::{ListenAddress, ServerSettings, TlsSettings};

/// The complete configuration of a running shapegate.
#[derive(Debug)]
pub struct Config {
    /// `[server]`: listeners, threads, TLS and process lifecycle.
    pub server: ServerSettings,
    /// `[upstream]`: the Electric service used by every rule that names no other.
    pub upstream: UpstreamSettings,
    /// `[upstreams.NAME]`: further Electric services, by the name that rules use.
    pub upstreams: BTreeMap<String, UpstreamSettings>,
    /// The issuers whose tokens are accepted; the gatekeeper's own is the last. Empty only if every rule is public.
    pub issuers: Vec<IssuerSettings>,
    /// `[decisions.NAME]`: the services that rules ask, by name.
    pub decisions: BTreeMap<String, ServiceSettings>,
    /// `[revocation]`: tokens that end early; `None` revokes none.
    pub revocation: Option<RevocationSettings>,
    /// The compiled `[[shape]]` rules.
    pub policy: PolicySet,
    /// `[gatekeeper]`: how shape tokens are minted; `None` mints none.
    pub gatekeeper: Option<Gatekeeper>,
    /// `[cors]`: the CORS headers sent to browsers.
    pub cors: CorsSettings,
    /// `[limits]`: sizes, rates and concurrency limits.
    pub limits: LimitSettings,
    /// `[cache]`: which responses are shared and cached.
    pub cache: CacheSettings,
    /// `[log]`: log format, level and access log.
    pub log: LogSettings,
    /// `[probe]`: the claims and query that `check --probe` uses.
    pub probe: ProbeSettings,
    /// `[audit]`: where the audit log goes; `None` disables it.
    pub audit: Option<AuditSettings>,
    /// `[otel]`: where request spans are exported; `None` records none.
    pub otel: Option<OtelSettings>,
    /// Warnings about the file, sorted by line. They do not prevent its use.
    pub warnings: Vec<ConfigError>,
    /// The file it was read from; `None` if it was parsed from text.
    pub file: Option<ConfigFile>,
}

impl Config {
    /// Loads a file, with secrets from the environment of this process.
    ///
    /// # Errors
    /// Every error in the file, or the reason why it cannot be read.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::read(path, &Environment::Process)
    }

    /// Loads only the issuers of a file, without its secrets and key files: for `shapegate jwks` on a build machine.
    ///
    /// # Errors
    /// Every error in the file, or the reason why it cannot be read.
    pub fn load_issuers(path: &Path) -> Result<Vec<IssuerSettings>, ConfigErrors> {
        Self::load_without_secrets(path).map(|config| config.issuers)
    }

    /// Loads a file without its secrets and key files, to judge sample claims.
    ///
    /// # Errors
    /// Every error in the file, or the reason why it cannot be read.
    pub fn load_without_secrets(path: &Path) -> Result<Self, ConfigErrors> {
        Self::read(path, &Environment::Deploy)
    }

    fn read(path: &Path, environment: &Environment) -> Result<Self, ConfigErrors> {
        let bytes = std::fs::read(path)
            .map_err(|cause| ConfigErrors::of_file(path, None, format!("cannot be read: {cause}"), None))?;
        let text = String::from_utf8(bytes).map_err(|error| not_utf8(path, &error))?;
        let file = Some(ConfigFile::of(path, &text));
        Self::parse(&text, path, environment).map(|config| Self { file, ..config })
    }

    /// Parses the text of `file`. Relative paths in it are resolved against the folder of `file`.
    ///
    /// # Errors
    /// Every error in the text, sorted by line.
    pub fn parse(text: &str, file: &Path, environment: &Environment) -> Result<Self, ConfigErrors> {
        let document = raw::Document::new(text, file);
        let mut table = document.table();
        table.iter_mut().for_each(|table| variables::fill(table, environment, &document));
        let config =
            table.as_ref().and_then(|table| resolve::config(raw::Section::root(&document, table), environment));
        let config = config.map(|config| Self { warnings: document.warnings(), ..config });
        drop(table);
        document.finish(config)
    }
}

/// Describes where a file is not UTF-8.
fn not_utf8(path: &Path, error: &std::string::FromUtf8Error) -> ConfigErrors {
    let (bytes, valid) = (error.as_bytes(), error.utf8_error().valid_up_to());
    let is_utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    let encoding = if is_utf16 { ", but UTF-16" } else { "" };
    let line = 1 + bytes[..valid].iter().filter(|byte| **byte == b'\n').count();
    let message = format!("the file is not UTF-8{encoding}: the first wrong byte is 0x{:02x}", bytes[valid]);
    ConfigErrors::of_file(path, Some(line), message, Some("save it as UTF-8"))
}

/// `[probe]`: the sample request of `check --probe`.
#[derive(Clone, Debug)]
pub struct ProbeSettings {
    /// Sample claims, as a JSON object.
    pub claims: String,
    /// Sample query parameters of a client, as in a URL.
    pub query: String,
}

impl ProbeSettings {
    /// The names of the sample claims.
    fn names(&self) -> Vec<String> {
        let claims = serde_json::from_str(&self.claims).unwrap_or(serde_json::Map::new());
        claims.into_iter().map(|(name, _)| name).collect()
    }
}
