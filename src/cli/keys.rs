//! Fetches the key set of an issuer once, for people.

use std::fmt;

use crate::auth::keys::{HttpFetch, JwksFetch, KeySet, ParsedKeys};
use crate::auth::{Algorithm, IssuerSettings, RemoteKeys};

/// An issuer whose keys are fetched.
pub(super) struct RemoteIssuer {
    pub(super) name: String,
    algorithms: Vec<Algorithm>,
    keys: RemoteKeys,
}

impl RemoteIssuer {
    /// Returns the issuer if it has a `jwks.url`.
    pub(super) fn of(issuer: &IssuerSettings) -> Option<Self> {
        let keys = issuer.keys.remote.as_ref()?;
        Some(Self { name: issuer.issuer.clone(), algorithms: issuer.algorithms.clone(), keys: keys.clone() })
    }

    /// Fetches and parses its key set.
    ///
    /// # Errors
    /// Why there is no usable set, in words, with the URL.
    pub(super) async fn fetch(&self) -> Result<ParsedKeys, String> {
        let failed = |cause: &dyn fmt::Display| format!("{}: {cause}", self.keys.endpoint.url);
        let fetch = HttpFetch::new().map_err(|error| failed(&error))?;
        let fetched = fetch.fetch(&self.keys).await.map_err(|error| failed(&error))?;
        KeySet::parse(&fetched.body, &self.algorithms).map_err(|error| failed(&error))
    }
}
