//! Counts a client's connection and the recent requests on it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::address::{Address, Client};
use super::budgets::Place;
use super::limit::Limited;
use super::repeats::{MaxRepeats, Position, Repeats};
use crate::rewrite::UpstreamRequest;

/// An open connection: its place in the budget, and its recent responses. All HTTP/2 streams of a connection share it.
#[derive(Debug)]
pub struct Connection {
    peer: Option<IpAddr>,
    repeats: Repeats,
    max: Arc<MaxRepeats>,
    _place: Place,
}

impl Connection {
    pub(super) fn new(peer: Option<IpAddr>, place: Place, max: Arc<MaxRepeats>) -> Self {
        Self { peer, repeats: Repeats::new(), max, _place: place }
    }

    /// The address of the peer, which can be a proxy; `None` on a Unix socket.
    pub const fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// Returns the position of a request on this connection; `None` if it does not count.
    pub fn position(
        &self,
        client: Option<&Client>,
        address: Option<Address>,
        request: &UpstreamRequest,
    ) -> Option<Position> {
        self.max.position(client, address, request)
    }

    /// Checks whether a request for `position` that arrived at `asked` may be answered.
    ///
    /// # Errors
    /// If `repeats` is reached for this position.
    pub fn check_repeat(&self, position: Position, asked: Instant) -> Result<(), Limited> {
        self.repeats.check(&self.max, position, asked)
    }

    /// Records the response to a request for `position` that arrived at `asked`; `next` is the position that the
    /// response names.
    pub fn answered(&self, position: Position, next: Option<Position>, asked: Instant, now: Instant) {
        self.repeats.answered(position, next, asked, now);
    }
}
