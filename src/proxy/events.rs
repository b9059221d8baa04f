//! The body of a response, and how a stream of events ends before its source does.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout, timeout_at};

use super::follow::{Following, Interrupt};
use crate::fault::Fault;
use crate::flight::{Follower, Piece};

/// How long the rest of an event may take after the end of its token, its rule or its process.
const REST_OF_EVENT: Duration = Duration::from_secs(1);

impl Following<'_> {
    /// Writes the body as it comes. An event stream may end between two events; every other body is cut off.
    pub(super) async fn write_body(&mut self, follower: &mut Follower, events: bool) -> Result<(), Fault> {
        let mut between_events = events;
        let mut turn = (events && self.stopping).then(|| self.turn());
        loop {
            let piece = match self.next(follower, turn).await {
                Ok(piece) => piece,
                Err(Interrupt::Change) if self.judge_again().await.is_none() => {
                    if events && self.stopping && turn.is_none() {
                        turn = Some(self.turn());
                    }
                    continue;
                }
                Err(interrupt) => return self.interrupted(follower, interrupt, events, between_events).await,
            };
            match self.bearer.recheck(&self.client.rules.verifier) {
                Ok(()) => {}
                Err(fault) if between_events => return self.end_stream(fault).await,
                Err(fault) => return Err(fault),
            }
            between_events = events && piece.boundary;
            if self.write_piece(piece).await? {
                return Ok(());
            }
        }
    }

    async fn next(&mut self, follower: &mut Follower, turn: Option<Instant>) -> Result<Piece, Interrupt> {
        match turn {
            None => self.wait(follower.next()).await,
            // On the heap: its timer is for the last moments only.
            Some(turn) => Box::pin(self.wait_until(turn, follower)).await,
        }
    }

    /// Waits for the next piece, until this stream's turn to end.
    async fn wait_until(&mut self, turn: Instant, follower: &mut Follower) -> Result<Piece, Interrupt> {
        // A client that reads slowly may have progress without end, and progress comes before a timer.
        if Instant::now() >= turn {
            return Err(Interrupt::Leave);
        }
        timeout_at(turn, self.wait(follower.next())).await.unwrap_or(Err(Interrupt::Leave))
    }

    /// Returns when this stream ends, now that the process stops.
    fn turn(&self) -> Instant {
        Instant::now() + self.changes.borrow().leave_within.mul_f64(rand::random())
    }

    async fn interrupted(
        &mut self,
        follower: &mut Follower,
        interrupt: Interrupt,
        events: bool,
        between_events: bool,
    ) -> Result<(), Fault> {
        let fault = match interrupt {
            Interrupt::Leave => Fault::Stopping,
            Interrupt::Change => Fault::Reloaded,
            Interrupt::Fault(fault) if fault.ends_token() => fault,
            Interrupt::Fault(fault) => return Err(fault),
        };
        if events { self.leave_stream(follower, between_events, fault).await } else { Err(fault) }
    }

    /// Ends a stream of events for this client alone. The rest of an event that has begun is still sent.
    async fn leave_stream(&mut self, follower: &mut Follower, between: bool, why: Fault) -> Result<(), Fault> {
        let rest = async {
            let mut between = between;
            while !between {
                let piece = follower.next().await;
                between = piece.boundary;
                if self.write_piece(piece).await? {
                    break;
                }
            }
            Ok::<_, Fault>(())
        };
        timeout(REST_OF_EVENT, rest).await.unwrap_or_else(|_| Err(why.clone()))?;
        self.end_stream(why).await
    }

    async fn end_stream(&mut self, why: Fault) -> Result<(), Fault> {
        self.gateway.metrics.follower_cut(why.as_str());
        self.client.record.outcome = why.as_str();
        // A client that reconnects at once uses the connection that it was told would stay open.
        if why != Fault::Stopping {
            self.session.set_keepalive(None);
        }
        self.write_bytes(Bytes::new(), true).await
    }
}
