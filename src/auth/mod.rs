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
//! - `exp`, `iss` and `aud` are required. `sub` is optional; if present it is a string that is not empty.
//! - Dates are integers up to the year 9999; a fraction is rejected, even `1.0`.
//! - A token is valid while `now < exp + leeway`.
//! - A token with a duplicate member anywhere in its header or payload is rejected.

mod algorithm;
mod bearer;
mod candidate;
mod claims;
mod error;
mod expectations;
mod explain;
mod issuer;
mod jws;
pub mod keys;
mod principal;
mod renewals;
mod settings;
#[cfg(test)]
pub(crate) mod testing;
mod verdicts;
mod verifier;

pub use algorithm::Algorithm;
pub use bearer::BearerToken;
pub use candidate::{Candidate, Examined};
pub use claims::Claims;
pub use error::{BearerError, InvalidReason, IssuerError, TokenError, UnknownAlgorithm, VerifierError};
pub use principal::{Principal, SubjectKey};
pub use renewals::Renewals;
pub use settings::{IssuerSettings, KeySource, RemoteKeys};
pub use verifier::{Check, TokenVerifier, Verified};
