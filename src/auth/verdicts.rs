//! Verified tokens remembered (docs/security.md, T18).
//!
//! A verdict is only ever a success, is found by the SHA-256 of the whole token, and is no proof by itself: the verifier
//! asks on every hit whether the key is still held and the token not yet expired.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use super::bearer::TokenDigest;
use super::principal::Principal;

type DigestHash = BuildHasherDefault<DigestHasher>;

/// At most so many verified tokens; the least used go first.
pub(crate) struct Verdicts {
    cache: Cache<TokenDigest, Arc<Principal>, UnitWeighter, DigestHash>,
    capacity: usize,
}

impl Verdicts {
    /// Remembers up to about `capacity` tokens; 0 remembers none.
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

    /// As many as it was made for.
    pub(crate) const fn capacity(&self) -> usize {
        self.capacity
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.cache.len()
    }
}

/// Passes on the bytes of a digest, which are spread evenly already.
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
