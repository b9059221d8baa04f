//! The finished answers that are kept: within a budget of bytes, the least useful going first.

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::sync::Cache;
use quick_cache::{Lifecycle, Options, OptionsBuilder, Weighter};

use super::flight::Flight;
use super::key::{FlightKey, ShapeKey};
use crate::metrics::Metrics;

/// Kept flights by key, and by handle for the day that dies. The eviction is the cache's own and resists scans: an
/// answer that was asked for once goes before one that was asked for again.
#[derive(Debug)]
pub(super) struct KeptFlights {
    cache: Cache<FlightKey, Entry, Weight, RandomState, Shapes>,
    shapes: Shapes,
    entries: AtomicU64,
}

/// What an entry weighs is fixed while it is in the cache, whatever becomes of its flight.
#[derive(Clone, Debug)]
struct Entry {
    flight: Arc<Flight>,
    weight: u64,
    /// No two have the same: the cache reports what was replaced as evicted, when its successor is known already.
    number: u64,
}

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<FlightKey, Entry> for Weight {
    fn weight(&self, _key: &FlightKey, entry: &Entry) -> u64 {
        entry.weight
    }
}

/// Which keys belong to a shape, each with the number of its entry.
#[derive(Clone, Debug)]
struct Shapes {
    keys: Arc<Mutex<HashMap<ShapeKey, HashMap<FlightKey, u64>>>>,
    metrics: Arc<Metrics>,
}

impl KeptFlights {
    /// At most `bytes`, of flights of at most `flight_bytes`.
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

    /// Counts what a kept flight holds by now; one that is not kept stays so.
    pub(super) fn reweigh(&self, flight: &Arc<Flight>) {
        if self.cache.peek(&flight.key).is_some_and(|kept| Arc::ptr_eq(&kept.flight, flight)) {
            let entry = self.entry(flight);
            self.shapes.add(&entry);
            // It may have gone in between, or have become too large.
            if let Err((_, entry)) = self.cache.replace(flight.key.clone(), entry, true) {
                self.shapes.evicted(&entry);
            }
        }
    }

    /// Drops every answer of a shape.
    pub(super) fn purge(&self, shape: ShapeKey) {
        let keys = self.shapes.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&shape);
        let of_shape = |entry: &Entry| entry.flight.shape_key() == Some(shape);
        let keys = keys.into_iter().flatten().map(|(key, _)| key);
        let dropped = keys.filter(|key| self.cache.remove_if(key, of_shape).is_some()).count();
        self.shapes.metrics.purged(dropped);
    }

    fn entry(&self, flight: &Arc<Flight>) -> Entry {
        let number = self.entries.fetch_add(1, Ordering::Relaxed);
        Entry { flight: Arc::clone(flight), weight: flight.weight(), number }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.cache.weight()
    }

    pub(super) fn len(&self) -> usize {
        self.cache.len()
    }
}

/// A shard must have room for the largest flight, or that would never be kept.
fn options(bytes: usize, flight_bytes: usize) -> Options {
    /// Of an answer, for the size of the tables: a small one.
    const TYPICAL: usize = 16 * 1024;
    let shards = (bytes / flight_bytes.max(1) / 2).clamp(1, 64);
    let built = OptionsBuilder::new()
        .shards(shards)
        .estimated_items_capacity((bytes / TYPICAL).clamp(16, 1_000_000))
        .weight_capacity(bytes as u64)
        .build();
    // It fails only where a capacity is missing.
    built.unwrap_or_else(|_| unreachable!())
}

impl Shapes {
    fn add(&self, entry: &Entry) {
        let Some(shape) = entry.flight.shape_key() else { return };
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.entry(shape).or_default().insert(entry.flight.key.clone(), entry.number);
    }

    /// An entry has left the cache, be it for its successor.
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
