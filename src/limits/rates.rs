//! Limits how often something may happen for each of many keys.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use super::limit::{Limit, Limited};

/// An average rate and a burst.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quota {
    /// Nanoseconds between two events at the average rate; 0 means no limit.
    interval: u64,
    /// Nanoseconds by which an event may be early.
    tolerance: u64,
}

impl Quota {
    /// Allows `count` events in `per`, and `burst` at once; no limit if `count` is 0.
    pub(super) fn new(count: u64, per: Duration, burst: u64) -> Self {
        let interval = nanos(per).checked_div(count).unwrap_or_default();
        Self { interval, tolerance: interval.saturating_mul(burst.saturating_sub(1)) }
    }
}

/// The generic cell rate algorithm (ITU-T I.371): for each key, it stores only the time at which its quota is full
/// again. It remembers about 100,000 keys, whatever the number of clients, and forgets unused keys first.
pub(super) struct Rates<K> {
    limit: Limit,
    interval: AtomicU64,
    tolerance: AtomicU64,
    start: Instant,
    times: Cache<K, Arc<AtomicU64>>,
}

const KEYS: usize = 100_000;

impl<K: Clone + Eq + Hash> Rates<K> {
    pub(super) fn new(limit: Limit) -> Self {
        let (interval, tolerance) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { limit, interval, tolerance, start: Instant::now(), times: Cache::new(KEYS) }
    }

    pub(super) fn set(&self, quota: Quota) {
        self.interval.store(quota.interval, Ordering::Relaxed);
        self.tolerance.store(quota.tolerance, Ordering::Relaxed);
    }

    /// Counts one event for this key.
    pub(super) fn take(&self, key: &K, now: Instant) -> Result<(), Limited> {
        let interval = self.interval.load(Ordering::Relaxed);
        if interval == 0 {
            return Ok(());
        }
        let now = nanos(now.saturating_duration_since(self.start));
        let fresh = || Ok::<_, Limited>(Arc::default());
        let time = self.times.get_or_insert_with(key, fresh)?;
        let next = |time| self.early(time, now).is_none().then(|| now.max(time).saturating_add(interval));
        match time.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(_) => Ok(()),
            Err(time) => self.refuse(time, now),
        }
    }

    /// Checks whether an event would be allowed, without counting it.
    pub(super) fn check(&self, key: &K, now: Instant) -> Result<(), Limited> {
        if self.interval.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let now = nanos(now.saturating_duration_since(self.start));
        self.times.get(key).map_or(Ok(()), |time| self.refuse(time.load(Ordering::Relaxed), now))
    }

    fn refuse(&self, time: u64, now: u64) -> Result<(), Limited> {
        let early = self.early(time, now);
        early.map_or(Ok(()), |early| Err(Limited::until(self.limit, Duration::from_nanos(early))))
    }

    /// Returns by how many nanoseconds an event now is too early; `None` if it is allowed.
    fn early(&self, time: u64, now: u64) -> Option<u64> {
        let early = time.saturating_sub(now).saturating_sub(self.tolerance.load(Ordering::Relaxed));
        (early > 0).then_some(early)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.times.len()
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
