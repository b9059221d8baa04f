//! One client's connection, as Pingora serves it.

use std::sync::Arc;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;

use super::Gateway;
use crate::limits::Connection;

/// The gateway, and the connection that its requests come on. Pingora's own digest of a socket, which could carry an
/// address, takes five times the memory, for each client that waits.
pub(crate) struct Connected {
    gateway: Arc<Gateway>,
    connection: Connection,
}

impl Connected {
    pub(crate) const fn new(gateway: Arc<Gateway>, connection: Connection) -> Self {
        Self { gateway, connection }
    }
}

#[async_trait]
impl HttpServerApp for Connected {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.gateway.process(&self.connection, Box::new(session), shutdown).await
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.gateway.options)
    }
}
