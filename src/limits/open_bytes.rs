//! Counts the bytes of all responses in flight against one limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::limit::{Limit, Limited};
use super::memory::Memory;

/// Bytes set aside for one response, until this is dropped.
#[derive(Debug)]
pub struct Reserve(Arc<OpenBytes>);

/// What a long response may hold in any case: its two newest pieces, and what is on the way to them. Pingora's proxy
/// keeps up to eight reads of 64 KiB while it waits for us, and starts another.
const RESERVE: usize = 11 * 64 * 1024;

/// The bytes that responses in flight hold for their readers, compressed copies included.
///
/// A flight takes bytes before it holds them. If there are none, it waits for its own readers, which slows down its
/// request to Electric.
#[derive(Debug)]
pub struct OpenBytes {
    used: AtomicUsize,
    most: AtomicUsize,
    memory: Arc<Memory>,
    freed: Notify,
}

impl OpenBytes {
    /// Starts at 0 without a limit. While `memory` is over its own limit, nothing more is held than needed.
    pub(crate) fn new(memory: Arc<Memory>) -> Self {
        Self { used: AtomicUsize::new(0), most: AtomicUsize::new(usize::MAX), memory, freed: Notify::new() }
    }

    /// Replaces the limit in bytes.
    pub(crate) fn set(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
        self.freed.notify_waiters();
    }

    /// Returns how many bytes are held.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns the limit in bytes.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Sets bytes aside for a response that may be long.
    ///
    /// # Errors
    /// If the limit is reached.
    pub(super) fn reserve(self: &Arc<Self>) -> Result<Reserve, Limited> {
        if self.try_take(RESERVE) { Ok(Reserve(Arc::clone(self))) } else { Err(Limited::by(Limit::OpenBytes)) }
    }

    /// Sets bytes aside for a response that has turned out to be long, over the limit if need be.
    pub(crate) fn must_reserve(self: &Arc<Self>) -> Reserve {
        self.take(RESERVE);
        Reserve(Arc::clone(self))
    }

    /// Takes `bytes`, unless the limit is reached or memory is over its own limit.
    pub(crate) fn try_take(&self, bytes: usize) -> bool {
        let room = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.most());
        self.memory.check().is_ok() && self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    /// Takes `bytes` that are held already, over the limit if need be.
    pub(crate) fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        // Each flight also waits for its own readers, so no flight is left waiting if this one finds too few bytes.
        self.freed.notify_one();
    }

    /// Waits until bytes were given back.
    pub(crate) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        self.0.give_back(RESERVE);
    }
}
