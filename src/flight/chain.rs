//! A body that is written once and read by any number of readers, each at its own pace and from its start.
//!
//! The pieces form a list that only grows at its end. Whoever reads holds the piece it stands at, so a piece is freed
//! once the slowest reader is past it and the list's start is let go: memory needs no bookkeeping of readers.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::fault::Fault;

/// A part of a body.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The bytes; empty only at the end.
    pub bytes: Bytes,
    /// Set on the last piece: a client that has its bytes has the whole answer, so both are known at the same time.
    pub end: Option<Result<(), Fault>>,
    /// Whether a stream of events may be ended after it: no event is torn.
    pub boundary: bool,
}

impl Piece {
    /// The last piece of a body.
    pub fn last(bytes: Bytes) -> Self {
        Self { bytes, end: Some(Ok(())), boundary: true }
    }

    fn broken(fault: Fault) -> Self {
        Self { bytes: Bytes::new(), end: Some(Err(fault)), boundary: true }
    }
}

/// The list, for its readers.
#[derive(Debug)]
pub(super) struct Chain {
    /// Where newcomers begin; `None` once the start is gone.
    start: RwLock<Option<Arc<Link>>>,
    /// The whole body, once it is.
    whole: OnceLock<Bytes>,
    progress: Notify,
}

#[derive(Debug)]
struct Link {
    piece: Piece,
    next: OnceLock<Arc<Self>>,
    /// The room this piece takes, given back when nobody needs it any more.
    _room: Option<OwnedSemaphorePermit>,
}

impl Link {
    fn new(piece: Piece, room: Option<OwnedSemaphorePermit>) -> Arc<Self> {
        Arc::new(Self { piece, next: OnceLock::new(), _room: room })
    }

    /// What a list begins with, so that the first piece too has one before it.
    fn sentinel() -> Arc<Self> {
        Self::new(Piece { bytes: Bytes::new(), end: None, boundary: true }, None)
    }
}

impl Drop for Link {
    /// One after the other: left to itself, a long list would be dropped by recursion.
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(link) = next {
            next = Arc::into_inner(link).and_then(|mut link| link.next.take());
        }
    }
}

impl Chain {
    /// An empty list and its one writer. `room` is how many bytes it may hold for its slowest reader.
    pub(super) fn new(room: usize) -> (Arc<Self>, Writer) {
        let tail = Link::sentinel();
        let start = RwLock::new(Some(Arc::clone(&tail)));
        let chain = Arc::new(Self { start, whole: OnceLock::new(), progress: Notify::new() });
        let permits = room.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        let room = Arc::new(Semaphore::new(permits));
        (Arc::clone(&chain), Writer { chain, tail, room, permits, whole: Some(Vec::new()), ended: false })
    }

    /// A reader at the start; `None` where that is gone.
    pub(super) fn read(self: &Arc<Self>) -> Option<Reader> {
        let at = self.start.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(Reader { chain: Arc::clone(self), at })
    }

    /// The whole body, where it is known.
    pub(super) fn known(&self) -> Option<Bytes> {
        self.whole.get().cloned()
    }

    fn begin_at(&self, start: Option<Arc<Link>>) {
        *self.start.write().unwrap_or_else(PoisonError::into_inner) = start;
    }
}

/// The one who writes. Dropped before the end, it leaves a body that is broken off.
#[derive(Debug)]
pub(super) struct Writer {
    chain: Arc<Chain>,
    tail: Arc<Link>,
    room: Arc<Semaphore>,
    permits: usize,
    /// Every piece so far; `None` once they are more than the room.
    whole: Option<Vec<Bytes>>,
    ended: bool,
}

impl Writer {
    /// Appends; the caller wakes the readers with [`Writer::publish`].
    ///
    /// Where the list holds as much as it may, its start is let go (`false` is returned from then on: nobody can join
    /// any more) and the writer waits for the slowest reader.
    pub(super) async fn push(&mut self, piece: Piece) -> bool {
        let need = piece.bytes.len().min(self.permits);
        let need = u32::try_from(need).unwrap_or(u32::MAX);
        let room = match Arc::clone(&self.room).try_acquire_many_owned(need) {
            Ok(room) => Some(room),
            Err(_) => {
                self.whole = None;
                // Of a sealed body the start is the whole, and costs the slowest reader nothing.
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

    /// Wakes the readers.
    pub(super) fn publish(&self) {
        self.chain.progress.notify_waiters();
    }

    /// Shows newcomers the body as one piece, of which `last` is the end; the others wait for [`Writer::finish`].
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

    /// Breaks the body off.
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

/// One reader's place in the list.
#[derive(Debug)]
pub(super) struct Reader {
    chain: Arc<Chain>,
    at: Arc<Link>,
}

impl Reader {
    /// The next piece, waiting for it; after the last one this waits for ever.
    pub(super) async fn next(&mut self) -> Piece {
        loop {
            // Made before the look, so that no wake-up falls between the two.
            let progress = self.chain.progress.notified();
            if let Some(next) = self.at.next.get() {
                let next = Arc::clone(next);
                self.at = next;
                return self.at.piece.clone();
            }
            progress.await;
        }
    }

    /// Waits until there is a next piece, and says how it ends the body, if it does.
    pub(super) async fn ready(&self) -> Option<Result<(), Fault>> {
        loop {
            let progress = self.chain.progress.notified();
            if let Some(next) = self.at.next.get() {
                return next.piece.end.clone();
            }
            progress.await;
        }
    }

    /// What comes next, where that is the rest of the body, to its good end.
    pub(super) fn rest(&self) -> Option<&Bytes> {
        let next = self.at.next.get().filter(|next| next.piece.end == Some(Ok(())))?;
        Some(&next.piece.bytes)
    }

    /// The length of the body, where it is whole.
    pub(super) fn known_length(&self) -> Option<usize> {
        self.chain.whole.get().map(Bytes::len)
    }
}

/// The bytes of all pieces; copied only where there are several.
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
