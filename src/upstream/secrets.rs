//! Tracks which of two secrets a server accepts.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::StatusCode;

use super::settings::UpstreamSettings;
use crate::secret::Secret;
use crate::shape::UpstreamName;

/// The secret that Electric last proved to accept.
#[derive(Debug, Default)]
pub(super) struct SecretInUse {
    /// Its place, counted from 0.
    place: AtomicUsize,
    /// Whether Electric has refused every secret since it last accepted one.
    refused: AtomicBool,
}

/// The configuration keys of the two secrets, for logs.
const KEYS: [&str; 2] = ["secret", "secret_next"];

impl SecretInUse {
    /// Returns the place of the secret to try first.
    pub(super) fn place(&self) -> usize {
        self.place.load(Ordering::Relaxed)
    }

    /// Returns the place of the secret to try if the one at `place` is refused; `None` if there is no other.
    pub(super) fn other(place: usize, upstream: &UpstreamSettings) -> Option<usize> {
        upstream.secret_next.as_ref().map(|_| 1 - place.min(1))
    }

    /// Uses the secret at `place` from now on if `status` proves that Electric accepted it. Returns whether that is
    /// new.
    pub(super) fn take(&self, place: usize, status: StatusCode) -> bool {
        proves(status) && self.place.swap(place, Ordering::Relaxed) != place
    }

    /// Records what the status of a response says about the secrets after all were tried. Returns whether Electric
    /// refuses them, and did not before.
    pub(super) fn judge(&self, status: StatusCode) -> bool {
        let refused = status == StatusCode::UNAUTHORIZED;
        (refused || proves(status)) && self.is_refused() != refused && {
            self.refused.store(refused, Ordering::Relaxed);
            refused
        }
    }

    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Returns the configuration key of the secret at `place`.
    pub(super) fn key(place: usize) -> &'static str {
        KEYS[place.min(1)]
    }
}

/// Whether a response with this status proves that Electric accepted the secret.
fn proves(status: StatusCode) -> bool {
    // Not 503: Electric may send it before it checks the secret.
    matches!(status.as_u16(), 200 | 304 | 400 | 409)
}

/// Returns how the configuration names the secrets of an upstream: `upstream.secret`.
pub(super) fn keys(name: &UpstreamName, upstream: &UpstreamSettings) -> String {
    let section = name.named().map_or("upstream".to_owned(), |name| format!("upstreams.{name}"));
    let keys: Vec<_> = upstream.secrets().zip(KEYS).map(|(_, key)| format!("{section}.{key}")).collect();
    keys.join(" and ")
}

/// Returns the secret at `place`; `None` if the upstream has none.
pub(super) fn secret(place: usize, upstream: &UpstreamSettings) -> Option<&Secret> {
    upstream.secrets().nth(place)
}
