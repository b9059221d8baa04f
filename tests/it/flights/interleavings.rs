//! Whatever the order of writes, joins, loads and reloads: every client ends with exactly Electric's rows, in order, none
//! twice, and no load misses a row that any client has seen before.

use std::sync::Mutex;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use shapegate::demo::electric::{Change, Options};

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// A transaction with this many rows.
    Write(u8),
    /// A client that follows the shape, by long polls or by streams of events.
    Join { events: bool },
    /// A client that loads the shape once.
    Load,
    /// All shapes are dropped, as a change of the table does.
    Reload,
    /// Time passes, in milliseconds.
    Pass(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..4_u8).prop_map(Step::Write),
        3 => any::<bool>().prop_map(|events| Step::Join { events }),
        2 => Just(Step::Load),
        1 => Just(Step::Reload),
        4 => (0..60_u8).prop_map(Step::Pass),
    ]
}

/// What clients have seen together.
type Seen = Arc<Mutex<BTreeSet<String>>>;

/// A client that speaks as `@electric-sql/client` does.
struct Client {
    gate: Arc<Gate>,
    token: String,
    seen: Seen,
    rows: Vec<String>,
    offset: String,
    handle: Option<String>,
    cursor: Option<String>,
    expired: Option<String>,
    busters: u32,
    up_to_date: bool,
}

/// The last row of a case.
const END: &str = "end";

impl Client {
    fn new(gate: &Arc<Gate>, number: usize, seen: &Seen) -> Self {
        Self {
            gate: Arc::clone(gate),
            token: user(gate, number, "org_1"),
            seen: Arc::clone(seen),
            rows: Vec::new(),
            offset: "-1".to_owned(),
            handle: None,
            cursor: None,
            expired: None,
            busters: 0,
            up_to_date: false,
        }
    }

    fn target(&self, events: bool) -> String {
        let mut target = format!("/v1/shape?table=tasks&organizationId=org_1&log=full&offset={}", self.offset);
        let live = if self.up_to_date { if events { "true&live_sse=true" } else { "true" } } else { "" };
        let buster = Some(self.busters.to_string()).filter(|_| self.busters > 0 && !self.up_to_date);
        for (name, value) in [
            ("handle", self.handle.as_deref()),
            ("live", Some(live)),
            ("cursor", self.cursor.as_deref().filter(|_| self.up_to_date)),
            ("expired_handle", self.expired.as_deref()),
            ("cache-buster", buster.as_deref()),
        ] {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                target += &format!("&{name}={value}");
            }
        }
        target
    }

    /// Loads the shape up to the end of the log.
    async fn load(mut self) -> Vec<String> {
        while !self.up_to_date {
            self.ask(false).await;
        }
        self.rows
    }

    /// Follows the shape until it has the last row.
    async fn follow(mut self, events: bool) -> Vec<String> {
        while self.rows.last().is_none_or(|row| row != END) {
            self.ask(events).await;
        }
        self.rows
    }

    async fn ask(&mut self, events: bool) {
        let target = self.target(events);
        let response = self.gate.request(&target, Some(&self.token)).send().await.unwrap();
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (handle, offset, cursor) =
            (header("electric-handle"), header("electric-offset"), header("electric-cursor"));
        if response.status() == 409 {
            // Start again, past every cache.
            self.expired = self.handle.take();
            (self.handle, self.offset, self.cursor, self.up_to_date) = (handle, "-1".to_owned(), None, false);
            self.busters += 1;
            return self.rows.clear();
        }
        assert_eq!(response.status(), 200, "{target}");
        assert!(handle.is_some() && handle != self.expired, "{target}: {handle:?}");
        assert!(cursor.is_none() || cursor != self.cursor, "{target}: the cursor that was sent");
        (self.handle, self.offset) = (handle, offset.unwrap());
        self.cursor = cursor.or(self.cursor.take());
        if header("content-type").is_some_and(|kind| kind == "text/event-stream") {
            return self.read_events(response).await;
        }
        self.up_to_date |= header("electric-up-to-date").is_some();
        let messages: Vec<serde_json::Value> = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        messages.iter().for_each(|message| self.take(message));
    }

    async fn read_events(&mut self, mut response: reqwest::Response) {
        let (mut text, mut batch) = (String::new(), Vec::new());
        while let Some(chunk) = response.chunk().await.unwrap() {
            text += std::str::from_utf8(&chunk).unwrap();
            while let Some((event, rest)) = text.split_once("\n\n") {
                if let Some(data) = event.strip_prefix("data: ") {
                    batch.push(serde_json::from_str::<serde_json::Value>(data).unwrap());
                }
                text = rest.to_owned();
                let lsn = batch.last().and_then(|last| last["headers"]["global_last_seen_lsn"].as_str());
                if let Some(lsn) = lsn {
                    self.offset = format!("{lsn}_0");
                    std::mem::take(&mut batch).iter().for_each(|message| self.take(message));
                }
            }
            if self.rows.last().is_some_and(|row| row == END) {
                return;
            }
        }
        assert!(text.is_empty() && batch.is_empty(), "a stream ends between two transactions: {text:?} {batch:?}");
    }

    fn take(&mut self, message: &serde_json::Value) {
        if message["headers"]["operation"] == "insert" {
            let title = message["value"]["title"].as_str().unwrap().to_owned();
            assert!(!self.rows.contains(&title), "{title} twice in {:?}", self.rows);
            self.seen.lock().unwrap().insert(title.clone());
            self.rows.push(title);
        }
    }
}

/// Runs one case, and returns the requests to Electric.
async fn run(steps: Vec<Step>) -> usize {
    let electric =
        Options { hold: Duration::from_millis(300), sse_life: Duration::from_millis(400), ..Options::default() };
    let rules = format!("{RULES}\n[cache]\nsse_join = '1s'\n");
    let gate = Arc::new(Gate::with(Setup { rules, electric, ..Setup::default() }).await);
    let (seen, mut written) = (Seen::default(), Vec::new());
    let write = |written: &mut Vec<String>, titles: Vec<String>| {
        let rows = titles.iter().map(|title| {
            let id = format!("00000000-0000-0000-0000-{:012}", written.len());
            written.push(title.clone());
            Change::Insert("tasks".to_owned(), json!({ "id": id, "organization_id": "org_1", "title": title }))
        });
        let rows: Vec<_> = rows.collect();
        gate.electric.transaction(&rows).unwrap();
    };
    let mut following = Vec::new();
    for (number, step) in steps.into_iter().enumerate() {
        let client = || Client::new(&gate, number, &seen);
        match step {
            Step::Write(rows) => {
                let titles = (0..rows).map(|row| format!("{number}.{row}")).collect();
                write(&mut written, titles);
            }
            Step::Join { events } => following.push(tokio::spawn(client().follow(events))),
            Step::Load => {
                let before = seen.lock().unwrap().clone();
                let loaded: BTreeSet<_> = client().load().await.into_iter().collect();
                assert!(before.is_subset(&loaded), "missing: {:?}", before.difference(&loaded));
            }
            Step::Reload => gate.electric.delete_shapes_of("tasks"),
            Step::Pass(milliseconds) => tokio::time::sleep(Duration::from_millis(milliseconds.into())).await,
        }
    }
    write(&mut written, vec![END.to_owned()]);
    for client in following {
        assert_eq!(client.await.unwrap(), written);
    }
    gate.electric.request_count()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_ends_with_the_rows_of_electric_whatever_the_order() {
    let mut runner = TestRunner::deterministic();
    for _ in 0..12 {
        let steps = proptest::collection::vec(step(), 20..40).new_tree(&mut runner).unwrap().current();
        let shown = format!("{steps:?}");
        let done = tokio::spawn(run(steps)).await;
        assert!(done.is_ok(), "{shown}");
    }
}
