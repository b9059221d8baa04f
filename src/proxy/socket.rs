//! A client's TCP connection. What is written leaves with the flush, or once it is much: a header and its body are one
//! packet and one system call, and a connection that waits holds no buffer.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The connection, and what waits for the flush.
#[derive(Debug)]
pub(crate) struct Socket {
    tcp: TcpStream,
    held: Vec<u8>,
    /// Bytes of `held` that have left.
    sent: usize,
    /// Read to see what protocol it is, and to be read again.
    peeked: Vec<u8>,
}

/// Bytes held back for the flush; what is longer leaves together with them, uncopied.
const HELD: usize = 4096;

/// Pingora waits for ever for the bytes that tell the protocol.
const PEEK: Duration = Duration::from_secs(60);

impl Socket {
    pub(crate) const fn new(tcp: TcpStream) -> Self {
        Self { tcp, held: Vec::new(), sent: 0, peeked: Vec::new() }
    }

    /// Sends what the kernel takes at once of `header` and `body`; says how many bytes that is.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) fn try_send(&self, header: &[u8], body: &[u8]) -> io::Result<usize> {
        debug_assert!(self.held.is_empty(), "what is held comes first");
        match self.tcp.try_write_vectored(&[IoSlice::new(header), IoSlice::new(body)]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            sent => sent,
        }
    }

    /// Sends all of `bytes`, as the client takes them.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) async fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.tcp.writable().await?;
            bytes = &bytes[self.try_send(bytes, &[])?..];
        }
        Ok(())
    }

    /// Puts bytes back that were read to tell the protocol; they are read again.
    pub(crate) fn unread(&mut self, bytes: &[u8]) {
        self.peeked.splice(..0, bytes.iter().copied());
    }

    /// Makes the end of this connection look broken to the client.
    pub(crate) fn reset_on_close(&self) {
        // The connection may be broken already.
        let _ = self.tcp.set_zero_linger();
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.held.len() {
            let written = ready!(Pin::new(&mut self.tcp).poll_write(context, &self.held[self.sent..]))?;
            self.advance(written)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Notes that `written` bytes have left; says how many of them were not of `held`.
    fn advance(&mut self, written: usize) -> io::Result<usize> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let waiting = self.held.len() - self.sent;
        if written < waiting {
            self.sent += written;
            return Ok(0);
        }
        // Given back: whoever waits for the next change writes nothing for a long time.
        (self.held, self.sent) = (Vec::new(), 0);
        Ok(written - waiting)
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.peeked.is_empty() {
            return Pin::new(&mut self.tcp).poll_read(context, buf);
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
            let written = ready!(Pin::new(&mut this.tcp).poll_write_vectored(context, &slices))?;
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
        Pin::new(&mut self.tcp).poll_shutdown(context)
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
        self.tcp.as_raw_fd()
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
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (Socket::new(accepted.unwrap().0), client.unwrap())
    }

    #[tokio::test]
    async fn what_is_small_leaves_with_the_flush() {
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
    async fn what_is_large_keeps_its_order_through_a_full_pipe() {
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
    async fn what_is_sent_past_the_flush_keeps_its_order_too() {
        let (socket, mut client) = pair().await;
        let body: Vec<u8> = (0..8 * 1024 * 1024_u32).map(|at| (at % 251) as u8).collect();
        let expected = [b"header".as_slice(), &body].concat();
        socket.tcp.writable().await.unwrap();
        let sent = socket.try_send(b"header", &body).unwrap();
        assert!((6..expected.len()).contains(&sent), "{sent}: the pipe is full long before the end");
        assert_eq!(socket.try_send(b"", &expected[sent..]).unwrap(), 0);
        let mut read = vec![0; expected.len()];
        let (sent, done) = tokio::join!(socket.send(&expected[sent..]), client.read_exact(&mut read));
        assert!(sent.is_ok() && done.is_ok() && read == expected);
        drop(client);
        while socket.send(b"more").await.is_ok() {}
    }

    #[tokio::test]
    async fn what_was_peeked_is_read_again() {
        let (mut socket, mut client) = pair().await;
        client.write_all(b"GET / HTTP").await.unwrap();
        let mut first = [0; 4];
        assert!(socket.try_peek(&mut first).await.unwrap());
        let mut all = [0; 10];
        socket.read_exact(&mut all).await.unwrap();
        assert_eq!((&first, &all), (b"GET ", b"GET / HTTP"));
    }
}
