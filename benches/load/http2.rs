//! HTTP/2 clients without TLS, many on one connection.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::Context;
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::Request;
use tokio::net::TcpStream;

use crate::http::Answer;
use crate::target::Target;

/// Streams on a connection: what most servers allow.
pub(crate) const STREAMS: usize = 100;

pub(crate) async fn open(address: SocketAddr) -> anyhow::Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = h2::client::handshake(stream).await?;
    // It ends with the last stream and sender. An error reaches the streams as well.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// Returns the GET request of client number `client`.
pub(crate) fn request(target: &Target, client: usize, parameters: &str) -> http::Result<Request<()>> {
    let request = Request::get(format!("http://{}{}", target.host, target.uri(parameters)));
    match target.token(client) {
        Some(token) => request.header("authorization", format!("Bearer {token}")),
        None => request,
    }
    .body(())
}

pub(crate) async fn ask(sender: SendRequest<Bytes>, request: http::Result<Request<()>>) -> anyhow::Result<Answer> {
    let (response, _) = sender.ready().await?.send_request(request?, true)?;
    let (head, mut stream) = response.await?.into_parts();
    let mut body = BytesMut::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    let at = Instant::now();
    let mut lines = BytesMut::new();
    for (name, value) in &head.headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            lines.put(part);
        }
    }
    Ok(Answer::new(head.status.as_u16(), lines.freeze(), body.freeze(), at))
}
