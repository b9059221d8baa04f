//! The guard against clients in a loop, which ask for the same again as soon as they have it.
//!
//! What tells a loop from a crowd is progress. Devices and tabs of one subject come back together after each change,
//! with one target, and on one connection where it is HTTP/2; but an answer before has sent each of them there. So an
//! answer that says where to go on gives one request for that place, and only what is asked beyond that counts. Who
//! waited for an answer is in no loop, and is not counted either: five answers in half a second take less than 100 ms
//! each. Nor is who asked before the one before him had his answer: tabs that start together. Counted is on each
//! connection by itself, so that devices of one subject do not count together.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use quick_cache::DefaultHashBuilder;

use super::address::{Address, Client};
use super::limit::{Limit, Limited};
use crate::rewrite::UpstreamRequest;

/// The figure, and how positions are hashed.
#[derive(Debug)]
pub(super) struct MaxRepeats {
    most: AtomicUsize,
    hasher: DefaultHashBuilder,
}

impl MaxRepeats {
    pub(super) fn new() -> Self {
        Self { most: AtomicUsize::new(0), hasher: DefaultHashBuilder::default() }
    }

    /// So many in [`WINDOW`]; 0: no bound.
    pub(super) fn set(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }
}

/// As long as Electric's client looks back for a loop of its own, before it throws.
const WINDOW: Duration = Duration::from_millis(500);

/// An answer that took so long is no part of a loop.
const AT_ONCE: Duration = Duration::from_millis(100);

/// How long a client may take to go where an answer sent it.
const CREDIT: Duration = Duration::from_secs(5);

/// Positions remembered on one connection; the oldest goes first.
const POSITIONS: usize = 32;

/// A place in a shape's log, as one client asks for it: what makes no progress stays there, whatever else it sends to
/// get around a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Who asks, and for what shape.
    shape: u64,
    place: u64,
}

/// The answers on one connection.
#[derive(Debug, Default)]
pub(super) struct Repeats(Mutex<Vec<Seen>>);

#[derive(Debug)]
struct Seen {
    place: u64,
    since: Instant,
    /// When the last of them was given.
    last: Instant,
    /// Answers that made no progress, in one window.
    count: u16,
    /// Answers that sent a client here, and that it has not used yet.
    credit: u16,
}

impl Seen {
    fn is_over(&self, now: Instant) -> bool {
        let kept = if self.credit > 0 { CREDIT } else { WINDOW };
        now.saturating_duration_since(self.since) >= kept
    }
}

impl Repeats {
    /// Whether one more request for this position may be answered.
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

    /// A request for `position` that came at `asked` is answered; the answer says to go on at `next`.
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
    /// The position of a request; `None` where none is counted. The address tells clients of one proxy's connection
    /// apart; where neither token nor address does, one connection may carry a crowd.
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

    /// Where an answer sends whoever was at `position`.
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
        // Few are the rule, and each client that waits holds them.
        all.reserve_exact(1);
        all.push(Seen { place: position.place, since: now, last: now, count: 0, credit: 0 });
        all.len() - 1
    });
    &mut all[at]
}
