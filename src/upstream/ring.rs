//! Several servers of one Electric: a shape sticks to one of them.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::digest;
use pingora::{Error, ErrorType};
use pingora_load_balancing::health_check::HealthCheck;
use pingora_load_balancing::selection::Consistent;
use pingora_load_balancing::{Backend, LoadBalancer};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use super::health::{self, Health};
use super::rotation::{Moved, Rotation};
use super::server::UpstreamServer;
use super::settings::{ServerUrl, UpstreamSettings};
use crate::shape::UpstreamName;

/// The servers on Pingora's ring (ketama), with their health.
pub(super) struct Ring {
    balancer: LoadBalancer<Consistent>,
    members: Arc<[Member]>,
    /// Whether every server was asked often enough to say which of them shapes go to.
    settled: watch::Sender<bool>,
    /// A request has failed: it is time to look.
    suspected: Notify,
    interval: Duration,
    failover: Duration,
}

/// A server's place on the ring, and what is known of it.
pub(super) struct Member {
    /// What Pingora knows it by.
    backend: Backend,
    pub(super) server: Arc<UpstreamServer>,
    /// Whether its shapes go to it.
    inside: AtomicBool,
    said: Mutex<Health>,
}

impl Ring {
    /// All of them ready, until they are found not to be.
    pub(super) fn new(servers: &[Arc<UpstreamServer>], config: &UpstreamSettings) -> io::Result<Self> {
        let members: io::Result<Vec<_>> = servers.iter().map(Member::new).collect();
        let members: Arc<[Member]> = members?.into();
        let mut balancer = LoadBalancer::try_from_iter(servers.iter().map(|server| address(server.url())))?;
        balancer.set_health_check(Box::new(MemberCheck(Arc::clone(&members))));
        let (interval, failover) = (config.health_interval, config.failover);
        let (settled, suspected) = (watch::Sender::new(false), Notify::new());
        Ok(Self { balancer, members, settled, suspected, interval, failover })
    }

    /// The server of a shape; `None` where it is not ready, and its clients are to wait for it.
    pub(super) fn choose(&self, definition: &str) -> Option<&Arc<UpstreamServer>> {
        let ready = Cell::new(false);
        let inside = |backend: &Backend, is_ready: bool| {
            ready.set(is_ready);
            self.member(backend).is_some_and(Member::is_inside)
        };
        // Once around, and every server was met.
        let steps = POINTS * self.members.len();
        let chosen = self.balancer.select_with(definition.as_bytes(), steps, inside)?;
        self.member(&chosen).filter(|_| ready.get()).map(|member| &member.server)
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Whether a server was found ready when it was last asked.
    pub(super) fn is_ready(&self, member: &Member) -> bool {
        self.balancer.backends().ready(&member.backend)
    }

    /// A request has failed: look sooner.
    pub(super) fn suspect(&self) {
        self.suspected.notify_one();
    }

    /// After how long the next look may say otherwise.
    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// Asks all servers for their health, for ever.
    pub(super) async fn watch(&self, name: &UpstreamName) {
        for _ in 1..IN_A_ROW {
            self.look().await;
            sleep(FIRST_PAUSE).await;
        }
        let mut rotation = Rotation::new(&self.look().await, self.failover, Instant::now());
        rotation.outside().for_each(|place| self.move_member(Moved { place, inside: false }, name));
        self.settled.send_replace(true);
        loop {
            self.pause().await;
            let ready = self.look().await;
            let now = Instant::now();
            for (place, ready) in ready.into_iter().enumerate() {
                rotation.observe(place, ready, now);
            }
            rotation.advance(now).into_iter().for_each(|moved| self.move_member(moved, name));
        }
    }

    /// Waits until it is known which servers shapes go to; until then all of them count as ready.
    pub(super) async fn settled(&self) {
        // The sender is ours.
        let _ = self.settled.subscribe().wait_for(|settled| *settled).await;
    }

    /// Asks each once; which are ready by now.
    async fn look(&self) -> Vec<bool> {
        self.balancer.backends().run_health_check(true).await;
        self.members.iter().map(|member| self.is_ready(member)).collect()
    }

    fn move_member(&self, moved: Moved, name: &UpstreamName) {
        let Some(member) = self.members.get(moved.place) else { return };
        member.inside.store(moved.inside, Ordering::Relaxed);
        let (upstream, server) = (name.as_str(), member.server.url());
        if moved.inside {
            tracing::info!(upstream, %server, "Electric: its shapes come back to it");
        } else {
            tracing::warn!(upstream, %server, "Electric: its shapes go to other servers, and their clients load them again");
        }
    }

    /// Nodes that started together must not ask together. Where a request has failed, a part of the pause is enough.
    async fn pause(&self) {
        let pause = self.interval.mul_f64(rand::random_range(0.8..1.2));
        let hurried = async {
            sleep(pause / HURRIED).await;
            self.suspected.notified().await;
        };
        tokio::select! { () = sleep(pause) => {} () = hurried => {} }
    }

    fn member(&self, backend: &Backend) -> Option<&Member> {
        self.members.iter().find(|member| member.backend.addr == backend.addr)
    }
}

impl Member {
    fn new(server: &Arc<UpstreamServer>) -> io::Result<Self> {
        let backend = Backend::new(&address(server.url()).to_string()).map_err(io::Error::other)?;
        let (inside, said) = (AtomicBool::new(true), Mutex::new(Health::Active));
        Ok(Self { backend, server: Arc::clone(server), inside, said })
    }

    /// Whether its shapes go to it.
    pub(super) fn is_inside(&self) -> bool {
        self.inside.load(Ordering::Relaxed)
    }

    /// What it said last.
    pub(super) fn said(&self) -> Health {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Points of a server on the ring.
const POINTS: usize = 160;

/// Between the first looks, of which as many as it takes decide where shapes go from the start.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Looks in the time of one, where requests fail.
const HURRIED: u32 = 4;

/// One answer may be an accident: so many in a row change what a server is taken for.
const IN_A_ROW: usize = 2;

/// How Pingora's health checks ask.
struct MemberCheck(Arc<[Member]>);

#[async_trait]
impl HealthCheck for MemberCheck {
    async fn check(&self, target: &Backend) -> pingora::Result<()> {
        let Some(member) = self.0.iter().find(|member| member.backend.addr == target.addr) else {
            return Error::e_explain(ErrorType::InternalError, "no such server");
        };
        let health = health::ask(&member.server).await;
        *member.said.lock().unwrap_or_else(PoisonError::into_inner) = health;
        match health {
            Health::Active => Ok(()),
            trouble => Error::e_explain(ErrorType::InternalError, trouble.to_string()),
        }
    }

    fn backend_summary(&self, target: &Backend) -> String {
        let member = self.0.iter().find(|member| member.backend.addr == target.addr);
        member.map_or_else(String::new, |member| format!("Electric {}", member.server.url()))
    }

    fn health_threshold(&self, _success: bool) -> usize {
        IN_A_ROW
    }
}

/// Where a server stands on the ring: Pingora hashes an address. One that is named by its host gets one made from the
/// name (of 100::/64, which leads nowhere, RFC 6666), so that its shapes stay when the name leads elsewhere.
fn address(url: &ServerUrl) -> SocketAddr {
    let ip = url.host.parse::<IpAddr>().unwrap_or_else(|_| {
        let digest = digest::digest(&digest::SHA256, url.host.as_bytes());
        let mut octets = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0).octets();
        octets[8..].copy_from_slice(&digest.as_ref()[..8]);
        IpAddr::from(octets)
    });
    SocketAddr::new(ip, url.port)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pingora::connectors::http::Connector;
    use proptest::prelude::*;

    use super::super::server::Trust;
    use super::*;
    use crate::rewrite::tests::rewritten;

    const RULES: &str = "[[shape]]\ntable = 'tasks'\nwhere = '\"org\" = {{ query.org }}'\nsubset = true\n";

    fn ring(hosts: &[&str]) -> Ring {
        let urls = hosts.iter().map(|host| ServerUrl { host: (*host).to_owned(), port: 3000, tls: false });
        let config = Arc::new(UpstreamSettings {
            servers: urls.collect(),
            secret: None,
            secret_next: None,
            source_id: None,
            ca: None,
            connect_timeout: Duration::ZERO,
            read_timeout: Duration::ZERO,
            idle_timeout: Duration::ZERO,
            pool: 1,
            health_interval: Duration::from_secs(1),
            failover: Duration::from_secs(1),
        });
        let connector = Arc::new(Connector::new(None));
        let server = |url: &ServerUrl| {
            Arc::new(UpstreamServer::new(url.clone(), Arc::clone(&config), Trust::default(), Arc::clone(&connector)))
        };
        Ring::new(&config.servers.iter().map(server).collect::<Vec<_>>(), &config).unwrap()
    }

    /// The host of an organization's shape, whatever of it is asked for.
    fn host(ring: &Ring, org: &str, rest: &str, body: Option<&str>) -> String {
        let request = rewritten(RULES, &format!("table=tasks&org={org}&{rest}"), body).unwrap();
        ring.choose(request.definition()).unwrap().url().host.clone()
    }

    static RING: std::sync::LazyLock<Ring> = std::sync::LazyLock::new(|| ring(&["e-1", "e-2", "10.0.0.3", "::4"]));

    proptest! {
        #[test]
        fn the_server_depends_on_the_definition_alone(
            org in "[a-z0-9]{1,12}",
            offset in "-1|now|[0-9]{1,9}_[0-9]{1,3}|0_inf",
            handle in "[0-9]{1,9}-[0-9]{1,9}",
            live in prop::sample::select(vec!["", "&live=true", "&live=true&live_sse=true"]),
            rest in prop::sample::select(vec!["", "&cursor=7", "&log=changes_only", "&expired_handle=1-1", "&cache-buster=x"]),
        ) {
            let expected = host(&RING, &org, "offset=-1", None);
            let live = if offset == "-1" || offset == "now" { "" } else { live };
            let part = format!("offset={offset}&handle={handle}{live}{rest}");
            prop_assert_eq!(host(&RING, &org, &part, None), expected.clone());
            prop_assert_eq!(host(&RING, &org, "offset=-1&subset__limit=1&subset__order_by=id", None), expected.clone());
            prop_assert_eq!(host(&RING, &org, "offset=-1", Some(r#"{"where":"id = 1"}"#)), expected);
        }
    }

    #[test]
    fn shapes_spread_and_those_of_a_server_that_is_gone_alone_move() {
        let places = |hosts: &[&str]| -> BTreeMap<String, String> {
            let ring = ring(hosts);
            (0..1000).map(|org| (format!("org-{org}"), host(&ring, &format!("org-{org}"), "offset=-1", None))).collect()
        };
        let all = places(&["e-1", "e-2", "e-3"]);
        for server in ["e-1", "e-2", "e-3"] {
            let count = all.values().filter(|place| *place == server).count();
            assert!((200..500).contains(&count), "{server}: {count}");
        }
        // The order in the file is no matter.
        assert_eq!(places(&["e-3", "e-1", "e-2"]), all);
        for (org, place) in places(&["e-1", "e-3"]) {
            assert!(all[&org] == place || all[&org] == "e-2", "{org}: from {} to {place}", all[&org]);
        }
    }

    #[test]
    fn where_its_server_is_outside_a_shape_goes_to_the_next_one() {
        let ring = ring(&["e-1", "e-2"]);
        let org =
            (0..100).map(|org| format!("org-{org}")).find(|org| host(&ring, org, "offset=-1", None) == "e-1").unwrap();
        ring.move_member(Moved { place: 0, inside: false }, &UpstreamName::default());
        assert_eq!(host(&ring, &org, "offset=-1", None), "e-2");
        ring.move_member(Moved { place: 0, inside: true }, &UpstreamName::default());
        assert_eq!(host(&ring, &org, "offset=-1", None), "e-1");
    }
}
