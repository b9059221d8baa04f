//! Several servers of one Electric: a shape sticks to one of them.

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

/// The servers, and which of them have shapes.
pub(super) struct Cluster {
    servers: Vec<Arc<UpstreamServer>>,
    rotation: RwLock<Rotation>,
    /// Whether every server was asked often enough to say which of them shapes go to.
    settled: watch::Sender<bool>,
    /// A request has failed: it is time to look.
    suspected: Notify,
    interval: Duration,
}

impl Cluster {
    /// All of them ready, until they are found not to be.
    pub(super) fn new(servers: &[Arc<UpstreamServer>], config: &UpstreamSettings) -> Self {
        let rotation = RwLock::new(Rotation::new(servers.len(), config.failover));
        let (settled, suspected) = (watch::Sender::new(false), Notify::new());
        Self { servers: servers.to_vec(), rotation, settled, suspected, interval: config.health_interval }
    }

    /// Returns the server of a shape; `None` while it is not ready, and its clients are to wait for it.
    ///
    /// By rendezvous hashing: of the servers that shapes go to, the one with the greatest weight for this shape. So a
    /// server that leaves takes only its own shapes with it, and the order of the list does not matter.
    pub(super) fn choose(&self, definition: &str) -> Option<&Arc<UpstreamServer>> {
        let rotation = self.rotation.read();
        let inside = self.servers.iter().zip(rotation.members()).filter(|(_, member)| member.inside);
        let (server, member) = inside.max_by_key(|(server, _)| weight(server.url(), definition))?;
        member.ready.then_some(server)
    }

    /// Returns every server with what is known of it.
    pub(super) fn members(&self) -> Vec<(&Arc<UpstreamServer>, Member)> {
        self.servers.iter().zip(self.rotation.read().members().iter().copied()).collect()
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

    /// Waits until it is known which servers shapes go to; until then all of them count as ready.
    pub(super) async fn settled(&self) {
        // The sender is ours.
        let _ = self.settled.subscribe().wait_for(|settled| *settled).await;
    }

    /// Asks each once, all at the same time.
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
                tracing::info!(upstream, %server, "Electric: its shapes come back to it");
            } else {
                tracing::warn!(upstream, %server, "Electric: its shapes go to other servers, and their clients load them again");
            }
        }
    }

    /// Nodes that started together must not ask together. After a failed request a part of the pause is enough.
    async fn pause(&self) {
        let pause = self.interval.mul_f64(rand::random_range(0.8..1.2));
        let hurried = async {
            sleep(pause / HURRIED).await;
            self.suspected.notified().await;
        };
        tokio::select! { () = sleep(pause) => {} () = hurried => {} }
    }
}

/// Between the first looks, of which as many as it takes decide where shapes go from the start.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Looks in the time of one, where requests fail.
const HURRIED: u32 = 4;

/// Weighs a server for a shape: the same in every process and every version, or two of them would load a shape from two
/// servers. The server's name counts, not the address that it stands for.
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

    const RULES: &str = "[[shape]]\ntable = 'tasks'\nwhere = '\"org\" = {{ query.org }}'\nsubset = true\n";

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

    /// The host of an organization's shape, whatever of it is asked for.
    fn host(cluster: &Cluster, org: &str, rest: &str, body: Option<&str>) -> String {
        let request = rewritten(RULES, &format!("table=tasks&org={org}&{rest}"), body).unwrap();
        cluster.choose(request.definition()).unwrap().url().host.clone()
    }

    static FOUR: std::sync::LazyLock<Cluster> =
        std::sync::LazyLock::new(|| cluster(&["e-1", "e-2", "10.0.0.3", "::4"]));

    proptest! {
        #[test]
        fn the_server_depends_on_the_definition_alone(
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
    fn shapes_spread_and_those_of_a_server_that_is_gone_alone_move() {
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
        // The order in the file is no matter.
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
    fn only_the_shapes_of_a_server_that_is_outside_go_elsewhere_and_they_come_back() {
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
    fn a_shape_waits_for_its_server_while_that_is_not_ready_and_still_inside() {
        let cluster = cluster(&["e-1"]);
        for (said, waits) in [(Health::Silent, true), (Health::Active, false)] {
            (0..IN_A_ROW).for_each(|_| cluster.rotation.write().observe(0, said, Instant::now()));
            assert_eq!(cluster.choose("table=tasks").is_none(), waits, "{said}");
        }
    }
}
