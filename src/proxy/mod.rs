//! The request path on Pingora's phases: [`Gateway`] decides nothing itself.
//!
//! `request_filter` calls `admit`, the one function that knows the order of decisions, and answers rejections.
//! `upstream_request_filter` replaces the whole request by the one that was built; `response_filter` replaces the
//! whole header by the one that `reply` writes.

mod addresses;
mod admit;
mod context;
mod cors;
mod reply;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, Result};

use crate::auth::TokenVerifier;
use crate::clock::Clock;
use crate::config::Limits;
use crate::fault::Fault;
use crate::limits::Budgets;
use crate::policy::PolicySet;
use crate::rejection::Rejection;
use crate::telemetry::{Metrics, SERVED};

use admit::Decision;
use context::{ErrorBody, Phase, RequestCtx};
pub use cors::CorsPolicy;
use reply::Edge;
pub use upstream::UpstreamServer;

/// Everything that answering a request needs.
pub struct Gateway {
    /// Checks tokens.
    pub verifier: Arc<TokenVerifier>,
    /// Decides.
    pub policy: PolicySet,
    /// What browsers are told.
    pub cors: CorsPolicy,
    /// Sizes.
    pub limits: Limits,
    /// Requests at one time.
    pub budgets: Arc<Budgets>,
    /// Where Electric is.
    pub upstream: UpstreamServer,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = RequestCtx;

    fn new_ctx(&self) -> RequestCtx {
        RequestCtx::default()
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut RequestCtx) -> Result<bool> {
        session.set_write_timeout(Some(WRITE_TIMEOUT));
        ctx.edge = Edge::of(session.req_header(), &self.cors);
        let bodiless = session.is_body_empty();
        match admit::admit(self, session.req_header(), bodiless, &mut ctx.record).await {
            Ok(Decision::Admit(admission)) => {
                ctx.phase = Phase::Admitted(admission);
                return Ok(false);
            }
            Ok(Decision::Preflight) => {
                self.write_whole(session, ctx.preflight(session.req_header())?, Bytes::new()).await?
            }
            Err(rejection) => self.reject(session, ctx, &rejection).await?,
        }
        Ok(true)
    }

    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut RequestCtx) -> Result<Box<HttpPeer>> {
        // Silence can outlast the token: then the wait ends with it (SECURITY T19).
        let patience = ctx.admission()?.time_left(self.clock.now());
        let peer = self.upstream.peer(patience).await.map_err(|fault| ctx.fail(fault))?;
        Ok(Box::new(peer))
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        ctx: &mut RequestCtx,
        mut error: Box<Error>,
    ) -> Box<Error> {
        ctx.refusals += 1;
        error.set_retry(self.upstream.move_on(peer, ctx.refusals));
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut RequestCtx,
        client_reused: bool,
    ) -> Box<Error> {
        // One retry, of a connection that Electric closed before it said anything (PROTOCOL 4.4).
        error.retry.decide_reuse(client_reused && !ctx.retried && session.response_written().is_none());
        ctx.retried |= error.retry();
        error
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut RequestCtx,
    ) -> Result<()> {
        *request = ctx.admission()?.request_header(self.upstream.config(), &ctx.record.request_id)?;
        ctx.record.asked_upstream = Some(std::time::Instant::now());
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut RequestCtx,
    ) -> Result<()> {
        let admission = ctx.admission()?;
        let status = response.status.as_u16();
        let rule = admission.upstream.rule().as_str();
        if let Some(asked) = ctx.record.asked_upstream {
            self.metrics.upstream_answered(admission.upstream.is_live(), asked.elapsed());
        }
        if status >= 400 && status != 409 {
            self.metrics.upstream_refused(rule, status);
        }
        if let Some(fault) = reply::fault_of(response) {
            return Err(ctx.fail(fault));
        }
        self.recheck(ctx)?;
        *response = ctx.edge.answer_header(response, session.req_header().version, &ctx.record.request_id)?;
        // HTTP/1.0 knows no chunks: the end of the connection is the end of the answer.
        if session.is_process_shutting_down() || session.req_header().version == http::Version::HTTP_10 {
            session.set_keepalive(None);
        }
        ctx.error_body = (status == 400).then(ErrorBody::default);
        Ok(())
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut RequestCtx,
    ) -> Result<Option<Duration>> {
        if body.is_some() {
            self.recheck(ctx)?;
        }
        if let Some(error_body) = &mut ctx.error_body {
            let refused = error_body.take(body.take(), end_of_stream);
            *body = refused.map(|refused| ctx.record_refusal(refused));
        }
        Ok(None)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut RequestCtx) -> FailToProxy {
        let fault = ctx.fault(error, &self.verifier);
        let (request_id, rule) = (&ctx.record.request_id, ctx.record.rule_name());
        let (name, cause) = (fault.as_str(), error.etype().as_str());
        match fault {
            Fault::ClientGone | Fault::TokenExpired => {
                tracing::debug!(%request_id, rule, fault = name, cause, "{fault}");
            }
            _ => tracing::warn!(%request_id, rule, fault = name, cause, "{fault}"),
        }
        // An answer of ours that the client did not take is still that answer.
        if ctx.record.outcome == SERVED {
            ctx.record.outcome = fault.as_str();
        }
        // Pingora closes the connection after this, so the answer must say so.
        session.set_keepalive(None);
        let answered = session.response_written().is_some();
        let mut error_code = 0;
        if let Some(rejection) = fault.rejection().filter(|_| !answered) {
            error_code = rejection.answer().0.as_u16();
            if self.reject(session, ctx, &rejection).await.is_err() {
                error_code = 0;
            }
        }
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, ctx: &mut RequestCtx) {
        let status = session.response_written().map_or(0, |header| header.status.as_u16());
        self.metrics.answered(ctx.record.rule_name(), ctx.record.outcome, status);
        ctx.record.log(status, session.body_bytes_sent());
        ctx.phase = Phase::Answered;
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &RequestCtx, _error: &Error) -> bool {
        true // `fail_to_proxy` has written a line without the client's text
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        ctx: &RequestCtx,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        // Electric closes a connection after 50 requests (PROTOCOL 4.4): a retry is everyday life, so it is counted.
        self.metrics.upstream_retried(ctx.record.rule_name());
        true
    }

    fn request_summary(&self, _session: &Session, ctx: &RequestCtx) -> String {
        format!("request {} of rule {}", ctx.record.request_id, ctx.record.rule_name())
    }
}

/// A client that does not read, or an Electric that does not, is cut after this.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

impl Gateway {
    fn recheck(&self, ctx: &mut RequestCtx) -> Result<()> {
        ctx.admission()?.recheck(&self.verifier).map_err(|fault| ctx.fail(fault))
    }

    async fn reject(&self, session: &mut Session, ctx: &mut RequestCtx, rejection: &Rejection) -> Result<()> {
        let (_, code, _) = rejection.answer();
        if ctx.record.outcome == SERVED {
            ctx.record.outcome = code;
        }
        let body = Bytes::from(rejection.body());
        let header = ctx.edge.rejection_header(rejection, body.len(), &ctx.record.request_id)?;
        self.write_whole(session, header, body).await
    }

    async fn write_whole(&self, session: &mut Session, header: ResponseHeader, body: Bytes) -> Result<()> {
        let bodiless = header.status == StatusCode::NO_CONTENT || session.req_header().method == http::Method::HEAD;
        // The rest of a request that was not read must not become the next one (SECURITY P4).
        if !session.is_body_empty() || session.is_process_shutting_down() {
            session.set_keepalive(None);
        }
        // Whoever does not take our answer is a client that left, not a fault of ours.
        session.write_response_header(Box::new(header), bodiless).await.map_err(|error| error.into_down())?;
        if !bodiless {
            session.write_response_body(Some(body), true).await.map_err(|error| error.into_down())?;
        }
        Ok(())
    }
}
