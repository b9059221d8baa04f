//! Requests that wait for a response while the configuration changes.

use std::time::Duration;

use bytes::Bytes;
use shapegate::demo::http::{Body, Reply};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{table_of, token_of};
use crate::flights::poll;
use crate::harness::{Answer, Gate, IssuerServer, Setup, Stream, Wire};

/// Half the time that Electric holds a poll.
const AT_ONCE: Duration = Duration::from_secs(10);

const EVENTS: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=0_0&handle=1-1&live=true&live_sse=true";

fn ask(gate: &Gate, target: &str, token: &str) -> JoinHandle<Answer> {
    let request = gate.request(target, Some(token)).send();
    tokio::spawn(async { Answer::of(request.await.unwrap()).await })
}

async fn at_once(waiting: JoinHandle<Answer>) -> (u16, String) {
    let answer = timeout(AT_ONCE, waiting).await.expect("the request is still waiting").unwrap();
    (answer.status.as_u16(), answer.code())
}

async fn two_issuers() -> (Gate, IssuerServer) {
    let other = IssuerServer::start().await;
    let gate =
        Gate::with(Setup { rules: format!("{}{}", crate::harness::RULES, table_of(&other)), ..Setup::default() });
    (gate.await, other)
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_issuer_ends_the_waits_of_its_tokens_only() {
    let (gate, other) = two_issuers().await;
    let target = poll(&gate, "org_1").await;
    let stays = ask(&gate, &target, &gate.token(&["org_1"]));
    let goes = ask(&gate, &target, &token_of(&other, "org_1"));
    gate.until_metric("shapegate_followers", 2.0).await;
    // An event stream ends too, between two events.
    let (sender, body) = mpsc::channel(1);
    let reply = Reply { body: Body::Chunks(body), ..Reply::new(200) };
    gate.electric.script(reply.with_header("content-type", "text/event-stream"));
    let mut events = Stream::open(gate.request(EVENTS, Some(&token_of(&other, "org_1")))).await;
    sender.send(Bytes::from("data: 1\n\n")).await.unwrap();
    events.until("data: 1\n\n").await;
    let asked = gate.electric.request_count();

    gate.policy.reload(|setup| setup.rules = crate::harness::RULES.to_owned(), |_| {}).unwrap();
    assert_eq!(at_once(goes).await, (401, "token_invalid".to_owned()));
    assert_eq!(timeout(AT_ONCE, events.rest()).await.unwrap().unwrap(), "", "a clean end");
    assert_eq!(gate.metric("shapegate_followers_cut_total{cause=\"reloaded\"}").await, 2.0);
    assert_eq!(gate.electric.request_count(), asked, "Electric is not asked again");
    gate.insert_task(1, "org_1", "news");
    assert_eq!(stays.await.unwrap().rows("title"), ["news"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_issuer_has_its_waiting_tokens_checked_again() {
    let (gate, other) = two_issuers().await;
    let target = poll(&gate, "org_1").await;
    let lasting = |lifetime: u64| {
        use shapegate::clock::{Clock, SystemClock};
        let now = SystemClock.now().as_secs();
        let claims =
            serde_json::json!({ "sub": lifetime.to_string(), "organizationIds": ["org_1"], "exp": now + lifetime });
        other.token(&claims)
    };
    let (short, long) = (ask(&gate, &target, &lasting(600)), ask(&gate, &target, &lasting(3600)));
    gate.until_metric("shapegate_followers", 2.0).await;
    let checks = gate.metric("shapegate_token_checks_total{outcome=\"new\"}").await;
    other.set_up(false);
    gate.policy.reload(|_| {}, |config| config.issuers[1].max_lifetime = Some(Duration::from_secs(1800))).unwrap();
    assert_eq!(at_once(long).await, (401, "token_invalid".to_owned()));
    gate.until_metric("shapegate_token_checks_total{outcome=\"new\"}", checks + 1.0).await;
    gate.insert_task(1, "org_1", "news");
    assert_eq!(short.await.unwrap().rows("title"), ["news"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_ends_with_503_if_its_keys_must_be_fetched_again() {
    let (gate, other) = two_issuers().await;
    let target = poll(&gate, "org_1").await;
    let waiting = ask(&gate, &target, &token_of(&other, "org_1"));
    gate.until_metric("shapegate_followers", 1.0).await;
    // The same issuer, with a key URL that never responds.
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = format!("http://{}/jwks", dead.local_addr().unwrap());
    let moved = |setup: &mut Setup| setup.rules = setup.rules.replace(&format!("{}/jwks", other.url()), &elsewhere);
    gate.policy.reload(moved, |_| {}).unwrap();
    assert_eq!(at_once(waiting).await, (503, "keys_unavailable".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn unaffected_wait_continues_through_many_reloads() {
    let gate = Gate::start().await;
    let target = poll(&gate, "org_1").await;
    let waiting = ask(&gate, &target, &gate.token(&["org_1"]));
    gate.electric.wait_for_waiting(1).await;
    let asked = gate.electric.request_count();
    let checks = "shapegate_token_checks_total{outcome=\"new\"}";
    let checked = gate.metric(checks).await;
    for number in 1..=20 {
        gate.policy.reload(|setup| setup.rules += &format!("[limits]\nrequests = {number}\n"), |_| {}).unwrap();
    }
    gate.insert_task(1, "org_1", "news");
    assert_eq!(waiting.await.unwrap().rows("title"), ["news"]);
    assert_eq!(gate.electric.request_count(), asked);
    assert_eq!(gate.metric(checks).await, checked);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_request_gets_the_current_cors_headers() {
    let gate = Gate::start().await;
    let target = poll(&gate, "org_1").await;
    let request = gate.request(&target, Some(&gate.token(&["org_1"]))).header("origin", "https://b.test").send();
    let waiting = tokio::spawn(async { Answer::of(request.await.unwrap()).await });
    gate.electric.wait_for_waiting(1).await;
    gate.policy.reload(|setup| setup.rules += "[cors]\norigins = ['https://a.test']\n", |_| {}).unwrap();
    gate.insert_task(1, "org_1", "news");
    let answer = waiting.await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (200, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn request_is_judged_by_the_configuration_current_when_its_body_ends() {
    let rules = "[[shape]]\ntable = 'tasks'\nwhere = '\"organization_id\" = {{ query.organizationId }}'\n\
         danger_client_chosen = ['organizationId']\nsubset = true\n";
    let gate = Gate::with(Setup { rules: rules.to_owned(), ..Setup::default() }).await;
    let token = gate.token(&["org_1"]);
    let body = r#"{"limit":5,"order_by":"\"id\""}"#;
    let head = format!(
        "POST /v1/shape?table=tasks&organizationId=org_1&offset=-1 HTTP/1.1\r\nHost: gate.test\r\n\
         Authorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let (mut goes, mut stays) = (Wire::open(&gate.url).await, Wire::open(&gate.url).await);
    goes.send(head.as_bytes()).await;
    gate.until_metric("shapegate_requests_in_flight", 1.0).await;
    let other =
        |setup: &mut Setup| setup.rules = setup.rules.replace("where = ", "allow = \"'x' in claims.roles\"\nwhere = ");
    gate.policy.reload(other, |_| {}).unwrap();
    goes.send(body.as_bytes()).await;
    let answer = goes.answer(false).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "forbidden"));
    assert_eq!(gate.electric.request_count(), 0, "Electric is not asked");
    gate.policy.reload(|_| {}, |_| {}).unwrap();
    stays.send(head.as_bytes()).await;
    gate.until_metric("shapegate_requests_in_flight", 1.0).await;
    gate.policy.reload(|setup| setup.rules += "[cors]\nmax_age = '1m'\n", |_| {}).unwrap();
    stays.send(body.as_bytes()).await;
    assert_eq!(stays.answer(false).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn response_to_a_slow_reader_is_cut_when_its_rule_changes() {
    const LONG: usize = 48 << 20;
    let gate = Gate::start().await;
    let rows = format!("[{}]", " ".repeat(LONG));
    let target = |organization: &str, number: u32| {
        format!("/v1/shape?table=tasks&organizationId={organization}&offset=0_{number}&handle=1-1")
    };
    // The first response is cached and one chunk, the second is in flight; the third is for an organization that stays
    // allowed.
    let mut wires = Vec::new();
    for (organization, number) in [("org_1", 1), ("org_1", 2), ("org_2", 3)] {
        let (target, token) = (target(organization, number), gate.token(&[organization]));
        let cache_control = if number == 2 { "no-store" } else { "max-age=60" };
        gate.electric.script(Reply::json(200, rows.clone()).with_header("cache-control", cache_control));
        if number != 2 {
            assert_eq!(gate.get(&target, &token).await.body.len(), rows.len());
        }
        let mut wire = Wire::open(&gate.url).await;
        let head =
            format!("GET {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
        wire.send(head.as_bytes()).await;
        wire.until("\r\n\r\n").await;
        wires.push(wire);
    }
    let asked = "allow = \"query.organizationId in claims.organizationIds";
    let narrower = format!("{asked} && query.organizationId != 'org_1'");
    gate.policy.reload(|setup| setup.rules = setup.rules.replace(asked, &narrower), |_| {}).unwrap();
    let mut read = Vec::new();
    for wire in wires {
        read.push(wire.rest().await.len());
    }
    assert!(read[0] < LONG && read[1] < LONG, "{read:?}");
    assert!(read[2] > LONG, "{read:?}");
    gate.until_metric("shapegate_followers_cut_total{cause=\"reloaded\"}", 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_event_is_cut_and_counted_as_reloaded() {
    let gate = Gate::start().await;
    let (sender, body) = mpsc::channel(1);
    let reply = Reply { body: Body::Chunks(body), ..Reply::new(200) };
    gate.electric.script(reply.with_header("content-type", "text/event-stream"));
    let mut events = Stream::open(gate.request(EVENTS, Some(&gate.token(&["org_1"])))).await;
    sender.send(Bytes::from("data: 1\n\ndata: ")).await.unwrap();
    events.until("data: 1\n\ndata: ").await;
    gate.policy.reload(|setup| setup.rules = setup.rules.replace("tasks", "others"), |_| {}).unwrap();
    assert!(timeout(AT_ONCE, events.rest()).await.unwrap().is_err(), "not a clean end");
    gate.until_metric("shapegate_followers_cut_total{cause=\"reloaded\"}", 1.0).await;
    assert_eq!(gate.metric("shapegate_followers_cut_total{cause=\"token_expired\"}").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn event_stream_without_pauses_ends_between_two_events() {
    let mut gate = Gate::start().await;
    let (sender, body) = mpsc::channel(1);
    let reply = Reply { body: Body::Chunks(body), ..Reply::new(200) };
    gate.electric.script(reply.with_header("content-type", "text/event-stream"));
    let mut events = gate.request(EVENTS, Some(&gate.token(&["org_1"]))).send().await.unwrap();
    let many = Bytes::from("data: 1\n\n".repeat(5_000));
    let endless = tokio::spawn(async move { while sender.send(many.clone()).await.is_ok() {} });
    // The client is so slow that more events are always pending.
    let slow = tokio::spawn(async move {
        let mut last = Bytes::new();
        while let Some(chunk) = events.chunk().await.unwrap() {
            last = chunk;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        last
    });
    gate.until_metric("shapegate_followers", 1.0).await;
    gate.stop().await;
    let last = timeout(2 * AT_ONCE, slow).await.expect("the stream continues").unwrap();
    assert!(last.ends_with(b"\n\n"));
    endless.abort();
}
