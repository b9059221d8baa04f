//! Clients that wait while a decision runs out.

use std::time::Duration;

use serde_json::json;
use shapegate::demo::http::Reply;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{EVALUATE, SEARCH, denied, refusal, start_with, token, unavailable};
use crate::harness::pdp::{Pdp, allow, deny, found};
use crate::harness::{Answer, Gate, Stream};

/// Half the time that Electric holds a poll.
const AT_ONCE: Duration = Duration::from_secs(10);

const SHORT: &str = "cache = '1s'";

/// Returns the target of a poll of `subject` that waits.
async fn poll(gate: &Gate, subject: &str) -> String {
    let shape = "/v1/shape?table=tasks&organizationId=org_1";
    let first = gate.get(&format!("{shape}&offset=-1"), &token(gate, subject)).await;
    let (handle, offset) = (first.header("electric-handle"), first.header("electric-offset"));
    let next = gate.get(&format!("{shape}&handle={handle}&offset={offset}"), &token(gate, subject)).await;
    format!("{shape}&handle={handle}&offset={}&live=true", next.header("electric-offset"))
}

fn wait(gate: &Gate, target: &str, subject: &str) -> JoinHandle<Answer> {
    let request = gate.request(target, Some(&token(gate, subject))).send();
    tokio::spawn(async { Answer::of(request.await.unwrap()).await })
}

async fn at_once(waiting: JoinHandle<Answer>) -> Answer {
    timeout(AT_ONCE, waiting).await.expect("the request is still waiting").unwrap()
}

async fn waiting(settings: &str) -> (Gate, Pdp, [JoinHandle<Answer>; 2]) {
    let (gate, pdp) = start_with(EVALUATE, settings).await;
    let target = poll(&gate, "alice").await;
    let clients = [wait(&gate, &target, "alice"), wait(&gate, &target, "bob")];
    gate.until_metric("shapegate_followers", 2.0).await;
    (gate, pdp, clients)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_no_longer_allowed_is_ended_and_no_other() {
    let (gate, pdp, [alice, bob]) = waiting(SHORT).await;
    let electric = gate.electric.request_count();
    pdp.decides(|_, asked| if asked["subject"]["id"] == "bob" { deny() } else { allow() });
    assert_eq!(refusal(&at_once(bob).await), denied());
    gate.until_metric(r#"shapegate_followers_cut_total{cause="decision_changed"}"#, 1.0).await;
    let asked = pdp.asked().len();
    pdp.until_asked(asked + 2).await;
    assert_eq!(gate.electric.request_count(), electric, "nothing new is asked of Electric");
    gate.insert_task(3, "org_1", "news");
    assert_eq!(at_once(alice).await.rows("title"), ["news"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_ended_with_503_if_the_service_is_down_when_a_decision_runs_out() {
    let (gate, pdp, [alice, bob]) = waiting(SHORT).await;
    pdp.goes_down();
    for client in [alice, bob] {
        let answer = at_once(client).await;
        assert_eq!(refusal(&answer), unavailable());
        assert!(answer.headers.contains_key("retry-after") && !answer.headers.contains_key("www-authenticate"));
    }
    pdp.decides(|_, _| allow());
    while gate.get(super::TASKS, &token(&gate, "alice")).await.status == 503 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(gate.get(super::TASKS, &token(&gate, "alice")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_with_another_service_asks_that_one() {
    let (gate, _pdp, [alice, bob]) = waiting("cache = '60s'").await;
    let other = Pdp::start().await;
    other.decides(|_, asked| if asked["subject"]["id"] == "alice" { allow() } else { deny() });
    let rules = super::rules_of(EVALUATE, &other, "cache = '60s'");
    gate.policy.reload(|setup| setup.rules = rules, |_| {}).unwrap();
    assert_eq!(refusal(&at_once(bob).await), denied());
    gate.insert_task(3, "org_1", "news");
    assert_eq!(at_once(alice).await.rows("title"), ["news"]);
    assert_eq!(other.asked().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_ids_make_another_shape_of_a_waiting_request() {
    let (gate, pdp) = start_with(SEARCH, SHORT).await;
    pdp.decides(|_, _| found("organization", &["org_1"]));
    let target = poll(&gate, "alice").await;
    let client = wait(&gate, &target, "alice");
    gate.until_metric("shapegate_followers", 1.0).await;
    pdp.decides(|_, _| found("organization", &["org_1", "org_2"]));
    let answer = at_once(client).await;
    assert_eq!(answer.status, 409, "Electric sends the client to the other shape");
    assert_eq!(gate.get(super::TASKS, &token(&gate, "alice")).await.rows("title"), ["one", "two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_ends_between_two_events_when_its_decision_is_withdrawn() {
    let (gate, pdp) = start_with(EVALUATE, SHORT).await;
    let target = "/v1/shape?table=tasks&organizationId=org_1&offset=0_0&handle=1-1&live=true&live_sse=true";
    let (sender, body) = mpsc::channel(1);
    let reply = Reply { body: shapegate::demo::http::Body::Chunks(body), ..Reply::new(200) };
    gate.electric.script(reply.with_header("content-type", "text/event-stream"));
    let mut events = Stream::open(gate.request(target, Some(&token(&gate, "alice")))).await;
    sender.send("data: 1\n\n".into()).await.unwrap();
    events.until("data: 1\n\n").await;
    pdp.until_asked(3).await;
    sender.send("data: 2\n\n".into()).await.unwrap();
    events.until("data: 2\n\n").await;
    pdp.decides(|_, _| deny());
    assert_eq!(timeout(AT_ONCE, events.rest()).await.unwrap().unwrap(), "", "a clean end");
    gate.until_metric(r#"shapegate_followers_cut_total{cause="decision_changed"}"#, 1.0).await;
    assert_eq!(
        pdp.asked()[0]["subject"],
        json!({ "type": "user", "id": "alice", "properties": { "orgs": ["org_1"] } })
    );
}
