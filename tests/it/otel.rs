//! Spans at a collector: one for each request and one for each upstream request, in the client's trace.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use shapegate::demo::http::{Reply, Server, Serving};

use crate::harness::{Gate, RULES, Setup, Wire};

const TASKS: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A collector that stores what it receives.
struct Collector {
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
    url: String,
    _serving: Serving,
}

impl Collector {
    async fn start() -> Self {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let url = format!("http://{}", server.local_addr().unwrap());
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let received = Arc::clone(&bodies);
        let serving = server.serve(move |request| {
            assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/v1/traces"));
            received.lock().unwrap().push(request.body.to_vec());
            std::future::ready(Reply::json(200, "{}"))
        });
        Self { bodies, url, _serving: serving }
    }

    /// Returns the spans received so far, and checks their resource.
    fn spans(&self) -> Vec<Value> {
        let bodies = self.bodies.lock().unwrap();
        let batches = bodies.iter().map(|body| serde_json::from_slice::<Value>(body).unwrap());
        let all = batches.flat_map(|batch| {
            let resource = &batch["resourceSpans"][0];
            assert!(resource["resource"].to_string().contains("edge-1"), "{resource}");
            resource["scopeSpans"][0]["spans"].as_array().unwrap().clone()
        });
        all.collect()
    }
}

/// Starts a gate that sends its spans to this collector.
async fn traced(collector: &str, more: &str) -> Gate {
    let rules = format!("{RULES}\n[otel]\nendpoint = '{collector}'\nservice = 'edge-1'\n{more}\n");
    Gate::with(Setup { rules, ..Setup::default() }).await
}

fn attribute<'a>(span: &'a Value, name: &str) -> &'a Value {
    let all = span["attributes"].as_array().unwrap();
    let found = all.iter().find(|attribute| attribute["key"] == name);
    found.map_or(&Value::Null, |attribute| attribute["value"].as_object().unwrap().values().next().unwrap())
}

fn of_kind(spans: &[Value], kind: u64) -> Vec<&Value> {
    spans.iter().filter(|span| span["kind"] == kind).collect()
}

const SERVER: u64 = 2;
const CLIENT: u64 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn each_request_and_each_upstream_request_is_a_span() {
    let collector = Collector::start().await;
    let mut gate = traced(&collector.url, "protocol = 'http/json'").await;
    let token = gate.issuer.token(&json!({ "sub": "canary-subject", "organizationIds": ["org_1"] }));
    let ask = async |target: &str, parent: &str| {
        let request = gate.request(target, Some(&token)).header("traceparent", parent);
        let answer = request.header("tracestate", "canary=1").send().await.unwrap();
        let status = answer.status().as_u16();
        // Read to the end: a client that leaves early is counted under another outcome.
        answer.bytes().await.unwrap();
        status
    };
    let target = format!("{TASKS}&unknown=canary");
    assert_eq!(ask(&target, PARENT).await, 200);
    // A cached response, for a client without a valid trace.
    assert_eq!(ask(&target, "canary").await, 200);
    assert_eq!(ask(&TASKS.replace("org_1", "canary"), PARENT).await, 403);
    gate.electric.script(Reply::new(500));
    assert_eq!(ask(&format!("{TASKS}&handle=canary"), PARENT).await, 502);
    let sent: Vec<_> =
        gate.electric.requests().iter().map(|request| request.header("traceparent").map(str::to_owned)).collect();
    gate.stop().await;

    let spans = collector.spans();
    let (servers, clients) = (of_kind(&spans, SERVER), of_kind(&spans, CLIENT));
    let names: Vec<_> = servers.iter().map(|span| span["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["GET tasks"; 4]);
    let told = |name: &str| servers.iter().map(|span| attribute(span, name)).collect::<Vec<_>>();
    assert_eq!(told("shapegate.outcome"), ["served", "served", "forbidden", "upstream_refused"]);
    assert_eq!(told("shapegate.cache")[..3], [&json!("first"), &json!("fresh"), &Value::Null]);
    assert_eq!(told("shapegate.rule"), ["tasks"; 4]);
    assert_eq!(told("http.response.status_code"), ["200", "200", "403", "502"]);
    assert_eq!(
        servers.iter().map(|span| span["status"]["code"].as_u64().unwrap_or(0)).collect::<Vec<_>>(),
        [0, 0, 0, 2]
    );
    // In the client's trace if it has one.
    for (number, span) in servers.iter().enumerate() {
        assert_eq!(span["traceId"] == TRACE, number != 1, "{span}");
        assert_eq!(span["parentSpanId"] == "00f067aa0ba902b7", number != 1, "{span}");
        let time = |name: &str| span[name].as_str().unwrap().parse::<u128>().unwrap();
        assert!(0 < time("startTimeUnixNano") && time("startTimeUnixNano") <= time("endTimeUnixNano"));
    }
    // The traceparent sent to Electric names the upstream span, which is a child of the client's request.
    assert_eq!(clients.len(), 2);
    for ((client, server), sent) in clients.iter().zip([servers[0], servers[3]]).zip(sent) {
        assert_eq!((&client["name"], &client["traceId"]), (&json!("electric tasks"), &json!(TRACE)));
        assert_eq!(client["parentSpanId"], server["spanId"]);
        assert_eq!(sent.unwrap(), format!("00-{TRACE}-{}-01", client["spanId"].as_str().unwrap()));
    }
    assert_eq!(
        clients.iter().map(|span| attribute(span, "http.response.status_code")).collect::<Vec<_>>(),
        ["200", "500"]
    );
    let text = json!(spans).to_string();
    for absent in ["canary", "org_1", "offset", "/v1/shape", token.as_str(), token.rsplit('.').next().unwrap()] {
        assert!(!text.contains(absent), "{absent}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unsampled_requests_record_no_span_and_forward_their_trace_unchanged() {
    let collector = Collector::start().await;
    for (sample, parent) in [("0.0", PARENT), ("1.0", &*PARENT.replace("-01", "-00"))] {
        let mut gate = traced(&collector.url, &format!("sample = {sample}\nprotocol = 'http/json'")).await;
        let token = gate.token(&["org_1"]);
        let request = gate.request(TASKS, Some(&token)).header("traceparent", parent);
        assert_eq!(request.send().await.unwrap().status(), 200);
        assert_eq!(gate.electric.requests()[0].header("traceparent"), Some(parent));
        if sample == "0.0" {
            assert_eq!(gate.get(&format!("{TASKS}&handle=1"), &token).await.status, 200);
            assert_eq!(gate.electric.requests()[1].header("traceparent"), None);
        }
        gate.stop().await;
    }
    assert_eq!(collector.spans(), Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_are_sent_as_protobuf_by_default() {
    let collector = Collector::start().await;
    let mut gate = traced(&collector.url, "").await;
    assert_eq!(gate.get(TASKS, &gate.token(&["org_1"])).await.status, 200);
    gate.until_metric(r#"shapegate_spans_total{result="sent"}"#, 2.0).await;
    gate.stop().await;
    let bodies = collector.bodies.lock().unwrap().concat();
    let contains = |text: &str| bodies.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(contains("edge-1") && contains("electric tasks") && contains("shapegate.outcome"));
    assert!(serde_json::from_slice::<Value>(&bodies).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn unresponsive_collector_loses_spans_but_fails_no_request() {
    // The kernel accepts connections, and nothing responds.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let collector = format!("http://{}", silent.local_addr().unwrap());
    let mut gate = traced(&collector, "").await;
    let mut wire = Wire::open(&gate.url).await;
    for _ in 0..6_000 {
        wire.send(b"GET /nothing HTTP/1.1\r\nHost: gate.test\r\n\r\n").await;
        assert_eq!(wire.answer(false).await.unwrap().status, 404);
    }
    // A batch is in flight and the queue is full: later spans are dropped and counted.
    assert!(gate.metric(r#"shapegate_spans_total{result="dropped"}"#).await > 1_000.0);
    assert_eq!(gate.metric(r#"shapegate_spans_total{result="sent"}"#).await, 0.0);
    // It does not delay the shutdown.
    let stopped = tokio::time::timeout(Duration::from_secs(20), gate.stop()).await;
    assert!(stopped.is_ok());
}
