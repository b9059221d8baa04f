//! Limits how many different shapes one client opens: each costs Postgres a query and Electric a log.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quick_cache::DefaultHashBuilder;
use quick_cache::sync::Cache;

use super::address::Client;
use super::limit::{Limit, Limited};

/// Counts the different shapes of each client in a window that starts with its first shape.
pub(super) struct ShapeCounts {
    most: AtomicUsize,
    /// In milliseconds.
    window: AtomicU64,
    clients: Cache<Client, Arc<Mutex<Window>>>,
    /// Hashes of client, window and shape. A forgotten one is counted twice.
    seen: Cache<u64, ()>,
    hasher: DefaultHashBuilder,
}

struct Window {
    start: Instant,
    shapes: usize,
}

const CLIENTS: usize = 100_000;
const SEEN: usize = 500_000;

impl ShapeCounts {
    pub(super) fn new() -> Self {
        let (most, window) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self {
            most,
            window,
            clients: Cache::new(CLIENTS),
            seen: Cache::new(SEEN),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// Sets how many shapes a client may open in each window; 0 disables the limit.
    pub(super) fn set(&self, most: usize, window: Duration) {
        self.most.store(most, Ordering::Relaxed);
        self.window.store(u64::try_from(window.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Counts a shape that Electric opens for `client`, unless it is already counted in this window.
    pub(super) fn open(&self, client: &Client, definition: &str, now: Instant) -> Result<(), Limited> {
        let most = self.most.load(Ordering::Relaxed);
        if most == 0 {
            return Ok(());
        }
        let length = Duration::from_millis(self.window.load(Ordering::Relaxed));
        let first = || Ok::<_, Limited>(Arc::new(Mutex::new(Window { start: now, shapes: 0 })));
        let window = self.clients.get_or_insert_with(client, first)?;
        let mut window = window.lock().unwrap_or_else(PoisonError::into_inner);
        let age = now.saturating_duration_since(window.start);
        if age >= length {
            *window = Window { start: now, shapes: 0 };
        }
        let shape = self.hasher.hash_one((client, window.start, definition));
        if self.seen.get(&shape).is_some() {
            return Ok(());
        }
        if window.shapes >= most {
            return Err(Limited::until(Limit::ShapesPerSubject, length.saturating_sub(age)));
        }
        window.shapes += 1;
        self.seen.insert(shape, ());
        Ok(())
    }
}
