//! Every rejection has the same reason in the access log, the audit log, the metrics and `explain`.

mod case;
mod crowd;
mod run;
mod services;
mod table;

use std::collections::BTreeSet;

use serde_json::json;
use shapegate::rejection::Reason;

use self::case::Case;
use self::run::Run;
use self::services::Services;
use self::table::{Scene, requests};
use crate::harness::{Answer, Wire};

/// The reason that no request gets as long as shapegate has no fault, such as a task that ends early or a signature that
/// cannot be made. So no test can show it over HTTP. `src/flight/tests.rs` ends such a task.
const OF_A_FAULT: &str = "internal";

/// A reason of the rule that a shape token was minted under. It takes a reload.
const AFTER_A_RELOAD: &str = "rule_changed";

const TASKS: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";

/// Sends the cases, asks `explain`, and compares all reasons.
async fn agree(scene: &Scene, cases: Vec<Case>) {
    let (config, files) = scene.config();
    agree_on(Run::start(&config, &files).await, cases).await;
}

async fn agree_on(run: Run, cases: Vec<Case>) {
    let cases: Vec<_> = cases.into_iter().enumerate().map(|(number, case)| case.at(number)).collect();
    let mut ids = Vec::new();
    for case in &cases {
        ids.push(last_of(&run, case).await.header("x-request-id").to_owned());
        if case.explained {
            assert_eq!(case.explain(&run.path).await, case.reason);
        }
    }
    let found = run.agrees(&cases.iter().map(|case| case.reason).collect()).await;
    for (case, id) in cases.iter().zip(&ids) {
        assert_eq!(found.by_id.get(id).map(String::as_str), Some(case.reason));
    }
}

/// Sends a case as often as it says, and returns the last response.
async fn last_of(run: &Run, case: &Case) -> Answer {
    let mut last = None;
    for _ in 0..case.times {
        if let Some(reply) = &case.electric {
            run.electric.script(reply());
        }
        last = Some(run.send(case).await);
    }
    let last = last.unwrap();
    assert!(last.status.as_u16() >= 400, "{}: {}", case.reason, last.status);
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn log_audit_metrics_and_explain_agree_on_rules_and_claims() {
    let scene = Scene::new().await;
    agree(&scene, [scene.rules(), scene.claims()].into_iter().flatten().collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_audit_metrics_and_explain_agree_on_tokens() {
    let scene = Scene::new().await;
    agree(&scene, scene.headers()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_audit_metrics_and_explain_agree_on_requests() {
    let scene = Scene::new().await;
    agree(&scene, requests(&scene)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_audit_metrics_and_explain_agree_on_what_services_say() {
    let services = Services::start().await;
    let (config, files) = services.config();
    agree_on(Run::start(&config, &files).await, services.cases()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_audit_and_metrics_agree_on_a_shape_token_of_a_changed_rule() {
    let scene = Scene::new().await;
    let (config, files) = scene.config();
    let run = Run::start(&config, &files).await;
    let token = scene.token(&json!({ "sub": "minted" }));
    let mint = Case { method: "POST", ..Case::get("", "/gatekeeper/tasks?organizationId=org_1", token) };
    let minted = run.send(&mint).await.json();
    run.reload("table = \"tasks\"", "table = \"tasks\"\nreplica = \"full\"").await;
    let bearer = minted["headers"]["Authorization"].as_str().unwrap().strip_prefix("Bearer ").unwrap();
    let case = Case::get(AFTER_A_RELOAD, TASKS, bearer);
    run.rejected(&case).await;
    assert_eq!(case.explain(&run.path).await, case.reason);
    run.agrees(&BTreeSet::from([AFTER_A_RELOAD])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tests_above_know_every_reason() {
    let (scene, services) = (Scene::new().await, Services::start().await);
    let tables = [scene.rules(), scene.claims(), scene.headers(), requests(&scene), services.cases()];
    let known = tables.iter().flatten().map(|case| case.reason).chain(crowd::REASONS).chain(crowd::BEFORE_HTTP);
    let known = known.chain([AFTER_A_RELOAD, OF_A_FAULT]);
    assert_eq!(known.collect::<BTreeSet<_>>(), Reason::all().map(Reason::as_str).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn development_setting_shows_the_reason_to_clients() {
    let scene = Scene::new().await;
    let (config, files) = scene.config();
    let config = format!("danger_explain_denials = true\n{config}");
    let run = Run::start(&config, &files).await;
    let mut wire = Wire::open(&run.process.url).await;
    for (token, reason) in [("abc", "structure"), (&*scene.token(&json!({ "aud": "x" })), "audience")] {
        let bytes = String::from_utf8(Case::get(reason, TASKS, token).bytes()).unwrap();
        wire.send(bytes.replace("Connection: close\r\n", "").as_bytes()).await;
        let answer = wire.answer(false).await.unwrap();
        assert_eq!((answer.code().as_str(), &answer.json()["reason"]), ("token_invalid", &json!(reason)));
    }
    run.also_rejected(2);
    let found = run.agrees(&BTreeSet::from(["audience", "structure"])).await;
    assert!(found.log.iter().any(|line| line.contains("server.danger_explain_denials")), "{:?}", found.log);
}
