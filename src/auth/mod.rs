//! Bearer token to [`Principal`].
//!
//! In the order of a request: [`BearerToken`] takes the one token from the headers, [`TokenVerifier`] looks among the
//! verdicts, and only for a token not seen before takes it apart (`jws`), parses it strictly (`json`), picks the issuer,
//! finds the key ([`keys`]), checks the signature and then what the token claims (`expectations`). Nothing here knows
//! the HTTP server, nothing logs on the request path, and the time is read through [`crate::clock::Clock`].
//!
//! Rules that a reader of RFC 7519 may ask for: `exp`, `iss` and `aud` are required; dates are integers (a fraction,
//! even `1.0`, is refused) up to the year 9999; a token is valid while `now < exp + leeway`; a duplicate member
//! anywhere in header or payload refuses the token; `sub` is optional, and where present a text that is not empty.

mod algorithm;
mod bearer;
mod claims;
mod error;
mod expectations;
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
pub use claims::Claims;
pub use error::{BearerError, InvalidReason, IssuerError, TokenError, UnknownAlgorithm, VerifierError};
pub use principal::{Principal, SubjectKey};
pub use renewals::Renewals;
pub use settings::{IssuerSettings, KeySource, RemoteKeys};
pub use verifier::{Check, TokenVerifier, Verified};
