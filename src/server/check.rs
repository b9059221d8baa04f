//! Checks what a configuration needs on this machine: what a start would find only later.

use std::path::Path;

use super::tls;
use crate::config::{Config, ConfigError, ConfigErrors, TlsSettings};
use crate::telemetry::AuditTarget;
use crate::upstream::Upstreams;

/// Checks certificates, folders and everything else that can be known before the sockets are bound. Returns
/// warnings. `check` and a start both call it, so that they accept the same files.
///
/// # Errors
/// Everything that would prevent a start.
pub fn check(config: &Config) -> Result<Vec<ConfigError>, ConfigErrors> {
    let mut found = Vec::new();
    if let Some(tls) = &config.server.tls {
        found.extend(certificate(tls));
    }
    found.extend(folders(config));
    if let Err(cause) = Upstreams::new(&config.upstream, &config.upstreams) {
        found.push(ConfigError::of_key("upstream", format!("{cause:#}")));
    }
    let found = found.into_iter().map(|problem| match &config.file {
        Some(file) => file.place(problem),
        None => problem,
    });
    let (errors, warnings): (Vec<_>, Vec<_>) = found.partition(ConfigError::is_error);
    if errors.is_empty() { Ok(warnings) } else { Err(errors.into()) }
}

/// Returns why the certificate and its private key cannot be used, or what clients may not accept.
fn certificate(settings: &TlsSettings) -> Vec<ConfigError> {
    let of_key = |text: &str| {
        let (key, message) = text.split_once(": ").unwrap_or(("server.tls", text));
        ConfigError::of_key(key, message)
    };
    match tls::check(settings) {
        Ok(warnings) => warnings.iter().map(|warning| of_key(warning).as_warning()).collect(),
        Err(error) => vec![of_key(&format!("{error:#}"))],
    }
}

fn folders(config: &Config) -> Vec<ConfigError> {
    let server = &config.server;
    let audit = config.audit.as_ref().and_then(|audit| match &audit.target {
        AuditTarget::File(path) => Some(path.as_path()),
        AuditTarget::Stderr => None,
    });
    let folder_of = |path: &Path| {
        path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()).map(Path::to_owned)
    };
    let missing = |key: &str, folder: &Path| {
        ConfigError::of_key(key, format!("the folder {} does not exist", folder.display()))
            .help("create it, owned by the user that shapegate runs as")
    };
    let socket = server.upgrade_socket.as_deref().and_then(folder_of);
    let socket = socket.map(|folder| missing("server.upgrade_socket", &folder));
    let audit = audit.and_then(folder_of).map(|folder| missing("audit.path", &folder));
    // Without it, shapegate runs, but keeps key sets and pushed revocations in memory only.
    let state = server.state.as_deref().filter(|folder| !folder.is_dir());
    let state = state.map(|folder| missing("server.state", folder).as_warning());
    [socket, audit, state].into_iter().flatten().collect()
}
