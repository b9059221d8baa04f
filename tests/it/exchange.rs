//! One request and its response: what is forwarded to Electric and to the client, byte by byte as it arrives.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use shapegate::clock::{Clock, SystemClock};
use shapegate::config::Config;
use shapegate::demo::electric::{Column, Electric, Options};
use shapegate::demo::http::{Body, End, Reply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::{Answer, Gate, SECRET, SHORT_LIFE, Setup, Stream, raw};

const TASKS: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";

/// Returns the live request that follows a response.
fn live(answer: &Answer) -> String {
    let (handle, offset) = (answer.header("electric-handle"), answer.header("electric-offset"));
    format!("/v1/shape?table=tasks&organizationId=org_1&handle={handle}&offset={offset}&live=true")
}

#[tokio::test(flavor = "multi_thread")]
async fn client_gets_exactly_the_permitted_rows() {
    let gate = Gate::start().await;
    gate.insert_task(1, "org_1", "mine");
    gate.insert_task(2, "org_2", "theirs");
    let answer = gate.get(TASKS, &gate.token(&["org_1", "org_2"])).await;
    assert_eq!(answer.rows("title"), ["mine"]);
    let other =
        gate.get("/v1/shape?table=tasks&organizationId=org_2&offset=-1", &gate.token(&["org_1", "org_2"])).await;
    assert_eq!(other.rows("title"), ["theirs"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_gets_the_columns_that_it_names_among_those_of_the_rule() {
    // docs/security.md, Q13
    let gate = Gate::start().await;
    gate.electric.insert("items", json!({ "id": 1, "user_id": "hidden", "title": "one" })).unwrap();
    let admin = gate.issuer.token(&json!({ "sub": "admin", "roles": ["admin"] }));
    let ask = async |columns: &str| gate.get(&format!("/api/items?offset=-1{columns}"), &admin).await;
    for (columns, value) in [
        ("", json!({ "id": "1", "title": "one" })),
        ("&columns=title,id", json!({ "id": "1", "title": "one" })),
        ("&columns=id", json!({ "id": "1" })),
    ] {
        let answer = ask(columns).await;
        assert_eq!(answer.json()[0]["value"], value, "{columns}: {}", answer.text());
    }
    assert_eq!(gate.electric.request_count(), 2, "two lists in another order are one shape");
    for columns in ["&columns=id,user_id", "&columns=*", "&columns=id&columns=id"] {
        assert_eq!(ask(columns).await.json()["errors"]["columns"].as_array().map(Vec::len), Some(1), "{columns}");
    }
    assert_eq!(gate.electric.request_count(), 2);
    // Without the primary key.
    let refused = ask("&columns=title").await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (400, "invalid_request"), "{}", refused.text());
    assert_eq!(gate.electric.request_count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn request_to_electric_has_only_allowed_parameters_and_headers() {
    // docs/security.md, Q1, Q15, C3, C4, P9
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    let request = gate
        .request("/v1/shape?offset=-1&utm=x&organizationId=org_1&cache-buster=7&table=tasks", Some(&token))
        .header("cookie", "session=1")
        .header("x-forwarded-for", "10.0.0.1")
        .header("accept-encoding", "gzip")
        .header("range", "bytes=0-1")
        .header("traceparent", "00-1-1-01")
        .header("connection", "authorization, x-request-id")
        .header("upgrade", "websocket")
        .header("origin", "https://app.test");
    let answer = Answer::of(request.send().await.unwrap()).await;
    assert_eq!(answer.status, 200);
    let seen = gate.electric.requests().pop().unwrap();
    assert_eq!(
        seen.target,
        "/v1/shape?table=tasks&where=%22organization_id%22%20%3D%20%241&params%5B1%5D=org_1&offset=-1&secret=test-secret"
    );
    let names: Vec<_> = seen.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    for name in &names {
        assert!(["host", "user-agent", "accept", "accept-encoding", "x-request-id"].contains(&name.as_str()), "{name}");
    }
    assert_eq!(names.len(), 5, "{names:?}");
    assert_eq!(gate.metric("shapegate_dropped_parameters_total").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn response_keeps_electric_headers_and_is_cacheable_by_the_client_only() {
    let gate = Gate::start().await;
    let answer = gate.get(TASKS, &gate.token(&["org_1"])).await;
    for name in ["electric-handle", "electric-offset", "electric-schema", "electric-has-data", "etag"] {
        assert!(!answer.header(name).is_empty(), "{name}");
    }
    assert_eq!(answer.header("cache-control"), "private, max-age=60, stale-while-revalidate=300");
    assert_eq!(answer.all("vary"), "accept-encoding, authorization");
    assert_eq!(answer.header("content-type"), "application/json; charset=utf-8");
    let exposed = answer.header("access-control-expose-headers");
    for name in [
        "electric-cursor",
        "electric-handle",
        "electric-has-data",
        "electric-offset",
        "electric-schema",
        "electric-up-to-date",
        "electric-internal-known-error",
        "retry-after",
    ] {
        assert!(exposed.contains(name), "{name}");
    }
    for name in ["electric-server", "access-control-allow-methods", "set-cookie", "via"] {
        assert!(!answer.headers.contains_key(name), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secret_reaches_neither_clients_nor_metrics() {
    // docs/security.md, C7, Q15
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    for target in [TASKS, "/v1/shape?table=tasks&organizationId=org_1&offset=-1&secret=x", "/nothing"] {
        let answer = gate.get(target, &token).await;
        let all = format!("{:?}{}", answer.headers, answer.text());
        assert!(!all.contains(SECRET), "{all}");
    }
    let metrics = gate.admin("/metrics").await.text();
    assert!(!metrics.contains(SECRET) && !metrics.contains("org_1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_poll_returns_with_the_next_change() {
    let gate = Gate::start().await;
    gate.insert_task(1, "org_1", "first");
    let token = gate.token(&["org_1"]);
    let first = gate.get(TASKS, &token).await;
    let caught_up = gate.get(&live(&first).replace("&live=true", ""), &token).await;
    assert!(caught_up.headers.contains_key("electric-up-to-date"), "an empty header survives");
    let waiting = tokio::spawn(gate.request(&live(&caught_up), Some(&token)).send());
    gate.electric.wait_for_waiting(1).await;
    gate.insert_task(2, "org_1", "second");
    let answer = Answer::of(waiting.await.unwrap().unwrap()).await;
    assert_eq!(answer.rows("title"), ["second"]);
    assert!(!answer.header("electric-cursor").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_forwarded_as_they_arrive() {
    let gate = Gate::start().await;
    gate.insert_task(1, "org_1", "first");
    let token = gate.token(&["org_1"]);
    let first = gate.get(TASKS, &token).await;
    let mut stream = Stream::open(gate.request(&format!("{}&live_sse=true", live(&first)), Some(&token))).await;
    assert_eq!((stream.status().as_u16(), stream.header("content-type")), (200, "text/event-stream"));
    gate.electric.wait_for_waiting(1).await;
    for title in ["second", "third"] {
        gate.insert_task(title.len() as u32, "org_1", title);
        // The stream is still open, so the event was not buffered until its end.
        stream.until(title).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_are_forwarded_without_buffering() {
    let gate = Gate::start().await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let reply = Reply { body: Body::Chunks(receiver), ..Reply::new(200) };
    gate.electric.script(reply.with_header("content-type", "text/event-stream"));
    let mut stream = Stream::open(gate.request(TASKS, Some(&gate.token(&["org_1"])))).await;
    for part in ["data: ", "{}", "\n\n"] {
        sender.send(Bytes::from(part)).await.unwrap();
        assert_eq!(stream.until(part).await, part);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_response_gives_502_or_a_broken_body() {
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    for end in [End::Truncate, End::Reset] {
        gate.electric.script(Reply::new(200).with_chunks([Bytes::from("[1,")]).with_end(end));
        let answer = gate.request(&format!("{TASKS}&handle={end:?}"), Some(&token)).send().await.unwrap();
        // The status is 200 if it was sent before the body broke off; then the body is truncated.
        let status = answer.status();
        assert!(status == 502 || answer.bytes().await.is_err(), "{end:?}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_closed_by_electric_fails_no_request() {
    // Electric closes a connection after 50 requests without notice (docs/electric.md, "Connections").
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    for number in 0..120 {
        assert_eq!(gate.get(&format!("{TASKS}&handle={number}"), &token).await.status, 200, "request {number}");
    }
}

/// Starts an upstream that answers the first request of each connection, or none, and closes at the next one, as
/// Electric does if a request arrives while it closes the connection.
async fn closing_upstream(answers_on_new: bool) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut request = Vec::new();
                while answers_on_new && !request.ends_with(b"\r\n\r\n") {
                    assert!(stream.read_buf(&mut request).await.unwrap() > 0);
                }
                if answers_on_new {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]").await.unwrap();
                }
                let _ = stream.read_buf(&mut request).await;
            });
        }
    });
    (url, connections)
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_reused_connection_is_retried_and_a_closed_new_one_is_not() {
    let (url, _) = closing_upstream(true).await;
    let gate = Gate::with(Setup { electric_url: Some(url), ..Setup::default() }).await;
    let token = gate.token(&["org_1"]);
    let retries = "shapegate_upstream_retries_total{rule=\"tasks\",upstream=\"default\"}";
    let mut asked = 0;
    // If Pingora's pool has not taken the connection back yet, the next request opens a new one.
    while gate.metric(retries).await < 2.0 {
        asked += 1;
        assert!(asked < 100, "no connection is ever reused");
        assert_eq!(gate.get(&format!("{TASKS}&handle={asked}"), &token).await.status, 200);
    }
    let (url, connections) = closing_upstream(false).await;
    let gate = Gate::with(Setup { electric_url: Some(url), ..Setup::default() }).await;
    let answer = gate.get(TASKS, &gate.token(&["org_1"])).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (502, "upstream_unreachable"));
    assert_eq!(gate.metric(retries).await, 0.0);
    // Besides the health checks.
    assert!(connections.load(Ordering::SeqCst) >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_poll_ends_when_its_token_expires() {
    // docs/security.md, T19: Electric holds the poll for 20 s, and the token expires before
    let gate = Gate::start().await;
    let first = gate.get(TASKS, &gate.token(&["org_1"])).await;
    let exp = SystemClock.now().as_secs() + SHORT_LIFE;
    let token = gate.issuer.token(&json!({ "organizationIds": ["org_1"], "exp": exp }));
    let answer = gate.get(&live(&first), &token).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "token_expired"));
    assert_eq!(gate.electric.waiting(), 1, "Electric still holds the poll");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_is_sent_after_the_token_expires() {
    let gate = Gate::start().await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let reply = Reply { body: Body::Chunks(receiver), ..Reply::new(200) };
    gate.electric.script(reply.with_header("content-type", "text/event-stream"));
    let exp = SystemClock.now().as_secs() + SHORT_LIFE;
    let token = gate.issuer.token(&json!({ "organizationIds": ["org_1"], "exp": exp }));
    let mut stream = Stream::open(gate.request(TASKS, Some(&token))).await;
    // A whole event: the rest of one that has begun would still be sent.
    sender.send(Bytes::from("data: before\n\n")).await.unwrap();
    stream.until("before\n\n").await;
    while SystemClock.now().as_secs() < exp {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The send fails if the stream has already ended.
    let _ = sender.send(Bytes::from("data: after\n\n")).await;
    drop(sender);
    assert_eq!(stream.rest().await.unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_lets_long_polls_finish() {
    let tune = |config: &mut Config| config.server.drain = Duration::from_secs(30);
    let mut gate = Gate::with(Setup { tune, ..Setup::default() }).await;
    let token = gate.token(&["org_1"]);
    let first = gate.get(TASKS, &token).await;
    let caught_up = gate.get(&live(&first).replace("&live=true", ""), &token).await;
    let waiting = tokio::spawn(gate.request(&live(&caught_up), Some(&token)).send());
    gate.electric.wait_for_waiting(1).await;
    let stopped = gate.stopping();
    while gate.admin("/readyz").await.status == 200 {}
    gate.insert_task(1, "org_1", "now");
    assert_eq!(Answer::of(waiting.await.unwrap().unwrap()).await.rows("title"), ["now"]);
    stopped.await;
    let address = gate.url.strip_prefix("http://").unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_address_of_a_host_name_is_tried() {
    // On most machines `localhost` is also [::1], where the stand-in does not listen.
    let electric = Electric::start(Options::default()).await.unwrap();
    electric.create_table(
        "tasks",
        vec![Column::new("id", "uuid").not_null().primary_key(0), Column::new("organization_id", "text")],
    );
    let url = format!("http://localhost:{}", electric.addr().port());
    let gate = Gate::with(Setup { electric_url: Some(url), ..Setup::default() }).await;
    assert_eq!(gate.get(TASKS, &gate.token(&["org_1"])).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn unresolvable_host_name_gives_502() {
    let gate =
        Gate::with(Setup { electric_url: Some("http://electric.invalid:3000".to_owned()), ..Setup::default() }).await;
    for _ in 0..2 {
        let answer = gate.get(TASKS, &gate.token(&["org_1"])).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (502, "upstream_unreachable"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_client_gets_no_chunked_encoding() {
    let gate = Gate::start().await;
    gate.insert_task(1, "org_1", "mine");
    let token = gate.token(&["org_1"]);
    let request = format!("GET {TASKS} HTTP/1.0\r\nHost: gate.test\r\nAuthorization: Bearer {token}\r\n\r\n");
    let answer = raw(&gate.url, request.as_bytes()).await;
    assert!(!answer.headers.contains_key("transfer-encoding"));
    assert_eq!(answer.rows("title"), ["mine"]);
}
