//! Accepts client connections.
//!
//! Pingora then serves HTTP on them. Its own accept loop holds a future of nine KB and two buffers for each connection,
//! half of what a waiting client may cost.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use pingora::listeners::tls::Acceptor;
use pingora::protocols::{ALPN, Ssl as _};
use pingora::server::ShutdownWatch;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::proxy::{Connected, Gateway, Proxy};

/// The timeout of a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The pause after the process runs out of file descriptors: a retry only succeeds after some are closed.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// The minimum time between two log lines about failed accepts.
const TELL: Duration = Duration::from_secs(10);

/// Accepts connections until `shutdown`. Each is served by a separate task, which may outlive this one.
pub(super) async fn accept(
    listener: TcpListener,
    tls: Option<Arc<Acceptor>>,
    gateway: Gateway,
    proxy: Arc<Proxy>,
    mut shutdown: ShutdownWatch,
) {
    let mut told: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((tcp, peer)) => {
                // Dropping the socket closes it: before TLS there is no way to send a response.
                let Ok(connection) = gateway.connect(peer.ip()) else { continue };
                let connected = Connected::new(gateway.clone(), Arc::clone(&proxy), connection);
                let shutdown = shutdown.clone();
                match &tls {
                    None => drop(tokio::spawn(async move { plain(tcp, &connected, &shutdown).await })),
                    Some(acceptor) => {
                        let acceptor = Arc::clone(acceptor);
                        tokio::spawn(async move { encrypted(tcp, &acceptor, &connected, &shutdown).await });
                    }
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                gateway.metrics.accept_failed();
                if told.is_none_or(|told| told.elapsed() >= TELL) {
                    tracing::error!(%error, "cannot accept connections: they wait until others close");
                    told = Some(Instant::now());
                }
                sleep(EXHAUSTED).await;
            }
        }
    }
}

async fn plain(tcp: TcpStream, connected: &Arc<Connected>, shutdown: &ShutdownWatch) {
    let _ = tcp.set_nodelay(true);
    connected.serve_plain(connected.socket(tcp), shutdown).await;
}

async fn encrypted(tcp: TcpStream, acceptor: &Acceptor, connected: &Arc<Connected>, shutdown: &ShutdownWatch) {
    let _ = tcp.set_nodelay(true);
    // Boxed, because the future is large and ends long before the connection does.
    match timeout(HANDSHAKE, Box::pin(acceptor.tls_handshake(connected.socket(tcp)))).await {
        Ok(Ok(stream)) if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) => {
            // Boxed, because few connections use HTTP/2.
            Box::pin(connected.serve_http2(Box::new(stream), shutdown)).await;
        }
        Ok(Ok(stream)) => connected.serve_http1(Box::new(stream), None, shutdown).await,
        Ok(Err(error)) => tracing::debug!(cause = error.etype().as_str(), "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

/// Returns whether the client disconnected before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}
