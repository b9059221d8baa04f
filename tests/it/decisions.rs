//! Rules that ask a decision service (OpenID AuthZEN): what it allows, what it denies, and what happens without answers.

mod cerbos;
mod waiting;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shapegate::demo::http::Reply;
use tokio::task::JoinSet;

use crate::harness::pdp::{Pdp, allow, deny, found};
use crate::harness::{Answer, Gate, Process, Setup, Wire, config, shapegate};

const TASKS: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";

/// A rule that asks whether the user may read the organization.
const EVALUATE: &str = r#"
[[shape]]
table = "tasks"
where = '"organization_id" = {{ query.organizationId }}'
[shape.evaluate]
by = "pdp"
subject = { type = "user", id = "{{ claims.sub }}", properties = { orgs = "{{ claims.organizationIds }}" } }
action = "read"
resource = { type = "organization", id = "{{ query.organizationId }}" }
"#;

/// A rule that asks which organizations the user may read.
const SEARCH: &str = r#"
[[shape]]
table = "tasks"
where = '"organization_id" IN ({{ decision.ids }})'
[shape.search]
by = "pdp"
subject = { type = "user", id = "{{ claims.sub }}" }
action = "read"
resource = { type = "organization" }
"#;

/// Starts a gate with these rules and a service that is asked again after a minute at the latest.
async fn start(rules: &str) -> (Gate, Pdp) {
    start_with(rules, "cache = '60s'").await
}

async fn start_with(rules: &str, settings: &str) -> (Gate, Pdp) {
    let pdp = Pdp::start().await;
    let gate = Gate::with(Setup { rules: rules_of(rules, &pdp, settings), ..Setup::default() }).await;
    gate.insert_task(1, "org_1", "one");
    gate.insert_task(2, "org_2", "two");
    (gate, pdp)
}

/// Returns the rules with the service that they ask. It has time on a slow machine.
fn rules_of(rules: &str, pdp: &Pdp, settings: &str) -> String {
    format!("{rules}\n[decisions.pdp]\nurl = '{}'\ntimeout = '5s'\n{settings}\n", pdp.url())
}

fn token(gate: &Gate, subject: &str) -> String {
    gate.issuer.token(&json!({ "sub": subject, "organizationIds": ["org_1"] }))
}

fn refusal(answer: &Answer) -> (u16, String) {
    (answer.status.as_u16(), answer.code())
}

fn denied() -> (u16, String) {
    (403, "forbidden".to_owned())
}

fn unavailable() -> (u16, String) {
    (503, "decision_unavailable".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_allows_and_denies() {
    let (gate, pdp) = start(EVALUATE).await;
    pdp.decides(|_, asked| if asked["subject"]["id"] == "alice" { allow() } else { deny() });
    assert_eq!(gate.get(TASKS, &token(&gate, "alice")).await.rows("title"), ["one"]);
    assert_eq!(refusal(&gate.get(TASKS, &token(&gate, "bob")).await), denied());
    assert_eq!(
        pdp.asked()[0],
        json!({
            "action": { "name": "read" },
            "resource": { "type": "organization", "id": "org_1" },
            "subject": { "type": "user", "id": "alice", "properties": { "orgs": ["org_1"] } },
        })
    );
    assert_eq!(gate.metric(r#"shapegate_decisions_total{outcome="allow",service="pdp"}"#).await, 1.0);
    assert_eq!(gate.metric(r#"shapegate_decisions_total{outcome="deny",service="pdp"}"#).await, 1.0);
    assert_eq!(gate.metric(r#"shapegate_decision_seconds_count{service="pdp"}"#).await, 2.0);
}

/// Sends `count` requests with this token on a few connections, which must all get 200.
async fn send_many(gate: &Gate, count: usize, target: &str, token: &str) {
    const CONNECTIONS: usize = 8;
    let request = format!("GET {target} HTTP/1.1\r\nHost: gate.test\r\nAuthorization: Bearer {token}\r\n\r\n");
    let mut sending = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (url, request) = (gate.url.clone(), request.clone());
        sending.spawn(async move {
            let mut wire = Wire::open(&url).await;
            for _ in 0..count / CONNECTIONS {
                wire.send(request.as_bytes()).await;
                assert_eq!(wire.answer(false).await.unwrap().status, 200);
            }
        });
    }
    sending.join_all().await;
}

/// Returns the most evaluations since `start`. An answer is cached for at least three quarters of its time.
fn most_evaluations(start: Instant, cache: Duration) -> usize {
    1 + (start.elapsed().as_secs_f64() / (0.75 * cache.as_secs_f64())) as usize
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_of_one_subject_cause_one_evaluation() {
    let start_time = Instant::now();
    let (gate, pdp) = start(EVALUATE).await;
    pdp.hold(true);
    let requests: Vec<_> = (0..100)
        .map(|number| {
            // Other tokens of the same subject and claims ask the same question.
            let token = gate.issuer.token(&json!({ "sub": "alice", "organizationIds": ["org_1"], "jti": number }));
            let request = gate.request(TASKS, Some(&token)).send();
            tokio::spawn(async { request.await.unwrap().status().as_u16() })
        })
        .collect();
    gate.until_metric("shapegate_token_checks_total{outcome=\"new\"}", 100.0).await;
    pdp.hold(false);
    for request in requests {
        assert_eq!(request.await.unwrap(), 200);
    }
    send_many(&gate, 1_000, TASKS, &token(&gate, "alice")).await;
    // One, unless the machine is so slow that the answer has run out.
    let asked = pdp.asked().len();
    assert!((1..=most_evaluations(start_time, Duration::from_secs(60))).contains(&asked), "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn subjects_do_not_share_decisions() {
    let (gate, pdp) = start(EVALUATE).await;
    let alike = json!({ "sub": "alice", "organizationIds": ["org_1"] });
    assert_eq!(gate.get(TASKS, &gate.issuer.token(&alike)).await.status, 200);
    pdp.decides(|_, _| deny());
    for claims in [
        json!({ "sub": "alic", "organizationIds": ["org_1"] }),
        json!({ "sub": "alice\",\"x\":\"", "organizationIds": ["org_1"] }),
        json!({ "sub": "alice", "organizationIds": ["org_1", "org_2"] }),
        json!({ "sub": "alice", "organizationIds": "org_1" }),
    ] {
        assert_eq!(refusal(&gate.get(TASKS, &gate.issuer.token(&claims)).await), denied(), "{claims}");
    }
    let other = TASKS.replace("org_1", "org_2");
    assert_eq!(refusal(&gate.get(&other, &gate.issuer.token(&alike)).await), denied());
    assert_eq!(gate.get(TASKS, &gate.issuer.token(&alike)).await.status, 200);
    assert_eq!(pdp.asked().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn allow_is_checked_before_the_service_is_asked() {
    let rules =
        EVALUATE.replace("table = \"tasks\"", "table = \"tasks\"\nallow = \"'admin' in claims.organizationIds\"");
    let (gate, pdp) = start(&rules).await;
    assert_eq!(refusal(&gate.get(TASKS, &token(&gate, "alice")).await), denied());
    assert_eq!(refusal(&gate.get(TASKS, &gate.issuer.token(&json!({ "sub": "alice" }))).await), denied());
    assert!(pdp.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn found_ids_select_the_rows() {
    let (gate, pdp) = start(SEARCH).await;
    pdp.decides(|path, asked| match (path, asked["subject"]["id"].as_str()) {
        ("/access/v1/search/resource", Some("alice")) => found("organization", &["org_2", "org_9"]),
        _ => found("organization", &[]),
    });
    assert_eq!(gate.get(TASKS, &token(&gate, "alice")).await.rows("title"), ["two"]);
    let nothing = gate.get(TASKS, &token(&gate, "bob")).await;
    assert_eq!((nothing.status.as_u16(), nothing.rows("title").len()), (200, 0), "no id selects no row");
    assert_eq!(pdp.asked()[0]["resource"], json!({ "type": "organization" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_none_give_503_and_too_many_ids_403() {
    let (gate, pdp) = start_with(SEARCH, "most = 2\nresponse_bytes = '1KiB'").await;
    let search = |body: Value| move |_: &str, _: &Value| Reply::json(200, body.to_string());
    let get = async |subject: &str| refusal(&gate.get(TASKS, &token(&gate, subject)).await);
    pdp.decides(|_, _| found("organization", &["a", "b", "c"]));
    assert_eq!(get("many").await, denied());
    pdp.decides(|_, _| found("user", &["org_1"]));
    assert_eq!(get("other type").await, unavailable());
    pdp.decides(search(json!({ "decision": true })));
    assert_eq!(get("other answer").await, unavailable());
    pdp.decides(search(json!({ "results": [], "more": "a".repeat(2000) })));
    assert_eq!(get("too long").await, unavailable());
    pdp.decides(|_, _| Reply::json(401, r#"{"results":[]}"#));
    let answer = gate.get(TASKS, &token(&gate, "another status")).await;
    assert_eq!(refusal(&answer), unavailable(), "the service refuses us, not the client");
    assert!(answer.headers.contains_key("retry-after") && !answer.headers.contains_key("www-authenticate"));
    pdp.decides(|_, _| found("organization", &["org_1"]));
    assert_eq!(gate.get(TASKS, &token(&gate, "alice")).await.rows("title"), ["one"]);
    assert_eq!(gate.metric(r#"shapegate_decisions_total{outcome="malformed",service="pdp"}"#).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_down_or_silent_lets_nobody_in() {
    let (gate, pdp) = start_with(EVALUATE, "cache = '60s'").await;
    assert_eq!(gate.get(TASKS, &token(&gate, "known")).await.status, 200);
    pdp.goes_down();
    let answer = gate.get(TASKS, &token(&gate, "new")).await;
    assert_eq!(refusal(&answer), unavailable());
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(gate.get(TASKS, &token(&gate, "known")).await.status, 200, "a decision is valid until it runs out");
    gate.policy
        .reload(|setup| setup.rules = setup.rules.replace("timeout = '5s'", "timeout = '100ms'"), |_| {})
        .unwrap();
    pdp.hold(true);
    assert_eq!(
        refusal(&gate.get(TASKS, &token(&gate, "known")).await),
        unavailable(),
        "the service has other settings"
    );
    assert_eq!(gate.metric(r#"shapegate_decisions_total{outcome="timeout",service="pdp"}"#).await, 1.0);
    pdp.hold(false);
    pdp.decides(|_, _| allow());
    // The failure is remembered for a moment.
    while gate.get(TASKS, &token(&gate, "known")).await.status == 503 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(gate.get(TASKS, &token(&gate, "known")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn evaluation_and_search_are_asked_at_the_same_time() {
    let evaluate = EVALUATE.split("[shape.evaluate]").nth(1).unwrap();
    let filter = r#"where = '"organization_id" IN ({{ decision.ids }}) AND "title" = {{ decision.context.title }}'"#;
    let rules = format!("{SEARCH}[shape.evaluate]{evaluate}")
        .replace(r#"where = '"organization_id" IN ({{ decision.ids }})'"#, filter);
    let (gate, pdp) = start(&rules).await;
    pdp.decides(|path, asked| match (path, asked["subject"]["id"].as_str()) {
        ("/access/v1/evaluation", Some("alice")) => Reply::json(200, r#"{"decision":true,"context":{"title":"two"}}"#),
        ("/access/v1/evaluation", Some("no context")) => allow(),
        ("/access/v1/evaluation", _) => deny(),
        _ => found("organization", &["org_1", "org_2"]),
    });
    pdp.hold(true);
    let request = gate.request(TASKS, Some(&token(&gate, "alice"))).send();
    let request = tokio::spawn(async { Answer::of(request.await.unwrap()).await });
    pdp.until_asked(2).await;
    pdp.hold(false);
    assert_eq!(request.await.unwrap().rows("title"), ["two"]);
    assert_eq!(refusal(&gate.get(TASKS, &token(&gate, "bob")).await), denied());
    assert_eq!(refusal(&gate.get(TASKS, &token(&gate, "no context")).await), denied(), "a value is missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_rule_decides_if_a_service_denies_but_not_if_it_is_down() {
    let second = "\n[[shape]]\ntable = \"tasks\"\nallow = \"claims.sub == 'bob'\"\nwhere = '''\"title\" = 'two' '''\n";
    let (gate, pdp) = start(&format!("{EVALUATE}{second}")).await;
    pdp.decides(|_, _| deny());
    assert_eq!(gate.get(TASKS, &token(&gate, "bob")).await.rows("title"), ["two"]);
    assert_eq!(refusal(&gate.get(TASKS, &token(&gate, "alice")).await), denied());
    pdp.goes_down();
    let other = TASKS.replace("org_1", "org_2");
    assert_eq!(
        refusal(&gate.get(&other, &token(&gate, "bob")).await),
        unavailable(),
        "rows must not depend on outages"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_one_rule_do_not_count_for_the_next() {
    let second = EVALUATE.replace("action = \"read\"", "action = \"list\"");
    let (gate, pdp) = start(&format!("{EVALUATE}{second}")).await;
    pdp.decides(|_, asked| if asked["action"]["name"] == "list" { allow() } else { deny() });
    assert_eq!(gate.get(TASKS, &token(&gate, "alice")).await.status, 200);
    pdp.decides(|_, asked| if asked["action"]["name"] == "read" { allow() } else { deny() });
    assert_eq!(gate.get(TASKS, &token(&gate, "bob")).await.status, 200);
    pdp.decides(|_, _| deny());
    assert_eq!(refusal(&gate.get(TASKS, &token(&gate, "carol")).await), denied());
    assert_eq!(pdp.asked().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_and_the_log_say_which_service_denied_and_how_long_it_took() {
    let (gate, pdp) = start(EVALUATE).await;
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), &gate.electric.url(), gate.issuer.url());
    let text = std::fs::read_to_string(&path).unwrap();
    let text = format!("{}{}", text.split("[[shape]]").next().unwrap(), rules_of(EVALUATE, &pdp, ""));
    std::fs::write(&path, format!("{text}[log]\nformat = \"json\"\n")).unwrap();
    pdp.decides(|_, asked| if asked["subject"]["id"] == "alice" { allow() } else { deny() });
    let explain = async |of: &[&str]| {
        let arguments = [&["explain", "--config", path.to_str().unwrap(), TASKS], of].concat();
        String::from_utf8(shapegate(&arguments).output().await.unwrap().stdout).unwrap()
    };
    let alice = explain(&["--token", &token(&gate, "alice")]).await;
    let bob = explain(&["--token", &token(&gate, "bob")]).await;
    assert!(alice.contains("service:  pdp says allow, after ") && alice.contains("decision: allow"), "{alice}");
    assert!(bob.contains("service:  pdp says deny, after ") && bob.contains("reason:   decision_denied\n"), "{bob}");
    let claims = "{\"organizationIds\":[]}";
    let unbound = explain(&["--claims", claims]).await;
    assert!(unbound.contains("claims.sub is missing") && unbound.contains("reason:   question_unbound\n"), "{unbound}");
    pdp.goes_down();
    let down = explain(&["--token", &token(&gate, "alice")]).await;
    assert!(down.contains("service:  pdp says unreachable, after "), "{down}");
    assert!(down.contains("reason:   decision_unavailable\n"), "{down}");
    pdp.decides(|_, asked| if asked["subject"]["id"] == "alice" { allow() } else { deny() });

    let process = Process::start(&path).await;
    for subject in ["alice", "bob", "bob"] {
        let request = gate.client().get(format!("{}{TASKS}", process.url)).bearer_auth(token(&gate, subject));
        request.send().await.unwrap();
    }
    let log = process.stop().await;
    let lines = log.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lines: Vec<_> = lines.filter(|line| line["target"] == "shapegate::access").collect();
    let said = |line: &Value| (line["service"].clone(), line["decision"].clone(), line["decision_ms"].is_u64());
    let seen: Vec<_> = lines.iter().map(said).collect();
    let pdp = |decision: &str, asked: bool| (json!("pdp"), json!(decision), asked);
    assert_eq!(seen, [pdp("allow", true), pdp("deny", true), pdp("deny", false)], "{log:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shape_token_is_minted_only_if_the_service_allows() {
    let gatekeeper = "[gatekeeper]\nissuer = 'https://shapes.test'\naudience = 'https://app.test'\n\
                      hs256 = { env = 'GATEKEEPER_SECRET' }\npublic_url = 'https://sync.test/v1/shape'\n";
    let (gate, pdp) = start(&format!("{EVALUATE}{gatekeeper}")).await;
    pdp.decides(|_, asked| if asked["subject"]["id"] == "alice" { allow() } else { deny() });
    let mint = async |subject: &str| {
        let url = format!("{}/gatekeeper/tasks?organizationId=org_1", gate.url);
        gate.client().post(url).bearer_auth(token(&gate, subject)).send().await.unwrap().status().as_u16()
    };
    assert_eq!((mint("alice").await, mint("bob").await), (200, 403));
}
