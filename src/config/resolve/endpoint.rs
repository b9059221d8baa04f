//! Reads where an HTTP endpoint of an issuer is, and how it is reached.

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use url::{Host, Url};

use super::upstream::certificates;
use super::{millis, secs};
use crate::auth::{Endpoint, is_loopback};
use crate::config::Environment;
use crate::config::raw::{Bounds, Section, Value};

/// The keys that [`access`] reads.
pub(super) const ACCESS: [&str; 4] = ["timeout", "ca", "danger_plain_http", "danger_private_address"];

/// How an endpoint is reached, whatever its URL is.
pub(super) struct Access<'a> {
    timeout: Duration,
    ca: Option<Value<'a>>,
    plain_http: bool,
    private_address: bool,
}

/// What an endpoint is for, in messages.
pub(super) struct Purpose {
    /// A URL as one would write it.
    pub(super) example: &'static str,
    /// What plain http puts at risk.
    pub(super) risk: &'static str,
}

/// Reads how an endpoint is reached. `timeout` is the default.
pub(super) fn access<'a>(section: &mut Section<'a>, timeout: Duration) -> Access<'a> {
    Access {
        timeout: section.duration("timeout", timeout, Bounds::new(millis(100), secs(5))),
        ca: section.value("ca"),
        plain_http: section.boolean("danger_plain_http", false),
        private_address: section.boolean("danger_private_address", false),
    }
}

impl Access<'_> {
    /// Reads the URL `value` and returns the endpoint.
    pub(super) fn endpoint(self, value: &Value<'_>, purpose: &Purpose, environment: &Environment) -> Option<Endpoint> {
        let url = self.url(value, purpose);
        let ca = match &self.ca {
            None => Some(Vec::new()),
            Some(ca) => trusted(ca, url.as_ref(), environment),
        };
        let (url, ca) = (url?, ca?);
        let private_address = self.private_address || is_private(&url);
        Some(Endpoint { timeout: self.timeout, private_address, plain_http: self.plain_http, ca, url })
    }

    /// Parses the URL. Errors do not show it, because it may contain a password.
    fn url(&self, value: &Value<'_>, purpose: &Purpose) -> Option<Url> {
        let Purpose { example, risk } = purpose;
        let parsed = Url::parse(value.text()?).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let Some(url) = parsed else {
            value.error(format!("not a URL: write the full URL, as in \"{example}\""));
            return None;
        };
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            value.error("must not contain user, password or fragment: remove them");
            return None;
        }
        if url.scheme() == "http" && !self.plain_http && !is_loopback(&url) {
            value.error(format!("{risk}: write https, or `danger_plain_http = true`"));
            return None;
        }
        Some(url)
    }
}

/// Reads a file of trusted certificates. At deploy time the file is not read.
fn trusted(ca: &Value<'_>, url: Option<&Url>, environment: &Environment) -> Option<Vec<CertificateDer<'static>>> {
    if url.is_some_and(|url| url.scheme() != "https") {
        ca.error("is only for https, but the URL is plain http");
        return None;
    }
    let path = ca.path()?;
    if environment.is_deploy() {
        // `shapegate jwks` fetches with the system's certificates and this file, if it is there.
        return Some(certificates(&path).unwrap_or_default());
    }
    certificates(&path).map_err(|problem| ca.error(format!("{}: {problem}", path.display()))).ok()
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
