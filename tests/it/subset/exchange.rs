//! A subset request and its response: what is forwarded to Electric and to the client.

use std::time::Duration;

use http::{Method, StatusCode, Version};
use serde_json::json;
use shapegate::clock::{Clock, SystemClock};
use shapegate::demo::http::{End, Reply};
use tokio::task::JoinHandle;

use super::{OPEN, TASKS, assert_refused, gate, last_body, rows};
use crate::harness::{Answer, Certificate, Gate, SECRET, SHORT_LIFE, Setup, Wire};

const SUBSET: &str = r#"{"where":"title = $1","params":{"1":"one"},"order_by":"title","limit":2}"#;

fn post(gate: &Gate, token: &str) -> JoinHandle<Answer> {
    let request = gate.client().post(format!("{}{TASKS}", gate.url)).bearer_auth(token).body(SUBSET);
    let request = request.header("content-type", "application/json").send();
    tokio::spawn(async { Answer::of(request.await.unwrap()).await })
}

#[tokio::test(flavor = "multi_thread")]
async fn subset_request_to_electric_has_only_allowed_parameters_and_headers() {
    let gate = gate().await;
    let token = gate.token(&["org_1"]);
    let request = gate.client().post(format!("{}{TASKS}&utm=x&cache-buster=7", gate.url)).bearer_auth(&token);
    let request = request.header("content-type", "application/json; charset=utf-8").header("cookie", "session=1");
    let request = request.header("accept-encoding", "deflate").header("origin", "https://app.test").body(SUBSET);
    let answer = Answer::of(request.send().await.unwrap()).await;
    assert_eq!(rows(&answer, "title"), ["one"]);
    let seen = gate.electric.requests().pop().unwrap();
    assert_eq!(seen.method, "POST");
    assert_eq!(
        seen.target,
        "/v1/shape?table=tasks&where=%22organization_id%22%20%3D%20%241&params%5B1%5D=org_1\
         &columns=id%2Ctitle&queryable_columns=id%2Ctitle&offset=-1&secret=test-secret"
    );
    let expected =
        r#"{"subset":{"limit":2,"order_by":"\"title\" ASC","params":{"1":"one"},"where":"(\"title\" = $1)"}}"#;
    assert_eq!(seen.body, expected.as_bytes());
    let mut names: Vec<_> = seen.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort();
    let allowed = ["accept", "accept-encoding", "content-length", "content-type", "host", "user-agent", "x-request-id"];
    assert_eq!(names, allowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn subset_response_keeps_electric_headers_and_is_no_store() {
    let gate = gate().await;
    let answer = gate.post(TASKS, &gate.token(&["org_1"]), SUBSET).await;
    for name in ["electric-handle", "electric-offset", "electric-schema"] {
        assert!(!answer.header(name).is_empty(), "{name}");
    }
    assert_eq!(answer.header("electric-snapshot"), "true");
    assert!(answer.header("access-control-expose-headers").contains("electric-snapshot"));
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("cdn-cache-control"), "no-store");
    assert_eq!(answer.all("vary"), "accept-encoding, authorization");
    for name in answer.headers.keys() {
        let ours = [
            "access-control-allow-origin",
            "access-control-expose-headers",
            "cache-control",
            "cdn-cache-control",
            "connection",
            "content-length",
            "content-type",
            "date",
            "transfer-encoding",
            "vary",
            "x-request-id",
        ];
        assert!(ours.contains(&name.as_str()) || name.as_str().starts_with("electric-"), "{:?}", answer.headers);
    }
    assert!(!answer.headers.contains_key("electric-server"));
    for bytes in [format!("{:?}", answer.headers), answer.text()] {
        assert!(!bytes.contains(SECRET), "{bytes}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_subsets_are_neither_shared_nor_cached() {
    let gate = gate().await;
    let token = gate.token(&["org_1"]);
    gate.electric.hold();
    let both = [post(&gate, &token), post(&gate, &token)];
    gate.electric.wait_for_requests(2).await;
    gate.electric.release();
    for answer in both {
        assert_eq!(rows(&answer.await.unwrap(), "title"), ["one"]);
    }
    assert_eq!(rows(&gate.post(TASKS, &token, SUBSET).await, "title"), ["one"]);
    assert_eq!(gate.electric.request_count(), 3);
    assert_eq!(gate.metric("shapegate_kept_flights").await, 0.0);
    // A plain GET of the same shape is another request, and its response is shared.
    for _ in 0..2 {
        assert_eq!(gate.get(TASKS, &token).await.status, 200);
    }
    assert_eq!(gate.electric.request_count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn subsets_count_against_the_flight_limits() {
    let limits = "[limits]\nflights = 2\nflights_per_subject = 1\n";
    let gate = Gate::with(Setup { rules: format!("{OPEN}\n{limits}"), ..Setup::default() }).await;
    let (mine, other) =
        (gate.token(&["org_1"]), |name: &str| gate.issuer.token(&json!({ "sub": name, "organizationIds": ["org_1"] })));
    gate.electric.hold();
    let first = post(&gate, &mine);
    gate.electric.wait_for_requests(1).await;
    assert_refused(&gate.post(TASKS, &mine, SUBSET).await, 429, "too_many_requests", "mine");
    let second = post(&gate, &other("user-2"));
    gate.electric.wait_for_requests(2).await;
    assert_refused(&gate.post(TASKS, &other("user-3"), SUBSET).await, 503, "overloaded", "all");
    gate.electric.release();
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(second.await.unwrap().status, 200);
    assert_eq!(gate.post(TASKS, &mine, SUBSET).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_subset_keeps_its_flight_slot_during_grace() {
    // Electric does not notice, and continues the query (docs/electric.md, "Clients that leave").
    let limits = "[limits]\nflights = 1\n[cache]\ngrace = \"1m\"\n";
    let gate = Gate::with(Setup { rules: format!("{OPEN}\n{limits}"), ..Setup::default() }).await;
    let token = gate.token(&["org_1"]);
    gate.electric.hold();
    let left = post(&gate, &token);
    gate.electric.wait_for_requests(1).await;
    left.abort();
    gate.until_metric("shapegate_requests_in_flight", 0.0).await;
    assert_refused(&gate.post(TASKS, &token, SUBSET).await, 503, "overloaded", "the slot is in use");
    gate.electric.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_electric_are_mapped_for_subsets_as_for_shapes() {
    let gate = gate().await;
    let token = gate.token(&["org_1"]);
    for (status, expected, code) in [
        (401, 502, "upstream_refused"),
        (413, 502, "upstream_refused"),
        (500, 502, "upstream_refused"),
        (503, 503, "not_ready"),
    ] {
        gate.electric.script(Reply::json(status, r#"{"message":"canary"}"#));
        let answer = gate.post(TASKS, &token, SUBSET).await;
        assert_refused(&answer, expected, code, &status.to_string());
        assert!(!answer.text().contains("canary"));
    }
    let words =
        r#"{"errors":{"subset":{"where":["At location 8: no operator"]},"where":["canary"],"columns":["canary"]}}"#;
    gate.electric.script(Reply::json(400, words));
    let answer = gate.post(TASKS, &token, SUBSET).await;
    assert_refused(&answer, 400, "invalid_request", "400");
    assert_eq!(answer.json()["errors"], json!({ "subset.where": ["At location 8: no operator"] }));
    gate.electric.script(Reply::json(400, r#"{"errors":{"columns":["canary"]}}"#));
    assert_refused(&gate.post(TASKS, &token, SUBSET).await, 502, "upstream_refused", "the rule's");
    gate.electric.script(Reply::json(200, "{").with_end(End::Reset));
    let request = gate.client().post(format!("{}{TASKS}", gate.url)).bearer_auth(&token).body(SUBSET);
    let broken = request.send().await.unwrap();
    assert!(broken.status() == StatusCode::BAD_GATEWAY || broken.bytes().await.is_err());
    // A dead handle.
    let dead = TASKS.replace("offset=-1", "offset=0_0&handle=1-1");
    let refetch = gate.post(&dead, &token, SUBSET).await;
    assert_eq!(refetch.status, 409);
    assert!(!refetch.header("electric-handle").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_closed_by_electric_fails_no_subset() {
    // Electric closes a connection after 50 requests without notice (docs/electric.md, "Connections").
    let gate = gate().await;
    let token = gate.token(&["org_1"]);
    for number in 0..120 {
        assert_eq!(gate.post(TASKS, &token, SUBSET).await.status, 200, "request {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_subset_ends_if_its_token_expires_or_its_rule_changes() {
    let gate = gate().await;
    let now = SystemClock.now().as_secs();
    let short = gate.issuer.token(&json!({ "sub": "user-9", "organizationIds": ["org_1"], "exp": now + SHORT_LIFE }));
    let long = gate.token(&["org_1"]);
    gate.electric.hold();
    let (short, long) = (post(&gate, &short), post(&gate, &long));
    gate.electric.wait_for_requests(2).await;
    assert_refused(&short.await.unwrap(), 401, "token_expired", "the token");
    let closed = OPEN.replace("subset = true", "");
    let setup = Setup { rules: closed, ..Setup::default() };
    gate.policy.replace(setup.config(&gate.electric.url(), gate.issuer.url()).policy);
    let answer = tokio::time::timeout(Duration::from_secs(5), long).await.unwrap().unwrap();
    assert_refused(&answer, 405, "method_not_allowed", "the rule");
    assert_refused(&gate.post(TASKS, &gate.token(&["org_1"]), SUBSET).await, 405, "method_not_allowed", "POST");
    gate.electric.release();
}

fn head(token: &str, length: &str) -> String {
    format!(
        "POST {TASKS} HTTP/1.1\r\nHost: gate.test\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\n{length}\r\n\r\n"
    )
}

/// docs/security.md, P4: the rejection does not wait for the body, and the body is not read as a request.
#[tokio::test(flavor = "multi_thread")]
async fn body_is_read_only_after_authorization() {
    let gate = gate().await;
    let length = format!("Content-Length: {}", SUBSET.len());
    for (token, length, status) in [
        ("x".to_owned(), length.clone(), 401),
        (gate.token(&["org_2"]), length, 403),
        (gate.token(&["org_1"]), "Content-Length: 1048577".to_owned(), 413),
    ] {
        let mut wire = Wire::open(&gate.url).await;
        wire.send(head(&token, &length).as_bytes()).await;
        let answer = wire.answer(false).await.unwrap();
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("connection"), "close");
        wire.send(format!("{}{SUBSET}", head(&gate.token(&["org_1"]), "")).as_bytes()).await;
        assert_eq!(wire.rest().await, "", "{status}");
    }
    assert_eq!(gate.electric.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_bodies_are_read_and_keep_the_connection() {
    let gate = gate().await;
    let token = gate.token(&["org_1"]);
    let mut wire = Wire::open(&gate.url).await;
    // A rejection after the body was read keeps the connection open, as a success does.
    for (body, status) in [(SUBSET, 200), ("{\"x\":1}", 400), (SUBSET, 200)] {
        let head = head(&token, "Transfer-Encoding: chunked");
        let (one, two) = body.split_at(3);
        let chunks = format!("{:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n", one.len(), two.len());
        wire.send(format!("{head}{chunks}").as_bytes()).await;
        let answer = wire.answer(false).await.unwrap();
        assert_eq!(answer.status, status, "{}", answer.text());
        if status == 200 {
            assert_eq!(last_body(&gate)["subset"]["limit"], 2);
        }
    }
    let long =
        format!("{}100001\r\n{}\r\n0\r\n\r\n", head(&token, "Transfer-Encoding: chunked"), "x".repeat(0x10_0001));
    wire.send(long.as_bytes()).await;
    assert_eq!(wire.answer(false).await.unwrap().status, 413);
    assert_eq!(gate.electric.request_count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn subsets_over_http_2() {
    let setup = Setup { rules: OPEN.to_owned(), certificate: Some(Certificate::new()), ..Setup::default() };
    let gate = Gate::with(setup).await;
    gate.insert_task(1, "org_1", "one");
    let token = gate.token(&["org_1"]);
    let request = gate.client().request(Method::POST, format!("{}{TASKS}", gate.url)).bearer_auth(&token);
    let response = request.header("content-type", "application/json").body(SUBSET).send().await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    assert_eq!(rows(&Answer::of(response).await, "title"), ["one"]);
    for _ in 0..3 {
        assert_eq!(gate.post(TASKS, &token, SUBSET).await.status, 200);
    }
    assert_refused(&gate.post(TASKS, &token, "{\"table\":\"items\"}").await, 400, "invalid_request", "table");
}
