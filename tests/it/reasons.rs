//! Every rejection has the same reason in the access log, the audit log, the metrics and `explain`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use shapegate::clock::{Clock, SystemClock};
use shapegate::demo::electric::{Electric, Options};
use shapegate::demo::http::{End, Reply};
use shapegate::demo::issuer::Issuer;
use shapegate::rejection::Reason;

use crate::harness::{
    Answer, GATEKEEPER_SECRET, IssuerServer, Process, SECRET, Wire, raw, shapegate, start_electric, with_defaults,
};

/// Reasons that take a crowd of clients, a stop, a failure of shapegate, much time, or an issuer or a rule that this test
/// does not have; and `host`, since Pingora itself answers HTTP/1.1 without one. Other tests show most of them.
const ELSEWHERE: [&str; 31] = [
    "open_bytes",
    "bad_tokens_per_address",
    "decision_denied",
    "decision_unavailable",
    "question_unbound",
    "host",
    "connections",
    "connections_per_address",
    "electric_timeout",
    "flights",
    "flights_per_subject",
    "initial_flights",
    "initial_flights_per_subject",
    "internal",
    "memory",
    "rate_per_address",
    "reloaded",
    "repeats",
    "requests",
    "requests_per_address",
    "requests_per_subject",
    "shapes_per_subject",
    "stopping",
    "client_columns",
    "lifetime",
    "ambiguous_key",
    "auth_unavailable",
    "inactive",
    "require",
    "revoked",
    "token_conflict",
];

const TWO: &str = "https://two.test";
const DOWN: &str = "https://down.test";
const TASKS: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";

/// A request, and the reason why it is rejected.
struct Case {
    reason: &'static str,
    method: &'static str,
    target: String,
    token: Option<String>,
    /// Further header lines.
    headers: String,
    body: Option<&'static str>,
    /// Whether `explain` can be asked about it.
    explained: bool,
    /// What Electric replies.
    electric: Option<fn() -> Reply>,
    /// How often it is sent; only the last time counts.
    times: usize,
}

impl Case {
    fn get(reason: &'static str, target: impl Into<String>, token: impl Into<String>) -> Self {
        Self {
            reason,
            method: "GET",
            target: target.into(),
            token: Some(token.into()),
            headers: String::new(),
            body: None,
            explained: true,
            electric: None,
            times: 1,
        }
    }

    /// A request with header lines that `explain` does not know.
    fn with(self, headers: impl Into<String>) -> Self {
        Self { headers: headers.into(), explained: false, ..self }
    }

    fn post(self, body: &'static str) -> Self {
        Self { method: "POST", body: Some(body), ..self }
    }

    fn if_electric(self, reply: fn() -> Reply) -> Self {
        Self { electric: Some(reply), explained: false, ..self }
    }

    /// Returns the request as bytes. Each comes from another address.
    fn bytes(&self, number: usize) -> Vec<u8> {
        let Self { method, target, headers, .. } = self;
        let mut text =
            format!("{method} {target} HTTP/1.1\r\nHost: gate.test\r\nX-Forwarded-For: 203.0.113.{number}\r\n");
        text += headers;
        text += "Connection: close\r\n";
        if let Some(token) = &self.token {
            text += &format!("Authorization: Bearer {token}\r\n");
        }
        if let Some(body) = self.body {
            let json = if headers.contains("Content-Type") { "" } else { "Content-Type: application/json\r\n" };
            text += &format!("{json}Content-Length: {}\r\n\r\n{body}", body.len());
        } else {
            text += "\r\n";
        }
        text.into_bytes()
    }
}

/// The configuration, with words for what each test has of its own.
const CONFIG: &str = r#"
[server]
listen = "127.0.0.1:0"
admin = "127.0.0.1:0"
[upstream]
url = "ELECTRIC"
secret = { env = "SECRET" }
[upstreams.acme]
url = "ELECTRIC"
secret = { env = "SECRET" }
[[issuer]]
issuer = "ISSUER"
audience = "https://app.test"
algorithms = ["EdDSA", "ES256"]
jwks = { url = "ISSUER/jwks" }
[[issuer]]
issuer = "https://two.test"
audience = "https://app.test"
algorithms = ["EdDSA"]
shape_claim = true
jwks = { file = "two.json" }
[[issuer]]
issuer = "https://down.test"
audience = "https://app.test"
algorithms = ["EdDSA"]
jwks = { url = "http://127.0.0.1:1/jwks" }
[gatekeeper]
issuer = "https://shapes.test"
audience = "https://app.test"
hs256 = { env = "GATEKEEPER_SECRET" }
public_url = "https://sync.test/v1/shape"
[[shape]]
table = "tasks"
allow = "query.organizationId in claims.organizationIds"
where = '"organization_id" = {{ query.organizationId }}'
[[shape]]
table = "items"
where = '"user_id" = {{ claims.sub }}'
[[shape]]
table = "notes"
where = "none"
upstream = { claim = "claims.tenant", map = { acme = "acme" } }
[[shape]]
table = "open"
where = "none"
subset = true
client_where = true
[limits]
trusted_proxies = ["127.0.0.1"]
rate_per_subject = 2
[audit]
path = "AUDIT"
[log]
format = "json"
"#;

/// The issuers whose tokens the configuration accepts.
struct Scene {
    issuer: IssuerServer,
    two: Issuer,
}

impl Scene {
    async fn new() -> Self {
        Self { issuer: IssuerServer::start().await, two: Issuer::new(TWO).unwrap() }
    }

    fn write(&self, path: &Path, electric: &str) {
        let folder = path.parent().unwrap();
        std::fs::write(folder.join("two.json"), self.two.jwks().to_string()).unwrap();
        let (issuer, audit) = (self.issuer.url(), folder.join("audit.jsonl"));
        let text =
            CONFIG.replace("ELECTRIC", electric).replace("ISSUER", issuer).replace("\"SECRET", "\"ELECTRIC_SECRET");
        std::fs::write(path, text.replace("AUDIT", audit.to_str().unwrap())).unwrap();
    }

    fn token(&self, claims: &Value) -> String {
        let mut all = json!({ "organizationIds": ["org_1"] });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        self.issuer.token(&all)
    }

    /// Returns a token that no key has signed.
    fn unsigned(&self, header: &Value, claims: &Value) -> String {
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        format!("{}.{}.{}", part(header), part(&with_defaults(self.issuer.url(), claims)), "A".repeat(86))
    }

    fn rules(&self) -> Vec<Case> {
        let shape = with_defaults(TWO, &json!({ "shape": { "table": "tasks" } }));
        let shape = self.two.sign(&shape);
        vec![
            Case::get("allow_false", TASKS.replace("org_1", "org_3"), self.token(&json!({ "sub": "a" }))),
            Case::get("allow_error", TASKS, self.token(&json!({ "sub": "b", "organizationIds": null }))),
            Case::get("value_unbound", "/v1/shape?table=items&offset=-1", self.token(&json!({}))),
            Case::get(
                "upstream_unbound",
                "/v1/shape?table=notes&offset=-1",
                self.token(&json!({ "sub": "c", "tenant": "other" })),
            ),
            Case::get("shape_differs", TASKS.replace("tasks", "items"), shape.clone()),
            Case { method: "POST", ..Case::get("shape_token", "/gatekeeper/tasks?organizationId=org_1", shape) },
            Case::get("table_unknown", "/v1/shape?table=other&offset=-1", self.token(&json!({ "sub": "d" }))),
            Case::get("path_unknown", "/nothing", self.token(&json!({ "sub": "e" }))),
        ]
    }

    fn claims(&self) -> Vec<Case> {
        let now = SystemClock.now().as_secs();
        let with = |reason, claims: Value| Case::get(reason, TASKS, self.token(&claims));
        let two = with_defaults(TWO, &json!({ "shape": 1 }));
        vec![
            with("audience", json!({ "aud": ["x"] })),
            with("issuer", json!({ "iss": "https://other.test" })),
            with("expired", json!({ "exp": now - 3600 })),
            with("expiry", json!({ "exp": "tomorrow" })),
            with("not_before", json!({ "nbf": now + 3600 })),
            with("issued_at", json!({ "iat": now + 3600 })),
            with("subject", json!({ "sub": 1 })),
            Case::get("shape", TASKS, self.two.sign(&two)),
        ]
    }

    fn headers(&self) -> Vec<Case> {
        let plain = |header: Value| self.unsigned(&header, &json!({}));
        let with = |reason, header: Value| Case::get(reason, TASKS, plain(header));
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let down = self.unsigned(&json!({ "alg": "EdDSA" }), &json!({ "iss": DOWN }));
        vec![
            with("signature", json!({ "alg": "EdDSA", "kid": "key-1" })),
            with("kid_unknown", json!({ "alg": "EdDSA", "kid": "other" })),
            with("key_id", json!({ "alg": "EdDSA", "kid": 7 })),
            with("algorithm", json!({ "alg": "HS256" })),
            with("algorithm_mismatch", json!({ "alg": "ES256", "kid": "key-1" })),
            with("type", json!({ "alg": "EdDSA", "kid": "key-1", "typ": "x" })),
            with("compressed", json!({ "alg": "EdDSA", "zip": "DEF" })),
            with("critical", json!({ "alg": "EdDSA", "crit": [] })),
            with("encrypted", json!({ "alg": "EdDSA", "enc": "x" })),
            with("nested", json!({ "alg": "EdDSA", "cty": "JWT" })),
            with("unencoded_payload", json!({ "alg": "EdDSA", "b64": false })),
            Case::get("keys_unavailable", TASKS, down),
            Case::get("structure", TASKS, "abc"),
            Case::get("encoding", TASKS, "a.b.c"),
            Case::get("header", TASKS, format!("{}.{}.AA", part("[]"), part("{}"))),
            Case::get("payload", TASKS, format!("{}.{}.AA", part(r#"{"alg":"EdDSA"}"#), part("[]"))),
            Case::get("token_malformed", TASKS, "a b"),
            Case::get("token_too_long", TASKS, "a".repeat(16 * 1024 + 1)),
            Case { token: None, ..Case::get("token_missing", TASKS, "") },
        ]
    }
}

/// Requests that are malformed, too much, or that Electric does not answer.
fn requests(scene: &Scene) -> Vec<Case> {
    let token = |claims: &Value| scene.token(claims);
    let get = |reason, target: &str| Case::get(reason, target, token(&json!({ "sub": reason })));
    let open = |reason, more: &str| get(reason, &format!("/v1/shape?table=open&offset=-1&{more}"));
    let many = "*".repeat(3_500);
    let long = token(&json!({ "sub": "long", "organizationIds": [many] }));
    // Each at a position of its own, since an error is remembered.
    let electric = |reason, number: usize, reply| {
        get(reason, &TASKS.replace("offset=-1", &format!("offset=0_{number}&handle=1-1"))).if_electric(reply)
    };
    vec![
        get("client_replica", &format!("{TASKS}&replica=full")),
        get("client_reserved", &format!("{TASKS}&where=true")),
        open("client_where", "where=id%3B"),
        open("subset", "subset__limit=x"),
        open("body", "").post("[]"),
        open("content_type", "").post("{}").with("Content-Type: text/plain\r\n"),
        get("parameter", "/v1/shape?table=tasks&organizationId=org_1"),
        get("query", &format!("{TASKS}&a=%zz")),
        Case { method: "DELETE", ..get("method", TASKS) },
        Case { body: Some("{}"), ..get("content_too_large", TASKS) },
        get("uri_too_long", &format!("{TASKS}&x={}", "a".repeat(8 * 1024))),
        Case::get("values_too_long", TASKS.replace("org_1", &many), long),
        get("origin", TASKS).with("Origin: https://a.test\r\nOrigin: https://b.test\r\n"),
        get("expect", TASKS).with("Expect: 100-continue\r\n"),
        get("target", TASKS.replace("/v1", "http://gate.test/v1").as_str()).with(""),
        get("headers_too_large", TASKS).with("X-A: a\r\n".repeat(65)),
        electric("electric_not_ready", 1, || Reply::json(503, "{}")),
        electric("electric_overloaded", 2, || Reply::json(503, "{}").with_header("electric-internal-known-error", "1")),
        electric("electric_refused", 3, || Reply::json(500, "{}")),
        electric("electric_unreachable", 4, || Reply::json(200, "[]").with_end(End::Reset)),
        Case { times: 20, explained: false, ..get("rate_per_subject", TASKS) },
    ]
}

/// Sends a case and returns the id of the request that counts.
async fn send(process: &Process, electric: &Electric, case: &Case, number: usize) -> String {
    let mut id = String::new();
    for _ in 0..case.times {
        if let Some(reply) = &case.electric {
            electric.script(reply());
            // A reset on a reused connection is tried once more.
            if case.reason == "electric_unreachable" {
                electric.script(reply());
            }
        }
        let answer = raw(&process.url, &case.bytes(number)).await;
        assert!(answer.status.as_u16() >= 400 || case.times > 1, "{}: {}", case.reason, answer.status);
        assert!(!String::from_utf8_lossy(&answer.body).contains("reason"), "{}: {answer:?}", case.reason);
        id = answer.header("x-request-id").to_owned();
    }
    id
}

async fn explained(path: &Path, case: &Case) -> String {
    let mut arguments = vec!["explain", "--config", path.to_str().unwrap(), "--method", case.method];
    arguments.extend(case.token.iter().flat_map(|token| ["--token", token]));
    arguments.extend(case.body.iter().flat_map(|body| ["--body", body]));
    arguments.push(&case.target);
    let output = shapegate(&arguments).env("GATEKEEPER_SECRET", GATEKEEPER_SECRET).output().await.unwrap();
    let words = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{}: {words}", case.reason);
    words.lines().find_map(|line| line.strip_prefix("reason:   ")).unwrap_or_default().to_owned()
}

/// Counts rejections by rule and reason, from the metrics.
async fn counted(process: &Process) -> BTreeMap<(String, String), u64> {
    let text = reqwest::get(format!("{}/metrics", process.admin)).await.unwrap().text().await.unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("shapegate_rejections_total{"));
    let parsed = lines.map(|line| {
        let (labels, count) = line.split_once("} ").unwrap();
        let (reason, rule) = labels.split_once("\",rule=\"").unwrap();
        let reason = reason.strip_prefix("reason=\"").unwrap();
        ((rule.trim_end_matches('"').to_owned(), reason.to_owned()), count.parse().unwrap())
    });
    parsed.collect()
}

/// Mints a shape token, changes its rule, and uses the token.
async fn use_token_of_changed_rule(scene: &Scene, process: &Process, path: &Path) {
    let token = scene.token(&json!({ "sub": "minted" }));
    let mint = reqwest::Client::new().post(format!("{}/gatekeeper/tasks?organizationId=org_1", process.url));
    let minted = Answer::of(mint.bearer_auth(token).send().await.unwrap()).await.json();
    let text = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, text.replace("table = \"tasks\"", "table = \"tasks\"\nreplica = \"full\"")).unwrap();
    process.signal("HUP").await;
    let done = r#"shapegate_reloads_total{result="ok"} 1"#;
    let reloaded = async || reqwest::get(format!("{}/metrics", process.admin)).await.unwrap().text().await.unwrap();
    while !reloaded().await.contains(done) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let bearer = minted["headers"]["Authorization"].as_str().unwrap();
    let request = reqwest::Client::new().get(format!("{}{TASKS}", process.url)).header("authorization", bearer);
    assert_eq!(request.send().await.unwrap().status(), 403);
}

/// Starts a shapegate with the configuration in `folder`.
async fn start(scene: &Scene, electric: &Electric, folder: &Path) -> (Process, PathBuf) {
    let path = folder.join("shapegate.toml");
    scene.write(&path, &electric.url());
    let secret = format!("GATEKEEPER_SECRET={GATEKEEPER_SECRET}");
    (Process::launch(&["env", &secret], &path).await, path)
}

/// Sends the cases, asks `explain`, and compares the reasons in the access log, the audit log and the metrics.
async fn agree(scene: &Scene, cases: &[Case], reload: bool) {
    let electric = start_electric(Options::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let (process, path) = start(scene, &electric, folder.path()).await;
    let mut ids = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        ids.push(send(&process, &electric, case, number).await);
    }
    for case in cases.iter().filter(|case| case.explained) {
        assert_eq!(explained(&path, case).await, case.reason);
    }
    if reload {
        use_token_of_changed_rule(scene, &process, &path).await;
    }
    // A request is counted before its log line is written, and both after the response.
    let last = if reload { "rule_changed" } else { cases.last().unwrap().reason };
    let mut counts = counted(&process).await;
    while !counts.keys().any(|(_, reason)| reason == last) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        counts = counted(&process).await;
    }
    let log = process.stop().await;

    let entries: Vec<Value> = log.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let rejected = entries.iter().filter(|entry| entry["target"] == "shapegate::access" && entry["reason"].is_string());
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or("-").to_owned();
    let mut logged = BTreeMap::new();
    rejected.clone().for_each(|entry| *logged.entry((text(entry, "rule"), text(entry, "reason"))).or_insert(0) += 1);
    let by_id: BTreeMap<_, _> = rejected.map(|entry| (text(entry, "request_id"), text(entry, "reason"))).collect();
    for (case, id) in cases.iter().zip(&ids) {
        assert_eq!(by_id.get(id).map(String::as_str), Some(case.reason));
    }
    assert_eq!(counts, logged);
    let audit = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
    let mut audited = BTreeMap::new();
    for line in audit.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        if line["reason"].is_string() {
            let count = audited.entry((text(&line, "rule"), text(&line, "reason"))).or_insert(0);
            *count += line["answers"].as_u64().unwrap();
        }
    }
    assert_eq!(audited, logged);
    assert!(log.iter().chain([&audit]).all(|line| !line.contains(SECRET)));
}

#[tokio::test(flavor = "multi_thread")]
async fn log_audit_metrics_and_explain_agree_on_rules_and_claims() {
    let scene = Scene::new().await;
    agree(&scene, &[scene.rules(), scene.claims()].into_iter().flatten().collect::<Vec<_>>(), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_audit_metrics_and_explain_agree_on_tokens() {
    let scene = Scene::new().await;
    agree(&scene, &scene.headers(), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_audit_metrics_and_explain_agree_on_requests() {
    let scene = Scene::new().await;
    agree(&scene, &requests(&scene), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tests_above_know_every_reason() {
    let scene = Scene::new().await;
    let tables = [scene.rules(), scene.claims(), scene.headers(), requests(&scene)];
    let known = tables.iter().flatten().map(|case| case.reason).chain(ELSEWHERE).chain(["rule_changed"]);
    assert_eq!(known.collect::<BTreeSet<_>>(), Reason::all().map(Reason::as_str).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn development_setting_shows_the_reason_to_clients() {
    let electric = start_electric(Options::default()).await;
    let (scene, folder) = (Scene::new().await, tempfile::tempdir().unwrap());
    let path = folder.path().join("shapegate.toml");
    scene.write(&path, &electric.url());
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("[server]", "[server]\ndanger_explain_denials = true")).unwrap();
    let secret = format!("GATEKEEPER_SECRET={GATEKEEPER_SECRET}");
    let process = Process::launch(&["env", &secret], &path).await;
    let mut wire = Wire::open(&process.url).await;
    for (token, reason) in [("abc", "structure"), (&*scene.token(&json!({ "aud": "x" })), "audience")] {
        let case = Case { token: Some(token.to_owned()), ..Case::get(reason, TASKS, "") };
        let bytes = String::from_utf8(case.bytes(1)).unwrap().replace("Connection: close\r\n", "");
        wire.send(bytes.as_bytes()).await;
        let answer = wire.answer(false).await.unwrap();
        assert_eq!((answer.code().as_str(), &answer.json()["reason"]), ("token_invalid", &json!(reason)));
    }
    let log = process.stop().await;
    assert!(log.iter().any(|line| line.contains("server.danger_explain_denials")), "{log:?}");
}
