//! Errors of tokens, issuers and algorithms.

use std::time::Duration;

/// Why a request has no token that can be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BearerError {
    /// The `Authorization` header and a cookie have different tokens, or two cookies have.
    #[error("the Authorization header and a cookie have different tokens")]
    Conflict,
    /// There is more than one `Authorization` header, or it is not `Bearer`, one space and a token68.
    #[error("the Authorization header is not one well-formed bearer token")]
    Malformed,
    /// There is no `Authorization` header, or one without a token, as Electric's clients send it before login.
    #[error("no bearer token")]
    Missing,
    /// The token has more bytes than allowed; it was not parsed.
    #[error("the bearer token is too long")]
    TooLong,
}

/// Why a token is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// `exp` and the leeway have passed; everything else about the token is valid.
    #[error("the token has expired")]
    Expired,
    /// The token is invalid for another reason.
    #[error("the token is invalid: {0}")]
    Invalid(#[from] InvalidReason),
    /// The issuer's keys are unavailable, so the token can be neither accepted nor rejected.
    #[error("the issuer's keys are unavailable")]
    KeysUnavailable {
        /// The time until another attempt makes sense; at least 1 s.
        retry_after: Duration,
    },
    /// The list of revocations or the issuer's introspection is unavailable, so the token can be neither accepted nor
    /// rejected.
    #[error("what the token must be checked with is unavailable")]
    Unavailable {
        /// The time until another attempt makes sense; at least 1 s.
        retry_after: Duration,
    },
}

/// What is wrong with a token, as a metric label and for the operator's log. Clients do not see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{}", self.as_str())]
#[allow(missing_docs)] // the variants are the labels in `as_str`
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
    Inactive,
    IssuedAt,
    Issuer,
    KeyId,
    Lifetime,
    Nested,
    NotBefore,
    Payload,
    Require,
    Revoked,
    Shape,
    Signature,
    Structure,
    Subject,
    Type,
    UnencodedPayload,
    UnknownKey,
}

/// Why a verifier cannot be built from a list of issuers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifierError {
    /// Two issuers have the same name.
    #[error("issuer {0:?} is configured twice")]
    DuplicateIssuer(String),
    /// One issuer cannot be used.
    #[error("issuer {issuer:?}: {reason}")]
    Issuer {
        /// The issuer's `iss`.
        issuer: String,
        /// What is wrong with it.
        reason: IssuerError,
    },
}

/// Why an `[[issuer]]` cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// `algorithms` is empty, or does not match the kinds of keys (RFC 8725 section 3.1): an algorithm without a key, or
    /// a key without an algorithm.
    #[error("algorithms must be those of the shared secrets, and public-key algorithms only for published keys")]
    Algorithms,
    /// `audience` is empty, and there is no `require`.
    #[error("audience must not be empty without require")]
    NoAudience,
    /// There is neither a shared secret nor a fixed nor a remote set.
    #[error("no keys are configured")]
    NoKeys,
    /// A shared secret is shorter than its algorithm's hash, is one byte repeated, or is a published example.
    #[error("a shared secret is shorter than the hash of its algorithm, one repeated byte, or a published example")]
    WeakSecret,
}

/// The algorithm is unknown or not supported.
#[derive(Debug, thiserror::Error)]
#[error(
    "unknown algorithm; supported: EdDSA, ES256, ES384, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512"
)]
pub struct UnknownAlgorithm;

impl TokenError {
    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Invalid(reason) => reason.as_str(),
            Self::KeysUnavailable { .. } => "keys_unavailable",
            Self::Unavailable { .. } => "unavailable",
        }
    }
}

impl InvalidReason {
    /// Every reason.
    pub const ALL: [Self; 27] = [
        Self::Algorithm,
        Self::AlgorithmMismatch,
        Self::AmbiguousKey,
        Self::Audience,
        Self::Compressed,
        Self::Critical,
        Self::Encoding,
        Self::Encrypted,
        Self::Expiry,
        Self::Header,
        Self::Inactive,
        Self::IssuedAt,
        Self::Issuer,
        Self::KeyId,
        Self::Lifetime,
        Self::Nested,
        Self::NotBefore,
        Self::Payload,
        Self::Require,
        Self::Revoked,
        Self::Shape,
        Self::Signature,
        Self::Structure,
        Self::Subject,
        Self::Type,
        Self::UnencodedPayload,
        Self::UnknownKey,
    ];

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
            Self::Inactive => "inactive",
            Self::IssuedAt => "issued_at",
            Self::Issuer => "issuer",
            Self::KeyId => "key_id",
            Self::Lifetime => "lifetime",
            Self::Nested => "nested",
            Self::NotBefore => "not_before",
            Self::Payload => "payload",
            Self::Require => "require",
            Self::Revoked => "revoked",
            Self::Shape => "shape",
            Self::Signature => "signature",
            Self::Structure => "structure",
            Self::Subject => "subject",
            Self::Type => "type",
            Self::UnencodedPayload => "unencoded_payload",
            Self::UnknownKey => "kid_unknown",
        }
    }
}
