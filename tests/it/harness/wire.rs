//! A connection for exact bytes that stays open as long as the server keeps it open.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{self, Answer};

/// A connection and the bytes that were read ahead on it.
pub(crate) struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    pub(crate) async fn open(url: &str) -> Self {
        Self::of(client::connect(url).await)
    }

    pub(crate) const fn of(stream: TcpStream) -> Self {
        Self { stream, read: Vec::new() }
    }

    /// Sends bytes. Errors are ignored: if the server has closed the connection, reading the response shows it.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Reads the next response by its length or its chunks (without either, only its header); `None` if the server
    /// closes the connection before its end.
    pub(crate) async fn answer(&mut self, head_only: bool) -> Option<Answer> {
        let end = loop {
            if let Some(end) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let mut answer = client::parse(&self.read[..end]);
        if !head_only && answer.header("transfer-encoding") == "chunked" {
            self.read.drain(..end);
            answer.body = self.chunks().await?;
            return Some(answer);
        }
        let length = match answer.header("content-length") {
            _ if head_only => 0,
            "" => 0,
            length => length.parse().unwrap(),
        };
        while self.read.len() < end + length {
            self.more().await?;
        }
        answer.body = self.read[end..end + length].to_vec();
        self.read.drain(..end + length);
        Some(answer)
    }

    async fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                match self.read.windows(2).position(|window| window == b"\r\n") {
                    Some(at) => break at,
                    None => self.more().await?,
                }
            };
            let size = usize::from_str_radix(std::str::from_utf8(&self.read[..line]).unwrap(), 16).unwrap();
            let (start, end) = (line + 2, line + 2 + size);
            while self.read.len() < end + 2 {
                self.more().await?;
            }
            body.extend_from_slice(&self.read[start..end]);
            self.read.drain(..end + 2);
            if size == 0 {
                return Some(body);
            }
        }
    }

    /// Reads until `text` has arrived, and discards everything up to its end.
    pub(crate) async fn until(&mut self, text: &str) {
        loop {
            let found = self.read.windows(text.len()).position(|window| window == text.as_bytes());
            match found {
                Some(at) => return drop(self.read.drain(..at + text.len())),
                None => self.more().await.unwrap_or_else(|| panic!("closed before {text:?}")),
            }
        }
    }

    /// Reads the rest until the server closes the connection, which it must do within 20 s.
    pub(crate) async fn rest(mut self) -> String {
        let closed = async { while self.more().await.is_some() {} };
        let closed = tokio::time::timeout(Duration::from_secs(20), closed).await;
        assert!(closed.is_ok(), "the server keeps the connection open");
        String::from_utf8_lossy(&self.read).into_owned()
    }

    async fn more(&mut self) -> Option<()> {
        let read = self.stream.read_buf(&mut self.read).await.ok()?;
        (read > 0).then_some(())
    }
}
