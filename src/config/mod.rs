//! The configuration: a TOML file becomes a [`Config`] that cannot be invalid.
//!
//! `raw` mirrors the file and knows where each key stands; `resolve` fills the settings, whose types stand
//! beside the code that uses them, and collects every error on the way, each with file, line and key. Nothing reads the
//! file after that.

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

/// Everything a running shapegate is told.
#[derive(Debug)]
pub struct Config {
    /// Listeners, threads, drain.
    pub server: ServerSettings,
    /// Where Electric is and how to speak to it: for every rule that names no other.
    pub upstream: UpstreamSettings,
    /// Further Electrics, by the names that rules call them by.
    pub upstreams: BTreeMap<String, UpstreamSettings>,
    /// Whose tokens are accepted, the gatekeeper's own at the end; empty only where every rule is public.
    pub issuers: Vec<IssuerSettings>,
    /// The compiled `[[shape]]` rules.
    pub policy: PolicySet,
    /// Where shape tokens are minted, if anywhere.
    pub gatekeeper: Option<Gatekeeper>,
    /// What browsers are told.
    pub cors: CorsSettings,
    /// Sizes and budgets.
    pub limits: LimitSettings,
    /// What is shared and kept.
    pub cache: CacheSettings,
    /// What is logged and how.
    pub log: LogSettings,
    /// What `check --probe` tries the rules with.
    pub probe: ProbeSettings,
    /// Who has read what; `None` keeps no audit log.
    pub audit: Option<AuditSettings>,
    /// Where spans of requests go; `None` records none.
    pub otel: Option<OtelSettings>,
    /// What can be better about the file, by line; none of it keeps the file from being used.
    pub warnings: Vec<ConfigError>,
    /// The file it was read from; `None` where it was not read from one.
    pub file: Option<ConfigFile>,
}

impl Config {
    /// Reads a file, with the environment of this process.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::read(path, &Environment::Process)
    }

    /// The issuers of a file, on a machine that has neither its secrets nor its key files: for `shapegate jwks`.
    pub fn load_issuers(path: &Path) -> Result<Vec<IssuerSettings>, ConfigErrors> {
        Self::read(path, &Environment::Deploy).map(|config| config.issuers)
    }

    fn read(path: &Path, environment: &Environment) -> Result<Self, ConfigErrors> {
        let text = std::fs::read_to_string(path).map_err(|cause| ConfigErrors::unreadable(path, &cause))?;
        let file = Some(ConfigFile::of(path, &text));
        Self::parse(&text, path, environment).map(|config| Self { file, ..config })
    }

    /// Resolves the text of `file`. Paths in it that are relative start at the folder of `file`.
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

/// `[probe]`.
#[derive(Clone, Debug)]
pub struct ProbeSettings {
    /// The claims of no token, as a JSON object.
    pub claims: String,
    /// A client's parameters, as in a URL.
    pub query: String,
}
