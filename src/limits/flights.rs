//! Limits requests to Electric: how many at once, how many initial ones, and how many shapes each client opens.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Instant;

use quick_cache::DefaultHashBuilder;
use quick_cache::sync::Cache;

use super::address::Client;
use super::budgets::{Budgets, Place};
use super::limit::{Limit, Limited};
use super::memory::Memory;
use super::open_bytes::{OpenBytes, Reserve};
use super::settings::LimitSettings;
use super::shapes::ShapeCounts;
use crate::rewrite::UpstreamRequest;

/// Limits of requests to Electric. They are below Electric's own limits of 300 initial and 10,000 other concurrent
/// requests, because Electric rejects requests of all clients once it reaches them (docs/electric.md, "Overload").
pub struct FlightLimits {
    all: Arc<Budgets>,
    initial: Arc<Budgets>,
    shapes: ShapeCounts,
    /// Hashes of the shapes and handles that Electric has returned. A forgotten one counts as a newly opened shape.
    given: Cache<u64, ()>,
    hasher: DefaultHashBuilder,
    memory: Arc<Memory>,
    open_bytes: Arc<OpenBytes>,
}

const GIVEN: usize = 500_000;

/// The places of one request to Electric. Dropping it releases them.
#[derive(Debug)]
pub struct FlightPlace {
    _all: Place,
    initial: Option<Place>,
    reserve: Option<Reserve>,
}

impl FlightLimits {
    pub(super) fn new(memory: Arc<Memory>) -> Self {
        let all = Budgets::new(Limit::Flights, Limit::FlightsPerSubject, Limit::FlightsPerSubject);
        let per_subject = Limit::InitialFlightsPerSubject;
        let initial = Budgets::new(Limit::InitialFlights, per_subject, per_subject);
        let (given, hasher) = (Cache::new(GIVEN), DefaultHashBuilder::default());
        let open_bytes = Arc::new(OpenBytes::new(Arc::clone(&memory)));
        Self { all, initial, shapes: ShapeCounts::new(), given, hasher, memory, open_bytes }
    }

    pub(super) fn set(&self, limits: &LimitSettings) {
        let per_subject = limits.flights_per_subject;
        self.all.set(limits.flights, per_subject, per_subject);
        let per_subject = limits.initial_flights_per_subject;
        self.initial.set(limits.initial_flights, per_subject, per_subject);
        self.open_bytes.set(limits.open_bytes);
        self.shapes.set(limits.shapes_per_subject, limits.shapes_window);
    }

    /// Takes the places of a request to Electric on behalf of `client`.
    ///
    /// # Errors
    /// If no place is left, the client has opened too many shapes, or memory is over its limit. If responses in flight
    /// hold too many bytes, only live requests are let in, whose responses are short.
    pub fn enter(&self, request: &UpstreamRequest, client: Option<&Client>) -> Result<FlightPlace, Limited> {
        self.memory.check()?;
        // A live response is short, as a rule.
        let reserve = (!request.is_live()).then(|| self.open_bytes.reserve()).transpose()?;
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
        Ok(FlightPlace { _all: all, initial, reserve })
    }

    /// Records that Electric returned this handle for `shape`: a request that continues it opens no shape.
    pub(crate) fn given(&self, shape: &str, handle: &str) {
        self.given.insert(self.hasher.hash_one((shape, handle)), ());
    }

    /// Returns whether the request may open a shape. It may for an unknown handle: Electric creates the shape before it
    /// responds 409 (docs/electric.md, "Errors").
    fn may_open(&self, request: &UpstreamRequest) -> bool {
        let is_given = |handle: &str| self.given.get(&self.hasher.hash_one((&*request.shape(), handle))).is_some();
        request.is_initial() || !request.handle().is_some_and(is_given)
    }

    /// The budget of all requests to Electric.
    pub fn all(&self) -> &Budgets {
        &self.all
    }

    /// The bytes that all responses in flight hold.
    pub fn open_bytes(&self) -> &Arc<OpenBytes> {
        &self.open_bytes
    }

    /// The budget of initial requests: the first of a shape, and subsets, until the response header arrives.
    pub fn initial(&self) -> &Budgets {
        &self.initial
    }
}

impl FlightPlace {
    /// Takes out the place among the initial requests, to release it when Electric's response begins.
    pub(crate) fn take_initial(&mut self) -> Option<Place> {
        self.initial.take()
    }

    /// Takes out the bytes set aside for the response, to release them when Electric's response ends.
    pub(crate) fn take_reserve(&mut self) -> Option<Reserve> {
        self.reserve.take()
    }
}

impl std::fmt::Debug for FlightLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlightLimits").field("all", &self.all).field("initial", &self.initial).finish_non_exhaustive()
    }
}
