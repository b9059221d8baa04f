//! Who shares with whom: one flight for each different request.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::time::Instant;

use super::flight::{Age, Flight};
use super::follower::{Follower, Join};
use super::freshness::Lifetime;
use super::head::Head;
use super::kept::KeptFlights;
use super::key::FlightKey;
use super::settings::CacheSettings;
use super::sink::Sink;
use crate::fault::Fault;
use crate::limits::{Client, FlightLimits, FlightPlace};
use crate::metrics::Metrics;
use crate::rejection::Rejection;
use crate::rewrite::UpstreamRequest;
use crate::trace_context::TraceParent;

/// Who answers a flight: Electric, or a test.
#[async_trait]
pub trait Source: Send + Sync {
    /// Fetches the answer and writes it to `sink`, to the end.
    ///
    /// # Errors
    /// What kept it from the end; the followers see a fault before the header, and a broken body after it.
    async fn fetch(&self, ask: Ask, sink: &Sink) -> Result<(), Fault>;

    /// Names the Electric that answers `request`. A reload may give the name of an upstream to another Electric; two
    /// requests share a response only if this text is equal too.
    fn identity(&self, request: &UpstreamRequest) -> Arc<str>;
}

/// What a source is asked for.
#[derive(Debug)]
pub struct Ask {
    /// The request to Electric.
    pub request: UpstreamRequest,
    /// The id of the client's request that is behind it.
    pub request_id: Box<str>,
    /// The trace that this belongs to; those who join later are not in it.
    pub trace: Option<TraceParent>,
    /// A kept answer that may still be right: its entity tag makes the request conditional.
    pub known: Option<KnownAnswer>,
}

/// What Electric is told of the client's request that opens a flight.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Our own id of it.
    pub request_id: &'a str,
    /// The trace it belongs to.
    pub trace: Option<&'a TraceParent>,
}

impl Ask {
    fn new(request: UpstreamRequest, origin: Origin<'_>, known: Option<KnownAnswer>) -> Self {
        Self { request, request_id: origin.request_id.into(), trace: origin.trace.cloned(), known }
    }
}

/// An answer of before, for a source that learns that it still holds.
#[derive(Debug)]
pub struct KnownAnswer {
    /// Its header.
    pub head: Arc<Head>,
    /// Its body.
    pub body: bytes::Bytes,
}

/// The open flights and the kept ones.
pub struct Hub {
    open: Vec<Mutex<HashMap<FlightKey, Arc<Flight>>>>,
    hasher: RandomState,
    places: Arc<FlightLimits>,
    supply: ArcSwap<Supply>,
    metrics: Arc<Metrics>,
}

/// The cache and its settings: what a reload replaces. A flight ends with the settings it began with.
struct Supply {
    kept: Arc<KeptFlights>,
    settings: CacheSettings,
}

/// Locks for the open flights: enough for the cores of one machine.
const SHARDS: usize = 64;

/// How long Electric keeps an abandoned long poll open (docs/electric.md, "Clients that leave").
const ABANDONED_POLL: Duration = Duration::from_secs(21);

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("open", &self.open_flights()).finish_non_exhaustive()
    }
}

impl Hub {
    /// Returns an empty hub. `places` bounds the open flights, in total and per client.
    pub fn new(settings: CacheSettings, places: Arc<FlightLimits>, metrics: Arc<Metrics>) -> Self {
        let open = (0..SHARDS).map(|_| Mutex::default()).collect();
        let supply = ArcSwap::from_pointee(Supply::new(settings, &metrics));
        Self { open, hasher: RandomState::new(), places, supply, metrics }
    }

    /// Applies other settings to new flights. Cached responses are dropped if the size of the cache changes.
    pub fn configure(&self, settings: CacheSettings) {
        let before = self.supply.load_full();
        let room = |settings: &CacheSettings| (settings.bytes, settings.flight_bytes);
        self.supply.store(Arc::new(if room(&settings) == room(&before.settings) {
            Supply { kept: Arc::clone(&before.kept), settings }
        } else {
            Supply::new(settings, &self.metrics)
        }));
    }

    /// The answer to `request`, whose bearer has been authorized for it: one that is kept, one under way, or a new one.
    /// What is not shared always gets a new one.
    ///
    /// # Errors
    /// Where a new flight is needed and there is no place for one.
    pub fn join(
        self: &Arc<Self>,
        source: &Arc<dyn Source>,
        request: UpstreamRequest,
        client: Option<&Client>,
        origin: Origin<'_>,
    ) -> Result<Follower, Rejection> {
        let key = FlightKey::of(source.as_ref(), &request);
        if !request.is_shared() {
            return self.fly_alone(source, key, request, client, origin);
        }
        if let Some((fresh, Age::Fresh)) = self.supply.load().find(&key) {
            return self.serve(fresh, Join::Fresh);
        }
        let mut open = self.shard(&key);
        // It may have landed since that look; from here on none can.
        let supply = self.supply.load();
        let kept = supply.find(&key);
        // The place in the body is taken before the start can go.
        let under_way = open.get(&key).filter(|flight| supply.is_joinable(flight));
        let under_way = under_way.and_then(|flight| Some((Arc::clone(flight), flight.read()?)));
        match (kept, under_way) {
            (Some((fresh, Age::Fresh)), _) => self.serve(fresh, Join::Fresh),
            // While a stale answer is being replaced it serves, and nobody waits.
            (Some((stale, Age::Stale)), Some(_)) => self.serve(stale, Join::Stale),
            (Some((stale, Age::Stale)), None) => {
                // Where there is no place to replace it, it serves all the same.
                if let Ok(place) = self.places.enter(&request, client) {
                    let ask = Ask::new(request, origin, known_answer(&stale));
                    let flight = self.launch(&supply, source, key, ask, place);
                    open.insert(flight.key.clone(), flight);
                }
                self.serve(stale, Join::Stale)
            }
            (_, Some((flight, reader))) => {
                flight.board();
                Ok(Follower::new(Arc::clone(self), flight, reader, Join::Open))
            }
            (kept, None) => {
                let place = self.places.enter(&request, client).map_err(|limited| limited.refuse(&self.metrics))?;
                let known = kept.and_then(|(expired, _)| known_answer(&expired));
                let ask = Ask::new(request, origin, known);
                let flight = self.launch(&supply, source, key, ask, place);
                open.insert(flight.key.clone(), Arc::clone(&flight));
                flight.board();
                self.serve(flight, Join::First)
            }
        }
    }

    /// A flight that nobody else can find.
    fn fly_alone(
        self: &Arc<Self>,
        source: &Arc<dyn Source>,
        key: FlightKey,
        request: UpstreamRequest,
        client: Option<&Client>,
        origin: Origin<'_>,
    ) -> Result<Follower, Rejection> {
        let place = self.places.enter(&request, client).map_err(|limited| limited.refuse(&self.metrics))?;
        let ask = Ask::new(request, origin, None);
        let flight = self.launch(&self.supply.load(), source, key, ask, place);
        flight.board();
        self.serve(flight, Join::First)
    }

    /// How many flights are open to others.
    pub fn open_flights(&self) -> usize {
        self.open.iter().map(|shard| lock(shard).len()).sum()
    }

    /// How many requests are aboard of open flights.
    pub fn followers(&self) -> usize {
        let aboard = |shard| lock(shard).values().map(|flight| flight.followers()).sum::<usize>();
        self.open.iter().map(aboard).sum()
    }

    /// The places of requests to Electric.
    pub fn places(&self) -> &FlightLimits {
        &self.places
    }

    /// Bytes that kept answers may hold.
    pub fn capacity(&self) -> usize {
        self.supply.load().settings.bytes
    }

    /// How many answers are kept.
    pub fn kept_flights(&self) -> usize {
        self.supply.load().kept.len()
    }

    /// About how many bytes the kept answers hold.
    pub fn kept_bytes(&self) -> u64 {
        self.supply.load().kept.bytes()
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn reweigh(&self, flight: &Arc<Flight>) {
        self.supply.load().kept.reweigh(flight);
    }

    /// Nobody joins this flight any more.
    pub(super) fn close(&self, flight: &Arc<Flight>) {
        remove(&mut self.shard(&flight.key), flight);
    }

    fn serve(self: &Arc<Self>, flight: Arc<Flight>, join: Join) -> Result<Follower, Rejection> {
        // One that is kept or was opened just now has its start.
        let reader = flight.read().ok_or(Rejection::Internal)?;
        Ok(Follower::new(Arc::clone(self), flight, reader, join))
    }

    /// Opens a flight, in a task that belongs to no client. Whoever is to share it does so under the lock that the
    /// caller holds.
    fn launch(
        self: &Arc<Self>,
        supply: &Arc<Supply>,
        source: &Arc<dyn Source>,
        key: FlightKey,
        ask: Ask,
        mut place: FlightPlace,
    ) -> Arc<Flight> {
        let (flight, writer) = Flight::open(key, &ask.request, supply.settings.flight_bytes);
        let sink = Sink::new(Arc::clone(self), Arc::clone(&flight), writer, place.take_initial());
        let flown = Flown { flight: Arc::clone(&flight), supply: Arc::clone(supply), sink, place };
        tokio::spawn(Arc::clone(self).fly(flown, Arc::clone(source), ask));
        flight
    }

    async fn fly(self: Arc<Self>, flown: Flown, source: Arc<dyn Source>, ask: Ask) {
        let Flown { flight, supply, sink, place } = flown;
        // Whatever happens below, a panic too, the flight ends with its task.
        let closing = Closing { hub: &self, flight: &flight };
        let abandoned = tokio::select! {
            ended = source.fetch(ask, &sink) => {
                // Kept or closed before anyone has its end: who asks after that gets a kept answer or a new one.
                let land = |fault: Option<&Fault>| {
                    supply.keep(&flight, fault);
                    self.close(&flight);
                };
                sink.end(ended, land).await;
                false
            }
            () = self.abandoned(&flight, supply.settings.grace) => true,
        };
        drop(closing);
        self.metrics.landed(flight.joined());
        if abandoned && (flight.live || flight.head.get().is_none()) {
            // Electric's place for it is still taken, so ours is too: a query of Postgres goes on without its client.
            tokio::time::sleep_until(flight.opened + ABANDONED_POLL).await;
        }
        drop(place);
    }

    /// Ends when nobody has been aboard for the whole grace; the flight is closed then.
    async fn abandoned(&self, flight: &Arc<Flight>, grace: Duration) {
        loop {
            flight.deserted().await;
            // Nobody can come back to what nobody can find.
            if !flight.shared {
                return;
            }
            let joined = flight.joined();
            tokio::time::sleep(grace).await;
            let mut open = self.shard(&flight.key);
            // One that joined and left in the meantime has started the grace again.
            if flight.followers() == 0 && flight.joined() == joined {
                remove(&mut open, flight);
                return;
            }
        }
    }

    fn shard(&self, key: &FlightKey) -> MutexGuard<'_, HashMap<FlightKey, Arc<Flight>>> {
        let hash = self.hasher.hash_one(key);
        lock(&self.open[usize::try_from(hash % SHARDS as u64).unwrap_or_default()])
    }
}

/// A flight under way, with what its task holds for it.
struct Flown {
    flight: Arc<Flight>,
    supply: Arc<Supply>,
    sink: Sink,
    place: FlightPlace,
}

impl Supply {
    /// With nothing kept yet.
    fn new(settings: CacheSettings, metrics: &Arc<Metrics>) -> Self {
        let kept = Arc::new(KeptFlights::new(settings.bytes, settings.flight_bytes, Arc::clone(metrics)));
        Self { kept, settings }
    }

    fn find(&self, key: &FlightKey) -> Option<(Arc<Flight>, Age)> {
        let flight = self.kept.find(key)?;
        let age = flight.age(Instant::now());
        Some((flight, age))
    }

    /// A stream of events is joined while it is young: nobody gets one so short that his client gives streams up.
    fn is_joinable(&self, flight: &Flight) -> bool {
        let events = flight.head.get().is_some_and(|head| head.events);
        !events || flight.opened.elapsed() < self.settings.sse_join
    }

    /// Keeps a finished flight for as long as it may serve, and lets go what it shows to be dead.
    fn keep(&self, flight: &Arc<Flight>, fault: Option<&Fault>) {
        let lifetime = match (flight.head.get(), fault) {
            (Some(head), None) if head.status == 200 && !head.events => {
                Lifetime::of_shape(&head.cache_control, flight.live, self.settings.max_age)
            }
            (Some(head), None) if head.status == 409 => {
                if let Some(dead) = flight.asked_shape_key() {
                    self.kept.purge(dead);
                }
                Lifetime::of_refusal(head.cache_control.max_age)
            }
            (None, Some(Fault::NotReady(after) | Fault::Overloaded(after))) => {
                // An answer that still serves is worth more.
                let serves = self.find(&flight.key).is_some_and(|(_, age)| age != Age::Expired);
                Lifetime::of_refusal(Some(*after).filter(|_| !serves))
            }
            _ => None,
        };
        // Of a body that was too long the start is gone, and it can be given to nobody.
        if let Some(lifetime) = lifetime.filter(|_| flight.shared && flight.read().is_some()) {
            flight.keep_for(lifetime);
            self.kept.insert(flight);
        }
    }
}

fn lock(shard: &Mutex<HashMap<FlightKey, Arc<Flight>>>) -> MutexGuard<'_, HashMap<FlightKey, Arc<Flight>>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes out this flight; another one may have its key by now.
fn remove(open: &mut HashMap<FlightKey, Arc<Flight>>, flight: &Arc<Flight>) {
    if open.get(&flight.key).is_some_and(|known| Arc::ptr_eq(known, flight)) {
        open.remove(&flight.key);
    }
}

/// What a conditional request needs. A live answer has none, since it would end the wait at once (docs/electric.md,
/// "Long polls").
fn known_answer(flight: &Flight) -> Option<KnownAnswer> {
    let head = flight.head.get().filter(|head| !flight.live && head.status == 200 && head.etag().is_some())?;
    Some(KnownAnswer { head: Arc::clone(head), body: flight.known_body()? })
}

/// Closes a flight at its end, however that comes.
struct Closing<'a> {
    hub: &'a Hub,
    flight: &'a Arc<Flight>,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.hub.close(self.flight);
    }
}
