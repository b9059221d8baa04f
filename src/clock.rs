//! The wall clock for token checks. It is passed as an argument, so that tests can set it.

#[cfg(test)]
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A time in whole seconds since 1970-01-01T00:00Z, like `exp`, `nbf` and `iat` (RFC 7519 section 2, NumericDate).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(u64);

impl UnixTime {
    /// Creates a time from seconds since the epoch.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs)
    }

    /// The whole seconds since the epoch.
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// Adds the whole seconds of `duration`; the largest time if that overflows.
    #[must_use]
    pub const fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_secs()))
    }

    /// Returns the time since `earlier`; zero if `earlier` is later.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

/// Reads the wall clock. All code reads it through this trait.
pub trait Clock: Send + Sync {
    /// The current time, in whole seconds.
    fn now(&self) -> UnixTime;
}

/// The system's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // the only place that may call them
    fn now(&self) -> UnixTime {
        // A clock before 1970 reads as 0: every `nbf` and `iat` is then in the future, so such tokens are rejected.
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        UnixTime(since.map_or(0, |elapsed| elapsed.as_secs()))
    }
}

/// A clock for tests that changes only when it is set.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct ManualClock(AtomicU64);

#[cfg(test)]
impl ManualClock {
    /// Creates a clock that is set to `now`.
    pub(crate) const fn at(now: UnixTime) -> Self {
        Self(AtomicU64::new(now.0))
    }

    /// Sets the clock to `now`.
    pub(crate) fn set(&self, now: UnixTime) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

#[cfg(test)]
impl Clock for ManualClock {
    fn now(&self) -> UnixTime {
        UnixTime(self.0.load(Ordering::SeqCst))
    }
}
