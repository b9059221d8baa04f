//! Writes the body of a response, and ends event streams early if their token, rule or process ends.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout, timeout_at};

use super::follow::{Following, Interrupt};
use crate::fault::Fault;
use crate::flight::{Follower, Piece};

/// How long the rest of an event may take when its stream has to end early.
const REST_OF_EVENT: Duration = Duration::from_secs(1);

impl Following<'_> {
    /// Writes the body as it arrives. If it has to end early, an event stream ends after a whole event, and every other
    /// body is cut off.
    pub(super) async fn write_body(&mut self, follower: &mut Follower, events: bool) -> Result<(), Fault> {
        let mut between_events = events;
        let mut leave_at = (events && self.stopping).then(|| self.leave_at());
        loop {
            let piece = match self.next(follower, leave_at).await {
                Ok(piece) => piece,
                Err(Interrupt::Change) if self.reauthorize().await.is_none() => {
                    if events && self.stopping && leave_at.is_none() {
                        leave_at = Some(self.leave_at());
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
            let last = tokio::select! {
                biased;
                written = self.write_piece(piece) => written?,
                () = follower.overtaken() => return Err(Fault::SlowReader),
            };
            if last {
                return Ok(());
            }
        }
    }

    async fn next(&mut self, follower: &mut Follower, leave_at: Option<Instant>) -> Result<Piece, Interrupt> {
        match leave_at {
            None => self.wait(follower.next()).await,
            // On the heap, since the timer is needed only while the process stops.
            Some(leave_at) => Box::pin(self.wait_until(leave_at, follower)).await,
        }
    }

    /// Waits for the next piece, until `leave_at`.
    async fn wait_until(&mut self, leave_at: Instant, follower: &mut Follower) -> Result<Piece, Interrupt> {
        // `wait` prefers progress to a timer, and a slow client may always have some.
        if Instant::now() >= leave_at {
            return Err(Interrupt::Leave);
        }
        timeout_at(leave_at, self.wait(follower.next())).await.unwrap_or(Err(Interrupt::Leave))
    }

    /// Returns when this stream is to end because the process stops: a random moment within `leave_within`.
    fn leave_at(&self) -> Instant {
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
            Interrupt::Change => self.cause(),
            Interrupt::Fault(fault) if fault.ends_token() => fault,
            Interrupt::Fault(fault) => return Err(fault),
        };
        if events { self.leave_stream(follower, between_events, fault).await } else { Err(fault) }
    }

    /// Ends an event stream for this client alone. The rest of an event that has begun is still sent.
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
        // When the process stops, the connection stays open as announced, for the request that the client sends next.
        if why != Fault::Stopping {
            self.session.set_keepalive(None);
        }
        self.write_bytes(Bytes::new(), true).await
    }
}
