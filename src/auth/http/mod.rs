//! Reaches HTTP endpoints of issuers: bounded in time and size, without redirects, proxies and decompression.

mod resolver;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, StatusCode};
use reqwest::{Certificate, Client, ClientBuilder, RequestBuilder, Response, redirect};
use rustls::pki_types::CertificateDer;
use url::{Host, Url};

use resolver::{GuardedResolver, is_localhost, is_public};

/// The longest time for an exchange, whatever the configuration says (docs/security.md, J7).
pub(crate) const LONGEST_EXCHANGE: Duration = Duration::from_secs(5);

/// The most characters of a URL or a text from elsewhere that a message shows.
pub(crate) const MAX_SHOWN: usize = 200;

/// An HTTP endpoint, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `https`, or `http` to loopback (or with `plain_http`). Without user, password and fragment.
    pub url: Url,
    /// The time limit of a whole exchange; at most 5 s.
    pub timeout: Duration,
    /// Whether a host name may resolve to a loopback, private or link-local address.
    pub private_address: bool,
    /// Whether a URL that this endpoint names may be `http` to any host.
    pub plain_http: bool,
    /// The certificates trusted for TLS; the system's if it is empty.
    pub ca: Vec<CertificateDer<'static>>,
}

/// A response that is not parsed yet.
#[derive(Clone, Debug)]
pub struct Document {
    /// The body, within the limit of its kind: 1 MiB for keys.
    pub body: Vec<u8>,
    /// The `max-age` of its `Cache-Control`, as sent; zero for `no-cache` and `no-store`.
    pub max_age: Option<Duration>,
}

/// Why a fetch failed. No variant shows a part of a body, except the name of an issuer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The body is compressed, although the request does not allow it. It is never decompressed.
    #[error("the response is compressed")]
    Compressed,
    /// `Content-Type` is not one under which JSON is served.
    #[error("the response is not JSON")]
    ContentType,
    /// The issuer's metadata (`discover`) does not name a key set that may be fetched.
    #[error("the issuer's metadata {0}")]
    Metadata(&'static str),
    /// Name resolution, connection, TLS or transfer failed. Holds the causes, outermost first, without the URL.
    #[error("{0}")]
    Network(String),
    /// The metadata (`discover`) is of another issuer. Holds its name.
    #[error("the metadata is of issuer {0:?}: write that as the issuer, exactly")]
    OtherIssuer(String),
    /// The endpoint redirects, which is not followed. Holds where to, if that is a complete URL.
    #[error("the response redirects{}", .0.as_ref().map(|to| format!(": write url = {to:?}")).unwrap_or_default())]
    Redirect(Option<String>),
    /// The status is neither 200 nor a redirect.
    #[error("the response has status {0}")]
    Status(u16),
    /// The whole exchange took longer than allowed.
    #[error("no complete response in time")]
    Timeout,
    /// The body is longer than allowed: 1 MiB for keys.
    #[error("the response is too long")]
    TooLarge,
}

impl Endpoint {
    /// Creates a client for this endpoint that keeps up to `idle` connections.
    pub(crate) fn client(&self, idle: usize) -> Result<Client, FetchError> {
        self.builder(idle)?.build().map_err(network)
    }

    /// Prepares such a client.
    pub(crate) fn builder(&self, idle: usize) -> Result<ClientBuilder, FetchError> {
        let client = builder(self.private_address).pool_max_idle_per_host(idle);
        if self.ca.is_empty() {
            return Ok(client);
        }
        let certificates: Result<Vec<_>, _> = self.ca.iter().map(|der| Certificate::from_der(der)).collect();
        Ok(client.tls_certs_only(certificates.map_err(network)?))
    }

    /// Creates a client for endpoints without `ca`, which keeps no connections.
    pub(crate) fn system_client(private_address: bool) -> Result<Client, FetchError> {
        builder(private_address).pool_max_idle_per_host(0).build().map_err(network)
    }

    /// Whether a document of this endpoint may name `url`: by the same rules as the configuration. A literal address is
    /// checked too, since the operator did not write it.
    pub(crate) fn may_name(&self, url: &Url) -> bool {
        let bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        let local = is_loopback(url);
        let secure = url.scheme() == "https"
            || (url.scheme() == "http" && (self.plain_http || (local && is_loopback(&self.url))));
        let reachable = match url.host() {
            _ if self.private_address => true,
            Some(Host::Domain(name)) => !is_localhost(name),
            Some(Host::Ipv4(address)) => is_public(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => is_public(IpAddr::V6(address)),
            None => false,
        };
        bare && secure && reachable
    }
}

fn builder(private_address: bool) -> ClientBuilder {
    let resolver = if private_address { GuardedResolver::AnyAddress } else { GuardedResolver::PublicAddresses };
    Client::builder()
        .user_agent(concat!("shapegate/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .dns_resolver(Arc::new(resolver))
}

/// Whether the URL names this host: by `localhost` or a loopback address.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Sends a request and reads its response, which must be JSON of at most `max_bytes`. Not bounded in time.
pub(crate) async fn exchange(request: RequestBuilder, max_bytes: usize) -> Result<Document, FetchError> {
    let response = request.send().await.map_err(network)?;
    check_head(response.status(), response.headers())?;
    let max_age = max_age(response.headers());
    Ok(Document { body: read_body(response, max_bytes).await?, max_age })
}

/// Bounds an exchange in time.
pub(crate) async fn within<T>(
    limit: Duration,
    exchange: impl Future<Output = Result<T, FetchError>>,
) -> Result<T, FetchError> {
    tokio::time::timeout(limit.min(LONGEST_EXCHANGE), exchange).await.map_err(|_| FetchError::Timeout)?
}

/// Returns a URL for messages: without a query, which may hold a secret, and not too long.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.as_str().chars().take(MAX_SHOWN).collect()
}

fn check_head(status: StatusCode, headers: &HeaderMap) -> Result<(), FetchError> {
    if let Some(location) = headers.get(LOCATION).filter(|_| status.is_redirection()) {
        let location = location.to_str().ok().and_then(|location| Url::parse(location).ok());
        return Err(FetchError::Redirect(location.as_ref().map(shown)));
    }
    if status != StatusCode::OK {
        return Err(FetchError::Status(status.as_u16()));
    }
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(FetchError::Compressed);
    }
    let Some(content_type) = headers.get(CONTENT_TYPE) else {
        return Ok(());
    };
    let content_type = content_type.to_str().unwrap_or_default().to_ascii_lowercase();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    // Object stores serve key sets with these three types.
    let others = ["application/octet-stream", "binary/octet-stream", "text/plain"];
    let is_json = media_type == "application/json" || media_type.ends_with("+json");
    if is_json || others.contains(&media_type) { Ok(()) } else { Err(FetchError::ContentType) }
}

/// Reads the body in pieces, so that neither a false length nor an endless body fills memory (docs/security.md, J4).
async fn read_body(mut response: Response, max_bytes: usize) -> Result<Vec<u8>, FetchError> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(network)? {
        if body.len() + piece.len() > max_bytes {
            return Err(FetchError::TooLarge);
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// Returns the shortest of all `max-age` directives (RFC 9111 section 5.2.2.1). `no-cache` and `no-store` count as 0.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let seconds = values.flat_map(|value| value.split(',')).filter_map(|directive| {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "no-cache" | "no-store" => Some(0),
            "max-age" => value.trim().trim_matches('"').parse().ok(),
            _ => None,
        }
    });
    seconds.min().map(Duration::from_secs)
}

#[allow(clippy::needless_pass_by_value)] // the signature that `map_err` needs
pub(crate) fn network(error: reqwest::Error) -> FetchError {
    let error = error.without_url();
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |cause| cause.source());
    FetchError::Network(causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn j12_the_shortest_of_all_cache_directives_applies() {
        for (values, expected) in [
            (vec!["max-age=90"], Some(90)),
            (vec!["MAX-AGE=\"90\" , public"], Some(90)),
            (vec!["max-age=90, max-age=30"], Some(30)),
            (vec!["max-age=90", "no-cache"], Some(0)),
            (vec!["no-store"], Some(0)),
            (vec!["s-maxage=5, stale-if-error=3"], None),
            (vec!["max-age=-1"], None),
            (vec!["max-age=99999999999999999999999"], None),
            (vec![], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append(CACHE_CONTROL, value.parse().unwrap());
            }
            assert_eq!(max_age(&headers), expected.map(Duration::from_secs), "{values:?}");
        }
    }

    #[test]
    fn j6_a_document_names_only_urls_that_the_configuration_could_have() {
        let at = |url: &str| Endpoint {
            url: url.parse().unwrap(),
            timeout: LONGEST_EXCHANGE,
            private_address: false,
            plain_http: false,
            ca: Vec::new(),
        };
        let may = |from: &Endpoint, to: &str| from.may_name(&to.parse().unwrap());
        let public = at("https://auth.example.com");
        for to in ["https://auth.example.com/keys", "https://keys.example.net/", "https://8.8.8.8/"] {
            assert!(may(&public, to), "{to}");
        }
        for to in [
            "http://auth.example.com/keys",
            "https://localhost/keys",
            "http://localhost/keys",
            "https://127.0.0.1/",
            "https://169.254.169.254/latest",
            "https://10.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://0x7f.1/",
            "https://user:password@auth.example.com/",
            "https://auth.example.com/#a",
            "file:///etc/passwd",
            "ftp://auth.example.com/",
        ] {
            assert!(!may(&public, to), "{to}");
        }
        let local = Endpoint { private_address: true, ..at("http://localhost:3000") };
        assert!(
            may(&local, "http://localhost:3000/keys")
                && may(&local, "http://127.0.0.1/")
                && may(&local, "https://10.0.0.1/")
        );
        assert!(!may(&local, "http://10.0.0.1/") && !may(&local, "http://auth.example.com/"));
        assert!(may(&Endpoint { plain_http: true, ..public }, "http://auth.example.com/"));
    }
}
