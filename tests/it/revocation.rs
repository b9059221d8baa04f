//! Tokens that are revoked before they expire, by a list or by a push (docs/security.md, T21).

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::Request;
use serde_json::{Value, json};
use shapegate::clock::{Clock, SystemClock, UnixTime};
use shapegate::demo::electric::Options;
use shapegate::demo::http::{Body, End, Reply};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::harness::pdp::Pdp;
use crate::harness::{Answer, GATEKEEPER_SECRET, Gate, IssuerServer, RULES, Service, Setup, Stream, start_electric};
use crate::http2::connect;

/// How long a test waits on a slow machine for what should take less than a second.
const PATIENCE: Duration = Duration::from_secs(60);

const PUSH: &str = "[revocation]\nsecret = { env = 'GATEKEEPER_SECRET' }\n";

const FAILED: &str = "shapegate_revocation_list_reads{result=\"failed\"}";
const CUT: &str = "shapegate_followers_cut_total{cause=\"token_revoked\"}";

fn token(gate: &Gate, sid: &str) -> String {
    token_with(gate, sid, &json!({}))
}

fn token_with(gate: &Gate, sid: &str, more: &Value) -> String {
    let mut claims = json!({ "sub": sid, "sid": sid, "organizationIds": ["org_1"] });
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    gate.issuer.token(&claims)
}

fn with_rules(more: &str) -> Setup {
    Setup { rules: format!("{RULES}{more}"), ..Setup::default() }
}

async fn start(more: &str) -> Gate {
    Gate::with(with_rules(more)).await
}

async fn push(gate: &Gate, secret: &str, list: &str) -> Answer {
    let url = format!("{}/revocations", gate.admin);
    Answer::of(gate.client().post(url).bearer_auth(secret).body(list.to_owned()).send().await.unwrap()).await
}

async fn poll(gate: &Gate) -> String {
    let snapshot = gate.get("/v1/shape?table=tasks&organizationId=org_1&offset=-1", &token(gate, "s0")).await;
    let (handle, offset) = (snapshot.header("electric-handle"), snapshot.header("electric-offset"));
    format!("/v1/shape?table=tasks&organizationId=org_1&handle={handle}&offset={offset}&live=true")
}

fn ask(gate: &Gate, target: &str, token: &str) -> JoinHandle<Answer> {
    let request = gate.request(target, Some(token)).send();
    tokio::spawn(async move { Answer::of(request.await.unwrap()).await })
}

/// Sends many requests on HTTP/2 connections. Each returns the status and the body of its response.
async fn ask_all(gate: &Gate, target: &str, tokens: Vec<String>) -> Vec<JoinHandle<(u16, Vec<u8>)>> {
    const STREAMS: usize = 100;
    let mut waiting = Vec::new();
    for tokens in tokens.chunks(STREAMS) {
        let mut connection = connect(&gate.url).await.unwrap();
        for token in tokens {
            connection = connection.ready().await.unwrap();
            let request = Request::get(format!("{}{target}", gate.url));
            let request = request.header("authorization", format!("Bearer {token}")).body(()).unwrap();
            let (response, _) = connection.send_request(request, true).unwrap();
            waiting.push(tokio::spawn(async move {
                let mut response = response.await.unwrap();
                let mut body = Vec::new();
                while let Some(data) = response.body_mut().data().await {
                    body.extend_from_slice(&data.unwrap());
                }
                (response.status().as_u16(), body)
            }));
        }
    }
    waiting
}

/// Returns how long it takes from `since` until all have ended with 401.
async fn until_rejected(since: Instant, waiting: Vec<JoinHandle<(u16, Vec<u8>)>>) -> Duration {
    for wait in waiting {
        let (status, body) = timeout(PATIENCE, wait).await.expect("the wait continues").unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, &body["code"]), (401, &json!("token_invalid")));
    }
    since.elapsed()
}

/// The list is read once an hour and Electric holds a request for minutes, so nothing but the push and the reload can
/// end a wait in time.
#[tokio::test(flavor = "multi_thread")]
async fn t21_exactly_the_waiting_clients_of_a_revoked_session_end_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("revoked.json");
    let rules = listed(&path, r#"{"revocations":[]}"#, "1h");
    let electric = Options { hold: 4 * PATIENCE, ..Options::default() };
    let (server, upstream) = ("h2c = true".to_owned(), "read_timeout = '5m'".to_owned());
    let gate = Gate::with(Setup { electric, server, upstream, ..with_rules(&rules) }).await;
    let target = poll(&gate).await;
    // Each has a token of its own: 100 of one session, 50 of another, and 850 of as many.
    let of = |sid: &dyn Fn(usize) -> String, numbers: Range<usize>| {
        numbers.map(|number| token_with(&gate, &sid(number), &json!({ "jti": number }))).collect::<Vec<_>>()
    };
    let pushed = ask_all(&gate, &target, of(&|_| "pushed".to_owned(), 0..100)).await;
    let listed = ask_all(&gate, &target, of(&|_| "listed".to_owned(), 100..150)).await;
    let stay = ask_all(&gate, &target, of(&|number| number.to_string(), 150..1000)).await;
    gate.until_metric("shapegate_followers", 1000.0).await;

    let start = Instant::now();
    let answer = push(&gate, GATEKEEPER_SECRET, r#"{"revocations":[{"sid":"pushed"}]}"#).await;
    assert_eq!((answer.status.as_u16(), answer.json()["revoked"].as_u64()), (200, Some(1)), "{}", answer.text());
    println!("of 1000 waiting clients, 100 ended {:?} after the push", until_rejected(start, pushed).await);
    gate.until_metric(CUT, 100.0).await;
    gate.until_metric("shapegate_followers", 900.0).await;
    assert_eq!(gate.get(&target, &token(&gate, "pushed")).await.code(), "token_invalid", "a later request");

    std::fs::write(&path, r#"{"revocations":[{"sid":"listed"}]}"#).unwrap();
    let start = Instant::now();
    gate.policy.reload(|_| {}, |_| {}).unwrap();
    println!("of 900 waiting clients, 50 ended {:?} after the reload", until_rejected(start, listed).await);
    gate.until_metric(CUT, 150.0).await;
    gate.until_metric("shapegate_followers", 850.0).await;
    gate.insert_task(1, "org_1", "news");
    for wait in stay {
        let (status, body) = wait.await.unwrap();
        assert!(status == 200 && String::from_utf8(body).unwrap().contains("news"), "{status}");
    }
    gate.until_metric(CUT, 150.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t21_event_stream_of_a_revoked_user_ends_between_two_events() {
    let gate = start(PUSH).await;
    let (sender, body) = mpsc::channel(1);
    let reply = Reply { body: Body::Chunks(body), ..Reply::new(200) };
    gate.electric.script(reply.with_header("content-type", "text/event-stream"));
    let events = "/v1/shape?table=tasks&organizationId=org_1&handle=1&offset=0_0&live=true&live_sse=true";
    let mut events = Stream::open(gate.request(events, Some(&token(&gate, "s1")))).await;
    sender.send("data: 1\n\n".into()).await.unwrap();
    events.until("data: 1\n\n").await;
    assert_eq!(push(&gate, GATEKEEPER_SECRET, r#"{"revocations":[{"sub":"s1"}]}"#).await.status, 200);
    assert_eq!(timeout(PATIENCE, events.rest()).await.unwrap().unwrap(), "", "a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn push_needs_the_secret_and_a_valid_list() {
    let gate = start(PUSH).await;
    let list = r#"{"revocations":[{"sid":"s1"}]}"#;
    for (secret, list, status) in [
        ("", list, 401),
        ("wrong", list, 401),
        (GATEKEEPER_SECRET, "{}", 400),
        (GATEKEEPER_SECRET, r#"{"revocations":[{"sid":""}]}"#, 400),
        (GATEKEEPER_SECRET, &" ".repeat(300 * 1024), 413),
    ] {
        assert_eq!(push(&gate, secret, list).await.status.as_u16(), status, "{secret} {list:.40}");
    }
    assert_eq!(gate.admin("/revocations").await.status, 405);
    let tasks = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";
    assert_eq!(gate.get(tasks, &token(&gate, "s1")).await.status, 200, "nothing was revoked");
    assert_eq!(push(&gate, GATEKEEPER_SECRET, list).await.status, 200);
    assert_eq!(gate.get(tasks, &token(&gate, "s1")).await.status, 401);
    let without = Gate::start().await;
    assert_eq!(push(&without, GATEKEEPER_SECRET, list).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn t21_shape_token_is_revoked_with_the_token_it_was_minted_for() {
    let gatekeeper = "[gatekeeper]\nissuer = 'https://shapes.test'\naudience = 'https://app.test'\n\
                      public_url = 'https://sync.test/v1/shape'\nhs256 = { env = 'GATEKEEPER_SECRET' }\n";
    let gate = start(&format!("{PUSH}{gatekeeper}")).await;
    let mint = async |sid: &str| {
        let url = format!("{}/gatekeeper/tasks?organizationId=org_1", gate.url);
        let minted = gate.client().post(url).bearer_auth(token(&gate, sid)).send().await.unwrap();
        let minted = Answer::of(minted).await.json();
        let bearer = minted["headers"]["Authorization"].as_str().unwrap().to_owned();
        let params = [("table", "tasks".to_owned()), ("offset", "-1".to_owned())].into_iter().chain([
            ("where", minted["params"]["where"].as_str().unwrap().to_owned()),
            ("params[1]", minted["params"]["params"]["1"].as_str().unwrap().to_owned()),
        ]);
        (bearer, reqwest::Url::parse_with_params("http://a/v1/shape", params).unwrap())
    };
    let read = async |(bearer, url): &(String, reqwest::Url)| {
        let target = format!("{}{}?{}", gate.url, url.path(), url.query().unwrap());
        gate.client().get(target).header("authorization", bearer).send().await.unwrap().status().as_u16()
    };
    let (gone, stays) = (mint("s1").await, mint("s2").await);
    assert_eq!((read(&gone).await, read(&stays).await), (200, 200));
    push(&gate, GATEKEEPER_SECRET, r#"{"revocations":[{"sid":"s1"}]}"#).await;
    assert_eq!((read(&gone).await, read(&stays).await), (401, 200));
}

/// Waits until the list could not be read `count` times.
async fn until_failed(gate: &Gate, count: f64) {
    while gate.metric(FAILED).await < count {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn listed(path: &Path, revoked: &str, interval: &str) -> String {
    std::fs::write(path, revoked).unwrap();
    format!("{PUSH}file = '{}'\ninterval = '{interval}'\n", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn t21_member_that_missed_a_push_has_it_after_its_next_poll() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("revoked.json");
    let rules = listed(&path, r#"{"revocations":[]}"#, "1s");
    let (one, other) = (start(&rules).await, start(&rules).await);
    let target = poll(&other).await;
    let tasks = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";
    let waiting = ask(&other, &target, &token(&other, "s1"));
    other.until_metric("shapegate_followers", 1.0).await;
    // The operator's service writes the list, and pushes to the members that it reaches.
    let list = r#"{"revocations":[{"sid":"s1"}]}"#;
    assert_eq!(push(&one, GATEKEEPER_SECRET, list).await.status, 200);
    assert_eq!(one.get(tasks, &token(&one, "s1")).await.status, 401);
    std::fs::write(&path, list).unwrap();
    let answer = timeout(PATIENCE, waiting).await.expect("the wait continues").unwrap();
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "token_invalid"));
    // A list that is gone changes nothing, but shows.
    std::fs::remove_file(&path).unwrap();
    until_failed(&other, 2.0).await;
    assert_eq!(other.get(tasks, &token(&other, "s1")).await.status, 401);
    assert_eq!(other.get(tasks, &token(&other, "s2")).await.status, 200);
    let ready = other.admin("/readyz").await;
    assert_eq!(ready.status, 200);
    assert!(ready.json()["degraded"][0].as_str().unwrap().contains("revocation: the list is"), "{}", ready.text());
}

/// The system's clock, ahead by some seconds.
#[derive(Default)]
struct Ahead(AtomicU64);

impl Clock for Ahead {
    fn now(&self) -> UnixTime {
        SystemClock.now().saturating_add(Duration::from_secs(self.0.load(Ordering::SeqCst)))
    }
}

/// What the URL of a list that is down responds.
const FAULTS: [fn() -> Reply; 6] = [
    || Reply::new(200).with_end(End::Reset),
    || Reply::json(500, r#"{"revocations":[]}"#),
    || Reply::new(302).with_header("location", "https://elsewhere.test/"),
    || Reply::json(200, "{}"),
    || Reply::json(200, r#"{"revocations":[{"sid":""}]}"#),
    || Reply::json(200, r#"{"revocations":[]"#),
];

#[tokio::test(flavor = "multi_thread")]
async fn t21_list_whose_url_is_down_for_an_hour_changes_nothing() {
    /// Reads in ten minutes.
    const READS: f64 = 60.0;
    let list = Pdp::start().await;
    let serves = |sid: &str| Reply::json(200, json!({ "revocations": [{ "sid": sid }] }).to_string());
    list.goes_down();
    let clock = Arc::new(Ahead::default());
    let gate = Gate::with(Setup {
        clock: clock.clone(),
        electric: Options { hold: 4 * PATIENCE, ..Options::default() },
        upstream: "read_timeout = '5m'".to_owned(),
        tune: |config| config.revocation.as_mut().unwrap().interval = Duration::from_millis(5),
        ..with_rules(&format!("[revocation]\nurl = '{}'\n", list.url()))
    });
    let gate = gate.await;
    let tasks = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";
    let exp = SystemClock.now().as_secs() + 3 * 3600;
    let tokens = ["revoked", "later", "s0"].map(|sid| token_with(&gate, sid, &json!({ "exp": exp })));
    let statuses = async || {
        let mut statuses = Vec::new();
        for token in &tokens {
            statuses.push(gate.get(tasks, token).await.status.as_u16());
        }
        statuses
    };
    assert_eq!(statuses().await, [503; 3], "the list was never read");
    assert_eq!(gate.admin("/readyz").await.status, 503);
    list.decides(move |_, _| serves("revoked"));
    while gate.admin("/readyz").await.status != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(statuses().await, [401, 200, 200]);
    let waiting = ask(&gate, &poll(&gate).await, &tokens[2]);
    gate.until_metric("shapegate_followers", 1.0).await;

    for (round, fault) in FAULTS.into_iter().enumerate() {
        list.decides(move |_, _| fault());
        until_failed(&gate, gate.metric(FAILED).await + READS).await;
        clock.0.fetch_add(600, Ordering::SeqCst);
        assert_eq!(statuses().await, [401, 200, 200], "round {round}");
        let age = gate.metric("shapegate_revocation_list_age_seconds").await;
        assert!(age >= 600.0 * (round + 1) as f64, "round {round}: {age}");
        let ready = gate.admin("/readyz").await;
        assert_eq!(ready.status, 200);
        assert!(ready.json()["degraded"][0].as_str().unwrap().contains("s old, because it cannot be read"));
    }
    assert_eq!(gate.metric("shapegate_followers").await, 1.0, "the client still waits");
    assert_eq!(gate.metric(CUT).await, 0.0);

    list.decides(move |_, _| serves("later"));
    while gate.get(tasks, &tokens[1]).await.status != 401 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(statuses().await, [200, 401, 200], "the list as it is now");
    assert!(gate.metric("shapegate_revocation_list_age_seconds").await < 600.0);
    gate.insert_task(1, "org_1", "news");
    assert_eq!(waiting.await.unwrap().rows("title"), ["news"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn t21_push_is_known_to_the_next_process_and_to_another_of_the_same_state_folder() {
    let state = tempfile::tempdir().unwrap();
    let server = format!("state = '{}'", state.path().display());
    let mut one = Gate::with(Setup { server: server.clone(), ..with_rules(PUSH) }).await;
    let issuer_url = Some(one.issuer.url().to_owned());
    let next = async || {
        let (server, issuer_url) = (server.clone(), issuer_url.clone());
        Gate::with(Setup { server, issuer_url, ..with_rules(PUSH) }).await
    };
    let tasks = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";
    let tokens = ["s1", "s2"].map(|sid| token(&one, sid));
    let other = next().await;
    let first = other.get(tasks, &tokens[0]).await;
    let (handle, offset) = (first.header("electric-handle"), first.header("electric-offset"));
    let target = format!("/v1/shape?table=tasks&organizationId=org_1&handle={handle}&offset={offset}&live=true");
    let waiting = ask(&other, &target, &tokens[0]);
    other.until_metric("shapegate_followers", 1.0).await;
    let pushed = push(&one, GATEKEEPER_SECRET, r#"{"revocations":[{"sid":"s1"}]}"#).await;
    assert_eq!(pushed.json()["saved"], true);
    let answer = timeout(PATIENCE, waiting).await.expect("the wait continues").unwrap();
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "token_invalid"));
    one.stop().await;
    let again = next().await;
    for (token, status) in tokens.iter().zip([401, 200]) {
        assert_eq!(again.get(tasks, token).await.status, status);
    }
    let without = start(PUSH).await;
    let pushed = push(&without, GATEKEEPER_SECRET, r#"{"revocations":[{"sid":"s1"}]}"#).await;
    assert_eq!(pushed.json()["saved"], false, "without a state folder");
}

#[tokio::test(flavor = "multi_thread")]
async fn t21_push_outlives_an_upgrade() {
    let (electric, issuer) = (start_electric(Options::default()).await, IssuerServer::start().await);
    let folder = tempfile::tempdir().unwrap();
    let (state, secret) = (folder.path().join("state"), folder.path().join("secret"));
    std::fs::create_dir(&state).unwrap();
    std::fs::write(&secret, GATEKEEPER_SECRET).unwrap();
    let server = format!("state = '{}'", state.display());
    let config = Service::config(folder.path(), &electric.url(), issuer.url(), &server);
    let section = format!("[revocation]\nsecret = {{ file = '{}' }}\n", secret.display());
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}{section}")).unwrap();
    let mut service = Service::start(&config).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let status = async |service: &Service, sid: &str| {
        let token = issuer.token(&json!({ "sub": sid, "sid": sid, "organizationIds": ["org_1"] }));
        let url = format!("{}/v1/shape?table=tasks&organizationId=org_1&offset=-1", service.url);
        client.get(url).bearer_auth(token).send().await.unwrap().status().as_u16()
    };
    assert_eq!((status(&service, "s1").await, status(&service, "s2").await), (200, 200));
    let push = client.post(format!("{}/revocations", service.admin)).bearer_auth(GATEKEEPER_SECRET);
    assert_eq!(push.body(r#"{"revocations":[{"sid":"s1"}]}"#).send().await.unwrap().status(), 200);
    service.upgrade().await;
    assert_eq!((status(&service, "s1").await, status(&service, "s2").await), (401, 200));
}
