//! Why a client's SQL is refused.

/// What is not allowed, in words for the client; fixed texts, so nothing of the client's comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FilterError(&'static str);

impl FilterError {
    pub(super) const fn new(reason: &'static str) -> Self {
        Self(reason)
    }

    /// The reason, a phrase without a full stop.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}
