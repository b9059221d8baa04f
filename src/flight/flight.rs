//! One response of Electric, in progress or finished, for all clients with requests of the same meaning.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::StatusCode;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::chain::{Chain, Reader, Writer};
use super::encoding::{self, Encoding};
use super::events::Shown;
use super::freshness::Lifetime;
use super::head::Head;
use super::key::{FlightKey, ShapeKey};
use super::offset::Offset;
use super::tail::{Moment, Tail};
use super::window::Cached;
use crate::limits::OpenBytes;
use crate::policy::RuleId;
use crate::rewrite::UpstreamRequest;

/// Header, body and end of a response, until it is no longer fresh. It does not depend on any one client.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) key: FlightKey,
    pub(super) rule: RuleId,
    pub(super) live: bool,
    /// Whether other clients than the first may join it or get it from the cache.
    pub(super) shared: bool,
    /// What is known about its shape.
    pub(super) tail: Arc<Tail>,
    /// When Electric was asked, among the events of its shape.
    pub(super) asked: Moment,
    /// The handle in the request to Electric.
    asked_handle: Option<Box<str>>,
    /// The position in the request.
    pub(super) asked_offset: Option<Offset>,
    /// Whether the request is for the start of the snapshot.
    snapshot: bool,
    pub(super) opened: Instant,
    pub(super) head: OnceLock<Arc<Head>>,
    body: Arc<Chain>,
    encoded: [OnceLock<Arc<Chain>>; Encoding::ALL.len()],
    kept: OnceLock<Kept>,
    /// The number of events of its shape at which it was last found to be up to date.
    current_at: AtomicU64,
    followers: AtomicUsize,
    joined: AtomicUsize,
    /// Followers whose response has not been written yet.
    unserved: AtomicUsize,
    /// Notified when `unserved` becomes 0.
    all_served: Notify,
    /// Notified when the last follower has left.
    deserted: Notify,
    flight_bytes: usize,
    open_bytes: Arc<OpenBytes>,
}

#[derive(Debug)]
struct Kept {
    fresh_until: Instant,
    stale_until: Instant,
}

/// How fresh a cached response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    Fresh,
    /// It is served, and a new one should be fetched.
    Stale,
    /// It is not served, since it does not have what other clients have seen, or its handle is not right for this one.
    Outdated,
    /// It is not served. Its entity tag may make the next request conditional.
    Expired,
}

impl Age {
    /// Whether a response of this age is served.
    pub(super) const fn serves(self) -> bool {
        matches!(self, Self::Fresh | Self::Stale)
    }
}

/// Bytes of a cached flight besides its texts, with its places in the tables of the cache.
const OVERHEAD: usize = 4608;

impl Flight {
    /// Opens a flight for `request` to the shape of `tail`, and returns it with its writer. New followers can join as
    /// long as the body has at most `flight_bytes` bytes, and there is room for them in `open_bytes`.
    pub(super) fn open(
        key: FlightKey,
        tail: Arc<Tail>,
        request: &UpstreamRequest,
        flight_bytes: usize,
        open_bytes: &Arc<OpenBytes>,
    ) -> (Arc<Self>, Writer) {
        let (body, writer) = Chain::new(flight_bytes, open_bytes);
        let flight = Self {
            key,
            rule: request.rule().clone(),
            live: request.is_live(),
            shared: request.is_shared(),
            asked: tail.now(),
            tail,
            asked_handle: request.handle().filter(|_| !request.is_start()).map(Into::into),
            asked_offset: Offset::parse(request.offset()),
            snapshot: request.offset() == "-1",
            opened: Instant::now(),
            head: OnceLock::new(),
            body,
            encoded: Default::default(),
            kept: OnceLock::new(),
            current_at: AtomicU64::new(0),
            followers: AtomicUsize::new(0),
            joined: AtomicUsize::new(0),
            unserved: AtomicUsize::new(0),
            all_served: Notify::new(),
            deserted: Notify::new(),
            flight_bytes,
            open_bytes: Arc::clone(open_bytes),
        };
        (Arc::new(flight), writer)
    }

    /// Returns a reader at the start of the body; `None` if the start has been freed.
    pub(super) fn read(&self) -> Option<Reader> {
        self.body.read()
    }

    /// Returns a reader of a stream of events that continues a log up to `offset`.
    pub(super) fn read_at(&self, offset: Offset) -> Option<Reader> {
        self.body.read_at(offset)
    }

    /// Records what the header shows about the shape.
    pub(super) fn learn(&self, head: &Head) {
        match (head.status, head.handle(), &self.asked_handle) {
            // Electric repeats an offset that is behind the last change, so the response does not show one. Nor does
            // the end of a snapshot.
            (StatusCode::OK, Some(handle), _) if self.shared => {
                let end = head.offset().filter(|end| Some(*end) != self.asked_offset && end.transaction > 0);
                self.tail.shown(handle, end, self.asked);
            }
            (StatusCode::CONFLICT, valid, Some(asked)) => self.tail.ended(asked, valid, self.asked),
            _ => {}
        }
    }

    /// Records what a part of a stream of events shows about the shape.
    pub(super) fn saw(&self, shown: Shown) {
        let Some(handle) = self.head.get().and_then(|head| head.handle()) else { return };
        match shown {
            Shown::Nothing => {}
            Shown::Changes(end) => self.tail.shown(handle, Some(end), self.asked),
            Shown::Unknown => self.tail.moved(handle),
        }
    }

    /// Whether other responses have shown later changes since, or that its handle is no longer valid.
    pub(super) fn is_outdated(&self) -> bool {
        // Most of the time nothing has happened since the last request, and the shape's lock is not needed.
        let (events, final_head) = (self.tail.events(), self.head.get().is_some());
        if self.current_at.load(Ordering::Relaxed) == events {
            return false;
        }
        let outdated = self.is_outdated_now();
        if final_head && !outdated {
            self.current_at.store(events, Ordering::Relaxed);
        }
        outdated
    }

    fn is_outdated_now(&self) -> bool {
        let Some(head) = self.head.get() else {
            // A live response will have the changes. Whether another one ends at the end of the log is not known yet.
            let handle = self.asked_handle.as_deref();
            return !self.live && !self.snapshot && self.tail.has_passed(handle, None, self.asked);
        };
        let Some(handle) = head.handle().filter(|_| head.status == StatusCode::OK) else { return false };
        let passed = || self.tail.has_passed(Some(handle), head.offset(), self.asked);
        self.tail.has_ended(handle, self.asked) || (!head.events && head.is_up_to_date() && passed())
    }

    /// Whether the response may be given to a client that was not waiting for it. A live response that ends where it
    /// started was for those who waited: the same client would get it again and again.
    pub(super) fn is_repeatable(&self, head: &Head) -> bool {
        !head.events && (!self.live || head.offset() > self.asked_offset)
    }

    /// Returns the pieces of the body, if the whole body is known and held.
    pub(super) fn known_body(&self) -> Option<Vec<Bytes>> {
        self.body.pieces()
    }

    /// Returns the body in an encoding; `None` if its start has been freed. It is compressed once, by a task of its
    /// own, for all followers. `grown` is called once the compressed bytes are held too.
    pub(super) fn encode(
        self: &Arc<Self>,
        encoding: Encoding,
        grown: impl FnOnce(&Arc<Self>) + Send + 'static,
    ) -> Option<Arc<Chain>> {
        let slot = &self.encoded[encoding as usize];
        if let Some(chain) = slot.get() {
            return Some(Arc::clone(chain));
        }
        let identity = self.body.read()?;
        let made = slot.get_or_init(|| {
            let (chain, writer) = Chain::new(self.flight_bytes, &self.open_bytes);
            let flight = Arc::clone(self);
            tokio::spawn(async move {
                encoding::encode(encoding, identity, writer).await;
                grown(&flight);
            });
            chain
        });
        Some(Arc::clone(made))
    }

    /// Returns the shape and handle that the response belongs to.
    pub(super) fn shape_key(&self) -> Option<ShapeKey> {
        let handle = self.head.get()?.handle()?;
        Some(ShapeKey::new(self.tail.shape(), handle))
    }

    /// Returns the shape and handle that were requested. A 409 says that this handle is no longer valid.
    pub(super) fn asked_shape_key(&self) -> Option<ShapeKey> {
        Some(ShapeKey::new(self.tail.shape(), self.asked_handle.as_deref()?))
    }

    /// Returns about how many bytes it takes in the cache.
    pub(super) fn weight(&self) -> u64 {
        let bodies = self.bodies().filter_map(|body| body.length()).sum::<usize>();
        let head = self.head.get().map_or(0, |head| head.weight());
        let texts = self.key.len() + self.tail.shape().len() + head + bodies;
        // The allocator rounds up, and has pages that are partly free: about a sixth in all.
        (OVERHEAD + texts + texts / 6) as u64
    }

    /// Leaves the counting of the bytes of its finished bodies to a cache entry.
    pub(super) fn cached(&self) -> Vec<Cached> {
        self.bodies().filter_map(|body| body.cached()).collect()
    }

    /// Returns the body, and its compressed copies.
    fn bodies(&self) -> impl Iterator<Item = &Arc<Chain>> {
        std::iter::once(&self.body).chain(self.encoded.iter().filter_map(OnceLock::get))
    }

    /// Starts its lifetime as a cached response.
    pub(super) fn keep_for(&self, lifetime: Lifetime) {
        let fresh_until = Instant::now() + lifetime.fresh;
        let _ = self.kept.set(Kept { fresh_until, stale_until: fresh_until + lifetime.stale });
    }

    pub(super) fn age(&self, now: Instant) -> Age {
        match self.kept.get() {
            Some(kept) if now >= kept.stale_until => Age::Expired,
            Some(_) if self.is_outdated() => Age::Outdated,
            Some(kept) if now >= kept.fresh_until => Age::Stale,
            Some(_) => Age::Fresh,
            None => Age::Expired,
        }
    }

    /// Returns how long it is still fresh; `None` if it is not cached, or not yet.
    pub(super) fn fresh_for(&self) -> Option<std::time::Duration> {
        Some(self.kept.get()?.fresh_until.saturating_duration_since(Instant::now()))
    }

    /// Counts one more follower. The hub calls this under its lock.
    pub(super) fn board(&self) {
        self.followers.fetch_add(1, Ordering::AcqRel);
        self.joined.fetch_add(1, Ordering::Relaxed);
        self.unserved.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts one follower as served, or as gone.
    pub(super) fn serve_one(&self) {
        if self.unserved.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.all_served.notify_waiters();
        }
    }

    /// Waits until every follower has been served or has gone.
    pub(super) async fn all_served(&self) {
        // Registered before the check, so that no wake-up is lost between the two.
        let all_served = self.all_served.notified();
        if self.unserved.load(Ordering::Acquire) > 0 {
            all_served.await;
        }
    }

    /// Counts one follower less.
    pub(super) fn leave(&self) {
        if self.followers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.deserted.notify_one();
        }
    }

    /// Waits until the last follower leaves. Another one may have joined since.
    pub(super) async fn deserted(&self) {
        self.deserted.notified().await;
    }

    pub(super) fn followers(&self) -> usize {
        self.followers.load(Ordering::Acquire)
    }

    /// Returns how many followers joined it while it was open.
    pub(super) fn joined(&self) -> usize {
        self.joined.load(Ordering::Relaxed)
    }
}
