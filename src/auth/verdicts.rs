//! Caches verified tokens (docs/security.md, T18).
//!
//! Only successes are cached, by the SHA-256 of the whole token. A cached verdict alone is not proof: on every hit the
//! verifier checks that the issuer still has the key and that the token has not expired.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use super::bearer::TokenDigest;
use super::principal::Principal;

type DigestHash = BuildHasherDefault<DigestHasher>;

/// A bounded cache of verified tokens that evicts the least used first.
pub(crate) struct Verdicts {
    cache: Cache<TokenDigest, Arc<Principal>, UnitWeighter, DigestHash>,
    capacity: usize,
}

impl Verdicts {
    /// Creates a cache of about `capacity` tokens; 0 caches none.
    pub(crate) fn new(capacity: usize) -> Self {
        let weight = u64::try_from(capacity).unwrap_or(u64::MAX);
        let cache = Cache::with(capacity, weight, UnitWeighter, DigestHash::default(), DefaultLifecycle::default());
        Self { cache, capacity }
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

    /// The `capacity` that it was created with.
    pub(crate) const fn capacity(&self) -> usize {
        self.capacity
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.cache.len()
    }
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
