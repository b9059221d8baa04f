//! The request path: one `impl ProxyHttp` for clients and for flights.
//!
//! `request_filter` decides about a client's request (see `decide` for the order). An allowed request joins a flight
//! and leaves Pingora's request future: it waits in `follow`, driven by its `connection`. The flight's request to
//! Electric runs through the phases below too, as a separate request that no client can cancel: `electric` starts it,
//! and `exchange` is its state. Nothing else opens a connection to Electric for a shape.

mod admit;
mod bearer;
mod connection;
mod context;
mod cors;
mod decide;
mod electric;
mod events;
mod exchange;
mod flight_session;
mod follow;
mod gateway;
mod head;
mod http2;
mod link;
mod observe;
mod readiness;
mod reply;
mod request_line;
mod rules;
mod settings;
mod socket;
mod write;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::HttpPeer;
use pingora::{Error, Result};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

pub(crate) use connection::Connected;
pub use context::RequestContext;
pub use cors::CorsPolicy;
pub(crate) use decide::{Caller, Decision, decide, rewrite};
pub use electric::Electric;
pub use gateway::{Gateway, Parts, Proxy};
pub(crate) use head::RequestHead;
pub(crate) use link::{Link, Listener};
pub use readiness::Report;
pub use rules::{Change, Rules};
pub use settings::{CorsSettings, HttpSettings, Origins};
pub(crate) use socket::Socket;

use context::RequestContext as Context;

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::New
    }

    /// Distinguishes a client's request from a flight's, once the header has arrived.
    async fn early_request_filter(&self, session: &mut Session, context: &mut Context) -> Result<()> {
        *context = self.begin(session)?;
        Ok(())
    }

    /// Decides about a client's request, and answers it or lets it join a flight. A flight's request passes.
    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        self.filter(session, context).await
    }

    /// Picks the server of the shape.
    async fn upstream_peer(&self, _session: &mut Session, context: &mut Context) -> Result<Box<HttpPeer>> {
        context.exchange()?.peer().await
    }

    /// Builds the request to Electric from empty: path, `where`, params, columns, secret.
    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        context: &mut Context,
    ) -> Result<()> {
        *request = context.exchange()?.request()?;
        Ok(())
    }

    /// Judges Electric's response by its header.
    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        context.exchange()?.judge(response).await
    }

    /// Holds back a body that followers must not see unchanged. Every other body is forwarded to the flight.
    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        context: &mut Context,
    ) -> Result<Option<Duration>> {
        context.exchange()?.filter_body(body);
        Ok(None)
    }

    /// Tries the next address of the server, or fails.
    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        context: &mut Context,
        error: Box<Error>,
    ) -> Box<Error> {
        context.exchange().map_or_else(|error| error, |exchange| exchange.refused(peer, error))
    }

    /// Tries once more if Electric had just closed a reused connection, or fails.
    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        _session: &mut Session,
        error: Box<Error>,
        context: &mut Context,
        reused: bool,
    ) -> Box<Error> {
        context.exchange().map_or_else(|error| error, |exchange| exchange.broken(error, reused))
    }

    /// Writes nothing: a client has its response or is gone, and the exchange reports the fault of a flight.
    async fn fail_to_proxy(&self, _session: &mut Session, _error: &Error, _context: &mut Context) -> FailToProxy {
        FailToProxy { error_code: 0, can_reuse_downstream: false }
    }

    /// Writes the access log, metrics, audit and spans.
    async fn logging(&self, session: &mut Session, _error: Option<&Error>, context: &mut Context) {
        self.observe(session, context).await;
    }

    /// Suppresses Pingora's own log lines, since they quote the request. The access log reports the failure instead.
    fn suppress_error_log(&self, _session: &Session, _context: &Context, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _context: &Context,
        _error: &Error,
        _of: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}
