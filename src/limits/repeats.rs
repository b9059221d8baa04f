//! Rejects clients in a loop, which repeat a request as soon as it is answered.
//!
//! Devices and tabs of one subject start together and come back together after each change, with the same request, and
//! over HTTP/2 on one connection. They are not in a loop. So a response counts only if
//!
//! - it was given at once: five responses in half a second take less than 100 ms each;
//! - its request arrived after the previous response to the same request. The arrival on the connection counts, since
//!   a request may wait for its turn while others are answered;
//! - the client made no other request in between, on this connection or another one. So tabs that make progress, a
//!   component that is mounted several times, and devices of one subject do not add up;
//! - no earlier response sent the client there. A response that names the next position gives credit for one request.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use quick_cache::DefaultHashBuilder;
use quick_cache::sync::Cache;

use super::address::{Address, Client};
use super::limit::{Limit, Limited};
use crate::rewrite::UpstreamRequest;

/// The limit, the hasher of positions, and the latest request of each client.
pub(super) struct MaxRepeats {
    most: AtomicUsize,
    hasher: DefaultHashBuilder,
    /// For each client, the hash of the connection and the position of its latest request.
    latest: Cache<u64, u64>,
}

/// Clients whose latest request is remembered; those that are not seen for long are forgotten first.
const CLIENTS: usize = 100_000;

impl MaxRepeats {
    pub(super) fn new() -> Self {
        Self { most: AtomicUsize::new(0), hasher: DefaultHashBuilder::default(), latest: Cache::new(CLIENTS) }
    }

    /// Sets how many responses without progress are allowed in [`WINDOW`]; 0 disables the limit.
    pub(super) fn set(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }
}

/// The time in which repeats count. Electric's client uses the same window to detect its own loops before it throws.
const WINDOW: Duration = Duration::from_millis(500);

/// A response that took at least this long is not part of a loop.
const AT_ONCE: Duration = Duration::from_millis(100);

/// How long a client may take to go to the position that a response named.
const CREDIT: Duration = Duration::from_secs(5);

/// Positions remembered for one connection; the oldest is forgotten first.
const POSITIONS: usize = 32;

/// A position in a shape's log, as one client requests it. A request without progress has the same position, whatever
/// cache-busting parameters it adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    client: u64,
    /// Hash of the client and the shape.
    shape: u64,
    place: u64,
}

/// The recent responses on one connection.
#[derive(Debug)]
pub(super) struct Repeats {
    /// A random number that identifies the connection.
    connection: u64,
    seen: Mutex<Vec<Seen>>,
}

#[derive(Debug)]
struct Seen {
    place: u64,
    since: Instant,
    /// When the last counted response was sent.
    last: Instant,
    /// Responses without progress in the current window, one after the other.
    count: u16,
    /// Responses that sent a client here and whose credit is unused.
    credit: u16,
}

impl Seen {
    fn is_over(&self, now: Instant) -> bool {
        let kept = if self.credit > 0 { CREDIT } else { WINDOW };
        now.saturating_duration_since(self.since) >= kept
    }
}

impl Repeats {
    pub(super) fn new() -> Self {
        Self { connection: rand::random(), seen: Mutex::default() }
    }

    /// Checks whether another request for this position may be answered, which arrived at `asked`.
    pub(super) fn check(&self, max: &MaxRepeats, position: Position, asked: Instant) -> Result<(), Limited> {
        let interrupted = max.is_after_another(position, self.connection);
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(seen) = all.iter_mut().find(|seen| seen.place == position.place) else { return Ok(()) };
        if interrupted {
            seen.count = 0;
        }
        let exhausted = seen.credit == 0 && usize::from(seen.count) >= max.most();
        if exhausted && asked >= seen.last && !seen.is_over(asked) {
            let left = WINDOW.saturating_sub(asked.saturating_duration_since(seen.since));
            return Err(Limited::until(Limit::Repeats, left));
        }
        Ok(())
    }

    /// Records the response to a request for `position` that arrived at `asked`; `next` is the position that the
    /// response names.
    pub(super) fn answered(&self, position: Position, next: Option<Position>, asked: Instant, now: Instant) {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|seen| !seen.is_over(now));
        if now.saturating_duration_since(asked) < AT_ONCE {
            let seen = find(&mut all, position, asked);
            if seen.credit > 0 {
                seen.credit -= 1;
            } else if asked >= seen.last {
                if seen.count == 0 {
                    seen.since = asked;
                }
                seen.count = seen.count.saturating_add(1);
                seen.last = now;
            }
        }
        if let Some(next) = next.filter(|next| *next != position) {
            let seen = find(&mut all, next, now);
            (seen.credit, seen.since) = (seen.credit.saturating_add(1), now);
        }
    }
}

impl MaxRepeats {
    /// Returns the position of a request; `None` if it does not count. The address separates clients behind one proxy
    /// connection. Without token and address, one connection may carry many clients, so nothing is counted.
    pub(super) fn position(
        &self,
        client: Option<&Client>,
        address: Option<Address>,
        request: &UpstreamRequest,
    ) -> Option<Position> {
        let client = self.hasher.hash_one((client.filter(|_| self.most() > 0)?, address));
        let shape = self.hasher.hash_one((client, request.definition(), request.body()));
        Some(self.at(client, shape, request.handle().unwrap_or_default(), request.offset()))
    }

    /// Returns the position that a client at `position` reaches with this handle and offset.
    pub(super) fn next(&self, position: Position, handle: &str, offset: &str) -> Position {
        self.at(position.client, position.shape, handle, offset)
    }

    fn at(&self, client: u64, shape: u64, handle: &str, offset: &str) -> Position {
        Position { client, shape, place: self.hasher.hash_one((shape, handle, offset)) }
    }

    /// Notes a request. Returns whether the client's request before was for another position or on another connection.
    fn is_after_another(&self, position: Position, connection: u64) -> bool {
        let request = self.hasher.hash_one((position.place, connection));
        let another = self.latest.get(&position.client) != Some(request);
        if another {
            self.latest.insert(position.client, request);
        }
        another
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }
}

fn find(all: &mut Vec<Seen>, position: Position, now: Instant) -> &mut Seen {
    let at = all.iter().position(|seen| seen.place == position.place).unwrap_or_else(|| {
        if all.len() == POSITIONS {
            all.remove(0);
        }
        // Most connections have few positions, and every waiting client holds this memory.
        all.reserve_exact(1);
        all.push(Seen { place: position.place, since: now, last: now, count: 0, credit: 0 });
        all.len() - 1
    });
    &mut all[at]
}

impl std::fmt::Debug for MaxRepeats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MaxRepeats").field("most", &self.most).finish_non_exhaustive()
    }
}
