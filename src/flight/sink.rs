//! Where a source writes an answer: pieces that come together are published together.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;

use super::chain::{Piece, Writer, concat};
use super::flight::Flight;
use super::head::Head;
use super::hub::Hub;
use crate::fault::Fault;
use crate::limits::Place;

/// The writing end of a flight.
///
/// What is written is shown with [`Sink::flush`], which a source calls before it waits for more: a small answer is
/// then shown whole, header and end included, and each follower writes it in one go.
pub struct Sink {
    hub: Arc<Hub>,
    flight: Arc<Flight>,
    writer: Option<Writer>,
    /// The place of a first request, which Electric takes until its answer begins.
    initial: Option<Place>,
    /// Until it is shown.
    head: Option<Head>,
    batch: Vec<Bytes>,
    batch_bytes: usize,
    /// Whether anything has been shown, the header at least.
    shown: bool,
    /// Whether nobody can join any more.
    closed: bool,
    finished: bool,
}

/// More is not held back for the end of an answer; also the most that one piece holds.
const BATCH: usize = 64 * 1024;

impl Sink {
    pub(super) fn new(hub: Arc<Hub>, flight: Arc<Flight>, writer: Writer, initial: Option<Place>) -> Self {
        Self {
            hub,
            flight,
            writer: Some(writer),
            initial,
            head: None,
            batch: Vec::new(),
            batch_bytes: 0,
            shown: false,
            closed: false,
            finished: false,
        }
    }

    /// Sets the header, once; it is shown with the first flush.
    pub fn head(&mut self, head: Head) {
        self.initial = None;
        self.head = Some(head);
    }

    /// Adds to the body. Waits while the slowest follower is too far behind.
    pub async fn push(&mut self, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(BATCH - self.batch_bytes));
            self.batch_bytes += part.len();
            self.batch.push(part);
            if self.batch_bytes == BATCH {
                self.flush().await;
            }
        }
    }

    /// Shows everything so far.
    pub async fn flush(&mut self) {
        if self.shown && self.batch.is_empty() {
            return;
        }
        let bytes = self.take();
        let boundary = bytes.is_empty() || bytes.ends_with(b"\n\n");
        self.append(Piece { bytes, end: None, boundary }).await;
        if let Some(writer) = &self.writer {
            writer.publish();
        }
    }

    /// The body is complete.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Ends the flight as its source did. What goes wrong before anything was shown is an answer of its own; after that
    /// the answer is broken off. `land` is told of it before any follower is.
    pub(super) async fn end(mut self, ended: Result<(), Fault>, land: impl FnOnce(Option<&Fault>)) {
        let last = self.take();
        let Some(mut writer) = self.writer.take() else { return };
        let fault = match ended {
            Ok(()) if self.finished => {
                self.show_head();
                writer.seal(&last);
                land(None);
                return writer.finish(last).await;
            }
            Ok(()) => Fault::Internal,
            Err(fault) => fault,
        };
        land(Some(&fault));
        writer.fail(fault);
    }

    async fn append(&mut self, piece: Piece) {
        self.show_head();
        self.shown = true;
        let Some(writer) = &mut self.writer else { return };
        if !writer.push(piece).await && !self.closed {
            self.closed = true;
            self.hub.close(&self.flight);
        }
    }

    fn show_head(&mut self) {
        if let Some(head) = self.head.take() {
            if let Some(handle) = head.handle().filter(|_| head.status == StatusCode::OK) {
                self.hub.places().given(&self.flight.shape, handle);
            }
            let _ = self.flight.head.set(Arc::new(head));
        }
    }

    fn take(&mut self) -> Bytes {
        self.batch_bytes = 0;
        concat(std::mem::take(&mut self.batch))
    }
}
