//! The phases of Pingora's proxy: what is sent to Electric, how often, and that failed requests leak nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;
use shapegate::clock::{Clock, SystemClock, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::flights::poll;
use crate::harness::{Gate, RULES, SECRET, Setup, Wire};

const TASKS: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";

fn rules_with_subsets() -> String {
    RULES.replacen("[[shape]]", "[[shape]]\nsubset = true\nclient_where = true", 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn electric_receives_only_requests_that_the_upstream_filter_has_written() {
    let gate = Gate::with(Setup { rules: rules_with_subsets(), ..Setup::default() }).await;
    gate.insert_task(1, "org_1", "mine");
    let token = gate.token(&["org_1"]);
    let live = poll(&gate, "org_1").await;
    let waiting = tokio::spawn(gate.request(&live, Some(&token)).send());
    gate.electric.wait_for_requests(3).await;
    gate.insert_task(2, "org_1", "more");
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    // Headers and parameters that must not be forwarded.
    let noisy = gate.request(&format!("{TASKS}&secret=mine&table=tasks"), Some(&token));
    assert_eq!(noisy.send().await.unwrap().status(), 400);
    let noisy = gate.request(&TASKS.replace("-1", "now"), Some(&token));
    let noisy = noisy.header("cookie", "a=b").header("x-forwarded-for", "1.2.3.4").header("upgrade", "websocket");
    let noisy = noisy.header("connection", "upgrade").header("if-none-match", "\"x\"").header("range", "bytes=0-1");
    assert_eq!(noisy.send().await.unwrap().status(), 200);
    assert_eq!(gate.post(TASKS, &token, r#"{"where":"title = 'mine'"}"#).await.status, 200);
    let allowed = BTreeSet::from([
        "accept",
        "accept-encoding",
        "content-length",
        "content-type",
        "host",
        "user-agent",
        "x-request-id",
    ]);
    let requests = gate.electric.requests();
    assert_eq!(requests.len(), 5);
    for request in &requests {
        assert_eq!(request.path(), "/v1/shape");
        assert_eq!(request.query().matches(&format!("secret={SECRET}")).count(), 1, "{}", request.query());
        let names: BTreeSet<_> = request.headers.iter().map(|(name, _)| name.to_lowercase()).collect();
        let foreign: Vec<_> = names.iter().filter(|name| !allowed.contains(name.as_str())).collect();
        assert!(foreign.is_empty(), "{foreign:?} in {}", request.query());
    }
}

/// An upstream that answers a number of requests on each connection and closes it at the next one.
struct Closing {
    url: String,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Closing {
    /// Starts it. `answers` maps the number of a connection, from 0, to the number of requests answered on it.
    async fn start(answers: fn(usize) -> usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (connections, requests) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let closing = Self { url, connections: Arc::clone(&connections), requests: Arc::clone(&requests) };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (connections, requests) = (Arc::clone(&connections), Arc::clone(&requests));
                tokio::spawn(async move {
                    // Health checks come on connections of their own.
                    if is_for_health(&stream).await {
                        return;
                    }
                    let answered = answers(connections.fetch_add(1, Ordering::SeqCst));
                    serve(stream, answered, requests).await;
                });
            }
        });
        closing
    }

    fn seen(&self) -> (usize, usize) {
        (self.connections.load(Ordering::SeqCst), self.requests.load(Ordering::SeqCst))
    }
}

/// Whether the first request on a connection is a health check. It is not answered.
async fn is_for_health(stream: &TcpStream) -> bool {
    let mut start = [0; 15];
    while stream.peek(&mut start).await.unwrap_or_default() < start.len() {
        tokio::task::yield_now().await;
    }
    start.starts_with(b"GET /v1/health ")
}

async fn serve(mut stream: TcpStream, answered: usize, requests: Arc<AtomicUsize>) {
    for _ in 0..answered {
        if !read_request(&mut stream, &requests).await {
            return;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]").await.unwrap();
    }
    read_request(&mut stream, &requests).await;
}

async fn read_request(stream: &mut TcpStream, requests: &AtomicUsize) -> bool {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await.unwrap_or_default() == 0 {
            return false;
        }
    }
    requests.fetch_add(1, Ordering::SeqCst);
    true
}

async fn gate_before(electric: &Closing) -> Gate {
    Gate::with(Setup { electric_url: Some(electric.url.clone()), ..Setup::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn request_is_retried_at_most_once() {
    // Every second connection answers once; the others close at their first request.
    let electric = Closing::start(|connection| usize::from(connection % 2 == 0)).await;
    let gate = gate_before(&electric).await;
    let token = gate.token(&["org_1"]);
    for number in 1..100 {
        assert_eq!(gate.get(&format!("{TASKS}&handle={number}-1"), &token).await.status, 200);
        let (connections, requests) = electric.seen();
        let answer = gate.get(&format!("{TASKS}&handle={number}-2"), &token).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (502, "upstream_unreachable"));
        let (connections, requests) = (electric.seen().0 - connections, electric.seen().1 - requests);
        if requests > 1 {
            assert_eq!((connections, requests), (1, 2), "one failed attempt, and one retry on a new connection");
            return;
        }
        // The idle connection was not reused, so nothing is retried: the client has its response a moment before the
        // connection is idle, and Pingora's pool closes a connection that its watcher still holds.
    }
    panic!("no connection was ever reused");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_uses_a_new_connection() {
    let electric = Closing::start(|_| 1).await;
    let gate = gate_before(&electric).await;
    let token = gate.token(&["org_1"]);
    // Two idle connections that will close at their next request.
    let ask = |number: u32| {
        let target = TASKS.replace("offset=-1", &format!("offset=0_{number}&handle=1-1"));
        let request = gate.request(&target, Some(&token)).send();
        async { request.await.unwrap().status().as_u16() }
    };
    assert_eq!(tokio::join!(ask(1), ask(2)), (200, 200));
    let (connections, _) = electric.seen();
    assert_eq!(ask(3).await, 200);
    assert_eq!(electric.seen().0, connections + 1);
}

/// Starts an upstream that writes `response` for each request.
async fn raw_upstream(response: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                while read_request(&mut stream, &AtomicUsize::new(0)).await {
                    stream.write_all(response.as_bytes()).await.unwrap();
                }
            });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn informational_responses_are_skipped() {
    let response = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n\
                    HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n[]";
    let gate = Gate::with(Setup { electric_url: Some(raw_upstream(response).await), ..Setup::default() }).await;
    let token = gate.token(&["org_1"]);
    for number in 0..3 {
        let answer = gate.get(&format!("{TASKS}&handle={number}"), &token).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "[]"));
        assert!(!answer.headers.contains_key("link"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn switching_protocols_response_gives_502() {
    let response = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let gate = Gate::with(Setup { electric_url: Some(raw_upstream(response).await), ..Setup::default() }).await;
    let token = gate.token(&["org_1"]);
    let upgrade = gate.request(TASKS, Some(&token)).header("connection", "upgrade").header("upgrade", "websocket");
    for request in [gate.request(TASKS, Some(&token)), upgrade] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 502);
        assert!(answer.headers().contains_key("retry-after"));
    }
}

/// A clock that panics once when armed, in the middle of a request.
#[derive(Default)]
struct Breaking(AtomicBool);

impl Clock for Breaking {
    fn now(&self) -> UnixTime {
        assert!(!self.0.swap(false, Ordering::SeqCst), "the clock panics as told");
        SystemClock.now()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn panic_in_a_phase_ends_one_request_and_leaks_nothing() {
    let clock = Arc::new(Breaking::default());
    let gate = Gate::with(Setup { clock: Arc::clone(&clock) as Arc<dyn Clock>, ..Setup::default() }).await;
    let token = gate.token(&["org_1"]);
    assert_eq!(gate.get(TASKS, &token).await.status, 200);
    for _ in 0..3 {
        let mut broken = Wire::open(&gate.url).await;
        clock.0.store(true, Ordering::SeqCst);
        let request = format!("GET {TASKS} HTTP/1.1\r\nHost: gate.test\r\nAuthorization: Bearer {token}\r\n\r\n");
        broken.send(request.as_bytes()).await;
        assert!(broken.answer(false).await.is_none(), "the connection closes without a response");
        assert_eq!(gate.get(TASKS, &token).await.status, 200);
    }
    gate.until_metric("shapegate_requests_in_flight", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_body_closes_its_connection() {
    let gate = Gate::with(Setup { rules: rules_with_subsets(), ..Setup::default() }).await;
    let token = gate.token(&["org_1"]);
    let post = |chunks: &str| {
        format!(
            "POST {TASKS} HTTP/1.1\r\nHost: gate.test\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
        )
    };
    let smuggled = format!("GET {TASKS} HTTP/1.1\r\nHost: gate.test\r\nAuthorization: Bearer {token}\r\n\r\n");
    for broken in ["zz\r\n", "-2\r\n{}\r\n", "0x2\r\n{}\r\n", "\n", "00000000000000002\r\n{}\r\n", "2\r\n{}XX0\r\n\r\n"]
    {
        let mut wire = Wire::open(&gate.url).await;
        wire.send(post(broken).as_bytes()).await;
        wire.send(smuggled.as_bytes()).await;
        let answer = wire.answer(false).await.unwrap_or_else(|| panic!("{broken:?}: no response"));
        assert_eq!((answer.status.as_u16(), answer.header("connection")), (400, "close"), "{broken:?}");
        assert_eq!(wire.rest().await, "", "{broken:?}: what follows is not read as a request");
    }
    // A well-formed body keeps the connection open.
    let mut wire = Wire::open(&gate.url).await;
    wire.send(post("2\r\n{}\r\n0\r\n\r\n").as_bytes()).await;
    assert_eq!(wire.answer(false).await.unwrap().status, 200);
    wire.send(smuggled.as_bytes()).await;
    assert_eq!(wire.answer(false).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_disconnects_during_a_key_fetch_leaks_nothing() {
    let gate = Gate::with(Setup { issuer_url: Some(silent_issuer().await), ..Setup::default() }).await;
    let token = gate.issuer.token(&json!({ "organizationIds": ["org_1"] }));
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = Wire::open(&gate.url).await;
        let request = format!("GET {TASKS} HTTP/1.1\r\nHost: gate.test\r\nAuthorization: Bearer {token}\r\n\r\n");
        client.send(request.as_bytes()).await;
        clients.push(client);
    }
    gate.until_metric("shapegate_connections", 5.0).await;
    drop(clients);
    gate.until_metric("shapegate_connections", 0.0).await;
    gate.until_metric("shapegate_requests_in_flight", 0.0).await;
}

/// Starts an issuer that accepts connections and never responds.
async fn silent_issuer() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await.unwrap());
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_other_than_paths_give_400() {
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    for (line, status) in [
        (format!("GET {TASKS}#fragment"), 400),
        (format!("GET {TASKS}"), 200),
        ("OPTIONS *".to_owned(), 400),
        ("OPTIONS /v1/shape".to_owned(), 204),
    ] {
        let mut wire = Wire::open(&gate.url).await;
        wire.send(format!("{line} HTTP/1.1\r\nHost: gate.test\r\nAuthorization: Bearer {token}\r\n\r\n").as_bytes())
            .await;
        assert_eq!(wire.answer(false).await.unwrap().status, status, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn short_request_with_h2c_does_not_wait_for_the_http_2_preface() {
    let gate = Gate::with(Setup { server: "h2c = true".to_owned(), ..Setup::default() }).await;
    for request in ["GET / HTTP/1.0\r\n\r\n", "PRI", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"] {
        let mut wire = Wire::open(&gate.url).await;
        wire.send(request.as_bytes()).await;
        if request == "PRI" {
            // Both protocols start with these bytes; the next ones decide.
            wire.send(b"NT / HTTP/1.1\r\nHost: gate.test\r\n\r\n").await;
        }
        let answer = wire.answer(false).await.unwrap_or_else(|| panic!("{request:?}: no response"));
        assert!(answer.status.is_client_error(), "{request:?}: {}", answer.status);
    }
}
