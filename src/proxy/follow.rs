//! Following a flight: a client waits for its response, outside Pingora's request future.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{StatusCode, Version};
use pingora::apps::{HttpPersistentSettings, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use tokio::sync::watch;

use super::admit::head_of;
use super::bearer::{Bearer, Rejudged};
use super::context::ClientRequest;
use super::decide::{Decision, Grant, decide};
use super::gateway::Gateway;
use super::reply::{self, Edge, Shown};
use super::rules::{Change, Rules};
use super::socket::Socket;
use super::write::in_time;
use crate::fault::Fault;
use crate::flight::{Encoding, FlightKey, Follower, Head, Origin, Piece};
use crate::rejection::Rejection;
use crate::rewrite::UpstreamRequest;

/// A client's request that has left the phases, and waits for its response.
pub(super) struct Waiting {
    pub(super) gateway: Gateway,
    pub(super) session: Box<ServerSession>,
    pub(super) client: Box<ClientRequest>,
    pub(super) upstream: UpstreamRequest,
    pub(super) bearer: Bearer,
}

/// What ends a wait before its event.
pub(super) enum Interrupt {
    Fault(Fault),
    /// The rules have changed, or the process is about to stop.
    Change,
    /// The process stops, and this stream is to end now.
    Leave,
}

/// How following a flight ended.
enum Followed {
    /// The client has its response.
    Answered,
    /// Before the header was written, new rules made something else of the request.
    Overtaken(Box<Judgement>),
}

/// What rules make of a request.
type Judgement = Result<UpstreamRequest, Rejection>;

/// A slow client is noticed with each of these that it does not read, whatever the size of the response.
pub(super) const SLICE: usize = 64 * 1024;

impl Waiting {
    /// Answers from a flight. Returns the connection if it can take another request.
    pub(super) async fn follow(self) -> Option<ReusedHttpStream> {
        let Self { gateway, mut session, mut client, upstream, mut bearer } = self;
        let served = gateway.serve(&mut session, &mut client, &mut bearer, upstream).await;
        if let Some(position) = client.position {
            client.arrival.connection.answered(position, client.next, client.record.started, Instant::now());
        }
        if let Err(fault) = &served {
            client.record.note(fault);
        }
        gateway.answered(&session, &mut client);
        // A response that was cut off must look like one: the connection, or the stream, is dropped as it is.
        if served.is_err() {
            reset_http_1_0(&session);
            return None;
        }
        let settings = HttpPersistentSettings::for_session(&session);
        let stream = session.finish().await.ok().flatten()?;
        Some(ReusedHttpStream::from_reusable_stream(stream, settings))
    }
}

impl Gateway {
    /// Answers from a flight. If the rules change while the request waits, it is judged again.
    async fn serve(
        &self,
        session: &mut ServerSession,
        client: &mut ClientRequest,
        bearer: &mut Bearer,
        mut upstream: UpstreamRequest,
    ) -> Result<(), Fault> {
        let mut changes = self.changes.clone();
        loop {
            let now = *changes.borrow_and_update();
            if client.rules.generation < now.generation {
                upstream = match self.rejudge(session, client, bearer).await {
                    Ok(upstream) => upstream,
                    Err(rejection) => return self.reject(session, client, &rejection).await,
                };
            }
            let mut follower = match self.join(client, bearer, upstream) {
                Ok(follower) => follower,
                Err(rejection) => return self.reject(session, client, &rejection).await,
            };
            let (key, live) = (follower.key().clone(), client.record.live);
            let (changes, stopping) = (&mut changes, now.stopping);
            let mut following = Following { gateway: self, session, client, bearer, key, live, changes, stopping };
            let followed = following.follow(&mut follower).await;
            // Whatever this client is told now, no other client waits for it.
            follower.served();
            match followed {
                Ok(Followed::Answered) => {
                    // Defer cleanup until every follower has been written to.
                    follower.all_served().await;
                    return Ok(());
                }
                Ok(Followed::Overtaken(judgement)) => match *judgement {
                    Ok(other) => upstream = other,
                    Err(rejection) => {
                        self.metrics.follower_cut(Fault::Reloaded.as_str());
                        return self.reject(session, client, &rejection).await;
                    }
                },
                Err(fault) => return self.fail(session, client, fault).await,
            }
        }
    }

    fn join(
        &self,
        client: &mut ClientRequest,
        bearer: &Bearer,
        upstream: UpstreamRequest,
    ) -> Result<Follower, Rejection> {
        client.record.live = upstream.is_live();
        client.record.reading = self.audit.as_ref().map(|audit| audit.reading(bearer.principal(), &upstream));
        let origin = Origin { request_id: &client.record.request_id, trace: client.record.trace.as_ref() };
        let follower = self.hub.join(&client.rules.electric, upstream, bearer.client().as_ref(), origin)?;
        client.record.join = Some(follower.join());
        Ok(follower)
    }

    /// Judges a waiting request by the current rules, which are its rules from now on.
    async fn rejudge(&self, session: &ServerSession, client: &mut ClientRequest, bearer: &mut Bearer) -> Judgement {
        client.rules = self.rules();
        client.edge = Edge::of(session.req_header(), &client.rules.cors);
        // On the heap: a waiting request has no room for it until it comes.
        Box::pin(self.judge(session, &Arc::clone(&client.rules), client, bearer)).await
    }

    async fn judge(
        &self,
        session: &ServerSession,
        rules: &Rules,
        client: &mut ClientRequest,
        bearer: &mut Bearer,
    ) -> Judgement {
        let head = head_of(session, bearer.posted().is_some(), None);
        let principal = bearer.principal().cloned();
        let mut caller = Rejudged { gateway: self, principal, record: &mut client.record };
        let Grant { upstream, principal, .. } = match decide(rules, &*self.clock, &head, &mut caller).await? {
            Decision::Shape(grant) => grant,
            Decision::Subset(pending) => pending.read(rules, bearer.posted().ok_or(Rejection::Internal)?)?,
            // Its path serves something else by now.
            Decision::Document(_) | Decision::Preflight(_) => return Err(Rejection::NotFound),
        };
        bearer.renew(principal);
        Ok(upstream)
    }

    /// Answers with a fault if no response has begun; otherwise the response is cut off, and the client sees that.
    async fn fail(&self, session: &mut ServerSession, client: &mut ClientRequest, fault: Fault) -> Result<(), Fault> {
        self.metrics.follower_cut(fault.as_str());
        match fault.rejection() {
            Some(rejection) if session.response_written().is_none() => {
                client.record.note(&fault);
                self.reject(session, client, &rejection).await
            }
            _ => Err(fault),
        }
    }
}

/// One request and the flight it follows.
pub(super) struct Following<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) session: &'a mut ServerSession,
    pub(super) client: &'a mut ClientRequest,
    pub(super) bearer: &'a mut Bearer,
    key: FlightKey,
    live: bool,
    pub(super) changes: &'a mut watch::Receiver<Change>,
    /// Whether the last change said that the process stops.
    pub(super) stopping: bool,
}

impl Following<'_> {
    async fn follow(&mut self, follower: &mut Follower) -> Result<Followed, Fault> {
        let head = loop {
            match self.wait(follower.head()).await {
                // A header that came together with a change waits for the judgement.
                Ok(head) if !self.changes.has_changed().unwrap_or_default() => break head?,
                Err(Interrupt::Fault(fault)) => return Err(fault),
                Ok(_) | Err(Interrupt::Change | Interrupt::Leave) => {
                    follower.served();
                    if let Some(other) = self.judge_again().await {
                        return Ok(Followed::Overtaken(other));
                    }
                }
            }
        };
        self.bearer.recheck(&self.client.rules.verifier)?;
        let encoding = self.encoding(follower, &head);
        let known = self.client.edge.conditional && reply::is_known(self.session.req_header(), &head);
        let sent = !known && encoding.is_none() && self.send_at_once(follower, &head).await?;
        if let Some(position) = self.client.position {
            let next = |(handle, offset)| self.gateway.limiter.next(position, handle, offset);
            self.client.next = head.next().map(next);
        }
        if !sent {
            follower.served();
            self.write(follower, &head, encoding, known).await?;
        }
        Ok(Followed::Answered)
    }

    async fn write(
        &mut self,
        follower: &mut Follower,
        head: &Head,
        encoding: Option<Encoding>,
        known: bool,
    ) -> Result<(), Fault> {
        if known {
            self.write_head(follower, head, follower.length(), encoding, true).await?;
            return self.write_bytes(Bytes::new(), true).await;
        }
        let encoding = encoding.filter(|encoding| follower.encode(*encoding));
        self.write_head(follower, head, follower.length(), encoding, false).await?;
        self.write_body(follower, head.events).await
    }

    /// Writes a response that is complete and short past Pingora's session, which would make, serialize and drop a
    /// header for each of thousands of clients at the same moment. Returns `false` if that is not possible.
    async fn send_at_once(&mut self, follower: &mut Follower, head: &Head) -> Result<bool, Fault> {
        let ServerSession::H1(session) = &*self.session else { return Ok(false) };
        let kept = session.will_keepalive() && !self.is_stopping() && session.req_header().version == Version::HTTP_11;
        let (true, Some(socket)) = (kept, (**session.stream()).as_any().downcast_ref::<Socket>()) else {
            return Ok(false);
        };
        let Some(body) = follower.whole().filter(|body| body.len() <= SLICE) else { return Ok(false) };
        let shown = self.shown(follower, Some(body.len()), None, false);
        let header = self.client.edge.shape_text(head, &shown).map_err(|_| Fault::Internal)?;
        let sent = socket.try_send(&header, body).map_err(|_| Fault::ClientGone)?;
        let (status, length) = (head.status, body.len());
        // A client that is cut off before the end has not received the rest.
        self.client.sent = sent.checked_sub(header.len()).map(|bytes| (status, bytes));
        let rest = (sent < header.len() + length).then(|| [&header, &body[..]].concat().split_off(sent));
        follower.served();
        if let Some(rest) = rest {
            in_time(self.client.rules.limits.write_timeout, socket.send(&rest)).await?;
            self.client.sent = Some((status, length));
        }
        Ok(true)
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
        let header = self.client.edge.shape_header(head, &shown).map_err(|_| Fault::Internal)?;
        // HTTP/1.0 has no chunks: the end of the connection is the end of the response.
        if self.is_stopping() || version == Version::HTTP_10 {
            self.session.set_keepalive(None);
        }
        let limit = self.client.rules.limits.write_timeout;
        in_time(limit, self.session.write_response_header(Box::new(header))).await
    }

    /// Whether the process stops by now: a client that is told that its connection stays open must not find it closed.
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
            request_id: &self.client.record.request_id,
            version: self.session.req_header().version,
            length,
            encoding,
            not_modified,
            fresh_for: follower.fresh_for(),
            join: self.client.rules.cache.header.then(|| follower.join()),
        }
    }

    /// Writes a piece. Returns whether it was the last.
    pub(super) async fn write_piece(&mut self, piece: Piece) -> Result<bool, Fault> {
        let Piece { mut bytes, end, .. } = piece;
        if let Some(Err(fault)) = end {
            return Err(fault);
        }
        while bytes.len() > SLICE {
            let slice = bytes.split_to(SLICE);
            self.write_bytes(slice, false).await?;
            // A cached response is one piece. A slow client may need longer for it than its token, or its rule, lasts.
            self.bearer.recheck(&self.client.rules.verifier)?;
            if self.changes.has_changed().unwrap_or_default() {
                if self.judge_again().await.is_some() {
                    return Err(Fault::Reloaded);
                }
                // What else the change says is handled after the piece.
                self.changes.mark_changed();
            }
        }
        if !bytes.is_empty() || end.is_some() {
            self.write_bytes(bytes, end.is_some()).await?;
        }
        Ok(end.is_some())
    }

    pub(super) async fn write_bytes(&mut self, bytes: Bytes, end: bool) -> Result<(), Fault> {
        in_time(self.client.rules.limits.write_timeout, self.session.write_response_body(bytes, end)).await
    }

    /// Waits for `progress`, as long as the client is there, its token is good and the rules are the same.
    pub(super) async fn wait<T>(&mut self, progress: impl Future<Output = T>) -> Result<T, Interrupt> {
        let Self { gateway, session, client, bearer, changes, stopping, .. } = self;
        // A client that reads slowly may have progress without end.
        if changes.has_changed().unwrap_or_default() {
            *stopping = changes.borrow_and_update().stopping;
            return Err(Interrupt::Change);
        }
        tokio::select! {
            // Progress first: a client that has its whole response may have sent its next request, which must not be
            // taken for a sign that it is gone.
            biased;
            made = progress => Ok(made),
            fault = bearer.end(gateway, &client.rules.verifier) => Err(Interrupt::Fault(fault)),
            _ = session.read_body_or_idle(true) => Err(Interrupt::Fault(Fault::ClientGone)),
            Ok(()) = changes.changed() => {
                *stopping = changes.borrow().stopping;
                Err(Interrupt::Change)
            }
        }
    }

    /// Judges the request by the current rules. Returns `None` if they make of it what is being answered.
    pub(super) async fn judge_again(&mut self) -> Option<Box<Judgement>> {
        let change = *self.changes.borrow_and_update();
        self.stopping = change.stopping;
        if self.client.rules.generation == change.generation {
            return None;
        }
        let judgement = self.gateway.rejudge(self.session, self.client, self.bearer).await;
        let electric = self.client.rules.electric.as_ref();
        let same = judgement.as_ref().is_ok_and(|upstream| FlightKey::of(electric, upstream) == self.key);
        (!same).then(|| Box::new(judgement))
    }

    fn encoding(&self, follower: &Follower, head: &Head) -> Option<Encoding> {
        let cache = &self.client.rules.cache;
        let worth = match follower.length() {
            Some(length) => length >= cache.compress_min,
            // A live response is small, or urgent.
            None => !self.live,
        };
        let encode = cache.compress && worth && !head.events && head.status == StatusCode::OK;
        self.client.edge.encoding.filter(|_| encode)
    }
}

/// Resets the connection of an HTTP/1.0 client. It takes an orderly end of the connection for the end of the response
/// (RFC 9112 section 8).
fn reset_http_1_0(session: &ServerSession) {
    if let ServerSession::H1(session) = session
        && session.req_header().version == Version::HTTP_10
        && let Some(socket) = (**session.stream()).as_any().downcast_ref::<Socket>()
    {
        socket.reset_on_close();
    }
}
