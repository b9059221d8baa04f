//! What tests see and control of the stand-in.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use crate::demo::http::{Reply, Request};

/// The most requests that are remembered. Counting goes on after that.
const MAX_SEEN: usize = 10_000;

/// The most bytes of a request's body that are remembered.
const MAX_SEEN_BODY: usize = 64 << 10;

/// Whether Electric can serve shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Active,
    /// It has not reached its database yet: 503 at once.
    Waiting,
    /// It has lost its database: 503 after a wait.
    Starting,
}

/// Gates, scripted responses and counters.
#[derive(Debug)]
pub(super) struct Control {
    inner: Mutex<Inner>,
    count: watch::Sender<usize>,
    waiting: watch::Sender<usize>,
    held: watch::Sender<bool>,
}

#[derive(Debug)]
struct Inner {
    seen: VecDeque<Request>,
    script: VecDeque<Reply>,
    readiness: Readiness,
    overload: Option<u32>,
    secret: String,
}

impl Control {
    pub(super) fn new(secret: String) -> Self {
        let (seen, script) = (VecDeque::new(), VecDeque::new());
        Self {
            inner: Mutex::new(Inner { seen, script, readiness: Readiness::Active, overload: None, secret }),
            count: watch::Sender::new(0),
            waiting: watch::Sender::new(0),
            held: watch::Sender::new(false),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, request: &Request) {
        let mut seen = request.clone();
        if seen.body.len() > MAX_SEEN_BODY {
            // Copied, since a slice would keep the whole body in memory.
            seen.body = Bytes::copy_from_slice(&seen.body[..MAX_SEEN_BODY]);
        }
        let mut inner = self.inner();
        if inner.seen.len() == MAX_SEEN {
            inner.seen.pop_front();
        }
        inner.seen.push_back(seen);
        drop(inner);
        self.count.send_modify(|count| *count += 1);
    }

    pub(super) fn seen(&self) -> Vec<Request> {
        self.inner().seen.iter().cloned().collect()
    }

    pub(super) fn count(&self) -> usize {
        *self.count.borrow()
    }

    pub(super) fn waiting(&self) -> usize {
        *self.waiting.borrow()
    }

    pub(super) async fn wait_for_count(&self, wanted: usize) {
        // The sender lives as long as `self`.
        let _ = self.count.subscribe().wait_for(|count| *count >= wanted).await;
    }

    pub(super) async fn wait_for_waiting(&self, wanted: usize) {
        let _ = self.waiting.subscribe().wait_for(|count| *count == wanted).await;
    }

    pub(super) fn hold(&self, hold: bool) {
        self.held.send_replace(hold);
    }

    /// Waits until requests are not held back.
    pub(super) async fn gate(&self) {
        let _ = self.held.subscribe().wait_for(|held| !held).await;
    }

    pub(super) fn script(&self, reply: Reply) {
        self.inner().script.push_back(reply);
    }

    pub(super) fn scripted(&self) -> Option<Reply> {
        self.inner().script.pop_front()
    }

    pub(super) fn readiness(&self) -> Readiness {
        self.inner().readiness
    }

    pub(super) fn set_readiness(&self, readiness: Readiness) {
        self.inner().readiness = readiness;
    }

    pub(super) fn overload(&self) -> Option<u32> {
        self.inner().overload
    }

    pub(super) fn set_overload(&self, limit: Option<u32>) {
        self.inner().overload = limit;
    }

    pub(super) fn secret(&self) -> String {
        self.inner().secret.clone()
    }

    pub(super) fn set_secret(&self, secret: &str) {
        self.inner().secret = secret.to_owned();
    }

    /// Counts a live request as waiting for as long as the value lives.
    pub(super) fn wait(&self) -> Waiting {
        self.waiting.send_modify(|count| *count += 1);
        Waiting(self.waiting.clone())
    }
}

/// A waiting live request.
#[derive(Debug)]
pub(super) struct Waiting(watch::Sender<usize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
