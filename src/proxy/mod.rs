//! The request path on Pingora's phases: [`Gateway`] decides nothing itself.
//!
//! `request_filter` calls `admit`, the one function that knows the order of decisions, answers rejections, and lets
//! `follow` answer the admitted from a flight.

mod admit;
mod context;
mod cors;
mod follow;
mod reply;

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use pingora::http::ResponseHeader;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, Result};
use tokio::sync::watch;

use crate::auth::TokenVerifier;
use crate::clock::Clock;
use crate::config::{Cache, Limits};
use crate::fault::Fault;
use crate::flight::Hub;
use crate::gatekeeper::Gatekeeper;
use crate::limits::Budgets;
use crate::policy::PolicySet;
use crate::rejection::Rejection;
use crate::telemetry::{Metrics, SERVED};

use admit::Decision;
use context::RequestCtx;
pub use cors::CorsPolicy;
use reply::Edge;

/// Everything that answering a request needs.
pub struct Gateway {
    /// Checks tokens.
    pub verifier: Arc<TokenVerifier>,
    /// Decides; may be replaced at any time.
    pub policy: Arc<ArcSwap<PolicySet>>,
    /// Mints tokens for one shape, where it is configured.
    pub gatekeeper: Option<Gatekeeper>,
    /// What browsers are told.
    pub cors: CorsPolicy,
    /// Sizes.
    pub limits: Limits,
    /// What is told of sharing, and when an answer is compressed.
    pub cache: Cache,
    /// Electric Cloud's source.
    pub source_id: Option<String>,
    /// Requests at one time.
    pub budgets: Arc<Budgets>,
    /// Where answers come from.
    pub hub: Arc<Hub>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Tells those who wait that something has changed.
    pub changes: watch::Receiver<Change>,
}

/// What those who wait are told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// Goes up with each new policy.
    pub policy: u64,
    /// The process is about to stop.
    pub stopping: bool,
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = RequestCtx;

    fn new_ctx(&self) -> RequestCtx {
        RequestCtx::default()
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut RequestCtx) -> Result<bool> {
        session.set_write_timeout(Some(self.limits.write_timeout));
        ctx.edge = Edge::of(session.req_header(), &self.cors);
        let bodiless = session.is_body_empty();
        match admit::admit(self, session.req_header(), bodiless, &mut ctx.record).await {
            Ok(Decision::Admit(admission)) => self.serve(session, ctx, admission).await?,
            Ok(Decision::Answer(document)) => {
                ctx.record.outcome = document.outcome;
                let header = ctx.edge.document_header(&document, &ctx.record.request_id)?;
                self.write_whole(session, header, document.body.into()).await?;
            }
            Ok(Decision::Preflight(methods)) => {
                ctx.record.outcome = "preflight";
                let header = ctx.edge.preflight_header(session.req_header(), methods, &ctx.record.request_id)?;
                self.write_whole(session, header, Bytes::new()).await?;
            }
            Err(rejection) => self.reject(session, ctx, &rejection).await?,
        }
        Ok(true)
    }

    /// Never reached: `request_filter` answers every request.
    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut RequestCtx) -> Result<Box<HttpPeer>> {
        Err(ctx.fail(Fault::Internal))
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut RequestCtx) -> FailToProxy {
        let fault = ctx.fault(error);
        self.note(ctx, &fault);
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
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &RequestCtx, _error: &Error) -> bool {
        true // `fail_to_proxy` has written a line without the client's text
    }

    fn request_summary(&self, _session: &Session, ctx: &RequestCtx) -> String {
        format!("request {} of rule {}", ctx.record.request_id, ctx.record.rule_name())
    }
}

impl Gateway {
    /// Writes down what went wrong.
    fn note(&self, ctx: &mut RequestCtx, fault: &Fault) {
        let (request_id, rule, name) = (&ctx.record.request_id, ctx.record.rule_name(), fault.as_str());
        if fault.is_everyday() {
            tracing::debug!(%request_id, rule, fault = name, "{fault}");
        } else {
            tracing::warn!(%request_id, rule, fault = name, "{fault}");
        }
        // An answer of ours that the client did not take is still that answer.
        if ctx.record.outcome == SERVED {
            ctx.record.outcome = name;
        }
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
