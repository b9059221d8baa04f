//! Lets requests with the same meaning share a response: one flight for each.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use tokio::time::Instant;

use super::flight::{Age, Flight};
use super::follower::{Follower, Join};
use super::freshness::Lifetime;
use super::kept::KeptFlights;
use super::key::FlightKey;
use super::offset::Offset;
use super::settings::CacheSettings;
use super::sink::Sink;
use super::source::{Ask, KnownAnswer, Origin, Source, fetch};
use super::tail::Tails;
use super::terms::Terms;
use crate::fault::Fault;
use crate::limits::{Client, FlightLimits, FlightPlace};
use crate::metrics::Metrics;
use crate::rejection::Rejection;
use crate::rewrite::UpstreamRequest;

/// The open flights and the cached ones.
pub struct Hub {
    open: Vec<Mutex<HashMap<FlightKey, Arc<Flight>>>>,
    places: Arc<FlightLimits>,
    cache: ArcSwap<Cache>,
    tails: Arc<Tails>,
    metrics: Arc<Metrics>,
}

/// The cached responses and their settings, which a reload replaces. A flight keeps the settings that it began with.
struct Cache {
    kept: Arc<KeptFlights>,
    settings: CacheSettings,
}

/// How many locks the open flights are divided among. More than a machine has cores, so requests rarely wait for one.
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
        let cache = ArcSwap::from_pointee(Cache::new(settings, &metrics));
        Self { open, places, cache, tails: Arc::default(), metrics }
    }

    /// Applies other settings to new flights. Cached responses are dropped if the size of the cache changes.
    pub fn configure(&self, settings: CacheSettings) {
        let before = self.cache.load_full();
        let room = |settings: &CacheSettings| (settings.bytes, settings.flight_bytes);
        self.cache.store(Arc::new(if room(&settings) == room(&before.settings) {
            Cache { kept: Arc::clone(&before.kept), settings }
        } else {
            Cache::new(settings, &self.metrics)
        }));
    }

    /// Returns a follower of the response to `request`, whose client has been authorized for it. The response is a
    /// cached one, one in flight, or a new one. A request that is not shared always gets a new one.
    ///
    /// A response that is behind what other clients have seen, or whose handle is not right for the client, is not
    /// used for it.
    ///
    /// # Errors
    /// A new flight is needed, and a limit on flights is reached.
    pub fn join(
        self: &Arc<Self>,
        source: &Arc<dyn Source>,
        request: UpstreamRequest,
        client: Option<&Client>,
        origin: Origin<'_>,
    ) -> Result<Follower, Rejection> {
        let key = FlightKey::of(source.as_ref(), &request);
        let follower = if !request.is_shared() {
            self.open_unshared(source, key, request, client, origin)
        } else if let Some(resumed) = self.resumed(&key, &request) {
            let flight_key = FlightKey::of(source.as_ref(), &resumed);
            self.join_shared(source, flight_key, resumed, client, origin).map(|follower| follower.asked(key))
        } else {
            self.join_shared(source, key, request, client, origin)
        }?;
        self.metrics.joined(follower.rule().as_str(), follower.join().as_str());
        Ok(follower)
    }

    fn join_shared(
        self: &Arc<Self>,
        source: &Arc<dyn Source>,
        key: FlightKey,
        request: UpstreamRequest,
        client: Option<&Client>,
        origin: Origin<'_>,
    ) -> Result<Follower, Rejection> {
        let terms = Terms::of(&request);
        if let Some((fresh, Age::Fresh)) = self.cache.load().find(&key, terms) {
            return serve(fresh, Join::Fresh, key);
        }
        if let Some(follower) = self.join_stream(&key, &request, terms) {
            return Ok(follower);
        }
        let mut open = self.shard(&key);
        // The flight may have been cached since that check. While this lock is held, it cannot.
        let cache = self.cache.load();
        let kept = cache.find(&key, terms);
        if matches!(kept, Some((_, Age::Outdated))) {
            self.metrics.outdated(request.rule().as_str());
        }
        // The reader is created now, before the start of the body can be freed.
        let in_flight = open.get(&key).filter(|flight| cache.is_joinable(flight, terms));
        let in_flight = in_flight.and_then(|flight| Some((Arc::clone(flight), flight.read()?)));
        match (kept, in_flight) {
            (Some((fresh, Age::Fresh)), _) => serve(fresh, Join::Fresh, key),
            // A stale response is served while a new one is fetched, so no client waits.
            (Some((stale, Age::Stale)), Some(_)) => serve(stale, Join::Stale, key),
            (Some((stale, Age::Stale)), None) => {
                // If a limit prevents that, the stale response is served all the same.
                if let Ok(place) = self.places.enter(&request, client) {
                    let ask = Ask::new(request, origin, known_answer(&stale));
                    let flight = self.launch(&cache, source, key.clone(), ask, place);
                    open.insert(flight.key.clone(), flight);
                }
                serve(stale, Join::Stale, key)
            }
            (_, Some((flight, reader))) => {
                flight.board();
                Ok(Follower::new(flight, reader, Join::Open, key))
            }
            (kept, None) => {
                let place = self.enter(&request, client)?;
                let known = kept.and_then(|(expired, _)| known_answer(&expired));
                let ask = Ask::new(request, origin, known);
                let flight = self.launch(&cache, source, key.clone(), ask, place);
                open.insert(flight.key.clone(), Arc::clone(&flight));
                flight.board();
                serve(flight, Join::First, key)
            }
        }
    }

    /// Returns the request for a stream of events at the last change, if the client names the start of its transaction.
    /// It has the whole transaction, and Electric would repeat the rest of it (docs/electric.md, "Event streams").
    fn resumed(&self, key: &FlightKey, request: &UpstreamRequest) -> Option<UpstreamRequest> {
        let handle = request.handle().filter(|_| request.is_stream())?;
        let (asked, end) = (Offset::parse(request.offset())?, self.tails.of(key.shape(request)).end(handle)?);
        let same = asked.transaction == end.transaction && asked < end;
        same.then(|| request.starting_at(&end.to_string()))
    }

    /// Joins a stream of events that was opened at another offset, where it continues the client's log.
    fn join_stream(self: &Arc<Self>, key: &FlightKey, request: &UpstreamRequest, terms: Terms<'_>) -> Option<Follower> {
        if !request.is_stream() {
            return None;
        }
        let (offset, from) = (Offset::parse(request.offset())?, HeaderValue::from_str(request.offset()).ok()?);
        let (streams, cache) = (self.tails.of(key.shape(request)).streams(request.handle()?), self.cache.load());
        let (stream, reader) = streams.into_iter().filter(|stream| stream.key != *key).find_map(|stream| {
            let open = self.shard(&stream.key);
            let is_open = open.get(&stream.key).is_some_and(|open| Arc::ptr_eq(open, &stream));
            let reader = stream.read_at(offset).filter(|_| is_open && cache.is_joinable(&stream, terms))?;
            stream.board();
            drop(open);
            Some((stream, reader))
        })?;
        Some(Follower::new(stream, reader, Join::Open, key.clone()).of_stream(from))
    }

    /// Opens a flight that no other request can join.
    fn open_unshared(
        self: &Arc<Self>,
        source: &Arc<dyn Source>,
        key: FlightKey,
        request: UpstreamRequest,
        client: Option<&Client>,
        origin: Origin<'_>,
    ) -> Result<Follower, Rejection> {
        let place = self.enter(&request, client)?;
        let ask = Ask::new(request, origin, None);
        let flight = self.launch(&self.cache.load(), source, key.clone(), ask, place);
        flight.board();
        serve(flight, Join::First, key)
    }

    /// Takes the places of a new flight.
    fn enter(&self, request: &UpstreamRequest, client: Option<&Client>) -> Result<FlightPlace, Rejection> {
        self.places.enter(request, client).map_err(|limited| Rejection::limited(limited, &self.metrics))
    }

    /// Returns how many flights other requests can join.
    pub fn open_flights(&self) -> usize {
        self.open.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Returns how many shapes these flights belong to.
    pub fn open_shapes(&self) -> usize {
        let mut shapes = HashSet::new();
        for shard in &self.open {
            shapes.extend(lock(shard).values().map(|flight| Arc::as_ptr(&flight.tail)));
        }
        shapes.len()
    }

    /// Returns how many requests follow open flights.
    pub fn followers(&self) -> usize {
        let followers = |shard| lock(shard).values().map(|flight| flight.followers()).sum::<usize>();
        self.open.iter().map(followers).sum()
    }

    /// Returns the limits on requests to Electric.
    pub fn places(&self) -> &FlightLimits {
        &self.places
    }

    /// Returns how many bytes of responses may be cached.
    pub fn capacity(&self) -> usize {
        self.cache.load().settings.bytes
    }

    /// Returns how many responses are cached.
    pub fn kept_flights(&self) -> usize {
        self.cache.load().kept.len()
    }

    /// Returns about how many bytes the cached responses take.
    pub fn kept_bytes(&self) -> u64 {
        self.cache.load().kept.bytes()
    }

    pub(super) fn reweigh(&self, flight: &Arc<Flight>) {
        self.cache.load().kept.reweigh(flight);
    }

    /// Prevents further requests from joining this flight.
    pub(super) fn close(&self, flight: &Arc<Flight>) {
        remove(&mut self.shard(&flight.key), flight);
    }

    /// Opens a flight, in a task that does not depend on any client. If others may share it, the caller holds the lock
    /// of its shard and inserts it.
    fn launch(
        self: &Arc<Self>,
        cache: &Arc<Cache>,
        source: &Arc<dyn Source>,
        key: FlightKey,
        ask: Ask,
        mut place: FlightPlace,
    ) -> Arc<Flight> {
        let tail = self.tails.of(key.shape(&ask.request));
        let (flight, writer) =
            Flight::open(key, tail, &ask.request, cache.settings.flight_bytes, self.places.open_bytes());
        let sink = Sink::new(Arc::clone(self), Arc::clone(&flight), writer, &mut place);
        let running = Running { flight: Arc::clone(&flight), cache: Arc::clone(cache), sink, place };
        tokio::spawn(Arc::clone(self).run(running, Arc::clone(source), ask));
        flight
    }

    async fn run(self: Arc<Self>, running: Running, source: Arc<dyn Source>, ask: Ask) {
        let Running { flight, cache, sink, place } = running;
        // Ends the flight when its task ends, even by a panic.
        let closing = Closing { hub: &self, flight: &flight };
        let abandoned = tokio::select! {
            ended = fetch(source.as_ref(), ask, &flight, &sink, &self.metrics) => {
                // Cached and closed before any follower sees the end: later requests get the cached response or a new
                // flight.
                let settle = |fault: Option<&Fault>| {
                    cache.keep(&flight, fault);
                    self.close(&flight);
                };
                sink.end(ended, settle).await;
                false
            }
            () = self.abandoned(&flight, cache.settings.grace) => true,
        };
        drop(closing);
        self.metrics.landed(flight.joined());
        if abandoned && (flight.live || flight.head.get().is_none()) {
            // Electric goes on with the request, since it does not notice that the client has disconnected. So the
            // request keeps counting against the limits.
            tokio::time::sleep_until(flight.opened + ABANDONED_POLL).await;
        }
        drop(place);
    }

    /// Returns after the flight has had no follower for `grace`, and closes it.
    async fn abandoned(&self, flight: &Arc<Flight>, grace: Duration) {
        loop {
            flight.deserted().await;
            // No other request can join it, so waiting is pointless.
            if !flight.shared {
                return;
            }
            let joined = flight.joined();
            tokio::time::sleep(grace).await;
            let mut open = self.shard(&flight.key);
            // A follower that joined and left in the meantime starts the grace period again.
            if flight.followers() == 0 && flight.joined() == joined {
                remove(&mut open, flight);
                return;
            }
        }
    }

    fn shard(&self, key: &FlightKey) -> MutexGuard<'_, HashMap<FlightKey, Arc<Flight>>> {
        lock(&self.open[key.part(SHARDS)])
    }
}

/// A flight in progress, with what its task holds for it.
struct Running {
    flight: Arc<Flight>,
    cache: Arc<Cache>,
    sink: Sink,
    place: FlightPlace,
}

impl Cache {
    /// Returns an empty cache with these settings.
    fn new(settings: CacheSettings, metrics: &Arc<Metrics>) -> Self {
        let kept = Arc::new(KeptFlights::new(settings.bytes, settings.flight_bytes, Arc::clone(metrics)));
        Self { kept, settings }
    }

    fn find(&self, key: &FlightKey, terms: Terms<'_>) -> Option<(Arc<Flight>, Age)> {
        let flight = self.kept.find(key)?;
        let age = flight.age(Instant::now());
        let age = if age == Age::Expired || terms.allow(&flight) { age } else { Age::Outdated };
        Some((flight, age))
    }

    /// Whether a request with these terms may join the flight. A stream of events can be joined while it is young;
    /// later, clients would get streams so short that they fall back to long polls.
    fn is_joinable(&self, flight: &Flight, terms: Terms<'_>) -> bool {
        let events = flight.head.get().is_some_and(|head| head.events);
        let young = !events || flight.opened.elapsed() < self.settings.sse_join;
        young && !flight.is_outdated() && terms.allow(flight)
    }

    /// Caches a finished flight for its lifetime. A 409 purges the cached responses of its handle.
    fn keep(&self, flight: &Arc<Flight>, fault: Option<&Fault>) {
        let lifetime = match (flight.head.get(), fault) {
            (Some(head), None) if head.status == 200 && flight.is_repeatable(head) && !flight.is_outdated() => {
                Lifetime::of_shape(&head.cache_control, flight.live, self.settings.max_age)
            }
            (Some(head), None) if head.status == 409 => {
                if let Some(dead) = flight.asked_shape_key() {
                    self.kept.purge(dead);
                }
                Lifetime::of_refusal(head.cache_control.max_age)
            }
            (None, Some(Fault::NotReady(after) | Fault::Overloaded(after))) => {
                // A cached response that is still served is worth more than a rejection.
                let serves = self.kept.find(&flight.key).is_some_and(|kept| kept.age(Instant::now()).serves());
                Lifetime::of_refusal(Some(*after).filter(|_| !serves))
            }
            (None, Some(fault)) => fault.lasts().map(Lifetime::of_fault),
            _ => None,
        };
        // The start of a body longer than `flight_bytes` has been freed, so it cannot be served again.
        if let Some(lifetime) = lifetime.filter(|_| flight.shared && flight.read().is_some()) {
            flight.keep_for(lifetime);
            self.kept.insert(flight);
        }
    }
}

/// Returns a follower of a cached or newly opened flight, which still has the start of its body.
fn serve(flight: Arc<Flight>, join: Join, key: FlightKey) -> Result<Follower, Rejection> {
    let reader = flight.read().ok_or(Rejection::Internal)?;
    Ok(Follower::new(flight, reader, join, key))
}

fn lock(shard: &Mutex<HashMap<FlightKey, Arc<Flight>>>) -> MutexGuard<'_, HashMap<FlightKey, Arc<Flight>>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes this flight, unless another one has its key already.
fn remove(open: &mut HashMap<FlightKey, Arc<Flight>>, flight: &Arc<Flight>) {
    if open.get(&flight.key).is_some_and(|known| Arc::ptr_eq(known, flight)) {
        open.remove(&flight.key);
    }
}

/// Returns what a conditional request needs; `None` if the response cannot be revalidated. A live response is never
/// revalidated: Electric would end the wait at once (docs/electric.md, "Long polls").
fn known_answer(flight: &Flight) -> Option<KnownAnswer> {
    let head = flight.head.get().filter(|head| !flight.live && head.status == 200 && head.etag().is_some())?;
    Some(KnownAnswer { head: Arc::clone(head), body: flight.known_body()? })
}

/// Closes a flight when it is dropped.
struct Closing<'a> {
    hub: &'a Hub,
    flight: &'a Arc<Flight>,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.hub.close(self.flight);
    }
}
