//! Measures what the limits cost an admitted request.

#![allow(clippy::unwrap_used, clippy::expect_used)] // the lint's own exception does not reach helpers

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue};
use serde_json::json;
use shapegate::clock::{Clock, SystemClock};
use shapegate::config::{Config, Environment};
use shapegate::limits::{Client, Limiter};
use shapegate::rewrite::UpstreamRequest;
use shapegate::shape::ShapeRequest;

mod scene;

/// Every limit is on, and none is reached.
const CONFIG: &str = "
[server]
listen = '127.0.0.1:0'
[upstream]
url = 'http://127.0.0.1:3000'
danger_no_secret = true
[[shape]]
table = 'tasks'
public = true
where = 'none'
[limits]
rate_per_subject = 10_000_000
rate_per_address = 10_000_000
repeats = 1_000
trusted_proxies = ['10.0.0.0/8']
";

fn limits(c: &mut Criterion) {
    let config = Config::parse(CONFIG, Path::new("bench.toml"), &Environment::from([])).unwrap();
    let limiter = Limiter::new(&config.limits);
    let scene = scene::Scene::new();
    let principal = scene.principal(&json!({ "organizationIds": ["org-1"] }));
    let query = "table=tasks&organizationId=org-1&offset=0_0&handle=h";
    let request = ShapeRequest::parse(None, query, scene.policy.parameters()).unwrap();
    let permit = scene.policy.authorize(Some(&principal), &request, SystemClock.now()).unwrap();
    let upstream = UpstreamRequest::build(permit, &request, None).unwrap();
    let peer = Some(Ipv4Addr::new(10, 0, 0, 1).into());
    let connection = limiter.connect(peer).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("x-forwarded-for", HeaderValue::from_static("198.51.100.1, 203.0.113.7"));
    c.bench_function("limits/address and rates", |b| {
        b.iter(|| {
            let now = Instant::now();
            let address = limiter.address(peer, black_box(&headers));
            limiter.ask(address, now).unwrap();
            limiter.ask_as(principal.subject_key(), now).unwrap();
        });
    });
    c.bench_function("limits/place", |b| {
        let address = limiter.address(peer, &headers);
        b.iter(|| limiter.enter(Some(principal.subject_key()), black_box(address)).unwrap());
    });
    c.bench_function("limits/loop guard", |b| {
        let client = Client::Subject(principal.subject_key().clone());
        let address = limiter.address(peer, &headers);
        let asked = Instant::now();
        b.iter(|| {
            let position = connection.position(Some(&client), address, black_box(&upstream)).unwrap();
            let _ = connection.check_repeat(position, asked);
            let next = limiter.next(position, "h", "0_0");
            connection.answered(position, Some(next), asked, Instant::now());
        });
    });
}

criterion_group!(benches, limits);
criterion_main!(benches);
