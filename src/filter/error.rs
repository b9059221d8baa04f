//! The reason why a client's SQL is rejected.

/// What is not allowed, as a message for the client. The texts are fixed, so they never repeat input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FilterError(&'static str);

impl FilterError {
    pub(super) const fn new(reason: &'static str) -> Self {
        Self(reason)
    }

    /// Returns the message, without a full stop.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}
