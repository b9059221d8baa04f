//! Measures the decision: from a verified principal and a parsed request to a permit or a denial.

#![allow(clippy::unwrap_used, clippy::expect_used)] // the lint's own exception does not reach helpers

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::json;
use shapegate::clock::{Clock, SystemClock};
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

criterion_group!(benches, authorize);
criterion_main!(benches);
