//! Every answer we give ourselves: status, code, label and words in one table.

use std::time::Duration;

use http::StatusCode;

use crate::shape::ParameterError;

/// An answer of our own instead of Electric's; holds no text of a token, of SQL or of a client.
#[derive(Clone, Debug)]
pub enum Rejection {
    /// A body where none is taken, or one that is too long.
    ContentTooLarge,
    /// No rule allows it.
    Forbidden,
    /// Too many or too long headers, or a token over the limit.
    HeadersTooLarge,
    /// Something of ours is broken; the log says what.
    Internal,
    /// Parameters or framing; names each that is wrong.
    InvalidRequest(Vec<ParameterError>),
    /// The issuer's keys cannot be had.
    KeysUnavailable(Duration),
    /// A method that this path does not take; the methods it takes.
    MethodNotAllowed(&'static str),
    /// No such path.
    NotFound,
    /// Electric is not ready, or we are about to stop.
    NotReady(Duration),
    /// Too much at one time, here or at Electric.
    Overloaded(Duration),
    /// No rule serves the table.
    ShapeNotFound,
    /// The token's time is over.
    TokenExpired,
    /// The token proves nothing.
    TokenInvalid,
    /// There is no token.
    TokenMissing,
    /// One client asks for too much, or too often.
    TooManyRequests(Duration),
    /// Electric refused what we sent, which is ours to mend.
    UpstreamRefused,
    /// Electric was silent for too long.
    UpstreamTimeout,
    /// Electric cannot be reached, or broke off.
    UpstreamUnreachable,
    /// The request target is too long, or the rule makes Electric's too long.
    UriTooLong,
}

impl Rejection {
    /// One malformed part of the request, outside its parameters.
    pub fn invalid(name: &'static str, problem: &'static str) -> Self {
        Self::InvalidRequest(vec![ParameterError { name: name.into(), problem }])
    }

    /// The status and the code, which is also the label of the metric, and words for a person.
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
            Self::KeysUnavailable(_) | Self::NotReady(_) | Self::Overloaded(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotFound | Self::ShapeNotFound => StatusCode::NOT_FOUND,
            Self::TokenExpired | Self::TokenInvalid | Self::TokenMissing => StatusCode::UNAUTHORIZED,
            Self::TooManyRequests(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::UpstreamRefused | Self::UpstreamUnreachable => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
        }
    }

    /// The code and a sentence for a person.
    const fn words(&self) -> (&'static str, &'static str) {
        match self {
            Self::ContentTooLarge => {
                ("content_too_large", "A request for a shape has no body, one for a subset at most 64 KiB.")
            }
            Self::Forbidden => ("forbidden", "No rule allows this shape to the bearer of this token."),
            Self::HeadersTooLarge => ("headers_too_large", "The request has too many or too long headers."),
            Self::Internal => ("internal", "Something is wrong here; the request id leads to it in the log."),
            Self::InvalidRequest(_) => ("invalid_request", "The request is not well formed; `errors` says where."),
            Self::KeysUnavailable(_) => ("keys_unavailable", "The issuer's keys cannot be had right now; try again."),
            Self::MethodNotAllowed(_) => ("method_not_allowed", "This path does not take that method."),
            Self::NotFound => ("not_found", "Nothing is served at this path."),
            Self::NotReady(_) => ("not_ready", "The sync service is not ready; try again."),
            Self::Overloaded(_) => {
                ("overloaded", "Too many requests are being answered; try again after the time in `retry-after`.")
            }
            Self::ShapeNotFound => ("shape_not_found", "No rule serves this table."),
            Self::TokenExpired => ("token_expired", "The token has expired."),
            Self::TokenInvalid => ("token_invalid", "The token is not valid here."),
            Self::TokenMissing => ("token_missing", "Send a token: Authorization: Bearer …."),
            Self::TooManyRequests(_) => {
                ("too_many_requests", "This client asks for too much; try again after the time in `retry-after`.")
            }
            Self::UpstreamRefused => ("upstream_refused", "The sync service refused the request made for this one."),
            Self::UpstreamTimeout => ("upstream_timeout", "The sync service did not answer in time."),
            Self::UpstreamUnreachable => ("upstream_unreachable", "The sync service cannot be reached."),
            Self::UriTooLong => {
                ("uri_too_long", "The request target, or the one its rule makes for the sync service, is too long.")
            }
        }
    }

    /// After how long a client may try again; every 5xx and 429 says so, so that none of them is final.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::KeysUnavailable(after)
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

    /// The value of `WWW-Authenticate` (RFC 6750 section 3), for the 401s.
    pub const fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::TokenMissing => Some("Bearer"),
            Self::TokenExpired => Some(r#"Bearer error="invalid_token", error_description="expired""#),
            Self::TokenInvalid => Some(r#"Bearer error="invalid_token""#),
            _ => None,
        }
    }

    /// The body: `{"code":…,"message":…}`, with `errors` where parameters are named.
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
