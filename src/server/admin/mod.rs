//! Serves the admin port: `/metrics`, `/healthz`, `/readyz` and `/revocations`.

mod push;
mod scrape;

use std::net::SocketAddr;
use std::os::fd::IntoRawFd;
use std::sync::Arc;

use async_trait::async_trait;
use http::header::CONNECTION;
use http::{HeaderValue, Method, Response, StatusCode, Version};
use pingora::apps::http_app::ServeHttp;
use pingora::http::RequestHeader;
use pingora::listeners::ListenerConfig;
use pingora::protocols::http::ServerSession;
use pingora::server::{Fds, ListenFds};
use pingora::services::Service as _;
use pingora::services::listening::Service;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::scrape::State;
use super::reload::Reloader;
use super::sockets::BoundSocket;
use crate::proxy::{Gateway, Report};

/// Serves operators and Prometheus, on a separate port that clients cannot reach.
#[derive(Clone)]
pub(super) struct Admin {
    gateway: Gateway,
    reloader: Reloader,
}

impl Admin {
    pub(super) fn new(gateway: Gateway, reloader: Reloader) -> Self {
        Self { gateway, reloader }
    }

    async fn metrics(&self) -> Response<Vec<u8>> {
        let report = self.gateway.report().await;
        let gateway = &self.gateway;
        let state = State {
            ready: report.missing.is_empty(),
            config_current: self.reloader.is_current(),
            servers: &report.servers,
            keys: &gateway.rules().verifier.key_status(),
            revocations: gateway.rules().verifier.revocations().status(),
            limiter: &gateway.limiter,
            hub: &gateway.hub,
            audit: gateway.audit.as_deref(),
        };
        match scrape::render(&gateway.metrics, &state) {
            Ok(text) => answer(StatusCode::OK, prometheus::TEXT_FORMAT, text),
            Err(error) => {
                tracing::error!(%error, "cannot write the metrics");
                answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, b"cannot write the metrics\n".to_vec())
            }
        }
    }

    async fn readyz(&self) -> Response<Vec<u8>> {
        let Report { missing, degraded, .. } = self.gateway.report().await;
        let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = serde_json::json!({ "ready": missing.is_empty(), "missing": missing, "degraded": degraded });
        answer(status, "application/json", format!("{body}\n").into_bytes())
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        if session.req_header().uri.path() == "/revocations" {
            return self.push(session).await;
        }
        let (method, kept) = (session.req_header().method.clone(), is_kept(session.req_header()));
        if !kept {
            session.set_keepalive(None);
        }
        let mut response = match (&method, session.req_header().uri.path()) {
            (&Method::GET | &Method::HEAD, "/healthz") => answer(StatusCode::OK, TEXT, b"ok\n".to_vec()),
            (&Method::GET | &Method::HEAD, "/metrics") => self.metrics().await,
            (&Method::GET | &Method::HEAD, "/readyz") => self.readyz().await,
            (&Method::GET | &Method::HEAD, _) => {
                answer(StatusCode::NOT_FOUND, TEXT, b"/healthz /metrics /readyz /revocations\n".to_vec())
            }
            _ => answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, b"GET and HEAD only\n".to_vec()),
        };
        if method == Method::HEAD {
            response.body_mut().clear();
        }
        response
    }
}

/// An open admin port.
pub(super) struct AdminPort {
    shutdown: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl AdminPort {
    /// Starts serving on the socket. Pingora finds the socket by its address.
    pub(super) fn open(admin: Admin, socket: BoundSocket<SocketAddr>) -> Self {
        let name = socket.address.to_string();
        let mut fds = Fds::new();
        fds.add(name.clone(), socket.socket.into_raw_fd());
        let fds: ListenFds = Arc::new(parking_lot::Mutex::new(fds));
        let mut service = Service::new("admin".to_owned(), admin);
        service.add_listener(ListenerConfig::tcp(name));
        let (shutdown, watch) = watch::channel(false);
        Self { shutdown, serving: tokio::spawn(async move { service.start_service(Some(fds), watch, 1).await }) }
    }

    /// Closes the port once the responses in flight are sent.
    pub(super) async fn close(self) {
        self.shutdown.send_replace(true);
        // A panic of the service is already logged.
        let _ = self.serving.await;
    }
}

/// Whether the client expects that the connection stays open. HTTP/1.0 needs `Connection: keep-alive` for that.
fn is_kept(request: &RequestHeader) -> bool {
    let connection = request.headers.get(CONNECTION).map(HeaderValue::as_bytes).unwrap_or_default();
    match request.version {
        Version::HTTP_10 => connection.eq_ignore_ascii_case(b"keep-alive"),
        _ => !connection.eq_ignore_ascii_case(b"close"),
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

fn answer(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Vec<u8>> {
    let length = body.len();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(http::header::CONTENT_LENGTH, length.into());
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
