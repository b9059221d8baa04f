//! The write side of a flight: chunks that arrive together are published together.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use super::chain::{Piece, Writer, concat};
use super::flight::Flight;
use super::head::Head;
use super::hub::Hub;
use crate::fault::Fault;
use crate::limits::{FlightPlace, Place, Reserve};

/// A handle on the write side of a flight.
///
/// Followers see what is written when the source calls [`Sink::flush`], which it does before it waits for more. A small
/// response is then published whole, with header and end, and each follower writes it with one system call.
#[derive(Clone)]
pub struct Sink {
    start: Arc<Mutex<Start>>,
    body: Arc<AsyncMutex<Body>>,
}

/// The part of a response before the body.
struct Start {
    /// Published with the first flush.
    head: Option<Head>,
    /// Counts the flight as an initial request until Electric's response begins.
    _initial: Option<Place>,
}

/// The part of the body that is not published yet.
struct Body {
    hub: Arc<Hub>,
    flight: Arc<Flight>,
    writer: Option<Writer>,
    batch: Vec<Bytes>,
    batch_bytes: usize,
    /// Whether the header was published.
    published: bool,
    /// Whether no further request can join.
    closed: bool,
    finished: bool,
    /// The bytes set aside for a long body.
    reserve: Option<Reserve>,
}

/// The most bytes that are held back. It also limits the size of a piece.
const BATCH: usize = 64 * 1024;

impl Sink {
    pub(super) fn new(hub: Arc<Hub>, flight: Arc<Flight>, writer: Writer, place: &mut FlightPlace) -> Self {
        let body = Body {
            hub,
            flight,
            writer: Some(writer),
            batch: Vec::new(),
            batch_bytes: 0,
            published: false,
            closed: false,
            finished: false,
            reserve: place.take_reserve(),
        };
        let start = Start { head: None, _initial: place.take_initial() };
        Self { start: Arc::new(Mutex::new(start)), body: Arc::new(AsyncMutex::new(body)) }
    }

    /// Sets the header, once. Followers see it with the first flush.
    pub fn head(&self, head: Head) {
        *self.start.lock() = Start { head: Some(head), _initial: None };
    }

    /// Appends to the body. Waits while the slowest follower is too far behind.
    pub async fn push(&self, mut bytes: Bytes) {
        let mut body = self.body.lock().await;
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(BATCH - body.batch_bytes));
            body.batch_bytes += part.len();
            body.batch.push(part);
            if body.batch_bytes == BATCH {
                body.flush(&self.start).await;
            }
        }
    }

    /// Publishes everything so far.
    pub async fn flush(&self) {
        self.body.lock().await.flush(&self.start).await;
    }

    /// Marks the body as complete.
    pub async fn finish(&self) {
        self.body.lock().await.finished = true;
    }

    /// Ends the flight as its source ended. A fault before anything was published becomes a response of our own; after
    /// that, the response is cut off. `settle` is called before any follower sees the end.
    pub(super) async fn end(&self, ended: Result<(), Fault>, settle: impl FnOnce(Option<&Fault>)) {
        let mut body = self.body.lock().await;
        let last = body.take();
        body.reserve = None;
        let Some(mut writer) = body.writer.take() else { return };
        let fault = match ended {
            Ok(()) if body.finished => {
                body.publish_head(&self.start);
                writer.seal(last);
                settle(None);
                return writer.finish();
            }
            Ok(()) => Fault::Internal,
            Err(fault) => fault,
        };
        settle(Some(&fault));
        writer.fail(fault);
    }
}

impl Body {
    async fn flush(&mut self, start: &Mutex<Start>) {
        let begins = !self.published && start.lock().head.is_some();
        if !begins && (!self.published || self.batch.is_empty()) {
            return;
        }
        let bytes = self.take();
        let boundary = bytes.is_empty() || bytes.ends_with(b"\n\n");
        self.publish_head(start);
        self.published = true;
        let Some(writer) = &mut self.writer else { return };
        if bytes.len() == BATCH && self.reserve.is_none() {
            self.reserve = Some(self.hub.places().open_bytes().must_reserve());
        }
        if !writer.push(Piece { bytes, end: None, boundary }).await && !self.closed {
            self.closed = true;
            self.hub.close(&self.flight);
        }
        writer.publish();
    }

    fn publish_head(&mut self, start: &Mutex<Start>) {
        let Some(head) = start.lock().head.take() else { return };
        if let Some(handle) = head.handle().filter(|_| head.status == StatusCode::OK) {
            self.hub.places().given(&self.flight.shape, handle);
        }
        let _ = self.flight.head.set(Arc::new(head));
    }

    fn take(&mut self) -> Bytes {
        self.batch_bytes = 0;
        concat(std::mem::take(&mut self.batch))
    }
}
