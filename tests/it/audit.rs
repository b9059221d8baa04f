//! The audit log: which subject has read which shape, and what a full disk loses.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use shapegate::clock::{Clock, SystemClock};
use shapegate::demo::electric::{Column, Electric, Options};

use crate::harness::{Gate, IssuerServer, Process, RULES, Setup, config};

const TASKS: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";

fn audited(path: &Path, more: &str) -> Setup {
    Setup { rules: format!("{RULES}\n[audit]\npath = {path:?}\n{more}\n"), ..Setup::default() }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn until(mut done: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_line_is_written_per_subject_and_shape() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut gate = Gate::with(audited(&path, "")).await;
    gate.insert_task(1, "org_1", "one");
    let start = SystemClock.now().as_secs();
    let user = |subject: &str| gate.issuer.token(&json!({ "sub": subject, "organizationIds": ["org_1", "org_2"] }));
    let (ann, bob) = (user("ann\r\n\u{1b}[31m"), user("bob"));
    let mut bytes = 0;
    // Several requests for one shape are one session, also if the response is cached or a 304.
    for target in [TASKS, TASKS, &format!("{TASKS}&cache-buster=canary")] {
        let answer = gate.get(target, &ann).await;
        assert_eq!(answer.status, 200);
        bytes += answer.body.len();
    }
    let etag = gate.get(TASKS, &bob).await;
    let again = gate.request(TASKS, Some(&bob)).header("if-none-match", etag.header("etag"));
    assert_eq!(again.send().await.unwrap().status(), 304);
    assert_eq!(gate.get(&TASKS.replace("org_1", "org_2"), &ann).await.status, 200);
    // A rejection is a session of its own.
    assert_eq!(gate.get(&TASKS.replace("org_1", "org_3"), &ann).await.status, 403);
    assert_eq!(gate.get(TASKS, "canary").await.status, 401);
    gate.until_metric("shapegate_audit_sessions", 5.0).await;
    let served = r#"shapegate_requests_total{outcome="served",rule="tasks",status="200"}"#;
    gate.until_metric(served, 5.0).await;
    gate.stop().await;

    let mut lines = lines(&path);
    let denied: Vec<_> = lines.extract_if(.., |line| line.get("reason").is_some()).collect();
    let what = |line: &Value| ["subject", "rule", "reason", "answers"].map(|field| line[field].clone());
    let cleaned = "ann\u{fffd}\u{fffd}\u{fffd}[31m";
    let expected = [
        [json!(cleaned), json!("tasks"), json!("allow_false"), json!(1)],
        [json!(null), json!(null), json!("structure"), json!(1)],
    ];
    assert_eq!(denied.iter().map(what).collect::<Vec<_>>(), expected);
    let who = |line: &Value| (line["subject"].as_str().unwrap().to_owned(), line["answers"].as_u64().unwrap());
    let cleaned = cleaned.to_owned();
    assert_eq!(lines.iter().map(who).collect::<Vec<_>>(), [(cleaned.clone(), 3), ("bob".to_owned(), 2), (cleaned, 1)]);
    assert_eq!((&lines[0]["shape"], &lines[0]["bytes"]), (&lines[1]["shape"], &json!(bytes)));
    assert_ne!(lines[0]["shape"], lines[2]["shape"]);
    for line in &lines {
        assert_eq!((&line["issuer"], &line["rule"]), (&json!(gate.issuer.url()), &json!("tasks")));
        assert_eq!(line["shape"].as_str().unwrap().len(), 64);
        let time = |name: &str| {
            let time = humantime::parse_rfc3339(line[name].as_str().unwrap()).unwrap();
            time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
        };
        assert!(start <= time("first") && time("first") <= time("last") && time("last") <= start + 60);
        let text = line.to_string();
        for absent in ["canary", "org_", "offset", ann.as_str(), ann.rsplit('.').next().unwrap()] {
            assert!(!text.contains(absent), "{absent}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_session_is_written_and_a_renamed_file_is_reopened() {
    let folder = tempfile::tempdir().unwrap();
    let (path, rotated) = (folder.path().join("audit.jsonl"), folder.path().join("audit.jsonl.1"));
    let gate = Gate::with(audited(&path, "idle = '1s'")).await;
    let token = gate.token(&["org_1"]);
    assert_eq!(gate.get(TASKS, &token).await.status, 200);
    until(async || lines(&path).len() == 1).await;
    std::fs::rename(&path, &rotated).unwrap();
    assert_eq!(gate.get(TASKS, &token).await.status, 200);
    until(async || path.exists() && lines(&path).len() == 1).await;
    assert_eq!(lines(&rotated).len(), 1);
    assert_eq!(gate.metric("shapegate_audit_lines_dropped_total").await, 0.0);
}

/// Opens many sessions, each of which evicts the previous one: `answers - 1` lines are written.
async fn serve_many(gate: &Gate, answers: u32) {
    for number in 0..answers {
        let token = gate.issuer.token(&json!({ "sub": format!("user-{number}"), "organizationIds": ["org_1"] }));
        assert_eq!(gate.get(TASKS, &token).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_loses_lines_but_fails_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let mut gate = Gate::with(audited(&path, "sessions = 1")).await;
    serve_many(&gate, 51).await;
    gate.until_metric("shapegate_audit_lines_dropped_total", 50.0).await;
    // Lines are written again once there is space.
    std::fs::remove_file(&path).unwrap();
    serve_many(&gate, 2).await;
    until(async || path.exists() && !lines(&path).is_empty()).await;
    gate.stop().await;
    assert_eq!(lines(&path).last().unwrap()["subject"], "user-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn pipe_without_a_reader_blocks_neither_requests_nor_shutdown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let mut gate = Gate::with(audited(&path, "sessions = 1")).await;
    serve_many(&gate, 50).await;
    let stopped = tokio::time::timeout(Duration::from_secs(20), gate.stop()).await;
    assert!(stopped.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_lines_on_stderr_ignore_the_log_level() {
    let electric = Electric::start(Options::default()).await.unwrap();
    let text = |name| Column::new(name, "text");
    electric.create_table("tasks", vec![text("id").not_null().primary_key(0), text("organization_id")]);
    let issuer = IssuerServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), &electric.url(), issuer.url());
    let rest = std::fs::read_to_string(&path).unwrap();
    let more = "[log]\nformat = 'json'\nlevel = 'shapegate::cli=info'\n[audit]\nstderr = true\n";
    std::fs::write(&path, format!("{rest}\n{more}")).unwrap();
    let process = Process::start(&path).await;
    let token = issuer.token(&json!({ "sub": "user-1", "organizationIds": ["org_1"] }));
    let request = reqwest::Client::new().get(format!("{}{TASKS}", process.url)).bearer_auth(token);
    assert_eq!(request.send().await.unwrap().status(), 200);
    let log = process.stop().await;
    let lines = log.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let audit: Vec<_> = lines.filter(|line| line["target"] == "shapegate::audit").collect();
    assert_eq!(audit.iter().map(|line| &line["subject"]).collect::<Vec<_>>(), [&json!("user-1")]);
    assert!(!log.iter().any(|line| line.contains("shapegate::access")));
}

#[tokio::test]
async fn missing_audit_folder_is_an_error_at_start() {
    let setup = audited(Path::new("/nonexistent/audit.jsonl"), "");
    let config = setup.config("http://127.0.0.1:1", "http://127.0.0.1:1");
    let error = shapegate::server::Server::bind(config).err().unwrap();
    assert!(format!("{error:#}").starts_with("audit.path: /nonexistent/audit.jsonl: "), "{error:#}");
}
