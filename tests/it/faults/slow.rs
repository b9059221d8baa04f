//! Slow clients: slow to send a header or a TLS handshake, or slow to read the response.

use std::time::Duration;

use bytes::Bytes;
use shapegate::config::Config;
use shapegate::demo::http::Reply;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::tasks;
use crate::flights::gated;
use crate::harness::{Certificate, Gate, Setup, Wire};
use crate::http2::connect;

/// The number of connections that never complete their header.
const DRIPPING: usize = 300;

/// The part of a header that is sent byte by byte while other clients are served.
const DRIPS: &[u8] = b"GET /v1/shape?table=tasks HTTP/1.1\r\nHost: gate.test\r\n";

async fn connections(url: &str, count: usize) -> Vec<TcpStream> {
    let address = url.split_once("://").unwrap().1;
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(TcpStream::connect(address).await.unwrap());
    }
    streams
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_headers_take_no_request_slot_and_block_no_other_client() {
    let rules = format!("{}\n[limits]\nrequests = 4\n", crate::harness::RULES);
    let gate = Gate::with(Setup { rules, ..Setup::default() }).await;
    let token = gate.token(&["org_1"]);
    let mut dripping = connections(&gate.url, DRIPPING).await;
    for (number, byte) in DRIPS.iter().enumerate() {
        for stream in &mut dripping {
            stream.write_all(&[*byte]).await.unwrap();
        }
        // Each on a new connection, for a new shape.
        let target = format!("{}&offset=-1&handle={number}", tasks("org_1"));
        let request = reqwest::Client::new().get(format!("{}{target}", gate.url)).bearer_auth(&token);
        assert_eq!(request.send().await.unwrap().status(), 200);
    }
    gate.until_metric("shapegate_requests_in_flight", 0.0).await;
    // A slow header may still be completed.
    let stream = &mut dripping[0];
    stream.write_all(b"Connection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_tls_handshakes_are_closed_and_block_no_other_client() {
    let gate = Gate::with(Setup { certificate: Some(Certificate::new()), ..Setup::default() }).await;
    let token = gate.token(&["org_1"]);
    let mut dripping = connections(&gate.url, DRIPPING / 3).await;
    for stream in &mut dripping {
        // The start of a TLS record of 512 bytes.
        stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
    }
    for number in 0..20 {
        let target = format!("{}&offset=-1&handle={number}", tasks("org_1"));
        assert_eq!(gate.get(&target, &token).await.status, 200);
    }
    for mut stream in dripping {
        let closed = timeout(Duration::from_secs(40), stream.read(&mut [0; 16])).await;
        assert!(matches!(closed.unwrap(), Ok(0) | Err(_)), "it is still waiting for the rest");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_http_2_stream_is_reset_alone() {
    let tune = |config: &mut Config| config.limits.write_timeout = Duration::from_secs(1);
    let server = "h2c = true".to_owned();
    let gate = Gate::with(Setup { server, tune, ..Setup::default() }).await;
    let token = gate.token(&["org_1"]);
    let target = format!("{}&offset=-1", tasks("org_1"));
    let (sender, reply) = gated("application/json");
    gate.electric.script(reply);
    let mut deaf = connect(&gate.url).await.unwrap();
    let request = || {
        let request = http::Request::get(format!("{}{target}", gate.url));
        request.header("authorization", format!("Bearer {token}")).body(()).unwrap()
    };
    let (unread, _) = deaf.send_request(request(), true).unwrap();
    let unread = tokio::spawn(unread);
    gate.until_metric("shapegate_requests_in_flight", 1.0).await;
    let mut readers = Vec::new();
    for _ in 0..4 {
        let asked = gate.request(&target, Some(&token)).send();
        readers.push(tokio::spawn(async move { asked.await.unwrap().bytes().await.unwrap().len() }));
    }
    gate.until_metric("shapegate_requests_in_flight", 5.0).await;
    for _ in 0..64 {
        sender.send(Bytes::from(vec![b'x'; 64 * 1024])).await.unwrap();
    }
    drop(sender);
    for reader in readers {
        assert_eq!(reader.await.unwrap(), 64 * 64 * 1024);
    }
    gate.until_metric(r#"shapegate_followers_cut_total{cause="slow_reader"}"#, 1.0).await;
    gate.until_metric("shapegate_requests_in_flight", 0.0).await;
    // Its header has arrived; the rest of the body is reset.
    let mut answer = unread.await.unwrap().unwrap().into_body();
    let rest = async {
        loop {
            match answer.data().await {
                Some(Ok(bytes)) => drop(answer.flow_control().release_capacity(bytes.len())),
                end => break end,
            }
        }
    };
    assert!(timeout(Duration::from_secs(20), rest).await.unwrap().is_some_and(|end| end.is_err()));
    assert_eq!(gate.electric.request_count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_bytes_sent_to_a_slow_reader_are_counted() {
    const LONG: usize = 60_000;
    let tune = |config: &mut Config| config.limits.write_timeout = Duration::from_secs(1);
    let gate = Gate::with(Setup { tune, ..Setup::default() }).await;
    let reply = Reply::json(200, format!("[{}]", " ".repeat(LONG - 2)));
    gate.electric.script(reply.with_header("cache-control", "max-age=60"));
    let target = format!("{}&offset=-1", tasks("org_1"));
    let token = gate.token(&["org_1"]);
    let request = format!("GET {target} HTTP/1.1\r\nHost: gate.test\r\nAuthorization: Bearer {token}\r\n\r\n");
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address = gate.url.strip_prefix("http://").unwrap().parse().unwrap();
    let mut deaf = Wire::of(socket.connect(address).await.unwrap());
    let (bytes, cut) = ("shapegate_body_bytes_total{rule=\"tasks\"}", "outcome=\"slow_reader\"");
    let (mut asked, mut metrics) = (0, String::new());
    // The socket buffers hold a few responses before writing blocks.
    while !metrics.contains(cut) {
        deaf.send(request.as_bytes()).await;
        asked += 1;
        while !metrics.contains(cut) && !metrics.contains(&format!("{bytes} {}\n", asked * LONG)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            metrics = gate.admin("/metrics").await.text();
        }
    }
    let sent = gate.metric(bytes).await as usize;
    assert!(((asked - 1) * LONG..asked * LONG).contains(&sent), "{sent} bytes of {asked} responses");
}
