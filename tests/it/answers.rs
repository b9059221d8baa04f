//! Every error response in the table of docs/responses.md, and bad input of every kind: it gives a 4xx and no request to
//! Electric.

use std::time::Duration;

use serde_json::json;
use shapegate::config::Config;
use shapegate::demo::electric::Options;

use crate::harness::{Answer, Gate, RULES, Setup, raw};

const TASKS: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";

/// Sends a request line and headers verbatim, with `Connection: close`.
async fn send(gate: &Gate, line: &str, headers: &str) -> Answer {
    raw(&gate.url, format!("{line} HTTP/1.1\r\nHost: gate.test\r\nConnection: close\r\n{headers}\r\n").as_bytes()).await
}

fn assert_answer(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{}", answer.text());
    assert!(!answer.json()["message"].as_str().unwrap().is_empty());
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert!(answer.header("access-control-expose-headers").contains("retry-after"));
    assert_eq!(answer.header("x-request-id").len(), 32);
    assert_eq!(answer.headers.contains_key("retry-after"), status == 429 || status >= 500, "{status}");
    assert_eq!(answer.headers.contains_key("www-authenticate"), status == 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn permitted_request_gives_200() {
    let gate = Gate::start().await;
    let answer = gate.get(TASKS, &gate.token(&["org_1"])).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(gate.electric.request_count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_tokens_give_401_and_denied_requests_403() {
    let gate = Gate::start().await;
    let none = Answer::of(gate.request(TASKS, None).send().await.unwrap()).await;
    assert_answer(&none, 401, "token_missing");
    assert_eq!(none.header("www-authenticate"), "Bearer");
    // Electric's clients send an empty header before login.
    let empty = gate.request(TASKS, None).header("authorization", "").send().await.unwrap();
    assert_answer(&Answer::of(empty).await, 401, "token_missing");
    let expired = gate.issuer.token(&json!({ "organizationIds": ["org_1"], "iat": 1_000, "exp": 2_000 }));
    assert_answer(&gate.get(TASKS, &expired).await, 401, "token_expired");
    let good = gate.token(&["org_1"]);
    for bad in [
        "x",
        "a.b.c",
        &good[..good.len() - 2],
        &format!("{good}A"),
        &gate.issuer.token(&json!({ "organizationIds": ["org_1"], "aud": "https://other.test" })),
        &gate.issuer.token(&json!({ "organizationIds": ["org_1"], "iss": "https://other.test" })),
        // An expired token with a bad signature is not "expired".
        &expired.replace(&expired[expired.len() - 40..expired.len() - 30], "AAAAAAAAAA"),
    ] {
        assert_answer(&gate.get(TASKS, bad).await, 401, "token_invalid");
    }
    assert_answer(&gate.get(TASKS, &gate.token(&["org_2"])).await, 403, "forbidden");
    assert_answer(&gate.get(TASKS, &gate.issuer.token(&json!({ "sub": "u" }))).await, 403, "forbidden");
    assert_answer(&gate.get("/api/items?offset=-1", &good).await, 403, "forbidden");
    assert_eq!(gate.electric.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_is_read_from_one_authorization_header_only() {
    // docs/security.md, T15, T16, T17
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    for (headers, status, code) in [
        (format!("Authorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n"), 401, "token_invalid"),
        (format!("Authorization: Bearer {token}, Bearer {token}\r\n"), 401, "token_invalid"),
        (format!("Authorization: Bearer  {token}\r\n"), 401, "token_invalid"),
        (format!("Authorization: Basic {token}\r\n"), 401, "token_invalid"),
        (format!("Proxy-Authorization: Bearer {token}\r\n"), 401, "token_missing"),
        (format!("Cookie: token={token}\r\n"), 401, "token_missing"),
        (format!("Authorization: Bearer {}\r\n", "A".repeat(16_385)), 431, "headers_too_large"),
    ] {
        assert_answer(&send(&gate, &format!("GET {TASKS}"), &headers).await, status, code);
    }
    let query = format!("GET {TASKS}&access_token={token}");
    assert_answer(&send(&gate, &query, "").await, 401, "token_missing");
    assert_eq!(gate.electric.request_count(), 0);
    let allowed = send(&gate, &format!("GET {TASKS}"), &format!("Authorization: bearer {token}\r\n")).await;
    assert_eq!(allowed.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_or_reserved_parameters_give_400() {
    // docs/security.md, Q1 to Q6
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    for extra in [
        "table=items",
        "table[]=items",
        "%74able=items",
        "TABLE=items",
        "where=true",
        "where[]=true",
        "%77here=true",
        "params[1]=org_2",
        "params[01]=x",
        "params={}",
        "columns=id,id",
        "queryable_columns=id",
        "subset__where=true",
        "subset[where]=true",
        "secret=x",
        "api_secret=x",
        "source_id=x",
        "shape_definition=x",
        "order_by=id",
        "offset=now",
        "Offset=now",
        "replica=full",
        "live=yes",
        "log=x",
        "handle=a%00b",
        "x=%00",
        "x=%0d%0a",
        "x=%ff",
        "x=%c0%af",
        "x=%zz",
        "%00=x",
        "organizationId=org_2",
    ] {
        let answer = gate.get(&format!("{TASKS}&{extra}"), &token).await;
        assert_answer(&answer, 400, "invalid_request");
        assert!(answer.json()["errors"].as_object().is_some_and(|errors| !errors.is_empty()), "{extra}");
    }
    for query in [
        "",
        "?",
        "?table=tasks",
        "?table=&offset=-1",
        "?offset=-1",
        "?table=tasks%00&offset=-1",
        "?table=t;x&offset=-1",
    ] {
        assert_answer(&gate.get(&format!("/v1/shape{query}"), &token).await, 400, "invalid_request");
    }
    let many = format!("{TASKS}{}", "&x=1".repeat(64));
    assert_answer(&gate.get(&many, &token).await, 400, "invalid_request");
    assert_eq!(gate.electric.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_tables_and_paths_give_404() {
    // docs/security.md, Q4, Q7
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    for table in ["nothing", "auth.tasks", "%22Tasks%22", "pg_catalog.pg_class", "items"] {
        let answer = gate.get(&format!("/v1/shape?table={table}&offset=-1"), &token).await;
        assert_answer(&answer, 404, "shape_not_found");
    }
    for path in [
        "/",
        "/v1/shape/",
        "//v1/shape",
        "/v1//shape",
        "/v1/%73hape",
        "/V1/shape",
        "/v1/shape;x",
        "/v1/./shape",
        "/v1/health",
        "/api/items/",
    ] {
        let answer =
            send(&gate, &format!("GET {path}?table=tasks&offset=-1"), &format!("Authorization: Bearer {token}\r\n"))
                .await;
        assert_answer(&answer, 404, "not_found");
    }
    assert_eq!(gate.electric.request_count(), 0);
    let admin = gate.issuer.token(&json!({ "roles": ["admin"] }));
    assert_eq!(gate.get("/api/items?offset=-1", &admin).await.status, 200);
    assert_eq!(gate.get("/v1/shape?table=public.tasks&organizationId=org_1&offset=-1", &token).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_methods_give_405_and_bodies_413() {
    // docs/security.md, Q8, P8
    let gate = Gate::start().await;
    let token = format!("Authorization: Bearer {}\r\n", gate.token(&["org_1"]));
    for method in ["POST", "PUT", "PATCH", "DELETE", "TRACE", "get"] {
        let answer = send(&gate, &format!("{method} {TASKS}"), &token).await;
        assert_answer(&answer, 405, "method_not_allowed");
        assert_eq!(answer.header("allow"), "GET, OPTIONS");
    }
    let head = send(&gate, &format!("HEAD {TASKS}"), &token).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (405, 0));
    let body = send(&gate, &format!("GET {TASKS}"), &format!("{token}Content-Length: 2\r\n\r\n{{}}")).await;
    assert_answer(&body, 413, "content_too_large");
    let chunked =
        send(&gate, &format!("GET {TASKS}"), &format!("{token}Transfer-Encoding: chunked\r\n\r\n0\r\n")).await;
    assert_answer(&chunked, 413, "content_too_large");
    let expect = send(&gate, &format!("GET {TASKS}"), &format!("{token}Expect: 100-continue\r\n")).await;
    assert_answer(&expect, 400, "invalid_request");
    assert_eq!(gate.electric.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_or_oversized_targets_and_headers_are_rejected() {
    // docs/security.md, P11, Q7, C17
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let long = format!("GET {TASKS}&x={}", "a".repeat(8_192));
    assert_answer(&send(&gate, &long, &bearer).await, 414, "uri_too_long");
    let message = |answer: &Answer| answer.json()["message"].as_str().unwrap().to_owned();
    let many: String = (0..64).map(|n| format!("x-{n}: 1\r\n")).collect();
    let many = send(&gate, &format!("GET {TASKS}"), &format!("{bearer}{many}")).await;
    assert_answer(&many, 431, "headers_too_large");
    assert!(message(&many).ends_with("The limit is `limits.headers`."), "{}", message(&many));
    let large = format!("{bearer}x-large: {}\r\n", "a".repeat(32 * 1024));
    let large = send(&gate, &format!("GET {TASKS}"), &large).await;
    assert_answer(&large, 431, "headers_too_large");
    assert!(message(&large).ends_with("The limit is `limits.header_bytes`."), "{}", message(&large));
    for (line, headers) in [
        (format!("GET http://gate.test{TASKS}"), bearer.clone()),
        (format!("GET {TASKS}"), format!("{bearer}Origin: https://a.test\r\nOrigin: https://b.test\r\n")),
        (format!("GET {TASKS}"), format!("{bearer}Host: other.test\r\n")),
    ] {
        let answer = send(&gate, &line, &headers).await;
        assert_eq!(answer.status, 400, "{line}: {}", answer.text());
    }
    let no_host = raw(&gate.url, format!("GET {TASKS} HTTP/1.1\r\nConnection: close\r\n{bearer}\r\n").as_bytes()).await;
    assert_eq!(no_host.status, 400);
    assert_eq!(gate.electric.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_electric_are_replaced_by_own_responses() {
    // docs/security.md, Q14: Electric's messages are not forwarded
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    // A different request each time, since an error response is cached for a second.
    let shape = |number: u16| TASKS.replace("offset=-1", &format!("offset=0_{number}&handle=1-1"));
    for (status, expected, code) in [
        (401, 502, "upstream_refused"),
        (403, 502, "upstream_refused"),
        (404, 502, "upstream_refused"),
        (414, 502, "upstream_refused"),
        (500, 502, "upstream_refused"),
        (503, 503, "not_ready"),
    ] {
        gate.electric.script(shapegate::demo::http::Reply::json(status, r#"{"message":"canary-column"}"#));
        let answer = gate.get(&shape(status), &token).await;
        assert_answer(&answer, expected, code);
        assert!(!answer.text().contains("canary"), "{}", answer.text());
    }
    gate.electric.set_overload(Some(1));
    let overloaded = gate.get(&shape(1), &token).await;
    assert_answer(&overloaded, 503, "overloaded");
    assert!((6..=10).contains(&overloaded.header("retry-after").parse::<u32>().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn electric_400_keeps_only_errors_that_the_client_can_fix() {
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    let words = r#"{"message":"Invalid request","errors":{"offset":["out of bounds for this shape"],"where":["At location 8: canary"]}}"#;
    gate.electric.script(shapegate::demo::http::Reply::json(400, words));
    let answer = gate.get(TASKS, &token).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "invalid_request"));
    assert_eq!(answer.json()["errors"], json!({ "offset": ["out of bounds for this shape"] }));
    assert!(!answer.text().contains("canary"));
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_electric_gives_502_and_silent_electric_504() {
    // Bound, so that no other process gets the port, but not listening.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = nobody.local_addr().unwrap();
    let gate = Gate::with(Setup { electric_url: Some(format!("http://{address}")), ..Setup::default() }).await;
    assert_answer(&gate.get(TASKS, &gate.token(&["org_1"])).await, 502, "upstream_unreachable");
    // The kernel accepts connections, and nothing responds.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let electric_url = Some(format!("http://{}", silent.local_addr().unwrap()));
    let tune = |config: &mut Config| config.upstream.read_timeout = Duration::from_millis(50);
    let gate = Gate::with(Setup { electric_url, tune, ..Setup::default() }).await;
    let token = gate.token(&["org_1"]);
    assert_answer(&gate.get(TASKS, &token).await, 504, "upstream_timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_over_the_limits_give_429_and_503() {
    let limits = "[limits]\nrequests = 3\nrequests_per_subject = 2\n";
    let rules = format!("{}\n{limits}", RULES);
    let electric = Options { hold: Duration::from_secs(20), ..Options::default() };
    let gate = Gate::with(Setup { rules, electric, ..Setup::default() }).await;
    let mine = gate.token(&["org_1"]);
    let first = gate.get(TASKS, &mine).await;
    let live = format!(
        "/v1/shape?table=tasks&organizationId=org_1&offset={}&handle={}&live=true",
        "0_inf",
        first.header("electric-handle")
    );
    let waiting: Vec<_> = (0..2).map(|_| tokio::spawn(gate.request(&live, Some(&mine)).send())).collect();
    gate.until_metric("shapegate_requests_in_flight", 2.0).await;
    assert_answer(&gate.get(TASKS, &mine).await, 429, "too_many_requests");
    let other = gate.issuer.token(&json!({ "sub": "user-2", "organizationIds": ["org_1"] }));
    let third = tokio::spawn(gate.request(&live, Some(&other)).send());
    gate.until_metric("shapegate_requests_in_flight", 3.0).await;
    let another = gate.issuer.token(&json!({ "sub": "user-3", "organizationIds": ["org_1"] }));
    assert_answer(&gate.get(TASKS, &another).await, 503, "overloaded");
    assert_eq!(gate.metric("shapegate_requests_in_flight").await, 3.0);
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    third.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_needs_no_token() {
    let gate = Gate::start().await;
    let headers = "Origin: https://app.test\r\nAccess-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: authorization,x-app\r\n";
    let answer = send(&gate, &format!("OPTIONS {TASKS}"), headers).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (204, 0));
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert_eq!(answer.header("access-control-allow-methods"), "GET, OPTIONS");
    assert_eq!(answer.header("access-control-allow-headers"), "authorization,x-app");
    assert_eq!(answer.header("access-control-max-age"), "7200");
    assert_eq!(gate.electric.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_configured_origins_get_cors_headers() {
    // docs/security.md, C17
    let cors = "[cors]\norigins = [\"https://app.test\"]\ncredentials = true\n";
    let gate = Gate::with(Setup { rules: format!("{}\n{cors}", RULES), ..Setup::default() }).await;
    let token = gate.token(&["org_1"]);
    let ask = async |origin: &str| {
        let request = gate.request(TASKS, Some(&token)).header("origin", origin);
        Answer::of(request.send().await.unwrap()).await
    };
    let allowed = ask("https://app.test").await;
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.test");
    assert_eq!(allowed.header("access-control-allow-credentials"), "true");
    assert!(allowed.all("vary").contains("origin"));
    for other in [
        "null",
        "https://app.test.evil.test",
        "https://evil-app.test",
        "http://app.test",
        "https://app.test:8443",
        "https://APP.test",
    ] {
        let answer = ask(other).await;
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "{other}");
        assert!(answer.all("vary").contains("origin"), "{other}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn public_rule_needs_no_token_but_other_rules_do() {
    let public = "[[shape]]\ntable = \"items\"\nwhere = '\"user_id\" = {{ query.user }}'\npublic = true\ndanger_client_chosen = ['user']\n";
    let gate = Gate::with(Setup { rules: format!("{RULES}\n{public}"), ..Setup::default() }).await;
    let ask = async |target: &str| Answer::of(gate.request(target, None).send().await.unwrap()).await;
    assert_eq!(ask("/v1/shape?table=items&user=u_1&offset=-1").await.status, 200);
    assert_answer(&ask("/v1/shape?table=items&offset=-1").await, 403, "forbidden");
    assert_answer(&ask(TASKS).await, 401, "token_missing");
    assert_answer(&ask("/v1/shape?table=nothing&offset=-1").await, 401, "token_missing");
    assert_answer(&gate.get("/v1/shape?table=items&user=u_1&offset=-1", "bad").await, 401, "token_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_values_in_the_predicate_give_414() {
    let rule = "[[shape]]\ntable = \"tasks\"\nwhere = '\"organization_id\" IN ({{ claims.organizationIds }})'\n";
    let gate = Gate::with(Setup { rules: rule.to_owned(), ..Setup::default() }).await;
    let ask = async |count: usize| {
        let ids: Vec<_> = (0..count).map(|n| format!("org-{n:06}")).collect();
        let token = gate.issuer.token(&json!({ "organizationIds": ids }));
        gate.get("/v1/shape?table=tasks&offset=-1", &token).await
    };
    assert_eq!(ask(200).await.status, 200);
    assert_answer(&ask(400).await, 414, "uri_too_long");
    assert_eq!(gate.electric.request_count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_succeeds_for_any_path_so_a_browser_can_read_the_404() {
    let gate = Gate::start().await;
    let preflight = "Origin: https://app.test\r\nAccess-Control-Request-Method: GET\r\n";
    let answer = send(&gate, "OPTIONS /nothing", preflight).await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (204, "*"));
    let token = gate.token(&["org_1"]);
    assert_answer(&gate.get("/nothing", &token).await, 404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_method_is_rejected_before_its_body() {
    let gate = Gate::start().await;
    let token = format!("Authorization: Bearer {}\r\n", gate.token(&["org_1"]));
    let body = format!("{token}Content-Length: 2\r\n\r\n{{}}");
    assert_answer(&send(&gate, &format!("POST {TASKS}"), &body).await, 405, "method_not_allowed");
    assert_eq!(gate.electric.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn denial_is_counted_under_its_rule() {
    let gate = Gate::start().await;
    assert_answer(&gate.get(TASKS, &gate.token(&["org_2"])).await, 403, "forbidden");
    let series = r#"shapegate_requests_total{outcome="forbidden",rule="tasks",status="403"}"#;
    gate.until_metric(series, 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn electric_400_caused_by_the_rule_gives_502_without_details_and_is_remembered() {
    let gate = Gate::start().await;
    let admin = |number: u32| gate.issuer.token(&json!({ "sub": format!("user-{number}"), "roles": ["admin"] }));
    let words = r#"{"message":"Invalid request","errors":{"where":["At location 8: canary"]}}"#;
    gate.electric.script(shapegate::demo::http::Reply::json(400, words));
    for number in 0..5 {
        let answer = gate.get("/api/items?offset=-1", &admin(number)).await;
        assert_answer(&answer, 502, "upstream_refused");
        assert_eq!(answer.header("retry-after"), "60");
        assert!(!answer.text().contains("canary") && !answer.text().contains("errors"));
    }
    assert_eq!(gate.electric.request_count(), 1, "clients that try again do not reach Electric");
    let series = r#"shapegate_requests_total{outcome="upstream_refused",rule="/api/items",status="502"}"#;
    gate.until_metric(series, 5.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn electric_400_for_a_value_of_the_client_is_the_client_s_without_details() {
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    let reply = |words: &'static str| shapegate::demo::http::Reply::json(400, words);
    gate.electric.script(reply(r#"{"message":"Invalid request","errors":{"where":["At location 8: canary"]}}"#));
    let answer = gate.get(TASKS, &token).await;
    assert_answer(&answer, 400, "invalid_request");
    assert!(!answer.text().contains("canary") && answer.text().contains("query"), "{}", answer.text());
    // No value of the client can be to blame for this one.
    gate.electric.script(reply(r#"{"message":"Invalid request","errors":{"columns":["canary"]}}"#));
    assert_answer(&gate.get(TASKS, &token).await, 502, "upstream_refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_with_a_body_closes_its_connection() {
    // docs/security.md, P4: the client does not ask for `Connection: close`; shapegate decides to close
    let gate = Gate::start().await;
    let hidden = format!("GET {TASKS} HTTP/1.1\r\nHost: gate.test\r\n\r\n");
    let head = format!("OPTIONS {TASKS} HTTP/1.1\r\nHost: gate.test\r\nContent-Length: {}\r\n\r\n", hidden.len());
    let answer = raw(&gate.url, format!("{head}{hidden}").as_bytes()).await;
    assert_eq!((answer.status.as_u16(), answer.header("connection"), answer.body.len()), (204, "close", 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn target_of_any_length_gives_414_with_cors() {
    let origins = "\n[cors]\norigins = ['https://app.test']\n[limits]\nuri_bytes = '60KiB'\n";
    let gate = Gate::with(Setup { rules: format!("{RULES}{origins}"), ..Setup::default() }).await;
    let headers = format!("Authorization: Bearer {}\r\nOrigin: https://app.test\r\n", gate.token(&["org_1"]));
    let ask = async |method: &str, length: usize| {
        let target = format!("{TASKS}&x={}", "a".repeat(length - TASKS.len() - 3));
        send(&gate, &format!("{method} {target}"), &headers).await
    };
    assert_eq!(ask("GET", 61_440).await.status, 200);
    // The HTTP library accepts 65,534 bytes.
    for length in [61_441, 65_534, 65_535, 65_536, 200_000, 1_000_000] {
        let answer = ask("GET", length).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (414, "uri_too_long"), "{length}");
        assert_eq!(answer.header("access-control-allow-origin"), "https://app.test", "{length}");
        // A browser asks first.
        assert_eq!(ask("OPTIONS", length).await.status, 204, "{length}");
    }
    assert_eq!(gate.electric.request_count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn if_none_match_compares_weakly() {
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    let etag = gate.get(TASKS, &token).await.header("etag").to_owned();
    for (value, status) in [
        (etag.clone(), 304),
        (format!("W/{etag}"), 304),
        (format!("\"x\", W/{etag}"), 304),
        ("*".to_owned(), 304),
        ("\"*\"".to_owned(), 200),
        ("W/\"x\"".to_owned(), 200),
    ] {
        let answer = gate.request(TASKS, Some(&token)).header("if-none-match", &value).send().await.unwrap();
        assert_eq!(answer.status(), status, "{value}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn host_must_be_a_host_and_a_port() {
    let gate = Gate::start().await;
    let bearer = format!("Authorization: Bearer {}\r\n", gate.token(&["org_1"]));
    for (host, status) in [
        ("gate.test:8080", 200),
        ("[::1]:80", 200),
        ("my_service", 200),
        ("", 200),
        ("a b", 400),
        ("user@gate.test", 400),
        ("gate.test/path", 400),
        ("gate.test:port:80", 400),
    ] {
        let request = format!("GET {TASKS} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{bearer}\r\n");
        assert_eq!(raw(&gate.url, request.as_bytes()).await.status, status, "{host}");
    }
}
