//! Subsets (POST and `subset__…`) and the client's own `where`, if the rule enables them.

mod attacks;
mod differential;
mod exchange;

use serde_json::{Value, json};

use crate::harness::{Answer, Gate, Setup, raw};

/// A rule that enables both and hides a column, two that enable nothing, and one that enables subsets only.
const OPEN: &str = r#"
[[shape]]
table = "tasks"
allow = "query.organizationId in claims.organizationIds"
where = '"organization_id" = {{ query.organizationId }}'
columns = ["id", "title"]
subset = true
client_where = true

[[shape]]
table = "items"
where = '"user_id" = {{ claims.sub }}'

[[shape]]
path = "/api/items"
table = "items"
where = "none"

[[shape]]
path = "/api/mine"
table = "items"
allow = "'reader' in claims.roles"
where = '"user_id" = {{ claims.sub }}'
subset = true
"#;

const TASKS: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";

async fn gate() -> Gate {
    let gate = Gate::with(Setup { rules: OPEN.to_owned(), ..Setup::default() }).await;
    gate.insert_task(1, "org_1", "one");
    gate.insert_task(2, "org_1", "two");
    gate.insert_task(3, "org_2", "foreign");
    gate
}

/// Percent-encodes `text` for a query.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// Returns the values of `column` in the response to a subset.
fn rows(answer: &Answer, column: &str) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = answer.json();
    assert!(body["metadata"]["snapshot_mark"].is_number(), "{body}");
    let rows = body["data"].as_array().unwrap().iter();
    rows.map(|row| row["value"][column].as_str().unwrap().to_owned()).collect()
}

fn assert_refused(answer: &Answer, status: u16, code: &str, what: &str) {
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{what}: {}", answer.text());
    assert_eq!(answer.header("cache-control"), "no-store", "{what}");
    assert_eq!(answer.header("access-control-allow-origin"), "*", "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn subset_returns_exactly_the_rows_of_both_rule_and_filter() {
    let gate = gate().await;
    let token = gate.token(&["org_1", "org_2"]);
    let body = json!({ "where": "title <> $1", "params": { "1": "two" }, "order_by": "title", "limit": 5 }).to_string();
    assert_eq!(rows(&gate.post(TASKS, &token, &body).await, "title"), ["one"]);
    let nested = format!("{{\"subset\":{body}}}");
    assert_eq!(rows(&gate.post(TASKS, &token, &nested).await, "title"), ["one"]);
    let query = format!("{TASKS}&subset__where={}&subset__order_by=title%20DESC&subset__limit=1", encoded("true"));
    assert_eq!(rows(&gate.get(&query, &token).await, "title"), ["two"]);
    let skipped = r#"{"order_by":"title","limit":1,"offset":1}"#;
    assert_eq!(rows(&gate.post(TASKS, &token, skipped).await, "title"), ["two"]);
    // The client's own filter for the shape, and a subset of that.
    let filtered = format!("{TASKS}&where={}&params%5B1%5D=two", encoded("title = $1"));
    assert_eq!(gate.get(&filtered, &token).await.rows("title"), ["two"]);
    assert_eq!(rows(&gate.post(&filtered, &token, &body).await, "title"), [""; 0]);
    assert_eq!(rows(&gate.post(&filtered, &token, r#"{"where":"true = true"}"#).await, "title"), ["two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn filter_may_use_every_column_of_a_rule_without_columns() {
    let gate = gate().await;
    for (id, user) in [(1, "user-1"), (2, "user-2")] {
        gate.electric.insert("items", json!({ "id": id, "user_id": user, "title": "x" })).unwrap();
    }
    let token = gate.issuer.token(&json!({ "sub": "user-1", "roles": ["reader"] }));
    let post = async |body: &str| gate.post("/api/mine?offset=-1", &token, body).await;
    assert_eq!(rows(&post(r#"{"where":"user_id LIKE 'user%'"}"#).await, "id"), ["1"]);
    assert_eq!(rows(&post(r#"{"where":"user_id = 'user-2'"}"#).await, "id"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_client_filters_share_a_shape() {
    let gate = gate().await;
    let token = gate.token(&["org_1"]);
    let one = format!("{TASKS}&where={}&params[1]=two", encoded("title = $1"));
    let same = format!("{TASKS}&where={}&params[1]=x&params[2]=two", encoded("(\"title\"=$2)"));
    let first = gate.get(&one, &token).await;
    assert_eq!(gate.get(&same, &token).await.header("electric-handle"), first.header("electric-handle"));
    assert_eq!(gate.electric.request_count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn post_is_allowed_and_advertised_only_on_paths_with_subsets() {
    let gate = gate().await;
    let admin = gate.issuer.token(&json!({ "sub": "user-1", "roles": ["reader"] }));
    // The path allows no POST, or the rule for this token does not.
    let no_post = "GET, OPTIONS";
    for (target, token, allow) in [
        ("/api/items?offset=-1", admin.as_str(), no_post),
        ("/api/items?offset=-1", "not a token", no_post),
        ("/v1/shape?table=items&offset=-1", &admin, no_post),
    ] {
        let answer = gate.post(target, token, "{}").await;
        assert_refused(&answer, 405, "method_not_allowed", target);
        assert_eq!(answer.header("allow"), allow);
    }
    let put = gate.client().put(format!("{}{TASKS}", gate.url)).send().await.unwrap();
    assert_eq!(Answer::of(put).await.header("allow"), "GET, POST, OPTIONS");
    for (path, methods) in [
        ("/v1/shape?table=tasks", "GET, POST, OPTIONS"),
        ("/api/mine", "GET, POST, OPTIONS"),
        ("/api/items", no_post),
        ("/nothing", no_post),
    ] {
        let request = gate.client().request(http::Method::OPTIONS, format!("{}{path}", gate.url));
        let request = request.header("origin", "https://a.test").header("access-control-request-method", "POST");
        let request = request.header("access-control-request-headers", "authorization,content-type");
        let answer = Answer::of(request.send().await.unwrap()).await;
        assert_eq!(answer.header("access-control-allow-methods"), methods, "{path}");
        assert_eq!(answer.header("allow"), methods, "{path}");
        assert_eq!(answer.header("access-control-allow-headers"), "authorization,content-type");
    }
    assert_eq!(gate.electric.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_may_not_read_a_shape_may_not_read_subsets() {
    let gate = gate().await;
    let reader = gate.issuer.token(&json!({ "sub": "user-1" }));
    let expired = gate.issuer.token(&json!({ "organizationIds": ["org_1"], "iat": 1_000, "exp": 2_000 }));
    let other = gate.token(&["org_2"]);
    let nowhere = "/v1/shape?table=nothing&offset=-1";
    for (target, token, status, code) in [
        // The first waits for the keys, without which nobody knows whether a signature is right.
        (nowhere, &*reader, 404, "shape_not_found"),
        (TASKS, "not a token", 401, "token_invalid"),
        (TASKS, expired.as_str(), 401, "token_expired"),
        (TASKS, &other, 403, "forbidden"),
        ("/api/mine?offset=-1", &reader, 403, "forbidden"),
        ("/nothing", &reader, 404, "not_found"),
    ] {
        assert_refused(&gate.post(target, token, "{}").await, status, code, target);
        let query = format!("{target}{}subset__limit=1", if target.contains('?') { "&" } else { "?" });
        assert_refused(&gate.get(&query, token).await, status, code, target);
    }
    assert_eq!(gate.electric.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_bodies_give_400_and_oversized_ones_413() {
    let gate = gate().await;
    let token = gate.token(&["org_1"]);
    let post = async |body: Vec<u8>, name: &str, value: &str| {
        let request = gate.client().post(format!("{}{TASKS}", gate.url)).bearer_auth(&token);
        Answer::of(request.header(name, value).body(body).send().await.unwrap()).await
    };
    let good = || br#"{"where":"true"}"#.to_vec();
    let named = |answer: &Answer| answer.json()["errors"].as_object().unwrap().keys().next().unwrap().clone();
    for (body, name, value, error) in [
        (good(), "content-type", "text/plain", "content-type"),
        (good(), "content-type", "application/x-www-form-urlencoded", "content-type"),
        (good(), "content-type", "application/jsonx", "content-type"),
        (good(), "content-type", "", "content-type"),
        (good(), "content-encoding", "gzip", "content-encoding"),
        (good(), "expect", "100-continue", "expect"),
        (Vec::new(), "content-type", "application/json", "body"),
        (b"\xff\xfe{}".to_vec(), "content-type", "application/json", "body"),
        (b"[]".to_vec(), "content-type", "application/json", "body"),
    ] {
        let answer = post(body, name, value).await;
        assert_refused(&answer, 400, "invalid_request", value);
        assert_eq!(named(&answer), error);
    }
    let long = |length: usize| format!(r#"{{"where_expr":"{}"}}"#, "x".repeat(length - 17)).into_bytes();
    let too_long = announce(&gate, &token, 1024 * 1024 + 1).await;
    assert_refused(&too_long, 413, "content_too_large", "long");
    assert_eq!(gate.electric.request_count(), 0);
    let longest = post(long(1024 * 1024), "content-type", "application/json").await;
    assert_eq!(longest.status, 200, "{}", longest.text());
    for content_type in ["application/json; charset=utf-8", "Application/JSON"] {
        assert_eq!(post(good(), "content-type", content_type).await.status, 200, "{content_type}");
    }
    assert_eq!(post(good(), "x-other", "no content type at all").await.status, 200);
    let twice = gate.post(&format!("{TASKS}&subset__limit=1"), &token, "{}").await;
    assert_refused(&twice, 400, "invalid_request", "in the query and in the body");
    assert_eq!(twice.json()["errors"], json!({ "subset": ["is given in the query and in the body"] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn array_of_keys_is_bounded_by_the_body_alone() {
    let mut gate = gate().await;
    gate.policy.keep(|setup| setup.tune = |config| config.limits.body_bytes = 200 * 1024);
    let token = gate.token(&["org_1"]);
    let keys = |count: usize| {
        let keys: Vec<_> = (1..=count).map(|number| format!("00000000-0000-0000-0000-{number:012}")).collect();
        json!({ "where": "id = ANY($1)", "params": { "1": format!("{{{}}}", keys.join(",")) } }).to_string()
    };
    for count in [1, 210, 211, 300, 1_600] {
        let answer = gate.post(TASKS, &token, &keys(count)).await;
        assert_eq!(answer.status, 200, "{count}: {}", answer.text());
        assert_eq!(answer.json()["data"].as_array().unwrap().len(), count.min(2), "{count}");
        assert_eq!(last_body(&gate)["subset"]["params"]["1"].as_str().unwrap().matches(',').count(), count - 1);
    }
    assert_eq!(gate.post(TASKS, &token, &keys(5_000)).await.status, 200);
    let long = announce(&gate, &token, keys(5_600).len()).await;
    assert_refused(&long, 413, "content_too_large", "long");
    assert!(long.json()["message"].as_str().unwrap().contains("`limits.body_bytes`"), "{}", long.text());
}

/// Sends the head of a POST with a body of this length, and no body: the server does not read one that is too long.
async fn announce(gate: &Gate, token: &str, length: usize) -> Answer {
    let head = format!(
        "POST {TASKS} HTTP/1.1\r\nHost: gate.test\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
    );
    raw(&gate.url, head.as_bytes()).await
}

/// Returns the body of the last request to Electric.
fn last_body(gate: &Gate) -> Value {
    serde_json::from_slice(&gate.electric.requests().pop().unwrap().body).unwrap()
}
