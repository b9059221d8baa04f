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

use std::collections::BTreeMap;
use std::path::Path;

use crate::auth::IssuerSettings;
use crate::flight::CacheSettings;
use crate::gatekeeper::Gatekeeper;
use crate::limits::LimitSettings;
use crate::policy::PolicySet;
use crate::proxy::CorsSettings;
use crate::telemetry::{AuditSettings, LogSettings, OtelSettings};
use crate::upstream::UpstreamSettings;

pub use environment::Environment;
pub use error::{ConfigError, ConfigErrors};
pub use file::ConfigFile;
pub use server::{ServerSettings, TlsSettings};

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

    /// Loads a file without its secrets and key files, to find its other errors. The result cannot serve.
    ///
    /// # Errors
    /// Every error in the file, or the reason why it cannot be read.
    pub fn load_without_secrets(path: &Path) -> Result<Self, ConfigErrors> {
        Self::read(path, &Environment::Deploy)
    }

    /// Loads only the issuers of a file, without its secrets and key files: for `shapegate jwks` on a build machine.
    ///
    /// # Errors
    /// Every error in the file, or the reason why it cannot be read.
    pub fn load_issuers(path: &Path) -> Result<Vec<IssuerSettings>, ConfigErrors> {
        Self::read(path, &Environment::Deploy).map(|config| config.issuers)
    }

    fn read(path: &Path, environment: &Environment) -> Result<Self, ConfigErrors> {
        let text = std::fs::read_to_string(path).map_err(|cause| ConfigErrors::unreadable(path, &cause))?;
        let file = Some(ConfigFile::of(path, &text));
        Self::parse(&text, path, environment).map(|config| Self { file, ..config })
    }

    /// Parses the text of `file`. Relative paths in it are resolved against the folder of `file`.
    ///
    /// # Errors
    /// Every error in the text, sorted by line.
    pub fn parse(text: &str, file: &Path, environment: &Environment) -> Result<Self, ConfigErrors> {
        let document = raw::Document::new(text, file);
        let table = document.table();
        let config =
            table.as_ref().and_then(|table| resolve::config(raw::Section::root(&document, table), environment));
        let config = config.map(|config| Self { warnings: document.warnings(), ..config });
        drop(table);
        document.finish(config)
    }
}

/// `[probe]`: the sample request of `check --probe`.
#[derive(Clone, Debug)]
pub struct ProbeSettings {
    /// Sample claims, as a JSON object.
    pub claims: String,
    /// Sample query parameters of a client, as in a URL.
    pub query: String,
}
