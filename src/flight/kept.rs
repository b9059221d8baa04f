//! The cached responses: within a budget of bytes, the least useful is evicted first.

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::sync::Cache;
use quick_cache::{Lifecycle, Options, OptionsBuilder, Weighter};

use super::flight::Flight;
use super::key::{FlightKey, ShapeKey};
use super::window::Cached;
use crate::metrics::Metrics;

/// Cached flights by key, and by handle for the time when that becomes invalid. The cache's eviction resists scans: a
/// response that was requested once is evicted before one that was requested again.
#[derive(Debug)]
pub(super) struct KeptFlights {
    cache: Cache<FlightKey, Entry, Weight, RandomState, Shapes>,
    shapes: Shapes,
    entries: AtomicU64,
}

/// A cache entry. Its weight is fixed while it is in the cache, even if its flight grows.
#[derive(Clone, Debug)]
struct Entry {
    flight: Arc<Flight>,
    weight: u64,
    /// Unique. When an entry is replaced, the cache reports the old one as evicted after the new one has been recorded.
    number: u64,
    /// While the cache counts its bytes, they do not count as in flight.
    _cached: Arc<[Cached]>,
}

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<FlightKey, Entry> for Weight {
    fn weight(&self, _key: &FlightKey, entry: &Entry) -> u64 {
        entry.weight
    }
}

/// The keys that belong to each shape, each with the number of its entry.
#[derive(Clone, Debug)]
struct Shapes {
    keys: Arc<Mutex<HashMap<ShapeKey, HashMap<FlightKey, u64>>>>,
    metrics: Arc<Metrics>,
}

impl KeptFlights {
    /// Returns an empty cache for at most `bytes` in total, and at most `flight_bytes` for one flight.
    pub(super) fn new(bytes: usize, flight_bytes: usize, metrics: Arc<Metrics>) -> Self {
        let shapes = Shapes { keys: Arc::default(), metrics };
        let options = options(bytes, flight_bytes);
        let cache = Cache::with_options(options, Weight, RandomState::new(), shapes.clone());
        Self { cache, shapes, entries: AtomicU64::new(0) }
    }

    pub(super) fn find(&self, key: &FlightKey) -> Option<Arc<Flight>> {
        self.cache.get(key).map(|entry| entry.flight)
    }

    pub(super) fn insert(&self, flight: &Arc<Flight>) {
        let entry = self.entry(flight);
        self.shapes.add(&entry);
        self.cache.insert(flight.key.clone(), entry);
    }

    /// Updates the weight of a cached flight. Does nothing if it is not cached.
    pub(super) fn reweigh(&self, flight: &Arc<Flight>) {
        if self.cache.peek(&flight.key).is_some_and(|kept| Arc::ptr_eq(&kept.flight, flight)) {
            let entry = self.entry(flight);
            self.shapes.add(&entry);
            // It may have been evicted in between, or have become too large.
            if let Err((_, entry)) = self.cache.replace(flight.key.clone(), entry, true) {
                self.shapes.evicted(&entry);
            }
        }
    }

    /// Drops every cached response of a shape.
    pub(super) fn purge(&self, shape: ShapeKey) {
        let keys = self.shapes.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&shape);
        let of_shape = |entry: &Entry| entry.flight.shape_key() == Some(shape);
        let keys = keys.into_iter().flatten().map(|(key, _)| key);
        let dropped = keys.filter(|key| self.cache.remove_if(key, of_shape).is_some()).count();
        self.shapes.metrics.purged(dropped);
    }

    fn entry(&self, flight: &Arc<Flight>) -> Entry {
        let number = self.entries.fetch_add(1, Ordering::Relaxed);
        let cached = flight.cached().into();
        Entry { flight: Arc::clone(flight), weight: flight.weight(), number, _cached: cached }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.cache.weight()
    }

    pub(super) fn len(&self) -> usize {
        self.cache.len()
    }
}

/// Chooses few enough shards that one shard has room for the largest flight, which could never be cached otherwise.
fn options(bytes: usize, flight_bytes: usize) -> Options {
    /// Bytes of a typical response, for the initial size of the tables.
    const TYPICAL: usize = 16 * 1024;
    let shards = (bytes / flight_bytes.max(1) / 2).clamp(1, 64);
    let built = OptionsBuilder::new()
        .shards(shards)
        .estimated_items_capacity((bytes / TYPICAL).clamp(16, 1_000_000))
        .weight_capacity(bytes as u64)
        .build();
    // Fails only if a capacity is missing.
    built.unwrap_or_else(|_| unreachable!())
}

impl Shapes {
    fn add(&self, entry: &Entry) {
        let Some(shape) = entry.flight.shape_key() else { return };
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.entry(shape).or_default().insert(entry.flight.key.clone(), entry.number);
    }

    /// Records that an entry has left the cache. It may have been replaced by another one.
    fn evicted(&self, entry: &Entry) {
        if let Some(shape) = entry.flight.shape_key() {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(of_shape) = keys.get_mut(&shape) else { return };
            if of_shape.get(&entry.flight.key) != Some(&entry.number) {
                return;
            }
            of_shape.remove(&entry.flight.key);
            if of_shape.is_empty() {
                keys.remove(&shape);
            }
        }
        self.metrics.evicted();
    }
}

impl Lifecycle<FlightKey, Entry> for Shapes {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _key: FlightKey, entry: Entry) {
        self.evicted(&entry);
    }
}
