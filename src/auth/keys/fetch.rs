//! Fetches key sets: the [`JwksFetch`] trait and its implementation over HTTP.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, StatusCode};
use reqwest::{Client, Response, redirect};
use url::Url;

use super::resolver::GuardedResolver;
use super::set::{MAX_SET_BYTES, shown};
use crate::auth::RemoteKeys;

/// The longest time for a fetch, whatever the configuration says (docs/security.md, J7).
const LONGEST_FETCH: Duration = Duration::from_secs(5);

/// The response of an endpoint, not parsed yet.
#[derive(Clone, Debug)]
pub struct FetchedKeys {
    /// The body, at most 1 MiB.
    pub body: Vec<u8>,
    /// The `max-age` of its `Cache-Control`, as sent; zero for `no-cache` and `no-store`.
    pub max_age: Option<Duration>,
}

/// Why a fetch failed. No variant shows a part of the response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The body is compressed, although the request does not allow it. It is never decompressed.
    #[error("the response is compressed")]
    Compressed,
    /// `Content-Type` is not one under which JSON is served.
    #[error("the response is not JSON")]
    ContentType,
    /// Name resolution, connection, TLS or transfer failed. Holds the causes, outermost first, without the URL.
    #[error("{0}")]
    Network(String),
    /// The endpoint redirects, which is not followed. Holds where to, if that is a complete URL.
    #[error("the response redirects{}", .0.as_ref().map(|to| format!(": write url = {to:?}")).unwrap_or_default())]
    Redirect(Option<String>),
    /// The status is neither 200 nor a redirect.
    #[error("the response has status {0}")]
    Status(u16),
    /// The whole fetch took longer than allowed.
    #[error("no complete response in time")]
    Timeout,
    /// The body has more than 1 MiB.
    #[error("the response has more than 1 MiB")]
    TooLarge,
}

/// Fetches key sets. Tests replace the implementation.
#[async_trait]
pub trait JwksFetch: Send + Sync {
    /// Fetches the set at `remote.url` within `remote.timeout`.
    async fn fetch(&self, remote: &RemoteKeys) -> Result<FetchedKeys, FetchError>;
}

/// Fetches over HTTP without redirects, proxies, decompression or persistent connections.
#[derive(Clone, Debug)]
pub struct HttpFetch {
    public: Client,
    private: Client,
}

impl HttpFetch {
    /// Creates the clients, with TLS and the system's trust store.
    ///
    /// # Errors
    /// The system has no trust store.
    pub fn new() -> Result<Self, FetchError> {
        Ok(Self { public: client(GuardedResolver::PublicAddresses)?, private: client(GuardedResolver::AnyAddress)? })
    }

    async fn fetch_unbounded(&self, remote: &RemoteKeys) -> Result<FetchedKeys, FetchError> {
        let client = if remote.private_address { &self.private } else { &self.public };
        let response = client.get(remote.url.clone()).send().await.map_err(network)?;
        check_head(response.status(), response.headers())?;
        let max_age = max_age(response.headers());
        Ok(FetchedKeys { body: read_body(response).await?, max_age })
    }
}

#[async_trait]
impl JwksFetch for HttpFetch {
    async fn fetch(&self, remote: &RemoteKeys) -> Result<FetchedKeys, FetchError> {
        let limit = remote.timeout.min(LONGEST_FETCH);
        tokio::time::timeout(limit, self.fetch_unbounded(remote)).await.map_err(|_| FetchError::Timeout)?
    }
}

fn client(resolver: GuardedResolver) -> Result<Client, FetchError> {
    Client::builder()
        .user_agent(concat!("shapegate/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .pool_max_idle_per_host(0)
        .dns_resolver(Arc::new(resolver))
        .build()
        .map_err(network)
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
async fn read_body(mut response: Response) -> Result<Vec<u8>, FetchError> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(network)? {
        if body.len() + piece.len() > MAX_SET_BYTES {
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
fn network(error: reqwest::Error) -> FetchError {
    let error = error.without_url();
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |cause| cause.source());
    FetchError::Network(causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

#[cfg(test)]
mod tests;
