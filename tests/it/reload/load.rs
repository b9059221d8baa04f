//! A hundred reloads under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::{table_of, token_of};
use crate::harness::{Answer, Gate, IssuerServer, Setup};

const CLIENTS: usize = 24;

/// A client like Electric's: it catches up, then polls. Every response must be 200.
struct Client {
    http: reqwest::Client,
    shape: String,
    token: String,
    answers: Arc<AtomicUsize>,
}

impl Client {
    async fn ask(&self, query: &str) -> Answer {
        let request = self.http.get(format!("{}&{query}", self.shape)).bearer_auth(&self.token);
        let answer = Answer::of(request.send().await.unwrap()).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.text());
        self.answers.fetch_add(1, Ordering::Relaxed);
        answer
    }

    async fn run(self, stop: Arc<AtomicBool>) {
        let mut query = "offset=-1".to_owned();
        while !stop.load(Ordering::Relaxed) {
            let answer = self.ask(&query).await;
            let (handle, offset) = (answer.header("electric-handle"), answer.header("electric-offset"));
            let live = if answer.headers.contains_key("electric-up-to-date") { "&live=true" } else { "" };
            query = format!("offset={offset}&handle={handle}{live}");
        }
    }
}

/// Reloads `times` under load, each time with a different configuration. Returns the number of responses.
async fn storm(gate: &Gate, other: &IssuerServer, times: u32, rows: &AtomicU32) -> usize {
    let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    // Connections close with this client, so that none is counted as a leak.
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let organization = format!("org_{}", number % 3);
        let client = Client {
            http: http.clone(),
            shape: format!("{}/v1/shape?table=tasks&organizationId={organization}", gate.url),
            token: token_of(&gate.issuer, &organization),
            answers: Arc::clone(&answers),
        };
        clients.spawn(client.run(Arc::clone(&stop)));
    }
    let write = || {
        for organization in ["org_0", "org_1", "org_2"] {
            gate.insert_task(rows.fetch_add(1, Ordering::Relaxed), organization, "row");
        }
    };
    let theirs = token_of(other, "org_1");
    for number in 0..times {
        let change = |setup: &mut Setup| {
            if number % 2 == 0 {
                setup.rules += &table_of(other);
            }
            setup.rules += "[[shape]]\ntable = 'other'\nwhere = 'none'\n";
            // One test client sends as many requests as many real ones.
            let limits = format!("requests = {}\nrepeats = 0\nrate_per_subject = 0\n", 1000 + number);
            setup.rules += &format!("[limits]\n{limits}[cors]\nmax_age = '{number}m'\n");
            setup.upstream += &format!("connect_timeout = '{}s'\n", 1 + number % 2);
        };
        gate.policy.reload(change, |_| {}).unwrap();
        let expected = if number % 2 == 0 { 200 } else { 401 };
        assert_eq!(gate.get(super::TASKS, &theirs).await.status, expected, "reload {number}");
        if number % 3 == 0 {
            write();
        }
    }
    stop.store(true, Ordering::Relaxed);
    // Polls in flight end with the next change.
    while !clients.is_empty() {
        write();
        while let Ok(Some(ended)) = tokio::time::timeout(Duration::from_millis(20), clients.join_next()).await {
            ended.unwrap();
        }
    }
    gate.policy.reload(|_| {}, |_| {}).unwrap();
    answers.load(Ordering::Relaxed)
}

/// Waits until a count is at most `most`. Tasks and requests end a moment after their cause.
async fn until_at_most(what: &str, most: usize, count: impl Fn() -> usize) {
    for _ in 0..1_000 {
        if count() <= most {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} {what}, {most} before", count());
}

#[tokio::test(flavor = "multi_thread")]
async fn hundred_reloads_under_load_fail_no_request_and_leak_nothing() {
    // Idle connections of previous configurations to Electric close after this time.
    let setup = Setup { upstream: "idle_timeout = '1s'\n".to_owned(), ..Setup::default() };
    let (gate, other) = (Gate::with(setup).await, IssuerServer::start().await);
    let rows = AtomicU32::new(1);
    // After a first storm everything that is created once exists.
    storm(&gate, &other, 4, &rows).await;
    gate.until_metric("shapegate_requests_in_flight", 0.0).await;
    gate.until_metric("shapegate_open_flights", 0.0).await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    // Wait until the connections of the first storm have ended.
    until_at_most("requests", 0, || gate.electric.waiting()).await;
    let tasks_before = tasks();
    let fetched = gate.issuer.fetches();

    let answers = storm(&gate, &other, 100, &rows).await;
    assert!(answers > CLIENTS * 3, "only {answers} responses");
    gate.until_metric("shapegate_requests_in_flight", 0.0).await;
    gate.until_metric("shapegate_open_flights", 0.0).await;
    assert_eq!(gate.issuer.fetches(), fetched, "the keys of an unchanged issuer are not fetched again");
    assert!(other.fetches() <= 2 * 52, "an issuer that is added again is fetched once: {}", other.fetches());
    // A few connections more or less are normal; a leaked task for each reload would be a hundred.
    until_at_most("tasks", tasks_before + 10, tasks).await;
    assert_eq!(gate.metric("shapegate_token_checks_total{outcome=\"keys_unavailable\"}").await, 0.0);
}
