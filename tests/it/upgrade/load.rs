//! Upgrades under load. The clients keep their connections and retry nothing: a connection that is refused, or closed
//! instead of a response, counts as a failure.
//!
//! `SHAPEGATE_UPGRADES=20 SHAPEGATE_RATE=500 SHAPEGATE_WAITING=500` sets the full load: upgrades, requests per second,
//! and waiting clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use shapegate::demo::electric::Options;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Around, OK, TASKS, metric, poll, request};
use crate::harness::{Answer, Service, Wire};

fn number(variable: &str, everyday: usize) -> usize {
    std::env::var(variable).map_or(everyday, |value| value.parse().unwrap())
}

/// Results of all clients.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    requests: AtomicUsize,
    polls: AtomicUsize,
    connections: AtomicUsize,
    /// Requests without a complete response of status 200.
    failed: AtomicUsize,
    lost: AtomicUsize,
    reason: std::sync::Mutex<String>,
}

impl Tally {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn count(&self, counter: &AtomicUsize) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn fail(&self, counter: &AtomicUsize, why: String) {
        self.count(counter);
        let mut reason = self.reason.lock().unwrap();
        if reason.is_empty() {
            *reason = why;
        }
    }
}

/// A client that keeps its connection open as long as the server does.
struct Client {
    url: String,
    token: String,
    wire: Option<Wire>,
    tally: Arc<Tally>,
}

impl Client {
    async fn ask(&mut self, target: &str) -> Result<Answer, String> {
        let kept = self.wire.take();
        let age = if kept.is_some() { "a kept" } else { "a new" };
        let mut wire = match kept {
            Some(wire) => wire,
            None => {
                self.tally.count(&self.tally.connections);
                let address = self.url.strip_prefix("http://").unwrap();
                Wire::of(TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?)
            }
        };
        wire.send(&request(target, &self.token)).await;
        let answer = wire.answer(false).await.ok_or_else(|| format!("{age} connection was closed"))?;
        if answer.header("connection") != "close" {
            self.wire = Some(wire);
        }
        if answer.status == 200 { Ok(answer) } else { Err(format!("{}: {}", answer.status, answer.text())) }
    }

    /// Sends a request every `every`.
    async fn hurry(mut self, every: Duration) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let tally = Arc::clone(&self.tally);
        while tally.goes_on() {
            ticks.tick().await;
            match self.ask(TASKS).await {
                Ok(_) => tally.count(&tally.requests),
                Err(why) => tally.fail(&tally.failed, why),
            }
        }
    }

    /// Waits for changes with one long poll after another.
    async fn wait(mut self) {
        let tally = Arc::clone(&self.tally);
        let mut target = TASKS.replace("offset=-1", "offset=now");
        while tally.goes_on() {
            match self.ask(&target).await {
                Ok(answer) => {
                    target = poll(&answer);
                    tally.count(&tally.polls);
                }
                Err(why) => tally.fail(&tally.lost, why),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_under_load_fail_no_request_and_lose_no_poll() {
    let upgrades = number("SHAPEGATE_UPGRADES", 3);
    let rate = number("SHAPEGATE_RATE", 100);
    let waiting = number("SHAPEGATE_WAITING", 50);
    let around = Around::start(Options { hold: Duration::from_secs(4), ..Options::default() }).await;
    let mut service = Service::start(&around.config("")).await;
    let tally = Arc::new(Tally::default());
    let mut clients = JoinSet::new();
    let client = |user: usize| Client {
        url: service.url.clone(),
        token: around.token(user),
        wire: None,
        tally: Arc::clone(&tally),
    };
    (0..waiting).for_each(|user| drop(clients.spawn(client(user).wait())));
    let in_a_hurry = 25;
    let every = Duration::from_secs_f64(in_a_hurry as f64 / rate as f64);
    (0..in_a_hurry).for_each(|user| drop(clients.spawn(client(waiting + user).hurry(every))));
    while tally.polls.load(Ordering::Relaxed) < waiting {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let start = Instant::now();
    let before = tally.requests.load(Ordering::Relaxed);
    for upgrade in 1..=upgrades {
        let polls = tally.polls.load(Ordering::Relaxed);
        service.upgrade().await;
        around.insert(upgrade);
        // Wait until every client has seen the change, from the old process or the new one.
        while tally.polls.load(Ordering::Relaxed) < polls + waiting {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let took = start.elapsed();
    tally.stop.store(true, Ordering::Relaxed);
    around.insert(0);
    while clients.join_next().await.is_some() {}
    let seen = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let (failed, lost) = (seen(&tally.failed), seen(&tally.lost));
    println!(
        "{upgrades} upgrades in {:.1} s, {waiting} waiting clients: {} requests ({:.0} a second), {failed} failed; {} polls, {lost} lost; {} connections",
        took.as_secs_f64(),
        seen(&tally.requests),
        (seen(&tally.requests) - before) as f64 / took.as_secs_f64(),
        seen(&tally.polls),
        seen(&tally.connections),
    );
    assert_eq!((failed, lost), (0, 0), "{}", tally.reason.lock().unwrap());
    assert_eq!(metric(&service, OK).await, 1.0);
}
