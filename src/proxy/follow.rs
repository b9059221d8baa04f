//! A client's way through a flight: it waits, and is told what all the others are told, as long as it may hear it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use pingora::protocols::http::ServerSession;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::admit::{Admission, Bearer, readmit};
use super::context::RequestCtx;
use super::reply::{self, Edge, Shown};
use super::{Change, Front, Gateway, in_time};
use crate::fault::Fault;
use crate::flight::{Encoding, FlightKey, Follower, Head, Origin, Piece};
use crate::rejection::Rejection;
use crate::rewrite::UpstreamRequest;
use crate::server::Socket;

/// What ends a wait before what was waited for.
enum Interrupt {
    Fault(Fault),
    /// The gateway is another, or the process is about to stop.
    Change,
    /// The process stops, and it is this stream's turn to end.
    Leave,
}

/// How a request that could be answered was answered.
enum Followed {
    /// To the end.
    Answered,
    /// Not at all: before the header was out, another gateway made something else of the request.
    Overtaken(Box<Judgement>),
}

/// What a gateway makes of a request.
type Judgement = Result<UpstreamRequest, Rejection>;

/// A slow client shows itself with each of these that it does not take, whatever the size of the answer.
const SLICE: usize = 64 * 1024;

/// How long the rest of an event may take after the end of its token, its rule or its process.
const REST_OF_EVENT: Duration = Duration::from_secs(1);

impl Front {
    /// Answers from a flight. Where the gateway changes during the wait, the request is judged anew, and `gate` is the
    /// one that judged it.
    pub(super) async fn serve(
        &self,
        gate: &mut Arc<Gateway>,
        session: &mut ServerSession,
        ctx: &mut RequestCtx,
        admission: Admission,
    ) -> Result<(), Fault> {
        let Admission { mut upstream, mut bearer, position } = admission;
        ctx.position = position;
        let mut changes = gate.changes.clone();
        loop {
            let now = *changes.borrow_and_update();
            if gate.generation < now.generation {
                // Admitted by one gateway while another came.
                upstream = match self.judge(gate, session, ctx, &mut bearer).await {
                    Ok(upstream) => upstream,
                    Err(rejection) => return gate.reject(session, ctx, &rejection).await,
                };
            }
            let live = upstream.is_live();
            ctx.record.live = live;
            ctx.record.reading = gate.audit.as_ref().map(|audit| audit.reading(bearer.principal(), &upstream));
            let origin = Origin { request_id: &ctx.record.request_id, trace: ctx.record.trace.as_ref() };
            let mut follower = match gate.hub.join(upstream, bearer.client().as_ref(), origin) {
                Ok(follower) => follower,
                Err(rejection) => return gate.reject(session, ctx, &rejection).await,
            };
            ctx.record.join = Some(follower.join());
            let key = follower.key().clone();
            let (stopping, changes, bearer) = (now.stopping, &mut changes, &mut bearer);
            let mut following = Following { front: self, gate, session, ctx, bearer, key, live, changes, stopping };
            let followed = following.follow(&mut follower).await;
            // Whatever this client is told now, and however slowly it takes that, nobody waits for it.
            follower.served();
            match followed {
                Ok(Followed::Answered) => {
                    // First everybody has the answer, then each of us tidies up.
                    follower.all_served().await;
                    return Ok(());
                }
                Ok(Followed::Overtaken(judgement)) => match *judgement {
                    Ok(other) => upstream = other,
                    Err(rejection) => {
                        gate.metrics.follower_cut(Fault::Reloaded.as_str());
                        return gate.reject(session, ctx, &rejection).await;
                    }
                },
                Err(fault) => return gate.fail(session, ctx, fault).await,
            }
        }
    }

    /// What the gateway of now, which is `gate` from here on, makes of a request that another has admitted.
    async fn judge(
        &self,
        gate: &mut Arc<Gateway>,
        session: &ServerSession,
        ctx: &mut RequestCtx,
        bearer: &mut Bearer,
    ) -> Judgement {
        *gate = self.gate();
        ctx.edge = Edge::of(session.req_header(), &gate.cors);
        // On the heap: whoever waits has no room for it until it comes.
        Box::pin(readmit(gate, session.req_header(), bearer, &mut ctx.record)).await
    }
}

impl Gateway {
    /// Answers with a fault where there is no answer yet; else the answer is broken off, and its client sees that.
    async fn fail(&self, session: &mut ServerSession, ctx: &mut RequestCtx, fault: Fault) -> Result<(), Fault> {
        self.metrics.follower_cut(fault.as_str());
        match fault.rejection() {
            Some(rejection) if session.response_written().is_none() => {
                ctx.record.note(&fault);
                self.reject(session, ctx, &rejection).await
            }
            _ => Err(fault),
        }
    }
}

/// One request and the flight it is on.
struct Following<'a> {
    front: &'a Front,
    /// The one that judged the request.
    gate: &'a mut Arc<Gateway>,
    session: &'a mut ServerSession,
    ctx: &'a mut RequestCtx,
    bearer: &'a mut Bearer,
    key: FlightKey,
    live: bool,
    changes: &'a mut watch::Receiver<Change>,
    /// As the last change says.
    stopping: bool,
}

impl Following<'_> {
    async fn follow(&mut self, follower: &mut Follower) -> Result<Followed, Fault> {
        let head = loop {
            match self.wait(follower.head()).await {
                // What came together with a change waits for the judgement.
                Ok(head) if !self.changes.has_changed().unwrap_or_default() => break head?,
                Err(Interrupt::Fault(fault)) => return Err(fault),
                Ok(_) | Err(Interrupt::Change | Interrupt::Leave) => {
                    follower.served();
                    if let Some(other) = self.judge_anew().await {
                        return Ok(Followed::Overtaken(other));
                    }
                }
            }
        };
        self.bearer.recheck(&self.gate.verifier)?;
        let encoding = self.encoding(follower, &head);
        let known = self.ctx.edge.conditional && reply::is_known(self.session.req_header(), &head);
        let sent = !known && encoding.is_none() && self.send_at_once(follower, &head).await?;
        if let Some(position) = self.ctx.position {
            self.ctx.next = head.next().map(|(handle, offset)| self.gate.limiter.next(position, handle, offset));
        }
        if sent {
            return Ok(Followed::Answered);
        }
        follower.served();
        let events = head.events;
        if known {
            self.write_head(follower, &head, follower.length(), encoding, true).await?;
            in_time(self.gate.limits.write_timeout, self.session.write_response_body(Bytes::new(), true)).await?;
            return Ok(Followed::Answered);
        }
        let encoding = encoding.filter(|encoding| follower.encode(*encoding));
        let length = follower.length();
        if length.is_none() && !events && self.session.req_header().version == Version::HTTP_10 {
            let pieces = self.collect(follower).await?;
            let length = pieces.iter().map(|piece| piece.bytes.len()).sum();
            self.write_head(follower, &head, Some(length), encoding, false).await?;
            for piece in pieces {
                self.write_piece(piece).await?;
            }
            return Ok(Followed::Answered);
        }
        self.write_head(follower, &head, length, encoding, false).await?;
        self.write_body(follower, events).await?;
        Ok(Followed::Answered)
    }

    /// Writes an answer that is whole before its first byte is written, and short, past Pingora's session: that would
    /// make, serialize and drop a header for each of thousands at the same moment. `false` where that is not possible.
    async fn send_at_once(&mut self, follower: &mut Follower, head: &Head) -> Result<bool, Fault> {
        let ServerSession::H1(session) = &*self.session else { return Ok(false) };
        let kept = session.will_keepalive() && !self.is_stopping() && session.req_header().version == Version::HTTP_11;
        let (true, Some(socket)) = (kept, (**session.stream()).as_any().downcast_ref::<Socket>()) else {
            return Ok(false);
        };
        let Some(body) = follower.whole().filter(|body| body.len() <= SLICE) else { return Ok(false) };
        let shown = self.shown(follower, Some(body.len()), None, false);
        let header = self.ctx.edge.shape_text(head, &shown).map_err(|_| Fault::Internal)?;
        let sent = socket.try_send(&header, body).map_err(|_| Fault::ClientGone)?;
        let (status, length) = (head.status, body.len());
        // Who is cut before the end has not got the rest.
        self.ctx.sent = sent.checked_sub(header.len()).map(|bytes| (status, bytes));
        let rest = (sent < header.len() + length).then(|| [&header, &body[..]].concat().split_off(sent));
        follower.served();
        if let Some(rest) = rest {
            in_time(self.gate.limits.write_timeout, socket.send(&rest)).await?;
            self.ctx.sent = Some((status, length));
        }
        Ok(true)
    }

    /// The whole body, for a client to whom an answer that breaks off would look like one that ends.
    async fn collect(&mut self, follower: &mut Follower) -> Result<Vec<Piece>, Fault> {
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        loop {
            let piece = match self.wait(follower.next()).await {
                Ok(piece) => piece,
                Err(Interrupt::Fault(fault)) => return Err(fault),
                Err(Interrupt::Change | Interrupt::Leave) if self.judge_anew().await.is_none() => continue,
                Err(Interrupt::Change | Interrupt::Leave) => return Err(Fault::Reloaded),
            };
            if let Some(Err(fault)) = piece.end {
                return Err(fault);
            }
            bytes += piece.bytes.len();
            if bytes > self.gate.cache.flight_bytes {
                return Err(Fault::Internal);
            }
            let last = piece.end.is_some();
            pieces.push(piece);
            if last {
                return Ok(pieces);
            }
        }
    }

    async fn write_head(
        &mut self,
        follower: &Follower,
        head: &Head,
        length: Option<usize>,
        encoding: Option<Encoding>,
        not_modified: bool,
    ) -> Result<(), Fault> {
        let shown = self.shown(follower, length, encoding, not_modified);
        let version = shown.version;
        let header = self.ctx.edge.shape_header(head, &shown).map_err(|_| Fault::Internal)?;
        // HTTP/1.0 knows no chunks: the end of the connection is the end of the answer.
        if self.is_stopping() || version == Version::HTTP_10 {
            self.session.set_keepalive(None);
        }
        let limit = self.gate.limits.write_timeout;
        in_time(limit, self.session.write_response_header(Box::new(header))).await
    }

    /// Whether the process stops by now: nobody who is told that the connection lives on should find it closed.
    fn is_stopping(&self) -> bool {
        self.stopping || self.changes.has_changed().unwrap_or(true) && self.changes.borrow().stopping
    }

    fn shown(
        &self,
        follower: &Follower,
        length: Option<usize>,
        encoding: Option<Encoding>,
        not_modified: bool,
    ) -> Shown<'_> {
        Shown {
            request_id: &self.ctx.record.request_id,
            version: self.session.req_header().version,
            length,
            encoding,
            not_modified,
            fresh_for: follower.fresh_for(),
            join: self.gate.cache.header.then(|| follower.join()),
        }
    }

    async fn write_body(&mut self, follower: &mut Follower, events: bool) -> Result<(), Fault> {
        // A stream of events may be ended between two of them, any other body is broken where it does not end itself.
        let mut between_events = events;
        let mut turn = (events && self.stopping).then(|| self.turn());
        loop {
            let next = match turn {
                None => self.wait(follower.next()).await,
                // On the heap: its timer is for the few moments before the end.
                Some(turn) => Box::pin(self.wait_for_turn(turn, follower)).await,
            };
            let piece = match next {
                Ok(piece) => piece,
                Err(Interrupt::Leave) => {
                    return self.leave_stream(follower, between_events, Fault::Stopping).await;
                }
                Err(Interrupt::Change) if self.judge_anew().await.is_none() => {
                    if events && self.stopping && turn.is_none() {
                        turn = Some(self.turn());
                    }
                    continue;
                }
                Err(Interrupt::Change) if events => {
                    return self.leave_stream(follower, between_events, Fault::Reloaded).await;
                }
                Err(Interrupt::Change) => return Err(Fault::Reloaded),
                Err(Interrupt::Fault(fault)) if events && fault.ends_token() => {
                    return self.leave_stream(follower, between_events, fault).await;
                }
                Err(Interrupt::Fault(fault)) => return Err(fault),
            };
            match self.bearer.recheck(&self.gate.verifier) {
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

    /// Writes a piece; says whether it was the last.
    async fn write_piece(&mut self, piece: Piece) -> Result<bool, Fault> {
        let limit = self.gate.limits.write_timeout;
        let Piece { mut bytes, end, .. } = piece;
        if let Some(Err(fault)) = end {
            return Err(fault);
        }
        while bytes.len() > SLICE {
            let slice = bytes.split_to(SLICE);
            in_time(limit, self.session.write_response_body(slice, false)).await?;
            // A kept answer is one piece, and a slow reader takes it for longer than its token lasts, or its rule.
            self.bearer.recheck(&self.gate.verifier)?;
            if self.changes.has_changed().unwrap_or_default() {
                if self.judge_anew().await.is_some() {
                    return Err(Fault::Reloaded);
                }
                // Whatever else it says is heeded after the piece.
                self.changes.mark_changed();
            }
        }
        if !bytes.is_empty() || end.is_some() {
            in_time(limit, self.session.write_response_body(bytes, end.is_some())).await?;
        }
        Ok(end.is_some())
    }

    /// Ends a stream of events for this client alone: the rest of an event that has begun is still sent.
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
        self.gate.metrics.follower_cut(why.as_str());
        self.ctx.record.outcome = why.as_str();
        // A client that comes back at once comes on the connection that it was told would stay.
        if why != Fault::Stopping {
            self.session.set_keepalive(None);
        }
        in_time(self.gate.limits.write_timeout, self.session.write_response_body(Bytes::new(), true)).await
    }

    /// Waits for `progress`, as long as the client is there, its token good and the gateway the same.
    async fn wait<T>(&mut self, progress: impl Future<Output = T>) -> Result<T, Interrupt> {
        let Self { gate, session, bearer, changes, stopping, .. } = self;
        // Whoever reads slowly may have progress without end.
        if changes.has_changed().unwrap_or_default() {
            *stopping = changes.borrow_and_update().stopping;
            return Err(Interrupt::Change);
        }
        tokio::select! {
            // Progress first: a client that has its whole answer may have sent its next request, and that is not to be
            // taken for a sign of life.
            biased;
            made = progress => Ok(made),
            fault = token_end(gate, bearer) => Err(Interrupt::Fault(fault)),
            _ = session.read_body_or_idle(true) => Err(Interrupt::Fault(Fault::ClientGone)),
            Ok(()) = changes.changed() => {
                *stopping = changes.borrow().stopping;
                Err(Interrupt::Change)
            }
        }
    }

    /// As [`Self::wait`] for the next piece, until it is this stream's turn to end.
    async fn wait_for_turn(&mut self, turn: Instant, follower: &mut Follower) -> Result<Piece, Interrupt> {
        // Whoever reads slowly may have progress without end, and that comes before a timer.
        if Instant::now() >= turn {
            return Err(Interrupt::Leave);
        }
        timeout_at(turn, self.wait(follower.next())).await.unwrap_or(Err(Interrupt::Leave))
    }

    /// When this stream of events ends, now that the process stops.
    fn turn(&self) -> Instant {
        Instant::now() + self.changes.borrow().leave_within.mul_f64(rand::random())
    }

    /// What the gateway of now makes of this request; `None` where that is what is being answered.
    async fn judge_anew(&mut self) -> Option<Box<Judgement>> {
        self.stopping = self.changes.borrow_and_update().stopping;
        if Arc::ptr_eq(&self.front.gate.load(), self.gate) {
            return None;
        }
        let judgement = self.front.judge(self.gate, self.session, self.ctx, self.bearer).await;
        let same = judgement.as_ref().is_ok_and(|upstream| FlightKey::of(upstream) == self.key);
        (!same).then(|| Box::new(judgement))
    }

    fn encoding(&self, follower: &Follower, head: &Head) -> Option<Encoding> {
        let cache = &self.gate.cache;
        let worth = match follower.length() {
            Some(length) => length >= cache.compress_min,
            // A live answer is small, or comes in haste.
            None => !self.live,
        };
        let encode = cache.compress && worth && !head.events && head.status == http::StatusCode::OK;
        self.ctx.edge.encoding.filter(|_| encode)
    }
}

/// Longer than Electric may be silent (`upstream.read_timeout`): a timer that cannot ring costs every waiting client.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// The fault that ends the token's time, when it comes.
async fn token_end(gate: &Gateway, bearer: &Bearer) -> Fault {
    loop {
        match bearer.time_left(gate.clock.now()) {
            Some(left) if left < LONGEST_WAIT => tokio::time::sleep(left).await,
            // The wait is over first, and its end asks again.
            _ => std::future::pending().await,
        }
        if let Err(fault) = bearer.recheck(&gate.verifier) {
            return fault;
        }
    }
}
