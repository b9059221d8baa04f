//! The accept loop of the client listeners.
//!
//! Pingora speaks HTTP on what is accepted here. Its own loop holds a future of nine KB and two buffers for each
//! connection, which is half of what a waiting client may cost.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use pingora::apps::ServerApp as _;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::{ALPN, Ssl as _};
use pingora::server::ShutdownWatch;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use super::socket::Socket;
use crate::proxy::{Connected, Front};

/// A TLS handshake that takes longer is not one.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// When no more files can be opened, the next try is worth something only after some were closed.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// The log tells of it no more often than this.
const TELL: Duration = Duration::from_secs(10);

/// Accepts until `shutdown`; each connection is served by a task of its own, which outlives this.
pub(super) async fn accept(
    listener: TcpListener,
    tls: Option<Arc<Acceptor>>,
    front: Arc<Front>,
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
                // Closed as it is dropped: before it is encrypted there is no way to say more.
                let Ok(connection) = front.connect(peer.ip()) else { continue };
                let app = Arc::new(Connected::new(Arc::clone(&front), connection));
                let shutdown = shutdown.clone();
                match &tls {
                    None => drop(tokio::spawn(async move { plain(tcp, &app, &shutdown).await })),
                    Some(acceptor) => {
                        let acceptor = Arc::clone(acceptor);
                        tokio::spawn(async move { encrypted(tcp, &acceptor, &app, &shutdown).await });
                    }
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                front.accept_failed();
                if told.is_none_or(|told| told.elapsed() >= TELL) {
                    tracing::error!(%error, "cannot accept connections: they wait until others end");
                    told = Some(Instant::now());
                }
                sleep(EXHAUSTED).await;
            }
        }
    }
}

async fn plain(tcp: TcpStream, app: &Arc<Connected>, shutdown: &ShutdownWatch) {
    let _ = tcp.set_nodelay(true);
    if app.has_spoken(&tcp, shutdown).await {
        app.process_new(Box::new(Socket::new(tcp)), shutdown).await;
    }
}

async fn encrypted(tcp: TcpStream, acceptor: &Acceptor, app: &Arc<Connected>, shutdown: &ShutdownWatch) {
    let _ = tcp.set_nodelay(true);
    // On the heap: its future is large, and over long before the connection is.
    match timeout(HANDSHAKE, Box::pin(acceptor.tls_handshake(Socket::new(tcp)))).await {
        Ok(Ok(stream)) if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) => {
            // On the heap: it is of this version of HTTP alone.
            Box::pin(async {
                tokio::select! {
                    _ = app.process_new(Box::new(stream), shutdown) => {}
                    () = app.never_begins(shutdown) => tracing::debug!("no HTTP/2 behind a TLS handshake"),
                }
            })
            .await;
        }
        Ok(Ok(stream)) => drop(app.process_new(Box::new(stream), shutdown).await),
        Ok(Err(error)) => tracing::debug!(cause = error.etype().as_str(), "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

/// The client was gone before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}
