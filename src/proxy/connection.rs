//! One client's connection: reads the first bytes of each request, runs the phases, and then waits for the flight.
//!
//! An idle HTTP/1.1 connection holds neither Pingora's request future nor its read buffer: a session is made when the
//! first bytes of a request have arrived.

use std::future::{pending, poll_fn};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::ready;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp as _};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::H2Options;
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::context::Arrival;
use super::gateway::{Gateway, Proxy};
use super::link::Link;
use super::request_line::RequestLine;
use super::rules::Change;
use super::socket::{LastRead, Socket};
use crate::limits::Connection;

/// An accepted connection, with the gateway and the proxy that serve its requests.
pub(crate) struct Connected {
    gateway: Gateway,
    proxy: Arc<Proxy>,
    connection: Arc<Connection>,
    last_read: Arc<LastRead>,
    /// Whether a first request has begun.
    begun: AtomicBool,
    /// Whether the client speaks plain HTTP where TLS is expected.
    misdirected: AtomicBool,
}

/// How long a header may take. Pingora limits each read to a minute, but a header can arrive one byte at a time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(90);

/// How long an idle connection stays open when the process stops. Its client does not know that yet, and may have sent
/// a request: it is answered with `Connection: close` (compare nginx's `keepalive_min_timeout`).
const STOPPING_KEEPALIVE: Duration = Duration::from_secs(5);

/// The first bytes of HTTP/2 (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes read before a session is made. Most headers are shorter.
const FIRST_READ: usize = 2048;

impl Connected {
    pub(crate) fn new(gateway: Gateway, proxy: Arc<Proxy>, connection: Connection) -> Arc<Self> {
        let (connection, last_read) = (Arc::new(connection), Arc::new(LastRead::new()));
        let (begun, misdirected) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { gateway, proxy, connection, last_read, begun, misdirected })
    }

    /// Prepares the client's connection. `read` are bytes that were read from it already.
    pub(crate) fn socket(&self, link: Link, read: &[u8]) -> Socket {
        let mut socket = Socket::new(link, Arc::clone(&self.last_read));
        socket.unread(read);
        socket
    }

    /// Serves a client that speaks plain HTTP where TLS is expected. Every request is rejected.
    pub(crate) async fn serve_misdirected(self: &Arc<Self>, socket: Socket, shutdown: &ShutdownWatch) {
        self.misdirected.store(true, Ordering::Relaxed);
        self.serve_http1(Box::new(socket), None, shutdown).await;
    }

    /// Serves a connection without TLS. With `h2c`, its first bytes tell whether it speaks HTTP/2.
    pub(crate) async fn serve_plain(self: &Arc<Self>, mut socket: Socket, shutdown: &ShutdownWatch) {
        let first = first_bytes(&mut socket, self.idle(), pin!(stopped(shutdown.clone()))).await;
        let Some(first) = first else { return };
        if !self.gateway.options().h2c || !may_be_preface(&first) {
            return self.serve_http1(Box::new(socket), Some(first), shutdown).await;
        }
        // On the heap: few connections get here.
        Box::pin(async {
            let Some(first) = rest_of_preface(&mut socket, first, self.idle(), shutdown).await else { return };
            if !first.starts_with(PREFACE) {
                return self.serve_http1(Box::new(socket), Some(first), shutdown).await;
            }
            socket.unread(&first);
            self.serve_http2(Box::new(socket), shutdown).await;
        })
        .await;
    }

    /// Serves a connection that has negotiated HTTP/2. Pingora waits for its first bytes without a timeout, so the
    /// connection is closed if no request begins within [`HEADER_TIMEOUT`].
    pub(crate) async fn serve_http2(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) {
        tokio::select! {
            _ = self.process_new(stream, shutdown) => {}
            () = never_set(&self.begun, silence(HEADER_TIMEOUT, shutdown)) => tracing::debug!("no request over HTTP/2"),
        }
    }

    /// Serves requests over HTTP/1.1, one after the other. `first` contains bytes that were read already.
    pub(crate) async fn serve_http1(
        self: &Arc<Self>,
        mut stream: Stream,
        mut first: Option<BytesMut>,
        shutdown: &ShutdownWatch,
    ) {
        let mut settings: Option<HttpPersistentSettings> = None;
        let (mut stopped, mut changes) = (pin!(stopped(shutdown.clone())), self.gateway.changes.clone());
        loop {
            let bytes = match first.take() {
                Some(bytes) => bytes,
                None => match first_bytes(&mut stream, self.idle(), stopped.as_mut()).await {
                    Some(bytes) => bytes,
                    None => return,
                },
            };
            let Some(bytes) = whole_line(&mut stream, bytes, stopped.as_mut()).await else { return };
            let session = self.http1_session(stream, settings.take(), bytes);
            let Some(reused) = self.serve(session, shutdown, &mut changes).await else { return };
            let (next, persistent) = reused.consume();
            (stream, settings) = (next, persistent);
        }
    }

    /// How long the connection may be idle between two requests.
    fn idle(&self) -> Duration {
        self.gateway.settings().h1_idle_timeout
    }

    /// Makes a session for a request whose first bytes are `read`.
    fn http1_session(&self, stream: Stream, settings: Option<HttpPersistentSettings>, read: BytesMut) -> ServerSession {
        let mut session = ServerSession::new_http1(stream);
        match settings {
            Some(settings) => settings.apply_to_session(&mut session),
            None => session.set_keepalive(Some(self.idle().as_secs())),
        }
        session.set_pipelined_prefix(read);
        session
    }

    /// Serves one request. Returns the connection if it can take another one.
    ///
    /// Not an `async fn`, whose future would have room for the session while the client waits.
    fn serve<'a>(
        self: &'a Arc<Self>,
        session: ServerSession,
        shutdown: &'a ShutdownWatch,
        changes: &'a mut watch::Receiver<Change>,
    ) -> impl Future<Output = Option<ReusedHttpStream>> + Send + 'a {
        let misdirected = self.misdirected.load(Ordering::Relaxed);
        let arrival = Arrival::new(Arc::clone(&self.connection), self.last_read.at(), misdirected);
        let phases = self.run_phases(Arc::clone(&arrival), session, shutdown);
        async move {
            let reused = phases.await?;
            match arrival.take().map(|waiting| waiting.follow(&self.gateway, changes)) {
                Some(following) => {
                    drop(reused);
                    following.await
                }
                None => reused,
            }
        }
    }

    /// Runs the phases of a request. Returns `None` if its header does not arrive in time, or the process stops.
    ///
    /// On the heap and dropped at their end: a client that waits afterwards does not hold their future.
    fn run_phases<'a>(
        self: &'a Arc<Self>,
        arrival: Arc<Arrival>,
        session: ServerSession,
        shutdown: &'a ShutdownWatch,
    ) -> Pin<Box<dyn Future<Output = Option<Option<ReusedHttpStream>>> + Send + 'a>> {
        let phases = self.proxy.process_new_http(session, shutdown);
        Box::pin(async move {
            let phases = arrival.scope(phases);
            tokio::select! {
                biased; // bytes that have arrived are answered
                reused = phases => Some(reused),
                () = never_set(arrival.begun(), silence(HEADER_TIMEOUT, shutdown)) => None,
            }
        })
    }
}

#[async_trait]
impl HttpServerApp for Connected {
    /// Serves a request over HTTP/2.
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.begun.store(true, Ordering::Relaxed);
        let mut changes = self.gateway.changes.clone();
        self.serve(session, shutdown, &mut changes).await
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(self.gateway.options())
    }

    fn h2_options(&self) -> Option<H2Options> {
        Some(self.gateway.h2_options())
    }
}

/// Waits for the first bytes of a request. Returns `None` if the client disconnects or stays silent for `idle`, or if
/// the process has [`stopped`]; it must not be called again then.
async fn first_bytes<S: AsyncRead + Unpin>(
    stream: &mut S,
    idle: Duration,
    stopped: Pin<&mut impl Future<Output = ()>>,
) -> Option<BytesMut> {
    let read = poll_fn(|context| {
        // On the stack: an idle connection holds no buffer.
        let mut bytes = [MaybeUninit::uninit(); FIRST_READ];
        let mut buffer = ReadBuf::uninit(&mut bytes);
        let read = ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer));
        std::task::Poll::Ready(read.map(|()| BytesMut::from(buffer.filled())))
    });
    let bytes = tokio::select! {
        biased; // bytes that have arrived are answered
        read = read => read.ok()?,
        () = sleep(idle) => return None,
        () = stopped => return None,
    };
    (!bytes.is_empty()).then_some(bytes)
}

/// Reads on until the request line is complete, and shortens a target that no parser accepts.
async fn whole_line<S: AsyncRead + Unpin>(
    stream: &mut S,
    first: BytesMut,
    mut stopped: Pin<&mut impl Future<Output = ()>>,
) -> Option<BytesMut> {
    if RequestLine::is_whole(&first) {
        return Some(first);
    }
    let reading = async {
        let (mut line, mut head, mut bytes) = (RequestLine::default(), BytesMut::new(), first);
        while !line.read(&bytes, &mut head) {
            bytes = first_bytes(stream, HEADER_TIMEOUT, stopped.as_mut()).await?;
        }
        Some(head)
    };
    // On the heap: few request lines get here.
    timeout(HEADER_TIMEOUT, Box::pin(reading)).await.ok()?
}

fn may_be_preface(bytes: &[u8]) -> bool {
    let length = bytes.len().min(PREFACE.len());
    bytes[..length] == PREFACE[..length]
}

/// Reads on while the bytes may still become the preface of HTTP/2.
async fn rest_of_preface(
    socket: &mut Socket,
    mut first: BytesMut,
    idle: Duration,
    shutdown: &ShutdownWatch,
) -> Option<BytesMut> {
    while first.len() < PREFACE.len() && may_be_preface(&first) {
        first.unsplit(first_bytes(socket, idle, pin!(stopped(shutdown.clone()))).await?);
    }
    Some(first)
}

/// Waits for `limit`, the time in which a client may send nothing. Returns earlier when the process stops.
async fn silence(limit: Duration, shutdown: &ShutdownWatch) {
    tokio::select! {
        () = sleep(limit) => {}
        () = stopped(shutdown.clone()) => {}
    }
}

/// Returns [`STOPPING_KEEPALIVE`] after the process begins to stop.
async fn stopped(mut shutdown: ShutdownWatch) {
    let _ = shutdown.wait_for(|stop| *stop).await;
    sleep(STOPPING_KEEPALIVE).await;
    // Lets the reader see bytes that have arrived in the meantime.
    tokio::task::yield_now().await;
}

/// Returns after `silence` if no request has begun.
async fn never_set(begun: &AtomicBool, silence: impl Future<Output = ()>) {
    silence.await;
    if begun.load(Ordering::Relaxed) {
        pending().await
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tokio::time::Instant;

    use super::*;

    /// Returns the size of the future that a function returns, in bytes.
    pub(in crate::proxy) fn size<A, F: Future>(_: fn(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn future_of_a_connection_fits_into_1_kib() {
        type Arguments = (&'static Arc<Connected>, Socket, &'static ShutdownWatch);
        let plain = size(|(connected, socket, shutdown): Arguments| connected.serve_plain(socket, shutdown));
        assert!(plain < 1024, "{plain}");
    }

    #[tokio::test(start_paused = true)]
    async fn connection_ends_only_if_no_request_begins() {
        let (stop, shutdown) = watch::channel(false);
        let begun = AtomicBool::new(false);
        let start = Instant::now();
        never_set(&begun, silence(HEADER_TIMEOUT, &shutdown)).await;
        assert_eq!(start.elapsed().as_secs(), HEADER_TIMEOUT.as_secs());
        stop.send_replace(true);
        never_set(&begun, silence(HEADER_TIMEOUT, &shutdown)).await;
        assert_eq!(start.elapsed().as_secs(), (HEADER_TIMEOUT + STOPPING_KEEPALIVE).as_secs());
        begun.store(true, Ordering::Relaxed);
        assert!(timeout(100 * HEADER_TIMEOUT, never_set(&begun, silence(HEADER_TIMEOUT, &shutdown))).await.is_err());
    }
}
