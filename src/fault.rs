//! Failures of ours and of the upstream: the cause goes to the log, the client gets a fixed answer.

use std::time::Duration;

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
    /// Electric is at its limit of concurrent requests (tests/electric/90).
    #[error("Electric is overloaded")]
    Overloaded(Duration),
    /// Electric is starting or has lost its database (tests/electric/84, 91 to 96).
    #[error("Electric is not ready")]
    NotReady(Duration),
    /// The policy changed while the request waited, and does not allow it any more, or not as it was.
    #[error("the policy changed while the request waited")]
    Reloaded,
    /// The client does not read.
    #[error("the client did not read in time")]
    SlowReader,
    /// The process is about to stop: a stream of events ends here, and its client comes back to the next one.
    #[error("the process is stopping")]
    Stopping,
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
    /// Something of ours is broken: the task behind an answer ended before it.
    #[error("the answer's task ended before the answer")]
    Internal,
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
            Self::Reloaded => "reloaded",
            Self::SlowReader => "slow_reader",
            Self::Stopping => "stopping",
            Self::TokenExpired => "token_expired",
            Self::UpstreamRefused(_) => "upstream_refused",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::Internal => "internal",
        }
    }

    /// What the client is told; `None` where it is gone.
    pub fn rejection(&self) -> Option<Rejection> {
        Some(match self {
            Self::ClientGone | Self::SlowReader => return None,
            Self::KeyGone => Rejection::TokenInvalid,
            Self::KeysUnavailable(after) => Rejection::KeysUnavailable(*after),
            Self::NotReady(after) => Rejection::NotReady(*after),
            Self::Overloaded(after) => Rejection::Overloaded(*after),
            Self::Reloaded | Self::Stopping => Rejection::NotReady(Duration::from_secs(1)),
            Self::TokenExpired => Rejection::TokenExpired,
            Self::UpstreamRefused(_) => Rejection::UpstreamRefused,
            Self::UpstreamTimeout => Rejection::UpstreamTimeout,
            Self::UpstreamUnreachable => Rejection::UpstreamUnreachable,
            Self::Internal => Rejection::Internal,
        })
    }

    /// Whether the bearer may not go on, which a client mends with a new token.
    pub(crate) const fn ends_token(&self) -> bool {
        matches!(self, Self::KeyGone | Self::KeysUnavailable(_) | Self::TokenExpired)
    }

    /// Whether it happens every day, and says nothing of us or of Electric.
    pub(crate) const fn is_everyday(&self) -> bool {
        matches!(self, Self::ClientGone | Self::Reloaded | Self::SlowReader | Self::Stopping | Self::TokenExpired)
    }
}
