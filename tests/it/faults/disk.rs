//! A full disk: saved keys and audit lines are lost and counted, and requests are served.

use std::path::Path;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::Value;

use super::{Site, tasks};
use crate::harness::Wire;

/// Limits the size of the files of a process (setrlimit(2)), which simulates a full disk without privileges.
fn room(pid: u32, bytes: Option<u64>) {
    let limit = Rlimit { current: bytes, ..getrlimit(Resource::Fsize) };
    prlimit(Pid::from_raw(pid.try_into().unwrap()), Resource::Fsize, limit).unwrap();
}

/// Reads the complete lines of an audit file, and counts the torn ones.
fn lines(path: &Path) -> (Vec<Value>, usize) {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().map(serde_json::from_str).collect();
    let torn = lines.iter().filter(|line| line.is_err()).count();
    (lines.into_iter().flatten().collect(), torn)
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_loses_saved_keys_and_audit_lines_but_fails_no_request() {
    // With SIGXFSZ ignored, writes over the limit fail as on a full disk, and no signal ends the process.
    let launcher = ["sh", "-c", "trap '' XFSZ; ulimit -S -f 0; exec \"$@\"", "sh"];
    let site = Site::start(&launcher, |folder, text| {
        let state = folder.join("state");
        std::fs::create_dir(&state).unwrap();
        let audit = folder.join("audit.jsonl");
        let text = text.replacen("[server]", &format!("[server]\nstate = {state:?}"), 1);
        format!("{text}\n[log]\nformat = 'json'\n[audit]\npath = {audit:?}\nsessions = 1\n")
    })
    .await;
    let (state, audit) = (site.folder.path().join("state"), site.folder.path().join("audit.jsonl"));
    let mut admin = Wire::open(&site.process.admin).await;
    let client = reqwest::Client::new();
    // Each session evicts the previous one: `count - 1` lines are written.
    let serve = async |from: u32, count: u32| {
        for number in from..from + count {
            let request = client.get(format!("{}{}&offset=-1", site.process.url, tasks("org_1")));
            let token = site.token(&format!("user-{number}"));
            assert_eq!(request.bearer_auth(token).send().await.unwrap().status(), 200);
        }
    };
    serve(0, 21).await;
    Site::until_metric(&mut admin, "shapegate_audit_lines_dropped_total", 20.0).await;
    let not_saved = format!("shapegate_key_saves_failed_total{{issuer=\"{}\"}}", site.issuer.url());
    Site::until_metric(&mut admin, &not_saved, 1.0).await;
    assert_eq!(std::fs::read_dir(&state).unwrap().count(), 0, "no partly written file is left");
    assert_eq!(lines(&audit), (vec![], 0));

    // The space ends within a line.
    room(site.process.pid(), Some(100));
    serve(100, 2).await;
    Site::until_metric(&mut admin, "shapegate_audit_lines_dropped_total", 21.0).await;

    room(site.process.pid(), getrlimit(Resource::Fsize).maximum);
    serve(200, 4).await;
    site.issuer.keys.rotate().unwrap();
    serve_renewed(&site, &client).await;
    let saved = || {
        std::fs::read_dir(&state)
            .unwrap()
            .flatten()
            .any(|entry| entry.path().extension().is_some_and(|end| end == "json"))
    };
    for _ in 0..500 {
        if saved() && lines(&audit).0.len() >= 4 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(saved());
    let (whole, torn) = lines(&audit);
    assert!(whole.len() >= 4 && torn == 1, "{whole:#?}, {torn}");
    assert!(whole.iter().all(|line| line["rule"] == "tasks" || line["reason"].is_string()));
    let log = site.process.stop().await;
    let said = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!((said("audit lines are lost"), said("audit lines are written again")), (1, 1), "{log:#?}");
}

/// Waits until a token of the new key is accepted. A cool-down may delay the fetch of the key.
async fn serve_renewed(site: &Site, client: &reqwest::Client) {
    let token = site.token("user-300");
    let ask = || client.get(format!("{}{}&offset=-1", site.process.url, tasks("org_1"))).bearer_auth(&token);
    while ask().send().await.unwrap().status() != 200 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
