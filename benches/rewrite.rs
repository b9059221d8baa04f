//! Measures the rewrite: from the client's query to the request to Electric.

#![allow(clippy::unwrap_used, clippy::expect_used)] // the lint's own exception does not reach helpers

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use serde_json::json;
use shapegate::clock::{Clock, SystemClock};
use shapegate::rewrite::UpstreamRequest;
use shapegate::shape::ShapeRequest;

mod scene;

const QUERY: &str = "cursor=66793720&handle=47863019-1795224919209816&live=true&log=full&offset=27744944_4&organizationId=org-1&table=tasks";

fn rewrite(c: &mut Criterion) {
    let scene = scene::Scene::new();
    let now = SystemClock.now();
    let principal = scene.principal(&json!({ "organizationIds": ["org-1"] }));
    c.bench_function("rewrite/parse", |b| {
        b.iter(|| ShapeRequest::parse(None, black_box(QUERY), scene.policy.parameters()).unwrap());
    });
    let request = ShapeRequest::parse(None, QUERY, scene.policy.parameters()).unwrap();
    c.bench_function("rewrite/build", |b| {
        b.iter_batched(
            || scene.policy.authorize(Some(&principal), &request, now).unwrap(),
            |permit| UpstreamRequest::build(permit, &request, None).unwrap(),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, rewrite);
criterion_main!(benches);
