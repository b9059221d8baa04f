//! The finished answers that are kept: within a budget of bytes, the least useful going first.

use std::collections::{HashMap, HashSet};
use std::hash::RandomState;
use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::sync::Cache;
use quick_cache::{Lifecycle, Options, OptionsBuilder, Weighter};

use super::flight::Flight;
use super::key::{Key, ShapeKey};
use crate::telemetry::Metrics;

/// Kept flights by key, and by handle for the day that dies. The eviction is the cache's own and resists scans: an
/// answer that was asked for once goes before one that was asked for again.
#[derive(Debug)]
pub(super) struct KeptFlights {
    cache: Cache<Key, Entry, Weight, RandomState, Shapes>,
    shapes: Shapes,
}

/// What an entry weighs is fixed while it is in the cache, whatever becomes of its flight.
#[derive(Clone, Debug)]
struct Entry {
    flight: Arc<Flight>,
    weight: u64,
}

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<Key, Entry> for Weight {
    fn weight(&self, _key: &Key, entry: &Entry) -> u64 {
        entry.weight
    }
}

/// Which keys belong to a shape.
#[derive(Clone, Debug)]
struct Shapes {
    keys: Arc<Mutex<HashMap<ShapeKey, HashSet<Key>>>>,
    metrics: Arc<Metrics>,
}

impl KeptFlights {
    /// At most `bytes`, of flights of at most `flight_bytes`.
    pub(super) fn new(bytes: usize, flight_bytes: usize, metrics: Arc<Metrics>) -> Self {
        let shapes = Shapes { keys: Arc::default(), metrics };
        let options = options(bytes, flight_bytes);
        Self { cache: Cache::with_options(options, Weight, RandomState::new(), shapes.clone()), shapes }
    }

    pub(super) fn find(&self, key: &Key) -> Option<Arc<Flight>> {
        self.cache.get(key).map(|entry| entry.flight)
    }

    pub(super) fn insert(&self, flight: &Arc<Flight>) {
        // Its predecessor may have had another handle.
        if let Some(before) = self.cache.peek(&flight.key) {
            self.shapes.forget(&before.flight);
        }
        self.shapes.add(flight);
        let entry = Entry { flight: Arc::clone(flight), weight: flight.weight() };
        self.cache.insert(flight.key.clone(), entry);
    }

    /// Counts what a kept flight holds by now; one that is not kept stays so.
    pub(super) fn reweigh(&self, flight: &Arc<Flight>) {
        let entry = Entry { flight: Arc::clone(flight), weight: flight.weight() };
        if self.cache.peek(&flight.key).is_some_and(|kept| Arc::ptr_eq(&kept.flight, flight)) {
            // It may have gone in between, which is as well.
            let _ = self.cache.replace(flight.key.clone(), entry, true);
        }
    }

    /// Drops every answer of a shape.
    pub(super) fn purge(&self, shape: ShapeKey) {
        let keys = self.shapes.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&shape);
        let dropped = keys.into_iter().flatten().filter(|key| self.cache.remove(key).is_some()).count();
        self.shapes.metrics.purged(dropped);
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
    fn add(&self, flight: &Flight) {
        let Some(shape) = flight.shape_key() else { return };
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.entry(shape).or_default().insert(flight.key.clone());
    }

    fn forget(&self, flight: &Flight) {
        let Some(shape) = flight.shape_key() else { return };
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_shape) = keys.get_mut(&shape) {
            of_shape.remove(&flight.key);
            if of_shape.is_empty() {
                keys.remove(&shape);
            }
        }
    }
}

impl Lifecycle<Key, Entry> for Shapes {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _key: Key, entry: Entry) {
        self.metrics.evicted();
        self.forget(&entry.flight);
    }
}
