//! Caches what is known of tokens (docs/security.md, T18), by the SHA-256 of the whole token, within a budget of bytes.
//!
//! Of tokens that were verified by a key, only successes are cached. A cached verdict alone is not proof: on every hit the
//! verifier checks that the issuer still has the key and that the token has not expired. The results of introspection
//! are cached alike.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{Options, OptionsBuilder, Weighter};

use super::bearer::TokenDigest;
use super::principal::Principal;
use crate::expiring::{Expiring, find_or_make};

type DigestHash = BuildHasherDefault<DigestHasher>;

/// A cache by token within a budget of bytes. It evicts the least used first.
pub(super) struct TokenCache<V> {
    cache: Cache<TokenDigest, V, Bytes, DigestHash>,
    budget: usize,
}

/// The verified tokens.
pub(super) type Verdicts = TokenCache<Arc<Principal>>;

/// A cached value, which is cheap to clone.
pub(super) trait Weighed: Clone {
    /// The bytes that it takes in memory.
    fn bytes(&self) -> usize;
}

impl Weighed for Arc<Principal> {
    fn bytes(&self) -> usize {
        Principal::bytes(self)
    }
}

/// Weighs an entry by the bytes it takes in memory.
#[derive(Clone)]
struct Bytes;

impl<V: Weighed> Weighter<TokenDigest, V> for Bytes {
    fn weight(&self, _: &TokenDigest, value: &V) -> u64 {
        (value.bytes() + ENTRY) as u64
    }
}

/// The bytes of an entry besides its value: in the cache's tables, which may be half empty, and in those that remember
/// evicted entries.
const ENTRY: usize = 256;

impl<V: Weighed> TokenCache<V> {
    /// Creates a cache of at most `budget` bytes; 0 caches nothing.
    pub(super) fn new(budget: usize) -> Self {
        let cache = Cache::with_options(options(budget), Bytes, DigestHash::default(), DefaultLifecycle::default());
        Self { cache, budget }
    }

    pub(super) fn find(&self, token: TokenDigest) -> Option<V> {
        self.cache.get(&token)
    }

    pub(super) fn remember(&self, token: TokenDigest, value: V) {
        self.cache.insert(token, value);
    }

    pub(super) fn forget(&self, token: TokenDigest) {
        self.cache.remove(&token);
    }

    /// Returns the cached value if it is valid, or the one that `make` gets; see [`find_or_make`].
    pub(super) async fn find_or_make(&self, token: TokenDigest, make: impl Future<Output = V>) -> V
    where
        V: Expiring,
    {
        find_or_make(&self.cache, &token, make).await
    }

    /// The `budget` that it was created with.
    pub(super) const fn budget(&self) -> usize {
        self.budget
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.cache.len()
    }

    #[cfg(test)]
    pub(super) fn weight(&self) -> u64 {
        self.cache.weight()
    }
}

/// Chooses few enough shards that the largest token finds room in one.
fn options(budget: usize) -> Options {
    /// Bytes of a usual entry, for the number of evicted entries that are remembered.
    const USUAL: usize = 4 * 1024;
    /// Bytes of a shard. The largest token, of 64 KiB, takes up to 3 MiB.
    const SHARD: usize = 4 * 1024 * 1024;
    let built = OptionsBuilder::new()
        .shards((budget / SHARD).clamp(1, 64))
        .estimated_items_capacity((budget / USUAL).max(1))
        .weight_capacity(budget as u64)
        .build();
    // Fails only if a mandatory option is missing.
    built.unwrap_or_else(|_| unreachable!())
}

/// Uses the bytes of a digest as the hash, since SHA-256 is already evenly distributed.
#[derive(Default)]
struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}
