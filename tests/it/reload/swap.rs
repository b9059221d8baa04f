//! A reload that gives the name of an upstream to another Electric: no client sees the rows of the wrong one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};
use shapegate::demo::electric::{Electric, Options};
use tokio::task::JoinSet;

use crate::harness::{Gate, Setup, start_electric};

/// Reloads; `SHAPEGATE_SWAPS` sets another number.
const SWAPS: usize = 60;

const CLIENTS: usize = 8;

/// The rows of organization `one` may be read from the first Electric only, and those of `two` from the second.
const ALLOWED: [&str; 2] = ["first one", "second two"];

async fn electric(name: &str) -> Electric {
    let electric = start_electric(Options::default()).await;
    for (id, organization) in [(1, "one"), (2, "two")] {
        let id = format!("00000000-0000-0000-0000-{id:012}");
        let row = json!({ "id": id, "organization_id": organization, "title": format!("{name} {organization}") });
        electric.insert("tasks", row).unwrap();
    }
    electric
}

fn rules(electric: &Electric, organization: &str) -> String {
    format!(
        "[[shape]]\ntable = 'tasks'\npublic = true\nupstream = 't'\nwhere = \"\\\"organization_id\\\" = '{organization}'\"\n\
         [upstreams.t]\nurl = '{}'\nsecret = {{ env = 'ELECTRIC_SECRET' }}\n[limits]\nrepeats = 0\n",
        electric.url()
    )
}

/// Asks until `stop`, with and without a value that makes the request a flight of its own.
async fn ask(http: reqwest::Client, url: String, stop: Arc<AtomicBool>, asked: Arc<AtomicUsize>) {
    while !stop.load(Ordering::Relaxed) {
        let number = asked.fetch_add(1, Ordering::Relaxed);
        let handle = if number.is_multiple_of(3) { format!("&handle={number}") } else { String::new() };
        let request = http.get(format!("{url}/v1/shape?table=tasks&offset=-1{handle}"));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        // A response that has begun is cut off if the new rules would not give it.
        let Ok(body) = response.text().await else { continue };
        let body: Value = serde_json::from_str(&body).unwrap();
        let rows = body.as_array().unwrap().iter().filter_map(|message| message["value"]["title"].as_str());
        let titles: Vec<_> = rows.collect();
        assert!(titles.iter().all(|title| ALLOWED.contains(title)), "{titles:?}");
        assert_eq!(titles.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_sees_rows_of_the_electric_that_had_the_name_before() {
    let (first, second) = (electric("first").await, electric("second").await);
    let gate = Gate::with(Setup { rules: rules(&first, "one"), ..Setup::default() }).await;
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(ask(gate.client().clone(), gate.url.clone(), Arc::clone(&stop), Arc::clone(&asked)));
    }
    let swaps = std::env::var("SHAPEGATE_SWAPS").map_or(SWAPS, |swaps| swaps.parse().unwrap());
    for swap in 1..=swaps {
        let before = asked.load(Ordering::Relaxed);
        let rules = if swap % 2 == 0 { rules(&first, "one") } else { rules(&second, "two") };
        gate.policy.reload(|setup| setup.rules = rules, |_| {}).unwrap();
        while asked.load(Ordering::Relaxed) < before + CLIENTS {
            tokio::task::yield_now().await;
            if let Some(ended) = clients.try_join_next() {
                ended.unwrap();
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    println!("{} requests in {swaps} swaps, none answered by the wrong Electric", asked.load(Ordering::Relaxed));
}
