//! The responses that shapegate produces itself: status, code, metric label and message in one table.

use std::time::Duration;

use http::StatusCode;

use crate::shape::ParameterError;

/// A response of shapegate instead of Electric's. It never contains text of a token, of SQL or of a client.
#[derive(Clone, Debug)]
pub enum Rejection {
    /// The request has a body but must not, or its body is too long.
    ContentTooLarge,
    /// A decision service does not answer. Holds the time until a retry makes sense.
    DecisionUnavailable(Duration),
    /// No rule allows the request.
    Forbidden,
    /// The headers are too many or too long, or the token is too long.
    HeadersTooLarge,
    /// An internal error. The log has the cause.
    Internal,
    /// Parameters or framing are invalid. Lists every error.
    InvalidRequest(Vec<ParameterError>),
    /// The issuer's keys are unavailable. Holds the time until a retry makes sense.
    KeysUnavailable(Duration),
    /// The path does not support the method. Holds the methods that it supports.
    MethodNotAllowed(&'static str),
    /// Nothing is served at the path.
    NotFound,
    /// Electric is not ready, or shapegate is stopping. Holds the time until a retry makes sense.
    NotReady(Duration),
    /// Too many requests are in flight, here or at Electric. Holds the time until a retry makes sense.
    Overloaded(Duration),
    /// No rule serves the table.
    ShapeNotFound,
    /// The token has expired.
    TokenExpired,
    /// The token is invalid.
    TokenInvalid,
    /// The request has no token.
    TokenMissing,
    /// One client exceeds a limit. Holds the time until a retry makes sense.
    TooManyRequests(Duration),
    /// Electric rejected our request, which is a fault of shapegate or of its configuration.
    UpstreamRefused,
    /// Electric did not respond in time.
    UpstreamTimeout,
    /// Electric is unreachable, or closed the connection early.
    UpstreamUnreachable,
    /// The request target is too long, or the rule's values make the one to Electric too long.
    UriTooLong,
}

impl Rejection {
    /// Creates an `invalid_request` for a part of the request that is not a parameter.
    pub fn invalid(name: &'static str, problem: &'static str) -> Self {
        Self::InvalidRequest(vec![ParameterError { name: name.into(), problem }])
    }

    /// Returns the status, the code (also the metric's label) and the message.
    pub const fn answer(&self) -> (StatusCode, &'static str, &'static str) {
        let (code, message) = self.words();
        (self.status(), code, message)
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::ContentTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::InvalidRequest(_) => StatusCode::BAD_REQUEST,
            Self::DecisionUnavailable(_) | Self::KeysUnavailable(_) | Self::NotReady(_) | Self::Overloaded(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotFound | Self::ShapeNotFound => StatusCode::NOT_FOUND,
            Self::TokenExpired | Self::TokenInvalid | Self::TokenMissing => StatusCode::UNAUTHORIZED,
            Self::TooManyRequests(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::UpstreamRefused | Self::UpstreamUnreachable => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
        }
    }

    /// The code and the message.
    const fn words(&self) -> (&'static str, &'static str) {
        match self {
            Self::ContentTooLarge => {
                ("content_too_large", "A request for a shape must not have a body; one for a subset may have 64 KiB.")
            }
            Self::DecisionUnavailable(_) => (
                "decision_unavailable",
                "The service that decides about this request does not answer; try again later.",
            ),
            Self::Forbidden => ("forbidden", "No rule allows this request to read this shape."),
            Self::HeadersTooLarge => ("headers_too_large", "The headers of the request are too many or too long."),
            Self::Internal => ("internal", "Internal error. Look up this request id in the log."),
            Self::InvalidRequest(_) => ("invalid_request", "The request is invalid; see `errors`."),
            Self::KeysUnavailable(_) => ("keys_unavailable", "The issuer's keys are unavailable; try again later."),
            Self::MethodNotAllowed(_) => ("method_not_allowed", "This path does not support this method."),
            Self::NotFound => ("not_found", "Nothing is served at this path."),
            Self::NotReady(_) => ("not_ready", "The sync service is not ready; try again later."),
            Self::Overloaded(_) => {
                ("overloaded", "Too many requests are in flight; try again after the time in `retry-after`.")
            }
            Self::ShapeNotFound => ("shape_not_found", "No rule serves this table."),
            Self::TokenExpired => ("token_expired", "The token has expired."),
            Self::TokenInvalid => ("token_invalid", "The token is invalid."),
            Self::TokenMissing => ("token_missing", "A token is missing; send it as `Authorization: Bearer TOKEN`."),
            Self::TooManyRequests(_) => {
                ("too_many_requests", "This client exceeds a limit; try again after the time in `retry-after`.")
            }
            Self::UpstreamRefused => ("upstream_refused", "The sync service rejected the request."),
            Self::UpstreamTimeout => ("upstream_timeout", "The sync service did not respond in time."),
            Self::UpstreamUnreachable => ("upstream_unreachable", "The sync service is unreachable."),
            Self::UriTooLong => ("uri_too_long", "The request target is too long, here or for the sync service."),
        }
    }

    /// The value of `Retry-After`. Every 5xx and 429 has one, so that clients retry.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::DecisionUnavailable(after)
            | Self::KeysUnavailable(after)
            | Self::NotReady(after)
            | Self::Overloaded(after)
            | Self::TooManyRequests(after) => Some(*after),
            Self::Internal | Self::UpstreamRefused | Self::UpstreamTimeout | Self::UpstreamUnreachable => {
                Some(Duration::from_secs(5))
            }
            Self::ContentTooLarge
            | Self::Forbidden
            | Self::HeadersTooLarge
            | Self::InvalidRequest(_)
            | Self::MethodNotAllowed(_)
            | Self::NotFound
            | Self::ShapeNotFound
            | Self::TokenExpired
            | Self::TokenInvalid
            | Self::TokenMissing
            | Self::UriTooLong => None,
        }
    }

    /// The value of `WWW-Authenticate` (RFC 6750 section 3); `None` unless the status is 401.
    pub const fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::TokenMissing => Some("Bearer"),
            Self::TokenExpired => Some(r#"Bearer error="invalid_token", error_description="expired""#),
            Self::TokenInvalid => Some(r#"Bearer error="invalid_token""#),
            _ => None,
        }
    }

    /// Builds the body: `{"code":…,"message":…}`, with `errors` for [`Rejection::InvalidRequest`].
    pub fn body(&self) -> String {
        let (_, code, message) = self.answer();
        let mut body = serde_json::json!({ "code": code, "message": message });
        if let Self::InvalidRequest(errors) = self {
            let mut by_name = serde_json::Map::new();
            for error in errors {
                if let Some(list) =
                    by_name.entry(error.name.as_ref()).or_insert_with(|| serde_json::json!([])).as_array_mut()
                {
                    list.push(error.problem.into());
                }
            }
            body["errors"] = by_name.into();
        }
        body.to_string()
    }
}
