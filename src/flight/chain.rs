//! A body that is written once and read by any number of readers, each from its start and at its own pace.
//!
//! The pieces form a list that only grows at its end. A reader holds the piece that it has read last. A piece is freed
//! when the slowest reader is past it and the list no longer holds its own start, so nothing has to count readers.
//!
//! The list holds a bounded window of bytes. If that is full, the writer waits for the slowest reader. If another
//! reader has read everything, it waits too, but not for long: then those that are far behind are overtaken, and have
//! to let go of their pieces.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::events::Mark;
use super::offset::Offset;
use super::window::{Cached, Charge, Window};
use crate::fault::Fault;
use crate::limits::OpenBytes;

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
    /// The length of the body, once it is known.
    length: OnceLock<usize>,
    /// Whether every reader can read to the end without a wait.
    finished: AtomicBool,
    progress: Notify,
    window: Arc<Window>,
    race: Race,
}

/// The most marks of a body.
const MARKS: usize = 64;

/// Which readers hold up others.
#[derive(Debug, Default)]
struct Race {
    /// Whether the writer waits for room.
    full: AtomicBool,
    /// The bytes that a reader had read when it last had to wait because the writer waited.
    starving: AtomicU64,
    /// Notified when `starving` is set.
    starved: Notify,
    /// Readers that have read less than this many bytes are overtaken.
    floor: AtomicU64,
    /// Notified when the floor rises.
    overtaken: Notify,
}

/// How long a response waits for its slowest readers, in total, while a faster one has read everything.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Link {
    piece: Piece,
    /// The bytes of the body up to the end of this piece.
    end: u64,
    next: OnceLock<Arc<Self>>,
    _charge: Option<Charge>,
}

impl Link {
    fn new(piece: Piece, end: u64, charge: Option<Charge>) -> Arc<Self> {
        Arc::new(Self { piece, end, next: OnceLock::new(), _charge: charge })
    }

    /// Returns the empty link that a list begins with, so that the first piece too has a predecessor.
    fn sentinel() -> Arc<Self> {
        Self::new(Piece { bytes: Bytes::new(), end: None, boundary: true }, 0, None)
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
    /// Returns an empty list and its only writer. It holds at most `room` bytes for its slowest reader.
    pub(super) fn new(room: usize, open: &Arc<OpenBytes>) -> (Arc<Self>, Writer) {
        let tail = Link::sentinel();
        let chain = Arc::new(Self {
            start: RwLock::new(Some(Arc::clone(&tail))),
            marks: Mutex::default(),
            length: OnceLock::new(),
            finished: AtomicBool::new(false),
            progress: Notify::new(),
            window: Window::new(room, Arc::clone(open)),
            race: Race::default(),
        });
        (Arc::clone(&chain), Writer { chain, tail, joinable: true, patience: None, sealed: None, ended: false })
    }

    /// Returns a reader at the start; `None` if the start has been freed.
    pub(super) fn read(self: &Arc<Self>) -> Option<Reader> {
        let at = self.start()?;
        Some(Reader { chain: Arc::clone(self), at, partial: false })
    }

    /// Returns a reader at the newest mark that continues a log up to `offset`.
    pub(super) fn read_at(self: &Arc<Self>, offset: Offset) -> Option<Reader> {
        let marks = self.marks.lock();
        let (_, at) = marks.iter().rev().find(|(mark, _)| mark.continues(offset))?;
        Some(Reader { chain: Arc::clone(self), at: Arc::clone(at), partial: true })
    }

    /// Returns the length of the body, if the whole body is known.
    pub(super) fn length(&self) -> Option<usize> {
        self.length.get().copied()
    }

    /// Returns the pieces of the body, if the whole body is known and held.
    pub(super) fn pieces(&self) -> Option<Vec<Bytes>> {
        self.length()?;
        let (mut at, mut pieces) = (self.start()?, Vec::new());
        while let Some(next) = at.next.get().cloned() {
            pieces.push(next.piece.bytes.clone());
            at = next;
        }
        // A sealed body is not finished yet.
        (at.piece.end == Some(Ok(()))).then_some(pieces)
    }

    /// Leaves the counting of its bytes to a cache entry, if the whole body is known.
    pub(super) fn cached(&self) -> Option<Cached> {
        self.length().map(|_| self.window.cached())
    }

    fn start(&self) -> Option<Arc<Link>> {
        self.start.read().unwrap_or_else(PoisonError::into_inner).clone()
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
    /// Whether the list still has its start.
    joinable: bool,
    /// When its patience with slow readers ends; `None` until they have held up another reader.
    patience: Option<Instant>,
    /// The last link, between [`Writer::seal`] and [`Writer::finish`].
    sealed: Option<Arc<Link>>,
    ended: bool,
}

/// The longest body that is joined to one piece, which is then written with one system call.
const JOINED: usize = 64 * 1024;

impl Writer {
    /// Waits for room for a piece of `bytes`, and takes it. If this is dropped while it waits, it takes none.
    ///
    /// If there is no room, the start of the list is freed, and no new reader can join from then on.
    pub(super) async fn room(&mut self, bytes: usize) -> Charge {
        match self.chain.window.try_take(bytes, self.tail.piece.bytes.len()) {
            Some(charge) => charge,
            None => self.wait_for_room(bytes).await,
        }
    }

    /// Appends a piece that has `room`. The caller wakes the readers with [`Writer::publish`]. Returns whether new readers
    /// can still join.
    pub(super) fn push(&mut self, piece: Piece, room: Charge) -> bool {
        self.chain.race.full.store(false, Ordering::SeqCst);
        let link = self.link(piece, Some(room));
        self.append(link);
        self.joinable
    }

    async fn wait_for_room(&mut self, bytes: usize) -> Charge {
        let Self { chain, tail, patience, .. } = self;
        if std::mem::take(&mut self.joinable) {
            chain.begin_at(None);
        }
        let race = &chain.race;
        race.full.store(true, Ordering::SeqCst);
        // A reader that waits for the next piece finds that the window is full, and says that it starves.
        chain.progress.notify_waiters();
        loop {
            if let Some(charge) = chain.window.try_take(bytes, tail.piece.bytes.len()) {
                return charge;
            }
            tokio::select! {
                () = chain.window.freed() => {}
                () = race.patience_ends(tail.end, patience) => race.overtake(tail.end - chain.window.held() as u64 / 2),
            }
        }
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

    /// Shows new readers the whole body, which ends with `last`. Existing readers wait for [`Writer::finish`].
    pub(super) fn seal(&mut self, last: Bytes) {
        let charge = self.chain.window.take(last.len());
        let link = self.link(Piece::last(last), Some(charge));
        self.sealed = Some(Arc::clone(&link));
        if !self.joinable {
            return;
        }
        let length = usize::try_from(link.end).unwrap_or(usize::MAX);
        let only = length == link.piece.bytes.len();
        if only || length <= JOINED {
            let start = Link::sentinel();
            let _ = start.next.set(if only { link } else { self.joined(&link, length) });
            self.chain.begin_at(Some(start));
        }
        let _ = self.chain.length.set(length);
    }

    /// Returns a link with the whole body.
    fn joined(&self, last: &Link, length: usize) -> Arc<Link> {
        let (mut whole, mut at) = (BytesMut::with_capacity(length), self.chain.start());
        while let Some(link) = at {
            whole.extend_from_slice(&link.piece.bytes);
            at = link.next.get().cloned();
        }
        whole.extend_from_slice(&last.piece.bytes);
        Link::new(Piece::last(whole.freeze()), last.end, Some(self.chain.window.take(length)))
    }

    /// Ends the sealed body, and wakes the readers.
    pub(super) fn finish(mut self) {
        if let Some(last) = self.sealed.take() {
            self.append(last);
            self.chain.finished.store(true, Ordering::SeqCst);
            self.ended = true;
        }
        self.publish();
    }

    /// Ends the body as incomplete.
    pub(super) fn fail(mut self, fault: Fault) {
        self.break_off(fault);
    }

    fn break_off(&mut self, fault: Fault) {
        self.ended = true;
        let link = self.link(Piece::broken(fault), None);
        self.append(link);
        self.publish();
    }

    fn link(&self, piece: Piece, charge: Option<Charge>) -> Arc<Link> {
        let end = self.tail.end + piece.bytes.len() as u64;
        Link::new(piece, end, charge)
    }

    fn append(&mut self, link: Arc<Link>) {
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

impl Race {
    /// Waits until a reader has read everything, to `end`, and the writer's patience has ended.
    async fn patience_ends(&self, end: u64, patience: &mut Option<Instant>) {
        loop {
            let starved = self.starved.notified();
            if self.starving.load(Ordering::SeqCst) == end {
                return sleep_until(*patience.get_or_insert_with(|| Instant::now() + PATIENCE)).await;
            }
            starved.await;
        }
    }

    /// Notes that a reader has read everything, to `end`. Tells the writer, if it waits for slower readers.
    fn starve(&self, end: u64) {
        if self.full.load(Ordering::SeqCst) {
            self.starving.store(end, Ordering::SeqCst);
            self.starved.notify_one();
        }
    }

    /// Overtakes every reader that has read less than `floor` bytes.
    fn overtake(&self, floor: u64) {
        self.floor.fetch_max(floor, Ordering::SeqCst);
        self.overtaken.notify_waiters();
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
        let next = self.arrived().await;
        if self.is_overtaken() {
            return Piece::broken(Fault::SlowReader);
        }
        self.at = next;
        self.at.piece.clone()
    }

    /// Waits until there is a next piece, and returns how it ends the body, if it does.
    pub(super) async fn ready(&self) -> Option<Result<(), Fault>> {
        self.arrived().await.piece.end.clone()
    }

    async fn arrived(&self) -> Arc<Link> {
        loop {
            // Registered before the check, so that no wake-up is lost between the two.
            let progress = self.chain.progress.notified();
            if let Some(next) = self.at.next.get() {
                return Arc::clone(next);
            }
            self.chain.race.starve(self.at.end);
            progress.await;
        }
    }

    /// Waits until this reader is so far behind that it has to give up, for the sake of others.
    pub(super) async fn overtaken(&self) {
        loop {
            let overtaken = self.chain.race.overtaken.notified();
            if self.is_overtaken() {
                return;
            }
            overtaken.await;
        }
    }

    fn is_overtaken(&self) -> bool {
        self.at.end < self.chain.race.floor.load(Ordering::SeqCst)
    }

    /// Returns the next piece, if it completes the body.
    pub(super) fn rest(&self) -> Option<&Bytes> {
        let next = self.at.next.get().filter(|next| next.piece.end == Some(Ok(())))?;
        Some(&next.piece.bytes)
    }

    /// Returns the length of the body, if this reader can read the whole of it without a wait. If it had to wait for the
    /// end alone, a client that knows the length would have its response before, and send its next request.
    pub(super) fn known_length(&self) -> Option<usize> {
        let whole = !self.partial && (self.chain.finished.load(Ordering::SeqCst) || self.rest().is_some());
        self.chain.length().filter(|_| whole)
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

#[cfg(test)]
mod tests;
