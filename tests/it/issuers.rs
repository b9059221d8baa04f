//! Issuers that go down, come back, and rotate their keys (docs/security.md, J8, J9, J11).

use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use shapegate::demo::issuer::Issuer;

use crate::harness::{Gate, Setup, with_defaults};

const TASKS: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_a_known_key_succeed_while_the_issuer_is_down() {
    let gate = Gate::start().await;
    assert_eq!(gate.get(TASKS, &gate.token(&["org_1"])).await.status, 200);
    gate.issuer.set_up(false);
    for user in 0..20 {
        let token = gate.issuer.token(&json!({ "sub": user.to_string(), "organizationIds": ["org_1"] }));
        assert_eq!(gate.get(TASKS, &token).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_keys_give_503_and_not_401() {
    let gate = Gate::with(Setup { issuer_up: false, ..Setup::default() }).await;
    let token = gate.token(&["org_1"]);
    let answer = gate.get(TASKS, &token).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "keys_unavailable"));
    assert!(answer.headers.contains_key("retry-after"));
    let ready = gate.admin("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.json()["missing"][0].as_str().unwrap().contains("no usable keys"), "{}", ready.text());
    gate.issuer.set_up(true);
    // The renewal is retried after a second or more.
    while gate.get(TASKS, &token).await.status == 503 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(gate.get(TASKS, &token).await.status, 200);
    assert_eq!(gate.admin("/readyz").await.status, 200);
}

fn saved(state: &std::path::Path) -> bool {
    std::fs::read_dir(state).unwrap().any(|entry| entry.unwrap().path().extension().is_some_and(|end| end == "json"))
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_on_disk_are_used_if_the_issuer_is_down_at_start() {
    let state = tempfile::tempdir().unwrap();
    let server = format!("state = \"{}\"", state.path().display());
    let mut first = Gate::with(Setup { server: server.clone(), ..Setup::default() }).await;
    let token = first.token(&["org_1"]);
    assert_eq!(first.get(TASKS, &token).await.status, 200);
    let issuer = first.issuer.url().to_owned();
    // The key set is written in the background.
    while !saved(state.path()) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    first.stop().await;
    first.issuer.set_up(false);
    // The second shapegate has the same issuer, which is down.
    let second = Gate::with(Setup { server, issuer_url: Some(issuer), ..Setup::default() }).await;
    assert_eq!(second.get(TASKS, &token).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_keys_are_used_only_from_a_folder_that_others_cannot_write_to() {
    let state = tempfile::tempdir().unwrap();
    let server = format!("state = \"{}\"", state.path().display());
    let mut first = Gate::with(Setup { server: server.clone(), ..Setup::default() }).await;
    assert_eq!(first.get(TASKS, &first.token(&["org_1"])).await.status, 200);
    while !saved(state.path()) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    first.stop().await;
    first.issuer.set_up(false);
    let file = std::fs::read_dir(state.path()).unwrap().next().unwrap().unwrap().path();
    let mut planted: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let attacker = Issuer::new(first.issuer.url()).unwrap();
    planted["jwks"] = attacker.jwks();
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, planted.to_string()).unwrap();
    let forged = attacker.sign(&with_defaults(first.issuer.url(), &json!({ "organizationIds": ["org_1"] })));
    for (mode, status) in [(0o1777, 503), (0o700, 200)] {
        std::fs::set_permissions(state.path(), PermissionsExt::from_mode(mode)).unwrap();
        let issuer_url = Some(first.issuer.url().to_owned());
        let gate = Gate::with(Setup { server: server.clone(), issuer_url, ..Setup::default() }).await;
        assert_eq!(gate.get(TASKS, &forged).await.status, status, "{mode:o}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_key_is_fetched_and_tokens_of_the_old_key_are_rejected() {
    let gate = Gate::start().await;
    let old = gate.token(&["org_1"]);
    assert_eq!(gate.get(TASKS, &old).await.status, 200);
    gate.issuer.keys.rotate().unwrap();
    let new = gate.token(&["org_1"]);
    // The cool-down between fetches is a second here.
    while gate.get(TASKS, &new).await.status != 200 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let answer = gate.get(TASKS, &old).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "token_invalid"));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_keys_cause_at_most_one_fetch_per_cooldown() {
    // docs/security.md, T6, J11
    let gate = Gate::with(Setup { cooldown: "10m", ..Setup::default() }).await;
    assert_eq!(gate.get(TASKS, &gate.token(&["org_1"])).await.status, 200);
    let before = gate.issuer.fetches();
    let stranger = Issuer::new(gate.issuer.url()).unwrap();
    stranger.rotate().unwrap();
    for _ in 0..100 {
        let token = stranger.sign(&with_defaults(gate.issuer.url(), &json!({ "organizationIds": ["org_1"] })));
        assert_eq!(gate.get(TASKS, &token).await.status, 401);
    }
    assert!(gate.issuer.fetches() - before <= 1, "{} fetches", gate.issuer.fetches() - before);
}
