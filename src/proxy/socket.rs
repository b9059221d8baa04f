//! A client's connection that buffers small writes until flush. A header and a small body thus leave in one packet,
//! with one system call. A connection that waits has no buffer.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use super::link::Link;

/// A connection and its write buffer.
#[derive(Debug)]
pub(crate) struct Socket {
    link: Link,
    /// Bytes that wait for the flush.
    held: Vec<u8>,
    /// How many bytes of `held` have been sent.
    sent: usize,
    /// Bytes that were read to detect the protocol. They are read again.
    peeked: Vec<u8>,
    last_read: Arc<LastRead>,
}

/// When bytes arrived last on a connection.
#[derive(Debug)]
pub(crate) struct LastRead {
    start: Instant,
    /// Nanoseconds after `start`.
    after: AtomicU64,
}

impl LastRead {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), after: AtomicU64::new(0) }
    }

    pub(super) fn at(&self) -> Instant {
        self.start + Duration::from_nanos(self.after.load(Ordering::Relaxed))
    }

    fn now(&self) {
        let after = self.start.elapsed().as_nanos();
        self.after.store(u64::try_from(after).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// The most bytes that are buffered. A longer write is sent at once, together with the buffer and without a copy.
const HELD: usize = 4096;

/// How long the first bytes may take that Pingora needs to detect the protocol. Pingora itself sets no timeout.
const PEEK: Duration = Duration::from_secs(60);

impl Socket {
    pub(super) const fn new(link: Link, last_read: Arc<LastRead>) -> Self {
        Self { link, held: Vec::new(), sent: 0, peeked: Vec::new(), last_read }
    }

    /// Sends as much of `header` and `body` as the kernel accepts without waiting. Returns the number of bytes sent.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) fn try_send(&self, header: &[u8], body: &[u8]) -> io::Result<usize> {
        debug_assert!(self.held.is_empty(), "buffered bytes must be sent first");
        match self.link.try_write_vectored(&[IoSlice::new(header), IoSlice::new(body)]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            sent => sent,
        }
    }

    /// Sends all of `bytes`. Waits while the client does not read.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) async fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.link.writable().await?;
            bytes = &bytes[self.try_send(bytes, &[])?..];
        }
        Ok(())
    }

    /// Returns the socket behind a stream; `None` if the stream is encrypted.
    pub(super) fn of(stream: &Stream) -> Option<&Self> {
        (**stream).as_any().downcast_ref()
    }

    /// Puts back bytes that were read to detect the protocol. The next read returns them.
    pub(crate) fn unread(&mut self, bytes: &[u8]) {
        self.peeked.splice(..0, bytes.iter().copied());
    }

    /// Closes the connection with a TCP reset when it is dropped, so that the client sees an error.
    pub(crate) fn reset_on_close(&self) {
        self.link.reset_on_close();
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.held.len() {
            let written = ready!(Pin::new(&mut self.link).poll_write(context, &self.held[self.sent..]))?;
            self.advance(written)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Removes `written` bytes from the buffer. Returns how many of them came after it.
    fn advance(&mut self, written: usize) -> io::Result<usize> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let waiting = self.held.len() - self.sent;
        if written < waiting {
            self.sent += written;
            return Ok(0);
        }
        // Frees the buffer: a client in a long poll writes nothing for a long time.
        (self.held, self.sent) = (Vec::new(), 0);
        Ok(written - waiting)
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.peeked.is_empty() {
            let read = ready!(Pin::new(&mut self.link).poll_read(context, buf));
            self.last_read.now();
            return Poll::Ready(read);
        }
        let part = self.peeked.len().min(buf.remaining());
        buf.put_slice(&self.peeked[..part]);
        self.peeked.drain(..part);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.held.len() + buf.len() <= HELD {
            self.held.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        loop {
            let this = &mut *self;
            let slices = [IoSlice::new(&this.held[this.sent..]), IoSlice::new(buf)];
            let written = ready!(Pin::new(&mut this.link).poll_write_vectored(context, &slices))?;
            let of_buf = this.advance(written)?;
            if of_buf > 0 {
                return Poll::Ready(Ok(of_buf));
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.link).poll_shutdown(context)
    }
}

#[async_trait]
impl Shutdown for Socket {
    async fn shutdown(&mut self) {
        // The client may be gone already.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

#[async_trait]
impl Peek for Socket {
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        timeout(PEEK, self.read_exact(buf)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        self.unread(buf);
        Ok(true)
    }
}

impl UniqueID for Socket {
    fn id(&self) -> UniqueIDType {
        self.link.as_raw_fd()
    }
}

impl Ssl for Socket {}

impl GetTimingDigest for Socket {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Socket {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Socket {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (Socket::new(Link::Tcp(accepted.unwrap().0), Arc::new(LastRead::new())), client.unwrap())
    }

    #[tokio::test]
    async fn small_writes_are_sent_by_flush() {
        let (mut socket, mut client) = pair().await;
        socket.write_all(b"header ").await.unwrap();
        socket.write_all(b"body").await.unwrap();
        assert_eq!(client.try_read(&mut [0; 16]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        socket.flush().await.unwrap();
        let mut read = [0; 11];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!((&read, socket.held.capacity()), (b"header body", 0));
    }

    #[tokio::test]
    async fn large_writes_keep_their_order_when_the_client_is_slow() {
        let (mut socket, mut client) = pair().await;
        let body: Vec<u8> = (0..8 * 1024 * 1024_u32).map(|at| (at % 251) as u8).collect();
        let expected = [b"header".as_slice(), &body, b"end"].concat();
        let writing = async {
            socket.write_all(b"header").await.unwrap();
            socket.write_all(&body).await.unwrap();
            socket.write_all(b"end").await.unwrap();
            AsyncWriteExt::shutdown(&mut socket).await.unwrap();
        };
        let mut read = Vec::new();
        let (_, done) = tokio::join!(writing, client.read_to_end(&mut read));
        assert!(done.unwrap() == expected.len() && read == expected);
    }

    #[tokio::test]
    async fn direct_sends_keep_their_order_when_the_client_is_slow() {
        let (socket, mut client) = pair().await;
        let body: Vec<u8> = (0..8 * 1024 * 1024_u32).map(|at| (at % 251) as u8).collect();
        let expected = [b"header".as_slice(), &body].concat();
        socket.link.writable().await.unwrap();
        let sent = socket.try_send(b"header", &body).unwrap();
        assert!(
            (6..expected.len()).contains(&sent),
            "{sent} bytes sent: the socket buffer must fill up before the end"
        );
        assert_eq!(socket.try_send(b"", &expected[sent..]).unwrap(), 0);
        let mut read = vec![0; expected.len()];
        let (sent, done) = tokio::join!(socket.send(&expected[sent..]), client.read_exact(&mut read));
        assert!(sent.is_ok() && done.is_ok() && read == expected);
        drop(client);
        while socket.send(b"more").await.is_ok() {}
    }

    #[tokio::test]
    async fn peeked_bytes_are_read_again() {
        let (mut socket, mut client) = pair().await;
        client.write_all(b"GET / HTTP").await.unwrap();
        let mut first = [0; 4];
        assert!(socket.try_peek(&mut first).await.unwrap());
        let mut all = [0; 10];
        socket.read_exact(&mut all).await.unwrap();
        assert_eq!((&first, &all), (b"GET ", b"GET / HTTP"));
    }
}
