//! Caches results that are valid for a time, and makes each only once at a time.

use std::hash::{BuildHasher, Hash};

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::time::Instant;

/// A result that is valid for a time.
pub(crate) trait Expiring: Clone {
    /// When it is no longer valid.
    fn until(&self) -> Instant;

    /// Whether it is valid now.
    fn is_valid(&self) -> bool {
        Instant::now() < self.until()
    }
}

/// Returns the cached result of `key`, or the one that `make` gets. While it does, others with the same key wait for it;
/// if it is dropped, the next of them makes the result.
pub(crate) async fn find_or_make<
    K: Clone + Eq + Hash,
    V: Expiring,
    W: Weighter<K, V> + Clone,
    H: BuildHasher + Clone,
>(
    cache: &Cache<K, V, W, H>,
    key: &K,
    make: impl Future<Output = V>,
) -> V {
    loop {
        match cache.get_value_or_guard_async(key).await {
            Ok(found) if found.is_valid() => return found,
            Ok(stale) => drop(cache.remove_if(key, |entry| entry.until() == stale.until())),
            Err(place) => {
                let made = make.await;
                // Fails only if the entry was removed meanwhile; the next request makes another one then.
                let _ = place.insert(made.clone());
                return made;
            }
        }
    }
}
