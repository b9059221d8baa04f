//! The admin port: `/metrics`, `/healthz`, `/readyz`.

use std::sync::Arc;

use async_trait::async_trait;
use http::{Method, Response, StatusCode};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;

use super::readiness::Readiness;
use crate::auth::TokenVerifier;
use crate::flight::Hub;
use crate::limits::Limiter;
use crate::telemetry::{Audit, Metrics, Observed};

/// Answers operators and Prometheus; never bound where clients come in.
pub(super) struct Admin {
    metrics: Arc<Metrics>,
    verifier: Arc<TokenVerifier>,
    limiter: Arc<Limiter>,
    hub: Arc<Hub>,
    audit: Option<Arc<Audit>>,
    readiness: Arc<Readiness>,
}

impl Admin {
    pub(super) fn new(
        metrics: Arc<Metrics>,
        verifier: Arc<TokenVerifier>,
        limiter: Arc<Limiter>,
        hub: Arc<Hub>,
        audit: Option<Arc<Audit>>,
        readiness: Arc<Readiness>,
    ) -> Self {
        Self { metrics, verifier, limiter, hub, audit, readiness }
    }

    async fn metrics(&self) -> Response<Vec<u8>> {
        let observed = Observed {
            ready: self.readiness.missing().await.is_empty(),
            keys: &self.verifier.key_status(),
            limiter: &self.limiter,
            hub: &self.hub,
            audit: self.audit.as_deref(),
        };
        match self.metrics.render(&observed) {
            Ok(text) => answer(StatusCode::OK, prometheus::TEXT_FORMAT, text),
            Err(error) => {
                tracing::error!(%error, "metrics cannot be written");
                answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, b"metrics cannot be written\n".to_vec())
            }
        }
    }

    async fn readyz(&self) -> Response<Vec<u8>> {
        let missing = self.readiness.missing().await;
        let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = serde_json::json!({ "ready": missing.is_empty(), "missing": missing });
        answer(status, "application/json", format!("{body}\n").into_bytes())
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        if request.method != Method::GET {
            return answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, b"GET only\n".to_vec());
        }
        match request.uri.path() {
            "/healthz" => answer(StatusCode::OK, TEXT, b"ok\n".to_vec()),
            "/metrics" => self.metrics().await,
            "/readyz" => self.readyz().await,
            _ => answer(StatusCode::NOT_FOUND, TEXT, b"/healthz /metrics /readyz\n".to_vec()),
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

fn answer(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Vec<u8>> {
    let length = body.len();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    headers.insert(http::header::CONTENT_LENGTH, length.into());
    headers.insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}
