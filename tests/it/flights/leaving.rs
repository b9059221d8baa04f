//! Clients that disconnect, or do not read.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::*;

/// Waits until this many flights are open.
async fn until_open(gate: &Gate, flights: f64) {
    gate.until_metric("shapegate_open_flights", flights).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_client_may_leave_before_the_response_header() {
    let gate = Gate::start().await;
    let target = poll(&gate, "org_1").await;
    let before = gate.electric.request_count();
    let first = ask(&gate, &target, &user(&gate, 1, "org_1"));
    gate.electric.wait_for_waiting(1).await;
    let second = ask(&gate, &target, &user(&gate, 2, "org_1"));
    gate.until_metric("shapegate_requests_in_flight", 2.0).await;
    first.abort();
    gate.until_metric("shapegate_requests_in_flight", 1.0).await;
    gate.insert_task(1, "org_1", "now");
    assert_eq!(second.await.unwrap().rows("title"), ["now"]);
    assert_eq!(gate.electric.request_count() - before, 1);
    assert_eq!(gate.metric(r#"shapegate_followers_cut_total{cause="client_gone"}"#).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn first_client_may_leave_in_the_middle_of_a_response() {
    let gate = Gate::start().await;
    for (content_type, target) in [("application/json", TASKS), ("text/event-stream", EVENTS)] {
        let (sender, reply) = gated(content_type);
        gate.electric.script(reply);
        let token = gate.token(&["org_1"]);
        let mut first = Stream::open(gate.request(target, Some(&token))).await;
        let mut second = Stream::open(gate.request(target, Some(&token))).await;
        sender.send(Bytes::from("data: 1\n\n")).await.unwrap();
        first.until("data: 1\n\n").await;
        second.until("data: 1\n\n").await;
        drop(first);
        gate.until_metric("shapegate_requests_in_flight", 1.0).await;
        sender.send(Bytes::from("data: 2\n\n")).await.unwrap();
        drop(sender);
        assert_eq!(second.rest().await.unwrap(), "data: 2\n\n");
        gate.until_metric("shapegate_requests_in_flight", 0.0).await;
    }
    assert_eq!(gate.electric.request_count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn flight_ends_after_grace_once_its_last_follower_has_left() {
    let rules = format!("{RULES}\n[cache]\ngrace = '0s'\n");
    let gate = Gate::with(Setup { rules, ..Setup::default() }).await;
    let target = poll(&gate, "org_1").await;
    let waiting = ask(&gate, &target, &gate.token(&["org_1"]));
    gate.electric.wait_for_waiting(1).await;
    until_open(&gate, 1.0).await;
    waiting.abort();
    until_open(&gate, 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_returns_within_grace_rejoins_its_flight() {
    let rules = format!("{RULES}\n[cache]\ngrace = '1m'\n");
    let gate = Gate::with(Setup { rules, ..Setup::default() }).await;
    let target = poll(&gate, "org_1").await;
    let before = gate.electric.request_count();
    for _ in 0..3 {
        let waiting = ask(&gate, &target, &gate.token(&["org_1"]));
        gate.until_metric("shapegate_requests_in_flight", 1.0).await;
        waiting.abort();
        gate.until_metric("shapegate_requests_in_flight", 0.0).await;
    }
    until_open(&gate, 1.0).await;
    let waiting = ask(&gate, &target, &gate.token(&["org_1"]));
    gate.until_metric("shapegate_requests_in_flight", 1.0).await;
    gate.insert_task(1, "org_1", "now");
    assert_eq!(waiting.await.unwrap().rows("title"), ["now"]);
    assert_eq!(gate.electric.request_count() - before, 1);
}

/// Sends a request on a connection with a small receive buffer, and never reads.
async fn deaf(gate: &Gate, target: &str, token: &str, header: &str) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(gate.url.strip_prefix("http://").unwrap().parse().unwrap()).await.unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: gate.test\r\nAuthorization: Bearer {token}\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_reader_is_disconnected_alone() {
    let tune = |config: &mut Config| config.limits.write_timeout = Duration::from_secs(1);
    let gate = Gate::with(Setup { tune, ..Setup::default() }).await;
    let token = gate.token(&["org_1"]);
    let (sender, reply) = gated("application/json");
    gate.electric.script(reply);
    let slow = deaf(&gate, TASKS, &token, "").await;
    let fast: Vec<_> = (0..5).map(|_| ask(&gate, TASKS, &token)).collect();
    gate.until_metric("shapegate_requests_in_flight", 6.0).await;
    for _ in 0..256 {
        sender.send(Bytes::from(vec![b'x'; 64 * 1024])).await.unwrap();
    }
    drop(sender);
    for answer in fast {
        assert_eq!(answer.await.unwrap().body.len(), 256 * 64 * 1024);
    }
    gate.until_metric(r#"shapegate_followers_cut_total{cause="slow_reader"}"#, 1.0).await;
    assert_eq!(gate.electric.request_count(), 1);
    drop(slow);
}

#[tokio::test(flavor = "multi_thread")]
async fn response_over_flight_bytes_continues_for_its_fast_followers_only() {
    let rules = format!("{RULES}\n[cache]\nflight_bytes = '4MiB'\n");
    // The slow client reads the body or a compressed copy.
    for encoding in ["", "Accept-Encoding: gzip\r\n"] {
        let gate = Gate::with(Setup { rules: rules.clone(), ..Setup::default() }).await;
        let token = gate.token(&["org_1"]);
        let (sender, reply) = gated("application/json");
        gate.electric.script(reply);
        let slow = deaf(&gate, TASKS, &token, encoding).await;
        gate.until_metric("shapegate_requests_in_flight", 1.0).await;
        let fast: Vec<_> = (0..2).map(|_| ask(&gate, TASKS, &token)).collect();
        gate.until_metric("shapegate_requests_in_flight", 3.0).await;
        for _ in 0..512 {
            sender.send(noise()).await.unwrap();
        }
        until_open(&gate, 0.0).await;
        let newcomer = gate.get(TASKS, &token).await;
        assert_eq!((newcomer.status.as_u16(), gate.electric.request_count()), (200, 2), "it opens a new flight");
        drop(sender);
        for answer in fast {
            assert_eq!(answer.await.unwrap().body.len(), 512 * 64 * 1024);
        }
        gate.until_metric(r#"shapegate_followers_cut_total{cause="slow_reader"}"#, 1.0).await;
        drop(slow);
    }
}

/// Returns 64 KiB that do not get shorter when they are compressed.
fn noise() -> Bytes {
    let mut bytes = vec![0; 64 * 1024];
    rand::fill(&mut bytes[..]);
    bytes.into()
}
