//! A client's way through a flight: it waits, and is told what all the others are told, as long as it may hear it.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use pingora::protocols::http::ServerSession;
use tokio::sync::watch;
use tokio::time::timeout;

use super::admit::{Admission, Bearer, readmit};
use super::context::RequestCtx;
use super::reply::{self, Shown};
use super::{Change, Gateway, in_time};
use crate::fault::Fault;
use crate::flight::{Encoding, Follower, Head, Key, Origin, Piece};

/// What ends a wait before what was waited for.
enum Interrupt {
    Fault(Fault),
    /// The policy is another, or the process is about to stop.
    Change,
}

/// How a request that could be answered was answered.
enum Followed {
    /// To the end; among many others, perhaps.
    Answered { in_a_crowd: bool },
    /// Not at all: the policy changed before the header was out.
    Overtaken,
}

/// A slow client shows itself with each of these that it does not take, whatever the size of the answer.
const SLICE: usize = 64 * 1024;

/// How long the rest of an event may take after the token's end.
const REST_OF_EVENT: Duration = Duration::from_secs(1);

impl Gateway {
    /// Answers from a flight. Where the policy changes during the wait, the request is judged anew.
    pub(super) async fn serve(
        &self,
        session: &mut ServerSession,
        ctx: &mut RequestCtx,
        admission: Admission,
    ) -> Result<(), Fault> {
        let Admission { mut upstream, bearer, position } = admission;
        ctx.position = position;
        let mut changes = self.changes.clone();
        loop {
            let live = upstream.is_live();
            ctx.record.live = live;
            ctx.record.reading = self.audit.as_ref().map(|audit| audit.reading(bearer.principal(), &upstream));
            let origin = Origin { request_id: &ctx.record.request_id, trace: ctx.record.trace.as_ref() };
            let follower = match self.hub.join(upstream, bearer.client().as_ref(), origin) {
                Ok(follower) => follower,
                Err(rejection) => return self.reject(session, ctx, &rejection).await,
            };
            ctx.record.join = Some(follower.join());
            let key = follower.key().clone();
            let stopping = changes.borrow().stopping;
            let changes = &mut changes;
            let mut following = Following { gate: self, session, ctx, bearer: &bearer, key, live, changes, stopping };
            match following.follow(follower).await {
                Ok(Followed::Answered { in_a_crowd }) => {
                    // First everybody has the answer, then each of us tidies up.
                    if in_a_crowd {
                        tokio::task::yield_now().await;
                    }
                    return Ok(());
                }
                Ok(Followed::Overtaken) => {}
                Err(fault) => return self.fail(session, ctx, fault).await,
            }
            upstream = match readmit(self, session.req_header(), &bearer, &mut ctx.record) {
                Ok(upstream) => upstream,
                Err(rejection) => {
                    self.metrics.follower_cut(Fault::Reloaded.as_str());
                    return self.reject(session, ctx, &rejection).await;
                }
            };
        }
    }

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
    gate: &'a Gateway,
    session: &'a mut ServerSession,
    ctx: &'a mut RequestCtx,
    bearer: &'a Bearer,
    key: Key,
    live: bool,
    changes: &'a mut watch::Receiver<Change>,
    /// As the last change says.
    stopping: bool,
}

impl Following<'_> {
    async fn follow(&mut self, mut follower: Follower) -> Result<Followed, Fault> {
        let head = loop {
            match self.wait(follower.head()).await {
                Ok(head) => break head?,
                Err(Interrupt::Fault(fault)) => return Err(fault),
                Err(Interrupt::Change) if self.still_permitted() => {}
                Err(Interrupt::Change) => return Ok(Followed::Overtaken),
            }
        };
        self.bearer.recheck(&self.gate.verifier)?;
        if let Some(position) = self.ctx.position {
            self.ctx.next = head.next().map(|(handle, offset)| self.gate.limiter.next(position, handle, offset));
        }
        let in_a_crowd = follower.in_a_crowd();
        let events = head.events;
        let encoding = self.encoding(&follower, &head);
        if reply::is_known(self.session.req_header(), &head) {
            self.write_head(&follower, &head, follower.length(), encoding, true).await?;
            in_time(self.gate.limits.write_timeout, self.session.write_response_body(Bytes::new(), true)).await?;
            return Ok(Followed::Answered { in_a_crowd });
        }
        let encoding = encoding.filter(|encoding| follower.encode(*encoding));
        let length = follower.length();
        if length.is_none() && !events && self.session.req_header().version == Version::HTTP_10 {
            let pieces = self.collect(&mut follower).await?;
            let length = pieces.iter().map(|piece| piece.bytes.len()).sum();
            self.write_head(&follower, &head, Some(length), encoding, false).await?;
            for piece in pieces {
                self.write_piece(piece).await?;
            }
            return Ok(Followed::Answered { in_a_crowd });
        }
        self.write_head(&follower, &head, length, encoding, false).await?;
        self.write_body(&mut follower, events).await?;
        Ok(Followed::Answered { in_a_crowd })
    }

    /// The whole body, for a client to whom an answer that breaks off would look like one that ends.
    async fn collect(&mut self, follower: &mut Follower) -> Result<Vec<Piece>, Fault> {
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        loop {
            let piece = match self.wait(follower.next()).await {
                Ok(piece) => piece,
                Err(Interrupt::Fault(fault)) => return Err(fault),
                Err(Interrupt::Change) if self.still_permitted() => continue,
                Err(Interrupt::Change) => return Err(Fault::Reloaded),
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
        let version = self.session.req_header().version;
        let shown = Shown {
            request_id: &self.ctx.record.request_id,
            version,
            length,
            encoding,
            not_modified,
            fresh_for: follower.fresh_for(),
            join: self.gate.cache.header.then(|| follower.join()),
        };
        let header = self.ctx.edge.shape_header(head, &shown).map_err(|_| Fault::Internal)?;
        // HTTP/1.0 knows no chunks: the end of the connection is the end of the answer.
        if self.stopping || version == Version::HTTP_10 {
            self.session.set_keepalive(None);
        }
        let limit = self.gate.limits.write_timeout;
        in_time(limit, self.session.write_response_header(Box::new(header))).await
    }

    async fn write_body(&mut self, follower: &mut Follower, events: bool) -> Result<(), Fault> {
        // A stream of events may be ended between two of them, any other body is broken where it does not end itself.
        let mut between_events = events;
        if events && self.stopping {
            return self.end_stream(Fault::Stopping).await;
        }
        loop {
            let piece = match self.wait(follower.next()).await {
                Ok(piece) => piece,
                Err(Interrupt::Change) if events && self.stopping => {
                    return self.leave_stream(follower, between_events, Fault::Stopping).await;
                }
                Err(Interrupt::Change) if self.still_permitted() => continue,
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
            // A kept answer is one piece, and a slow reader takes it for longer than its token lasts.
            self.bearer.recheck(&self.gate.verifier)?;
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
        timeout(REST_OF_EVENT, rest).await.unwrap_or(Err(Fault::TokenExpired))?;
        self.end_stream(why).await
    }

    async fn end_stream(&mut self, why: Fault) -> Result<(), Fault> {
        self.gate.metrics.follower_cut(why.as_str());
        self.ctx.record.outcome = why.as_str();
        self.session.set_keepalive(None);
        in_time(self.gate.limits.write_timeout, self.session.write_response_body(Bytes::new(), true)).await
    }

    /// Waits for `progress`, as long as the client is there, its token good and the policy the same.
    async fn wait<T>(&mut self, progress: impl Future<Output = T>) -> Result<T, Interrupt> {
        let Self { gate, session, bearer, changes, stopping, .. } = self;
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

    /// Whether the policy of now makes the same of this request.
    fn still_permitted(&mut self) -> bool {
        let permitted = readmit(self.gate, self.session.req_header(), self.bearer, &mut self.ctx.record);
        permitted.is_ok_and(|upstream| Key::of(&upstream) == self.key)
    }

    fn encoding(&self, follower: &Follower, head: &Head) -> Option<Encoding> {
        let cache = &self.gate.cache;
        let worth = match follower.length() {
            Some(length) => length >= cache.compress_min,
            // A live answer is small, or comes in haste.
            None => !self.live,
        };
        if !cache.compress || !worth || head.events || head.status != http::StatusCode::OK {
            return None;
        }
        Encoding::choose(&self.session.req_header().headers)
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
