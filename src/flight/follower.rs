//! One client's view of a flight.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::chain::{Piece, Reader};
use super::encoding::Encoding;
use super::flight::Flight;
use super::head::Head;
use super::hub::Hub;
use super::key::FlightKey;
use crate::fault::Fault;

/// How a request came to its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// It was the first, and opened the flight.
    First,
    /// The flight was open.
    Open,
    /// The answer was finished, and fresh.
    Fresh,
    /// The answer was finished, and is being replaced.
    Stale,
}

impl Join {
    /// The name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Open => "open",
            Self::Fresh => "fresh",
            Self::Stale => "stale",
        }
    }
}

/// A place aboard a flight; dropping it leaves.
#[derive(Debug)]
pub struct Follower {
    hub: Arc<Hub>,
    flight: Arc<Flight>,
    reader: Reader,
    join: Join,
    /// Whether nobody waits for this one to be served.
    served: bool,
}

impl Follower {
    /// Whoever calls this has counted the follower in, where the flight is open.
    pub(super) fn new(hub: Arc<Hub>, flight: Arc<Flight>, reader: Reader, join: Join) -> Self {
        hub.metrics().joined(flight.rule.as_str(), join.as_str());
        let served = !counts(join);
        Self { hub, flight, reader, join, served }
    }

    /// What it shares its answer by.
    pub fn key(&self) -> &FlightKey {
        &self.flight.key
    }

    /// How it came aboard.
    pub fn join(&self) -> Join {
        self.join
    }

    /// Notes that the answer is on its way to this client.
    pub fn served(&mut self) {
        if !std::mem::replace(&mut self.served, true) {
            self.flight.serve_one();
        }
    }

    /// Waits until the answer is on its way to everybody aboard. It hangs on no client, only on the work there is.
    pub async fn all_served(&self) {
        self.flight.all_served().await;
    }

    /// Waits for the header.
    ///
    /// # Errors
    /// What kept Electric from answering.
    pub async fn head(&self) -> Result<Arc<Head>, Fault> {
        let first = self.reader.ready().await;
        match (self.flight.head.get(), first) {
            (Some(head), _) => Ok(Arc::clone(head)),
            (None, Some(Err(fault))) => Err(fault),
            (None, _) => Err(Fault::Internal),
        }
    }

    /// The length of the body, where it is whole.
    pub fn length(&self) -> Option<usize> {
        self.reader.known_length()
    }

    /// The body, where all of it can be read at once and nothing of it was.
    pub fn whole(&self) -> Option<&Bytes> {
        self.reader.rest().filter(|rest| self.length() == Some(rest.len()))
    }

    /// How long a client may keep the answer, as far as that depends on how old it is here.
    pub fn fresh_for(&self) -> Option<Duration> {
        self.flight.fresh_for()
    }

    /// Reads the body in `encoding` from here on; must come before the first piece. `false` where it cannot be had.
    pub fn encode(&mut self, encoding: Encoding) -> bool {
        let hub = Arc::clone(&self.hub);
        let encoded = self.flight.encode(encoding, move |flight| hub.reweigh(flight));
        let reader = encoded.and_then(|chain| chain.read());
        reader.map(|reader| self.reader = reader).is_some()
    }

    /// The next piece of the body, waiting for it.
    pub async fn next(&mut self) -> Piece {
        self.reader.next().await
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.served();
        if counts(self.join) {
            self.flight.leave();
        }
    }
}

/// Whether the flight counts those who came to it so: it was open.
fn counts(join: Join) -> bool {
    matches!(join, Join::First | Join::Open)
}
