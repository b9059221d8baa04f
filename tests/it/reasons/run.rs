//! A running shapegate, and what its access log, its audit log and its metrics say about rejections.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use shapegate::demo::electric::{Electric, Options};
use tokio::task::JoinHandle;

use super::case::Case;
use crate::harness::{Answer, GATEKEEPER_SECRET, Process, SECRET, Wire, raw, start_electric};

/// A shapegate whose rejections are counted here too.
pub(super) struct Run {
    pub(super) process: Process,
    pub(super) electric: Electric,
    pub(super) path: PathBuf,
    folder: tempfile::TempDir,
    rejected: AtomicUsize,
}

/// The reason of each rejected request, by its id.
pub(super) struct Found {
    pub(super) by_id: BTreeMap<String, String>,
    pub(super) log: Vec<String>,
}

/// How often each rule has rejected a request for each reason.
type Counts = BTreeMap<(String, String), u64>;

/// What every configuration has: its logs and its listeners. It ends in `[server]`, so that a test can add to that.
const START: &str = r#"
[audit]
path = "AUDIT"
[log]
format = "json"
[server]
listen = "127.0.0.1:0"
admin = "127.0.0.1:0"
"#;

impl Run {
    /// Starts it with a configuration after [`START`], in a folder with further files. `ELECTRIC` in it stands for the URL
    /// of the stand-in.
    pub(super) async fn start(config: &str, files: &[(&str, String)]) -> Self {
        let electric = start_electric(Options::default()).await;
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let (path, audit) = (folder.path().join("shapegate.toml"), folder.path().join("audit.jsonl"));
        let text = START.replace("AUDIT", audit.to_str().unwrap())
            + &config.replace("\"ELECTRIC\"", &format!("{:?}", electric.url()));
        std::fs::write(&path, text).unwrap();
        let secrets = ["ELECTRIC_SECRET", "GATEKEEPER_SECRET"].map(|name| {
            let secret = if name.starts_with('E') { SECRET } else { GATEKEEPER_SECRET };
            format!("{name}={secret}")
        });
        let process = Process::launch(&["env", &secrets[0], &secrets[1]], &path).await;
        Self { process, electric, path, folder, rejected: AtomicUsize::new(0) }
    }

    fn count(&self, answer: &Answer) {
        // A 409 comes from Electric.
        if answer.status.as_u16() >= 400 && answer.status != 409 {
            assert!(!answer.text().contains("reason"), "{answer:?}");
            self.rejected.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends a request on a connection of its own.
    pub(super) async fn send(&self, case: &Case) -> Answer {
        let answer = raw(&self.process.url, &case.bytes()).await;
        self.count(&answer);
        answer
    }

    /// Sends a request on this connection, which stays open.
    pub(super) async fn send_on(&self, wire: &mut Wire, case: &Case) -> Answer {
        let text = String::from_utf8(case.bytes()).unwrap().replace("Connection: close\r\n", "");
        wire.send(text.as_bytes()).await;
        let answer = wire.answer(false).await.unwrap();
        self.count(&answer);
        answer
    }

    /// Sends a request that waits, and whose response is not a rejection.
    pub(super) fn wait(&self, case: &Case) -> JoinHandle<Answer> {
        let (url, bytes) = (self.process.url.clone(), case.bytes());
        tokio::spawn(async move { raw(&url, &bytes).await })
    }

    /// Sends a request that must be rejected.
    pub(super) async fn rejected(&self, case: &Case) {
        let answer = self.send(case).await;
        assert!(answer.status.as_u16() >= 400, "{}: {}", case.reason, answer.status);
    }

    pub(super) async fn metrics(&self) -> String {
        reqwest::get(format!("{}/metrics", self.process.admin)).await.unwrap().text().await.unwrap()
    }

    /// Counts rejections that were not sent with this.
    pub(super) fn also_rejected(&self, count: usize) {
        self.rejected.fetch_add(count, Ordering::Relaxed);
    }

    /// Waits until `/metrics` has this line.
    pub(super) async fn until_metric(&self, line: &str) {
        let mut metrics = self.metrics().await;
        for _ in 0..2_400 {
            if metrics.lines().any(|found| found == line) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            metrics = self.metrics().await;
        }
        panic!("no metric {line:?}: {metrics}");
    }

    /// Edits the configuration and waits until it is loaded, for the first time.
    pub(super) async fn reload(&self, before: &str, after: &str) {
        let text = std::fs::read_to_string(&self.path).unwrap();
        assert!(text.contains(before), "{before}");
        std::fs::write(&self.path, text.replace(before, after)).unwrap();
        self.process.signal("HUP").await;
        self.until_metric(r#"shapegate_reloads_total{result="ok"} 1"#).await;
    }

    /// Counts rejections by rule and reason, from the metrics.
    async fn counted(&self) -> Counts {
        let text = self.metrics().await;
        let lines = text.lines().filter_map(|line| line.strip_prefix("shapegate_rejections_total{"));
        let parsed = lines.map(|line| {
            let (labels, count) = line.split_once("} ").unwrap();
            let (reason, rule) = labels.split_once("\",rule=\"").unwrap();
            let reason = reason.strip_prefix("reason=\"").unwrap();
            ((rule.trim_end_matches('"').to_owned(), reason.to_owned()), count.parse().unwrap())
        });
        parsed.collect()
    }

    /// Stops it, and compares what the metrics, the access log and the audit log say. They must have exactly these
    /// reasons.
    pub(super) async fn agrees(self, expected: &BTreeSet<&str>) -> Found {
        // A request is counted after its response was sent.
        let rejected = u64::try_from(self.rejected.load(Ordering::Relaxed)).unwrap();
        let mut counts = self.counted().await;
        for _ in 0..2_400 {
            if counts.values().sum::<u64>() == rejected {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            counts = self.counted().await;
        }
        assert_eq!(counts.values().sum::<u64>(), rejected, "{counts:?}");
        let log = self.process.stop().await;

        let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or("-").to_owned();
        let entries = log.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let (mut logged, mut by_id) = (Counts::new(), BTreeMap::new());
        for entry in entries.filter(|entry| entry["target"] == "shapegate::access" && entry["reason"].is_string()) {
            *logged.entry((text(&entry, "rule"), text(&entry, "reason"))).or_insert(0) += 1;
            by_id.insert(text(&entry, "request_id"), text(&entry, "reason"));
        }
        assert_eq!(counts, logged);
        assert_eq!(logged.keys().map(|(_, reason)| reason.as_str()).collect::<BTreeSet<_>>(), *expected);
        let audit = std::fs::read_to_string(self.folder.path().join("audit.jsonl")).unwrap();
        let mut audited = Counts::new();
        for line in audit.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
            if line["reason"].is_string() {
                *audited.entry((text(&line, "rule"), text(&line, "reason"))).or_insert(0) +=
                    line["answers"].as_u64().unwrap();
            }
        }
        assert_eq!(audited, logged);
        assert!(log.iter().chain([&audit]).all(|line| !line.contains(SECRET)));
        Found { by_id, log }
    }
}
