//! Why a token, an issuer or an algorithm is refused.

use std::time::Duration;

/// Why there is no token to verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BearerError {
    /// More than one `Authorization` header, another scheme, or not `Bearer`, one space, token68.
    #[error("the Authorization header is not one well-formed bearer token")]
    Malformed,
    /// No `Authorization` header, or one without a token, as Electric's clients send it before login.
    #[error("no bearer token")]
    Missing,
    /// The token has more bytes than allowed; nothing has looked at them.
    #[error("the bearer token is too long")]
    TooLong,
}

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Everything holds but the time: `exp` and the leeway have passed.
    #[error("the token has expired")]
    Expired,
    /// Anything else is wrong with it.
    #[error("the token is invalid: {0}")]
    Invalid(#[from] InvalidReason),
    /// The issuer's keys cannot be had, so nobody knows.
    #[error("the issuer's keys are unavailable")]
    KeysUnavailable {
        /// When a further attempt makes sense; at least 1 s.
        retry_after: Duration,
    },
}

/// What is wrong with a token: a metric label and a line for the operator, never for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{}", self.as_str())]
#[allow(missing_docs)] // `as_str` says it
pub enum InvalidReason {
    Algorithm,
    AlgorithmMismatch,
    AmbiguousKey,
    Audience,
    Compressed,
    Critical,
    Encoding,
    Encrypted,
    Expiry,
    Header,
    IssuedAt,
    Issuer,
    KeyId,
    Lifetime,
    Nested,
    NotBefore,
    Payload,
    Shape,
    Signature,
    Structure,
    Subject,
    Type,
    UnencodedPayload,
    UnknownKey,
}

/// Why there is no verifier for a list of issuers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifierError {
    /// Two issuers have the same name.
    #[error("issuer {0:?} is configured twice")]
    DuplicateIssuer(String),
    /// One issuer cannot be used.
    #[error("issuer {issuer:?}: {reason}")]
    Issuer {
        /// Its name.
        issuer: String,
        /// Why.
        reason: IssuerError,
    },
}

/// Why an `[[issuer]]` cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// `algorithms` is empty, or mixes or mistakes shared secrets and public keys (RFC 8725 section 3.1).
    #[error("algorithms must be HS256 for a shared secret, and public-key algorithms for published keys")]
    Algorithms,
    /// `audience` is empty.
    #[error("audience must not be empty")]
    NoAudience,
    /// There is neither a fixed nor a remote set.
    #[error("there are no keys")]
    NoKeys,
    /// The shared secret is shorter than 32 bytes, one byte repeated, or printed in documentation.
    #[error("the shared secret is shorter than 32 bytes or a known one")]
    WeakSecret,
}

/// The name of an algorithm is unknown or not accepted.
#[derive(Debug, thiserror::Error)]
#[error("unknown algorithm; known are EdDSA, ES256, ES384, HS256, PS256, PS384, PS512, RS256, RS384, RS512")]
pub struct UnknownAlgorithm;

impl TokenError {
    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Invalid(reason) => reason.as_str(),
            Self::KeysUnavailable { .. } => "keys_unavailable",
        }
    }
}

impl InvalidReason {
    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Algorithm => "algorithm",
            Self::AlgorithmMismatch => "algorithm_mismatch",
            Self::AmbiguousKey => "ambiguous_key",
            Self::Audience => "audience",
            Self::Compressed => "compressed",
            Self::Critical => "critical",
            Self::Encoding => "encoding",
            Self::Encrypted => "encrypted",
            Self::Expiry => "expiry",
            Self::Header => "header",
            Self::IssuedAt => "issued_at",
            Self::Issuer => "issuer",
            Self::KeyId => "key_id",
            Self::Lifetime => "lifetime",
            Self::Nested => "nested",
            Self::NotBefore => "not_before",
            Self::Payload => "payload",
            Self::Shape => "shape",
            Self::Signature => "signature",
            Self::Structure => "structure",
            Self::Subject => "subject",
            Self::Type => "type",
            Self::UnencodedPayload => "unencoded_payload",
            Self::UnknownKey => "unknown_key",
        }
    }
}
