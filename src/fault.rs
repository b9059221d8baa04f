//! Failures of ours and of the upstream: the cause goes to the log, the client gets a fixed answer.

use std::time::Duration;

use pingora::{Error, ErrorSource, ErrorType};

use crate::rejection::Rejection;

/// What went wrong on our side of the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The client itself is gone; there is nobody to answer.
    #[error("the client left")]
    ClientGone,
    /// The key set behind the request's token grew too old while the request waited: the issuer is down.
    #[error("the issuer's keys became unavailable while the request waited")]
    KeysUnavailable(Duration),
    /// The key behind the request's token left its issuer's set while the request waited.
    #[error("the token's key was withdrawn while the request waited")]
    KeyGone,
    /// Electric is at its limit of concurrent requests (transcript 90).
    #[error("Electric is overloaded")]
    Overloaded(Duration),
    /// Electric is starting or has lost its database (transcripts 84, 91 to 96).
    #[error("Electric is not ready")]
    NotReady(Duration),
    /// The token of the request ended while it waited.
    #[error("the token expired while the request waited")]
    TokenExpired,
    /// Electric answered with a status that a request made here should not get.
    #[error("Electric refused the request with status {0}")]
    UpstreamRefused(u16),
    /// Electric was silent for longer than `upstream.read_timeout`, or took no connection in time.
    #[error("Electric did not answer in time")]
    UpstreamTimeout,
    /// Electric cannot be reached, or broke off.
    #[error("Electric cannot be reached")]
    UpstreamUnreachable,
    /// A phase found the request in a state that an earlier phase never leaves.
    #[error("a request phase ran out of order")]
    WrongPhase,
}

impl Fault {
    /// The name in logs and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::ClientGone => "client_gone",
            Self::KeyGone => "key_gone",
            Self::KeysUnavailable(_) => "keys_unavailable",
            Self::NotReady(_) => "not_ready",
            Self::Overloaded(_) => "overloaded",
            Self::TokenExpired => "token_expired",
            Self::UpstreamRefused(_) => "upstream_refused",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::WrongPhase => "wrong_phase",
        }
    }

    /// What the client is told; `None` where it is gone.
    pub fn rejection(&self) -> Option<Rejection> {
        Some(match self {
            Self::ClientGone => return None,
            Self::KeyGone => Rejection::TokenInvalid,
            Self::KeysUnavailable(after) => Rejection::KeysUnavailable(*after),
            Self::NotReady(after) => Rejection::NotReady(*after),
            Self::Overloaded(after) => Rejection::Overloaded(*after),
            Self::TokenExpired => Rejection::TokenExpired,
            Self::UpstreamRefused(_) => Rejection::UpstreamRefused,
            Self::UpstreamTimeout => Rejection::UpstreamTimeout,
            Self::UpstreamUnreachable => Rejection::UpstreamUnreachable,
            Self::WrongPhase => Rejection::Internal,
        })
    }

    /// The fault behind an error of the proxy's own phases.
    pub fn of(error: &Error) -> Self {
        match (error.esource(), error.etype()) {
            (ErrorSource::Downstream, _) => Self::ClientGone,
            (_, ErrorType::ConnectTimedout | ErrorType::ReadTimedout | ErrorType::TLSHandshakeTimedout) => {
                Self::UpstreamTimeout
            }
            (ErrorSource::Upstream, _) => Self::UpstreamUnreachable,
            (_, kind) if is_connect(kind) => Self::UpstreamUnreachable,
            (ErrorSource::Internal | ErrorSource::Unset, _) => Self::WrongPhase,
        }
    }
}

fn is_connect(kind: &ErrorType) -> bool {
    matches!(
        kind,
        ErrorType::ConnectError
            | ErrorType::ConnectNoRoute
            | ErrorType::ConnectRefused
            | ErrorType::HandshakeError
            | ErrorType::InvalidCert
            | ErrorType::SocketError
            | ErrorType::TLSHandshakeFailure
    )
}
