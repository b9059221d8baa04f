//! Fetches key sets: the [`JwksFetch`] trait and its implementation over HTTP.

use async_trait::async_trait;
use reqwest::Client;
use url::Url;

use super::discovery::{self, MAX_METADATA_BYTES};
use super::set::MAX_SET_BYTES;
use crate::auth::RemoteKeys;
use crate::auth::http::{Document, Endpoint, FetchError, exchange, within};

/// Fetches key sets. Tests replace the implementation.
#[async_trait]
pub trait JwksFetch: Send + Sync {
    /// Fetches the set of `remote` within its timeout.
    async fn fetch(&self, remote: &RemoteKeys) -> Result<Document, FetchError>;
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
        Ok(Self { public: Endpoint::system_client(false)?, private: Endpoint::system_client(true)? })
    }

    fn client(&self, endpoint: &Endpoint) -> Result<Client, FetchError> {
        match (endpoint.ca.is_empty(), endpoint.private_address) {
            (true, false) => Ok(self.public.clone()),
            (true, true) => Ok(self.private.clone()),
            // Made for each fetch, since there are only a few in an hour.
            (false, _) => endpoint.client(0),
        }
    }
}

#[async_trait]
impl JwksFetch for HttpFetch {
    async fn fetch(&self, remote: &RemoteKeys) -> Result<Document, FetchError> {
        let client = self.client(&remote.endpoint)?;
        let fetched = async {
            let url = match &remote.metadata_of {
                None => remote.endpoint.url.clone(),
                Some(issuer) => discover(&client, issuer, &remote.endpoint).await?,
            };
            exchange(client.get(url), MAX_SET_BYTES).await
        };
        within(remote.endpoint.timeout, fetched).await
    }
}

/// Asks the issuer's metadata for the URL of its key set.
async fn discover(client: &Client, issuer: &str, endpoint: &Endpoint) -> Result<Url, FetchError> {
    let [usual, other] = discovery::places(&endpoint.url);
    let metadata = match exchange(client.get(usual), MAX_METADATA_BYTES).await {
        Err(FetchError::Status(_) | FetchError::ContentType) => exchange(client.get(other), MAX_METADATA_BYTES).await?,
        metadata => metadata?,
    };
    discovery::jwks_uri(&metadata.body, issuer, endpoint)
}

#[cfg(test)]
mod tests;
