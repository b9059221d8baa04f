//! Runs a real shapegate on loopback, between a client and the stand-in for Electric, with an issuer that can go down.

mod certificate;
mod client;
mod issuer;
pub(crate) mod pdp;
mod process;
mod service;
mod tls;
mod wire;

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use shapegate::clock::{Clock, SystemClock};
use shapegate::config::{Config, Environment};
use shapegate::demo::electric::{Column, Electric, Options};
use shapegate::limits::Limiter;
use shapegate::policy::PolicySet;
use shapegate::server::{Reloader, Server};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) use certificate::{Certificate, tls_line};
pub(crate) use client::{Answer, Stream, raw};
pub(crate) use issuer::IssuerServer;
pub(crate) use process::{Process, config, shapegate};
pub(crate) use service::Service;
pub(crate) use tls::TlsFront;
pub(crate) use wire::Wire;

/// The secret of the stand-in. It must never reach a client.
pub(crate) const SECRET: &str = "test-secret";
/// The secret that replaces [`SECRET`] in tests of rotation.
pub(crate) const NEXT_SECRET: &str = "next-secret";
/// The secret that signs shape tokens in tests with a gatekeeper.
pub(crate) const GATEKEEPER_SECRET: &str = "0123456789abcdef-gatekeeper-89abcdef";
/// The audience of every test token.
pub(crate) const AUDIENCE: &str = "https://app.test";

/// The life in seconds of tokens that expire during a test: enough for a slow machine to send a request with one.
pub(crate) const SHORT_LIFE: u64 = 5;

/// The rules that most tests use.
pub(crate) const RULES: &str = r#"
[[shape]]
table = "tasks"
allow = "query.organizationId in claims.organizationIds"
where = '"organization_id" = {{ query.organizationId }}'

[[shape]]
path = "/api/items"
table = "items"
allow = "'admin' in claims.roles"
where = "none"
columns = ["id", "title"]
"#;

/// A running shapegate with its Electric, its issuer and a client.
pub(crate) struct Gate {
    pub electric: Electric,
    pub issuer: IssuerServer,
    /// Replaces its rules or its whole configuration.
    pub policy: Switch,
    /// Replaces its limits.
    pub limiter: Arc<Limiter>,
    pub url: String,
    pub admin: String,
    client: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
}

/// Settings of a test, applied before the start.
#[derive(Clone)]
pub(crate) struct Setup {
    pub rules: String,
    /// `server.listen`, as TOML. The first address is the gate's URL.
    pub listen: String,
    /// Additional lines of `[server]`. Likewise below for `[upstream]` and `[[issuer]]`; whole sections go to `rules`.
    pub server: String,
    pub upstream: String,
    pub issuer: String,
    pub jwks: String,
    /// `jwks.cooldown`, by default a second.
    pub cooldown: &'static str,
    pub electric: Options,
    /// The URL of Electric, if not that of the stand-in.
    pub electric_url: Option<String>,
    /// Additional servers of `[upstream]`.
    pub electric_urls: Vec<String>,
    pub clock: Arc<dyn Clock>,
    pub issuer_up: bool,
    /// The issuer in the configuration, if not the one started here.
    pub issuer_url: Option<String>,
    /// Changes the parsed configuration, for values that a file may not have, such as very short timeouts.
    pub tune: fn(&mut Config),
    /// Serves HTTPS with this certificate, which the client trusts.
    pub certificate: Option<Certificate>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            rules: RULES.to_owned(),
            listen: "'127.0.0.1:0'".to_owned(),
            server: String::new(),
            upstream: String::new(),
            issuer: String::new(),
            jwks: String::new(),
            cooldown: "1s",
            electric: Options::default(),
            electric_url: None,
            electric_urls: Vec::new(),
            clock: Arc::new(SystemClock),
            issuer_up: true,
            issuer_url: None,
            tune: |_| {},
            certificate: None,
        }
    }
}

impl Setup {
    /// Builds the configuration, with this Electric and this issuer unless others are set.
    pub(crate) fn config(&self, electric: &str, issuer: &str) -> Config {
        let text = format!(
            r#"
[server]
listen = {listen}
admin = "127.0.0.1:0"
drain = "2s"
{tls}
{server}
[upstream]
{electric}
secret = {{ env = "ELECTRIC_SECRET" }}
{upstream}
[[issuer]]
issuer = "{issuer}"
audience = "{AUDIENCE}"
algorithms = ["EdDSA"]
leeway = "0s"
jwks = {{ url = "{issuer}/jwks", cooldown = "{cooldown}"{jwks} }}
{issuer_keys}
{rules}
"#,
            tls = self.certificate.as_ref().map(Certificate::line).unwrap_or_default(),
            listen = self.listen,
            server = self.server,
            electric = self.electric_line(electric),
            upstream = self.upstream,
            issuer = self.issuer_url.as_deref().unwrap_or(issuer),
            cooldown = self.cooldown,
            jwks = self.jwks,
            issuer_keys = self.issuer,
            rules = self.rules,
        );
        let environment = Environment::from([
            ("ELECTRIC_SECRET", SECRET),
            ("ELECTRIC_SECRET_NEXT", NEXT_SECRET),
            ("GATEKEEPER_SECRET", GATEKEEPER_SECRET),
        ]);
        let config = Config::parse(&text, Path::new("test.toml"), &environment);
        let mut config = config.unwrap_or_else(|error| panic!("{error}"));
        // One test client sends as many requests as many real ones. Tests with real clients have `[limits]`.
        if !text.contains("[limits]") {
            (config.limits.rate_per_subject, config.limits.repeats, config.limits.shapes_per_subject) = (0, 0, 0);
        }
        config
    }

    fn electric_line(&self, electric: &str) -> String {
        let electric = self.electric_url.as_deref().unwrap_or(electric);
        if self.electric_urls.is_empty() {
            return format!("url = {electric:?}");
        }
        let urls: Vec<_> = [electric].into_iter().chain(self.electric_urls.iter().map(String::as_str)).collect();
        format!("urls = {urls:?}")
    }
}

/// Starts a stand-in for Electric with the tables of [`RULES`].
pub(crate) async fn start_electric(options: Options) -> Electric {
    let electric = Electric::start(options).await.unwrap();
    let text = |name: &str| Column::new(name, "text");
    let key = |kind: &str| Column::new("id", kind).not_null().primary_key(0);
    electric.create_table("tasks", vec![key("uuid"), text("organization_id"), text("title")]);
    electric.create_table("items", vec![key("int4"), text("user_id"), text("title")]);
    electric
}

/// Replaces the configuration of a running gate.
pub(crate) struct Switch {
    reloader: Reloader,
    setup: Setup,
    electric: String,
    issuer: String,
}

impl Switch {
    /// Reloads the initial configuration with another policy.
    pub(crate) fn replace(&self, policy: PolicySet) {
        self.reload(|_| {}, |config| config.policy = policy).unwrap();
    }

    /// Changes the initial configuration, also for later reloads, and reloads it.
    pub(crate) fn keep(&mut self, change: impl FnOnce(&mut Setup)) {
        change(&mut self.setup);
        self.reload(|_| {}, |_| {}).unwrap();
    }

    /// Reloads the initial configuration after `change` has edited the setup and `tune` the parsed configuration.
    pub(crate) fn reload(&self, change: impl FnOnce(&mut Setup), tune: impl FnOnce(&mut Config)) -> anyhow::Result<()> {
        let mut setup = self.setup.clone();
        change(&mut setup);
        let mut config = setup.config(&self.electric, &self.issuer);
        (setup.tune)(&mut config);
        tune(&mut config);
        self.reloader.take(config)
    }
}

fn plain_client() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy()
}

impl Gate {
    /// Starts with [`RULES`].
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    /// Starts with `setup` without waiting for anything: the issuer's keys may still be missing at the first request.
    pub(crate) async fn with(setup: Setup) -> Self {
        let electric = start_electric(setup.electric.clone()).await;
        let issuer = IssuerServer::start().await;
        issuer.set_up(setup.issuer_up);
        let mut config = setup.config(&electric.url(), issuer.url());
        (setup.tune)(&mut config);
        let server = Server::bind_at(config, Arc::clone(&setup.clock)).unwrap();
        let scheme = if setup.certificate.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", server.addresses()[0]);
        let admin = format!("http://{}", server.admin_address());
        let (reloader, limiter, setup) = (server.reloader(), server.limiter(), setup.clone());
        let policy = Switch { reloader, setup, electric: electric.url(), issuer: issuer.url().to_owned() };
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(async move {
            server.run(async { drop(stopped.await) }).await.unwrap();
        });
        let client = policy.setup.certificate.as_ref().map_or_else(plain_client, Certificate::client);
        Self {
            electric,
            issuer,
            policy,
            limiter,
            url,
            admin,
            client: client.build().unwrap(),
            stop: Some(stop),
            serving: Some(serving),
        }
    }

    /// Signs a token for these organizations that is valid for an hour.
    pub(crate) fn token(&self, organizations: &[&str]) -> String {
        self.issuer.token(&json!({ "sub": "user-1", "organizationIds": organizations }))
    }

    /// Inserts a row into `tasks`.
    pub(crate) fn insert_task(&self, id: u32, organization: &str, title: &str) {
        let id = format!("00000000-0000-0000-0000-{id:012}");
        self.electric.insert("tasks", json!({ "id": id, "organization_id": organization, "title": title })).unwrap();
    }

    /// Sends a GET with a token.
    pub(crate) async fn get(&self, target: &str, token: &str) -> Answer {
        Answer::of(self.request(target, Some(token)).send().await.unwrap()).await
    }

    /// Prepares a GET, to which the test may add headers.
    pub(crate) fn request(&self, target: &str, token: Option<&str>) -> reqwest::RequestBuilder {
        let request = self.client.get(format!("{}{target}", self.url));
        match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a POST with a token and a JSON body.
    pub(crate) async fn post(&self, target: &str, token: &str, body: &str) -> Answer {
        let request = self.client.post(format!("{}{target}", self.url)).bearer_auth(token);
        let request = request.header("content-type", "application/json").body(body.to_owned());
        Answer::of(request.send().await.unwrap()).await
    }

    /// Returns the client that [`Self::request`] uses.
    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// Reads one series from `/metrics`, named with its labels exactly as exported; 0 if it is missing.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.admin("/metrics").await.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits until a metric has this value. Responses are counted after they were sent.
    pub(crate) async fn until_metric(&self, name: &str, value: f64) {
        self.until_metric_is(name, &format!("not {value}"), |seen| seen == value).await;
    }

    /// Waits until a counter has at least this value.
    pub(crate) async fn until_metric_reaches(&self, name: &str, value: f64) {
        self.until_metric_is(name, &format!("below {value}"), |seen| seen >= value).await;
    }

    async fn until_metric_is(&self, name: &str, otherwise: &str, wanted: impl Fn(f64) -> bool) {
        let mut seen = self.metric(name).await;
        for _ in 0..3_000 {
            if wanted(seen) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            seen = self.metric(name).await;
        }
        panic!("{name} is {seen}, {otherwise}");
    }

    /// Sends a GET to the admin port.
    pub(crate) async fn admin(&self, path: &str) -> Answer {
        Answer::of(self.client.get(format!("{}{path}", self.admin)).send().await.unwrap()).await
    }

    /// Stops as SIGTERM would, and waits until it has drained.
    pub(crate) async fn stop(&mut self) {
        self.stopping().await;
    }

    /// Starts to stop, as [`Self::stop`] does. The gate stays usable while it drains.
    pub(crate) fn stopping(&mut self) -> impl Future<Output = ()> + use<> {
        drop(self.stop.take());
        let serving = self.serving.take();
        async {
            if let Some(serving) = serving {
                serving.await.unwrap();
            }
        }
    }
}

/// Adds the claims that every token needs, unless `claims` has them.
pub(crate) fn with_defaults(issuer: &str, claims: &Value) -> Value {
    let now = SystemClock.now().as_secs();
    let mut all = json!({ "iss": issuer, "aud": AUDIENCE, "exp": now + 3600, "iat": now });
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    all
}
