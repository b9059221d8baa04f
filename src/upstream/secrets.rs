//! Tracks which of two secrets a server accepts.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;

use super::settings::UpstreamSettings;
use crate::secret::Secret;

/// The place, counted from 0, of the secret that Electric last proved to accept.
#[derive(Debug, Default)]
pub(super) struct SecretInUse(AtomicUsize);

/// The configuration keys of the two secrets, for logs.
const KEYS: [&str; 2] = ["secret", "secret_next"];

impl SecretInUse {
    /// Returns the place of the secret to try first.
    pub(super) fn place(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns the place of the secret to try if the one at `place` is refused; `None` if there is no other.
    pub(super) fn other(place: usize, upstream: &UpstreamSettings) -> Option<usize> {
        upstream.secret_next.as_ref().map(|_| 1 - place.min(1))
    }

    /// Uses the secret at `place` from now on if `status` proves that Electric accepted it. Returns whether that is
    /// new.
    pub(super) fn take(&self, place: usize, status: StatusCode) -> bool {
        // Not 503: Electric may send it before it checks the secret.
        let proved = matches!(status.as_u16(), 200 | 304 | 400 | 409);
        proved && self.0.swap(place, Ordering::Relaxed) != place
    }

    /// Returns the configuration key of the secret at `place`.
    pub(super) fn key(place: usize) -> &'static str {
        KEYS[place.min(1)]
    }
}

/// Returns the secret at `place`; `None` if the upstream has none.
pub(super) fn secret(place: usize, upstream: &UpstreamSettings) -> Option<&Secret> {
    upstream.secrets().nth(place)
}
