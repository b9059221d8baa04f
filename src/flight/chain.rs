//! A body that is written once and read by any number of readers, each from its start and at its own pace.
//!
//! The pieces form a list that only grows at its end. A reader holds the piece that it has read last. A piece is freed
//! when the slowest reader is past it and the list no longer holds its own start, so nothing has to count readers.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::events::Mark;
use super::offset::Offset;
use crate::fault::Fault;

/// A part of a body.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The bytes. Empty only at the end.
    pub bytes: Bytes,
    /// Set on the last piece. The end travels with the bytes, so that a client learns of both at the same time.
    pub end: Option<Result<(), Fault>>,
    /// Whether a stream of events may be ended after this piece without tearing an event.
    pub boundary: bool,
}

impl Piece {
    /// Returns the last piece of a complete body.
    pub fn last(bytes: Bytes) -> Self {
        Self { bytes, end: Some(Ok(())), boundary: true }
    }

    fn broken(fault: Fault) -> Self {
        Self { bytes: Bytes::new(), end: Some(Err(fault)), boundary: true }
    }
}

/// The list, as its readers see it.
#[derive(Debug)]
pub(super) struct Chain {
    /// Where new readers begin; `None` once the start has been freed.
    start: RwLock<Option<Arc<Link>>>,
    /// Where else new readers may begin, the newest last; none once the start has been freed.
    marks: Mutex<Vec<(Mark, Arc<Link>)>>,
    /// The whole body, once it is known.
    whole: OnceLock<Bytes>,
    progress: Notify,
}

/// The most marks of a body.
const MARKS: usize = 64;

#[derive(Debug)]
struct Link {
    piece: Piece,
    next: OnceLock<Arc<Self>>,
    /// The buffer space that this piece takes, returned when the piece is freed.
    _room: Option<OwnedSemaphorePermit>,
}

impl Link {
    fn new(piece: Piece, room: Option<OwnedSemaphorePermit>) -> Arc<Self> {
        Arc::new(Self { piece, next: OnceLock::new(), _room: room })
    }

    /// Returns the empty link that a list begins with, so that the first piece too has a predecessor.
    fn sentinel() -> Arc<Self> {
        Self::new(Piece { bytes: Bytes::new(), end: None, boundary: true }, None)
    }
}

impl Drop for Link {
    /// Frees the links one after the other. The default would drop a long list by recursion and overflow the stack.
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(link) = next {
            next = Arc::into_inner(link).and_then(|mut link| link.next.take());
        }
    }
}

impl Chain {
    /// Returns an empty list and its only writer. `room` is how many bytes it buffers for its slowest reader.
    pub(super) fn new(room: usize) -> (Arc<Self>, Writer) {
        let tail = Link::sentinel();
        let start = RwLock::new(Some(Arc::clone(&tail)));
        let marks = Mutex::default();
        let chain = Arc::new(Self { start, marks, whole: OnceLock::new(), progress: Notify::new() });
        let permits = room.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        let room = Arc::new(Semaphore::new(permits));
        (Arc::clone(&chain), Writer { chain, tail, room, permits, whole: Some(Vec::new()), ended: false })
    }

    /// Returns a reader at the start; `None` if the start has been freed.
    pub(super) fn read(self: &Arc<Self>) -> Option<Reader> {
        let at = self.start.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(Reader { chain: Arc::clone(self), at, partial: false })
    }

    /// Returns a reader at the newest mark that continues a log up to `offset`.
    pub(super) fn read_at(self: &Arc<Self>, offset: Offset) -> Option<Reader> {
        let marks = self.marks.lock();
        let (_, at) = marks.iter().rev().find(|(mark, _)| mark.continues(offset))?;
        Some(Reader { chain: Arc::clone(self), at: Arc::clone(at), partial: true })
    }

    /// Returns the whole body, if it is known.
    pub(super) fn known(&self) -> Option<Bytes> {
        self.whole.get().cloned()
    }

    fn begin_at(&self, start: Option<Arc<Link>>) {
        self.marks.lock().clear();
        *self.start.write().unwrap_or_else(PoisonError::into_inner) = start;
    }
}

/// The write side of a body. If it is dropped before the end, readers see an incomplete body.
#[derive(Debug)]
pub(super) struct Writer {
    chain: Arc<Chain>,
    tail: Arc<Link>,
    room: Arc<Semaphore>,
    permits: usize,
    /// Every piece so far; `None` once they exceed the buffer.
    whole: Option<Vec<Bytes>>,
    ended: bool,
}

impl Writer {
    /// Appends a piece. The caller wakes the readers with [`Writer::publish`].
    ///
    /// If the buffer is full, the start of the list is freed and the writer waits for the slowest reader. From then on
    /// this returns `false`, since no new reader can join.
    pub(super) async fn push(&mut self, piece: Piece) -> bool {
        let need = piece.bytes.len().min(self.permits);
        let need = u32::try_from(need).unwrap_or(u32::MAX);
        let room = match Arc::clone(&self.room).try_acquire_many_owned(need) {
            Ok(room) => Some(room),
            Err(_) => {
                self.whole = None;
                // A sealed body starts with one piece that is the whole, so its start holds back no buffer space.
                if self.chain.whole.get().is_none() {
                    self.chain.begin_at(None);
                }
                self.chain.progress.notify_waiters();
                // The semaphore is never closed.
                Arc::clone(&self.room).acquire_many_owned(need).await.ok()
            }
        };
        if let Some(whole) = &mut self.whole {
            whole.push(piece.bytes.clone());
        }
        self.append(piece, room);
        self.whole.is_some()
    }

    /// Lets readers begin after the pieces so far.
    pub(super) fn mark(&self, mark: Mark) {
        let mut marks = self.chain.marks.lock();
        if marks.len() == MARKS {
            marks.remove(0);
        }
        marks.push((mark, Arc::clone(&self.tail)));
    }

    /// Wakes the readers.
    pub(super) fn publish(&self) {
        self.chain.progress.notify_waiters();
    }

    /// Shows new readers the body as one piece that ends with `last`. Existing readers wait for [`Writer::finish`].
    pub(super) fn seal(&mut self, last: &Bytes) {
        let Some(mut pieces) = self.whole.take() else { return };
        pieces.push(last.clone());
        let (start, whole) = (Link::sentinel(), concat(pieces));
        let _ = self.chain.whole.set(whole.clone());
        let _ = start.next.set(Link::new(Piece::last(whole), None));
        self.chain.begin_at(Some(start));
    }

    /// Ends the body with its last piece, and wakes the readers.
    pub(super) async fn finish(mut self, last: Bytes) {
        self.seal(&last);
        self.push(Piece::last(last)).await;
        self.ended = true;
        self.publish();
    }

    /// Ends the body as incomplete.
    pub(super) fn fail(mut self, fault: Fault) {
        self.break_off(fault);
    }

    fn break_off(&mut self, fault: Fault) {
        self.ended = true;
        self.append(Piece::broken(fault), None);
        self.publish();
    }

    fn append(&mut self, piece: Piece, room: Option<OwnedSemaphorePermit>) {
        let link = Link::new(piece, room);
        let _ = self.tail.next.set(Arc::clone(&link));
        self.tail = link;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.ended {
            self.break_off(Fault::Internal);
        }
    }
}

/// One reader's position in the list.
#[derive(Debug)]
pub(super) struct Reader {
    chain: Arc<Chain>,
    at: Arc<Link>,
    /// Whether it did not begin at the start.
    partial: bool,
}

impl Reader {
    /// Waits for the next piece and returns it. After the last piece this waits forever.
    pub(super) async fn next(&mut self) -> Piece {
        loop {
            // Registered before the check, so that no wake-up is lost between the two.
            let progress = self.chain.progress.notified();
            if let Some(next) = self.at.next.get() {
                let next = Arc::clone(next);
                self.at = next;
                return self.at.piece.clone();
            }
            progress.await;
        }
    }

    /// Waits until there is a next piece, and returns how it ends the body, if it does.
    pub(super) async fn ready(&self) -> Option<Result<(), Fault>> {
        loop {
            let progress = self.chain.progress.notified();
            if let Some(next) = self.at.next.get() {
                return next.piece.end.clone();
            }
            progress.await;
        }
    }

    /// Returns the next piece, if it completes the body.
    pub(super) fn rest(&self) -> Option<&Bytes> {
        let next = self.at.next.get().filter(|next| next.piece.end == Some(Ok(())))?;
        Some(&next.piece.bytes)
    }

    /// Returns the length of the body, if the whole body is known.
    pub(super) fn known_length(&self) -> Option<usize> {
        self.chain.whole.get().filter(|_| !self.partial).map(Bytes::len)
    }
}

/// Returns the bytes of all pieces. Copies only if there are several.
pub(super) fn concat(mut pieces: Vec<Bytes>) -> Bytes {
    pieces.retain(|piece| !piece.is_empty());
    match &pieces[..] {
        [] => Bytes::new(),
        [only] => only.clone(),
        _ => {
            let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
            pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
            whole.freeze()
        }
    }
}
