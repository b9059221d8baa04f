//! Settings of an issuer.

use std::sync::Arc;
use std::time::Duration;

use super::http::Endpoint;
use super::introspection::IntrospectionSettings;
use super::keys::KeySet;
use super::{Algorithm, Requirement};
use crate::secret::Secret;
use crate::shape::ShapeClaims;

/// Settings of one `[[issuer]]`.
#[derive(Debug)]
pub struct IssuerSettings {
    /// The exact `iss` of its tokens.
    pub issuer: String,
    /// The accepted audiences; a token's `aud` must name one of them. Empty only with `require`: `aud` is then not read.
    pub audience: Vec<String>,
    /// A condition on the claims, in addition to `audience` or instead of it.
    pub require: Option<Arc<dyn Requirement>>,
    /// The accepted `alg` values. Empty only without keys; HMAC for the shared secrets, public-key for published keys.
    pub algorithms: Vec<Algorithm>,
    /// Where the keys come from. Empty only with `introspection`.
    pub keys: KeySource,
    /// The endpoint that is asked about tokens that are not signed; at most one issuer has one.
    pub introspection: Option<IntrospectionSettings>,
    /// The clock skew allowed for `exp`, `nbf` and `iat`: 0 to 60 s.
    pub leeway: Duration,
    /// The longest accepted `exp - iat`. If set, `iat` is required.
    pub max_lifetime: Option<Duration>,
    /// The accepted `typ` values in lower case, without `application/`; a token without `typ` is accepted.
    pub types: Vec<String>,
    /// The cookie in which its tokens may also come, beside the `Authorization` header.
    pub cookie: Option<Arc<str>>,
    /// How a `shape` claim in its tokens is treated.
    pub shape_claims: ShapeClaims,
}

/// Where an issuer's keys come from. Never all empty.
#[derive(Debug, Default)]
pub struct KeySource {
    /// Shared secrets. While one is replaced, two have the same algorithm.
    pub shared: Vec<SharedSecret>,
    /// Public keys: the set of `jwks.file`, which is searched first.
    pub fixed: Option<KeySet>,
    /// Public keys: the set of `jwks.url`.
    pub remote: Option<RemoteKeys>,
}

/// A secret that both signs and verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedSecret {
    /// The only algorithm that it is used with: HS256, HS384 or HS512.
    pub algorithm: Algorithm,
    /// The secret, at least as long as the algorithm's hash.
    pub secret: Secret,
}

/// Settings of a JWKS endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteKeys {
    /// Where the key set is; with `metadata_of`, where the issuer is.
    pub endpoint: Endpoint,
    /// The exact `iss` whose metadata (`discover`) names the key set; `None` if `endpoint` serves the set.
    pub metadata_of: Option<String>,
    /// The longest time between two refreshes. The endpoint's `max-age` may shorten it, to no less than 30 s.
    pub refresh: Duration,
    /// The shortest time between two refreshes because of an unknown `kid`.
    pub cooldown: Duration,
    /// The age up to which a set is used if the endpoint fails, also one read from disk.
    pub max_stale: Duration,
}
