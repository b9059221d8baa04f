//! One client's connection, as Pingora serves it.

use std::future::{Future, pending};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::H2Options;
use pingora::server::ShutdownWatch;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::{Front, HEADER_TIMEOUT, last_call};
use crate::limits::Connection;

/// The front, and the connection that its requests come on. Pingora's own digest of a socket, which could carry an
/// address, takes five times the memory, for each client that waits.
pub(crate) struct Connected {
    front: Arc<Front>,
    connection: Connection,
    /// Whether a first request has begun.
    begun: AtomicBool,
}

impl Connected {
    pub(crate) const fn new(front: Arc<Front>, connection: Connection) -> Self {
        Self { front, connection, begun: AtomicBool::new(false) }
    }

    /// Ends where no request has begun in the time that a header may take, or when the process stops. Pingora waits for
    /// ever for the first bytes of HTTP/2 behind TLS.
    pub(crate) async fn never_begins(&self, shutdown: &ShutdownWatch) {
        never_set(&self.begun, silence(shutdown)).await;
    }

    /// Waits for the first byte where the protocol is told by that; `false` where it does not come in time, or the
    /// process stops.
    pub(crate) async fn has_spoken(&self, tcp: &TcpStream, shutdown: &ShutdownWatch) -> bool {
        if !self.front.options.h2c {
            return true;
        }
        // On the heap: it is over long before the connection is.
        Box::pin(async {
            let mut first = [0];
            tokio::select! {
                biased; // what has come already is answered
                peeked = tcp.peek(&mut first) => peeked.is_ok(),
                () = silence(shutdown) => false,
            }
        })
        .await
    }
}

/// How long a client may say nothing.
async fn silence(shutdown: &ShutdownWatch) {
    tokio::select! {
        () = sleep(HEADER_TIMEOUT) => {}
        () = last_call(shutdown.clone()) => {}
    }
}

async fn never_set(begun: &AtomicBool, silence: impl Future<Output = ()>) {
    silence.await;
    if begun.load(Ordering::Relaxed) {
        pending().await
    }
}

#[async_trait]
impl HttpServerApp for Connected {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.begun.store(true, Ordering::Relaxed);
        self.front.process(&self.connection, Box::new(session), shutdown).await
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.front.options)
    }

    fn h2_options(&self) -> Option<H2Options> {
        Some(self.front.h2_options())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;
    use tokio::time::{Instant, timeout};

    use super::super::LAST_CALL;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_never_begins_is_ended() {
        let (stop, shutdown) = watch::channel(false);
        let begun = AtomicBool::new(false);
        let start = Instant::now();
        never_set(&begun, silence(&shutdown)).await;
        assert_eq!(start.elapsed().as_secs(), HEADER_TIMEOUT.as_secs());
        stop.send_replace(true);
        never_set(&begun, silence(&shutdown)).await;
        assert_eq!(start.elapsed().as_secs(), (HEADER_TIMEOUT + LAST_CALL).as_secs());
        begun.store(true, Ordering::Relaxed);
        assert!(timeout(100 * HEADER_TIMEOUT, never_set(&begun, silence(&shutdown))).await.is_err());
    }
}
