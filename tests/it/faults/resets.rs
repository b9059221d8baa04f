//! Floods of aborted requests: they leave nothing behind, and other clients are served.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{get, tasks};
use crate::harness::{Answer, Gate, RULES, Setup};
use crate::http2::connect;

const FLOOD: usize = 2_000;

/// Starts a gate with h2c that ends abandoned flights at once.
async fn start() -> Gate {
    let rules = format!("{RULES}\n[cache]\ngrace = '0s'\n");
    Gate::with(Setup { rules, server: "h2c = true".to_owned(), ..Setup::default() }).await
}

/// Starts a long poll, and returns its target too.
async fn poll(gate: &Gate, organization: &str) -> (String, JoinHandle<Answer>) {
    let token = gate.issuer.token(&json!({ "sub": "patient", "organizationIds": [organization] }));
    let first = gate.get(&format!("{}&offset=-1", tasks(organization)), &token).await;
    let (handle, offset) = (first.header("electric-handle"), first.header("electric-offset"));
    let target = format!("{}&handle={handle}&offset={offset}&live=true", tasks(organization));
    let asked = gate.request(&target, Some(&token)).send();
    let waiting = tokio::spawn(async move { Answer::of(asked.await.unwrap()).await });
    gate.electric.wait_for_waiting(1).await;
    (target, waiting)
}

/// Checks that everything the flood used is free again, and that the waiting poll gets its change.
async fn nothing_is_left(gate: &Gate, waiting: JoinHandle<Answer>) {
    gate.until_metric("shapegate_requests_in_flight", 1.0).await;
    gate.until_metric("shapegate_followers", 1.0).await;
    gate.insert_task(1, "org_1", "now");
    assert_eq!(waiting.await.unwrap().rows("title"), ["now"]);
    gate.until_metric("shapegate_requests_in_flight", 0.0).await;
    gate.until_metric("shapegate_followers", 0.0).await;
    gate.until_metric("shapegate_open_flights", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reset_connections_leave_no_requests_or_flights() {
    let gate = start().await;
    let (target, waiting) = poll(&gate, "org_1").await;
    let address = gate.url.strip_prefix("http://").unwrap();
    for number in 0..FLOOD {
        // Every second request joins the waiting flight, the others open new ones.
        let target =
            if number % 2 == 0 { target.clone() } else { format!("{}&offset=0_{number}&handle=1-1", tasks("org_1")) };
        let token = gate.issuer.token(&json!({ "sub": format!("user-{}", number % 50), "organizationIds": ["org_1"] }));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&get(&target, &token)).await.unwrap();
        // Without linger, closing sends a reset.
        stream.set_zero_linger().unwrap();
        if number % 100 == 0 {
            assert_eq!(gate.get("/nothing", &token).await.status, 404);
        }
    }
    nothing_is_left(&gate, waiting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rapid_stream_resets_leave_no_requests_or_flights() {
    let gate = start().await;
    let (target, waiting) = poll(&gate, "org_1").await;
    let token = gate.token(&["org_1"]);
    let mut sent = 0;
    while sent < FLOOD {
        let mut sender = connect(&gate.url).await.unwrap();
        // The server closes a connection with so many resets, and the client opens another one.
        while sent < FLOOD {
            let Ok(ready) = sender.ready().await else { break };
            sender = ready;
            let request = http::Request::get(format!("{}{target}", gate.url));
            let request = request.header("authorization", format!("Bearer {token}")).body(()).unwrap();
            let Ok((answer, mut stream)) = sender.send_request(request, true) else { break };
            stream.send_reset(h2::Reason::CANCEL);
            drop(answer);
            sent += 1;
            if sent % 200 == 0 {
                assert_eq!(gate.get("/nothing", &token).await.status, 404);
            }
        }
    }
    nothing_is_left(&gate, waiting).await;
}

/// Encodes a frame of HTTP/2 (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Bytes {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    Bytes::from([&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat())
}

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

/// Sends `first` and then `again` a hundred thousand times, or until the server reads no more.
async fn flood(gate: &Gate, first: &[Bytes], again: &Bytes) -> TcpStream {
    let mut stream = TcpStream::connect(gate.url.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    for frame in first {
        stream.write_all(frame).await.unwrap();
    }
    let many = again.repeat(100);
    for _ in 0..1_000 {
        // Its responses are not read, so that it finally stops reading.
        match timeout(Duration::from_secs(1), stream.write_all(&many)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_frames_are_cut_off_and_block_no_other_client() {
    let gate = start().await;
    let (_, waiting) = poll(&gate, "org_1").await;
    let token = gate.token(&["org_1"]);
    // Frames that need a response are read only as fast as the client reads the responses.
    let ping = flood(&gate, &[], &frame(PING, 0, 0, &[0; 8])).await;
    let settings = flood(&gate, &[], &frame(SETTINGS, 0, 0, &[])).await;
    // An endless header closes its connection.
    let mut header = flood(&gate, &[frame(HEADERS, 0, 1, &[0x82])], &frame(CONTINUATION, 0, 1, &[0x82])).await;
    let end = async { while header.read(&mut [0; 1 << 16]).await.is_ok_and(|read| read > 0) {} };
    timeout(Duration::from_secs(10), end).await.unwrap();
    assert_eq!(gate.get("/nothing", &token).await.status, 404);
    nothing_is_left(&gate, waiting).await;
    drop((ping, settings));
}
