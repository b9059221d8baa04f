//! The log: it delays no request, and contains trace ids.

use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use shapegate::demo::electric::{Electric, Options};
use shapegate::demo::http::Reply;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::harness::{AUDIENCE, Gate, IssuerServer, Process, SECRET, Wire, config, shapegate};

const TARGET: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Log lines that must be dropped. The pipe and the queue before it are full then.
const DROPPED: f64 = 1_000.0;

#[tokio::test(flavor = "multi_thread")]
async fn unread_log_delays_no_request() {
    let electric = Electric::start(Options::default()).await.unwrap();
    let issuer = IssuerServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), &electric.url(), issuer.url());
    let mut command = shapegate(&["--config", path.to_str().unwrap()]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let addresses = loop {
        let line = lines.next_line().await.unwrap().unwrap();
        if line.contains("serving") {
            break line;
        }
    };
    let address = |name: &str| {
        let value = addresses.split_once(&format!("{name}=")).unwrap().1;
        format!("http://{}", value.split(' ').next().unwrap().trim_matches('"'))
    };
    let (url, admin) = (address("listen"), address("admin"));
    // `lines` stays open but is not read any more.
    let enough = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (url, enough) = (url.clone(), Arc::clone(&enough));
            tokio::spawn(async move {
                let mut wire = Wire::open(&url).await;
                while !enough.load(Ordering::Relaxed) {
                    wire.send(b"GET /nothing HTTP/1.1\r\nHost: gate.test\r\n\r\n").await;
                    assert_eq!(wire.answer(false).await.unwrap().status, 404);
                }
            })
        })
        .collect();
    while dropped(&admin).await < DROPPED {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    enough.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    // Shutdown does not wait for a reader either.
    let pid = child.id().unwrap().to_string();
    tokio::process::Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), child.wait()).await.unwrap();
    assert!(ended.unwrap().success());
}

async fn dropped(admin: &str) -> f64 {
    let metrics = reqwest::get(format!("{admin}/metrics")).await.unwrap().text().await.unwrap();
    let dropped = metrics.lines().find_map(|line| line.strip_prefix("shapegate_log_lines_dropped_total "));
    dropped.unwrap().parse().unwrap()
}

/// Starts the program with a log in JSON. Its configuration is in the folder.
async fn with_json_log(electric: &Electric, issuer: &IssuerServer) -> (Process, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), &electric.url(), issuer.url());
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}\n[log]\nformat = \"json\"\n")).unwrap();
    (Process::start(&path).await, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn valid_trace_id_is_logged_and_an_invalid_one_is_not() {
    let electric = Electric::start(Options::default()).await.unwrap();
    let issuer = IssuerServer::start().await;
    let (process, _folder) = with_json_log(&electric, &issuer).await;
    let claims = json!({ "sub": "user-1", "aud": AUDIENCE, "organizationIds": ["org_1"] });
    let token = issuer.token(&claims);
    for (path, parent) in [(TARGET, PARENT), ("/nothing", "00-canary"), ("/nothing", PARENT)] {
        let request = reqwest::Client::new().get(format!("{}{path}", process.url)).bearer_auth(&token);
        request.header("traceparent", parent).header("tracestate", "canary=1").send().await.unwrap();
    }
    let log = process.stop().await;
    let access: Vec<Value> = log.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let traces = access.iter().filter(|entry| entry["target"] == "shapegate::access");
    assert_eq!(traces.map(|entry| entry["trace"].as_str()).collect::<Vec<_>>(), [Some(TRACE), None, Some(TRACE)]);
    assert!(!log.iter().any(|line| line.contains("canary")));
}

#[tokio::test(flavor = "multi_thread")]
async fn flight_forwards_the_trace_of_the_request_that_opened_it() {
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    for parent in [PARENT, "00-11111111111111111111111111111111-2222222222222222-01"] {
        let request = gate.request(TARGET, Some(&token)).header("traceparent", parent).header("tracestate", "a=1");
        assert_eq!(request.send().await.unwrap().status(), 200);
    }
    let other = gate.request(&format!("{TARGET}&handle=1"), Some(&token)).header("traceparent", "00-x");
    assert_eq!(other.send().await.unwrap().status(), 200);
    let requests = gate.electric.requests();
    let sent = requests.iter().map(|request| (request.header("traceparent"), request.header("tracestate")));
    assert_eq!(sent.collect::<Vec<_>>(), [(Some(PARENT), None), (None, None)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn electric_error_is_logged_without_the_secret_that_it_quotes() {
    let electric = crate::harness::start_electric(Options::default()).await;
    let issuer = IssuerServer::start().await;
    let (process, _folder) = with_json_log(&electric, &issuer).await;
    let token = issuer.token(&json!({ "sub": "user-1", "aud": AUDIENCE, "organizationIds": ["org_1"] }));
    let encoded: String = SECRET.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for (number, quoted) in [SECRET.to_owned(), SECRET.replace('-', "%2D"), encoded].into_iter().enumerate() {
        electric.script(Reply::json(400, format!(r#"{{"message":"quoted /v1/shape?secret={quoted}&x"}}"#)));
        // Another request each time, since the rejection is remembered.
        let target = TARGET.replace("offset=-1", &format!("offset=0_{number}&handle=1-1"));
        let request = reqwest::Client::new().get(format!("{}{target}", process.url)).bearer_auth(&token);
        assert_eq!(request.send().await.unwrap().status(), 502);
    }
    let log = process.stop().await;
    let quoted: Vec<_> = log.iter().filter(|line| line.contains("quoted /v1/shape")).collect();
    assert_eq!(quoted.len(), 3, "{log:?}");
    assert!(quoted.iter().all(|line| line.contains("secret=…&x")), "{quoted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn access_log_shows_the_request_and_leaves_absent_fields_out() {
    let electric = Electric::start(Options::default()).await.unwrap();
    let issuer = IssuerServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), &electric.url(), issuer.url());
    let text = std::fs::read_to_string(&path).unwrap();
    let more = "[log]\nformat = \"json\"\n[limits]\ntrusted_proxies = [\"127.0.0.1\"]\n";
    std::fs::write(&path, format!("{text}\n{more}")).unwrap();
    let process = Process::start(&path).await;
    let long = "t".repeat(500);
    let requests = [
        (reqwest::Method::GET, format!("/v1/shape?offset=-1&table=a%0ab{long}")),
        (reqwest::Method::DELETE, "/v1/shape?table=tasks&live=true".to_owned()),
        (reqwest::Method::GET, "/nothing".to_owned()),
    ];
    for (method, target) in requests {
        let request = reqwest::Client::new().request(method, format!("{}{target}", process.url));
        request.header("x-forwarded-for", "203.0.113.7").send().await.unwrap();
    }
    let log = process.stop().await;
    let access: Vec<Value> = log.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let access: Vec<_> = access.iter().filter(|entry| entry["target"] == "shapegate::access").collect();
    let shown = |entry: &&Value| ["method", "table", "reason", "live", "client"].map(|field| entry[field].clone());
    let table = format!("a\u{fffd}b{}…", &long[..127]);
    let client = json!("203.0.113.7");
    let expected = [
        [json!("GET"), json!(table), json!("token_missing"), json!(false), client.clone()],
        [json!("DELETE"), json!("tasks"), json!("method"), json!(true), client.clone()],
        [json!("GET"), json!(null), json!("path_unknown"), json!(false), client],
    ];
    assert_eq!(access.iter().map(shown).collect::<Vec<_>>(), expected);
    for absent in ["table", "rule", "upstream", "cache", "token", "trace"] {
        assert!(access[2].get(absent).is_none(), "{absent}: {}", access[2]);
    }
}

/// Returns the log of a start that fails, written to a file that is `JOURNAL_STREAM` if `journal` says so.
async fn log_of_failed_start(format: &str, journal: bool) -> String {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), "http://127.0.0.1:3000", "http://127.0.0.1:1");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replacen("127.0.0.1:0", &taken.local_addr().unwrap().to_string(), 1);
    std::fs::write(&path, format!("{text}\n[log]\nformat = {format:?}\n[limits]\nconnections = 10000000\n")).unwrap();
    let log = folder.path().join("log");
    let file = std::fs::File::create(&log).unwrap();
    let of = file.metadata().unwrap();
    let inode = if journal { of.ino() } else { of.ino() + 1 };
    let mut command = shapegate(&["--config", path.to_str().unwrap()]);
    command.env("JOURNAL_STREAM", format!("{}:{inode}", of.dev())).stderr(Stdio::from(file));
    assert!(!command.status().await.unwrap().success());
    let log = std::fs::read_to_string(log).unwrap();
    log.lines().find(|line| line.contains("open file limit")).unwrap_or_else(|| panic!("{log}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn journald_gets_priorities_and_no_second_timestamp() {
    let line = log_of_failed_start("json", true).await;
    let entry: Value = serde_json::from_str(line.strip_prefix("<4>").unwrap()).unwrap();
    assert_eq!((&entry["level"], entry.get("timestamp")), (&json!("WARN"), None));
    let line = log_of_failed_start("text", true).await;
    assert!(line.trim_start_matches("<4>").trim_start().starts_with("WARN") && line.starts_with("<4>"), "{line}");
    // Another stream, as after `2>file` in a unit: the lines are complete in themselves.
    let line = log_of_failed_start("json", false).await;
    assert!(serde_json::from_str::<Value>(&line).unwrap()["timestamp"].is_string(), "{line}");
    let line = log_of_failed_start("text", false).await;
    assert!(line.starts_with("20") && line.contains("WARN"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_of_electric_is_logged_once_for_all_clients() {
    let electric = Electric::start(Options::default()).await.unwrap();
    let issuer = IssuerServer::start().await;
    let (process, _folder) = with_json_log(&electric, &issuer).await;
    electric.hold();
    electric.script(Reply::json(500, "{}"));
    let clients: Vec<_> = (0..20)
        .map(|number| {
            let claims = json!({ "sub": format!("user-{number}"), "aud": AUDIENCE, "organizationIds": ["org_1"] });
            let request = reqwest::Client::new().get(format!("{}{TARGET}", process.url));
            tokio::spawn(request.bearer_auth(issuer.token(&claims)).send())
        })
        .collect();
    let in_flight = async || {
        let metrics = reqwest::get(format!("{}/metrics", process.admin)).await.unwrap().text().await.unwrap();
        metrics.lines().any(|line| line == "shapegate_followers 20")
    };
    while !in_flight().await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    electric.release();
    for client in clients {
        assert_eq!(client.await.unwrap().unwrap().status(), 502);
    }
    let log: Vec<Value> = process.stop().await.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let warnings: Vec<_> = log.iter().filter(|entry| entry["level"] == "WARN" && entry["fault"].is_string()).collect();
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert_eq!((&warnings[0]["fault"], &warnings[0]["rule"]), (&json!("upstream_refused"), &json!("tasks")));
    // Each client still has its line in the access log.
    assert_eq!(log.iter().filter(|entry| entry["outcome"] == "upstream_refused").count(), 20);
}
