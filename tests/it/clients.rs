//! The real clients from npm through shapegate: `@electric-sql/client`, and TanStack DB on top of it.

mod crowd;

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use shapegate::config::Config;
use shapegate::demo::http::{Reply, Server, Serving};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::harness::{Gate, RULES, SHORT_LIFE, Setup, with_defaults};

/// How long a test waits for a line of the client before it fails. No line takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// The default limits, which real clients must not reach.
const AS_BY_DEFAULT: &str = "\n[limits]\n";

async fn start() -> Gate {
    Gate::with(Setup { rules: format!("{RULES}{AS_BY_DEFAULT}"), ..Setup::default() }).await
}

/// A Node.js process that runs a real client.
struct Client {
    lines: Lines<BufReader<ChildStdout>>,
    commands: ChildStdin,
    _child: Child,
}

impl Client {
    fn start(options: &Value) -> Self {
        Self::run("stream.mjs", options)
    }

    fn run(script: &str, options: &Value) -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");
        let mut child = Command::new("node")
            .args([&format!("{folder}/{script}"), &options.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("node: {error}; run .ci/setup-test"));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { lines, commands: child.stdin.take().unwrap(), _child: child }
    }

    /// Writes a line to the client's standard input.
    async fn command(&mut self, command: &Value) {
        self.commands.write_all(format!("{command}\n").as_bytes()).await.unwrap();
    }

    async fn line(&mut self) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.expect("no line from the client").unwrap();
        let line = line.expect("the client ended; if its npm packages are missing, run .ci/setup-test");
        serde_json::from_str(&line).unwrap()
    }

    /// Reads lines until one satisfies `wanted`.
    async fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.line().await;
            if wanted(&line) {
                return line;
            }
        }
    }

    /// Waits for a row with this title, and returns its operation.
    async fn title(&mut self, title: &str) -> String {
        let is_row = |message: &Value| message["value"]["title"] == title;
        let line = self.until(|line| line["messages"].as_array().is_some_and(|all| all.iter().any(is_row))).await;
        let message = line["messages"].as_array().unwrap().iter().find(|message| is_row(message)).unwrap();
        message["headers"]["operation"].as_str().unwrap().to_owned()
    }
}

/// Starts a server that hands out these tokens in turn, and then always the last one.
async fn token_server(tokens: Vec<String>) -> (String, Arc<AtomicUsize>, Serving) {
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let url = format!("http://{}/token", server.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let serving = server.serve(move |_| {
        let turn = counter.fetch_add(1, Ordering::SeqCst).min(tokens.len() - 1);
        std::future::ready(Reply::new(200).with_body(tokens[turn].clone()))
    });
    (url, asked, serving)
}

fn options(gate: &Gate, token_url: &str) -> Value {
    json!({
        "url": format!("{}/v1/shape", gate.url),
        "params": { "table": "tasks", "organizationId": "org_1" },
        "tokenUrl": token_url,
    })
}

async fn syncs(live_sse: bool) {
    let gate = start().await;
    gate.insert_task(1, "org_1", "first");
    gate.insert_task(2, "org_2", "foreign");
    let (token_url, _, _serving) = token_server(vec![gate.token(&["org_1"])]).await;
    let mut options = options(&gate, &token_url);
    options["liveSse"] = json!(live_sse);
    let mut client = Client::start(&options);
    assert_eq!(client.title("first").await, "insert");
    gate.electric.wait_for_waiting(1).await;
    gate.insert_task(3, "org_2", "foreign too");
    gate.insert_task(4, "org_1", "second");
    assert_eq!(client.title("second").await, "insert");
    let asked: Vec<_> = gate.electric.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(asked.iter().any(|target| target.contains("live_sse=true")), live_sse, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn initial_sync_and_live_update_by_long_poll() {
    syncs(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn initial_sync_and_live_update_by_sse() {
    syncs(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_syncs_again_after_409() {
    let gate = start().await;
    gate.insert_task(1, "org_1", "before");
    let (token_url, _, _serving) = token_server(vec![gate.token(&["org_1"])]).await;
    let mut client = Client::start(&options(&gate, &token_url));
    client.title("before").await;
    gate.electric.wait_for_waiting(1).await;
    gate.electric.truncate("tasks").unwrap();
    let refetch = |line: &Value| {
        line["messages"].as_array().is_some_and(|all| all.iter().any(|m| m["headers"]["control"] == "must-refetch"))
    };
    client.until(refetch).await;
    gate.insert_task(2, "org_1", "after");
    client.title("after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_fetches_a_new_token_after_401() {
    let gate = start().await;
    gate.insert_task(1, "org_1", "first");
    let claims = json!({ "sub": "user-1", "organizationIds": ["org_1"], "iat": 1_000, "exp": 2_000 });
    let expired = gate.issuer.keys.sign(&with_defaults(gate.issuer.url(), &claims));
    let (token_url, asked, _serving) = token_server(vec![expired, gate.token(&["org_1"])]).await;
    let mut options = options(&gate, &token_url);
    options["retry"] = json!([401]);
    let mut client = Client::start(&options);
    let error = client.line().await;
    assert_eq!((error["error"].as_u64(), error["code"].as_str()), (Some(401), Some("token_expired")));
    client.title("first").await;
    assert!(asked.load(Ordering::SeqCst) >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_stops_after_403() {
    let gate = start().await;
    let (token_url, _, _serving) = token_server(vec![gate.token(&["org_2"])]).await;
    let mut options = options(&gate, &token_url);
    options["retry"] = json!([401]);
    let mut client = Client::start(&options);
    let error = client.line().await;
    assert_eq!((error["error"].as_u64(), error["code"].as_str()), (Some(403), Some("forbidden")));
    assert_eq!(client.line().await["stopped"], 403);
    assert_eq!(gate.electric.request_count(), 0);
}

/// Returns the rows of a line in order, each as its operation and title.
fn rows(line: &Value) -> Vec<String> {
    let messages = line["messages"].as_array().into_iter().flatten();
    messages
        .map(|message| match message["headers"]["control"].as_str() {
            Some(control) => control.to_owned(),
            None => format!("{} {}", message["headers"]["operation"], message["value"]["title"]),
        })
        .filter(|row| row != "up-to-date" && row != "snapshot-end")
        .collect()
}

/// Reads rows until one contains `last`, and returns all of them.
async fn all_until(client: &mut Client, last: &str) -> Vec<String> {
    let mut seen = Vec::new();
    while !seen.last().is_some_and(|row: &String| row.contains(last)) {
        seen.extend(rows(&client.line().await));
    }
    seen
}

async fn two_see_the_same(live_sse: bool) {
    let gate = start().await;
    gate.insert_task(1, "org_1", "first");
    let (token_url, _, _serving) = token_server(vec![gate.token(&["org_1"])]).await;
    let mut options = options(&gate, &token_url);
    options["liveSse"] = json!(live_sse);
    let mut clients = [Client::start(&options), Client::start(&options)];
    let mut seen = [Vec::new(), Vec::new()];
    for (turn, last) in ["first", "12", "after", "22"].into_iter().enumerate() {
        for (client, seen) in clients.iter_mut().zip(&mut seen) {
            seen.extend(all_until(client, last).await);
        }
        // Both wait on the same flight.
        gate.until_metric("shapegate_requests_in_flight", 2.0).await;
        gate.until_metric("shapegate_open_flights", 1.0).await;
        match turn {
            0 => (10..=12).for_each(|number| gate.insert_task(number, "org_1", &number.to_string())),
            1 => {
                gate.electric.truncate("tasks").unwrap();
                gate.insert_task(13, "org_1", "after");
            }
            2 => (20..=22).for_each(|number| gate.insert_task(number, "org_1", &number.to_string())),
            _ => {}
        }
    }
    assert_eq!(seen[0], seen[1]);
    assert!(seen[0].contains(&"must-refetch".to_owned()), "{seen:?}");
    assert!(gate.metric(r#"shapegate_joins_total{how="open",rule="tasks"}"#).await >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_on_one_flight_see_the_same_by_long_poll() {
    two_see_the_same(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_on_one_flight_see_the_same_by_sse() {
    two_see_the_same(true).await;
}

/// Runs TanStack DB's Electric collection in on-demand mode: the rows of a live query are loaded as a subset, and
/// changes arrive with the log.
async fn on_demand(method: &str) {
    let rules = RULES.replacen("where", "subset = true\ncolumns = [\"id\", \"title\"]\nwhere", 1);
    let gate = Gate::with(Setup { rules: format!("{rules}{AS_BY_DEFAULT}"), ..Setup::default() }).await;
    for (id, title) in [(1, "urgent 2"), (2, "later"), (3, "b"), (4, "it's"), (5, "urgent 9")] {
        gate.insert_task(id, "org_1", title);
    }
    gate.insert_task(6, "org_2", "a");
    let (token_url, _, _serving) = token_server(vec![gate.token(&["org_1"])]).await;
    let mut options = options(&gate, &token_url);
    options["method"] = json!(method);
    options["limit"] = json!(3);
    let mut client = Client::run("ondemand.mjs", &options);
    client.until(|line| line["titles"] == json!(["b", "it's", "urgent 2"])).await;
    gate.electric.wait_for_waiting(1).await;
    gate.insert_task(7, "org_2", "a");
    gate.insert_task(8, "org_1", "a");
    client.until(|line| line["titles"] == json!(["a", "b", "it's"])).await;
    let requests = gate.electric.requests();
    let subsets: Vec<_> = requests.iter().filter(|request| request.method == "POST").collect();
    assert!(!subsets.is_empty());
    for subset in subsets {
        let body: Value = serde_json::from_slice(&subset.body).unwrap();
        assert_eq!(body.as_object().unwrap().keys().collect::<Vec<_>>(), ["subset"], "{body}");
        assert!(!subset.target.contains("subset"), "{}", subset.target);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_demand_collection_loads_subsets_by_get() {
    on_demand("GET").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_demand_collection_loads_subsets_by_post() {
    on_demand("POST").await;
}

/// Runs a join of TanStack DB, which sends the keys of one collection to load the rows of the other.
async fn joins(count: u32) {
    let rules = format!(
        "{}\n[[shape]]\npath = \"/api/keys\"\ntable = \"items\"\nwhere = \"none\"\n",
        RULES.replacen("where", "subset = true\ncolumns = [\"id\", \"title\"]\nwhere", 1)
    );
    let gate = Gate::with(Setup { rules: format!("{rules}{AS_BY_DEFAULT}"), ..Setup::default() }).await;
    let rows = count.min(300);
    for number in 1..=count {
        if number <= rows {
            gate.insert_task(number, "org_1", "row");
        }
        let key = format!("00000000-0000-0000-0000-{number:012}");
        gate.electric.insert("items", json!({ "id": number, "user_id": "u", "title": key })).unwrap();
    }
    let (token_url, _, _serving) = token_server(vec![gate.token(&["org_1"])]).await;
    let mut options = options(&gate, &token_url);
    options["itemsUrl"] = json!(format!("{}/api/keys", gate.url));
    let mut client = Client::run("join.mjs", &options);
    client
        .until(|line| {
            assert!(line["error"].is_null() && line["rejected"].is_null(), "{line}");
            line["joined"] == rows
        })
        .await;
    let posts = gate.electric.requests().into_iter().filter(|request| request.method == "POST");
    let longest = posts.map(|request| request.body.len()).max().unwrap();
    // The stand-in remembers 64 KiB.
    assert!(longest > (36 * count as usize).min(65_535), "{longest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn join_loads_the_rows_of_300_keys() {
    joins(300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn join_loads_the_rows_of_5000_keys() {
    joins(5_000).await;
}

/// Starts a gate with `rules` and a gatekeeper that sends clients to its address.
async fn minting(rules: &str, tune: fn(&mut Config)) -> Gate {
    let mut gate = Gate::start().await;
    let rules = format!(
        r#"{rules}
[gatekeeper]
issuer = "https://shapes.test"
audience = "https://app.test"
hs256 = {{ env = "GATEKEEPER_SECRET" }}
public_url = "{}/v1/shape"
{AS_BY_DEFAULT}"#,
        gate.url
    );
    gate.policy.keep(|setup| (setup.rules, setup.tune) = (rules, tune));
    gate
}

/// Counts the requests to Electric that start at the beginning of the log.
fn initial_requests(gate: &Gate) -> usize {
    gate.electric.requests().iter().filter(|request| request.target.contains("offset=-1")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn gatekeeper_client_resumes_its_shape_after_its_token_expires() {
    let short = |config: &mut Config| {
        config.gatekeeper.as_mut().unwrap().lifetime = Duration::from_secs(SHORT_LIFE);
        config.issuers.last_mut().unwrap().leeway = Duration::ZERO;
    };
    let rules = RULES.replace("where = '", "columns = [\"id\", \"organization_id\", \"title\"]\nwhere = '");
    let gate = minting(&rules, short).await;
    gate.insert_task(1, "org_1", "first");
    gate.insert_task(2, "org_2", "foreign");
    let gatekeeper = format!("{}/gatekeeper/tasks?organizationId=org_1", gate.url);
    let options = json!({ "gatekeeper": gatekeeper, "token": gate.token(&["org_1"]) });
    let mut client = Client::run("gatekeeper.mjs", &options);
    assert_eq!(client.line().await, json!({ "minted": 200 }));
    assert_eq!(client.title("first").await, "insert");
    let error = client.until(|line| line["error"].is_number()).await;
    assert_eq!(error, json!({ "error": 401, "code": "token_expired" }));
    client.until(|line| *line == json!({ "minted": 200 })).await;
    gate.insert_task(3, "org_2", "foreign too");
    gate.insert_task(4, "org_1", "second");
    // Only the new row: the client has kept its handle and offset.
    let rows = client.until(|line| line["messages"].as_array().is_some_and(|all| all.iter().any(is_change))).await;
    let titles: Vec<_> = rows["messages"].as_array().unwrap().iter().filter(|message| is_change(message)).collect();
    assert_eq!((titles.len(), &titles[0]["value"]["title"]), (1, &json!("second")));
    assert_eq!(initial_requests(&gate), 1);
}

fn is_change(message: &Value) -> bool {
    message["headers"]["operation"].is_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn gatekeeper_client_gets_a_new_token_after_403() {
    let gate = minting(RULES, |_| {}).await;
    gate.insert_task(1, "org_1", "first");
    let gatekeeper = format!("{}/gatekeeper/tasks?organizationId=org_1", gate.url);
    let options = json!({ "gatekeeper": gatekeeper, "token": gate.token(&["org_1"]) });
    let mut client = Client::run("gatekeeper.mjs", &options);
    client.title("first").await;
    gate.electric.wait_for_waiting(1).await;
    // The rule has changed, although it allows the same, so its tokens are revoked.
    let rules = RULES.replace("in claims.organizationIds", "in claims.organizationIds && true");
    let setup = Setup { rules, ..Setup::default() };
    gate.policy.replace(setup.config("http://127.0.0.1:3000", "http://127.0.0.1:3001").policy);
    let error = client.until(|line| line["error"].is_number()).await;
    assert_eq!(error, json!({ "error": 403, "code": "forbidden" }));
    client.until(|line| *line == json!({ "minted": 200 })).await;
    gate.insert_task(2, "org_1", "second");
    client.title("second").await;
    assert_eq!(initial_requests(&gate), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_without_a_token_syncs_a_public_shape() {
    let public = "[[shape]]\ntable = \"items\"\nwhere = \"none\"\npublic = true\n";
    let gate = minting(public, |_| {}).await;
    gate.electric.insert("items", json!({ "id": 1, "user_id": "u_1", "title": "open" })).unwrap();
    let mut client = Client::run("gatekeeper.mjs", &json!({ "gatekeeper": format!("{}/gatekeeper/items", gate.url) }));
    client.title("open").await;
}
