//! What a server says of itself.

use std::fmt;
use std::time::Duration;

use http::header::{HOST, USER_AGENT};
use http::{Method, Version};
use pingora::http::RequestHeader;
use tokio::time::timeout;

use super::server::UpstreamServer;
use crate::fault::Fault;

/// The answer to `GET /v1/health` (docs/electric.md, "Routes and methods").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// 200: it serves shapes.
    Active,
    /// 202, starting or waiting for its database; any other status is no Electric.
    Says(u16),
    /// No answer in time.
    Silent,
    /// No connection, or one that broke.
    Unreachable,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active => f.write_str("active"),
            Self::Says(status) => write!(f, "/v1/health says {status}"),
            Self::Silent => f.write_str("/v1/health does not answer"),
            Self::Unreachable => f.write_str("cannot be reached"),
        }
    }
}

/// What we call ourselves.
pub(crate) const AGENT: &str = concat!("shapegate/", env!("CARGO_PKG_VERSION"));

/// A server that takes longer to say how it is, its connection included, is not well.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks a server, on a connection of its own.
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
    // Its body says the same in a word, and the connection is not used again.
    session.shutdown().await;
    Ok(status)
}
