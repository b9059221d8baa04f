//! SIGHUP: valid and invalid files, and settings that need a restart.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{ITEMS, TASKS, token_of};
use crate::harness::{Answer, Gate, Process, config};

struct Scene {
    gate: Gate,
    folder: tempfile::TempDir,
    process: Process,
    text: String,
}

impl Scene {
    /// Starts a process that uses the Electric and the issuer of a gate.
    async fn start() -> Self {
        let (gate, folder) = (Gate::start().await, tempfile::tempdir().unwrap());
        let path = config(folder.path(), &gate.electric.url(), gate.issuer.url());
        std::fs::write(folder.path().join("secret"), crate::harness::SECRET).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace("{ env = \"ELECTRIC_SECRET\" }", "{ file = \"secret\" }") + "[log]\nformat = 'json'\n";
        std::fs::write(&path, &text).unwrap();
        let process = Process::start(&path).await;
        Self { gate, folder, process, text }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("shapegate.toml")
    }

    async fn status(&self, target: &str) -> u16 {
        let request = self.gate.client().get(format!("{}{target}", self.process.url));
        request.bearer_auth(token_of(&self.gate.issuer, "org_1")).send().await.unwrap().status().as_u16()
    }

    async fn metric(&self, name: &str) -> f64 {
        let text = Answer::of(reqwest::get(format!("{}/metrics", self.process.admin)).await.unwrap()).await.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
    }

    /// Sends SIGHUP, and waits until a reload with this result is counted.
    async fn hang_up(&self, result: &str) {
        let name = format!("shapegate_reloads_total{{result=\"{result}\"}}");
        let before = self.metric(&name).await;
        self.process.signal("HUP").await;
        while self.metric(&name).await == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// Returns the log entries whose message contains `message`.
fn entries(log: &[String], message: &str) -> Vec<Value> {
    let entries = log.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    entries.filter(|entry| entry["message"].as_str().is_some_and(|text| text.contains(message))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_applies_a_valid_file_and_rejects_an_invalid_one_entirely() {
    let scene = Scene::start().await;
    assert_eq!((scene.status(TASKS).await, scene.status(ITEMS).await), (200, 200));
    let current = "shapegate_config_current";
    assert_eq!(scene.metric(current).await, 1.0);
    let loaded = scene.metric("shapegate_config_loaded_timestamp_seconds").await;

    // One rule is removed, and the same file has an error: nothing changes.
    let without_tasks = scene.text.replace("table = \"tasks\"", "table = \"gone\"");
    let faulty = without_tasks.replace("where = '\"organization_id\"", "whree = '\"organization_id\"");
    let line = 1 + faulty.lines().position(|line| line.starts_with("whree")).unwrap();
    write(&scene.path(), &faulty);
    // The file is checked every second.
    while scene.metric(current).await != 0.0 {}
    scene.hang_up("refused").await;
    assert_eq!((scene.status(TASKS).await, scene.status(ITEMS).await), (200, 200));
    assert_eq!(scene.metric(current).await, 0.0);
    assert_eq!(scene.metric("shapegate_config_loaded_timestamp_seconds").await, loaded);

    write(&scene.path(), &without_tasks);
    scene.hang_up("ok").await;
    assert_eq!((scene.status(TASKS).await, scene.status(ITEMS).await), (404, 200));
    assert_eq!(scene.metric(current).await, 1.0);

    // A missing file is an invalid one too.
    std::fs::remove_file(scene.path()).unwrap();
    scene.hang_up("refused").await;
    assert_eq!((scene.status(TASKS).await, scene.status(ITEMS).await), (404, 200));
    write(&scene.path(), &scene.text);
    scene.hang_up("ok").await;
    assert_eq!((scene.status(TASKS).await, scene.status(ITEMS).await), (200, 200));

    let log = scene.process.stop().await;
    let refused = entries(&log, "configuration rejected");
    let faults: Vec<_> = refused.iter().map(|entry| entry["fault"].as_str().unwrap()).collect();
    assert_eq!(faults.len(), 3, "{faults:?}");
    let named = format!("shapegate.toml:{line}: shape[0].whree");
    assert!(faults.iter().any(|fault| fault.contains(&named) && fault.contains("did you mean")), "{faults:?}");
    assert!(faults[2].contains("shapegate.toml: cannot be read"), "{faults:?}");
    assert_eq!(entries(&log, "configuration reloaded").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_rereads_secrets_and_names_settings_that_need_a_restart() {
    let scene = Scene::start().await;
    assert_eq!(scene.status(TASKS).await, 200);
    write(&scene.folder.path().join("secret"), "no-such-secret");
    scene.hang_up("ok").await;
    assert_eq!(scene.status(&format!("{TASKS}&handle=1")).await, 502);
    write(&scene.folder.path().join("secret"), crate::harness::SECRET);
    let changed = scene.text.replace("[server]\n", "[server]\nh2c = true\nthreads = 3\n");
    let changed = changed.replace("format = 'json'", "format = 'text'\naccess = false");
    write(&scene.path(), &changed.replace("table = \"tasks\"", "table = \"gone\""));
    scene.hang_up("ok").await;
    // A reload leaves no file open.
    let files = scene.metric("process_open_fds").await;
    for _ in 0..30 {
        scene.hang_up("ok").await;
    }
    assert!(scene.metric("process_open_fds").await < files + 20.0);
    // Everything else is applied.
    assert_eq!((scene.status(TASKS).await, scene.status(ITEMS).await), (404, 200));
    let log = scene.process.stop().await;
    let warned = entries(&log, "take effect after a restart");
    assert_eq!(warned.len(), 31, "one for each reload");
    assert!(warned.iter().all(|entry| entry["keys"] == "server.threads, server.h2c, log.format"), "{}", warned[0]);
    let served: Vec<_> = log.iter().filter(|line| line.contains("shapegate::access")).collect();
    assert_eq!(served.len(), 2, "none after the reload that switched them off: {served:?}");
    assert!(!log.iter().any(|line| line.contains("no-such-secret") || line.contains(crate::harness::SECRET)));
}
