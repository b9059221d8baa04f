//! Many real clients share the requests to Electric, however they joined.
//!
//! With `SHAPEGATE_CROWD` set, clients join as slowly as people do: 240 over two minutes, and polls and streams last as
//! long as Electric's. Otherwise, there are a quarter of them, and everything is shorter.

use std::collections::BTreeSet;

use shapegate::demo::electric::Options;

use super::*;

/// A crowd of clients of one shape.
struct Crowd {
    gate: Gate,
    clients: Client,
    size: usize,
    /// Milliseconds between two clients that join.
    every: u64,
    /// Milliseconds between two rows that are written meanwhile. A stream must start between two of them.
    writes: u64,
    rows: u32,
}

/// What the clients report, once all of them have a row.
#[derive(Debug)]
struct Report(Value);

impl Report {
    /// Checks that each client has the rows of Electric, and complains about nothing.
    fn assert_complete(&self, titles: &BTreeSet<String>) {
        let of_clients: BTreeSet<_> =
            self.0["titles"].as_array().unwrap().iter().map(|title| title.as_str().unwrap().to_owned()).collect();
        assert_eq!(of_clients, *titles);
        assert_eq!(self.0["logs"], 1, "all clients have the same rows in the same order");
        assert_eq!((&self.0["twice"], &self.0["errors"], &self.0["warnings"]), (&json!([]), &json!([]), &json!([])));
        assert_eq!(self.0["cursors"], 0, "no client got the cursor that it sent");
    }
}

impl Crowd {
    /// Starts a crowd without clients, of `size` if it is a long one. If not, polls last for `hold`, streams for `life`.
    async fn start(size: usize, live_sse: bool, hold: Duration, life: Duration) -> Self {
        let long = std::env::var_os("SHAPEGATE_CROWD").is_some();
        let (size, every, writes) = if long { (size, 500, 500) } else { (size / 4, 20, 500) };
        let electric = if long { Options::default() } else { Options { hold, sse_life: life, ..Options::default() } };
        // All clients have one subject. A stream can be joined for half of its life.
        let limits = "[limits]\nrate_per_subject = 0\nrequests_per_subject = 10000\n";
        let join = (electric.sse_life / 2).as_secs().clamp(1, 30);
        let rules = format!("{RULES}\n{limits}[cache]\nsse_join = '{join}s'\n");
        let gate = Gate::with(Setup { rules, electric, ..Setup::default() }).await;
        let clients = Client::run(
            "crowd.mjs",
            &json!({
                "url": format!("{}/v1/shape", gate.url),
                "params": { "table": "tasks", "organizationId": "org_1" },
                "token": gate.token(&["org_1"]),
                "liveSse": live_sse,
            }),
        );
        Self { gate, clients, size, every, writes, rows: 0 }
    }

    fn write(&mut self) -> String {
        self.rows += 1;
        self.gate.insert_task(self.rows, "org_1", &format!("row {}", self.rows));
        format!("row {}", self.rows)
    }

    fn titles(&self) -> BTreeSet<String> {
        (1..=self.rows).map(|row| format!("row {row}")).collect()
    }

    /// Lets all clients join one after another, while rows are written all along.
    async fn join(&mut self) {
        self.clients.command(&json!({ "join": self.size, "every": self.every })).await;
        let mut writes = tokio::time::interval(Duration::from_millis(self.writes));
        loop {
            tokio::select! {
                line = self.clients.lines.next_line() => {
                    let line: Value = serde_json::from_str(&line.unwrap().unwrap()).unwrap();
                    assert_eq!(line["joined"], self.size);
                    return;
                }
                _ = writes.tick() => drop(self.write()),
            }
        }
    }

    /// Waits until every client has this row.
    async fn until(&mut self, title: &str) -> Report {
        self.clients.command(&json!({ "until": title })).await;
        Report(self.clients.until(|line| line["clients"].is_number()).await)
    }

    /// Waits until all clients wait on the same response.
    async fn settle(&self) {
        self.gate.until_metric("shapegate_requests_in_flight", self.size as f64).await;
        self.gate.until_metric("shapegate_followers", self.size as f64).await;
        self.gate.until_metric("shapegate_open_flights", 1.0).await;
    }

    /// Writes rows, each after all clients have the previous one, and returns the requests to Electric for each.
    async fn requests_per_write(&mut self, writes: usize) -> f64 {
        let before = self.gate.electric.request_count();
        for _ in 0..writes {
            let title = self.write();
            self.until(&title).await.assert_complete(&self.titles());
        }
        (self.gate.electric.request_count() - before) as f64 / writes as f64
    }
}

/// Longer than a test.
const LONG: Duration = Duration::from_secs(300);

async fn joined_one_by_one(live_sse: bool) -> Crowd {
    let mut crowd = Crowd::start(if live_sse { 60 } else { 240 }, live_sse, LONG, LONG).await;
    crowd.write();
    crowd.join().await;
    let last = crowd.write();
    crowd.until(&last).await.assert_complete(&crowd.titles());
    crowd
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_joined_one_by_one_share_one_poll() {
    let mut crowd = joined_one_by_one(false).await;
    let requests = crowd.requests_per_write(10).await;
    assert!(requests <= 1.1, "{requests} requests to Electric per write");
    crowd.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_joined_one_by_one_share_one_stream_and_keep_it() {
    let mut crowd = joined_one_by_one(true).await;
    let requests = crowd.requests_per_write(10).await;
    assert!(requests <= 0.1, "{requests} requests to Electric per write");
    // One, or two if some clients were ahead of the first when they joined.
    let open = crowd.gate.metric("shapegate_open_flights").await;
    assert!(open <= 2.0, "{open} streams");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_clients_share_each_poll() {
    let mut crowd = Crowd::start(240, false, Duration::from_millis(500), LONG).await;
    let first = crowd.write();
    crowd.join().await;
    crowd.until(&first).await;
    // Several polls without a change, each with a cursor of its own for each client.
    let before = crowd.gate.electric.request_count();
    crowd.gate.electric.wait_for_requests(before + 4).await;
    crowd.settle().await;
    let last = crowd.write();
    crowd.until(&last).await.assert_complete(&crowd.titles());
    let live = crowd.gate.electric.requests().into_iter().filter(|request| request.target.contains("live=true"));
    assert!(live.clone().count() > 4);
    assert!(live.map(|request| request.target).all(|target| !target.contains("cursor")));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_share_the_next_stream_when_theirs_ends() {
    let mut crowd = Crowd::start(60, true, LONG, Duration::from_secs(4)).await;
    crowd.writes = 60_000;
    crowd.join().await;
    let last = crowd.write();
    crowd.until(&last).await;
    let streams = |crowd: &Crowd| {
        let requests = crowd.gate.electric.requests();
        requests.iter().filter(|request| request.target.contains("live_sse=true")).count()
    };
    // The streams end one after the other, and each time all their clients come back with the same position.
    let before = streams(&crowd);
    while streams(&crowd) < before + 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let last = crowd.write();
    crowd.until(&last).await.assert_complete(&crowd.titles());
    assert!(streams(&crowd) <= before + 6, "{} streams", streams(&crowd));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_change_of_the_table_all_clients_reload_through_one_request() {
    let mut crowd = Crowd::start(300, false, LONG, LONG).await;
    (crowd.every, crowd.writes) = (0, 60_000);
    crowd.join().await;
    let last = crowd.write();
    crowd.until(&last).await.assert_complete(&crowd.titles());
    crowd.settle().await;
    let before = crowd.gate.electric.request_count();
    crowd.gate.electric.delete_shapes_of("tasks");
    let last = crowd.write();
    let report = crowd.until(&last).await;
    report.assert_complete(&crowd.titles());
    assert_eq!(report.0["reloads"], crowd.size);
    crowd.settle().await;
    let requests = crowd.gate.electric.requests().split_off(before);
    assert!(requests.len() <= 5, "{requests:#?}");
    assert_eq!(requests.iter().filter(|request| request.target.contains("offset=-1")).count(), 1);
    // The snapshot, and at most its end and one change.
    assert!(crowd.gate.metric("shapegate_kept_flights").await <= 3.0);
}
