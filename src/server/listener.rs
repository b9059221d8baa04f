//! Accepts client connections.
//!
//! Pingora then serves HTTP on them. Its own accept loop holds a future of nine KB and two buffers for each connection,
//! half of what a waiting client may cost.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::{ALPN, Stream};
use pingora::server::ShutdownWatch;
use proxy_header::{Error, ParseConfig, ProxyHeader};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep, timeout};

use crate::limits::Connection;
use crate::proxy::{Connected, Gateway, Link, Listener, Proxy, Socket};

/// The timeout of what comes before a request: a header of the PROXY protocol, and a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The pause after the process runs out of file descriptors: a retry only succeeds after some are closed.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// The minimum time between two log lines about failed accepts.
const TELL: Duration = Duration::from_secs(10);

/// What the client listeners share.
#[derive(Clone)]
pub(super) struct Serving {
    pub(super) gateway: Gateway,
    pub(super) proxy: Arc<Proxy>,
    /// `None` serves plain HTTP.
    pub(super) tls: Option<Arc<Acceptor>>,
    pub(super) proxy_protocol: bool,
    pub(super) shutdown: ShutdownWatch,
}

/// Accepts connections until shutdown. Each is served by a separate task, which may outlive this one.
pub(super) async fn accept(listener: Listener, serving: Serving) {
    let mut shutdown = serving.shutdown.clone();
    let mut told: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((link, peer)) => {
                // Dropping the connection closes it: before TLS there is no way to send a response.
                let Ok(connection) = serving.gateway.connect(peer) else { continue };
                let serving = serving.clone();
                drop(tokio::spawn(async move { serving.open(link, peer, connection).await }));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                serving.gateway.metrics.accept_failed();
                if told.is_none_or(|told| told.elapsed() >= TELL) {
                    tracing::error!(%error, "cannot accept connections: they wait until others close");
                    told = Some(Instant::now());
                }
                sleep(EXHAUSTED).await;
            }
        }
    }
}

impl Serving {
    async fn open(self, mut link: Link, peer: Option<IpAddr>, mut connection: Connection) {
        let mut read = BytesMut::new();
        if self.proxy_protocol && self.gateway.limiter.is_proxy(peer) {
            // On the heap: it ends long before the connection does.
            let proxied = timeout(HANDSHAKE, Box::pin(proxied(&mut link, &mut read))).await;
            match proxied.unwrap_or(Err("took too long")) {
                // The proxy's own connection, for a health check.
                Ok(None) => {}
                Ok(Some(client)) => {
                    drop(connection);
                    let Ok(counted) = self.gateway.connect(Some(client)) else { return };
                    connection = counted;
                }
                Err(problem) => {
                    return tracing::debug!(
                        ?peer,
                        "the PROXY header of a trusted proxy {problem}; see server.proxy_protocol"
                    );
                }
            }
        }
        let connected = Connected::new(self.gateway, self.proxy, connection);
        let socket = connected.socket(link, &read);
        drop(read);
        match self.tls {
            None => connected.serve_plain(socket, &self.shutdown).await,
            Some(acceptor) => encrypted(socket, acceptor, &connected, &self.shutdown).await,
        }
    }
}

async fn encrypted(socket: Socket, acceptor: Arc<Acceptor>, connected: &Arc<Connected>, shutdown: &ShutdownWatch) {
    // Boxed, because the future is large and ends long before the connection does.
    match timeout(HANDSHAKE, Box::pin(handshake(socket, acceptor))).await {
        Ok(Ok(Opened::Plain(socket))) => Box::pin(connected.serve_misdirected(*socket, shutdown)).await,
        Ok(Ok(Opened::Encrypted(stream))) if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) => {
            // Boxed, because few connections use HTTP/2.
            Box::pin(connected.serve_http2(stream, shutdown)).await;
        }
        Ok(Ok(Opened::Encrypted(stream))) => connected.serve_http1(stream, None, shutdown).await,
        Ok(Err(cause)) => tracing::debug!(cause, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

/// What a connection to a TLS listener turns out to be.
enum Opened {
    Encrypted(Stream),
    /// Its first byte is that of an HTTP method, not of a TLS handshake.
    Plain(Box<Socket>),
}

async fn handshake(mut socket: Socket, acceptor: Arc<Acceptor>) -> Result<Opened, &'static str> {
    let mut first = [0_u8];
    socket.read_exact(&mut first).await.map_err(|_| "closed")?;
    socket.unread(&first);
    if first[0].is_ascii_uppercase() {
        return Ok(Opened::Plain(Box::new(socket)));
    }
    let stream = acceptor.tls_handshake(socket).await.map_err(|error| error.etype().as_str())?;
    Ok(Opened::Encrypted(Box::new(stream)))
}

/// Reads the header of the PROXY protocol, and returns the client that it names. `read` gets what comes after it.
async fn proxied(link: &mut Link, read: &mut BytesMut) -> Result<Option<IpAddr>, &'static str> {
    let without_tlvs = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    while read.len() < LONGEST_HEADER {
        match link.read_buf(read).await {
            Ok(0) | Err(_) => return Err("is cut off"),
            Ok(_) => {}
        }
        match ProxyHeader::parse(read, without_tlvs) {
            Ok((header, length)) => {
                let client = header.proxied_address().map(|address| address.source.ip());
                drop(read.split_to(length));
                return Ok(client);
            }
            Err(Error::BufferTooShort) => {}
            Err(_) => return Err("is missing or malformed"),
        }
    }
    Err("is too long")
}

/// The most bytes of a PROXY header that are read. Proxies add certificates and names to the addresses.
const LONGEST_HEADER: usize = 4096;

/// Returns whether the client disconnected before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}
