//! Distributes shapes over several servers of one Electric service. A shape stays on one server.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::health;
use super::rotation::{IN_A_ROW, Member, Moved, Rotation};
use super::server::UpstreamServer;
use super::settings::{ServerUrl, UpstreamSettings};
use crate::digest::sha256;
use crate::shape::UpstreamName;

/// The servers of one Electric service, and which of them receive shapes.
pub(super) struct Cluster {
    servers: Vec<Arc<UpstreamServer>>,
    rotation: RwLock<Rotation>,
    /// Whether every server was checked often enough to decide which of them receive shapes.
    settled: watch::Sender<bool>,
    /// Notified when a request fails, to check health sooner.
    suspected: Notify,
    interval: Duration,
}

impl Cluster {
    /// Creates a cluster in which every server counts as ready until it is checked.
    pub(super) fn new(servers: &[Arc<UpstreamServer>], config: &UpstreamSettings) -> Self {
        let rotation = RwLock::new(Rotation::new(servers.len(), config.failover));
        let (settled, suspected) = (watch::Sender::new(false), Notify::new());
        Self { servers: servers.to_vec(), rotation, settled, suspected, interval: config.health_interval }
    }

    /// Returns the server of a shape; `None` while that server is not ready and its clients must wait.
    ///
    /// Uses rendezvous hashing: of the servers in rotation, it returns the one with the greatest weight for this shape.
    /// A server that leaves therefore moves only its own shapes, and the order of the list does not matter.
    pub(super) fn choose(&self, definition: &str) -> Option<&Arc<UpstreamServer>> {
        let rotation = self.rotation.read();
        let inside = self.servers.iter().zip(rotation.members()).filter(|(_, member)| member.inside);
        let (server, member) = inside.max_by_key(|(server, _)| weight(server.url(), definition))?;
        member.ready.then_some(server)
    }

    /// Returns every server with its state.
    pub(super) fn members(&self) -> Vec<(&Arc<UpstreamServer>, Member)> {
        self.servers.iter().zip(self.rotation.read().members().iter().copied()).collect()
    }

    /// Requests an earlier health check after a failed request.
    pub(super) fn suspect(&self) {
        self.suspected.notify_one();
    }

    /// Returns the time between health checks.
    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// Checks the health of all servers, forever.
    pub(super) async fn watch(&self, name: &UpstreamName) {
        for _ in 1..IN_A_ROW {
            self.look().await;
            sleep(FIRST_PAUSE).await;
        }
        self.look().await;
        let outside = self.rotation.write().begin(Instant::now());
        self.announce(&outside, name);
        self.settled.send_replace(true);
        loop {
            self.pause().await;
            self.look().await;
            let moved = self.rotation.write().advance(Instant::now());
            self.announce(&moved, name);
        }
    }

    /// Waits until it is decided which servers receive shapes. Until then, all of them count as ready.
    pub(super) async fn settled(&self) {
        // Cannot fail: `self` holds the sender.
        let _ = self.settled.subscribe().wait_for(|settled| *settled).await;
    }

    /// Checks each server once, all concurrently.
    async fn look(&self) {
        let mut asking = JoinSet::new();
        for (place, server) in self.servers.iter().cloned().enumerate() {
            asking.spawn(async move { (place, health::ask(&server).await) });
        }
        for (place, said) in asking.join_all().await {
            self.rotation.write().observe(place, said, Instant::now());
        }
    }

    fn announce(&self, moved: &[Moved], name: &UpstreamName) {
        for Moved { place, inside } in moved {
            let Some(server) = self.servers.get(*place) else { continue };
            let (upstream, server) = (name.as_str(), server.url());
            if *inside {
                tracing::info!(upstream, %server, "Electric server is healthy: its shapes return to it");
            } else {
                tracing::warn!(upstream, %server, "Electric server is not healthy: its shapes move to other servers, and clients load them again");
            }
        }
    }

    /// Waits until the next check. The pause is randomized, so that nodes started together do not check at the same
    /// time. After a failed request, a quarter of the interval is enough.
    async fn pause(&self) {
        let pause = self.interval.mul_f64(rand::random_range(0.8..1.2));
        let hurried = async {
            sleep(pause / HURRIED).await;
            self.suspected.notified().await;
        };
        tokio::select! { () = sleep(pause) => {} () = hurried => {} }
    }
}

/// The pause between the first checks, which decide together which servers receive shapes at the start.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// How much shorter the pause is after a failed request.
const HURRIED: u32 = 4;

/// Computes the weight of a server for a shape. It must be the same in every process and version, or two processes
/// would load a shape from two servers. It depends on the server's name, not on the address it resolves to.
fn weight(server: &ServerUrl, definition: &str) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = sha256(format!("{}\n{definition}", server.authority()));
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pingora::connectors::http::Connector;
    use proptest::prelude::*;

    use super::super::server::Trust;
    use super::health::Health;
    use super::*;
    use crate::rewrite::tests::rewritten;

    const RULES: &str = "[[shape]]\ntable = 'tasks'\nwhere = '\"org\" = {{ query.org }}'\n\
                         danger_client_chosen = ['org']\nsubset = true\n";

    fn cluster(hosts: &[&str]) -> Cluster {
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
        Cluster::new(&config.servers.iter().map(server).collect::<Vec<_>>(), &config)
    }

    /// Returns the host that serves an organization's shape, for any request to it.
    fn host(cluster: &Cluster, org: &str, rest: &str, body: Option<&str>) -> String {
        let request = rewritten(RULES, &format!("table=tasks&org={org}&{rest}"), body).unwrap();
        cluster.choose(request.definition()).unwrap().url().host.clone()
    }

    static FOUR: std::sync::LazyLock<Cluster> =
        std::sync::LazyLock::new(|| cluster(&["e-1", "e-2", "10.0.0.3", "::4"]));

    proptest! {
        #[test]
        fn the_server_depends_only_on_the_definition(
            org in "[a-z0-9]{1,12}",
            offset in "-1|now|[0-9]{1,9}_[0-9]{1,3}|0_inf",
            handle in "[0-9]{1,9}-[0-9]{1,9}",
            live in prop::sample::select(vec!["", "&live=true", "&live=true&live_sse=true"]),
            rest in prop::sample::select(vec!["", "&cursor=7", "&log=changes_only", "&expired_handle=1-1", "&cache-buster=x"]),
        ) {
            let expected = host(&FOUR, &org, "offset=-1", None);
            let live = if offset == "-1" || offset == "now" { "" } else { live };
            let part = format!("offset={offset}&handle={handle}{live}{rest}");
            prop_assert_eq!(host(&FOUR, &org, &part, None), expected.clone());
            prop_assert_eq!(host(&FOUR, &org, "offset=-1&subset__limit=1&subset__order_by=id", None), expected.clone());
            prop_assert_eq!(host(&FOUR, &org, "offset=-1", Some(r#"{"where":"id = 1"}"#)), expected);
        }
    }

    #[test]
    fn shapes_are_distributed_and_only_those_of_a_removed_server_move() {
        let places = |hosts: &[&str]| -> BTreeMap<String, String> {
            let cluster = cluster(hosts);
            (0..1000)
                .map(|org| (format!("org-{org}"), host(&cluster, &format!("org-{org}"), "offset=-1", None)))
                .collect()
        };
        let all = places(&["e-1", "e-2", "e-3"]);
        for server in ["e-1", "e-2", "e-3"] {
            let count = all.values().filter(|place| *place == server).count();
            assert!((200..500).contains(&count), "{server}: {count}");
        }
        // The order in the file does not matter.
        assert_eq!(places(&["e-3", "e-1", "e-2"]), all);
        for (org, place) in places(&["e-1", "e-3"]) {
            assert!(all[&org] == place || all[&org] == "e-2", "{org}: from {} to {place}", all[&org]);
        }
    }

    #[test]
    fn weights_are_the_same_in_every_version() {
        let url = |host: &str| ServerUrl { host: host.to_owned(), port: 3000, tls: false };
        // The first 8 bytes of `printf 'e-1:3000\ntable=tasks' | sha256sum`.
        for (host, expected) in
            [("e-1", 0xd68a_1556_e33c_1051), ("e-2", 0x9d2e_2e57_48fb_150e), ("e-3", 0xecc8_e27c_607c_7a71)]
        {
            assert_eq!(weight(&url(host), "table=tasks"), expected, "{host}");
        }
    }

    #[test]
    fn only_the_shapes_of_an_unhealthy_server_move_and_they_return() {
        let cluster = cluster(&["e-1", "e-2", "e-3"]);
        let places =
            || (0..100).map(|org| host(&cluster, &format!("org-{org}"), "offset=-1", None)).collect::<Vec<_>>();
        let find = |said| {
            let mut rotation = cluster.rotation.write();
            (0..IN_A_ROW).for_each(|_| rotation.observe(0, said, Instant::now()));
        };
        let before = places();
        find(Health::Unreachable);
        cluster.rotation.write().begin(Instant::now());
        for (before, now) in before.iter().zip(places()) {
            assert!(if before == "e-1" { now != "e-1" } else { now == *before }, "from {before} to {now}");
        }
        find(Health::Active);
        cluster.rotation.write().advance(Instant::now() + Duration::from_secs(1));
        assert_eq!(places(), before);
    }

    #[test]
    fn a_shape_waits_for_a_server_in_rotation_that_is_not_ready() {
        let cluster = cluster(&["e-1"]);
        for (said, waits) in [(Health::Silent, true), (Health::Active, false)] {
            (0..IN_A_ROW).for_each(|_| cluster.rotation.write().observe(0, said, Instant::now()));
            assert_eq!(cluster.choose("table=tasks").is_none(), waits, "{said}");
        }
    }
}
