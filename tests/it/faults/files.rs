//! No file descriptor is left: open connections are served, new ones wait, and metrics and log show it.

use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::{Site, get, tasks};
use crate::harness::Wire;

const REFUSED: &str = "shapegate_accept_failures_total";

/// Allows the process to open this many more files.
fn leave(pid: u32, files: u64) {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
    let limit = Rlimit { current: Some(open + files), ..getrlimit(Resource::Nofile) };
    prlimit(Pid::from_raw(pid.try_into().unwrap()), Resource::Nofile, limit).unwrap();
}

/// Starts a long poll on a new connection.
async fn waiting(site: &Site, token: &str) -> Wire {
    let mut wire = Wire::open(&site.process.url).await;
    wire.send(&get(&format!("{}&offset=-1", tasks("org_1")), token)).await;
    let first = wire.answer(false).await.unwrap();
    let (handle, offset) = (first.header("electric-handle"), first.header("electric-offset"));
    let live = format!("{}&handle={handle}&offset={offset}&live=true", tasks("org_1"));
    wire.send(&get(&live, token)).await;
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn without_file_descriptors_open_connections_are_served_and_new_ones_wait() {
    let site = Site::start(&[], |_, text| format!("{text}\n[log]\nformat = 'json'\n")).await;
    let token = site.token("user-1");
    let mut admin = Wire::open(&site.process.admin).await;
    let mut connected = Wire::open(&site.process.url).await;
    connected.send(&get("/nothing", &token)).await;
    assert_eq!(connected.answer(false).await.unwrap().status, 404);
    let mut polls = Vec::new();
    for _ in 0..8 {
        polls.push(waiting(&site, &token).await);
    }
    Site::until_metric(&mut admin, "shapegate_followers", 8.0).await;

    leave(site.process.pid(), 4);
    let mut crowd = Vec::new();
    for _ in 0..40 {
        crowd.push(Wire::open(&site.process.url).await);
    }
    let mut queued = Wire::open(&site.process.url).await;
    queued.send(&get("/nothing", &token)).await;
    Site::until_metric(&mut admin, REFUSED, 15.0).await;

    // The polls use the only connection to Electric, and no file is left for another.
    connected.send(&get(&format!("{}&offset=-1", tasks("org_2")), &token)).await;
    let refused = connected.answer(false).await.unwrap();
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (502, "5"), "{}", refused.text());
    // A change reaches every waiting client, and frees the connection.
    site.insert("1", "org_1");
    for poll in &mut polls {
        let answer = poll.answer(false).await.unwrap();
        assert_eq!(answer.status, 200);
    }
    connected.send(&get(&format!("{}&offset=-1", tasks("org_2")), &token)).await;
    assert_eq!(connected.answer(false).await.unwrap().status, 200);
    // No file is left to fetch a new key either, so its token gives 503 and not 401.
    site.issuer.keys.rotate().unwrap();
    let renewed = site.token("user-1");
    connected.send(&get(&format!("{}&offset=-1", tasks("org_2")), &renewed)).await;
    let answer = connected.answer(false).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "keys_unavailable"));
    assert!(!answer.header("retry-after").is_empty());

    drop(crowd);
    let answer = tokio::time::timeout(Duration::from_secs(20), queued.answer(false)).await;
    assert_eq!(answer.unwrap().unwrap().status, 404, "it has waited in the queue");
    let client = reqwest::Client::new();
    let late = || client.get(format!("{}{}&offset=-1", site.process.url, tasks("org_2"))).bearer_auth(&renewed);
    while late().send().await.unwrap().status() == 503 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(late().send().await.unwrap().status(), 200);
    let log = site.process.stop().await;
    let told = log.iter().filter(|line| line.contains("cannot accept connections")).count();
    assert!((1..=3).contains(&told), "{log:#?}");
}
