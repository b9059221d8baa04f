//! Lets a client wait for the response of its flight, outside Pingora's request future.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{StatusCode, Version};
use pingora::apps::{HttpPersistentSettings, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use tokio::sync::watch;

use super::admit::head_of;
use super::bearer::{Bearer, WaitingCaller};
use super::context::ClientRequest;
use super::decide::{Decision, Grant, decide};
use super::gateway::Gateway;
use super::reply::{self, Delivery, Negotiated};
use super::rules::{Change, Rules};
use super::socket::Socket;
use super::write::{in_time, reset_http_1_0};
use crate::fault::Fault;
use crate::flight::{Encoding, FlightKey, Follower, Head, Origin, Piece};
use crate::rejection::Rejection;
use crate::rewrite::UpstreamRequest;
use crate::shape::cursor;

/// A client's request that has left the phases and waits for its response.
pub(super) struct Waiting {
    pub(super) session: Box<ServerSession>,
    pub(super) client: Box<ClientRequest>,
    pub(super) upstream: UpstreamRequest,
    pub(super) bearer: Bearer,
}

/// Why a wait ended without progress.
pub(super) enum Interrupt {
    Fault(Fault),
    /// The rules or the revocations have changed, decision services have to be asked again, or the process is about to
    /// stop.
    Change,
    /// The process stops, and it is time for this stream to end.
    Leave,
}

/// How following a flight ended.
enum Followed {
    /// The client has its response.
    Answered,
    /// The rules changed before the header was written, and the result for this request is different now.
    RulesChanged(Box<Reauthorization>),
}

/// The request to send to Electric according to the current rules, or why it is rejected.
type Reauthorization = Result<UpstreamRequest, Rejection>;

/// The most bytes of one write. Each write has the whole `write_timeout`, so the limit on a slow client does not depend
/// on the size of the response.
pub(super) const SLICE: usize = 64 * 1024;

impl Waiting {
    /// Answers from a flight. Returns the connection if it can take another request.
    ///
    /// The future is on the heap: an idle connection does not hold it. It is as small as can be, since every waiting
    /// client has one: an `async fn` would keep its arguments twice.
    pub(super) fn follow<'a>(
        self,
        gateway: &'a Gateway,
        changes: &'a mut watch::Receiver<Change>,
    ) -> Pin<Box<dyn Future<Output = Option<ReusedHttpStream>> + Send + 'a>> {
        let Self { mut session, mut client, upstream, mut bearer } = self;
        Box::pin(async move {
            let served = gateway.serve(&mut session, &mut client, &mut bearer, upstream, changes).await;
            if let Some(position) = client.position {
                client.arrival.connection.answered(position, client.next, client.arrival.at, Instant::now());
            }
            if let Err(fault) = &served {
                client.record.note(fault);
            }
            gateway.answered(&session, &mut client);
            // Drops the connection or the stream without a proper end, so that the client sees that the response is
            // cut off.
            if served.is_err() {
                reset_http_1_0(&session);
                return None;
            }
            let settings = HttpPersistentSettings::for_session(&session);
            // On the heap: a client that waits has no room for this future of 4 KB.
            let stream = Box::pin(session.finish()).await.ok().flatten()?;
            Some(ReusedHttpStream::from_reusable_stream(stream, settings))
        })
    }
}

impl Gateway {
    /// Answers from a flight. If the rules change while the request waits, it is authorized again.
    async fn serve(
        &self,
        session: &mut ServerSession,
        client: &mut ClientRequest,
        bearer: &mut Bearer,
        mut upstream: UpstreamRequest,
        changes: &mut watch::Receiver<Change>,
    ) -> Result<(), Fault> {
        loop {
            let now = *changes.borrow_and_update();
            if client.rules.generation < now.generation {
                upstream = match self.authorize_again(session, client, bearer).await {
                    Ok(upstream) => upstream,
                    Err(rejection) => return Box::pin(self.reject(session, client, &rejection)).await,
                };
            }
            let mut follower = match self.join(client, bearer, upstream) {
                Ok(follower) => follower,
                Err(rejection) => return Box::pin(self.reject(session, client, &rejection)).await,
            };
            let (key, live) = (follower.key().clone(), client.record.live);
            let (stopping, generation) = (now.stopping, client.rules.generation);
            let mut following =
                Following { gateway: self, session, client, bearer, key, live, changes, stopping, generation };
            let followed = following.follow(&mut follower).await;
            let cause = following.cause();
            // Other followers need not wait for what is written to this client from here on.
            follower.served();
            match followed {
                Ok(Followed::Answered) => {
                    // Defer cleanup until every follower has been written to.
                    follower.all_served().await;
                    return Ok(());
                }
                Ok(Followed::RulesChanged(reauthorized)) => match *reauthorized {
                    Ok(other) => upstream = other,
                    Err(rejection) => {
                        self.metrics.follower_cut(cause.as_str());
                        return Box::pin(self.reject(session, client, &rejection)).await;
                    }
                },
                Err(fault) => return Box::pin(self.fail(session, client, fault)).await,
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
        client.cursor = upstream.cursor();
        client.record.reading = self.audit.as_ref().map(|audit| audit.reading(bearer.principal(), &upstream));
        let origin = Origin { request_id: &client.record.request_id, trace: client.record.trace.as_ref() };
        let follower = self.hub.join(&client.rules.electric, upstream, bearer.client().as_ref(), origin)?;
        client.record.join = Some(follower.join());
        Ok(follower)
    }

    /// Authorizes a waiting request again with the current rules, and keeps them for it.
    async fn authorize_again(
        &self,
        session: &ServerSession,
        client: &mut ClientRequest,
        bearer: &mut Bearer,
    ) -> Reauthorization {
        client.rules = self.rules();
        client.negotiated = Negotiated::of(session.req_header(), &client.rules.cors);
        // On the heap, so that the future of a waiting request stays small.
        Box::pin(self.decide_again(session, &Arc::clone(&client.rules), client, bearer)).await
    }

    async fn decide_again(
        &self,
        session: &ServerSession,
        rules: &Rules,
        client: &mut ClientRequest,
        bearer: &mut Bearer,
    ) -> Reauthorization {
        let posted = bearer.posted();
        let head = head_of(session, posted.is_some(), None);
        let principal = bearer.principal().cloned();
        let mut caller = WaitingCaller { gateway: self, principal, record: &mut client.record };
        let Grant { upstream, principal, until, .. } = match decide(rules, &*self.clock, &head, &mut caller).await? {
            Decision::Shape(grant) => grant,
            Decision::Subset(pending) => pending.read(rules, posted.ok_or(Rejection::Internal)?)?,
            // The new rules serve something else at its path.
            Decision::Document(_) | Decision::Preflight(_) => return Err(Rejection::NotFound),
        };
        bearer.renew(principal, until);
        Ok(upstream)
    }

    /// Answers with a fault if no response has begun. Otherwise, cuts the response off.
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
    /// The generation of the rules that allowed the request to follow this flight.
    generation: u64,
}

impl Following<'_> {
    async fn follow(&mut self, follower: &mut Follower) -> Result<Followed, Fault> {
        let head = loop {
            let waited = self.wait(pin!(follower.head())).await;
            match waited {
                // If the rules have changed too, the request is authorized again before the header is written.
                Ok(head) if !self.has_changed() => break head?,
                Err(Interrupt::Fault(fault)) => return Err(fault),
                Ok(_) | Err(Interrupt::Change | Interrupt::Leave) => {
                    follower.served();
                    if let Some(other) = self.reauthorize().await {
                        return Ok(Followed::RulesChanged(other));
                    }
                }
            }
        };
        self.bearer.recheck(&self.client.rules.verifier)?;
        let encoding = self.encoding(follower, &head);
        let not_modified =
            self.client.negotiated.conditional && reply::is_not_modified(self.session.req_header(), &head);
        let sent = !not_modified && encoding.is_none() && self.send_at_once(follower, &head).await?;
        if let Some(position) = self.client.position {
            let next = |(handle, offset)| self.gateway.limiter.next(position, handle, offset);
            self.client.next = head.next().map(next);
        }
        if !sent {
            follower.served();
            // On the heap: a client that waits for the header has no room for it.
            Box::pin(self.write(follower, &head, encoding, not_modified)).await?;
        }
        Ok(Followed::Answered)
    }

    async fn write(
        &mut self,
        follower: &mut Follower,
        head: &Head,
        encoding: Option<Encoding>,
        not_modified: bool,
    ) -> Result<(), Fault> {
        if not_modified {
            self.write_head(follower, head, follower.length(), encoding, true).await?;
            return self.write_bytes(Bytes::new(), true).await;
        }
        let encoding = encoding.filter(|encoding| follower.encode(&self.gateway.hub, *encoding));
        self.write_head(follower, head, follower.length(), encoding, false).await?;
        self.write_body(follower, head.events).await
    }

    /// Writes a complete and short response directly to the socket, with one system call. Pingora's session would
    /// build, serialize and drop a header for each of thousands of clients at the same moment. Returns `false` if the
    /// response cannot be written this way.
    async fn send_at_once(&mut self, follower: &mut Follower, head: &Head) -> Result<bool, Fault> {
        let ServerSession::H1(session) = &*self.session else { return Ok(false) };
        let kept = session.will_keepalive() && !self.is_stopping() && session.req_header().version == Version::HTTP_11;
        let (true, Some(socket)) = (kept, Socket::of(session.stream())) else {
            return Ok(false);
        };
        let Some(body) = follower.whole().filter(|body| body.len() <= SLICE) else { return Ok(false) };
        let delivery = self.delivery(follower, head, Some(body.len()), None, false);
        let header = self.client.negotiated.shape_text(head, &delivery).map_err(|_| Fault::Internal)?;
        let sent = socket.try_send(&header, body).map_err(|_| Fault::ClientGone)?;
        let (status, length) = (head.status, body.len());
        // A client that is cut off before the end has not received the rest.
        self.client.sent = sent.checked_sub(header.len()).map(|bytes| (status, bytes));
        let rest = (sent < header.len() + length).then(|| [&header, &body[..]].concat().split_off(sent));
        follower.served();
        if let Some(rest) = rest {
            // On the heap, as few responses need it.
            Box::pin(in_time(self.client.rules.limits.write_timeout, socket.send(&rest))).await?;
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
        let delivery = self.delivery(follower, head, length, encoding, not_modified);
        let version = delivery.version;
        let header = self.client.negotiated.shape_header(head, &delivery).map_err(|_| Fault::Internal)?;
        // HTTP/1.0 has no chunked encoding: the response ends when the connection is closed.
        if self.is_stopping() || version == Version::HTTP_10 {
            self.session.set_keepalive(None);
        }
        let limit = self.client.rules.limits.write_timeout;
        in_time(limit, self.session.write_response_header(Box::new(header))).await
    }

    /// Whether the process is stopping. If so, the response must not announce that the connection stays open.
    fn is_stopping(&self) -> bool {
        self.stopping || self.changes.has_changed().unwrap_or(true) && self.changes.borrow().stopping
    }

    fn delivery(
        &self,
        follower: &Follower,
        head: &Head,
        length: Option<usize>,
        encoding: Option<Encoding>,
        not_modified: bool,
    ) -> Delivery<'_> {
        let cursor = || cursor::next(self.gateway.clock.now(), cursor::INTERVAL, self.client.cursor);
        Delivery {
            request_id: &self.client.record.request_id,
            version: self.session.req_header().version,
            length,
            encoding,
            not_modified,
            cursor: head.cursor.then(cursor),
            max_age: self.client.rules.cache.max_age,
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
            // A cached response is one piece. While a slow client reads it, its token may expire and its rule may
            // change.
            self.bearer.recheck(&self.client.rules.verifier)?;
            if self.has_changed() {
                let changed = self.changes.has_changed().unwrap_or_default();
                if self.reauthorize().await.is_some() {
                    return Err(self.cause());
                }
                if changed {
                    // If the process stops too, that is handled after the piece.
                    self.changes.mark_changed();
                }
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

    /// Waits for `progress` while the client is connected, its token is valid and the rules are unchanged.
    pub(super) async fn wait<T>(&mut self, progress: impl Future<Output = T>) -> Result<T, Interrupt> {
        let Self { gateway, session, client, bearer, changes, stopping, .. } = self;
        // A slow client may always have progress, so a change is checked first.
        if bearer.must_ask_again() {
            return Err(Interrupt::Change);
        }
        if changes.has_changed().unwrap_or_default() {
            *stopping = changes.borrow_and_update().stopping;
            return Err(changed(bearer, client));
        }
        tokio::select! {
            // Progress first: a client that has its whole response may have sent its next request, which must not be
            // taken for a sign that it is gone.
            biased;
            made = progress => Ok(made),
            interrupt = bearer.end(gateway, &client.rules.verifier) => Err(interrupt),
            _ = session.read_body_or_idle(true) => Err(Interrupt::Fault(Fault::ClientGone)),
            Ok(()) = changes.changed() => {
                *stopping = changes.borrow().stopping;
                Err(changed(bearer, client))
            }
        }
    }

    /// Whether the rules have changed, decision services have to be asked again, or the process is about to stop.
    fn has_changed(&self) -> bool {
        self.bearer.must_ask_again() || self.changes.has_changed().unwrap_or_default()
    }

    /// Authorizes the request again if the rules have changed or decision services have to be asked again. Returns
    /// `None` if the flight still answers it.
    pub(super) async fn reauthorize(&mut self) -> Option<Box<Reauthorization>> {
        let change = *self.changes.borrow_and_update();
        self.stopping = change.stopping;
        if self.client.rules.generation == change.generation && !self.bearer.must_ask_again() {
            return None;
        }
        let reauthorized = self.gateway.authorize_again(self.session, self.client, self.bearer).await;
        let electric = self.client.rules.electric.as_ref();
        let same = reauthorized.as_ref().is_ok_and(|upstream| FlightKey::of(electric, upstream) == self.key);
        if same {
            self.generation = self.client.rules.generation;
        }
        (!same).then(|| Box::new(reauthorized))
    }

    /// Returns why the flight no longer answers the request: its rules or its decision have changed.
    pub(super) fn cause(&self) -> Fault {
        if self.client.rules.generation == self.generation { Fault::DecisionChanged } else { Fault::Reloaded }
    }

    fn encoding(&self, follower: &Follower, head: &Head) -> Option<Encoding> {
        let cache = &self.client.rules.cache;
        let worth = match follower.length() {
            Some(length) => length >= cache.compress_min,
            // A live response is small or urgent.
            None => !self.live,
        };
        let encode = cache.compress && worth && !head.events && head.status == StatusCode::OK;
        self.client.negotiated.encoding.filter(|_| encode)
    }
}

/// The interrupt by a change, which may have revoked the token.
fn changed(bearer: &Bearer, client: &ClientRequest) -> Interrupt {
    bearer.recheck(&client.rules.verifier).map_or_else(Interrupt::Fault, |()| Interrupt::Change)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::connection::tests::size;

    #[test]
    fn future_of_a_waiting_request_fits_into_2_kib() {
        type Arguments = (
            &'static Gateway,
            &'static mut ServerSession,
            &'static mut ClientRequest,
            &'static mut Bearer,
            UpstreamRequest,
            &'static mut watch::Receiver<Change>,
        );
        let serving = size(|(gateway, session, client, bearer, upstream, changes): Arguments| {
            gateway.serve(session, client, bearer, upstream, changes)
        });
        assert!(size_of::<Waiting>() + serving < 2048, "{} and {serving}", size_of::<Waiting>());
    }
}
