//! Limits: excess requests are rejected, and other clients are served.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use h2::client::SendRequest;
use http::StatusCode;
use serde_json::json;
use shapegate::config::Config;
use shapegate::demo::electric::Options;
use shapegate::demo::issuer::Issuer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::{Answer, Gate, RULES, Setup, Wire, with_defaults};
use crate::http2::connect;

const PUBLIC: &str = "\n[[shape]]\npath = \"/public\"\ntable = \"items\"\npublic = true\nwhere = \"none\"\n";

async fn gate(limits: &str) -> Gate {
    let electric = Options { hold: Duration::from_secs(20), ..Options::default() };
    Gate::with(Setup { rules: format!("{RULES}{PUBLIC}[limits]\n{limits}\n"), electric, ..Setup::default() }).await
}

fn tasks(organization: &str) -> String {
    format!("/v1/shape?table=tasks&organizationId={organization}&offset=-1")
}

fn token(gate: &Gate, subject: &str) -> String {
    gate.issuer.token(&json!({ "sub": subject, "organizationIds": ["org_1", "org_2", "org_3"] }))
}

/// Sends a GET as a trusted proxy would, with the client's address in `X-Forwarded-For`.
async fn get_as(gate: &Gate, address: &str, target: &str, token: Option<&str>) -> Answer {
    let request = gate.request(target, token).header("x-forwarded-for", address).header("origin", "https://app.test");
    Answer::of(request.send().await.unwrap()).await
}

/// Asserts a rejection that a browser can read, with a `Retry-After`.
#[track_caller]
fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{}", answer.text());
    assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|after| after >= 1), "{:?}", answer.headers);
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert_eq!(answer.header("cache-control"), "no-store");
}

/// Repeats `ask` until it is rejected; returns the number of requests served before, and the rejection.
async fn until_refused(mut ask: impl AsyncFnMut() -> Answer) -> (usize, Answer) {
    for asked in 0..2_000 {
        let answer = ask().await;
        if answer.status != StatusCode::OK {
            return (asked, answer);
        }
    }
    panic!("never rejected");
}

async fn limited(gate: &Gate, limit: &str) -> f64 {
    gate.metric(&format!("shapegate_limited_total{{limit=\"{limit}\"}}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_is_per_subject_across_all_its_tokens() {
    let gate = gate("rate_per_subject = 1\nrepeats = 0").await;
    let (mine, again, other) = (token(&gate, "user-1"), gate.token(&["org_1"]), token(&gate, "user-2"));
    let (asked, refused) = until_refused(async || gate.get(&tasks("org_1"), &mine).await).await;
    assert!(asked >= 5, "{asked}");
    assert_refused(&refused, 429, "too_many_requests");
    // Another token of the same user shares its rate.
    let (_, refused) = until_refused(async || gate.get(&tasks("org_1"), &again).await).await;
    assert_refused(&refused, 429, "too_many_requests");
    assert_eq!(gate.get(&tasks("org_1"), &other).await.status, 200);
    assert_eq!(limited(&gate, "rate_per_subject").await, 2.0);
    // Preflights are not limited: a browser cannot read a response whose preflight failed.
    let preflight = gate.client().request(http::Method::OPTIONS, format!("{}{}", gate.url, tasks("org_1")));
    assert_eq!(preflight.send().await.unwrap().status(), 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn address_rate_is_checked_before_the_token() {
    let gate = gate("trusted_proxies = ['127.0.0.0/8']\nrate_per_address = 1").await;
    let good = token(&gate, "user-1");
    let mut refused = None;
    for _ in 0..200 {
        let answer = get_as(&gate, "198.51.100.1, 203.0.113.7", &tasks("org_1"), Some("no token")).await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
        assert_eq!(answer.status, 401);
    }
    assert_refused(&refused.unwrap(), 429, "too_many_requests");
    assert_eq!(get_as(&gate, "203.0.113.8", &tasks("org_1"), Some(&good)).await.status, 200);
    // Addresses that the client wrote itself do not count.
    let (_, refused) =
        until_refused(async || get_as(&gate, "203.0.113.9, 203.0.113.7", &tasks("org_1"), Some(&good)).await).await;
    assert_refused(&refused, 429, "too_many_requests");
    assert_eq!(limited(&gate, "rate_per_address").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn address_rate_counts_preflights_and_oversized_headers() {
    let gate = gate("trusted_proxies = ['127.0.0.0/8']\nrate_per_address = 1\nheader_bytes = '1KiB'").await;
    let url = format!("{}{}", gate.url, tasks("org_1"));
    let preflight = |address: &str| {
        gate.client()
            .request(http::Method::OPTIONS, &url)
            .header("x-forwarded-for", address)
            .header("origin", "https://a.test")
    };
    let oversized = |address: &str| preflight(address).header("x-large", "x".repeat(2_000));
    for (address, request, status) in
        [("203.0.113.7", &preflight as &dyn Fn(&str) -> _, 204), ("203.0.113.8", &oversized, 431)]
    {
        let mut served = 0;
        let refused = loop {
            let answer = Answer::of(request(address).send().await.unwrap()).await;
            if answer.status == 429 {
                break answer;
            }
            assert_eq!(answer.status, status);
            served += 1;
        };
        assert!(served >= 5, "{served}");
        assert_refused(&refused, 429, "too_many_requests");
    }
    assert_eq!(Answer::of(preflight("203.0.113.9").send().await.unwrap()).await.status, 204);
    assert_eq!(limited(&gate, "rate_per_address").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarded_address_from_an_untrusted_peer_is_ignored() {
    let gate = gate("trusted_proxies = []\nrate_per_address = 1\nrepeats = 0").await;
    let good = token(&gate, "user-1");
    let mut number = 0;
    let (asked, refused) = until_refused(async || {
        number += 1;
        get_as(&gate, &format!("203.0.113.{}", number % 250), &tasks("org_1"), Some(&good)).await
    })
    .await;
    assert!(asked >= 5, "{asked}");
    assert_refused(&refused, 429, "too_many_requests");
}

/// Replaces the signature of a token by one of the same length.
fn forged(token: &str) -> String {
    format!("{}AAAA", &token[..token.len() - 4])
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_signatures_limit_signature_checks_but_not_known_tokens() {
    let limits = "trusted_proxies = ['127.0.0.0/8']\nbad_tokens_per_address = 2\nsignatures_per_address = 1\n\
                  rate_per_subject = 0\nrepeats = 0";
    let gate = gate(limits).await;
    let ask = async |address: &str, token: &str| get_as(&gate, address, &tasks("org_1"), Some(token)).await;
    let (known, new) = (token(&gate, "user-1"), token(&gate, "user-2"));
    assert_eq!(ask("203.0.113.7", &known).await.status, 200);
    let mut rejected = 0.0;
    let refused = loop {
        let answer = ask("203.0.113.7", &forged(&new)).await;
        if answer.status == 429 {
            break answer;
        }
        assert_eq!(answer.code(), "token_invalid");
        rejected += 1.0;
    };
    assert_refused(&refused, 429, "too_many_requests");
    assert!(rejected >= 3.0, "{rejected}");
    let checks = r#"shapegate_token_checks_total{outcome="signature"}"#;
    assert_eq!(gate.metric(checks).await, rejected, "no signature was checked for the last one");
    assert_eq!(limited(&gate, "bad_tokens_per_address").await, 1.0);
    // Known tokens continue, and other addresses are not affected.
    assert_eq!(ask("203.0.113.7", &known).await.status, 200);
    assert_eq!(ask("203.0.113.8", &token(&gate, "user-3")).await.status, 200);
    // A good new token gets through within a second, once no more bad ones come with it.
    let mut answer = ask("203.0.113.7", &new).await;
    while answer.status == 429 {
        answer = ask("203.0.113.7", &new).await;
    }
    assert_eq!(answer.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_fail_before_their_signature_is_checked_do_not_lock_out_their_address() {
    let gate = gate("trusted_proxies = ['127.0.0.0/8']\nbad_tokens_per_address = 1\nsignatures_per_address = 1").await;
    let (issuer, now) = (&gate.issuer.keys, UNIX_EPOCH.elapsed().unwrap().as_secs());
    let signed = |claims| issuer.sign(&with_defaults(issuer.name(), &claims));
    let stranger = Issuer::new(issuer.name()).unwrap();
    stranger.rotate().unwrap();
    let bad = [
        ("no.token".to_owned(), "structure"),
        ("e30.e30.AAAA".to_owned(), "algorithm"),
        (forged(&signed(json!({ "iss": "https://other.test" }))), "issuer"),
        (forged(&signed(json!({ "aud": "https://other.test" }))), "audience"),
        (forged(&signed(json!({ "nbf": now + 3600 }))), "not_before"),
        (stranger.sign(&with_defaults(issuer.name(), &json!({}))), "kid_unknown"),
        // Whether these are reported as expired depends on the rate of signature checks.
        (forged(&signed(json!({ "exp": now - 3600 }))), "expiry"),
        (signed(json!({ "exp": now - 3600 })), "expiry"),
    ];
    for (token, reason) in &bad {
        for _ in 0..20 {
            assert_eq!(get_as(&gate, "203.0.113.7", &tasks("org_1"), Some(token)).await.status, 401, "{reason}");
        }
        if *reason != "expiry" {
            let checks = format!("shapegate_token_checks_total{{outcome=\"{reason}\"}}");
            assert_eq!(gate.metric(&checks).await, 20.0, "{reason}");
        }
    }
    for user in ["user-1", "user-2", "user-3"] {
        let good = token(&gate, user);
        assert_eq!(get_as(&gate, "203.0.113.7", &tasks("org_1"), Some(&good)).await.status, 200, "{user}");
    }
    assert_eq!(limited(&gate, "bad_tokens_per_address").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_wait_for_keys_count_as_requests() {
    let rules = format!("{RULES}[limits]\nrequests = 2\nrequests_per_subject = 2\n");
    let gate = Gate::with(Setup { rules, tune: patient_fetches, ..Setup::default() }).await;
    let known = token(&gate, "user-1");
    assert_eq!(gate.get(&tasks("org_1"), &known).await.status, 200);
    // Held first: a fetch in between would already have the new key.
    gate.issuer.hold();
    gate.issuer.keys.rotate().unwrap();
    let new = token(&gate, "user-1");
    let waiting = [(); 2].map(|()| tokio::spawn(gate.request(&tasks("org_1"), Some(&new)).send()));
    gate.until_metric("shapegate_requests_in_flight", 2.0).await;
    for token in [&new, &known] {
        assert_refused(&gate.get(&tasks("org_1"), token).await, 503, "overloaded");
    }
    assert_eq!(limited(&gate, "requests").await, 2.0);
    gate.issuer.release();
    for answer in waiting {
        assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    }
    gate.until_metric("shapegate_requests_in_flight", 0.0).await;
    assert_eq!(gate.get(&tasks("org_1"), &new).await.status, 200);
}

/// Lets a fetch of keys take longer than the test, and begin at once: there was one at the start.
fn patient_fetches(config: &mut Config) {
    for issuer in &mut config.issuers {
        if let Some(remote) = &mut issuer.keys.remote {
            remote.endpoint.timeout = Duration::from_secs(600);
            remote.cooldown = Duration::ZERO;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subject_may_open_a_limited_number_of_shapes() {
    let gate = gate("shapes_per_subject = 2\nshapes_window = '1h'").await;
    let (mine, other) = (token(&gate, "user-1"), token(&gate, "user-2"));
    for organization in ["org_1", "org_2", "org_1"] {
        assert_eq!(gate.get(&format!("{}&handle=1", tasks(organization)), &mine).await.status, 200);
    }
    assert_eq!(gate.get(&format!("{}&handle=2", tasks("org_1")), &mine).await.status, 200, "not another shape");
    assert_refused(&gate.get(&tasks("org_3"), &mine).await, 429, "too_many_requests");
    assert_eq!(limited(&gate, "shapes_per_subject").await, 1.0);
    let asked = gate.electric.request_count();
    assert_eq!(gate.get(&tasks("org_3"), &other).await.status, 200);
    // A cached response does not count: it costs Postgres nothing.
    assert_eq!(gate.get(&tasks("org_3"), &mine).await.status, 200);
    assert_eq!(gate.electric.request_count(), asked + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_handle_counts_as_opening_a_shape() {
    let gate = gate("shapes_per_subject = 1\nshapes_window = '1h'").await;
    let (mine, other) = (token(&gate, "user-1"), token(&gate, "user-2"));
    let on = |organization: &str, handle: &str, offset: &str| {
        format!("/v1/shape?table=tasks&organizationId={organization}&handle={handle}&offset={offset}")
    };
    // Electric creates the shape and responds 409 with its handle (tests/electric/67b).
    assert_eq!(gate.get(&on("org_1", "1-1", "0_0"), &mine).await.status, 409);
    let asked = gate.electric.request_count();
    assert_refused(&gate.get(&on("org_2", "1-1", "0_0"), &mine).await, 429, "too_many_requests");
    assert_eq!(gate.electric.request_count(), asked);
    // A handle from an earlier response, even to another client, continues an existing shape.
    let first = gate.get(&tasks("org_2"), &other).await;
    let (handle, offset) = (first.header("electric-handle"), first.header("electric-offset"));
    assert_eq!(gate.get(&on("org_2", handle, offset), &mine).await.status, 200);
    assert_refused(&gate.get(&on("org_3", handle, offset), &mine).await, 429, "too_many_requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn initial_requests_leave_slots_for_continuing_ones() {
    let gate = gate("initial_flights = 1").await;
    let mine = token(&gate, "user-1");
    let first = gate.get(&tasks("org_1"), &mine).await;
    let (handle, offset) = (first.header("electric-handle"), first.header("electric-offset"));
    gate.electric.hold();
    let waiting = tokio::spawn(gate.request(&tasks("org_2"), Some(&mine)).send());
    gate.until_metric("shapegate_upstream_initial_requests_in_flight", 1.0).await;
    assert_refused(&gate.get(&tasks("org_3"), &token(&gate, "user-2")).await, 503, "overloaded");
    let on = format!("/v1/shape?table=tasks&organizationId=org_1&handle={handle}&offset={offset}");
    let on = tokio::spawn(gate.request(&on, Some(&mine)).send());
    gate.electric.wait_for_requests(3).await;
    gate.electric.release();
    assert_eq!(on.await.unwrap().unwrap().status(), 200);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    gate.until_metric("shapegate_upstream_initial_requests_in_flight", 0.0).await;
    assert_eq!(gate.get(&tasks("org_3"), &mine).await.status, 200);
    assert_eq!(limited(&gate, "initial_flights").await, 1.0);
}

/// Returns the bytes of a GET request.
fn bytes(target: &str, token: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: gate.test\r\nAuthorization: Bearer {token}\r\n\r\n").into_bytes()
}

async fn ask(wire: &mut Wire, request: &[u8]) -> Option<Answer> {
    wire.send(request).await;
    wire.answer(false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn looping_client_gets_429_and_others_do_not() {
    let gate = gate("rate_per_subject = 0").await;
    let mine = token(&gate, "user-1");
    // Cached now, so that the next responses have a length.
    let first = gate.get(&tasks("org_1"), &mine).await;
    let request = bytes(&tasks("org_1"), &mine);
    let (mut looping, mut other) = (Wire::open(&gate.url).await, Wire::open(&gate.url).await);
    let (asked, refused) = until_refused(async || ask(&mut looping, &request).await.unwrap()).await;
    assert!(asked >= 5, "{asked}");
    assert_refused(&refused, 429, "too_many_requests");
    assert_eq!(ask(&mut other, &request).await.unwrap().status, 200, "another device of the same user");
    // The request that the response leads to is served.
    let (handle, offset) = (first.header("electric-handle"), first.header("electric-offset"));
    let on = format!("/v1/shape?table=tasks&organizationId=org_1&handle={handle}&offset={offset}");
    assert_eq!(ask(&mut looping, &bytes(&on, &mine)).await.unwrap().status, 200);
    assert_eq!(limited(&gate, "repeats").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_polls_of_one_user_on_one_connection_are_not_taken_for_a_loop() {
    let server = "h2c = true".to_owned();
    let rules = format!("{RULES}[limits]\nrate_per_subject = 10000\n");
    let gate = Gate::with(Setup { rules, server, ..Setup::default() }).await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let mine = token(&gate, "user-1");
    let get = async |target: String| {
        let request = client.get(format!("{}{target}", gate.url)).bearer_auth(&mine);
        Answer::of(request.send().await.unwrap()).await
    };
    let mut last = get(tasks("org_1")).await;
    for change in 0..10 {
        let (handle, offset) = (last.header("electric-handle"), last.header("electric-offset"));
        let live = format!("/v1/shape?table=tasks&organizationId=org_1&handle={handle}&offset={offset}&live=true");
        let polls: Vec<_> = (0..40)
            .map(|_| tokio::spawn(client.get(format!("{}{live}", gate.url)).bearer_auth(&mine).send()))
            .collect();
        // In every second round all of them wait; in the others the last ones find a finished response.
        if change % 2 == 0 {
            gate.until_metric("shapegate_requests_in_flight", 40.0).await;
        }
        gate.insert_task(change, "org_1", "x");
        for poll in polls {
            let answer = Answer::of(poll.await.unwrap().unwrap()).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            last = answer;
        }
    }
    assert_eq!(limited(&gate, "repeats").await, 0.0);
}

/// Sends as many equal requests at once over HTTP/2, and returns their statuses.
async fn at_once(sender: &SendRequest<Bytes>, gate: &Gate, target: &str, token: &str, count: usize) -> Vec<u16> {
    let mut answers = Vec::new();
    for _ in 0..count {
        let request = http::Request::get(format!("{}{target}", gate.url));
        let request = request.header("authorization", format!("Bearer {token}")).body(()).unwrap();
        let mut sender = sender.clone().ready().await.unwrap();
        answers.push(sender.send_request(request, true).unwrap().0);
    }
    let mut statuses = Vec::new();
    for answer in answers {
        let mut answer = answer.await.unwrap();
        statuses.push(answer.status().as_u16());
        while let Some(data) = answer.body_mut().data().await {
            let _ = answer.body_mut().flow_control().release_capacity(data.unwrap().len());
        }
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_identical_snapshots_at_once_are_not_a_loop_but_one_after_the_other_they_are() {
    let organizations: Vec<_> = (0..13).map(|number| format!("org_{number}")).collect();
    let rules = format!("{RULES}[limits]\nrate_per_subject = 0\n");
    let gate = Gate::with(Setup { rules, server: "h2c = true".to_owned(), ..Setup::default() }).await;
    let mine = gate.token(&organizations.iter().map(String::as_str).collect::<Vec<_>>());
    let sender = connect(&gate.url).await.unwrap();
    for organization in &organizations[..12] {
        // Cached now, so that each is answered at once.
        assert_eq!(gate.get(&tasks(organization), &mine).await.status, 200);
        assert_eq!(at_once(&sender, &gate, &tasks(organization), &mine, 8).await, [200; 8], "{organization}");
    }
    assert_eq!(limited(&gate, "repeats").await, 0.0);
    let mut last = 200;
    for _ in 0..200 {
        last = at_once(&sender, &gate, &tasks("org_12"), &mine, 1).await[0];
        if last != 200 {
            break;
        }
    }
    assert_eq!((last, limited(&gate, "repeats").await), (429, 1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn component_that_is_mounted_several_times_is_not_in_a_loop() {
    let gate = gate("rate_per_subject = 0").await;
    let mine = token(&gate, "user-1");
    let first = gate.get(&tasks("org_1"), &mine).await;
    let (handle, offset) = (first.header("electric-handle"), first.header("electric-offset"));
    let next = format!("/v1/shape?table=tasks&organizationId=org_1&handle={handle}&offset={offset}");
    assert_eq!(gate.get(&next, &mine).await.status, 200);
    let (mut one, mut two) = (Wire::open(&gate.url).await, Wire::open(&gate.url).await);
    // Mounts, and cleans up after the second request, which a browser may send on another connection.
    for _ in 0..20 {
        assert_eq!(ask(&mut one, &bytes(&tasks("org_1"), &mine)).await.unwrap().status, 200);
        assert_eq!(ask(&mut two, &bytes(&next, &mine)).await.unwrap().status, 200);
    }
    let (_, refused) = until_refused(async || ask(&mut one, &bytes(&tasks("org_1"), &mine)).await.unwrap()).await;
    assert_refused(&refused, 429, "too_many_requests");
    assert!(refused.text().contains("The limit is `limits.repeats`."), "{}", refused.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_the_limit_are_closed() {
    let gate = gate("connections = 2").await;
    let mine = token(&gate, "user-1");
    let request = bytes(&tasks("org_1"), &mine);
    // Cached now, so that the next responses have a length.
    let kept = gate.request(&tasks("org_1"), Some(&mine)).header("connection", "close").send().await.unwrap();
    assert_eq!(Answer::of(kept).await.status, 200);
    gate.until_metric("shapegate_connections", 0.0).await;
    let (mut first, mut second) = (Wire::open(&gate.url).await, Wire::open(&gate.url).await);
    assert_eq!(ask(&mut first, &request).await.unwrap().status, 200);
    assert_eq!(ask(&mut second, &request).await.unwrap().status, 200);
    assert_eq!(gate.metric("shapegate_connections").await, 2.0);
    let mut third = Wire::open(&gate.url).await;
    assert!(ask(&mut third, &request).await.is_none());
    assert_eq!(limited(&gate, "connections").await, 1.0);
    assert_eq!(ask(&mut second, &request).await.unwrap().status, 200, "open connections are not affected");
    drop(first);
    gate.until_metric("shapegate_connections", 1.0).await;
    let mut fourth = Wire::open(&gate.url).await;
    assert_eq!(ask(&mut fourth, &request).await.unwrap().status, 200);
}

/// Connects from another loopback address.
async fn from(address: &str, gate: &Gate) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
    socket.connect(gate.url.strip_prefix("http://").unwrap().parse().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_with_slow_headers_count_against_their_own_address() {
    let gate = gate("trusted_proxies = []\nconnections_per_address = 50").await;
    let request = bytes(&tasks("org_1"), &token(&gate, "user-1"));
    let mut slow = Vec::new();
    for _ in 0..60 {
        let mut stream = from("127.0.0.2", &gate).await;
        let _ = stream.write_all(&request[..request.len() - 3]).await;
        slow.push(stream);
    }
    gate.until_metric(r#"shapegate_limited_total{limit="connections_per_address"}"#, 10.0).await;
    let mut read = Vec::new();
    let mut over = slow.pop().unwrap();
    let _ = over.read_to_end(&mut read).await;
    assert!(read.is_empty(), "closed without a response");
    // Other addresses are not affected.
    assert_eq!(gate.get(&tasks("org_1"), &token(&gate, "user-2")).await.status, 200);
    gate.until_metric("shapegate_requests_in_flight", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_reader_takes_only_request_slots_of_its_own_subject() {
    let gate = gate("requests_per_subject = 3").await;
    let row = "x".repeat(8 << 20);
    gate.insert_task(1, "org_1", &row);
    let (slow, mine) = (token(&gate, "user-1"), token(&gate, "user-2"));
    let mut deaf = Vec::new();
    for _ in 0..3 {
        let mut wire = Wire::open(&gate.url).await;
        wire.send(&bytes(&tasks("org_1"), &slow)).await;
        deaf.push(wire);
    }
    gate.until_metric("shapegate_requests_in_flight", 3.0).await;
    assert_refused(&gate.get(&tasks("org_2"), &slow).await, 429, "too_many_requests");
    let whole = gate.get(&tasks("org_1"), &mine).await;
    assert_eq!((whole.status.as_u16(), whole.rows("title")[0].len()), (200, row.len()));
    assert_eq!(limited(&gate, "requests_per_subject").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_reset_flood_does_not_affect_other_clients() {
    let gate = Gate::with(Setup { server: "h2c = true".to_owned(), ..Setup::default() }).await;
    let (mine, other) = (token(&gate, "user-1"), token(&gate, "user-2"));
    let flood = async {
        for number in 0..20 {
            let stream = TcpStream::connect(gate.url.strip_prefix("http://").unwrap()).await.unwrap();
            let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
            let driving = tokio::spawn(connection);
            for at in 0..200 {
                let uri =
                    format!("{}/v1/shape?table=tasks&organizationId=org_1&offset=0_{at}&handle=1-{number}", gate.url);
                let request = http::Request::get(uri).header("authorization", format!("Bearer {mine}"));
                let Ok(ready) = sender.ready().await else { break };
                sender = ready;
                let Ok((_, mut stream)) = sender.send_request(request.body(()).unwrap(), true) else { break };
                stream.send_reset(h2::Reason::CANCEL);
            }
            driving.abort();
        }
    };
    let others = async {
        for _ in 0..50 {
            let request = gate.request(&tasks("org_2"), Some(&other)).header("connection", "close");
            assert_eq!(Answer::of(request.send().await.unwrap()).await.status, 200);
        }
    };
    tokio::join!(flood, others);
    gate.until_metric("shapegate_requests_in_flight", 0.0).await;
    gate.until_metric("shapegate_connections", 0.0).await;
    assert_eq!(gate.get(&tasks("org_1"), &mine).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_memory_new_work_is_rejected_and_waiting_clients_continue() {
    let gate = gate("").await;
    let limits = |memory: &str| {
        let rules = format!("{RULES}[limits]\nmemory = \"{memory}\"\n");
        Setup { rules, ..Setup::default() }.config("http://127.0.0.1:1", "http://127.0.0.1:2").limits
    };
    let mine = token(&gate, "user-1");
    let first = gate.get(&tasks("org_1"), &mine).await;
    let (handle, offset) = (first.header("electric-handle"), first.header("electric-offset"));
    let live = format!("/v1/shape?table=tasks&organizationId=org_1&handle={handle}&offset={offset}&live=true");
    let mut here = Wire::open(&gate.url).await;
    assert_eq!(ask(&mut here, &bytes(&tasks("org_1"), &mine)).await.unwrap().status, 200);
    let waiting = tokio::spawn(gate.request(&live, Some(&mine)).send());
    gate.electric.wait_for_waiting(1).await;
    gate.limiter.set(&limits("1KiB"));
    let refused = ask(&mut here, &bytes(&tasks("org_2"), &mine)).await.unwrap();
    assert_refused(&refused, 503, "overloaded");
    assert!(ask(&mut Wire::open(&gate.url).await, &bytes(&tasks("org_1"), &mine)).await.is_none());
    // A cached response needs no new upstream request and is served.
    assert_eq!(ask(&mut here, &bytes(&tasks("org_1"), &mine)).await.unwrap().status, 200);
    gate.insert_task(1, "org_1", "a change");
    let changed = Answer::of(waiting.await.unwrap().unwrap()).await;
    assert_eq!(changed.rows("title"), ["a change"]);
    assert_eq!(limited(&gate, "memory").await, 2.0);
    gate.limiter.set(&limits("1024GiB"));
    assert_eq!(gate.get(&tasks("org_2"), &mine).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_without_a_token_are_limited_by_address() {
    let gate = gate("trusted_proxies = ['127.0.0.0/8']\nrequests_per_address = 2").await;
    let first = get_as(&gate, "203.0.113.7", "/public?offset=-1", None).await;
    let (handle, offset) = (first.header("electric-handle"), first.header("electric-offset"));
    let live = format!("/public?handle={handle}&offset={offset}&live=true");
    let poll = || tokio::spawn(gate.request(&live, None).header("x-forwarded-for", "203.0.113.7").send());
    let polls = [poll(), poll()];
    gate.until_metric("shapegate_requests_in_flight", 2.0).await;
    let refused = get_as(&gate, "203.0.113.7", "/public?offset=-1", None).await;
    assert_refused(&refused, 429, "too_many_requests");
    assert_eq!(get_as(&gate, "203.0.113.8", "/public?offset=-1", None).await.status, 200);
    assert_eq!(limited(&gate, "requests_per_address").await, 1.0);
    polls.iter().for_each(tokio::task::JoinHandle::abort);
    gate.until_metric("shapegate_requests_in_flight", 0.0).await;
    assert_eq!(get_as(&gate, "203.0.113.7", "/public?offset=-1", None).await.status, 200);
}
