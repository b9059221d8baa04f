//! What the configuration says of an issuer.

use std::time::Duration;

use url::Url;

use super::Algorithm;
use super::keys::KeySet;
use crate::secret::Secret;
use crate::shape::ShapeClaims;

/// One `[[issuer]]`.
#[derive(Debug)]
pub struct IssuerSettings {
    /// The exact `iss`.
    pub issuer: String,
    /// A token's `aud` must name one of these; never empty.
    pub audience: Vec<String>,
    /// The accepted `alg` values; never empty, and all HMAC or all public-key as `keys` is.
    pub algorithms: Vec<Algorithm>,
    /// Where the keys come from.
    pub keys: KeySource,
    /// Clock skew allowed at `exp`, `nbf` and `iat`; 0 to 60 s.
    pub leeway: Duration,
    /// The longest accepted `exp - iat`; where set, `iat` is required.
    pub max_lifetime: Option<Duration>,
    /// The accepted `typ` values in lower case, without `application/`; a token without `typ` is accepted.
    pub types: Vec<String>,
    /// What a `shape` claim in its tokens means.
    pub shape_claims: ShapeClaims,
}

/// Where an issuer's keys come from.
#[derive(Debug)]
pub enum KeySource {
    /// One shared secret, for HS256; at least 32 bytes.
    Shared(Secret),
    /// Public keys: a set read at start, one fetched, or both (the fixed one is asked first).
    Published {
        /// The set of `jwks.file`.
        fixed: Option<KeySet>,
        /// The set of `jwks.url`.
        remote: Option<RemoteKeys>,
    },
}

/// A JWKS endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteKeys {
    /// `https`, or `http` to loopback (or with `danger_plain_http`).
    pub url: Url,
    /// Refreshed at the latest after this; the endpoint's `max-age` may ask for less, never below 30 s.
    pub refresh: Duration,
    /// At most one refresh for an unknown `kid` in this time.
    pub cooldown: Duration,
    /// The longest a whole fetch may take; at most 5 s.
    pub timeout: Duration,
    /// How old a set from the disk or from a failing endpoint may be and still be used.
    pub max_stale: Duration,
    /// Whether a URL that resolves to a loopback, private or link-local address is fetched.
    pub private_address: bool,
}
