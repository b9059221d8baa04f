//! One answer of Electric, in progress or finished, for everybody whose request is the same.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::chain::{Chain, Reader, Writer};
use super::encoding::{self, Encoding};
use super::freshness::Lifetime;
use super::head::Head;
use super::key::{FlightKey, ShapeKey};
use crate::policy::RuleId;
use crate::rewrite::UpstreamRequest;

/// Header, body and end, from the first byte to the last moment it is fresh. It belongs to no client.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) key: FlightKey,
    pub(super) rule: RuleId,
    pub(super) live: bool,
    /// Whether others than the first may join it, or have it later.
    pub(super) shared: bool,
    pub(super) shape: Box<str>,
    /// The handle that was asked for.
    asked_handle: Option<Box<str>>,
    pub(super) opened: Instant,
    pub(super) head: OnceLock<Arc<Head>>,
    body: Arc<Chain>,
    encoded: [OnceLock<Arc<Chain>>; Encoding::ALL.len()],
    encoded_bytes: AtomicUsize,
    kept: OnceLock<Kept>,
    followers: AtomicUsize,
    joined: AtomicUsize,
    /// Followers that have not been served yet.
    unserved: AtomicUsize,
    /// Signalled when there are none.
    all_served: Notify,
    /// Signalled when the last follower has left.
    deserted: Notify,
    flight_bytes: usize,
}

#[derive(Debug)]
struct Kept {
    fresh_until: Instant,
    stale_until: Instant,
}

/// How good a kept answer still is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    Fresh,
    /// It serves, and a new one should be fetched.
    Stale,
    /// It serves nobody; its entity tag may save its successor the way.
    Expired,
}

impl Flight {
    /// A flight for `request`, and the one who writes its answer of at most `flight_bytes` for joiners.
    pub(super) fn open(key: FlightKey, request: &UpstreamRequest, flight_bytes: usize) -> (Arc<Self>, Writer) {
        let (body, writer) = Chain::new(flight_bytes);
        let flight = Self {
            key,
            rule: request.rule().clone(),
            live: request.is_live(),
            shared: request.is_shared(),
            shape: request.shape().into(),
            asked_handle: request.handle().map(Into::into),
            opened: Instant::now(),
            head: OnceLock::new(),
            body,
            encoded: Default::default(),
            encoded_bytes: AtomicUsize::new(0),
            kept: OnceLock::new(),
            followers: AtomicUsize::new(0),
            joined: AtomicUsize::new(0),
            unserved: AtomicUsize::new(0),
            all_served: Notify::new(),
            deserted: Notify::new(),
            flight_bytes,
        };
        (Arc::new(flight), writer)
    }

    /// A reader at the start of the body; `None` where that is gone.
    pub(super) fn read(&self) -> Option<Reader> {
        self.body.read()
    }

    /// The body, where it is whole.
    pub(super) fn known_body(&self) -> Option<Bytes> {
        self.body.known()
    }

    /// The body in an encoding: made once, by a task of its own, for all who ask for it. `grown` is called once the
    /// encoded bytes are held too.
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
            let (chain, writer) = Chain::new(self.flight_bytes);
            let flight = Arc::clone(self);
            tokio::spawn(async move {
                let bytes = encoding::encode(encoding, identity, writer).await;
                flight.encoded_bytes.fetch_add(bytes, Ordering::Relaxed);
                grown(&flight);
            });
            chain
        });
        Some(Arc::clone(made))
    }

    /// The handle whose shape this answer belongs to.
    pub(super) fn shape_key(&self) -> Option<ShapeKey> {
        let handle = self.head.get()?.handle()?;
        Some(ShapeKey::new(&self.shape, handle))
    }

    /// The handle that was asked for: a 409 says that it is dead.
    pub(super) fn asked_shape_key(&self) -> Option<ShapeKey> {
        Some(ShapeKey::new(&self.shape, self.asked_handle.as_deref()?))
    }

    /// The bytes that keeping it takes, about.
    pub(super) fn weight(&self) -> u64 {
        const OVERHEAD: usize = 2048;
        let body = self.body.known().map_or(0, |body| body.len());
        (OVERHEAD + self.key.len() + body + self.encoded_bytes.load(Ordering::Relaxed)) as u64
    }

    /// Starts its time as a kept answer.
    pub(super) fn keep_for(&self, lifetime: Lifetime) {
        let fresh_until = Instant::now() + lifetime.fresh;
        let _ = self.kept.set(Kept { fresh_until, stale_until: fresh_until + lifetime.stale });
    }

    pub(super) fn age(&self, now: Instant) -> Age {
        match self.kept.get() {
            Some(kept) if now < kept.fresh_until => Age::Fresh,
            Some(kept) if now < kept.stale_until => Age::Stale,
            _ => Age::Expired,
        }
    }

    /// How long it is still fresh; `None` where it is not kept, or not yet.
    pub(super) fn fresh_for(&self) -> Option<std::time::Duration> {
        Some(self.kept.get()?.fresh_until.saturating_duration_since(Instant::now()))
    }

    /// One follower more; the hub calls this under its lock.
    pub(super) fn board(&self) {
        self.followers.fetch_add(1, Ordering::AcqRel);
        self.joined.fetch_add(1, Ordering::Relaxed);
        self.unserved.fetch_add(1, Ordering::AcqRel);
    }

    /// One follower has its answer, or goes without.
    pub(super) fn serve_one(&self) {
        if self.unserved.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.all_served.notify_waiters();
        }
    }

    /// Waits until every follower has its answer, or goes without.
    pub(super) async fn all_served(&self) {
        // Made before the look, so that no wake-up falls between the two.
        let all_served = self.all_served.notified();
        if self.unserved.load(Ordering::Acquire) > 0 {
            all_served.await;
        }
    }

    /// One follower less.
    pub(super) fn leave(&self) {
        if self.followers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.deserted.notify_one();
        }
    }

    /// Waits until a last follower leaves; another one may have come since.
    pub(super) async fn deserted(&self) {
        self.deserted.notified().await;
    }

    pub(super) fn followers(&self) -> usize {
        self.followers.load(Ordering::Acquire)
    }

    /// How many it served while it was open.
    pub(super) fn joined(&self) -> usize {
        self.joined.load(Ordering::Relaxed)
    }
}
