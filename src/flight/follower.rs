//! One client's view of a flight.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;

use super::chain::{Piece, Reader};
use super::encoding::Encoding;
use super::flight::Flight;
use super::head::Head;
use super::hub::Hub;
use super::key::FlightKey;
use crate::fault::Fault;
use crate::policy::RuleId;

/// How a request got its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// It opened the flight.
    First,
    /// It joined an open flight.
    Open,
    /// It got a cached response that is fresh.
    Fresh,
    /// It got a cached response that is being replaced.
    Stale,
}

impl Join {
    /// Returns the name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Open => "open",
            Self::Fresh => "fresh",
            Self::Stale => "stale",
        }
    }
}

/// One client on a flight. Dropping it leaves the flight.
#[derive(Debug)]
pub struct Follower {
    flight: Arc<Flight>,
    key: FlightKey,
    reader: Reader,
    join: Join,
    /// Where the client's log ends, if it joined a stream of events that started earlier.
    from: Option<HeaderValue>,
    /// Whether this follower no longer counts as unserved.
    served: bool,
}

impl Follower {
    /// Wraps a reader for the request with this key. If the flight is open, the caller has counted the follower.
    pub(super) fn new(flight: Arc<Flight>, reader: Reader, join: Join, key: FlightKey) -> Self {
        Self { flight, key, reader, join, from: None, served: !counts(join) }
    }

    /// Sets the key of its request, if that is not the key of the flight.
    pub(super) fn asked(mut self, key: FlightKey) -> Self {
        self.key = key;
        self
    }

    /// Marks it as a reader of a stream of events that started earlier than `from`, where the client's log ends.
    pub(super) fn of_stream(mut self, from: HeaderValue) -> Self {
        self.from = Some(from);
        self
    }

    /// Returns the rule of its flight.
    pub(super) fn rule(&self) -> &RuleId {
        &self.flight.rule
    }

    /// Returns the key of its request.
    pub fn key(&self) -> &FlightKey {
        &self.key
    }

    /// Returns how the request got its response.
    pub fn join(&self) -> Join {
        self.join
    }

    /// Records that this client's response is being written.
    pub fn served(&mut self) {
        if !std::mem::replace(&mut self.served, true) {
            self.flight.serve_one();
        }
    }

    /// Waits until the responses of all followers are being written. No client can delay this, only the server's own
    /// load.
    pub async fn all_served(&self) {
        self.flight.all_served().await;
    }

    /// Waits for the header.
    ///
    /// # Errors
    /// The fault that kept Electric from answering.
    pub async fn head(&self) -> Result<Arc<Head>, Fault> {
        // The stream's header has arrived, and its next event may take long.
        if let (Some(from), Some(head)) = (&self.from, self.flight.head.get()) {
            return Ok(Arc::new(head.starting_at(from)));
        }
        let first = self.reader.ready().await;
        match (self.flight.head.get(), first) {
            (Some(head), _) => Ok(Arc::clone(head)),
            (None, Some(Err(fault))) => Err(fault),
            (None, _) => Err(Fault::Internal),
        }
    }

    /// Returns the length of the body in bytes, if the whole body is known.
    pub fn length(&self) -> Option<usize> {
        self.reader.known_length()
    }

    /// Returns the body, if the whole of it can be read at once and none of it has been read.
    pub fn whole(&self) -> Option<&Bytes> {
        self.reader.rest().filter(|rest| self.length() == Some(rest.len()))
    }

    /// Returns how long the response is still fresh here, which bounds how long a client may cache it. `None` if it is
    /// not cached.
    pub fn fresh_for(&self) -> Option<Duration> {
        self.flight.fresh_for()
    }

    /// Switches to the body in `encoding`. Must be called before the first piece is read. Returns `false` if that body
    /// is not available.
    pub fn encode(&mut self, hub: &Arc<Hub>, encoding: Encoding) -> bool {
        let hub = Arc::clone(hub);
        let encoded = self.flight.encode(encoding, move |flight| hub.reweigh(flight));
        let reader = encoded.and_then(|chain| chain.read());
        reader.map(|reader| self.reader = reader).is_some()
    }

    /// Waits for the next piece of the body and returns it.
    pub async fn next(&mut self) -> Piece {
        self.reader.next().await
    }

    /// Waits until this client has read so much less than others that it has to give up. The next piece then says so
    /// too.
    pub async fn overtaken(&self) {
        self.reader.overtaken().await;
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

/// Whether the flight counts followers that joined it this way: it was open.
fn counts(join: Join) -> bool {
    matches!(join, Join::First | Join::Open)
}
