//! Reasons that take several requests at once, many one after the other, or a change of the limits.

use std::collections::BTreeSet;

use serde_json::json;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use super::TASKS;
use super::case::Case;
use super::run::Run;
use crate::harness::{Answer, IssuerServer, Wire};

/// The reasons that the tests below show. `explain` gives none of them, since it counts no requests.
pub(super) const REASONS: [&str; 13] = [
    "bad_tokens_per_address",
    "flights",
    "flights_per_subject",
    "initial_flights",
    "initial_flights_per_subject",
    "memory",
    "open_bytes",
    "rate_per_address",
    "repeats",
    "requests",
    "requests_per_address",
    "requests_per_subject",
    "shapes_per_subject",
];

/// Limits at which a connection is closed before it can send a request. So there is no line in the logs, and no response.
pub(super) const BEFORE_HTTP: [&str; 2] = ["connections", "connections_per_address"];

const CONFIG: &str = r#"
[upstream]
url = "ELECTRIC"
secret = { env = "ELECTRIC_SECRET" }
read_timeout = "5m"
[[issuer]]
issuer = "ISSUER"
audience = "https://app.test"
algorithms = ["EdDSA"]
jwks = { url = "ISSUER/jwks" }
[[shape]]
table = "tasks"
allow = "query.organizationId in claims.organizationIds"
where = '"organization_id" = {{ query.organizationId }}'
[limits]
"#;

/// A run with limits, and the issuer of its clients' tokens.
struct Crowd {
    run: Run,
    issuer: IssuerServer,
}

impl Crowd {
    async fn start(limits: &str) -> Self {
        let issuer = IssuerServer::start().await;
        let run = Run::start(&format!("{}{limits}", CONFIG.replace("ISSUER", issuer.url())), &[]).await;
        Self { run, issuer }
    }

    /// A request of `subject` for the tasks of an organization, from an address.
    fn ask(&self, reason: &'static str, subject: &str, organization: usize, address: usize) -> Case {
        let organizations: Vec<_> = (0..10).map(|number| format!("org_{number}")).collect();
        let token = self.issuer.token(&json!({ "sub": subject, "organizationIds": organizations }));
        Case::get(reason, TASKS.replace("org_1", &format!("org_{organization}")), token).at(address)
    }

    /// Lets Electric respond to the requests that wait.
    async fn release(&self, waiting: Vec<JoinHandle<Answer>>) {
        self.run.electric.release();
        for answer in waiting {
            let status = answer.await.unwrap().status.as_u16();
            // Electric knows no handle of a continuing one.
            assert!(matches!(status, 200 | 409), "{status}");
        }
    }

    /// Compares what the logs and metrics say with the reasons of the rejected cases.
    async fn agrees(self, reasons: &[&'static str]) {
        self.run.agrees(&reasons.iter().copied().collect::<BTreeSet<_>>()).await;
    }
}

/// Makes the request one for a position in the log, which opens no shape.
fn continuing(case: Case) -> Case {
    Case { target: case.target.replace("offset=-1", "offset=0_1&handle=1-1"), ..case }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_audit_and_metrics_agree_on_too_many_requests() {
    let limits = "trusted_proxies = ['127.0.0.1']\nrequests = 3\nrequests_per_subject = 1\nrequests_per_address = 2\n";
    let crowd = Crowd::start(limits).await;
    let run = &crowd.run;
    run.electric.hold();
    let mut waiting = Vec::new();
    let mut wait = async |subject: &str, address| {
        waiting.push(run.wait(&crowd.ask("", subject, 1, address)));
        run.until_metric(&format!("shapegate_requests_in_flight {}", waiting.len())).await;
    };
    wait("a", 1).await;
    run.rejected(&crowd.ask("requests_per_subject", "a", 1, 2)).await;
    wait("b", 1).await;
    run.rejected(&crowd.ask("requests_per_address", "c", 1, 1)).await;
    wait("c", 2).await;
    run.rejected(&crowd.ask("requests", "d", 1, 3)).await;
    crowd.release(waiting).await;
    crowd.agrees(&["requests", "requests_per_address", "requests_per_subject"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_audit_and_metrics_agree_on_too_many_flights() {
    let limits = "flights = 4\nflights_per_subject = 2\ninitial_flights = 2\ninitial_flights_per_subject = 1\n";
    let crowd = Crowd::start(limits).await;
    let run = &crowd.run;
    run.electric.hold();
    let mut waiting = Vec::new();
    let mut wait = async |case: Case| {
        waiting.push(run.wait(&case));
        run.until_metric(&format!("shapegate_upstream_requests_in_flight {}", waiting.len())).await;
    };
    wait(crowd.ask("", "a", 1, 1)).await;
    run.rejected(&crowd.ask("initial_flights_per_subject", "a", 2, 1)).await;
    wait(continuing(crowd.ask("", "a", 1, 1))).await;
    run.rejected(&continuing(crowd.ask("flights_per_subject", "a", 2, 1))).await;
    wait(crowd.ask("", "b", 3, 1)).await;
    run.rejected(&crowd.ask("initial_flights", "c", 4, 1)).await;
    wait(continuing(crowd.ask("", "c", 5, 1))).await;
    run.rejected(&continuing(crowd.ask("flights", "d", 6, 1))).await;
    crowd.release(waiting).await;
    crowd.agrees(&["flights", "flights_per_subject", "initial_flights", "initial_flights_per_subject"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_audit_and_metrics_agree_on_what_comes_too_often() {
    let limits = "trusted_proxies = ['127.0.0.1']\nrate_per_subject = 0\nrate_per_address = 5\nshapes_per_subject = 2\n\
                  shapes_window = '1h'\nbad_tokens_per_address = 1\nsignatures_per_address = 1\n";
    let crowd = Crowd::start(limits).await;
    let run = &crowd.run;
    let mine = crowd.ask("rate_per_address", "a", 1, 1);
    until_limited(async || run.send(&mine).await).await;
    assert_eq!(run.send(&crowd.ask("", "a", 2, 2)).await.status, 200);
    run.rejected(&crowd.ask("shapes_per_subject", "a", 3, 3)).await;
    let good = crowd.ask("bad_tokens_per_address", "a", 1, 4);
    let token = good.token.as_ref().unwrap();
    let forged = Case { token: Some(format!("{}AAAA", &token[..token.len() - 4])), ..good };
    until_limited(async || run.send(&forged).await).await;
    crowd.agrees(&["bad_tokens_per_address", "rate_per_address", "shapes_per_subject", "signature"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_audit_and_metrics_agree_on_too_much_memory_and_on_a_loop() {
    // Room for one response of unknown length.
    let crowd = Crowd::start("open_bytes = '1MiB'\nmemory = '1024GiB'\n").await;
    let run = &crowd.run;
    run.electric.hold();
    let waiting = run.wait(&crowd.ask("", "a", 1, 1));
    run.until_metric("shapegate_upstream_requests_in_flight 1").await;
    run.rejected(&crowd.ask("open_bytes", "b", 2, 1)).await;
    crowd.release(vec![waiting]).await;
    // Opened before, since new connections are closed then.
    let mut wire = Wire::open(&run.process.url).await;
    assert_eq!(run.send_on(&mut wire, &crowd.ask("", "a", 1, 1)).await.status, 200);
    until_limited(async || run.send_on(&mut wire, &crowd.ask("repeats", "a", 1, 1)).await).await;
    run.reload("1024GiB", "1KiB").await;
    assert_eq!(run.send_on(&mut wire, &crowd.ask("memory", "b", 3, 1)).await.status, 503);
    crowd.agrees(&["memory", "open_bytes", "repeats"]).await;
}

/// Repeats a request until it gets a 429.
async fn until_limited(mut ask: impl AsyncFnMut() -> Answer) {
    for _ in 0..2_000 {
        if ask().await.status == 429 {
            return;
        }
    }
    panic!("never limited");
}

/// Connects from another loopback address.
async fn connect_from(address: &str, run: &Run) -> Wire {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
    Wire::of(socket.connect(run.process.url.strip_prefix("http://").unwrap().parse().unwrap()).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_a_limit_are_counted_but_not_logged() {
    let crowd = Crowd::start("trusted_proxies = []\nconnections = 3\nconnections_per_address = 2\n").await;
    let run = &crowd.run;
    let mut open = Vec::new();
    let places = [
        ("127.0.0.1", ""),
        ("127.0.0.1", ""),
        ("127.0.0.1", BEFORE_HTTP[1]),
        ("127.0.0.2", ""),
        ("127.0.0.3", BEFORE_HTTP[0]),
    ];
    for (address, reason) in places {
        let mut wire = connect_from(address, run).await;
        if reason.is_empty() {
            assert_eq!(run.send_on(&mut wire, &crowd.ask("", "a", 1, 1)).await.status, 200, "{address}");
            open.push(wire);
        } else {
            assert_eq!(wire.rest().await, "", "closed without a response");
            run.until_metric(&format!("shapegate_limited_total{{limit=\"{reason}\"}} 1")).await;
        }
    }
    drop(open);
    crowd.agrees(&[]).await;
}
