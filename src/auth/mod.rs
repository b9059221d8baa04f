//! Verifies bearer tokens: turns a token into a [`Principal`].
//!
//! The steps of one request:
//! 1. [`BearerToken`] takes the only token from the headers.
//! 2. [`TokenVerifier`] looks the token up among the cached verdicts. The steps below run only for a new token.
//! 3. `jws` splits the token, `json` parses its parts strictly.
//! 4. The issuer is chosen by `iss`, [`keys`] looks up its key, and the claims are checked (`expectations`).
//! 5. If the key is unknown, the request waits for a fetch.
//! 6. The signature is checked last, since it costs most.
//!
//! This module does not depend on the HTTP server, does not log on the request path, and reads the time through
//! [`crate::clock::Clock`].
//!
//! Choices that RFC 7519 leaves open:
//! - `exp` and `iss` are required, and `aud` unless the issuer is configured with a condition on claims instead. `sub`
//!   is optional; if present it is a string that is not empty.
//! - Dates are numbers up to the year 9999. A fraction is rounded so that the token is valid for a shorter time.
//! - A token is valid while `now < exp + leeway`.
//! - A token with a duplicate member anywhere in its header or payload is rejected.

mod algorithm;
mod bearer;
mod candidate;
mod claims;
mod error;
mod expectations;
mod explain;
mod http;
mod introspection;
mod issuer;
mod jws;
pub mod keys;
mod principal;
mod renewals;
mod requirement;
pub mod revocation;
mod settings;
mod state_file;
#[cfg(test)]
pub(crate) mod testing;
mod verdicts;
mod verifier;

pub use algorithm::Algorithm;
pub use bearer::BearerToken;
pub use candidate::{Candidate, Examined};
pub use claims::Claims;
pub(crate) use claims::cel_value;
pub use error::{BearerError, InvalidReason, IssuerError, TokenError, UnknownAlgorithm, VerifierError};
pub use http::{Endpoint, FetchError};
pub(crate) use http::{exchange, is_loopback, network};
pub use introspection::{ClientAuth, IntrospectionSettings};
pub use principal::{Principal, SubjectKey};
pub use renewals::Renewals;
pub use requirement::Requirement;
pub(crate) use revocation::TokenMarks;
pub use revocation::{RevocationSettings, RevocationSource, Revocations};
pub use settings::{IssuerSettings, KeySource, RemoteKeys, SharedSecret};
pub use verifier::{Check, TokenVerifier, Verified};
