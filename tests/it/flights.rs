//! Equal requests share one response of Electric: joining, leaving, errors, and the end of a wait.

mod interleavings;
mod kept;
mod leaving;
mod sharing;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use shapegate::clock::{Clock, SystemClock};
use shapegate::config::Config;
use shapegate::demo::http::{Body, End, Reply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::harness::{Answer, Gate, RULES, SHORT_LIFE, Setup, Stream, Wire};

const TASKS: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";
const EVENTS: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=0_0&handle=1-1&live=true&live_sse=true";

/// Returns the target of a long poll at the end of the log of `organization`'s tasks, so that it waits.
pub(crate) async fn poll(gate: &Gate, organization: &str) -> String {
    let shape = format!("/v1/shape?table=tasks&organizationId={organization}");
    let token = gate.token(&[organization]);
    let first = gate.get(&format!("{shape}&offset=-1"), &token).await;
    let (handle, offset) = (first.header("electric-handle"), first.header("electric-offset"));
    let next = gate.get(&format!("{shape}&handle={handle}&offset={offset}"), &token).await;
    format!("{shape}&handle={handle}&offset={}&live=true", next.header("electric-offset"))
}

/// Signs the token of the `number`th user of an organization.
fn user(gate: &Gate, number: usize, organization: &str) -> String {
    let claims = json!({ "sub": format!("user-{number}"), "organizationIds": [organization] });
    gate.issuer.token(&claims)
}

fn ask(gate: &Gate, target: &str, token: &str) -> JoinHandle<Answer> {
    let request = gate.request(target, Some(token)).send();
    tokio::spawn(async { Answer::of(request.await.unwrap()).await })
}

/// Returns a reply whose body is the chunks sent to the sender. It ends when the sender is dropped.
pub(crate) fn gated(content_type: &'static str) -> (mpsc::Sender<Bytes>, Reply) {
    let (sender, receiver) = mpsc::channel(1);
    let reply = Reply { body: Body::Chunks(receiver), ..Reply::new(200) };
    (sender, reply.with_header("content-type", content_type))
}

#[tokio::test(flavor = "multi_thread")]
async fn thousand_clients_of_twenty_users_share_one_upstream_request() {
    let gate = Gate::with(Setup {
        rules: format!("{RULES}\n[cors]\norigins = ['https://a.test', 'https://b.test']"),
        ..Setup::default()
    })
    .await;
    let (ours, theirs) = (poll(&gate, "org_1").await, poll(&gate, "org_2").await);
    let before = gate.electric.request_count();
    let mut waiting = Vec::new();
    for number in 0..1_000 {
        let origin = ["https://a.test", "https://b.test"][number % 2];
        let request = gate.request(&ours, Some(&user(&gate, number % 20, "org_1"))).header("origin", origin).send();
        waiting.push((origin, tokio::spawn(async { Answer::of(request.await.unwrap()).await })));
    }
    let other = ask(&gate, &theirs, &user(&gate, 0, "org_2"));
    gate.until_metric("shapegate_requests_in_flight", 1_001.0).await;
    gate.electric.wait_for_waiting(2).await;
    assert_eq!(gate.electric.request_count() - before, 2, "one for each organization");
    gate.insert_task(1, "org_1", "ours");
    let (mut ids, mut bodies) = (BTreeSet::new(), BTreeSet::new());
    for (origin, answer) in waiting {
        let answer = answer.await.unwrap();
        assert_eq!(answer.rows("title"), ["ours"]);
        assert_eq!(answer.header("access-control-allow-origin"), origin);
        assert_eq!(answer.header("vary"), "accept-encoding, authorization, origin");
        ids.insert(answer.header("x-request-id").to_owned());
        bodies.insert(answer.body);
    }
    assert_eq!((ids.len(), bodies.len()), (1_000, 1));
    assert_eq!(gate.electric.request_count() - before, 2);
    gate.insert_task(2, "org_2", "theirs");
    assert_eq!(other.await.unwrap().rows("title"), ["theirs"]);
    assert_eq!(gate.metric(r#"shapegate_joins_total{how="open",rule="tasks"}"#).await, 999.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_follower_gets_the_response_from_its_start() {
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    let (sender, reply) = gated("application/json");
    gate.electric.script(reply);
    let mut first = Stream::open(gate.request(TASKS, Some(&token))).await;
    sender.send(Bytes::from("[1")).await.unwrap();
    first.until("[1").await;
    let mut late = Stream::open(gate.request(TASKS, Some(&token))).await;
    late.until("[1").await;
    sender.send(Bytes::from(",2]")).await.unwrap();
    drop(sender);
    assert_eq!((first.rest().await.unwrap(), late.rest().await.unwrap()), (",2]".to_owned(), ",2]".to_owned()));
    assert_eq!(gate.electric.request_count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_response_status_is_shared_by_all_followers() {
    let gate = Gate::start().await;
    for (number, (status, expected, code)) in
        [(500, 502, "upstream_refused"), (503, 503, "not_ready"), (409, 409, ""), (401, 502, "upstream_refused")]
            .into_iter()
            .enumerate()
    {
        // A shape of its own each time, since an error is cached for a second.
        let organization = format!("org_{number}");
        let target = poll(&gate, &organization).await;
        let before = gate.electric.request_count();
        let reply = Reply::json(status, "[]").with_header("retry-after", "7").with_header("cache-control", "max-age=1");
        gate.electric.hold();
        gate.electric.script(reply);
        let waiting: Vec<_> = (0..50).map(|one| ask(&gate, &target, &user(&gate, one, &organization))).collect();
        gate.until_metric("shapegate_requests_in_flight", 50.0).await;
        gate.electric.release();
        let mut bodies = BTreeSet::new();
        for answer in waiting {
            let answer = answer.await.unwrap();
            assert_eq!(answer.status, expected);
            assert!(expected == 409 || answer.code() == code, "{}", answer.text());
            assert_eq!(
                answer.header("retry-after"),
                ["", "5", "7"][usize::from(status != 409) + usize::from(status == 503)]
            );
            assert_eq!(answer.header("access-control-allow-origin"), "*");
            bodies.insert(answer.body);
        }
        assert_eq!((bodies.len(), gate.electric.request_count() - before), (1, 1), "{status}");
        gate.until_metric("shapegate_requests_in_flight", 0.0).await;
    }
}

/// Starts an upstream that counts requests for shapes and, once it is released, closes their connections.
async fn closing() -> (String, Arc<AtomicUsize>, Arc<Semaphore>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (requests, released) = (Arc::<AtomicUsize>::default(), Arc::new(Semaphore::new(0)));
    let closing = (url, Arc::clone(&requests), Arc::clone(&released));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (requests, released) = (Arc::clone(&requests), Arc::clone(&released));
            tokio::spawn(async move {
                let mut request = Vec::new();
                stream.read_buf(&mut request).await.unwrap();
                if request.starts_with(b"GET /v1/shape?") {
                    requests.fetch_add(1, Ordering::SeqCst);
                    drop(released.acquire().await);
                }
            });
        }
    });
    closing
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_connection_is_one_attempt_for_all_followers() {
    let (url, requests, released) = closing().await;
    let gate = Gate::with(Setup { electric_url: Some(url), ..Setup::default() }).await;
    let waiting: Vec<_> = (0..20).map(|one| ask(&gate, TASKS, &user(&gate, one, "org_1"))).collect();
    gate.until_metric("shapegate_followers", 20.0).await;
    released.add_permits(1);
    for answer in waiting {
        assert_eq!(answer.await.unwrap().code(), "upstream_unreachable");
    }
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

/// Checks that a response truncated by Electric is truncated for every follower, and is not cached.
async fn breaks_off(gate: &Gate) {
    let token = gate.token(&["org_1"]);
    for (number, end) in [End::Truncate, End::Reset].into_iter().enumerate() {
        // The second one asks for a handle that is not cached.
        let target = format!("{TASKS}&handle={number}");
        let (sender, reply) = gated("application/json");
        gate.electric.script(reply.with_end(end));
        let mut streams = Vec::new();
        for _ in 0..3 {
            streams.push(Stream::open(gate.request(&target, Some(&token))).await);
            if streams.len() == 1 {
                sender.send(Bytes::from("[1,")).await.unwrap();
            }
        }
        for stream in &mut streams {
            stream.until("[1,").await;
        }
        drop(sender);
        for stream in streams {
            assert!(stream.rest().await.is_err(), "{end:?}");
        }
        assert_eq!(gate.get(&target, &token).await.status, 200, "nothing of it is cached");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_response_is_broken_for_all_followers_over_http_1_1() {
    breaks_off(&Gate::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_response_is_broken_for_all_followers_over_http_2() {
    let certificate = Some(crate::harness::Certificate::new());
    breaks_off(&Gate::with(Setup { certificate, ..Setup::default() }).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_follower_waits_no_longer_than_its_own_token() {
    // docs/security.md, T19, C8
    let gate = Gate::start().await;
    let target = poll(&gate, "org_1").await;
    let long = ask(&gate, &target, &gate.token(&["org_1"]));
    gate.electric.wait_for_waiting(1).await;
    let short = json!({ "organizationIds": ["org_1"], "exp": SystemClock.now().as_secs() + SHORT_LIFE });
    let short = ask(&gate, &target, &gate.issuer.token(&short)).await.unwrap();
    assert_eq!((short.status.as_u16(), short.code().as_str()), (401, "token_expired"));
    gate.insert_task(1, "org_1", "later");
    assert_eq!(long.await.unwrap().rows("title"), ["later"]);
    assert_eq!(gate.metric(r#"shapegate_followers_cut_total{cause="token_expired"}"#).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn event_stream_ends_cleanly_when_the_token_expires() {
    let gate = Gate::start().await;
    let (sender, reply) = gated("text/event-stream");
    gate.electric.script(reply);
    let exp = SystemClock.now().as_secs() + SHORT_LIFE;
    let short = gate.issuer.token(&json!({ "organizationIds": ["org_1"], "exp": exp }));
    let mut ends = Stream::open(gate.request(EVENTS, Some(&short))).await;
    let mut goes_on = Stream::open(gate.request(EVENTS, Some(&gate.token(&["org_1"])))).await;
    sender.send(Bytes::from("data: 1\n\n")).await.unwrap();
    ends.until("data: 1\n\n").await;
    assert_eq!(ends.rest().await.unwrap(), "", "a clean end, between events");
    assert!(SystemClock.now().as_secs() >= exp);
    sender.send(Bytes::from("data: 2\n\n")).await.unwrap();
    goes_on.until("data: 2\n\n").await;
    assert_eq!(gate.electric.request_count(), 1);
}

/// Builds the policy of [`RULES`] with `tasks` in place of the rule for tasks.
fn policy(tasks: &str) -> shapegate::policy::PolicySet {
    let rules = RULES.replacen("[[shape]]", "[[gone]]", 1);
    let (_, rest) = rules.split_once("[[shape]]").unwrap();
    let setup = Setup { rules: format!("{tasks}\n[[shape]]{rest}"), ..Setup::default() };
    setup.config("http://127.0.0.1:1", "http://127.0.0.1:1").policy
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_ends_waits_that_the_rule_no_longer_allows() {
    let gate = Gate::start().await;
    let (target, other) = (poll(&gate, "org_1").await, poll(&gate, "org_2").await);
    let (token, other_token) = (gate.token(&["org_1"]), gate.token(&["org_2"]));
    let waiting = ask(&gate, &target, &token);
    let (sender, reply) = gated("text/event-stream");
    gate.electric.wait_for_waiting(1).await;
    gate.electric.script(reply);
    let mut events = Stream::open(gate.request(EVENTS, Some(&token))).await;
    sender.send(Bytes::from("data: 1\n\n")).await.unwrap();
    events.until("data: 1\n\n").await;
    let unaffected = ask(&gate, &other, &other_token);
    gate.electric.wait_for_waiting(2).await;
    gate.policy.replace(policy(
        r#"[[shape]]
table = "tasks"
allow = "query.organizationId in claims.organizationIds && query.organizationId != 'org_1'"
where = '"organization_id" = {{ query.organizationId }}'"#,
    ));
    let denied = waiting.await.unwrap();
    assert_eq!((denied.status.as_u16(), denied.code().as_str()), (403, "forbidden"));
    assert_eq!(events.rest().await.unwrap(), "", "a clean end");
    gate.insert_task(2, "org_2", "still");
    assert_eq!(unaffected.await.unwrap().rows("title"), ["still"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_rule_sends_waiting_requests_to_electric_again() {
    let gate = Gate::start().await;
    gate.insert_task(1, "org_1", "mine");
    let token = gate.token(&["org_1"]);
    gate.electric.hold();
    let waiting = ask(&gate, TASKS, &token);
    gate.electric.wait_for_requests(1).await;
    gate.policy.replace(policy("[[shape]]\ntable = \"tasks\"\nallow = \"query.organizationId in claims.organizationIds\"\nwhere = '\"organization_id\" = {{ query.organizationId }} AND \"title\" = {{ \"other\" }}'"));
    gate.electric.wait_for_requests(2).await;
    gate.electric.release();
    assert_eq!(waiting.await.unwrap().rows("title"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_event_streams_and_lets_polls_finish() {
    let tune = |config: &mut Config| config.server.drain = Duration::from_secs(30);
    let mut gate = Gate::with(Setup { tune, ..Setup::default() }).await;
    let target = poll(&gate, "org_1").await;
    let waiting = ask(&gate, &target, &gate.token(&["org_1"]));
    gate.electric.wait_for_waiting(1).await;
    let (sender, reply) = gated("text/event-stream");
    gate.electric.script(reply);
    let mut events = Stream::open(gate.request(EVENTS, Some(&gate.token(&["org_1"])))).await;
    sender.send(Bytes::from("data: 1\n\n")).await.unwrap();
    events.until("data: 1\n\n").await;
    let stopped = gate.stopping();
    assert_eq!(events.rest().await.unwrap(), "");
    gate.insert_task(1, "org_1", "now");
    assert_eq!(waiting.await.unwrap().rows("title"), ["now"]);
    stopped.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_stays_usable_after_a_shared_response() {
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    let target = poll(&gate, "org_1").await;
    let request = |target: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: gate.test\r\nAuthorization: Bearer {token}\r\n\r\n").into_bytes()
    };
    let mut wires = Vec::new();
    for _ in 0..50 {
        let mut wire = Wire::open(&gate.url).await;
        wire.send(&request(&target)).await;
        wires.push(wire);
    }
    gate.until_metric("shapegate_requests_in_flight", 50.0).await;
    gate.insert_task(1, "org_1", "now");
    let mut again = tokio::task::JoinSet::new();
    for mut wire in wires {
        let next = request(TASKS);
        again.spawn(async move {
            assert_eq!(wire.answer(false).await.unwrap().rows("title"), ["now"]);
            for _ in 0..3 {
                wire.send(&next).await;
                assert_eq!(wire.answer(false).await.unwrap().status, 200);
            }
        });
    }
    while let Some(done) = again.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flights_are_limited_in_total_and_per_subject() {
    let rules = format!("{RULES}\n[limits]\nflights = 3\nflights_per_subject = 2\n");
    let gate = Gate::with(Setup { rules, ..Setup::default() }).await;
    let token = |number| user(&gate, number, "org_1");
    let handle = gate.get(TASKS, &token(1)).await.header("electric-handle").to_owned();
    gate.until_metric("shapegate_upstream_requests_in_flight", 0.0).await;
    gate.electric.hold();
    let shape = |number: u32| TASKS.replace("offset=-1", &format!("offset=0_{number}&handle={handle}"));
    let mut waiting = vec![ask(&gate, &shape(1), &token(1)), ask(&gate, &shape(2), &token(1))];
    gate.electric.wait_for_requests(3).await;
    assert_eq!(gate.get(&shape(3), &token(1)).await.code(), "too_many_requests");
    waiting.push(ask(&gate, &shape(1), &token(1)));
    waiting.push(ask(&gate, &shape(3), &token(2)));
    gate.electric.wait_for_requests(4).await;
    assert_eq!(gate.get(&shape(4), &token(3)).await.code(), "overloaded");
    gate.electric.release();
    for answer in waiting {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    assert_eq!(gate.get(&shape(4), &token(3)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_response_is_never_complete_over_http_1_0() {
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    let (sender, reply) = gated("application/json");
    gate.electric.script(reply.with_end(End::Truncate));
    let mut client = tokio::net::TcpStream::connect(gate.url.strip_prefix("http://").unwrap()).await.unwrap();
    let request = format!("GET {TASKS} HTTP/1.0\r\nHost: gate.test\r\nAuthorization: Bearer {token}\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    // The second chunk is taken from the channel only after the first has been sent.
    for chunk in ["[1,", "2,"] {
        sender.send(Bytes::from(chunk)).await.unwrap();
    }
    gate.electric.wait_for_requests(1).await;
    drop(sender);
    let mut answer = String::new();
    let read = client.read_to_string(&mut answer).await;
    let whole = read.is_ok() && answer.contains(" 200 ");
    assert!(!whole, "{answer}");
}
