//! Checks the health of an Electric server.

use std::fmt;
use std::time::Duration;

use http::header::{HOST, USER_AGENT};
use http::{Method, StatusCode, Version};
use pingora::http::RequestHeader;
use tokio::time::timeout;

use super::server::UpstreamServer;
use crate::fault::Fault;

/// The result of `GET /v1/health` (docs/electric.md, "Routes and methods").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// Status 200: the server serves shapes.
    Active,
    /// Another status. 202: the server is starting or waiting for its database. Others do not come from Electric.
    Says(u16),
    /// No response within the timeout.
    Silent,
    /// No connection, or a broken one.
    Unreachable,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active => f.write_str("active"),
            Self::Says(status) => write!(f, "/v1/health returns {status}"),
            Self::Silent => f.write_str("/v1/health does not respond"),
            Self::Unreachable => f.write_str("is unreachable"),
        }
    }
}

/// The `User-Agent` of shapegate's own requests.
pub(crate) const AGENT: &str = concat!("shapegate/", env!("CARGO_PKG_VERSION"));

/// The timeout of a health check, connection included. A slower server is not healthy.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Checks a server's health over a new connection.
pub(super) async fn ask(server: &UpstreamServer) -> Health {
    match status_within(server, "/v1/health").await {
        Ok(200) => Health::Active,
        Ok(status) => Health::Says(status),
        Err(health) => health,
    }
}

/// Checks each secret of the server's upstream, the one in use first, and uses the first that Electric accepts. Returns
/// whether it accepts one; an upstream without secrets has nothing to accept.
///
/// # Errors
/// The server does not respond, so that it is not known.
pub(super) async fn accepts_secret(server: &UpstreamServer) -> Result<bool, Health> {
    let first = server.secret_in_use();
    let places = [Some(first), server.other_secret(first)].into_iter().flatten();
    let mut checks = places.filter_map(|place| Some((place, server.secret_check(place)?))).peekable();
    let mut accepted = checks.peek().is_none();
    for (place, check) in checks {
        let status = status_within(server, check.expose()).await?;
        // The check names no table, so 400 is what Electric says to a secret that it accepts.
        let status = StatusCode::from_u16(status).map_err(|_| Health::Says(status))?;
        if status != StatusCode::UNAUTHORIZED {
            server.take_secret(place, status);
            server.secret.judge(status);
            accepted = true;
            break;
        }
    }
    Ok(accepted)
}

async fn status_within(server: &UpstreamServer, target: &str) -> Result<u16, Health> {
    match timeout(TIMEOUT, status(server, target)).await {
        Ok(Ok(status)) => Ok(status),
        Err(_) | Ok(Err(Fault::UpstreamTimeout)) => Err(Health::Silent),
        Ok(Err(_)) => Err(Health::Unreachable),
    }
}

async fn status(server: &UpstreamServer, target: &str) -> Result<u16, Fault> {
    let broken = |error: Box<pingora::Error>| Fault::of_upstream(&error);
    let mut session = server.connect_anew().await?;
    let mut header = RequestHeader::build_no_case(Method::GET, target.as_bytes(), Some(2)).map_err(broken)?;
    header.set_version(Version::HTTP_11);
    header.insert_header(HOST, server.url().authority()).map_err(broken)?;
    header.insert_header(USER_AGENT, AGENT).map_err(broken)?;
    session.write_request_header(Box::new(header)).await.map_err(broken)?;
    session.finish_request_body().await.map_err(broken)?;
    session.read_response_header().await.map_err(broken)?;
    let status = session.response_header().ok_or(Fault::Internal)?.status.as_u16();
    // The body is not read: it only explains the status, and the connection is not reused.
    session.shutdown().await;
    Ok(status)
}
