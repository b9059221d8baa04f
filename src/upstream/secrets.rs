//! Which of two secrets a server takes.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;

use super::settings::UpstreamSettings;
use crate::secret::Secret;

/// The place of the secret in use, from 0: that of the last answer which proved one.
#[derive(Debug, Default)]
pub(super) struct SecretInUse(AtomicUsize);

/// The keys of the two, for logs.
const KEYS: [&str; 2] = ["secret", "secret_next"];

impl SecretInUse {
    /// The place of the secret to try first.
    pub(super) fn place(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// The place of the one to try where that at `place` is refused; `None` where there is no other.
    pub(super) fn other(place: usize, upstream: &UpstreamSettings) -> Option<usize> {
        upstream.secret_next.as_ref().map(|_| 1 - place.min(1))
    }

    /// Takes the secret at `place` from here on, where `status` proves that Electric took it; says whether that is news.
    pub(super) fn take(&self, place: usize, status: StatusCode) -> bool {
        // A 503 comes before the secret is looked at, perhaps.
        let proved = matches!(status.as_u16(), 200 | 304 | 400 | 409);
        proved && self.0.swap(place, Ordering::Relaxed) != place
    }

    /// The key of the secret at `place`.
    pub(super) fn key(place: usize) -> &'static str {
        KEYS[place.min(1)]
    }
}

/// The secret at `place`; `None` where the upstream has none.
pub(super) fn secret(place: usize, upstream: &UpstreamSettings) -> Option<&Secret> {
    upstream.secrets().nth(place)
}
