//! Failures of shapegate and of Electric. The log gets the cause, the client gets a fixed response.

use std::time::Duration;

use crate::auth::InvalidReason;
use crate::rejection::{Rejection, SOON};

/// Why an authorized request did not get a complete response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The list of revocations or the issuer's introspection became unavailable while the request waited.
    #[error("what the token must be checked with became unavailable while the request waited")]
    AuthUnavailable(Duration),
    /// The client has disconnected, so there is no response.
    #[error("the client disconnected")]
    ClientGone,
    /// A decision service no longer allows a response that has begun, allows it differently, or does not answer.
    #[error("a decision changed during the response")]
    DecisionChanged,
    /// The issuer's key set became too old while the request waited, because the issuer is unreachable.
    #[error("the issuer's keys became unavailable while the request waited")]
    KeysUnavailable(Duration),
    /// The issuer removed the token's key from its set while the request waited.
    #[error("the token's key was removed while the request waited")]
    KeyGone,
    /// Electric is at its limit of concurrent requests (tests/electric/90).
    #[error("Electric is overloaded")]
    Overloaded(Duration),
    /// Electric is starting or has lost its database (tests/electric/84, 91 to 96).
    #[error("Electric is not ready")]
    NotReady(Duration),
    /// The policy changed during a response, and no longer allows it, or allows it differently. A request whose response
    /// has not begun is decided anew instead.
    #[error("the policy changed during the response")]
    Reloaded,
    /// The client does not read its response.
    #[error("the client did not read in time")]
    SlowReader,
    /// The process is stopping. It ends event streams, whose clients reconnect to the next process.
    #[error("the process is stopping")]
    Stopping,
    /// The token of the request expired while the request waited.
    #[error("the token expired while the request waited")]
    TokenExpired,
    /// The token was revoked while the request waited.
    #[error("the token was revoked while the request waited")]
    TokenRevoked,
    /// Electric responded with a status that none of our requests should get.
    #[error("Electric rejected the request with status {0}")]
    UpstreamRefused(u16),
    /// Electric sent nothing for `upstream.read_timeout`, or did not accept a connection in time.
    #[error("Electric did not respond in time")]
    UpstreamTimeout,
    /// Electric is unreachable, or closed the connection early.
    #[error("Electric is unreachable")]
    UpstreamUnreachable,
    /// An internal error: the task that fetches a response ended before the response was complete.
    #[error("the task that fetches the response ended early")]
    Internal,
}

impl Fault {
    /// The name in logs and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::AuthUnavailable(_) => "auth_unavailable",
            Self::ClientGone => "client_gone",
            Self::DecisionChanged => "decision_changed",
            Self::KeyGone => "key_gone",
            Self::KeysUnavailable(_) => "keys_unavailable",
            Self::NotReady(_) => "not_ready",
            Self::Overloaded(_) => "overloaded",
            Self::Reloaded => "reloaded",
            Self::SlowReader => "slow_reader",
            Self::Stopping => "stopping",
            Self::TokenExpired => "token_expired",
            Self::TokenRevoked => "token_revoked",
            Self::UpstreamRefused(_) => "upstream_refused",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::Internal => "internal",
        }
    }

    /// The response for the client; `None` if the client disconnected or does not read, or if only a response that has
    /// begun ends this way.
    pub fn rejection(&self) -> Option<Rejection> {
        Some(match self {
            Self::ClientGone | Self::DecisionChanged | Self::Reloaded | Self::SlowReader | Self::Stopping => {
                return None;
            }
            Self::AuthUnavailable(after) => Rejection::AuthUnavailable(*after),
            Self::KeyGone => Rejection::TokenInvalid(InvalidReason::UnknownKey),
            Self::TokenRevoked => Rejection::TokenInvalid(InvalidReason::Revoked),
            Self::KeysUnavailable(after) => Rejection::KeysUnavailable(*after),
            Self::NotReady(after) => Rejection::NotReady(*after),
            Self::Overloaded(after) => Rejection::Overloaded(*after),
            Self::TokenExpired => Rejection::TokenExpired,
            Self::UpstreamRefused(_) => Rejection::UpstreamRefused(self.lasts().unwrap_or(SOON)),
            Self::UpstreamTimeout => Rejection::UpstreamTimeout,
            Self::UpstreamUnreachable => Rejection::UpstreamUnreachable,
            Self::Internal => Rejection::Internal,
        })
    }

    /// Whether the token is no longer accepted. Clients recover with a new token.
    pub(crate) const fn ends_token(&self) -> bool {
        matches!(
            self,
            Self::AuthUnavailable(_)
                | Self::KeyGone
                | Self::KeysUnavailable(_)
                | Self::TokenExpired
                | Self::TokenRevoked
        )
    }

    /// How long Electric's refusal of a rule is remembered: until then, every request for the shape gets it. Electric
    /// answers 400 if the rule is wrong, and again to everybody who tries again.
    pub(crate) const fn lasts(&self) -> Option<Duration> {
        match self {
            Self::UpstreamRefused(400) => Some(Duration::from_secs(60)),
            _ => None,
        }
    }

    /// Whether it is Electric's, so that all clients of a flight have it at the same moment. The flight logs it.
    pub(crate) const fn is_of_electric(&self) -> bool {
        matches!(
            self,
            Self::NotReady(_)
                | Self::Overloaded(_)
                | Self::UpstreamRefused(_)
                | Self::UpstreamTimeout
                | Self::UpstreamUnreachable
        )
    }

    /// Whether it is normal operation, not a problem of shapegate or of Electric.
    pub(crate) const fn is_everyday(&self) -> bool {
        matches!(
            self,
            Self::ClientGone
                | Self::DecisionChanged
                | Self::Reloaded
                | Self::SlowReader
                | Self::Stopping
                | Self::TokenExpired
                | Self::TokenRevoked
        )
    }
}
