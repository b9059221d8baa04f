//! Tests each limit with a request that is allowed and one that is not. Time is an argument, so no test waits.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, StatusCode};

use super::rates::{Quota, Rates};
use super::shapes::ShapeCounts;
use super::{Address, Client, Connection, Limit, Limited, Limiter, Place};
use crate::auth::SubjectKey;
use crate::clock::UnixTime;
use crate::config::{Config, Environment};
use crate::limits::LimitSettings;
use crate::metrics::Metrics;
use crate::policy::PolicySet;
use crate::rejection::Rejection;
use crate::rewrite::UpstreamRequest;
use crate::shape::ShapeRequest;

/// Parses these lines of `[limits]` with one public rule.
fn config(limits: &str) -> (LimitSettings, PolicySet) {
    let text = format!(
        "[server]\nlisten = '127.0.0.1:0'\n[upstream]\nurl = 'http://127.0.0.1:1'\ndanger_no_secret = true\n\
         [[shape]]\ntable = 'tasks'\npublic = true\nwhere = '\"a\" = {{{{ query.a }}}}'\n\
         danger_client_chosen = ['a']\n[limits]\n{limits}\n"
    );
    let config = Config::parse(&text, Path::new("test.toml"), &Environment::from([]));
    let config = config.unwrap_or_else(|errors| panic!("{errors}"));
    (config.limits, config.policy)
}

fn limiter(limits: &str) -> Arc<Limiter> {
    Limiter::new(&config(limits).0)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn address(text: &str) -> Address {
    Address::of(ip(text))
}

fn client(text: &str) -> Client {
    Client::Address(address(text))
}

fn subject(name: &str) -> SubjectKey {
    SubjectKey::of_subject("https://auth.example.com", name)
}

fn limit<T>(result: Result<T, Limited>) -> Option<Limit> {
    result.err().map(Limited::limit)
}

#[test]
fn an_address_is_an_ipv4_host_or_an_ipv6_customer() {
    assert_eq!(address("2001:db8:1:2::1"), address("2001:db8:1:2:ffff:ffff:ffff:ffff"));
    assert_ne!(address("2001:db8:1:2::1"), address("2001:db8:1:3::1"));
    assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
    assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
}

#[test]
fn only_a_trusted_proxy_can_report_a_client_address() {
    let limiter = limiter("trusted_proxies = ['10.0.0.0/8', 'fd00::/8', '192.0.2.9']");
    let asks = |peer: &str, lines: &[&str]| {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", HeaderValue::from_str(line).unwrap());
        }
        limiter.address(Some(ip(peer)), &headers).unwrap()
    };
    for (peer, lines, client) in [
        // The last address that is not a trusted proxy, whatever the client wrote before it.
        ("10.1.2.3", ["203.0.113.7"].as_slice(), "203.0.113.7"),
        ("10.1.2.3", &["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        ("10.1.2.3", &["198.51.100.1, 203.0.113.7, 10.9.9.9,192.0.2.9"], "203.0.113.7"),
        ("10.1.2.3", &["198.51.100.1", "203.0.113.7 ", "10.9.9.9"], "203.0.113.7"),
        ("::ffff:10.1.2.3", &["203.0.113.7"], "203.0.113.7"),
        ("fd00::1", &["2001:db8::1"], "2001:db8::1"),
        // Some proxies include the port.
        ("10.1.2.3", &["203.0.113.7:4711"], "203.0.113.7"),
        ("10.1.2.3", &["[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.1.2.3", &["[2001:db8::1]"], "2001:db8::1"),
        // Other peers are not trusted, and malformed entries are ignored.
        ("203.0.113.8", &["198.51.100.1"], "203.0.113.8"),
        ("10.1.2.3", &[], "10.1.2.3"),
        ("10.1.2.3", &["unknown"], "10.1.2.3"),
        ("10.1.2.3", &[""], "10.1.2.3"),
        ("10.1.2.3", &["198.51.100.1, nonsense, 10.9.9.9"], "10.9.9.9"),
        // A client inside a trusted network.
        ("10.1.2.3", &["10.4.4.4"], "10.4.4.4"),
    ] {
        assert_eq!(asks(peer, lines), address(client), "{peer} {lines:?}");
    }
}

#[test]
fn without_trusted_proxies_no_address_is_counted() {
    let silent = limiter("");
    assert_eq!(silent.address(Some(ip("203.0.113.7")), &HeaderMap::new()), None);
    let direct = limiter("trusted_proxies = []");
    // The peer of a Unix socket is a proxy that names its client, or none.
    let mut headers = HeaderMap::new();
    assert_eq!((direct.address(None, &headers), silent.address(None, &headers)), (None, None));
    headers.insert("x-forwarded-for", "203.0.113.7".parse().unwrap());
    assert_eq!(direct.address(None, &headers), Some(address("203.0.113.7")));
    assert_eq!(silent.address(None, &headers), None);
    assert_eq!(direct.address(Some(ip("203.0.113.7")), &HeaderMap::new()), Some(address("203.0.113.7")));
}

#[test]
fn connections_are_limited_in_total_and_per_address() {
    let limiter = limiter("connections = 4\nconnections_per_address = 2\ntrusted_proxies = ['10.0.0.0/8']");
    let first = limiter.connect(ip("203.0.113.7")).unwrap();
    let _second = limiter.connect(ip("203.0.113.7")).unwrap();
    assert_eq!(limit(limiter.connect(ip("203.0.113.7"))), Some(Limit::ConnectionsPerAddress));
    drop(first);
    let _first = limiter.connect(ip("203.0.113.7")).unwrap();
    // All clients of a proxy have its address.
    let proxied = [limiter.connect(ip("10.0.0.1")).unwrap(), limiter.connect(ip("10.0.0.1")).unwrap()];
    assert_eq!(limit(limiter.connect(ip("10.0.0.1"))), Some(Limit::Connections));
    assert_eq!(limiter.connections().in_flight(), 4);
    drop(proxied);
    assert_eq!(limiter.connections().in_flight(), 2);
    assert_eq!(limit(limiter.connect(ip("203.0.113.8"))), None);
}

#[test]
fn requests_are_limited_per_address() {
    let limiter = limiter("requests = 3\nrequests_per_address = 2\ntrusted_proxies = []");
    let (one, other) = (Some(address("203.0.113.7")), Some(address("203.0.113.8")));
    let held = [limiter.enter(None, one).unwrap(), limiter.enter(None, one).unwrap()];
    assert_eq!(limit(limiter.enter(None, one)), Some(Limit::RequestsPerAddress));
    let _third = limiter.enter(None, other).unwrap();
    assert_eq!(limit(limiter.enter(None, other)), Some(Limit::Requests));
    drop(held);
    assert_eq!((limit(limiter.enter(None, one)), limiter.requests().in_flight()), (None, 1));
}

#[test]
fn a_rate_limit_allows_an_average_and_a_burst() {
    let rates = Rates::new(Limit::RatePerSubject);
    rates.set(Quota::new(10, Duration::from_secs(1), 50));
    let now = Instant::now();
    for _ in 0..50 {
        assert_eq!(rates.take(&1, now), Ok(()));
    }
    let refused = rates.take(&1, now).unwrap_err();
    assert_eq!((refused.limit(), refused.after()), (Limit::RatePerSubject, Duration::from_millis(100)));
    assert_eq!(rates.check(&1, now), Err(refused));
    // Another key has its own rate, and a tenth of a second allows one more event.
    assert_eq!((rates.check(&2, now), rates.take(&2, now)), (Ok(()), Ok(())));
    let later = now + Duration::from_millis(100);
    assert_eq!((rates.take(&1, later), limit(rates.take(&1, later))), (Ok(()), Some(Limit::RatePerSubject)));
    let rested = now + Duration::from_secs(60);
    assert_eq!((0..60).filter(|_| rates.take(&1, rested).is_ok()).count(), 50);
    // A new limit applies at once, and 0 disables it.
    rates.set(Quota::new(0, Duration::from_secs(1), 0));
    assert_eq!((rates.take(&1, rested), rates.check(&1, rested)), (Ok(()), Ok(())));
}

#[test]
fn rates_of_many_keys_use_bounded_memory() {
    let rates = Rates::new(Limit::RatePerAddress);
    rates.set(Quota::new(1, Duration::from_secs(1), 1));
    let now = Instant::now();
    assert_eq!(rates.take(&-1, now), Ok(()));
    for key in 0..300_000 {
        assert_eq!(rates.take(&key, now), Ok(()));
        // A frequent key is not forgotten.
        if key % 1_000 == 0 {
            assert_eq!(limit(rates.take(&-1, now)), Some(Limit::RatePerAddress), "{key}");
        }
    }
    assert!(rates.len() <= 101_000, "{}", rates.len());
}

#[test]
fn too_many_bad_tokens_limit_signature_checks_to_a_rate() {
    let limiter = limiter("bad_tokens_per_address = 2\nsignatures_per_address = 3\ntrusted_proxies = []");
    let (one, other) = (Some(address("203.0.113.7")), Some(address("203.0.113.8")));
    let now = Instant::now();
    limiter.bad_token(one, now);
    for _ in 0..100 {
        assert_eq!(limiter.may_verify(one, now), Ok(()), "below the limit, good tokens are not counted");
    }
    limiter.bad_token(one, now);
    let checks: Vec<_> = (0..4).map(|_| limiter.may_verify(one, now)).collect();
    assert_eq!(checks[..3], [Ok(()); 3]);
    let refused = checks[3].unwrap_err();
    assert_eq!((refused.limit(), refused.after().as_millis()), (Limit::BadTokensPerAddress, 333));
    assert_eq!((limiter.may_verify(other, now), limiter.may_verify(None, now)), (Ok(()), Ok(())));
    let later = now + Duration::from_secs(30);
    assert!((0..100).all(|_| limiter.may_verify(one, later).is_ok()), "the address is below its limit again");
}

/// Sends `bad` forged tokens a second from one address for a minute, and a good one every 1.5 s. Returns how many good
/// ones were accepted, and how many signatures were checked.
fn flood(limiter: &Limiter, bad: u32) -> (usize, usize) {
    let (from, start) = (Some(address("203.0.113.7")), Instant::now());
    let (mut good, mut checks) = (0, 0);
    for number in 0..60 * bad {
        let now = start + Duration::from_secs(1) * number / bad;
        if limiter.may_verify(from, now).is_ok() {
            limiter.bad_token(from, now);
            checks += 1;
        }
        if number % (bad * 3 / 2) == 0 && limiter.may_verify(from, now).is_ok() {
            (good, checks) = (good + 1, checks + 1);
        }
    }
    (good, checks)
}

#[test]
fn good_tokens_are_accepted_while_their_address_sends_46_bad_ones_a_second() {
    // Before there was a rate for them, 4 of 40 were.
    assert_eq!(flood(&limiter("trusted_proxies = []"), 46).0, 40);
    // Above the rate, the checks are bounded: 300 and 5 a second by the first limit, 100 and 100 a second by the other.
    let (_, checks) = flood(&limiter("trusted_proxies = []"), 1_000);
    assert!((6_000..=300 + 60 * 5 + 100 + 60 * 100).contains(&checks), "{checks}");
}

#[test]
fn a_place_taken_before_the_subject_is_known_counts_for_it_later() {
    let limiter = limiter("requests = 2\nrequests_per_subject = 1");
    let (one, other) = (subject("one"), subject("other"));
    let first = limiter.enter(None, None).unwrap();
    let second = limiter.enter(None, None).unwrap();
    assert_eq!(limit(limiter.enter(None, None)), Some(Limit::Requests));
    let first = first.for_subject(Some(&one)).unwrap();
    assert_eq!(limit(second.for_subject(Some(&one))), Some(Limit::RequestsPerSubject));
    assert_eq!(limiter.requests().in_flight(), 1, "the refused one has released its place");
    assert_eq!(limit(limiter.enter(Some(&one), None)), Some(Limit::RequestsPerSubject));
    assert_eq!(limit(limiter.enter(Some(&other), None)), None);
    drop(first);
    assert_eq!((limit(limiter.enter(Some(&one), None)), limiter.requests().in_flight()), (None, 0));
}

#[test]
fn a_shape_is_counted_once_per_window() {
    let shapes = ShapeCounts::new();
    shapes.set(2, Duration::from_secs(60));
    let (one, other, now) = (client("203.0.113.7"), client("203.0.113.8"), Instant::now());
    for shape in ["a", "b", "a", "b"] {
        assert_eq!(shapes.open(&one, shape, now), Ok(()), "{shape}");
    }
    let refused = shapes.open(&one, "c", now + Duration::from_secs(20)).unwrap_err();
    assert_eq!((refused.limit(), refused.after()), (Limit::ShapesPerSubject, Duration::from_secs(40)));
    assert_eq!(shapes.open(&one, "a", now + Duration::from_secs(20)), Ok(()), "this shape is already counted");
    assert_eq!(shapes.open(&other, "c", now), Ok(()));
    let later = now + Duration::from_secs(60);
    assert_eq!(["c", "d", "c"].map(|shape| limit(shapes.open(&one, shape, later))), [None; 3]);
    assert_eq!(limit(shapes.open(&one, "a", later)), Some(Limit::ShapesPerSubject));
    shapes.set(0, Duration::from_secs(60));
    assert_eq!(shapes.open(&one, "e", later), Ok(()));
}

/// Builds requests of a public rule.
struct Requests(PolicySet);

impl Requests {
    fn build(&self, query: &str) -> UpstreamRequest {
        let request = ShapeRequest::parse(None, &format!("table=tasks&{query}"), self.0.parameters()).unwrap();
        let permit = self.0.authorize(None, &request, UnixTime::from_secs(0)).unwrap();
        UpstreamRequest::build(permit, &request, None).unwrap()
    }
}

#[test]
fn initial_requests_have_a_separate_budget() {
    let (limits, policy) = config("flights = 5\ninitial_flights = 2\ninitial_flights_per_subject = 1");
    let (limiter, requests) = (Limiter::new(&limits), Requests(policy));
    let (one, other, third) = (client("203.0.113.7"), client("203.0.113.8"), client("203.0.113.9"));
    let first = requests.build("a=1&offset=-1");
    let enter = |request: &UpstreamRequest, client| limiter.flights().enter(request, Some(client));
    let mut held = enter(&first, &one).unwrap();
    assert_eq!(limit(enter(&first, &one)), Some(Limit::InitialFlightsPerSubject));
    let _other = enter(&first, &other).unwrap();
    assert_eq!(limit(enter(&first, &third)), Some(Limit::InitialFlights));
    // Other requests have room, and a rejection takes no place.
    let on = requests.build("a=1&offset=0_0&handle=h&live=true");
    let _on = enter(&on, &third).unwrap();
    assert_eq!((limiter.flights().all().in_flight(), limiter.flights().initial().in_flight()), (3, 2));
    // Once Electric's response begins, another initial request is allowed.
    drop(held.take_initial());
    assert_eq!(limit(enter(&first, &third)), None);
    for (query, initial) in [
        ("offset=-1", true),
        ("offset=-1&handle=h", true),
        ("offset=now", true),
        ("offset=0_0&handle=h", false),
        ("offset=0_inf&handle=h&live=true", false),
    ] {
        assert_eq!(requests.build(&format!("a=1&{query}")).is_initial(), initial, "{query}");
    }
}

#[test]
fn clients_without_a_token_count_by_address() {
    let (limits, policy) = config("flights_per_subject = 1\nshapes_per_subject = 1\ntrusted_proxies = []");
    let (limiter, requests) = (Limiter::new(&limits), Requests(policy));
    let (one, other) = (client("203.0.113.7"), client("203.0.113.8"));
    let first = requests.build("a=1&offset=-1");
    let held = limiter.flights().enter(&first, Some(&one)).unwrap();
    assert_eq!(limit(limiter.flights().enter(&first, Some(&one))), Some(Limit::FlightsPerSubject));
    assert_eq!(limit(limiter.flights().enter(&first, Some(&other))), None);
    drop(held);
    let second = requests.build("a=2&offset=-1");
    assert_eq!(limit(limiter.flights().enter(&second, Some(&one))), Some(Limit::ShapesPerSubject));
    assert_eq!(limit(limiter.flights().enter(&first, Some(&one))), None);
}

#[test]
fn over_the_memory_limit_new_connections_and_requests_are_rejected() {
    let (limits, policy) = config("memory = '1KiB'");
    let (limiter, requests) = (Limiter::new(&limits), Requests(policy));
    let request = requests.build("a=1&offset=0_0&handle=h");
    assert_eq!(limit(limiter.connect(ip("203.0.113.7"))), Some(Limit::Memory));
    assert_eq!(limit(limiter.flights().enter(&request, None)), Some(Limit::Memory));
    // Cached responses can still be served.
    assert_eq!(limit(limiter.enter(None, None)), None);
    limiter.set(&config("memory = '1024GiB'").0);
    assert_eq!(limit(limiter.connect(ip("203.0.113.7"))), None);
    assert_eq!(limit(limiter.flights().enter(&request, None)), None);
}

/// One connection, used by a client in a loop or by many clients.
struct Loop {
    connection: Connection,
    limiter: Arc<Limiter>,
    requests: Requests,
    now: Instant,
}

impl Loop {
    fn new(repeats: usize) -> Self {
        let (limits, policy) = config(&format!("repeats = {repeats}"));
        let limiter = Limiter::new(&limits);
        let connection = limiter.connect(ip("203.0.113.7")).unwrap();
        Self { connection, limiter, requests: Requests(policy), now: Instant::now() }
    }

    /// Sends a request; its response takes `took` ms and sends the client to `next`.
    fn ask(&mut self, query: &str, took: u64, next: &str) -> Option<Limit> {
        let request = self.requests.build(&format!("a=1&{query}"));
        let position = self.connection.position(Some(&client("203.0.113.7")), None, &request)?;
        let asked = self.now;
        if let Err(limited) = self.connection.check_repeat(position, asked) {
            assert!(limited.after() <= Duration::from_millis(500));
            return Some(limited.limit());
        }
        self.now += Duration::from_millis(took);
        let next = Some(next).filter(|next| !next.is_empty()).map(|next| self.limiter.next(position, "h", next));
        self.connection.answered(position, next, asked, self.now);
        None
    }
}

#[test]
fn repeated_requests_without_progress_are_rejected() {
    let mut client = Loop::new(5);
    let snapshot = "offset=-1";
    for _ in 0..5 {
        assert_eq!(client.ask(snapshot, 2, "0_0"), None);
    }
    assert_eq!(client.ask(snapshot, 2, "0_0"), Some(Limit::Repeats));
    // Cache-busting parameters are not progress.
    assert_eq!(client.ask("offset=-1&cache-buster=1&expired_handle=x", 2, "0_0"), Some(Limit::Repeats));
    // It may continue where it was sent, and start again later.
    assert_eq!(client.ask("offset=0_0&handle=h", 2, "0_0"), None);
    client.now += Duration::from_millis(500);
    assert_eq!(client.ask(snapshot, 2, "0_0"), None);
    // Another connection counts separately.
    let mut other = Loop::new(5);
    assert_eq!(other.ask(snapshot, 2, "0_0"), None);
    let mut free = Loop::new(0);
    assert_eq!((0..50).find_map(|_| free.ask(snapshot, 2, "0_0")), None);
}

#[test]
fn requests_with_progress_or_waiting_are_not_repeats() {
    let mut client = Loop::new(5);
    // A long log in many chunks.
    assert_eq!(client.ask("offset=-1", 2, "0_0"), None);
    for at in 0..100 {
        assert_eq!(client.ask(&format!("offset={at}_0&handle=h"), 2, &format!("{}_0", at + 1)), None);
    }
    // Polls that end without a change, and responses that take Electric long.
    for _ in 0..20 {
        assert_eq!(client.ask("offset=100_0&handle=h&live=true", 100, "100_0"), None);
    }
    // React's StrictMode mounts twice, and a 409 leads to a few tries from the start.
    for _ in 0..2 {
        assert_eq!(client.ask("offset=-1&handle=new&expired_handle=h", 2, "0_0"), None);
    }
}

#[test]
fn many_clients_on_one_connection_are_not_repeats() {
    let mut crowd = Loop::new(5);
    // Forty tabs wait for the same change and then for the next one, which exists when the last of them ask.
    for change in 0..10 {
        let query = format!("offset={change}_0&handle=h&live=true");
        let request = crowd.requests.build(&format!("a=1&{query}"));
        let position = crowd.connection.position(Some(&client("203.0.113.7")), None, &request).unwrap();
        let next = crowd.limiter.next(position, "h", &format!("{}_0", change + 1));
        let asked = crowd.now;
        for _ in 0..40 {
            assert_eq!(crowd.connection.check_repeat(position, asked), Ok(()), "{change}");
        }
        crowd.now += Duration::from_millis(if change == 0 { 20_000 } else { 3 });
        for _ in 0..40 {
            crowd.connection.answered(position, Some(next), asked, crowd.now);
        }
    }
    // One of them that makes no progress is detected.
    let stuck = (0..50).find_map(|_| crowd.ask("offset=9_0&handle=h&live=true", 2, "10_0"));
    assert_eq!(stuck, Some(Limit::Repeats));
}

#[test]
fn simultaneous_requests_are_not_repeats() {
    let client = Loop::new(5);
    let request = client.requests.build("a=1&offset=-1");
    let position = client.connection.position(Some(&self::client("203.0.113.7")), None, &request).unwrap();
    let (asked, now) = (client.now, client.now + Duration::from_millis(20));
    for _ in 0..40 {
        assert_eq!(client.connection.check_repeat(position, asked), Ok(()));
        client.connection.answered(position, None, asked, now);
    }
    assert_eq!(client.connection.check_repeat(position, now), Ok(()));
}

#[test]
fn only_requests_one_after_the_other_without_another_between_are_repeats() {
    let mut client = Loop::new(5);
    for _ in 0..50 {
        assert_eq!(client.ask("offset=-1", 2, ""), None);
        assert_eq!(client.ask("offset=0_0&handle=h", 2, ""), None);
    }
    // On two connections in turn.
    let mut idle = client.limiter.connect(ip("203.0.113.7")).unwrap();
    for _ in 0..50 {
        std::mem::swap(&mut idle, &mut client.connection);
        assert_eq!(client.ask("offset=-1", 2, ""), None);
    }
    // Of another client on the same connection.
    let request = client.requests.build("a=1&offset=-1");
    let stranger = client.connection.position(Some(&self::client("203.0.113.8")), None, &request).unwrap();
    let repeated = (0..50).find_map(|_| {
        assert_eq!(client.connection.check_repeat(stranger, client.now), Ok(()));
        client.ask("offset=-1", 2, "")
    });
    assert_eq!(repeated, Some(Limit::Repeats));
}

#[test]
fn clients_that_cannot_be_identified_are_not_counted() {
    let visitors = Loop::new(5);
    let request = visitors.requests.build("a=1&offset=-1");
    // On one connection of an unknown proxy, all visitors without a token look like one client.
    assert_eq!(visitors.connection.position(None, None, &request), None);
    assert!(visitors.connection.position(Some(&client("203.0.113.7")), None, &request).is_some());
}

#[test]
fn retry_after_is_at_least_the_wait_and_randomized() {
    let refusal = Limited::until(Limit::RatePerSubject, Duration::from_millis(10_001));
    let after: Vec<_> = (0..200).map(|_| refusal.retry_after().as_secs()).collect();
    assert!(after.iter().all(|after| (11..=22).contains(after)), "{after:?}");
    assert!(after.iter().any(|other| *other != after[0]));
    let metrics = Metrics::new().unwrap();
    for limit in Limit::ALL {
        let rejection = Rejection::limited(Limited::by(limit), &metrics);
        let status = if limit.is_of_all() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::TOO_MANY_REQUESTS };
        assert_eq!(rejection.answer().0, status, "{limit:?}");
        assert!(rejection.retry_after().is_some_and(|after| after >= Duration::from_secs(1)));
    }
}

#[test]
fn a_waiting_client_uses_little_memory() {
    assert!(size_of::<Connection>() <= 136, "{}", size_of::<Connection>());
    assert!(size_of::<Place>() <= 64, "{}", size_of::<Place>());
}

#[test]
fn every_limit_label_is_a_configuration_key() {
    let file = include_str!("../../conf/shapegate.full.toml");
    let (_, section) = file.split_once("[limits]").unwrap();
    let (section, _) = section.split_once("\n[").unwrap();
    for limit in Limit::ALL {
        let key = format!("\n{} = ", limit.as_str());
        assert!(section.contains(&key) || section.contains(&key.replace('\n', "\n# ")), "{key}");
    }
}
