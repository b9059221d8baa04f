//! Measures the decision: from a verified principal and a parsed request to a permit or a denial.

#![allow(clippy::unwrap_used, clippy::expect_used)] // the lint's own exception does not reach helpers

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::json;
use shapegate::clock::{Clock, SystemClock};
use shapegate::demo::http::{Reply, Server};
use shapegate::policy::{Progress, Step};
use shapegate::shape::ShapeRequest;

mod scene;

fn authorize(c: &mut Criterion) {
    let scene = scene::Scene::new();
    let now = SystemClock.now();
    let principal =
        scene.principal(&json!({ "organizationIds": (0..20).map(|n| format!("org-{n}")).collect::<Vec<_>>() }));
    let request = |table: &str, organization: &str| {
        let query = format!("table={table}&organizationId={organization}&offset=-1");
        ShapeRequest::parse(None, &query, scene.policy.parameters()).unwrap()
    };
    let (one, list, denied) =
        (request("tasks", "org-7"), request("organizations", "org-7"), request("tasks", "org-77"));
    c.bench_function("authorize/allow, one value", |b| {
        b.iter(|| scene.policy.authorize(Some(&principal), black_box(&one), now).unwrap());
    });
    c.bench_function("authorize/allow, list of 20", |b| {
        b.iter(|| scene.policy.authorize(Some(&principal), black_box(&list), now).unwrap());
    });
    c.bench_function("authorize/deny", |b| {
        b.iter(|| scene.policy.authorize(Some(&principal), black_box(&denied), now).unwrap_err());
    });
}

/// The same rule and request, without a decision service and with its cached answer.
fn decided(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (pdp, _serving) = runtime.block_on(async {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let url = format!("http://{}", server.local_addr().unwrap());
        (url, server.serve(|_| std::future::ready(Reply::json(200, r#"{"decision":true}"#))))
    });
    let scene = scene::Scene::asking(&pdp);
    let principal = scene.principal(&json!({ "organizationIds": ["org-6", "org-7"] }));
    let now = SystemClock.now();
    for (name, table) in [("no decision", "tasks"), ("cached decision", "projects")] {
        let query = format!("table={table}&organizationId=org-7&offset=-1");
        let request = ShapeRequest::parse(None, &query, scene.policy.parameters()).unwrap();
        let judge = || {
            let mut progress = Progress::default();
            let step =
                scene.policy.judge(Some(&principal), black_box(&request), now, &mut progress, &mut |_| {}).unwrap();
            match step {
                Step::Permit(permit) => permit,
                // Once at the start, and when the answer has run out.
                Step::Ask(questions) => {
                    progress.answer(runtime.block_on(questions.ask()));
                    let step = scene.policy.judge(Some(&principal), &request, now, &mut progress, &mut |_| {}).unwrap();
                    let Step::Permit(permit) = step else { panic!("{step:?}") };
                    permit
                }
            }
        };
        c.bench_function(&format!("authorize/allow, {name}"), |b| b.iter(judge));
    }
}

criterion_group!(benches, authorize, decided);
criterion_main!(benches);
