//! Every metric is documented, and the documentation, the dashboard and the alerts name only existing metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use shapegate::demo::electric::Options;
use shapegate::demo::http::{End, Reply};

use crate::harness::{Gate, RULES, Setup, Stream};

const TASKS: &str = "/v1/shape?table=tasks&organizationId=org_1";

/// The type and the labels of each metric.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// Reads `/metrics` after traffic that touches every metric.
async fn scraped() -> Metrics {
    let folder = tempfile::tempdir().unwrap();
    let (audit, revoked) = (folder.path().join("audit.jsonl"), folder.path().join("revoked.json"));
    std::fs::write(&revoked, r#"{"revocations":[]}"#).unwrap();
    let setup = Setup {
        rules: format!(
            "{RULES}\n[audit]\npath = {audit:?}\n[revocation]\nfile = {revoked:?}\n[decisions.pdp]\nurl = 'http://127.0.0.1:1'\n"
        ),
        electric: Options { hold: std::time::Duration::from_millis(200), ..Options::default() },
        ..Setup::default()
    };
    let gate = Gate::with(setup).await;
    let token = gate.token(&["org_1"]);
    let first = gate.get(&format!("{TASKS}&offset=-1"), &token).await;
    let handle = first.header("electric-handle");
    assert_eq!(gate.get(&format!("{TASKS}&offset=0_inf&handle={handle}&live=true"), &token).await.status, 200);
    assert_eq!(gate.get("/v1/shape?table=other&offset=-1", "").await.status, 401);
    // Electric fails, and a body is truncated.
    gate.electric.script(Reply::new(500));
    assert_eq!(gate.get(&format!("{TASKS}&offset=-1&handle=1"), &token).await.status, 502);
    gate.electric.script(Reply::json(200, "[]").with_end(End::Reset));
    let _ = Stream::open(gate.request(&format!("{TASKS}&offset=-1&handle=2"), Some(&token))).await.rest().await;
    let cut = r#"shapegate_followers_cut_total{cause="upstream_unreachable"}"#;
    gate.until_metric(cut, 1.0).await;
    while gate.metric("shapegate_revocation_list_reads{result=\"ok\"}").await < 1.0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    parse(&gate.admin("/metrics").await.text())
}

fn parse(text: &str) -> Metrics {
    let mut metrics = Metrics::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            metrics.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            let (name, labels) = line.split_once('{').unwrap_or((line.split(' ').next().unwrap(), ""));
            let family = family(&metrics, name).unwrap_or_else(|| panic!("{line}"));
            let labels = labels.split("=\"").filter_map(|part| part.rsplit(['"', ',']).next());
            let labels = labels.filter(|label| !label.is_empty() && *label != "le" && !label.contains('}'));
            metrics.get_mut(&family).unwrap().1.extend(labels.map(str::to_owned));
        }
    }
    metrics
}

/// Returns the metric that a series belongs to.
fn family(metrics: &Metrics, series: &str) -> Option<String> {
    let suffix = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| series.strip_suffix(suffix));
    let histogram = suffix.filter(|name| metrics.get(*name).is_some_and(|(kind, _)| kind == "histogram"));
    histogram.or(Some(series).filter(|name| metrics.contains_key(*name))).map(str::to_owned)
}

/// Reads the table in docs/operate.md: name, type, labels, meaning.
fn documented() -> Metrics {
    let rows = include_str!("../../docs/operate.md")
        .lines()
        .filter(|line| ["| `shapegate_", "| `process_"].iter().any(|start| line.starts_with(start)));
    let cells = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    let metric = |cells: Vec<&str>| {
        let [_, name, kind, labels, meaning, _] = cells[..] else { panic!("{cells:?}") };
        assert!(!meaning.is_empty(), "{name}");
        let labels = labels.split(", ").filter(|label| !label.is_empty()).map(str::to_owned).collect();
        (name.trim_matches('`').to_owned(), (kind.to_owned(), labels))
    };
    cells.map(metric).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn documentation_lists_exactly_the_exported_metrics() {
    let (scraped, documented) = (scraped().await, documented());
    for (name, metric) in &scraped {
        assert_eq!(documented.get(name), Some(metric), "{name} in docs/operate.md");
    }
    for name in documented.keys() {
        assert!(scraped.contains_key(name), "{name} is not in /metrics");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_finds_nothing_wrong_with_the_metrics() {
    let gate = Gate::start().await;
    assert_eq!(gate.get(&format!("{TASKS}&offset=-1"), &gate.token(&["org_1"])).await.status, 200);
    let text = gate.admin("/metrics").await.text();
    // .ci/setup-test puts promtool there if it is not installed.
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools");
    let path = format!("{}:{tools}", std::env::var("PATH").unwrap());
    let mut check = Command::new("promtool");
    check
        .args(["check", "metrics"])
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut check = check.spawn().unwrap_or_else(|error| panic!("promtool: {error}; run .ci/setup-test"));
    check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = check.wait_with_output().unwrap();
    let said = [said.stdout, said.stderr].concat();
    assert_eq!(String::from_utf8(said).unwrap(), "");
}

/// Labels that Prometheus adds to histograms and to every target.
const FROM_PROMETHEUS: [&str; 3] = ["le", "instance", "job"];

/// Asserts that an expression uses only existing series and labels.
fn assert_series(metrics: &Metrics, expression: &str) {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names: Vec<_> = words.filter(|word| word.starts_with("shapegate_") || word.starts_with("process_")).collect();
    assert!(!names.is_empty() || expression.starts_with("up{"), "{expression}");
    for name in names {
        assert!(family(metrics, name).is_some(), "{name} in {expression}");
    }
    // Labels in matchers and in `by (…)` must exist too.
    let labels: BTreeSet<_> = metrics.values().flat_map(|(_, labels)| labels).map(String::as_str).collect();
    for (start, _) in expression.match_indices("by (") {
        let grouped = expression[start + 4..].split(')').next().unwrap();
        for label in grouped.split(", ") {
            assert!(labels.contains(label) || FROM_PROMETHEUS.contains(&label), "{label} in {expression}");
        }
    }
    for matcher in expression.split('{').skip(1).flat_map(|rest| rest.split('}').next().unwrap().split(", ")) {
        let label = matcher.split(['=', '!']).next().unwrap();
        assert!(labels.contains(label) || FROM_PROMETHEUS.contains(&label), "{label} in {expression}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dashboard_and_alerts_use_only_existing_metrics() {
    let metrics = documented();
    let dashboard: Value = serde_json::from_str(include_str!("../../conf/grafana/shapegate.json")).unwrap();
    assert_eq!(dashboard["__inputs"][0]["pluginId"], "prometheus");
    assert!(dashboard["id"].is_null(), "an id of one particular Grafana");
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        let title = &panel["title"];
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is already used");
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24 && place("h") > 0, "{title}");
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["datasource"], json!({ "type": "prometheus", "uid": "${DS_PROMETHEUS}" }), "{title}");
        let targets = panel["targets"].as_array().unwrap();
        let letters: BTreeSet<_> = targets.iter().map(|target| target["refId"].as_str().unwrap()).collect();
        assert!(!targets.is_empty() && letters.len() == targets.len(), "{title}");
        targets.iter().for_each(|target| assert_series(&metrics, target["expr"].as_str().unwrap()));
    }
    assert!(panels.len() > 20, "{}", panels.len());
    let first = panels.iter().min_by_key(|panel| panel["gridPos"]["y"].as_u64()).unwrap();
    assert_eq!(first["title"], "Refusals by rule and reason");

    let alerts = include_str!("../../conf/prometheus/alerts.yml");
    let expressions: Vec<_> = alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert_eq!(expressions.len(), alerts.matches("- alert: ").count(), "each alert has its expr on one line");
    expressions.iter().for_each(|expression| assert_series(&metrics, expression));
}
