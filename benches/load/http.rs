//! A minimal HTTP/1.1 client. It shares the cores with what it measures, so it does as little as possible.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use bytes::{Buf, Bytes, BytesMut};
use httparse::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection with one request at a time.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
}

/// A complete response.
pub(crate) struct Answer {
    pub status: u16,
    /// The body, without its framing.
    pub body: Bytes,
    /// When its last byte was read.
    pub at: Instant,
    /// Whether the server takes no further request on this connection.
    pub closes: bool,
    /// The lines of the header, with the empty line after them.
    head: Bytes,
}

/// How the end of a body is found.
enum Framing {
    Length(usize),
    Chunked,
}

struct Head {
    status: u16,
    framing: Framing,
    closes: bool,
    /// The offsets of the first header line and of the body.
    lines: usize,
    end: usize,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::new() })
    }

    /// Sends a request and reads its response; `None` if the server had closed an idle connection.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<Option<Answer>> {
        if self.stream.write_all(request).await.is_err() {
            return Ok(None);
        }
        let head = loop {
            if let Some(head) = Head::parse(&self.buffer)? {
                break head;
            }
            match self.fill(0).await {
                Ok(()) => {}
                Err(_) if self.buffer.is_empty() => return Ok(None),
                Err(error) => return Err(error),
            }
        };
        let mut lines = self.buffer.split_to(head.end).freeze();
        lines.advance(head.lines);
        let body = match head.framing {
            Framing::Length(length) => self.take(length).await?,
            Framing::Chunked => self.chunks().await?,
        };
        Ok(Some(Answer { status: head.status, body, at: Instant::now(), closes: head.closes, head: lines }))
    }

    /// Like [`Self::exchange`], but a missing response is an error.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> anyhow::Result<Answer> {
        self.exchange(request).await?.context("the server closed the connection without a response")
    }

    /// Reads once, with room for at least `missing` bytes.
    async fn fill(&mut self, missing: usize) -> anyhow::Result<()> {
        self.buffer.reserve(missing.max(READ_BYTES));
        ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the connection closed within a response");
        Ok(())
    }

    async fn take(&mut self, length: usize) -> anyhow::Result<Bytes> {
        while self.buffer.len() < length {
            self.fill(length - self.buffer.len()).await?;
        }
        Ok(self.buffer.split_to(length).freeze())
    }

    async fn chunks(&mut self) -> anyhow::Result<Bytes> {
        let mut body = BytesMut::new();
        loop {
            let size = match httparse::parse_chunk_size(&self.buffer) {
                Ok(Status::Complete((line, size))) => {
                    self.buffer.advance(line);
                    usize::try_from(size)?
                }
                Ok(Status::Partial) => {
                    self.fill(0).await?;
                    continue;
                }
                Err(_) => bail!("a chunk without a size"),
            };
            let chunk = self.take(size + CRLF).await?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return Ok(body.freeze());
            }
        }
    }
}

impl Answer {
    /// Builds a response that was not read from a connection; `header` is written as in HTTP/1.1.
    pub(crate) const fn new(status: u16, head: Bytes, body: Bytes, at: Instant) -> Self {
        Self { status, body, at, closes: false, head }
    }

    /// Returns the value of the first header with this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Returns names and values.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let lines = std::str::from_utf8(&self.head).unwrap_or_default().split("\r\n");
        lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim()))
    }

    /// Returns the status and the beginning of the body, for an error message.
    pub(crate) fn summary(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        format!("{} {}", self.status, body.chars().take(200).collect::<String>())
    }
}

impl Head {
    fn parse(buffer: &[u8]) -> anyhow::Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let Status::Complete(end) = response.parse(buffer).context("not an HTTP/1.1 response")? else {
            return Ok(None);
        };
        let value = |name: &str| {
            let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(header.value).ok()
        };
        let framing = match (value("content-length"), value("transfer-encoding")) {
            (_, Some(coding)) if coding.eq_ignore_ascii_case("chunked") => Framing::Chunked,
            (Some(length), None) => Framing::Length(length.parse().context("content-length")?),
            (None, None) if matches!(response.code, Some(204 | 304)) => Framing::Length(0),
            _ => bail!("a response without content-length or chunks"),
        };
        let closes = value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let lines = buffer.iter().position(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        Ok(Some(Self { status: response.code.unwrap_or(0), framing, closes, lines, end }))
    }
}

/// Small, since thousands of connections wait with a buffer of this size.
const READ_BYTES: usize = 4096;

/// The end of a chunk.
const CRLF: usize = 2;
