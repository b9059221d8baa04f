//! The gatekeeper: tokens that are good for one shape (Electric's second auth pattern).
//!
//! A user's token and the rules give a [`Permit`](crate::policy::Permit); [`Gatekeeper::mint`] writes all of it that
//! decides rows into a short-lived token, and the answer that a client spreads into its `ShapeStream` options. A GET
//! with such a token repeats the definition: [`ScopedRequest`](crate::shape::ScopedRequest) reads it, [`ShapeClaim::is_repeated_by`](crate::shape::ShapeClaim::is_repeated_by) compares, and
//! the request to Electric is made of the claim, never of the client's text.

mod mint;
mod signing;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::auth::{Algorithm, IssuerSettings, KeySource};
use crate::shape::ShapeClaims;

pub use mint::Minted;
pub use signing::{NoSigningKey, SigningKey};

/// What `[gatekeeper]` says.
#[derive(Debug)]
pub struct Gatekeeper {
    /// The path above the tables, without a slash at its end.
    pub path: String,
    /// The `iss` of minted tokens; no `[[issuer]]` has it.
    pub issuer: String,
    /// Their `aud`; never empty.
    pub audience: Vec<String>,
    /// The longest that a token lives; it never outlives the user's.
    pub lifetime: Duration,
    /// The `url` handed to clients: where the shape path is served.
    pub public_url: String,
    /// What signs.
    pub key: SigningKey,
}

/// What is served at a path below the gatekeeper's.
#[derive(Debug, PartialEq, Eq)]
pub enum Endpoint<'a> {
    /// The public half of the signing key.
    Keys,
    /// Tokens for this table, percent-encoded as it stands in the path.
    Table(&'a str),
}

/// The `typ` of minted tokens (RFC 8725 section 3.11): no user's token has it, and no other is accepted as minted.
const TOKEN_TYPE: &str = "shape+jwt";

/// Clock skew between several of us, at `exp` and `iat`.
const LEEWAY: Duration = Duration::from_secs(5);

impl Gatekeeper {
    /// What is served at `path`, which is compared byte for byte; `None` where that is not the gatekeeper's to say.
    pub fn endpoint<'a>(&self, path: &'a str) -> Option<Endpoint<'a>> {
        match path.strip_prefix(&*self.path)?.strip_prefix('/')? {
            "jwks.json" => self.key.jwks().map(|_| Endpoint::Keys),
            "" => None,
            // An `&` would be a parameter of the query that this becomes the first part of.
            table if table.contains(['/', '&']) => None,
            table => Some(Endpoint::Table(table)),
        }
    }

    /// The issuer of minted tokens as the verifier takes it: one algorithm, one type, this one key.
    ///
    /// # Errors
    /// Where the public half is not a key that tokens may be verified with; no key that [`SigningKey`] reads is so.
    pub fn issuer(&self) -> Result<IssuerSettings, crate::auth::keys::KeySetError> {
        let algorithms = vec![self.key.algorithm()];
        Ok(IssuerSettings {
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            keys: self.key.verifying(&algorithms)?,
            algorithms,
            leeway: LEEWAY,
            max_lifetime: None,
            types: vec![TOKEN_TYPE.to_owned()],
            shape_claims: ShapeClaims::Own,
        })
    }
}

impl Endpoint<'_> {
    /// The methods it takes, as `Allow` lists them.
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
            Self::Shared { secret, .. } => Ok(KeySource::Shared(secret.clone())),
            Self::Pair { .. } => {
                let set = self.jwks().map(|set| set.to_string()).unwrap_or_default();
                let set = crate::auth::keys::KeySet::parse(set.as_bytes(), algorithms)?.set;
                Ok(KeySource::Published { fixed: Some(set), remote: None })
            }
        }
    }
}
