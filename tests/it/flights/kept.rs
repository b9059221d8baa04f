//! Cached responses: freshness, eviction, encodings, and conditional requests.

use std::process::{Command, Stdio};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn fresh_cached_response_needs_no_upstream_request() {
    let rules = format!("{RULES}\n[cache]\nheader = true\n");
    let gate = Gate::with(Setup { rules, ..Setup::default() }).await;
    gate.insert_task(1, "org_1", "mine");
    let first = gate.get(TASKS, &user(&gate, 1, "org_1")).await;
    assert_eq!((first.header("shapegate-cache"), first.rows("title")), ("miss", vec!["mine".to_owned()]));
    for number in 2..10 {
        let answer = gate.get(TASKS, &user(&gate, number, "org_1")).await;
        assert_eq!(answer.header("shapegate-cache"), "fresh");
        assert_eq!((&answer.body, answer.header("etag")), (&first.body, first.header("etag")));
        assert_ne!(answer.header("x-request-id"), first.header("x-request-id"));
    }
    assert_eq!(gate.electric.request_count(), 1);
    assert_eq!(gate.metric("shapegate_kept_flights").await, 1.0);
    assert!(gate.metric("shapegate_kept_bytes").await > first.body.len() as f64);
    // A cached response is not served to a client that may not read the shape.
    assert_eq!(gate.get(TASKS, &user(&gate, 1, "org_2")).await.status, 403);
    // What gets past HTTP caches does not change the response.
    for rest in ["&cache-buster=1", "&expired_handle=1-1", "&cursor=7", "&log=full", "&live=false&replica=default"] {
        let answer = gate.get(&format!("{TASKS}{rest}"), &user(&gate, 1, "org_1")).await;
        assert_eq!((answer.header("shapegate-cache"), &answer.body), ("fresh", &first.body), "{rest}");
    }
    assert_eq!(gate.electric.request_count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn uncacheable_responses_are_not_cached() {
    let rules = format!("{RULES}\n[cache]\nmax_age = '0s'\nbytes = '0B'\n");
    let gate = Gate::with(Setup { rules, ..Setup::default() }).await;
    let token = gate.token(&["org_1"]);
    for _ in 0..3 {
        assert_eq!(gate.get(TASKS, &token).await.status, 200);
    }
    assert_eq!(gate.electric.request_count(), 3);
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    for control in ["no-store", "private, max-age=60", "no-cache", ""] {
        let before = gate.electric.request_count();
        for _ in 0..2 {
            gate.electric.script(Reply::json(200, "[]").with_header("cache-control", control));
            assert_eq!(gate.get(TASKS, &token).await.text(), "[]");
        }
        assert_eq!(gate.electric.request_count() - before, 2, "{control}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn matching_if_none_match_gives_304() {
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    let first = gate.get(TASKS, &token).await;
    let ask = async |target: &str, etag: &str, encoding: &str| {
        let request = gate.request(target, Some(&token)).header("if-none-match", etag);
        Answer::of(request.header("accept-encoding", encoding).send().await.unwrap()).await
    };
    let known = ask(TASKS, first.header("etag"), "identity").await;
    assert_eq!((known.status.as_u16(), known.body.len()), (304, 0));
    for name in ["electric-handle", "electric-offset", "electric-has-data", "etag", "vary", "cache-control"] {
        assert_eq!(known.header(name), first.header(name), "{name}");
    }
    for name in ["electric-schema", "content-type", "content-length", "transfer-encoding"] {
        assert!(!known.headers.contains_key(name), "{name}");
    }
    assert_eq!(ask(TASKS, "\"other\"", "identity").await.status, 200);
    for same in ["*", &format!("W/{}", first.header("etag"))] {
        assert_eq!(ask(TASKS, same, "identity").await.status, 304, "{same}");
    }
    assert_eq!(gate.electric.request_count(), 1);
    // If-None-Match would end a live request at once (docs/electric.md, "Long polls"), so it is not forwarded.
    let target = poll(&gate, "org_1").await;
    let waiting = gate.request(&target, Some(&token)).header("if-none-match", first.header("etag")).send();
    let waiting = tokio::spawn(waiting);
    gate.electric.wait_for_waiting(1).await;
    assert_eq!(gate.electric.requests().pop().unwrap().header("if-none-match"), None);
    waiting.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_response_is_served_and_revalidated() {
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    let reply = || Reply::json(200, "[1]").with_header("etag", "\"7-1:-1:0_0\"").with_header("electric-handle", "7-1");
    gate.electric.script(reply().with_header("cache-control", "max-age=0, stale-while-revalidate=60"));
    assert_eq!(gate.get(TASKS, &token).await.text(), "[1]");
    gate.electric.script(Reply::new(304).with_header("cache-control", "max-age=60"));
    let stale = gate.get(TASKS, &token).await;
    assert_eq!(stale.text(), "[1]");
    gate.electric.wait_for_requests(2).await;
    assert_eq!(gate.electric.requests().pop().unwrap().header("if-none-match"), Some("\"7-1:-1:0_0\""));
    gate.until_metric("shapegate_open_flights", 0.0).await;
    let renewed = gate.get(TASKS, &token).await;
    assert_eq!((renewed.text(), renewed.header("electric-handle")), ("[1]".to_owned(), "7-1"));
    assert_eq!(gate.electric.request_count(), 2);
    assert_eq!(gate.metric(r#"shapegate_joins_total{how="stale",rule="tasks"}"#).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_responses_of_a_dead_handle_are_evicted() {
    let gate = Gate::start().await;
    gate.insert_task(1, "org_1", "old");
    let token = gate.token(&["org_1"]);
    let first = gate.get(TASKS, &token).await;
    let handle = first.header("electric-handle").to_owned();
    let next = |handle: &str| format!("{}&handle={handle}", TASKS.replace("offset=-1", "offset=0_0"));
    gate.get(&next(&handle), &token).await;
    assert_eq!(gate.metric("shapegate_kept_flights").await, 2.0);
    // A request for another shape with this handle evicts nothing.
    let other = next(&handle).replace("org_1", "org_2");
    assert_eq!(gate.get(&other, &gate.token(&["org_2"])).await.status, 409);
    assert_eq!(gate.metric("shapegate_purges_total").await, 0.0);
    assert!(gate.electric.delete_shape(&handle));
    let gone = gate.get(&next(&handle).replace("0_0", "0_1"), &token).await;
    assert_eq!(gone.status, 409);
    gate.until_metric("shapegate_purges_total", 2.0).await;
    let again = gate.get(TASKS, &token).await;
    assert_ne!(again.header("electric-handle"), handle);
}

/// Decodes a body with independent implementations: those of Node.js, or the zstd library.
fn decode(encoding: &str, body: &[u8]) -> Vec<u8> {
    let script = match encoding {
        "gzip" => "zlib.gunzipSync",
        "br" => "zlib.brotliDecompressSync",
        _ => "zlib.zstdDecompressSync",
    };
    if encoding == "zstd" {
        return zstd::decode_all(body).unwrap();
    }
    let program =
        format!("const zlib = require('zlib'); process.stdout.write({script}(require('fs').readFileSync(0)))");
    let mut node =
        Command::new("node").args(["-e", &program]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut node.stdin.take().unwrap(), body).unwrap();
    node.wait_with_output().unwrap().stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_responses_share_one_upstream_request_and_have_their_own_etag() {
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    for number in 0..100 {
        gate.insert_task(number, "org_1", "a title that is the same for every task");
    }
    let ask = async |target: &str, encoding: &str| {
        let request = gate.request(target, Some(&token)).header("accept-encoding", encoding);
        Answer::of(request.send().await.unwrap()).await
    };
    let plain = ask(TASKS, "identity").await;
    assert!(!plain.headers.contains_key("content-encoding"));
    let mut tags = BTreeSet::from([plain.header("etag").to_owned()]);
    for encoding in ["gzip", "br", "zstd"] {
        // From Electric, since this handle is not cached, and from the cache.
        for target in [&format!("{TASKS}&handle={encoding}"), TASKS] {
            let answer = ask(target, encoding).await;
            assert_eq!(
                (answer.header("content-encoding"), answer.header("vary")),
                (encoding, "accept-encoding, authorization")
            );
            assert!(answer.body.len() * 4 < plain.body.len(), "{encoding}: {}", answer.body.len());
            let decoded = decode(encoding, &answer.body);
            assert_eq!(decoded.len(), plain.body.len(), "{encoding}");
            tags.insert(answer.header("etag").to_owned());
            let request = gate.request(TASKS, Some(&token)).header("accept-encoding", encoding);
            let known = request.header("if-none-match", answer.header("etag")).send().await.unwrap();
            assert_eq!(known.status(), 304);
            assert_eq!(known.headers()["etag"], answer.header("etag"));
        }
    }
    assert_eq!(tags.len(), 4, "{tags:?}");
    assert_eq!(gate.electric.request_count(), 4);
    // Small responses and event streams are not compressed.
    let small = poll(&gate, "org_2").await.replace("&live=true", "");
    // Cached first, so that its size is known: a response still in flight is compressed, whatever its size will be.
    assert_eq!(gate.get(&small, &gate.token(&["org_2"])).await.status, 200);
    let small = Answer::of(
        gate.request(&small, Some(&gate.token(&["org_2"]))).header("accept-encoding", "gzip").send().await.unwrap(),
    )
    .await;
    assert!(!small.headers.contains_key("content-encoding"));
    let (sender, reply) = gated("text/event-stream");
    gate.electric.script(reply);
    let mut events = Stream::open(gate.request(EVENTS, Some(&token)).header("accept-encoding", "gzip")).await;
    assert_eq!(events.header("content-encoding"), "");
    sender.send(Bytes::from("data: 1\n\n")).await.unwrap();
    events.until("data: 1\n\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streamed_response_is_compressed_chunk_by_chunk() {
    let gate = Gate::start().await;
    let (sender, reply) = gated("application/json");
    gate.electric.script(reply);
    let request = gate.request(TASKS, Some(&gate.token(&["org_1"]))).header("accept-encoding", "zstd");
    let mut response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "zstd");
    let mut body = Vec::new();
    for part in ["[1", ",2", ",3]"] {
        sender.send(Bytes::from(part)).await.unwrap();
        // Each part arrives, in full, before the next one is sent.
        body.extend(response.chunk().await.unwrap().unwrap());
    }
    drop(sender);
    while let Some(chunk) = response.chunk().await.unwrap() {
        body.extend(chunk);
    }
    assert_eq!(zstd::decode_all(&body[..]).unwrap(), b"[1,2,3]");
}

#[tokio::test(flavor = "multi_thread")]
async fn event_streams_are_shared_within_sse_join_and_never_cached() {
    for (sse_join, requests) in [("30s", 1), ("0s", 2)] {
        let rules = format!("{RULES}\n[cache]\nsse_join = '{sse_join}'\n");
        let gate = Gate::with(Setup { rules, ..Setup::default() }).await;
        let token = gate.token(&["org_1"]);
        let mut senders = Vec::new();
        for _ in 0..requests {
            let (sender, reply) = gated("text/event-stream");
            gate.electric.script(reply.with_header("cache-control", "public, max-age=59"));
            senders.push(sender);
        }
        senders[0].send(Bytes::from("data: 1\n\n")).await.unwrap();
        let mut first = Stream::open(gate.request(EVENTS, Some(&token))).await;
        first.until("data: 1\n\n").await;
        if requests == 2 {
            senders[1].send(Bytes::from("data: 1\n\n")).await.unwrap();
        }
        let mut second = Stream::open(gate.request(EVENTS, Some(&token))).await;
        second.until("data: 1\n\n").await;
        assert_eq!(gate.electric.request_count(), requests, "{sse_join}");
        drop(senders);
        assert_eq!((first.rest().await.unwrap(), second.rest().await.unwrap()), (String::new(), String::new()));
        gate.until_metric("shapegate_open_flights", 0.0).await;
        assert_eq!(gate.metric("shapegate_kept_flights").await, 0.0);
    }
}
