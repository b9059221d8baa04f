//! Tests of the hub with a scripted source and a paused clock.

mod meaning;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, ETAG};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::sync::oneshot;
use tokio::time::advance;

use self::meaning::Shown;
use super::*;
use crate::clock::UnixTime;
use crate::config::{Config, Environment};
use crate::fault::Fault;
use crate::limits::{LimitSettings, Limiter, OpenBytes};
use crate::metrics::Metrics;
use crate::policy::PolicySet;
use crate::rewrite::UpstreamRequest;
use crate::shape::ShapeRequest;

/// What the source does for one request.
enum Act {
    Answer {
        cache_control: &'static str,
        body: &'static str,
    },
    /// Answers as Electric, with more than a scripted body.
    Show(Shown),
    Fail(Fault),
    Panic,
    /// Returns without having finished the response.
    Forget,
    /// Confirms the known response; there must be one.
    Confirm,
    /// Answers that the handle is no longer valid.
    Gone,
    Wait(oneshot::Receiver<&'static str>),
}

#[derive(Default)]
struct Script {
    acts: Mutex<VecDeque<Act>>,
    fetches: AtomicUsize,
    /// The queries that were asked.
    asked: Mutex<Vec<String>>,
}

/// A source that has the name of an Electric.
struct Scripted(Arc<Script>, &'static str);

fn head(cache_control: &'static str) -> Head {
    let mut headers = HeaderMap::new();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache_control));
    headers.insert(ETAG, HeaderValue::from_static("\"7-1:-1:0_0\""));
    headers.insert("electric-handle", HeaderValue::from_static("7-1"));
    Head::new(StatusCode::OK, &headers)
}

#[async_trait]
impl Source for Scripted {
    async fn fetch(&self, ask: Ask, sink: &Sink) -> Result<(), Fault> {
        self.0.fetches.fetch_add(1, Ordering::SeqCst);
        self.0.asked.lock().unwrap().push(ask.request.query().to_owned());
        let act = self.0.acts.lock().unwrap().pop_front().expect("no act is left");
        match act {
            Act::Answer { cache_control, body } => {
                sink.head(head(cache_control));
                sink.push(Bytes::from(body)).await;
            }
            Act::Show(shown) => return shown.write(sink).await,
            Act::Fail(fault) => return Err(fault),
            Act::Panic => panic!("scripted panic"),
            Act::Forget => return Ok(()),
            Act::Confirm => {
                let known = ask.known.expect("nothing was known");
                sink.head(
                    known
                        .head
                        .renewed(&HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static("max-age=60"))])),
                );
                for piece in known.body {
                    sink.push(piece).await;
                }
            }
            Act::Gone => sink.head(Head::new(StatusCode::CONFLICT, &HeaderMap::new())),
            Act::Wait(gate) => {
                let body = gate.await.expect("the gate was dropped");
                sink.head(head("max-age=5"));
                sink.push(Bytes::from(body)).await;
            }
        }
        sink.finish().await;
        Ok(())
    }

    fn identity(&self, _request: &UpstreamRequest) -> Arc<str> {
        self.1.into()
    }
}

const CONFIG: &str = "[server]\nlisten = '127.0.0.1:0'\n[upstream]\nurl = 'http://127.0.0.1:1'\n\
    danger_no_secret = true\n[[shape]]\ntable = 'tasks'\npublic = true\nwhere = 'none'\nsubset = true\n";

struct Scene {
    hub: Arc<Hub>,
    source: Arc<dyn Source>,
    script: Arc<Script>,
    policy: PolicySet,
}

impl Scene {
    fn new(cache: &str, acts: impl IntoIterator<Item = Act>) -> Self {
        let text = format!("{CONFIG}[cache]\n{cache}\n");
        let config = Config::parse(&text, Path::new("test.toml"), &Environment::from([])).unwrap();
        let script = Arc::new(Script { acts: Mutex::new(acts.into_iter().collect()), ..Script::default() });
        let hub = Self::hub(&config.limits, config.cache);
        let source: Arc<dyn Source> = Arc::new(Scripted(Arc::clone(&script), "a"));
        Self { hub, source, script, policy: config.policy }
    }

    fn hub(limits: &LimitSettings, cache: CacheSettings) -> Arc<Hub> {
        let metrics = Arc::new(Metrics::new().unwrap());
        let places = Arc::clone(Limiter::new(limits).flights());
        Arc::new(Hub::new(cache, places, metrics))
    }

    fn request(&self, query: &str) -> UpstreamRequest {
        let request = ShapeRequest::parse(None, &format!("table=tasks&{query}"), self.policy.parameters()).unwrap();
        let permit = self.policy.authorize(None, &request, UnixTime::from_secs(0)).unwrap();
        UpstreamRequest::build(permit, &request, None).unwrap()
    }

    fn join(&self, query: &str) -> Follower {
        let origin = Origin { request_id: "test", trace: None };
        self.hub.join(&self.source, self.request(query), None, origin).unwrap()
    }

    /// Joins a flight and reads it to the end.
    async fn read(&self, query: &str) -> (Join, Result<String, Fault>) {
        let follower = self.join(query);
        (follower.join(), whole(follower).await)
    }

    /// Runs the hub's tasks until no flight is open.
    async fn settle(&self) {
        while self.hub.open_flights() > 0 {
            tokio::task::yield_now().await;
        }
    }

    fn asked(&self) -> Vec<String> {
        self.script.asked.lock().unwrap().clone()
    }

    fn fetches(&self) -> usize {
        self.script.fetches.load(Ordering::SeqCst)
    }
}

async fn whole(mut follower: Follower) -> Result<String, Fault> {
    follower.head().await?;
    let mut whole = Vec::new();
    loop {
        let piece = follower.next().await;
        whole.extend_from_slice(&piece.bytes);
        match piece.end {
            None => {}
            Some(Ok(())) => return Ok(String::from_utf8(whole).unwrap()),
            Some(Err(fault)) => return Err(fault),
        }
    }
}

fn answer(cache_control: &'static str, body: &'static str) -> Act {
    Act::Answer { cache_control, body }
}

fn ok(body: &str) -> Result<String, Fault> {
    Ok(body.to_owned())
}

const SNAPSHOT: &str = "offset=-1";
const LIVE: &str = "offset=0_0&handle=7-1&live=true";

#[tokio::test(start_paused = true)]
async fn a_response_is_not_shared_by_two_electrics_of_the_same_name() {
    let mut scene = Scene::new("", [answer("max-age=600", "before"), answer("max-age=600", "in flight")]);
    assert_eq!(scene.read(SNAPSHOT).await, (Join::First, ok("before")));
    scene.settle().await;
    // Authorized before the reload, joined after it: the request keeps its Electric.
    let (request, source) = (scene.request(LIVE), Arc::clone(&scene.source));
    let script = Arc::new(Script {
        acts: Mutex::new([answer("max-age=600", "after"), answer("max-age=5", "live")].into()),
        ..Script::default()
    });
    scene.source = Arc::new(Scripted(Arc::clone(&script), "b"));
    let origin = Origin { request_id: "test", trace: None };
    let late = scene.hub.join(&source, request, None, origin).unwrap();
    // Authorized and joined after the reload: it gets neither the cached response nor the open flight.
    assert_eq!(scene.read(SNAPSHOT).await, (Join::First, ok("after")));
    assert_eq!(scene.read(LIVE).await, (Join::First, ok("live")));
    assert_eq!(whole(late).await, ok("in flight"));
    assert_eq!((scene.fetches(), script.fetches.load(Ordering::SeqCst)), (2, 2));
    // The response of the same Electric is still cached.
    assert_eq!(scene.read(SNAPSHOT).await, (Join::Fresh, ok("after")));
}

#[tokio::test(start_paused = true)]
async fn changing_the_cache_size_empties_the_cache() {
    let scene = Scene::new("", [answer("max-age=600", "1"), answer("max-age=600", "2")]);
    scene.read(SNAPSHOT).await.1.unwrap();
    scene.settle().await;
    let settings = Config::parse(CONFIG, Path::new("test.toml"), &Environment::from([])).unwrap().cache;
    scene.hub.configure(CacheSettings { header: !settings.header, ..settings.clone() });
    assert_eq!(scene.read(SNAPSHOT).await, (Join::Fresh, ok("1")));
    scene.hub.configure(CacheSettings { bytes: 1 << 20, ..settings });
    assert_eq!((scene.hub.kept_flights(), scene.hub.capacity()), (0, 1 << 20));
    assert_eq!(scene.read(SNAPSHOT).await, (Join::First, ok("2")));
}

#[tokio::test(start_paused = true)]
async fn a_response_is_fresh_then_stale_then_revalidated() {
    let control = "max-age=10, stale-while-revalidate=10";
    let scene = Scene::new("", [answer(control, "1"), answer(control, "2"), Act::Confirm, answer(control, "3")]);
    assert_eq!(scene.read(SNAPSHOT).await, (Join::First, ok("1")));
    scene.settle().await;
    advance(Duration::from_secs(9)).await;
    assert_eq!(scene.read(SNAPSHOT).await, (Join::Fresh, ok("1")));
    assert_eq!(scene.fetches(), 1);
    advance(Duration::from_secs(2)).await;
    // Several requests get the stale response, and one request to Electric replaces it.
    for follower in [scene.join(SNAPSHOT), scene.join(SNAPSHOT), scene.join(SNAPSHOT)] {
        assert_eq!((follower.join(), whole(follower).await), (Join::Stale, ok("1")));
    }
    scene.settle().await;
    assert_eq!((scene.fetches(), scene.read(SNAPSHOT).await), (2, (Join::Fresh, ok("2"))));
    // An expired response is not served, but its entity tag makes the next request conditional.
    advance(Duration::from_secs(21)).await;
    assert_eq!(scene.read(SNAPSHOT).await, (Join::First, ok("2")));
    scene.settle().await;
    advance(Duration::from_secs(59)).await;
    assert_eq!(scene.read(SNAPSHOT).await, (Join::Fresh, ok("2")));
    assert_eq!(scene.fetches(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_live_response_is_never_served_stale_nor_revalidated() {
    let live = |body| Act::Show(Shown { live: true, ..Shown::at("7-1", "5_0", body) });
    let scene = Scene::new("", [live("1"), live("2")]);
    assert_eq!(scene.read(LIVE).await, (Join::First, ok("1")));
    scene.settle().await;
    assert_eq!(scene.read(LIVE).await, (Join::Fresh, ok("1")));
    advance(Duration::from_secs(6)).await;
    assert_eq!(scene.read(LIVE).await, (Join::First, ok("2")));
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_task_fails_its_followers_and_no_later_request() {
    let scene = Scene::new("", [Act::Panic, Act::Forget, answer("", "3")]);
    let aboard = [scene.join(SNAPSHOT), scene.join(SNAPSHOT)];
    for follower in aboard {
        assert_eq!(whole(follower).await, Err(Fault::Internal));
    }
    scene.settle().await;
    assert_eq!(
        scene.read(SNAPSHOT).await,
        (Join::First, Err(Fault::Internal)),
        "a response without its end is a fault too"
    );
    scene.settle().await;
    assert_eq!(scene.read(SNAPSHOT).await, (Join::First, ok("3")));
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_cached_for_a_second_and_never_replaces_a_response() {
    let refusal = || Act::Fail(Fault::Overloaded(Duration::from_secs(6)));
    let control = "max-age=10, stale-while-revalidate=10";
    let scene = Scene::new(
        "",
        [refusal(), answer(control, "1"), refusal(), Act::Fail(Fault::UpstreamUnreachable), answer(control, "2")],
    );
    let refused = Err(Fault::Overloaded(Duration::from_secs(6)));
    assert_eq!(scene.read(SNAPSHOT).await, (Join::First, refused.clone()));
    scene.settle().await;
    assert_eq!(scene.read(SNAPSHOT).await, (Join::Fresh, refused));
    advance(Duration::from_millis(1001)).await;
    assert_eq!(scene.read(SNAPSHOT).await, (Join::First, ok("1")));
    scene.settle().await;
    advance(Duration::from_secs(11)).await;
    for fetches in [3, 4, 5] {
        assert_eq!(scene.read(SNAPSHOT).await, (Join::Stale, ok("1")));
        scene.settle().await;
        assert_eq!(scene.fetches(), fetches);
    }
    assert_eq!(scene.read(SNAPSHOT).await, (Join::Fresh, ok("2")));
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_flight_ends_after_the_grace_and_can_be_joined_until_then() {
    let (gate, wait) = oneshot::channel();
    let scene = Scene::new("grace = '5s'", [Act::Wait(wait)]);
    let (first, second) = (scene.join(LIVE), scene.join(LIVE));
    drop(first);
    advance(Duration::from_secs(10)).await;
    assert_eq!(scene.hub.open_flights(), 1);
    drop(second);
    advance(Duration::from_secs(4)).await;
    let third = scene.join(LIVE);
    assert_eq!(third.join(), Join::Open);
    advance(Duration::from_secs(10)).await;
    assert_eq!(scene.hub.open_flights(), 1);
    drop(third);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(gate.is_closed() && scene.hub.open_flights() == 0);
}

#[tokio::test(start_paused = true)]
async fn a_served_follower_can_wait_until_the_others_are_served() {
    let (gate, wait) = oneshot::channel();
    let scene = Scene::new("", [Act::Wait(wait)]);
    let [mut first, mut second, leaves] = [(); 3].map(|()| scene.join(LIVE));
    gate.send("[]").unwrap();
    first.head().await.unwrap();
    first.served();
    first.served();
    drop(leaves);
    let mut waiting = std::pin::pin!(first.all_served());
    tokio::select! {
        biased;
        () = &mut waiting => panic!("the second follower is not served yet"),
        () = tokio::task::yield_now() => {}
    }
    second.served();
    waiting.await;
    second.all_served().await;
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_subset_keeps_its_place_while_its_query_may_run() {
    let (gate, wait) = oneshot::channel();
    let scene = Scene::new("", [Act::Wait(wait)]);
    let follower = scene.join("offset=-1&subset__where=true");
    tokio::time::sleep(Duration::from_millis(10)).await;
    drop(follower);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(gate.is_closed(), "the connection is dropped");
    assert_eq!(scene.hub.places().all().in_flight(), 1, "but the query runs on");
    tokio::time::sleep(Duration::from_secs(21)).await;
    assert_eq!(scene.hub.places().all().in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_snapshot_keeps_its_places_while_electric_makes_it() {
    let (gate, wait) = oneshot::channel();
    let scene = Scene::new("grace = '5s'", [Act::Wait(wait)]);
    let places = || (scene.hub.places().all().in_flight(), scene.hub.places().initial().in_flight());
    let follower = scene.join(SNAPSHOT);
    tokio::time::sleep(Duration::from_millis(10)).await;
    drop(follower);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(gate.is_closed() && scene.hub.open_flights() == 0);
    assert_eq!(places(), (1, 1), "Electric is still making it");
    tokio::time::sleep(Duration::from_secs(16)).await;
    assert_eq!(places(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_cache_stays_within_its_budget_and_survives_a_scan() {
    const BODY: &str = "0123456789012345678901234567890123456789";
    let acts = (0..600).map(|_| answer("max-age=600", BODY));
    let scene = Scene::new("bytes = '512KiB'\nflight_bytes = '256KiB'", acts);
    for _ in 0..20 {
        scene.read(SNAPSHOT).await.1.unwrap();
        scene.settle().await;
    }
    for number in 0..500 {
        scene.read(&format!("offset={number}_0&handle=7-1")).await.1.unwrap();
        scene.settle().await;
        assert!(scene.hub.kept_bytes() <= 512 * 1024);
    }
    assert!(scene.hub.kept_flights() > 50);
    assert_eq!(scene.read(SNAPSHOT).await.0, Join::Fresh);
}

#[tokio::test]
async fn dropping_a_long_body_does_not_overflow_the_stack() {
    let (chain, mut writer) = chain::Chain::new(usize::MAX, &Arc::new(OpenBytes::new(Arc::default())));
    let reader = chain.read();
    for _ in 0..200_000 {
        let room = writer.room(1).await;
        writer.push(Piece { bytes: Bytes::from_static(b"x"), end: None, boundary: true }, room);
    }
    writer.fail(Fault::Internal);
    drop(chain);
    drop(reader);
}

/// Answers with a body of this many bytes, in pieces of 64 KiB.
struct Long(usize);

#[async_trait]
impl Source for Long {
    async fn fetch(&self, _ask: Ask, sink: &Sink) -> Result<(), Fault> {
        sink.head(head("max-age=600"));
        for _ in 0..self.0 / 65_536 {
            sink.push(Bytes::from(vec![b'x'; 65_536])).await;
        }
        sink.finish().await;
        Ok(())
    }

    fn identity(&self, _request: &UpstreamRequest) -> Arc<str> {
        Arc::default()
    }
}

/// Answers with a body of this many bytes, in pieces of 16 KiB. Publishes after each piece as Pingora does while it waits
/// for Electric: it drops the future once more has arrived.
struct Interrupted(usize);

#[async_trait]
impl Source for Interrupted {
    async fn fetch(&self, _ask: Ask, sink: &Sink) -> Result<(), Fault> {
        sink.head(head("max-age=600"));
        for _ in 0..self.0 / 16_384 {
            sink.push(Bytes::from(vec![b'x'; 16_384])).await;
            let _ = tokio::time::timeout(Duration::from_millis(1), sink.flush()).await;
        }
        sink.finish().await;
        Ok(())
    }

    fn identity(&self, _request: &UpstreamRequest) -> Arc<str> {
        Arc::default()
    }
}

fn long(source: impl Source + 'static) -> (Scene, Arc<Hub>, Arc<dyn Source>) {
    let scene = Scene::new("flight_bytes = '256KiB'", []);
    let text = "[server]\nlisten = '127.0.0.1:0'\n[upstream]\nurl = 'http://127.0.0.1:1'\ndanger_no_secret = true\n\
                [[shape]]\ntable = 'tasks'\npublic = true\nwhere = 'none'\n[cache]\nflight_bytes = '256KiB'\n";
    let config = Config::parse(text, Path::new("test.toml"), &Environment::from([])).unwrap();
    let metrics = Arc::new(Metrics::new().unwrap());
    let places = Arc::clone(Limiter::new(&config.limits).flights());
    let hub = Arc::new(Hub::new(config.cache, places, metrics));
    (scene, hub, Arc::new(source))
}

const NEXT: &str = "offset=0_0&handle=7-1";

#[tokio::test(start_paused = true)]
async fn a_purge_drops_a_response_that_was_replaced() {
    let scene = Scene::new("", [answer("max-age=10", "1"), answer("max-age=60", "2"), Act::Gone]);
    scene.read(SNAPSHOT).await.1.unwrap();
    scene.settle().await;
    advance(Duration::from_secs(11)).await;
    assert_eq!(scene.read(SNAPSHOT).await, (Join::First, ok("2")));
    scene.settle().await;
    scene.read(NEXT).await.1.unwrap();
    scene.settle().await;
    assert_eq!(scene.hub.kept_flights(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_purge_drops_a_response_that_was_compressed() {
    let scene = Scene::new("", [answer("max-age=60", "1"), Act::Gone]);
    scene.read(SNAPSHOT).await.1.unwrap();
    scene.settle().await;
    let before = scene.hub.kept_bytes();
    let mut follower = scene.join(SNAPSHOT);
    assert!(follower.encode(&scene.hub, Encoding::Gzip));
    while follower.next().await.end.is_none() {}
    while scene.hub.kept_bytes() == before {
        tokio::task::yield_now().await;
    }
    scene.read(NEXT).await.1.unwrap();
    scene.settle().await;
    assert_eq!(scene.hub.kept_flights(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_response_too_long_for_the_cache_is_requested_again() {
    let (scene, hub, source) = long(Long(1024 * 1024));
    let join = || hub.join(&source, scene.request(SNAPSHOT), None, Origin { request_id: "test", trace: None });
    assert_eq!(whole(join().unwrap()).await.unwrap().len(), 1024 * 1024);
    while hub.open_flights() > 0 {
        tokio::task::yield_now().await;
    }
    let again = join();
    assert!(again.is_ok(), "{again:?}");
    assert_eq!(whole(again.unwrap()).await.unwrap().len(), 1024 * 1024);
}

#[tokio::test(start_paused = true)]
async fn a_request_during_a_blocked_long_response_gets_a_flight_of_its_own() {
    let (scene, hub, source) = long(Long(1024 * 1024));
    let join = || hub.join(&source, scene.request(SNAPSHOT), None, Origin { request_id: "test", trace: None });
    let slow = join().unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let late = join();
    assert!(late.is_ok(), "{late:?}");
    drop(slow);
    assert_eq!(whole(late.unwrap()).await.unwrap().len(), 1024 * 1024);
}

#[tokio::test(start_paused = true)]
async fn a_publication_that_is_interrupted_while_it_waits_for_room_loses_nothing() {
    let (scene, hub, source) = long(Interrupted(1024 * 1024));
    let origin = Origin { request_id: "test", trace: None };
    let slow = hub.join(&source, scene.request(SNAPSHOT), None, origin).unwrap();
    // Longer than the source publishes without a reader.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(whole(slow).await.unwrap().len(), 1024 * 1024);
}

#[tokio::test(start_paused = true)]
async fn the_grace_starts_again_when_a_follower_joins_and_leaves() {
    let (_open, opened) = oneshot::channel();
    let scene = Scene::new("grace = '10s'", [Act::Wait(opened)]);
    // In steps, since a timer that is late starts the next one late.
    let pass = async |seconds: u32| {
        for _ in 0..seconds {
            advance(Duration::from_secs(1)).await;
            tokio::task::yield_now().await;
        }
    };
    drop(scene.join(LIVE));
    pass(9).await;
    drop(scene.join(LIVE));
    pass(9).await;
    assert_eq!(scene.hub.open_flights(), 1, "18 s after the first left, and 9 s after the last");
    pass(3).await;
    scene.settle().await;
    assert_eq!(scene.fetches(), 1);
}
