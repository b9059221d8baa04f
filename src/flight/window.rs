//! The bytes of one body that are held for its readers.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::limits::OpenBytes;

/// Counts what one body holds, against a limit of its own and against that of all responses in flight.
#[derive(Debug)]
pub(super) struct Window {
    most: usize,
    held: Mutex<Held>,
    open: Arc<OpenBytes>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    /// How many cache entries count these bytes. While any does, they do not count as in flight.
    entries: usize,
}

/// Bytes that a window holds, until this is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    window: Arc<Window>,
    bytes: usize,
}

/// The statement of a cache entry that it counts the bytes of a window, until this is dropped.
#[derive(Debug)]
pub(super) struct Cached(Arc<Window>);

impl Window {
    /// Returns an empty window for at most `most` bytes.
    pub(super) fn new(most: usize, open: Arc<OpenBytes>) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default(), open, freed: Notify::new() })
    }

    /// Takes room for a piece of `bytes`. If only the piece before it is held, of `last` bytes, there always is. So each
    /// body goes on, at the pace of its readers.
    pub(super) fn try_take(self: &Arc<Self>, bytes: usize, last: usize) -> Option<Charge> {
        let mut held = self.held.lock();
        let (after, full) = (held.bytes + bytes, held.bytes > last);
        if full && after > self.most {
            return None;
        }
        if held.entries == 0 && !self.open.try_take(bytes) {
            if full {
                return None;
            }
            self.open.take(bytes);
        }
        held.bytes = after;
        drop(held);
        Some(Charge { window: Arc::clone(self), bytes })
    }

    /// Takes `bytes` whether or not there is room.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Charge {
        let mut held = self.held.lock();
        held.bytes += bytes;
        if held.entries == 0 {
            self.open.take(bytes);
        }
        drop(held);
        Charge { window: Arc::clone(self), bytes }
    }

    /// Waits until there may be more room.
    pub(super) async fn freed(&self) {
        tokio::select! {
            () = self.freed.notified() => {}
            () = self.open.freed() => {}
        }
    }

    pub(super) fn held(&self) -> usize {
        self.held.lock().bytes
    }

    /// Leaves the counting to a cache entry.
    pub(super) fn cached(self: &Arc<Self>) -> Cached {
        let mut held = self.held.lock();
        held.entries += 1;
        if held.entries == 1 {
            self.open.give_back(held.bytes);
        }
        drop(held);
        Cached(Arc::clone(self))
    }
}

impl Drop for Cached {
    fn drop(&mut self) {
        let mut held = self.0.held.lock();
        held.entries -= 1;
        if held.entries == 0 {
            self.0.open.take(held.bytes);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut held = self.window.held.lock();
        held.bytes -= self.bytes;
        if held.entries == 0 {
            self.window.open.give_back(self.bytes);
        }
        drop(held);
        // There is one writer. If it does not wait now, it finds this later, and looks again.
        self.window.freed.notify_one();
    }
}
