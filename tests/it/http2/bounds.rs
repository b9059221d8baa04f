//! Limits of one HTTP/2 connection.

use std::time::Duration;

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{TASKS, h2c, request};
use crate::harness::{Gate, Setup};

/// A timeout far longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// Returns the target of a long poll of org_1 that waits.
async fn poll(gate: &Gate) -> String {
    let token = gate.token(&["org_1"]);
    let first = gate.get(TASKS, &token).await;
    let shape = TASKS.replace("&offset=-1", &format!("&handle={}", first.header("electric-handle")));
    let next = gate.get(&format!("{shape}&offset={}", first.header("electric-offset")), &token).await;
    format!("{shape}&offset={}&live=true", next.header("electric-offset"))
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_allows_250_streams_and_the_next_one_waits() {
    let gate = h2c().await;
    let target = poll(&gate).await;
    let sender = super::connect(&gate.url).await.unwrap();
    let mut answers = JoinSet::new();
    for _ in 0..250 {
        let mut sender = sender.clone().ready().await.unwrap();
        let (answer, _) = sender.send_request(request(&gate, &target).body(()).unwrap(), true).unwrap();
        answers.spawn(async { answer.await.unwrap().status() });
    }
    gate.until_metric("shapegate_followers", 250.0).await;
    assert_eq!(sender.current_max_send_streams(), 250);
    let next = Request::get(format!("{}/v1/shape", gate.url)).body(()).unwrap();
    let mut sender = sender.ready().await.unwrap();
    let (next, _) = sender.send_request(next, true).unwrap();
    gate.insert_task(1, "org_1", "news");
    while let Some(status) = answers.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(next.await.unwrap().status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connection_is_closed_but_one_with_a_poll_is_not() {
    let server = "h2c = true\nh2_idle_timeout = '1s'".to_owned();
    let gate = Gate::with(Setup { server, ..Setup::default() }).await;
    let target = poll(&gate).await;
    let open = async || {
        let stream = TcpStream::connect(gate.url.strip_prefix("http://").unwrap()).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        (sender.ready(), tokio::spawn(connection))
    };
    let (waiting, _connection) = open().await;
    let (answer, _) = waiting.await.unwrap().send_request(request(&gate, &target).body(()).unwrap(), true).unwrap();
    gate.electric.wait_for_waiting(1).await;
    let (_idle, closed) = open().await;
    assert!(timeout(LONG, closed).await.is_ok(), "the idle connection is still open");
    gate.insert_task(1, "org_1", "news");
    assert_eq!(answer.await.unwrap().status(), 200);
}

/// Opens `count` streams and resets each at once, all in one write; returns whether the server closes the connection.
async fn is_closed_after_resets(gate: &Gate, count: u32) -> bool {
    let mut stream = TcpStream::connect(gate.url.strip_prefix("http://").unwrap()).await.unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut frame = |kind: u8, flags: u8, id: u32, payload: &[u8]| {
        bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
        bytes.extend_from_slice(&[kind, flags]);
        bytes.extend_from_slice(&id.to_be_bytes());
        bytes.extend_from_slice(payload);
    };
    frame(SETTINGS, 0, 0, &[]);
    for number in 0..count {
        // :method GET, :scheme http, :path /, and :authority as a literal (RFC 7541 appendix A).
        frame(HEADERS, END_STREAM | END_HEADERS, 1 + 2 * number, b"\x82\x86\x84\x01\x01a");
        frame(RST_STREAM, 0, 1 + 2 * number, &8_u32.to_be_bytes());
    }
    frame(PING, 0, 0, b"are you?");
    // The write fails if the server closes the connection.
    let _ = stream.write_all(&bytes).await;
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return true;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.unwrap();
        match (head[3], payload.as_slice()) {
            (GOAWAY, _) => return true,
            (PING, b"are you?") => return false,
            _ => {}
        }
    }
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_stream_resets_are_allowed_and_a_flood_closes_the_connection() {
    // CVE-2023-44487
    let gate = h2c().await;
    assert!(!timeout(LONG, is_closed_after_resets(&gate, 200)).await.unwrap(), "no more than a page needs");
    assert!(timeout(LONG, is_closed_after_resets(&gate, 20_000)).await.unwrap(), "a flood");
    assert_eq!(gate.get(TASKS, &gate.token(&["org_1"])).await.status, 200);
}
