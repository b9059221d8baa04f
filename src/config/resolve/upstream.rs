//! Resolves `[upstream]` and `[upstreams.NAME]`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use url::Url;

use super::secret::secret;
use super::{millis, secs};
use crate::config::Environment;
use crate::config::raw::{Bounds, Section, Value};
use crate::policy::PolicySet;
use crate::secret::Secret;
use crate::shape::UpstreamName;
use crate::upstream::{Ca, ServerUrl, UpstreamSettings};

const SILENCE: &str = " (Electric is silent for up to 21 s in a long poll or between keep-alives)";
const CLOSING: &str = " (Electric closes a connection after 60 s without a request)";

pub(super) fn upstream(mut section: Section<'_>, environment: &Environment) -> Option<UpstreamSettings> {
    let servers = servers(&mut section);
    let (secret, secret_next) = secrets(&mut section, environment);
    let source_id = section.value("source_id");
    let ca = section.value("ca");
    let connect_timeout = section.duration("connect_timeout", secs(5), Bounds::new(millis(100), secs(60)));
    let read_timeout = section.duration("read_timeout", secs(30), Bounds::new(secs(22), secs(300)).because(SILENCE));
    let idle_timeout = section.duration("idle_timeout", secs(50), Bounds::new(secs(1), secs(59)).because(CLOSING));
    let pool = section.integer("pool", 1024, Bounds::new(1, 65_536));
    let health_interval = section.duration("health_interval", secs(5), Bounds::new(millis(100), secs(60)));
    let failover = section.duration("failover", secs(30), Bounds::new(secs(0), secs(600)));

    let source_id = source_id.and_then(|value| value.text());
    let servers = servers?;
    let ca = ca.and_then(|value| ca_file(&value, &servers, environment));
    Some(UpstreamSettings {
        servers,
        secret,
        secret_next,
        source_id: source_id.map(str::to_owned),
        ca,
        connect_timeout,
        read_timeout,
        idle_timeout,
        pool,
        health_interval,
        failover,
    })
}

/// Resolves `[upstreams]`: one table for each further Electric service.
pub(super) fn named(
    value: Option<&Value<'_>>,
    environment: &Environment,
) -> Option<BTreeMap<String, UpstreamSettings>> {
    let Some(value) = value else {
        return Some(BTreeMap::new());
    };
    let entries = value.entries()?.into_iter().map(|(name, value)| {
        if name == UpstreamName::DEFAULT {
            value.error("is the name of [upstream]: choose another");
        } else {
            check_name(name, &value);
        }
        Some((name.to_owned(), upstream(value.section()?, environment)?))
    });
    let entries: Vec<_> = entries.collect();
    entries.into_iter().collect()
}

/// Checks the name that the user chose for a table.
pub(super) fn check_name(name: &str, value: &Value<'_>) {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(allowed) {
        value.error(format!(
            "the name must be 1 to {MAX_NAME} of a to z, 0 to 9, - and _, because logs and metrics show it"
        ));
    }
}

/// Warns about upstreams that no rule uses.
pub(super) fn check_used(value: Option<&Value<'_>>, policy: Option<&PolicySet>) {
    let (Some(value), Some(policy)) = (value, policy) else { return };
    let used: BTreeSet<_> = policy.upstreams().map(UpstreamName::as_str).collect();
    for (_, unused) in value.entries().into_iter().flatten().filter(|(name, _)| !used.contains(name)) {
        unused.warning("no rule uses it: name it in the `upstream` of a [[shape]]");
    }
}

/// The maximum length of such a name, in bytes.
const MAX_NAME: usize = 64;

fn servers(section: &mut Section<'_>) -> Option<Vec<ServerUrl>> {
    let values = match (section.value("url"), section.value("urls")) {
        (Some(url), None) => vec![url],
        (None, Some(urls)) => urls.list()?,
        (Some(_), Some(_)) => {
            section.error("urls", "contradicts `url`: write `url` for one server, `urls` for several");
            return None;
        }
        (None, None) => {
            section.error("url", r#"missing: write where Electric listens, as in "http://127.0.0.1:3000""#);
            return None;
        }
    };
    let mut servers: Vec<ServerUrl> = Vec::new();
    for value in &values {
        let Some(server) = server_url(value) else { continue };
        if servers.iter().any(|other| other.authority() == server.authority()) {
            value.error("is given more than once");
        }
        servers.push(server);
    }
    (servers.len() == values.len()).then_some(servers)
}

/// Reads `secret` and `secret_next`. `secret` is required unless `danger_no_secret = true`, which also excludes
/// `secret_next`.
fn secrets(section: &mut Section<'_>, environment: &Environment) -> (Option<Secret>, Option<Secret>) {
    const REMEDY: &str =
        r#"write { env = "ELECTRIC_SECRET" }, or `danger_no_secret = true` if Electric runs with ELECTRIC_INSECURE"#;
    if !section.boolean("danger_no_secret", false) {
        let usual = section.required("secret", REMEDY).and_then(|value| secret(value, 1, environment));
        let next = section.value("secret_next").and_then(|value| secret(value, 1, environment));
        return (usual, next);
    }
    for key in ["secret", "secret_next"] {
        if let Some(value) = section.value(key) {
            value.error("contradicts `danger_no_secret = true`: remove one of them");
        }
    }
    (None, None)
}

/// Parses a server's URL. Errors do not show it, because it may contain a password.
fn server_url(value: &Value<'_>) -> Option<ServerUrl> {
    let parsed = Url::parse(value.text()?).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let Some(url) = parsed else {
        value.error(r#"not a URL: write http or https, a host and a port, as in "http://127.0.0.1:3000""#);
        return None;
    };
    let server = ServerUrl::of(&url);
    if server.is_none() {
        value.error("must be only scheme, host and port: remove user, password, path, query and fragment");
    }
    server
}

/// Reads a file of trusted certificates. At deploy time the file is not read.
fn ca_file(value: &Value<'_>, servers: &[ServerUrl], environment: &Environment) -> Option<Ca> {
    if !servers.iter().all(|server| server.tls) {
        value.error("is only for https, but a server of this upstream uses plain http");
        return None;
    }
    let path = value.path()?;
    let certificates = if environment.is_deploy() { Ok(Vec::new()) } else { certificates(&path) };
    match certificates {
        Ok(certificates) => Some(Ca { path, certificates }),
        Err(problem) => {
            value.error(format!("{}: {problem}", path.display()));
            None
        }
    }
}

/// Parses a PEM file that contains only certificates, each usable as a trust anchor.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = std::fs::read(path).map_err(|cause| format!("cannot be read: {cause}"))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|cause| format!("is not PEM: {cause}"))?;
    let mut trusted = RootCertStore::empty();
    for certificate in &certificates {
        let added = trusted.add(certificate.clone());
        added.map_err(|cause| format!("contains a certificate that cannot be used: {cause}"))?;
    }
    match certificates.len() {
        0 => Err("contains no certificate: write PEM, with BEGIN CERTIFICATE".to_owned()),
        // Pingora accepts only files that contain nothing but certificates.
        count if pem_sections(&pem) > count => Err("contains more than certificates: remove the rest".to_owned()),
        _ => Ok(certificates),
    }
}

fn pem_sections(pem: &[u8]) -> usize {
    pem.windows(BEGIN.len()).filter(|window| *window == BEGIN).count()
}

const BEGIN: &[u8] = b"-----BEGIN ";
