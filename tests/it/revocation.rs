//! Tokens that are revoked before they expire, by a list or by a push (docs/security.md, T21).

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use shapegate::demo::http::{Body, Reply};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::harness::{Answer, GATEKEEPER_SECRET, Gate, RULES, Setup, Stream};

/// Longer than the second within which a wait must end, for a slow machine.
const AT_ONCE: Duration = Duration::from_secs(15);

const PUSH: &str = "[revocation]\nsecret = { env = 'GATEKEEPER_SECRET' }\n";

fn token(gate: &Gate, sid: &str) -> String {
    gate.issuer.token(&json!({ "sub": sid, "sid": sid, "organizationIds": ["org_1"] }))
}

async fn with_rules(more: &str) -> Gate {
    Gate::with(Setup { rules: format!("{RULES}{more}"), ..Setup::default() }).await
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

#[tokio::test(flavor = "multi_thread")]
async fn t21_exactly_the_waiting_clients_of_a_revoked_session_end_at_once() {
    let gate = with_rules(PUSH).await;
    let target = poll(&gate).await;
    let (gone, stays): (Vec<_>, Vec<_>) = (0..200).partition(|number| number % 10 == 0);
    let gone: Vec<_> = gone.iter().map(|_| ask(&gate, &target, &token(&gate, "revoked"))).collect();
    let stays: Vec<_> = stays.iter().map(|number| ask(&gate, &target, &token(&gate, &number.to_string()))).collect();
    gate.until_metric("shapegate_followers", 200.0).await;
    let pushed = push(&gate, GATEKEEPER_SECRET, r#"{"revocations":[{"sid":"revoked"}]}"#).await;
    assert_eq!((pushed.status.as_u16(), pushed.json()["revoked"].as_u64()), (200, Some(1)), "{}", pushed.text());
    for wait in gone {
        let answer = timeout(AT_ONCE, wait).await.expect("the wait continues").unwrap();
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "token_invalid"));
    }
    gate.until_metric("shapegate_followers_cut_total{cause=\"token_revoked\"}", 20.0).await;
    gate.until_metric("shapegate_followers", 180.0).await;
    assert_eq!(gate.get(&target, &token(&gate, "revoked")).await.code(), "token_invalid", "a later request");
    gate.insert_task(1, "org_1", "news");
    for wait in stays {
        assert_eq!(wait.await.unwrap().rows("title"), ["news"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t21_event_stream_of_a_revoked_user_ends_between_two_events() {
    let gate = with_rules(PUSH).await;
    let (sender, body) = mpsc::channel(1);
    let reply = Reply { body: Body::Chunks(body), ..Reply::new(200) };
    gate.electric.script(reply.with_header("content-type", "text/event-stream"));
    let events = "/v1/shape?table=tasks&organizationId=org_1&handle=1&offset=0_0&live=true&live_sse=true";
    let mut events = Stream::open(gate.request(events, Some(&token(&gate, "s1")))).await;
    sender.send("data: 1\n\n".into()).await.unwrap();
    events.until("data: 1\n\n").await;
    assert_eq!(push(&gate, GATEKEEPER_SECRET, r#"{"revocations":[{"sub":"s1"}]}"#).await.status, 200);
    assert_eq!(timeout(AT_ONCE, events.rest()).await.unwrap().unwrap(), "", "a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn push_needs_the_secret_and_a_valid_list() {
    let gate = with_rules(PUSH).await;
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
    let gate = with_rules(&format!("{PUSH}{gatekeeper}")).await;
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

fn listed(path: &Path, revoked: &str) -> String {
    std::fs::write(path, revoked).unwrap();
    format!("[revocation]\nfile = '{}'\ninterval = '1s'\nsecret = {{ env = 'GATEKEEPER_SECRET' }}\n", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn t21_member_that_missed_a_push_has_it_after_its_next_poll() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("revoked.json");
    let rules = listed(&path, r#"{"revocations":[]}"#);
    let (one, other) = (with_rules(&rules).await, with_rules(&rules).await);
    let target = poll(&other).await;
    let tasks = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";
    let waiting = ask(&other, &target, &token(&other, "s1"));
    other.until_metric("shapegate_followers", 1.0).await;
    // The operator's service writes the list, and pushes to the members that it reaches.
    let list = r#"{"revocations":[{"sid":"s1"}]}"#;
    assert_eq!(push(&one, GATEKEEPER_SECRET, list).await.status, 200);
    assert_eq!(one.get(tasks, &token(&one, "s1")).await.status, 401);
    std::fs::write(&path, list).unwrap();
    let answer = timeout(AT_ONCE, waiting).await.expect("the wait continues").unwrap();
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "token_invalid"));
    // A list that is gone changes nothing, but shows.
    std::fs::remove_file(&path).unwrap();
    while other.metric("shapegate_revocation_list_reads{result=\"failed\"}").await < 2.0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(other.get(tasks, &token(&other, "s1")).await.status, 401);
    assert_eq!(other.get(tasks, &token(&other, "s2")).await.status, 200);
    let ready = other.admin("/readyz").await;
    assert_eq!(ready.status, 200);
    assert!(ready.json()["degraded"][0].as_str().unwrap().contains("revocation: the list is"), "{}", ready.text());
}
