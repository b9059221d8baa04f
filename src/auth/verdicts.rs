//! Caches verified tokens (docs/security.md, T18).
//!
//! Only successes are cached, by the SHA-256 of the whole token. A cached verdict alone is not proof: on every hit the
//! verifier checks that the issuer still has the key and that the token has not expired.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{Options, OptionsBuilder, Weighter};

use super::bearer::TokenDigest;
use super::principal::Principal;

type DigestHash = BuildHasherDefault<DigestHasher>;

/// A cache of verified tokens within a budget of bytes. It evicts the least used first.
pub(crate) struct Verdicts {
    cache: Cache<TokenDigest, Arc<Principal>, Bytes, DigestHash>,
    budget: usize,
}

/// Weighs an entry by the bytes it takes in memory.
#[derive(Clone)]
struct Bytes;

impl Weighter<TokenDigest, Arc<Principal>> for Bytes {
    fn weight(&self, _: &TokenDigest, principal: &Arc<Principal>) -> u64 {
        (principal.bytes() + ENTRY) as u64
    }
}

/// The bytes of an entry besides its principal: in the cache's tables, which may be half empty, and in those that
/// remember evicted entries.
const ENTRY: usize = 256;

impl Verdicts {
    /// Creates a cache of at most `budget` bytes; 0 caches nothing.
    pub(crate) fn new(budget: usize) -> Self {
        let cache = Cache::with_options(options(budget), Bytes, DigestHash::default(), DefaultLifecycle::default());
        Self { cache, budget }
    }

    pub(crate) fn find(&self, token: TokenDigest) -> Option<Arc<Principal>> {
        self.cache.get(&token)
    }

    pub(crate) fn remember(&self, token: TokenDigest, principal: Arc<Principal>) {
        self.cache.insert(token, principal);
    }

    pub(crate) fn forget(&self, token: TokenDigest) {
        self.cache.remove(&token);
    }

    /// The `budget` that it was created with.
    pub(crate) const fn budget(&self) -> usize {
        self.budget
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.cache.len()
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
