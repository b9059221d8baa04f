//! Writes whole responses of our own to a client, within a limit of time.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, Version};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use tokio::time::timeout;

use super::context::ClientRequest;
use super::gateway::Gateway;
use super::socket::Socket;
use crate::fault::Fault;
use crate::limits::LimitSettings;
use crate::rejection::Rejection;

impl Gateway {
    /// Answers with a rejection.
    pub(super) async fn reject(
        &self,
        session: &mut ServerSession,
        client: &mut ClientRequest,
        rejection: &Rejection,
    ) -> Result<(), Fault> {
        client.record.rejected(rejection);
        if client.arrival.misdirected {
            session.set_keepalive(None);
        }
        let body = Bytes::from(rejection.body(self.explain_denials));
        let header = client.negotiated.rejection_header(rejection, body.len(), &client.record.request_id);
        self.write_whole(session, &client.rules.limits, header, body).await
    }

    pub(super) async fn write_whole(
        &self,
        session: &mut ServerSession,
        limits: &LimitSettings,
        header: Result<ResponseHeader>,
        body: Bytes,
    ) -> Result<(), Fault> {
        let header = header.map_err(|_| Fault::Internal)?;
        let bodiless = header.status == StatusCode::NO_CONTENT || session.req_header().method == Method::HEAD;
        // An unread rest of this request must not be taken for the next one (docs/security.md, P4).
        if !session.is_body_done() || self.changes.borrow().stopping {
            session.set_keepalive(None);
        }
        in_time(limits.write_timeout, session.write_response_header(Box::new(header))).await?;
        let body = if bodiless { Bytes::new() } else { body };
        in_time(limits.write_timeout, session.write_response_body(body, true)).await
    }
}

/// Waits for a write, at most for `limit`. A client that does not read is disconnected, without effect on others.
pub(super) async fn in_time<E>(limit: Duration, writing: impl Future<Output = Result<(), E>>) -> Result<(), Fault> {
    match timeout(limit, writing).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Fault::ClientGone),
        Err(_) => Err(Fault::SlowReader),
    }
}

/// Resets the connection of an HTTP/1.0 client. After an orderly close, the client would take the response for complete
/// (RFC 9112 section 8).
pub(super) fn reset_http_1_0(session: &ServerSession) {
    if let ServerSession::H1(session) = session
        && session.req_header().version == Version::HTTP_10
        && let Some(socket) = Socket::of(session.stream())
    {
        socket.reset_on_close();
    }
}
