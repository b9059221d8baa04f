//! Writes responses to a connection.

use std::fmt::Write as _;
use std::io;
use std::time::{Duration, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::{Body, End, Reply};
use crate::clock::{Clock, SystemClock};

/// Writes `reply`, and returns how it ended.
pub(super) async fn reply(stream: &mut TcpStream, reply: Reply, head_only: bool) -> io::Result<End> {
    let head = head(&reply, head_only);
    let cut = matches!(reply.end, End::Truncate | End::Reset);
    match reply.body {
        Body::Full(body) if !head_only => {
            let mut whole = BytesMut::from(head.as_bytes());
            whole.put(body);
            stream.write_all(&whole).await?;
        }
        Body::Chunks(chunks) if !head_only => {
            stream.write_all(head.as_bytes()).await?;
            write_chunks(stream, chunks, cut).await?;
        }
        Body::Empty | Body::Full(_) | Body::Chunks(_) => stream.write_all(head.as_bytes()).await?,
    }
    stream.flush().await?;
    if reply.end == End::Reset {
        stream.set_zero_linger()?;
    }
    Ok(reply.end)
}

async fn write_chunks(stream: &mut TcpStream, mut chunks: mpsc::Receiver<Bytes>, cut: bool) -> io::Result<()> {
    // An empty chunk would end the body.
    while let Some(chunk) = chunks.recv().await {
        if chunk.is_empty() {
            continue;
        }
        let mut framed = BytesMut::from(format!("{:x}\r\n", chunk.len()).as_bytes());
        framed.put(chunk);
        framed.put_slice(b"\r\n");
        stream.write_all(&framed).await?;
        stream.flush().await?;
    }
    if cut { Ok(()) } else { stream.write_all(b"0\r\n\r\n").await }
}

fn head(reply: &Reply, head_only: bool) -> String {
    let version = if reply.http_1_0 { "1.0" } else { "1.1" };
    let reason = http::StatusCode::from_u16(reply.status).ok().and_then(|status| status.canonical_reason());
    let mut head = format!("HTTP/{version} {} {}\r\n", reply.status, reason.unwrap_or_default());
    if !reply.bare {
        for (name, value) in framing(reply, head_only) {
            let _ = write!(head, "{name}: {value}\r\n");
        }
    }
    for (name, value) in &reply.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head + "\r\n"
}

/// Returns `date` and the framing header, in Bandit's order.
fn framing(reply: &Reply, head_only: bool) -> Vec<(&'static str, String)> {
    let date = ("date", httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(SystemClock.now().as_secs())));
    match &reply.body {
        Body::Chunks(_) if !head_only => vec![("transfer-encoding", "chunked".to_owned()), date],
        Body::Empty | Body::Chunks(_) => vec![date],
        Body::Full(body) => {
            // A response that will be truncated announces one byte too many.
            let missing = usize::from(matches!(reply.end, End::Truncate | End::Reset));
            vec![date, ("content-length", (body.len() + missing).to_string())]
        }
    }
}
