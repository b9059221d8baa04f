//! Reads requests from a connection.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Limits, Reply, Request};

/// What was read from a connection.
pub(super) enum Incoming {
    Request(Request),
    /// Not a request that is served. The connection ends with this response.
    Refused(Reply),
    End,
}

/// The read half of a connection, with the bytes that were read past the last request.
pub(super) struct Reader {
    stream: TcpStream,
    buffer: BytesMut,
    limits: Limits,
    keep_alive: bool,
}

enum Framing {
    Length(usize),
    Chunked,
}

impl Reader {
    pub(super) fn new(stream: TcpStream, limits: Limits) -> Self {
        Self { stream, buffer: BytesMut::with_capacity(4096), limits, keep_alive: true }
    }

    pub(super) const fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Whether the last request keeps the connection open.
    pub(super) const fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Ends the connection. Reads what is still arriving first, since the system would reset the connection otherwise.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        let drain = async {
            let mut sink = tokio::io::sink();
            tokio::io::copy(&mut (&mut self.stream).take(1 << 20), &mut sink).await
        };
        let _ = timeout(Duration::from_millis(200), drain).await;
        Ok(())
    }

    /// Reads one request with its body.
    pub(super) async fn next(&mut self) -> io::Result<Incoming> {
        let head_end = loop {
            if let Some(status) = self.oversized() {
                // Bandit rejects this before it reads a version, and so answers with HTTP/1.0.
                return Ok(Incoming::Refused(Reply { http_1_0: true, ..Reply::refusal(status) }));
            }
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if self.fill().await? == 0 {
                return Ok(Incoming::End);
            }
        };
        let head = self.buffer.split_to(head_end);
        let Some((mut request, version)) = parse_head(&head) else {
            return Ok(Incoming::Refused(Reply::refusal(400)));
        };
        self.keep_alive = keeps_alive(&request, version);
        if version == 1 && request.header("host").is_none() {
            return Ok(Incoming::Refused(Reply::refusal(400)));
        }
        let Some(framing) = framing(&request) else {
            return Ok(Incoming::Refused(Reply::refusal(400)));
        };
        match framing {
            Framing::Length(length) => self.read_sized(length, &mut request).await?,
            Framing::Chunked => self.read_chunked(&mut request).await?,
        }
        Ok(Incoming::Request(request))
    }

    /// Returns the status for a head that is too long already, even if it is incomplete.
    fn oversized(&self) -> Option<u16> {
        let mut lines = split_lines(&self.buffer);
        if lines.next().is_some_and(|line| line.len() >= self.limits.request_line) {
            return Some(414);
        }
        let mut count = 0;
        for line in lines.take_while(|line| !line.is_empty()) {
            count += 1;
            if line.len() > self.limits.header_line || count > self.limits.headers {
                return Some(431);
            }
        }
        None
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(4096);
        self.stream.read_buf(&mut self.buffer).await
    }

    /// Reads until `length` bytes are buffered.
    async fn fill_to(&mut self, length: usize) -> io::Result<()> {
        while self.buffer.len() < length {
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    async fn read_sized(&mut self, length: usize, request: &mut Request) -> io::Result<()> {
        let mut body = BytesMut::new();
        self.read_part(length, &mut body, request).await?;
        request.body = body.freeze();
        Ok(())
    }

    async fn read_chunked(&mut self, request: &mut Request) -> io::Result<()> {
        let mut body = BytesMut::new();
        loop {
            let line = self.read_line().await?;
            let size = std::str::from_utf8(&line).ok().and_then(|line| line.split(';').next());
            let size = size.and_then(|digits| usize::from_str_radix(digits.trim(), 16).ok());
            let size = size.ok_or(io::ErrorKind::InvalidData)?;
            if size == 0 {
                break;
            }
            self.read_part(size, &mut body, request).await?;
            self.read_line().await?;
        }
        // Trailers, up to the empty line.
        while !self.read_line().await?.is_empty() {}
        request.body = body.freeze();
        Ok(())
    }

    /// Moves `length` bytes into `body`, up to the limit. The rest is read and dropped.
    async fn read_part(&mut self, length: usize, body: &mut BytesMut, request: &mut Request) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            self.fill_to(1).await?;
            let part = self.buffer.split_to(left.min(self.buffer.len()));
            left -= part.len();
            let room = self.limits.body.saturating_sub(body.len());
            request.body_too_large |= part.len() > room;
            body.extend_from_slice(&part[..part.len().min(room)]);
        }
        Ok(())
    }

    async fn read_line(&mut self) -> io::Result<Bytes> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = self.buffer.split_to(at).freeze();
                self.buffer.advance(2);
                return Ok(line);
            }
            if self.buffer.len() > self.limits.header_line {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.fill_to(self.buffer.len() + 1).await?;
        }
    }
}

fn parse_head(head: &[u8]) -> Option<(Request, u8)> {
    // One slot more than any limit in use needs; `oversized` has counted the lines before.
    let mut slots = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Request::new(&mut slots);
    parsed.parse(head).ok().filter(httparse::Status::is_complete)?;
    let owned =
        |header: &httparse::Header<'_>| (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned());
    let request = Request {
        method: parsed.method?.to_owned(),
        target: parsed.path?.to_owned(),
        headers: parsed.headers.iter().map(owned).collect(),
        ..Request::default()
    };
    Some((request, parsed.version?))
}

fn keeps_alive(request: &Request, version: u8) -> bool {
    match request.header("connection") {
        Some(value) if value.eq_ignore_ascii_case("close") => false,
        Some(value) if value.eq_ignore_ascii_case("keep-alive") => true,
        _ => version == 1,
    }
}

/// Returns how the body is delimited; `None` if the headers contradict each other (RFC 9112 section 6.3).
fn framing(request: &Request) -> Option<Framing> {
    let length = request.header("content-length");
    match (request.header("transfer-encoding"), length) {
        (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Some(Framing::Chunked),
        (Some(_), _) => None,
        (None, None) => Some(Framing::Length(0)),
        (None, Some(length)) => length.parse().ok().map(Framing::Length),
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Splits a head into lines without their ends. The last one may be incomplete.
fn split_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}
