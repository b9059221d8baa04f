//! A client's connection, as limits see it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::address::{Address, Client};
use super::budgets::Place;
use super::limit::Limited;
use super::repeats::{MaxRepeats, Position, Repeats};
use crate::rewrite::UpstreamRequest;

/// An open connection: its place among all, and what was asked on it a moment ago. All HTTP/2 streams of a connection
/// share it.
#[derive(Debug)]
pub struct Connection {
    peer: IpAddr,
    repeats: Repeats,
    max: Arc<MaxRepeats>,
    _place: Place,
}

impl Connection {
    pub(super) fn new(peer: IpAddr, place: Place, max: Arc<MaxRepeats>) -> Self {
        Self { peer, repeats: Repeats::default(), max, _place: place }
    }

    /// The address at its other end.
    pub const fn peer(&self) -> IpAddr {
        self.peer
    }

    /// The position of a request that came on this connection; `None` where none is counted.
    pub fn position(
        &self,
        client: Option<&Client>,
        address: Option<Address>,
        request: &UpstreamRequest,
    ) -> Option<Position> {
        self.max.position(client, address, request)
    }

    /// Whether a request for `position` may be answered.
    ///
    /// # Errors
    /// Where this connection got the same too often a moment ago.
    pub fn check_repeat(&self, position: Position, now: Instant) -> Result<(), Limited> {
        self.repeats.check(&self.max, position, now)
    }

    /// A request for `position` that came at `asked` is answered; the answer sends its client to `next`.
    pub fn answered(&self, position: Position, next: Option<Position>, asked: Instant, now: Instant) {
        self.repeats.answered(position, next, asked, now);
    }
}
