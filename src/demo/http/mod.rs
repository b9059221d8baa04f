//! A small HTTP/1.1 server with control over every byte: header order, chunk framing, and deliberate faults.

mod read;
mod write;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use read::{Incoming, Reader};

/// A request as it was received.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The method, as written.
    pub method: String,
    /// The request target, as written: path and query.
    pub target: String,
    /// Names and values, in the order received. In a value that is not UTF-8 the invalid bytes are replaced.
    pub headers: Vec<(String, String)>,
    /// The body without its framing.
    pub body: Bytes,
    /// Whether the body was longer than [`Limits::body`]. The rest was read and dropped.
    pub body_too_large: bool,
}

impl Request {
    /// Returns the target before its first `?`.
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(self.target.as_str(), |(path, _)| path)
    }

    /// Returns the target after its first `?`; empty if there is none.
    pub fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// Returns the value of the first header with this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers_named(name).next()
    }

    /// Returns the values of all headers with this name.
    pub fn headers_named(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// The body of a response.
#[derive(Debug)]
pub enum Body {
    /// Nothing, and no framing header.
    Empty,
    /// A complete body, with `content-length`.
    Full(Bytes),
    /// Chunks. Each is written and flushed when it arrives; the end of the channel is the end of the body.
    Chunks(mpsc::Receiver<Bytes>),
}

impl Body {
    /// Returns a chunked body whose chunks are all known.
    pub fn chunks(parts: impl IntoIterator<Item = Bytes>) -> Self {
        let parts: Vec<Bytes> = parts.into_iter().collect();
        let (sender, receiver) = mpsc::channel(parts.len().max(1));
        for part in parts {
            // The channel has room for every part, so this cannot fail.
            let _ = sender.try_send(part);
        }
        Self::Chunks(receiver)
    }
}

/// How a response ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Complete; the connection stays open.
    KeepAlive,
    /// Complete; the connection closes without `connection: close`.
    Close,
    /// The connection closes before the body is complete: a byte or the last chunk is missing.
    Truncate,
    /// Like [`End::Truncate`], but the connection is reset.
    Reset,
}

/// A response to one request.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Written in this order, after `date` and the framing header.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Body,
    /// How the response ends.
    pub end: End,
    /// Whether `date` and the framing headers are left out, so that only `headers` is written.
    pub bare: bool,
    /// Whether the status line says HTTP/1.0.
    pub http_1_0: bool,
}

impl Reply {
    /// Returns a response without headers or body.
    pub const fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::Empty, end: End::KeepAlive, bare: false, http_1_0: false }
    }

    /// Returns a complete JSON response.
    pub fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status).with_header("content-type", "application/json; charset=utf-8").with_body(body)
    }

    /// Returns a response with only a status and `connection: close`, as Bandit sends for what it cannot read.
    pub(crate) fn refusal(status: u16) -> Self {
        let reply = Self { bare: true, ..Self::new(status) };
        reply.with_header("connection", "close").with_end(End::Close)
    }

    /// Appends a header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets a complete body.
    #[must_use]
    pub fn with_body(self, body: impl Into<Bytes>) -> Self {
        Self { body: Body::Full(body.into()), ..self }
    }

    /// Sets a chunked body whose chunks are all known.
    #[must_use]
    pub fn with_chunks(self, parts: impl IntoIterator<Item = Bytes>) -> Self {
        Self { body: Body::chunks(parts), ..self }
    }

    /// Sets how the answer ends.
    #[must_use]
    pub const fn with_end(mut self, end: End) -> Self {
        self.end = end;
        self
    }
}

/// The limits of the server. The defaults are those of Electric's server, Bandit.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests on one connection before it is closed without `connection: close`.
    pub requests: usize,
    /// How long a connection may wait for a request.
    pub idle: Duration,
    /// Bytes of a request line; this many or more are answered 414.
    pub request_line: usize,
    /// Bytes of a header line; more are answered 431.
    pub header_line: usize,
    /// Headers of a request; more are answered 431.
    pub headers: usize,
    /// Bytes of a request body that are kept; the rest is dropped.
    pub body: usize,
    /// Connections served at the same time; more wait in the listen queue.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests: 50,
            idle: Duration::from_secs(60),
            request_line: 10_000,
            header_line: 10_000,
            headers: 50,
            body: 8_000_000,
            connections: 20_000,
        }
    }
}

/// A bound listener that does not serve yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    limits: Limits,
}

impl Server {
    /// Binds to `addr`. Port 0 takes a free one.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn bind(addr: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(addr).await?, limits: Limits::default() })
    }

    /// Replaces the limits.
    #[must_use]
    pub const fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Returns the address that it is bound to.
    ///
    /// # Errors
    /// The system cannot tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves every connection with `handler` until the returned value is dropped.
    pub fn serve<H, F>(self, handler: H) -> Serving
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        Serving(tokio::spawn(accept(self, Arc::new(handler))))
    }
}

/// A running server. Dropping it closes the listener and every connection.
#[derive(Debug)]
pub struct Serving(JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn accept<H, F>(server: Server, handler: Arc<H>)
where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= server.limits.connections {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        match server.listener.accept().await {
            Ok((stream, _)) => {
                let handler = Arc::clone(&handler);
                connections.spawn(async move { serve_connection(stream, server.limits, &*handler).await });
            }
            // Usually no file descriptor is left: pause, so that connections can end.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Serves one connection. An error means that the client has gone, so there is nothing to send it to.
async fn serve_connection<H, F>(stream: TcpStream, limits: Limits, handler: &H) -> io::Result<()>
where
    H: Fn(Request) -> F,
    F: Future<Output = Reply>,
{
    stream.set_nodelay(true)?;
    let mut reader = Reader::new(stream, limits);
    for _ in 0..limits.requests {
        let Ok(incoming) = timeout(limits.idle, reader.next()).await else {
            return Ok(());
        };
        let (reply, head_only) = match incoming? {
            Incoming::End => return Ok(()),
            Incoming::Refused(reply) => (reply, false),
            Incoming::Request(request) => {
                let head_only = request.method == "HEAD";
                (handler(request).await, head_only)
            }
        };
        match write::reply(reader.stream(), reply, head_only).await? {
            End::KeepAlive if reader.keep_alive() => {}
            End::Reset => return Ok(()),
            End::KeepAlive | End::Close | End::Truncate => return reader.finish().await,
        }
    }
    reader.finish().await
}

#[cfg(test)]
mod tests;
