//! The write side of a flight: chunks that arrive together are published together.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use super::chain::{Piece, Writer, concat};
use super::events::{Events, Mark};
use super::flight::Flight;
use super::head::Head;
use super::hub::Hub;
use super::offset::Offset;
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
    /// Reads the positions in a stream of events.
    events: Option<Box<Events>>,
    /// Whether the rest is dropped: a stream could not be continued.
    dropped: bool,
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
            events: None,
            dropped: false,
            reserve: place.take_reserve(),
        };
        let start = Start { head: None, _initial: place.take_initial() };
        Self { start: Arc::new(Mutex::new(start)), body: Arc::new(AsyncMutex::new(body)) }
    }

    /// Sets the header, once. Followers see it with the first flush.
    pub fn head(&self, head: Head) {
        *self.start.lock() = Start { head: Some(head), _initial: None };
    }

    /// Appends to the body. Waits while the slowest follower is too far behind. `bytes` may be kept for long, so they
    /// must not be a small part of a large buffer; Pingora copies them out of the one that it reads into.
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

    /// Publishes everything so far, and returns where a stream of events can be continued: after its last change, if it
    /// is between two transactions.
    pub(super) async fn pause(&self) -> Option<Offset> {
        let mut body = self.body.lock().await;
        if body.published {
            body.publish_head(&self.start);
        }
        body.flush(&self.start).await;
        let mark = body.events.as_ref()?.mark().filter(|_| !body.dropped)?;
        Some(mark.last())
    }

    /// Marks the body as complete.
    pub async fn finish(&self) {
        self.body.lock().await.finished = true;
    }

    /// Ends the flight as its source ended. A fault before anything was published becomes a response of our own; after
    /// that, the response is cut off. `settle` is called before any follower sees the end.
    pub(super) async fn end(&self, ended: Result<(), Fault>, settle: impl FnOnce(Option<&Fault>)) {
        let mut body = self.body.lock().await;
        let mut last = body.take();
        body.reserve = None;
        let Some(mut writer) = body.writer.take() else { return };
        let fault = match ended {
            Ok(()) if body.finished => {
                body.publish_head(&self.start);
                if body.dropped {
                    last.clear();
                }
                body.read_events(&last);
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
    /// Publishes everything so far. If this is dropped while it waits for room, nothing is published and nothing is lost:
    /// Pingora does that once more has arrived from Electric.
    async fn flush(&mut self, start: &Mutex<Start>) {
        let begins = !self.published && start.lock().head.is_some();
        if !begins && (!self.published || self.batch.is_empty()) {
            return;
        }
        if self.batch_bytes == BATCH && self.reserve.is_none() {
            self.reserve = Some(self.hub.places().open_bytes().must_reserve());
        }
        let Some(writer) = &mut self.writer else { return };
        let room = writer.room(self.batch_bytes).await;
        let bytes = self.take();
        let boundary = bytes.is_empty() || bytes.ends_with(b"\n\n");
        self.publish_head(start);
        if self.dropped {
            return;
        }
        self.published = true;
        let mark = self.read_events(&bytes);
        let Some(writer) = &mut self.writer else { return };
        if !writer.push(Piece { bytes, end: None, boundary }, room) && !self.closed {
            self.closed = true;
            self.hub.close(&self.flight);
        }
        if let Some(mark) = mark.filter(|_| !self.closed) {
            writer.mark(mark);
        }
        writer.publish();
    }

    /// Records what a part of a stream of events shows about the shape, and returns where the stream is.
    fn read_events(&mut self, bytes: &Bytes) -> Option<Mark> {
        let events = self.events.as_mut()?;
        self.flight.saw(events.read(bytes));
        events.mark()
    }

    fn publish_head(&mut self, start: &Mutex<Start>) {
        let Some(head) = start.lock().head.take() else { return };
        self.flight.learn(&head);
        if self.published {
            // Of a request that continues the stream.
            self.dropped = head.status != StatusCode::OK || !head.events;
            return;
        }
        if let Some(handle) = head.handle().filter(|_| head.status == StatusCode::OK) {
            self.hub.places().given(self.flight.tail.shape(), handle);
            if head.events {
                self.events = Some(Box::new(Events::new(self.flight.asked_offset)));
                self.flight.tail.add_stream(handle, &self.flight);
            }
        }
        let _ = self.flight.head.set(Arc::new(head));
    }

    fn take(&mut self) -> Bytes {
        self.batch_bytes = 0;
        concat(std::mem::take(&mut self.batch))
    }
}
