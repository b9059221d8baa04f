//! Holds a pool of servers for each configured Electric service.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use pingora::connectors::http::Connector;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::cluster::Cluster;
use super::health::{self, Health};
use super::secrets;
use super::server::{Trust, UpstreamServer};
use super::settings::UpstreamSettings;
use crate::fault::Fault;
use crate::secret::Secret;
use crate::shape::UpstreamName;

/// Every Electric service of a configuration.
pub struct Upstreams {
    default: Arc<Pool>,
    named: HashMap<UpstreamName, Arc<Pool>>,
    connector: Arc<Connector>,
}

/// The servers of one Electric service.
pub(crate) struct Pool {
    name: UpstreamName,
    /// Identifies this Electric service across reloads. It changes if the same upstream name refers to another service.
    identity: Arc<str>,
    config: Arc<UpstreamSettings>,
    servers: Vec<Arc<UpstreamServer>>,
    /// `None` if there is only one server, which then serves all shapes.
    cluster: Option<Arc<Cluster>>,
    /// What a single server said at its last check; `None` before the first one.
    said: watch::Sender<Option<Health>>,
    watching: OnceLock<Watching>,
}

/// The task that checks the health of a pool's servers. It ends with the pool.
struct Watching(AbortHandle);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The state of one server.
#[derive(Clone, Debug)]
pub struct ServerStatus {
    /// The upstream it belongs to.
    pub upstream: UpstreamName,
    /// Its URL: scheme, host and port.
    pub server: String,
    /// Whether it is healthy and serves shapes.
    pub active: bool,
    /// Why it is not active, in words; empty if it is.
    pub trouble: String,
    /// Whether its shapes go to it. Otherwise they go to another server until this one has been healthy for `failover`.
    pub in_rotation: bool,
    /// Which secret it accepts: 1 for `secret`, 2 for `secret_next`.
    pub secret: usize,
}

impl Upstreams {
    /// Creates the pools of a configuration. Does not connect yet.
    ///
    /// # Errors
    /// If the system's certificates cannot be read.
    pub fn new(default: &UpstreamSettings, named: &BTreeMap<String, UpstreamSettings>) -> anyhow::Result<Self> {
        let connector = system_trust(|| Connector::new(None))?;
        Self::build(default, named, Arc::new(connector), |_, _| None)
    }

    /// Creates the pools of a new configuration. An unchanged pool is kept, with its connections, the state of its
    /// servers and the secret that each of them accepts.
    ///
    /// # Errors
    /// Like [`Upstreams::new`].
    pub fn renewed(
        &self,
        default: &UpstreamSettings,
        named: &BTreeMap<String, UpstreamSettings>,
    ) -> anyhow::Result<Self> {
        Self::build(default, named, Arc::clone(&self.connector), |name, config| {
            self.pools().find(|pool| pool.name == *name && *pool.config == *config).map(Arc::clone)
        })
    }

    fn build(
        default: &UpstreamSettings,
        named: &BTreeMap<String, UpstreamSettings>,
        connector: Arc<Connector>,
        kept: impl Fn(&UpstreamName, &UpstreamSettings) -> Option<Arc<Pool>>,
    ) -> anyhow::Result<Self> {
        let pool = |name: UpstreamName, config: &UpstreamSettings| match kept(&name, config) {
            Some(pool) => Ok(pool),
            None => Pool::new(name, config, &connector).map(Arc::new),
        };
        let named = named.iter().map(|(name, config)| {
            let name = UpstreamName::new(name);
            Ok((name.clone(), pool(name, config)?))
        });
        Ok(Self {
            default: pool(UpstreamName::default(), default)?,
            named: named.collect::<anyhow::Result<_>>()?,
            connector,
        })
    }

    /// Starts health checks for each pool, for as long as the pool lives. Must be called in a runtime. Checks that already
    /// run continue.
    pub fn watch(&self) {
        self.pools().for_each(|pool| pool.watch());
    }

    /// Waits until the servers of each [watched](Self::watch) pool are checked. Until then, servers of such a pool
    /// count as ready.
    pub async fn settled(&self) {
        for pool in self.pools() {
            if let Some(cluster) = &pool.cluster {
                cluster.settled().await;
            }
        }
    }

    /// Returns the Electric Cloud source of an upstream, if it has one.
    pub fn source_id(&self, name: &UpstreamName) -> Option<&str> {
        self.find(name)?.config.source_id.as_deref()
    }

    /// Returns the secrets of an upstream, which must never be shown.
    pub(crate) fn secrets(&self, name: &UpstreamName) -> impl Iterator<Item = &Secret> {
        self.find(name).into_iter().flat_map(|pool| pool.secrets())
    }

    /// Returns the pool of this name; `None` if the name comes from another configuration.
    pub(crate) fn find(&self, name: &UpstreamName) -> Option<&Arc<Pool>> {
        match name.named() {
            None => Some(&self.default),
            Some(_) => self.named.get(name),
        }
    }

    /// Returns the state of every server of the [watched](Self::watch) pools, as its last check found it. Waits for the
    /// first check of a single server.
    pub async fn status(&self) -> Vec<ServerStatus> {
        let mut asking = JoinSet::new();
        for (place, pool) in self.pools().enumerate() {
            let pool = Arc::clone(pool);
            asking.spawn(async move { (place, pool.status().await) });
        }
        let mut status = asking.join_all().await;
        status.sort_by_key(|(place, _)| *place);
        status.into_iter().flat_map(|(_, servers)| servers).collect()
    }

    /// Checks whether each server accepts a secret of its upstream. Returns each server, in words, with the problem.
    pub async fn check_secrets(&self) -> Vec<(String, Result<(), String>)> {
        let mut checked = Vec::new();
        for pool in self.pools() {
            for server in &pool.servers {
                let subject = format!("Electric {} ({})", pool.name.as_str(), server.url());
                checked.push((subject, pool.check_secret(server).await));
            }
        }
        checked
    }

    /// Describes the upstream and server of a shape, in words.
    pub fn describe(&self, name: &UpstreamName, definition: &str) -> String {
        let Some(pool) = self.find(name) else { return String::new() };
        let server = pool.server(definition).map(|server| server.url().to_string()).unwrap_or_default();
        match pool.servers.len() {
            1 => format!("{}, {server}", name.as_str()),
            count => format!("{}, {server} of {count}", name.as_str()),
        }
    }

    /// Iterates over the pools: the default first, then the others by name.
    fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        let mut named: Vec<_> = self.named.values().collect();
        named.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        [&self.default].into_iter().chain(named)
    }
}

impl Pool {
    fn new(name: UpstreamName, config: &UpstreamSettings, connector: &Arc<Connector>) -> anyhow::Result<Self> {
        let (shared, trust) = (Arc::new(config.clone()), Trust::of(config));
        let server =
            |url| Arc::new(UpstreamServer::new(url, Arc::clone(&shared), trust.clone(), Arc::clone(connector)));
        let servers: Vec<_> = config.servers.iter().cloned().map(server).collect();
        let cluster = (servers.len() > 1).then(|| Arc::new(Cluster::new(&servers, config)));
        Ok(Self {
            identity: identity(&name, config).into(),
            name,
            config: shared,
            servers,
            cluster,
            said: watch::Sender::new(None),
            watching: OnceLock::new(),
        })
    }

    fn watch(&self) {
        self.watching.get_or_init(|| {
            let watching = match (&self.cluster, self.servers.first()) {
                (Some(cluster), _) => {
                    let (cluster, name) = (Arc::clone(cluster), self.name.clone());
                    tokio::spawn(async move { cluster.watch(&name).await })
                }
                (None, server) => {
                    tokio::spawn(watch_alone(server.map(Arc::clone), self.said.clone(), self.config.health_interval))
                }
            };
            Watching(watching.abort_handle())
        });
    }

    pub(crate) fn name(&self) -> &UpstreamName {
        &self.name
    }

    /// Returns its secrets, which must never be shown.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.config.secrets()
    }

    /// Identifies this Electric service, for [`crate::flight::Key`].
    pub(crate) fn identity(&self) -> &Arc<str> {
        &self.identity
    }

    /// Returns the server of a shape, chosen by the shape's definition, so that it is the same for every part of its
    /// log.
    ///
    /// # Errors
    /// [`Fault::NotReady`] while that server is not ready and its shapes have not moved to another.
    pub(crate) fn server(&self, definition: &str) -> Result<&Arc<UpstreamServer>, Fault> {
        match &self.cluster {
            None => self.servers.first().ok_or(Fault::Internal),
            Some(cluster) => cluster.choose(definition).ok_or_else(|| Fault::NotReady(retry_after(cluster))),
        }
    }

    /// Records a failed exchange, and returns the fault to report to its clients.
    ///
    /// If one of several servers refuses connections, it is treated as not ready: clients are told to wait.
    pub(crate) fn failed(&self, fault: Fault, connected: bool) -> Fault {
        let Some(cluster) = &self.cluster else { return fault };
        cluster.suspect();
        if connected { fault } else { Fault::NotReady(retry_after(cluster)) }
    }

    async fn status(&self) -> Vec<ServerStatus> {
        let Some(cluster) = &self.cluster else {
            let Some(server) = self.servers.first() else { return Vec::new() };
            let mut said = self.said.subscribe();
            // Cannot fail: `self` holds the sender.
            let said = said.wait_for(Option::is_some).await.ok().and_then(|said| *said).unwrap_or(Health::Unreachable);
            return vec![self.server_status(server, said, said == Health::Active, true).await];
        };
        let mut status = Vec::new();
        for (server, member) in cluster.members() {
            status.push(self.server_status(server, member.said, member.ready, member.inside).await);
        }
        status
    }

    /// Checks whether a server accepts a secret of this upstream.
    async fn check_secret(&self, server: &UpstreamServer) -> Result<(), String> {
        match health::accepts_secret(server).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.rejects()),
            Err(health) => Err(health.to_string()),
        }
    }

    fn rejects(&self) -> String {
        format!("rejects {}", secrets::keys(&self.name, &self.config))
    }

    async fn server_status(
        &self,
        server: &UpstreamServer,
        said: Health,
        active: bool,
        in_rotation: bool,
    ) -> ServerStatus {
        // A refused secret may be right by now, although no client asks for a shape any more.
        let refused = active && server.secret.is_refused() && health::accepts_secret(server).await == Ok(false);
        let trouble = match said {
            _ if refused => self.rejects(),
            // It is healthy again, but not for long enough.
            Health::Active => "is coming back".to_owned(),
            said => said.to_string(),
        };
        let active = active && !refused;
        ServerStatus {
            upstream: self.name.clone(),
            server: server.url().to_string(),
            active,
            trouble: if active { String::new() } else { trouble },
            in_rotation,
            secret: server.secret.place() + 1,
        }
    }
}

/// Checks the health of a single server, forever. A server that is not healthy is checked more often, since nothing else
/// shows that it is back.
async fn watch_alone(server: Option<Arc<UpstreamServer>>, said: watch::Sender<Option<Health>>, interval: Duration) {
    let Some(server) = server else { return };
    loop {
        let health = health::ask(&server).await;
        said.send_replace(Some(health));
        let pause = if health == Health::Active { interval } else { interval.min(UNHEALTHY_PAUSE) };
        // Randomized, so that nodes started together do not check at the same time.
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.8..1.2))).await;
    }
}

/// The most time between two checks of a server that is not healthy.
const UNHEALTHY_PAUSE: Duration = Duration::from_secs(1);

impl ServerStatus {
    /// Describes the server, in words.
    pub fn subject(&self) -> String {
        format!("Electric {} ({})", self.upstream.as_str(), self.server)
    }
}

/// Returns the time until the next health check, in whole seconds as `Retry-After` requires.
fn retry_after(cluster: &Cluster) -> Duration {
    Duration::from_secs(cluster.interval().as_secs().max(1))
}

/// Builds the identity from what responses depend on: the servers in any order, and the Electric Cloud source. Secrets
/// are not part of it.
fn identity(name: &UpstreamName, config: &UpstreamSettings) -> String {
    let mut servers: Vec<_> = config.servers.iter().map(ToString::to_string).collect();
    servers.sort();
    format!("{}\n{}\n{}", name.as_str(), servers.join(" "), config.source_id.as_deref().unwrap_or_default())
}

/// Runs `build`, which reads the system's certificates. Pingora panics if it cannot read them.
///
/// # Errors
/// If the certificates cannot be read.
pub(crate) fn system_trust<T>(build: impl FnOnce() -> T) -> anyhow::Result<T> {
    catch_unwind(AssertUnwindSafe(build)).ok().context("the system's certificates cannot be read")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, Environment};

    fn config(upstreams: &str) -> Config {
        let text =
            format!("server.listen = '[::1]:0'\n{upstreams}[[shape]]\ntable = 't'\nwhere = 'none'\npublic = true\n");
        let environment = Environment::from([("A", "a"), ("B", "b")]);
        Config::parse(&text, Path::new("x.toml"), &environment).unwrap_or_else(|error| panic!("{error}"))
    }

    fn upstreams(text: &str) -> Upstreams {
        let config = config(text);
        Upstreams::new(&config.upstream, &config.upstreams).unwrap()
    }

    fn renewed(before: &Upstreams, text: &str) -> Upstreams {
        let config = config(text);
        before.renewed(&config.upstream, &config.upstreams).unwrap()
    }

    const DEFAULT: &str = "[upstream]\nurl = 'http://e'\nsecret = { env = 'A' }\n";
    const TENANT: &str = "[upstreams.t]\nurls = ['http://e', 'http://f']\nsecret = { env = 'A' }\n";

    #[test]
    fn unchanged_pools_are_kept_and_changed_pools_are_replaced() {
        let before = upstreams(&format!("{DEFAULT}{TENANT}"));
        let tenant = UpstreamName::new("t");
        let same = |after: &Upstreams, name: &UpstreamName| match (before.find(name), after.find(name)) {
            (Some(before), Some(after)) => Arc::ptr_eq(before, after),
            _ => panic!("{name:?}"),
        };
        let after = renewed(&before, &format!("{DEFAULT}{TENANT}"));
        assert!(same(&after, &UpstreamName::default()) && same(&after, &tenant));
        let after = renewed(&before, &format!("{DEFAULT}{}", TENANT.replace("'A'", "'B'")));
        assert!(same(&after, &UpstreamName::default()) && !same(&after, &tenant));
        let after = renewed(&before, &format!("{}{TENANT}", DEFAULT.replace("//e", "//f")));
        assert!(!same(&after, &UpstreamName::default()) && same(&after, &tenant));
        assert!(renewed(&before, DEFAULT).find(&tenant).is_none());
    }

    #[test]
    fn the_identity_changes_with_the_servers_or_the_source() {
        let identities = |text: &str| {
            let upstreams = upstreams(text);
            upstreams.pools().map(|pool| pool.identity.to_string()).collect::<Vec<_>>()
        };
        let before = identities(&format!("{DEFAULT}{TENANT}"));
        assert_eq!(identities(&format!("{DEFAULT}{TENANT}").replace("'A'", "'B'")), before);
        let reordered = TENANT.replace("'http://e', 'http://f'", "'http://f', 'http://e'");
        assert_eq!(identities(&format!("{DEFAULT}{reordered}")), before);
        for other in [
            format!("{}{TENANT}", DEFAULT.replace("//e", "//f")),
            format!("{DEFAULT}{}", TENANT.replace("//f", "//g")),
            format!("{DEFAULT}{TENANT}source_id = 's'\n"),
            format!("{DEFAULT}{}", TENANT.replace("upstreams.t", "upstreams.u")),
        ] {
            assert_ne!(identities(&other), before, "{other}");
        }
    }

    #[tokio::test]
    async fn a_pool_has_one_health_check_task_which_ends_with_it() {
        let upstreams = upstreams(&format!("{DEFAULT}{TENANT}"));
        upstreams.watch();
        let renewed = renewed(&upstreams, &format!("{DEFAULT}{TENANT}"));
        renewed.watch();
        assert!(upstreams.default.watching.get().is_some());
        let task = renewed.find(&UpstreamName::new("t")).unwrap().watching.get().unwrap().0.clone();
        drop(upstreams);
        tokio::task::yield_now().await;
        assert!(!task.is_finished());
        drop(renewed);
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}
