//! Rejects clients in a loop, which repeat a request as soon as it is answered.
//!
//! Progress tells a loop from many clients that share a connection. Devices and tabs of one subject come back together
//! after each change with the same request, and over HTTP/2 on one connection. But each of them was sent to that
//! position by an earlier response. So:
//!
//! - A response that names the next position gives credit for one request there. Only requests beyond that credit
//!   count.
//! - A request that waited does not count: five responses in half a second take less than 100 ms each.
//! - A request that arrives before the previous one is answered does not count: tabs that start together.
//! - Each connection counts by itself, so that devices of one subject do not add up.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use quick_cache::DefaultHashBuilder;

use super::address::{Address, Client};
use super::limit::{Limit, Limited};
use crate::rewrite::UpstreamRequest;

/// The limit, and the hasher of positions.
#[derive(Debug)]
pub(super) struct MaxRepeats {
    most: AtomicUsize,
    hasher: DefaultHashBuilder,
}

impl MaxRepeats {
    pub(super) fn new() -> Self {
        Self { most: AtomicUsize::new(0), hasher: DefaultHashBuilder::default() }
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
    /// Hash of the client and the shape.
    shape: u64,
    place: u64,
}

/// The recent responses on one connection.
#[derive(Debug, Default)]
pub(super) struct Repeats(Mutex<Vec<Seen>>);

#[derive(Debug)]
struct Seen {
    place: u64,
    since: Instant,
    /// When the last counted response was sent.
    last: Instant,
    /// Responses without progress in the current window.
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
    /// Checks whether another request for this position may be answered.
    pub(super) fn check(&self, max: &MaxRepeats, position: Position, now: Instant) -> Result<(), Limited> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.iter().find(|seen| seen.place == position.place) {
            Some(seen) if !seen.is_over(now) && seen.credit == 0 && usize::from(seen.count) >= max.most() => {
                let left = WINDOW.saturating_sub(now.saturating_duration_since(seen.since));
                Err(Limited::until(Limit::Repeats, left))
            }
            _ => Ok(()),
        }
    }

    /// Records the response to a request for `position` that arrived at `asked`; `next` is the position that the
    /// response names.
    pub(super) fn answered(&self, position: Position, next: Option<Position>, asked: Instant, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|seen| !seen.is_over(now));
        if now.saturating_duration_since(asked) < AT_ONCE {
            let seen = find(&mut all, position, asked);
            if seen.credit > 0 {
                seen.credit -= 1;
            } else if asked >= seen.last {
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
        let client = client.filter(|_| self.most() > 0)?;
        let shape = self.hasher.hash_one((client, address, request.definition(), request.body()));
        Some(self.at(shape, request.handle().unwrap_or_default(), request.offset()))
    }

    /// Returns the position that a client at `position` reaches with this handle and offset.
    pub(super) fn next(&self, position: Position, handle: &str, offset: &str) -> Position {
        self.at(position.shape, handle, offset)
    }

    fn at(&self, shape: u64, handle: &str, offset: &str) -> Position {
        Position { shape, place: self.hasher.hash_one((shape, handle, offset)) }
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
