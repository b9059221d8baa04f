//! The responses that shapegate produces itself: status, code, reason and message in one table.

mod reason;

use std::time::Duration;

use http::StatusCode;

use crate::auth::{BearerError, InvalidReason, TokenError};
use crate::limits::{Limit, Limited};
use crate::metrics::Metrics;
use crate::policy::Unmet;
use crate::shape::ParameterError;

pub use reason::{Reason, RequestFault, ServiceFault};

/// How soon a client tries again after a failure that may be over at any time.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// A response of shapegate instead of Electric's. It never contains text of a token, of SQL or of a client.
#[derive(Clone, Debug)]
pub enum Rejection {
    /// The list of revocations or the issuer's introspection is unavailable. Holds the time until a retry makes sense.
    AuthUnavailable(Duration),
    /// The request has a body but must not, or its body is too long.
    ContentTooLarge,
    /// A decision service does not answer. Holds the time until a retry makes sense.
    DecisionUnavailable(Duration),
    /// No rule allows the request. Holds why the last one does not.
    Forbidden(Unmet),
    /// The headers are too many or too long. Holds the key in `[limits]`.
    HeadersTooLarge(&'static str),
    /// An internal error. The log has the cause.
    Internal,
    /// A part of the request that is not a parameter is invalid. Holds its name and the problem.
    InvalidHead(&'static str, &'static str),
    /// Parameters are invalid. Lists every error.
    InvalidRequest(Vec<ParameterError>),
    /// The issuer's keys are unavailable. Holds the time until a retry makes sense.
    KeysUnavailable(Duration),
    /// A limit is reached. Holds the time until a retry makes sense.
    Limited(Limit, Duration),
    /// The path does not support the method. Holds the methods that it supports.
    MethodNotAllowed(&'static str),
    /// Nothing is served at the path.
    NotFound,
    /// Electric is not ready. Holds the time until a retry makes sense.
    NotReady(Duration),
    /// Electric has too many requests in flight. Holds the time until a retry makes sense.
    Overloaded(Duration),
    /// No rule serves the table.
    ShapeNotFound,
    /// The token has expired.
    TokenExpired,
    /// The token is invalid. Holds what is wrong with it.
    TokenInvalid(InvalidReason),
    /// The `Authorization` header is not one well-formed bearer token.
    TokenMalformed,
    /// The request has no token.
    TokenMissing,
    /// The token is too long.
    TokenTooLong,
    /// Electric rejected our request, which is a fault of shapegate or of its configuration. Holds the time until a
    /// retry makes sense.
    UpstreamRefused(Duration),
    /// Electric did not respond in time.
    UpstreamTimeout,
    /// Electric is unreachable, or closed the connection early.
    UpstreamUnreachable,
    /// The request target is too long.
    UriTooLong,
    /// The rule's values make the request to Electric, or the minted token, too long.
    ValuesTooLong,
}

impl From<BearerError> for Rejection {
    fn from(error: BearerError) -> Self {
        match error {
            BearerError::Conflict => Self::invalid("authorization", "differs from the token in a cookie"),
            BearerError::Malformed => Self::TokenMalformed,
            BearerError::Missing => Self::TokenMissing,
            BearerError::TooLong => Self::TokenTooLong,
        }
    }
}

impl From<TokenError> for Rejection {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Expired => Self::TokenExpired,
            TokenError::Invalid(reason) => Self::TokenInvalid(reason),
            TokenError::KeysUnavailable { retry_after } => Self::KeysUnavailable(retry_after),
            TokenError::Unavailable { retry_after } => Self::AuthUnavailable(retry_after),
        }
    }
}

impl Rejection {
    /// Creates an `invalid_request` for a part of the request that is not a parameter.
    pub const fn invalid(name: &'static str, problem: &'static str) -> Self {
        Self::InvalidHead(name, problem)
    }

    /// Counts a reached limit and returns its rejection.
    pub fn limited(limited: Limited, metrics: &Metrics) -> Self {
        metrics.limited(limited.limit().as_str());
        Self::Limited(limited.limit(), limited.retry_after())
    }

    /// Returns the status, the code and the message.
    pub const fn answer(&self) -> (StatusCode, &'static str, &'static str) {
        let (code, message) = self.words();
        (self.status(), code, message)
    }

    /// Returns the reason, which only operators see.
    pub fn reason(&self) -> Reason {
        Reason::of(self)
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::ContentTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::HeadersTooLarge(_) | Self::TokenTooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::InvalidHead(..) | Self::InvalidRequest(_) => StatusCode::BAD_REQUEST,
            Self::Limited(limit, _) if !limit.is_of_all() => StatusCode::TOO_MANY_REQUESTS,
            Self::AuthUnavailable(_)
            | Self::DecisionUnavailable(_)
            | Self::KeysUnavailable(_)
            | Self::Limited(..)
            | Self::NotReady(_)
            | Self::Overloaded(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotFound | Self::ShapeNotFound => StatusCode::NOT_FOUND,
            Self::TokenExpired | Self::TokenInvalid(_) | Self::TokenMalformed | Self::TokenMissing => {
                StatusCode::UNAUTHORIZED
            }
            Self::UpstreamRefused(_) | Self::UpstreamUnreachable => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::UriTooLong | Self::ValuesTooLong => StatusCode::URI_TOO_LONG,
        }
    }

    /// The code and the message.
    const fn words(&self) -> (&'static str, &'static str) {
        match self {
            Self::AuthUnavailable(_) => ("auth_unavailable", "The token cannot be checked now; try again later."),
            Self::ContentTooLarge => {
                ("content_too_large", "Only a subset may have a body, and no longer one than `limits.body_bytes`.")
            }
            Self::DecisionUnavailable(_) => (
                "decision_unavailable",
                "The service that decides about this request does not answer; try again later.",
            ),
            Self::Forbidden(_) => ("forbidden", "No rule allows this request to read this shape."),
            Self::HeadersTooLarge(_) | Self::TokenTooLong => {
                ("headers_too_large", "The headers of the request are too many or too long.")
            }
            Self::Internal => ("internal", "Internal error. Look up this request id in the log."),
            Self::InvalidHead(..) | Self::InvalidRequest(_) => {
                ("invalid_request", "The request is invalid; see `errors`.")
            }
            Self::KeysUnavailable(_) => ("keys_unavailable", "The issuer's keys are unavailable; try again later."),
            Self::Limited(limit, _) if !limit.is_of_all() => {
                ("too_many_requests", "This client exceeds a limit; try again after the time in `retry-after`.")
            }
            Self::MethodNotAllowed(_) => ("method_not_allowed", "This path does not support this method."),
            Self::NotFound => ("not_found", "Nothing is served at this path."),
            Self::NotReady(_) => ("not_ready", "The sync service is not ready; try again later."),
            Self::Limited(..) | Self::Overloaded(_) => {
                ("overloaded", "Too many requests are in flight; try again after the time in `retry-after`.")
            }
            Self::ShapeNotFound => ("shape_not_found", "No rule serves this table."),
            Self::TokenExpired => ("token_expired", "The token has expired."),
            Self::TokenInvalid(_) | Self::TokenMalformed => ("token_invalid", "The token is invalid."),
            Self::TokenMissing => ("token_missing", "A token is missing; send it as `Authorization: Bearer TOKEN`."),
            Self::UpstreamRefused(_) => ("upstream_refused", "The sync service rejected the request."),
            Self::UpstreamTimeout => ("upstream_timeout", "The sync service did not respond in time."),
            Self::UpstreamUnreachable => ("upstream_unreachable", "The sync service is unreachable."),
            Self::UriTooLong => ("uri_too_long", "The request target is too long."),
            Self::ValuesTooLong => ("uri_too_long", "The rule's values make the request to the sync service too long."),
        }
    }

    /// The value of `Retry-After`. Every 5xx and 429 has one, so that clients retry.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::AuthUnavailable(after)
            | Self::DecisionUnavailable(after)
            | Self::KeysUnavailable(after)
            | Self::Limited(_, after)
            | Self::NotReady(after)
            | Self::Overloaded(after)
            | Self::UpstreamRefused(after) => Some(*after),
            Self::Internal | Self::UpstreamTimeout | Self::UpstreamUnreachable => Some(SOON),
            Self::ContentTooLarge
            | Self::Forbidden(_)
            | Self::HeadersTooLarge(_)
            | Self::InvalidHead(..)
            | Self::InvalidRequest(_)
            | Self::MethodNotAllowed(_)
            | Self::NotFound
            | Self::ShapeNotFound
            | Self::TokenExpired
            | Self::TokenInvalid(_)
            | Self::TokenMalformed
            | Self::TokenMissing
            | Self::TokenTooLong
            | Self::UriTooLong
            | Self::ValuesTooLong => None,
        }
    }

    /// The value of `WWW-Authenticate` (RFC 6750 section 3); `None` unless the status is 401.
    pub const fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::TokenMissing => Some("Bearer"),
            Self::TokenExpired => Some(r#"Bearer error="invalid_token", error_description="expired""#),
            Self::TokenInvalid(_) | Self::TokenMalformed => Some(r#"Bearer error="invalid_token""#),
            _ => None,
        }
    }

    /// The key in `[limits]` that the request exceeds.
    const fn limit(&self) -> Option<&'static str> {
        match self {
            Self::HeadersTooLarge(limit) => Some(limit),
            Self::Limited(limit, _) => Some(limit.as_str()),
            Self::TokenTooLong => Some("token_bytes"),
            Self::UriTooLong => Some("uri_bytes"),
            _ => None,
        }
    }

    /// Builds the body: `{"code":…,"message":…}`, with `errors` for an invalid request. With `explained`, for
    /// development, it also has the reason.
    pub fn body(&self, explained: bool) -> String {
        let (_, code, message) = self.answer();
        let limit = self.limit().map(|limit| format!(" The limit is `limits.{limit}`.")).unwrap_or_default();
        let mut body = serde_json::json!({ "code": code, "message": format!("{message}{limit}") });
        if explained {
            body["reason"] = self.reason().as_str().into();
        }
        match self {
            Self::InvalidHead(name, problem) => body["errors"] = serde_json::json!({ *name: [problem] }),
            Self::InvalidRequest(errors) => body["errors"] = by_name(errors),
            _ => {}
        }
        body.to_string()
    }
}

/// Lists the problems of each parameter.
fn by_name(errors: &[ParameterError]) -> serde_json::Value {
    let mut by_name = serde_json::Map::new();
    for error in errors {
        let list = by_name.entry(error.name.as_ref()).or_insert_with(|| serde_json::json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(error.problem.into());
        }
    }
    by_name.into()
}
