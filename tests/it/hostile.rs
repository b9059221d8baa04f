//! Hostile clients: nothing that they send reaches Electric, a metric label or the log.

pub(crate) mod attack;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use shapegate::demo::electric::Electric;

use self::attack::{Attack, Dice, Tokens, attack};
use crate::harness::{Answer, Gate, IssuerServer, Process, SECRET, Wire, config};

const TASKS: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";

/// Sends a request on the open connection, or on a new one if the server has closed it.
async fn ask(gate: &Gate, wire: &mut Option<Wire>, attack: &Attack) -> Answer {
    if let Some(open) = wire {
        open.send(&attack.bytes).await;
        if let Some(answer) = open.answer(attack.head_only).await {
            return answer;
        }
    }
    let open = wire.insert(Wire::open(&gate.url).await);
    open.send(&attack.bytes).await;
    let answer = open.answer(attack.head_only).await;
    answer.unwrap_or_else(|| panic!("no response: {:?}", String::from_utf8_lossy(&attack.bytes)))
}

/// Reads the series of `/metrics`: names and labels without values.
async fn series(gate: &Gate) -> BTreeSet<String> {
    let text = gate.admin("/metrics").await.text();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

/// Returns the labels of a series, in order.
fn labels(series: &str) -> Vec<(&str, &str)> {
    let Some((_, labels)) = series.trim_end_matches('}').split_once('{') else {
        return Vec::new();
    };
    let pairs = labels.split("\",").filter_map(|label| label.split_once("=\""));
    pairs.map(|(name, value)| (name, value.trim_end_matches('"'))).collect()
}

fn assert_known(gate: &Gate, series: &str) {
    let word = |value: &str| value.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase());
    for (name, value) in labels(series) {
        let known = match name {
            "rule" => ["-", "tasks", "/api/items"].contains(&value),
            "status" => value == "none" || value.parse().is_ok_and(|status: u16| (200..600).contains(&status)),
            // Values of an enum: short, lower case, never taken from a request.
            "outcome" | "result" | "how" | "cause" | "of" | "limit" | "reason" | "from" | "service" => {
                word(value) && value.len() < 40
            }
            "issuer" => value == gate.issuer.url(),
            "server" => value == gate.electric.url(),
            "upstream" => value == "default",
            "live" => ["true", "false"].contains(&value),
            "version" => value == env!("CARGO_PKG_VERSION"),
            "le" => true,
            _ => false,
        };
        assert!(known, "{series}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_hostile_requests_get_4xx_and_create_no_metric_series() {
    // docs/security.md, P8, P11, T8, T15, T16, Q2 to Q8, C13
    let gate = Gate::start().await;
    let tokens = Tokens { good: gate.token(&["org_1"]), other: gate.token(&["org_2"]) };
    assert_eq!(gate.get(TASKS, &tokens.good).await.status, 200);
    // Two rejections that the dice produce rarely, so that their series exist early.
    let replica = format!("{TASKS}&replica=full");
    assert_eq!(gate.get(&replica, &tokens.good).await.status, 400);
    assert_eq!(gate.get(TASKS, &tokens.other).await.status, 403);
    let (mut dice, mut wire, mut early) = (Dice(0x5eed), None, BTreeSet::new());
    for number in 0..10_000 {
        if number == 100 {
            early = series(&gate).await;
        }
        let attack = attack(number, &mut dice, &tokens);
        let answer = ask(&gate, &mut wire, &attack).await;
        let status = answer.status.as_u16();
        let refused = [400, 401, 403, 404, 405, 413, 414, 431].contains(&status);
        assert!(refused, "{number}: {status}: {:?}", String::from_utf8_lossy(&attack.bytes));
        if answer.header("connection") == "close" {
            wire = None;
        }
    }
    assert_eq!(gate.electric.request_count(), 1, "only the permitted one at the start");
    let late = series(&gate).await;
    late.iter().for_each(|series| assert_known(&gate, series));
    // The outcomes of token checks and the reasons of rejections are enums, but which of them occur early is chance.
    let counted = |all: &BTreeSet<String>| {
        let chance = ["shapegate_token_checks_total", "shapegate_rejections_total"];
        let certain = |series: &&String| !chance.iter().any(|name| series.starts_with(name));
        all.iter().filter(certain).cloned().collect::<BTreeSet<_>>()
    };
    assert_eq!(counted(&early), counted(&late));
    assert_eq!(gate.get(&format!("{TASKS}&handle=1"), &tokens.good).await.status, 200);
    assert_eq!(gate.electric.request_count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_values_never_become_metric_labels() {
    let gate = Gate::start().await;
    let mut dice = Dice(0xcafe);
    let mut early = BTreeSet::new();
    for number in 0..2_000 {
        if number == 100 {
            early = series(&gate).await;
        }
        // Everything that a client may choose in a request that is served.
        let canary = |dice: &mut Dice| format!("canary{:016x}", dice.roll());
        let organization = canary(&mut dice);
        let claims = json!({ "sub": canary(&mut dice), "organizationIds": [organization], "jti": canary(&mut dice) });
        let target = format!(
            "/v1/shape?table=tasks&organizationId={organization}&offset=-1&{}={}&cache-buster={}&log={}",
            canary(&mut dice),
            canary(&mut dice),
            canary(&mut dice),
            dice.pick(&["full", "changes_only"]),
        );
        let mut request = gate.request(&target, Some(&gate.issuer.token(&claims)));
        for name in ["origin", "user-agent", "x-request-id", "if-none-match", "accept-language", "cookie"] {
            request = request.header(name, canary(&mut dice));
        }
        let trace = format!("00-{:016x}{:016x}-{:016x}-01", dice.roll(), dice.roll(), dice.roll());
        let answer = request.header("traceparent", trace).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        // Read to the end: a client that leaves early is counted under another outcome.
        answer.bytes().await.unwrap();
    }
    let late = series(&gate).await;
    assert_eq!(early, late);
    late.iter().for_each(|series| assert_known(&gate, series));
    assert!(!gate.admin("/metrics").await.text().contains("canary"));
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_requests_are_rejected_and_hide_no_second_request() {
    // docs/security.md, P2, P4, P8: a valid request follows each of them, and must not be read as one
    let gate = Gate::start().await;
    let bearer = format!("Authorization: Bearer {}\r\n", gate.token(&["org_1"]));
    let hidden = format!("GET {TASKS} HTTP/1.1\r\nHost: gate.test\r\n{bearer}\r\n");
    let length = hidden.len();
    let line = format!("GET {TASKS} HTTP/1.1\r\nHost: gate.test\r\n{bearer}");
    let old = format!("GET {TASKS} HTTP/1.0\r\nHost: gate.test\r\n{bearer}");
    let chunks = "0\r\n\r\n";
    for (name, request) in [
        ("1.0 and chunked", format!("{old}Transfer-Encoding: chunked\r\n\r\n{chunks}{hidden}")),
        (
            "1.0, kept, chunked",
            format!("{old}Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{hidden}"),
        ),
        ("CL.TE", format!("{line}Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{hidden}")),
        ("TE.CL", format!("{line}Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n{chunks}{hidden}")),
        ("TE", format!("{line}Transfer-Encoding: chunked\r\n\r\n{chunks}{hidden}")),
        ("TE, not last", format!("{line}Transfer-Encoding: chunked, identity\r\n\r\n{chunks}{hidden}")),
        (
            "TE twice",
            format!("{line}Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{hidden}"),
        ),
        ("TE unknown", format!("{line}Transfer-Encoding: xchunked\r\n\r\n{hidden}")),
        ("TE empty", format!("{line}Transfer-Encoding:\r\n\r\n{hidden}")),
        ("TE, tab", format!("{line}Transfer-Encoding:\tchunked\r\n\r\n{chunks}{hidden}")),
        ("TE, VT", format!("{line}Transfer-Encoding: \u{b}chunked\r\n\r\n{chunks}{hidden}")),
        ("TE, space before colon", format!("{line}Transfer-Encoding : chunked\r\n\r\n{chunks}{hidden}")),
        ("CL", format!("{line}Content-Length: {length}\r\n\r\n{hidden}")),
        ("CL twice", format!("{line}Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{hidden}")),
        ("CL list", format!("{line}Content-Length: 0, {length}\r\n\r\n{hidden}")),
        ("CL list of one", format!("{line}Content-Length: 0, 0\r\n\r\n{hidden}")),
        ("CL, plus", format!("{line}Content-Length: +0\r\n\r\n{hidden}")),
        ("CL, minus", format!("{line}Content-Length: -1\r\n\r\n{hidden}")),
        ("CL, hex", format!("{line}Content-Length: 0x0\r\n\r\n{hidden}")),
        ("CL, overflow", format!("{line}Content-Length: 18446744073709551616\r\n\r\n{hidden}")),
        ("CL, empty", format!("{line}Content-Length:\r\n\r\n{hidden}")),
        ("CL, space before colon", format!("{line}Content-Length : 0\r\n\r\n{hidden}")),
        ("CL and Expect", format!("{line}Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n{hidden}")),
        ("obs-fold", format!("{line}X-A: b\r\n Content-Length: 0\r\n\r\n{hidden}")),
        ("obs-fold, tab", format!("{line}X-A: b\r\n\tc\r\n\r\n{hidden}")),
        ("fold first", format!("GET {TASKS} HTTP/1.1\r\n Host: gate.test\r\n{bearer}\r\n{hidden}")),
        ("NUL in a value", format!("{line}X-A: a\0b\r\n\r\n{hidden}")),
        ("NUL in a name", format!("{line}X-\0A: b\r\n\r\n{hidden}")),
        ("bare CR", format!("{line}X-A: a\rContent-Length: 0\r\n\r\n{hidden}")),
        ("bare LF and a length", format!("{line}X-A: a\nContent-Length: {length}\r\n\r\n{hidden}")),
        ("no name", format!("{line}: a\r\n\r\n{hidden}")),
        ("no colon", format!("{line}Content-Length\r\n\r\n{hidden}")),
        ("0.9", format!("GET {TASKS}\r\n{hidden}")),
        ("1.2", format!("{}\r\n{hidden}", line.replace("HTTP/1.1", "HTTP/1.2"))),
        ("2.0", format!("{}\r\n{hidden}", line.replace("HTTP/1.1", "HTTP/2.0"))),
    ] {
        let mut wire = Wire::open(&gate.url).await;
        wire.send(request.as_bytes()).await;
        let first = wire.answer(false).await.unwrap_or_else(|| panic!("{name}: no response"));
        assert!(first.status.is_client_error(), "{name}: {}", first.status);
        assert_eq!(wire.rest().await, "", "{name}");
        assert_eq!(gate.electric.request_count(), 0, "{name}");
    }
    let mut wire = Wire::open(&gate.url).await;
    wire.send(hidden.as_bytes()).await;
    assert_eq!(wire.answer(false).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bare_lf_line_endings_hide_no_request() {
    // docs/security.md, P8: RFC 9112 section 2.2 allows bare LF, so it may be read, but as one request
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    for (number, name) in ["every line", "the last one"].into_iter().enumerate() {
        let target = format!("{TASKS}&handle={number}");
        let good = format!("GET {target} HTTP/1.1\r\nHost: gate.test\r\nAuthorization: Bearer {token}\r\n");
        let head = if number == 0 { good.replace("\r\n", "\n") + "\n" } else { format!("{good}X-A: b\n\n") };
        let mut wire = Wire::open(&gate.url).await;
        let before = gate.electric.request_count();
        wire.send(format!("{head}{good}\r\n").as_bytes()).await;
        assert_eq!(wire.answer(false).await.unwrap().status, 200);
        assert!(!wire.rest().await.contains("HTTP/1."), "{name}");
        assert_eq!(gate.electric.request_count() - before, 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnected_poll_frees_its_slot_at_once() {
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    let first = gate.get(TASKS, &token).await;
    let target = format!(
        "/v1/shape?table=tasks&organizationId=org_1&offset=0_inf&handle={}&live=true",
        first.header("electric-handle")
    );
    let mut wire = Wire::open(&gate.url).await;
    let poll = format!("GET {target} HTTP/1.1\r\nHost: gate.test\r\nAuthorization: Bearer {token}\r\n\r\n");
    wire.send(poll.as_bytes()).await;
    gate.electric.wait_for_waiting(1).await;
    assert!(gate.metric("shapegate_requests_in_flight").await >= 1.0);
    drop(wire);
    // Electric holds a poll for 20 s, so a slot that is free sooner was not freed by the response.
    let freed = async { while gate.metric("shapegate_requests_in_flight").await > 0.0 {} };
    tokio::time::timeout(Duration::from_secs(10), freed).await.unwrap();
    let gone = r#"shapegate_requests_total{outcome="client_gone",rule="tasks",status="none"}"#;
    let counted = async { while gate.metric(gone).await < 1.0 {} };
    tokio::time::timeout(Duration::from_secs(10), counted).await.unwrap();
}

/// Sends exact bytes to a server that may close without a response.
async fn send(url: &str, bytes: &str) {
    let mut wire = Wire::open(url).await;
    wire.send(bytes.as_bytes()).await;
    wire.rest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn debug_and_trace_logs_contain_no_client_data() {
    // docs/security.md, C7, C14
    let issuer = IssuerServer::start().await;
    let token = issuer.token(&json!({ "sub": "canary-sub", "organizationIds": ["canary-org"] }));
    for level in ["debug", "trace"] {
        let electric = Electric::start(shapegate::demo::electric::Options::default()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = config(folder.path(), &electric.url(), issuer.url());
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}\n[log]\nlevel = \"{level}\"\nformat = \"json\"\n")).unwrap();
        let process = Process::start(&path).await;
        let target = "/v1/shape?table=tasks&organizationId=canary-org&offset=-1&utm=canary-utm";
        let head = |target: &str, token: &str| {
            format!(
                "GET {target} HTTP/1.1\r\nHost: canary.test\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n"
            )
        };
        let good = head(target, &token);
        let requests = [
            format!("{good}\r\n"),
            format!("{}\r\n", head(target, "canary.canary.canary")),
            format!("{}\r\n", head(target, &format!("{token}canary"))),
            format!("{}\r\n", head(&format!("{target}&where=canary"), &token)),
            format!("{}\r\n", head("/canary", &token)),
            format!("{good}X-A: canary\0\r\n\r\n"),
            format!("{good}canary canary\r\n\r\n"),
            format!("{good}Content-Length: canary\r\n\r\n"),
            format!("{good}Content-Length: -1\r\n\r\n"),
            format!("{good}Transfer-Encoding: canary\r\n\r\n"),
            format!("{good}Host: canary-other.test\r\n\r\n"),
            format!("{good}X-A: {}\r\n\r\n", "canary".repeat(200_000)),
            format!("canary {target} canary\r\n\r\n"),
            "CONNECT canary.test:443 HTTP/1.1\r\nHost: canary.test\r\nConnection: close\r\n\r\n".to_owned(),
            format!("GET {target}\u{1b}[31m\u{7f} HTTP/1.1\r\n{}\r\n", &good[good.find("Host").unwrap()..]),
        ];
        for request in &requests {
            send(&process.url, request).await;
            send(&process.admin, request).await;
        }
        // A client that disconnects within its header.
        Wire::open(&process.url).await.send(good.as_bytes()).await;
        let address = electric.addr();
        drop(electric);
        while tokio::net::TcpStream::connect(address).await.is_ok() {}
        // Another request, since the rejection of the first is remembered: there is no such table.
        send(&process.url, &requests[0].replace("offset=-1", "offset=now")).await;
        let log = process.stop().await;
        assert!(log.iter().any(|line| line.contains(r#""outcome":"token_invalid""#)), "{log:#?}");
        assert!(log.iter().any(|line| line.contains("upstream_unreachable")), "{log:#?}");
        for line in &log {
            let signature = token.rsplit('.').next().unwrap();
            for secret in [SECRET, "canary", "utm", token.as_str(), signature] {
                assert!(!line.contains(secret), "{level}: {secret}: {line}");
            }
        }
    }
}
