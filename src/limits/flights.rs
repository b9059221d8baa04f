//! What may be asked of Electric: at one time, first requests apart, and how many shapes of each client.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Instant;

use quick_cache::DefaultHashBuilder;
use quick_cache::sync::Cache;

use super::address::Client;
use super::budgets::{Budgets, Place};
use super::limit::{Limit, Limited};
use super::memory::Memory;
use super::settings::LimitSettings;
use super::shapes::ShapeCounts;
use crate::rewrite::UpstreamRequest;

/// The limits of requests to Electric. They are below its own, since what it refuses, it refuses to everybody: 300 initial
/// and 10,000 other requests at one time (docs/electric.md, "Overload").
pub struct FlightLimits {
    all: Arc<Budgets>,
    initial: Arc<Budgets>,
    shapes: ShapeCounts,
    /// Shapes and their handles that Electric's answers have given, as a hash. One that is forgotten counts as a shape
    /// that is opened.
    given: Cache<u64, ()>,
    hasher: DefaultHashBuilder,
    memory: Arc<Memory>,
}

const GIVEN: usize = 500_000;

/// One request's places; dropping it gives them back.
#[derive(Debug)]
pub struct FlightPlace {
    _all: Place,
    initial: Option<Place>,
}

impl FlightLimits {
    pub(super) fn new(memory: Arc<Memory>) -> Self {
        let all = Budgets::new(Limit::Flights, Limit::FlightsPerSubject, Limit::FlightsPerSubject);
        let per_subject = Limit::InitialFlightsPerSubject;
        let initial = Budgets::new(Limit::InitialFlights, per_subject, per_subject);
        let (given, hasher) = (Cache::new(GIVEN), DefaultHashBuilder::default());
        Self { all, initial, shapes: ShapeCounts::new(), given, hasher, memory }
    }

    pub(super) fn set(&self, limits: &LimitSettings) {
        let per_subject = limits.flights_per_subject;
        self.all.set(limits.flights, per_subject, per_subject);
        let per_subject = limits.initial_flights_per_subject;
        self.initial.set(limits.initial_flights, per_subject, per_subject);
        self.shapes.set(limits.shapes_per_subject, limits.shapes_window);
    }

    /// Takes the places of a request that `client` makes us send.
    ///
    /// # Errors
    /// Where there is none, where the client has opened too many shapes, or where memory is short.
    pub fn enter(&self, request: &UpstreamRequest, client: Option<&Client>) -> Result<FlightPlace, Limited> {
        self.memory.check()?;
        let (subject, address) = match client {
            Some(Client::Subject(subject)) => (Some(subject), None),
            Some(Client::Address(address)) => (None, Some(*address)),
            None => (None, None),
        };
        let all = self.all.enter(subject, address)?;
        let initial = request.is_initial().then(|| self.initial.enter(subject, address)).transpose()?;
        if let Some(client) = client.filter(|_| self.may_open(request)) {
            self.shapes.open(client, &request.shape(), Instant::now())?;
        }
        Ok(FlightPlace { _all: all, initial })
    }

    /// Electric has answered somebody's request for `shape` under this handle: who goes on there opens nothing.
    pub(crate) fn given(&self, shape: &str, handle: &str) {
        self.given.insert(self.hasher.hash_one((shape, handle)), ());
    }

    /// Electric creates the shape for an unknown handle too, and then answers 409 (docs/electric.md, "Errors").
    fn may_open(&self, request: &UpstreamRequest) -> bool {
        let is_given = |handle: &str| self.given.get(&self.hasher.hash_one((&*request.shape(), handle))).is_some();
        request.is_initial() || !request.handle().is_some_and(is_given)
    }

    /// Requests to Electric, of every kind.
    pub fn all(&self) -> &Budgets {
        &self.all
    }

    /// Those among them that are the first for their shape, or a subset, and have no header yet.
    pub fn initial(&self) -> &Budgets {
        &self.initial
    }
}

impl FlightPlace {
    /// The place among the first requests, which Electric takes until its answer begins.
    pub(crate) fn take_initial(&mut self) -> Option<Place> {
        self.initial.take()
    }
}

impl std::fmt::Debug for FlightLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlightLimits").field("all", &self.all).field("initial", &self.initial).finish_non_exhaustive()
    }
}
