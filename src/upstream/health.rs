//! Checks the health of an Electric server.

use std::fmt;
use std::time::Duration;

use http::header::{HOST, USER_AGENT};
use http::{Method, Version};
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
    match timeout(TIMEOUT, status(server)).await {
        Ok(Ok(200)) => Health::Active,
        Ok(Ok(status)) => Health::Says(status),
        Err(_) | Ok(Err(Fault::UpstreamTimeout)) => Health::Silent,
        Ok(Err(_)) => Health::Unreachable,
    }
}

async fn status(server: &UpstreamServer) -> Result<u16, Fault> {
    let broken = |error: Box<pingora::Error>| Fault::of_upstream(&error);
    let mut session = server.connect_anew().await?;
    let mut header = RequestHeader::build_no_case(Method::GET, b"/v1/health", Some(2)).map_err(broken)?;
    header.set_version(Version::HTTP_11);
    header.insert_header(HOST, server.url().authority()).map_err(broken)?;
    header.insert_header(USER_AGENT, AGENT).map_err(broken)?;
    session.write_request_header(Box::new(header)).await.map_err(broken)?;
    session.finish_request_body().await.map_err(broken)?;
    session.read_response_header().await.map_err(broken)?;
    let status = session.response_header().ok_or(Fault::Internal)?.status.as_u16();
    // The body is not read: it only repeats the status, and the connection is not reused.
    session.shutdown().await;
    Ok(status)
}
