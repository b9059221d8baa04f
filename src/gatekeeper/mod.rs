//! The gatekeeper: mints tokens that are valid for one shape only (Electric's second auth pattern).
//!
//! 1. A user's token and the rules give a [`Permit`].
//! 2. [`Gatekeeper::mint`] writes everything in it that decides rows into a short-lived token. The response contains
//!    the token in a form that a client spreads into its `ShapeStream` options.
//! 3. A GET with such a token repeats the shape's definition. [`ScopedRequest`] parses it, and
//!    [`ShapeClaim::is_repeated_by`] compares it with the token's claim.
//! 4. The request to Electric is built from the claim, never from the client's text.
//!
//! [`Permit`]: crate::policy::Permit
//! [`ScopedRequest`]: crate::shape::ScopedRequest
//! [`ShapeClaim::is_repeated_by`]: crate::shape::ShapeClaim::is_repeated_by

mod mint;
mod signing;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::auth::{Algorithm, IssuerSettings, KeySource, SharedSecret};
use crate::shape::ShapeClaims;

pub use mint::Minted;
pub use signing::{NoSigningKey, SigningKey};

/// The settings of `[gatekeeper]`.
#[derive(Debug)]
pub struct Gatekeeper {
    /// The path under which tables are served, without a slash at its end.
    pub path: String,
    /// The `iss` of minted tokens. No `[[issuer]]` has the same.
    pub issuer: String,
    /// The `aud` of minted tokens; never empty.
    pub audience: Vec<String>,
    /// The longest lifetime of a minted token. It also ends with the user's token.
    pub lifetime: Duration,
    /// The `url` that clients are given: where the shape path is served.
    pub public_url: String,
    /// The key that signs.
    pub key: SigningKey,
}

/// An endpoint of the gatekeeper.
#[derive(Debug, PartialEq, Eq)]
pub enum Endpoint<'a> {
    /// Serves the public key as a JSON Web Key Set.
    Keys,
    /// Mints tokens for this table. The name is percent-encoded as in the path.
    Table(&'a str),
}

/// The `typ` of minted tokens (RFC 8725 section 3.11). A minted token must have it, and a user's token must not.
const TOKEN_TYPE: &str = "shape+jwt";

/// The clock skew allowed between instances of shapegate, for `exp` and `iat`.
const LEEWAY: Duration = Duration::from_secs(5);

impl Gatekeeper {
    /// Finds the endpoint of `path`, which is compared byte for byte; `None` if the gatekeeper does not serve it.
    pub fn endpoint<'a>(&self, path: &'a str) -> Option<Endpoint<'a>> {
        match path.strip_prefix(&*self.path)?.strip_prefix('/')? {
            "jwks.json" => self.key.jwks().map(|_| Endpoint::Keys),
            "" => None,
            // The table becomes the first parameter of a query, and `&` would add another one.
            table if table.contains(['/', '&']) => None,
            table => Some(Endpoint::Table(table)),
        }
    }

    /// Returns the verifier's settings for minted tokens: one algorithm, one type, only this key.
    ///
    /// # Errors
    /// The public key is not usable for verification. This does not happen for keys that [`SigningKey`] accepts.
    pub fn issuer(&self) -> Result<IssuerSettings, crate::auth::keys::KeySetError> {
        let algorithms = vec![self.key.algorithm()];
        Ok(IssuerSettings {
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            require: None,
            keys: self.key.verifying(&algorithms)?,
            algorithms,
            introspection: None,
            leeway: LEEWAY,
            max_lifetime: None,
            types: vec![TOKEN_TYPE.to_owned()],
            cookie: None,
            shape_claims: ShapeClaims::Own,
        })
    }
}

impl Endpoint<'_> {
    /// The allowed methods, in the syntax of the `Allow` header.
    pub const fn methods(&self) -> &'static str {
        match self {
            Self::Keys => "GET, OPTIONS",
            Self::Table(_) => "POST, OPTIONS",
        }
    }
}

impl SigningKey {
    fn verifying(&self, algorithms: &[Algorithm]) -> Result<KeySource, crate::auth::keys::KeySetError> {
        match self {
            Self::Shared { secret, .. } => {
                let shared = SharedSecret { algorithm: self.algorithm(), secret: secret.clone() };
                Ok(KeySource { shared: vec![shared], ..KeySource::default() })
            }
            Self::Pair { .. } => {
                let set = self.jwks().map(|set| set.to_string()).unwrap_or_default();
                let set = crate::auth::keys::KeySet::parse(set.as_bytes(), algorithms)?.set;
                Ok(KeySource { fixed: Some(set), ..KeySource::default() })
            }
        }
    }
}
