//! nginx, HAProxy and Caddy from Debian in front of two shapegates, with the configurations of `conf/proxies`.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use shapegate::demo::electric::Options;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::harness::{Answer, Certificate, Gate, RULES, Setup};

const SHAPE: &str = "/v1/shape?table=tasks&organizationId=org_1";

/// Clients of each kind: polls and event streams, over HTTP/1.1 and HTTP/2.
const CLIENTS: usize = 50;

/// Rows that are inserted while clients wait.
const ROWS: u32 = 30;

/// A timeout far longer than anything here takes.
const LONG: Duration = Duration::from_secs(50);

/// A proxy of Debian.
struct Kind {
    /// The program, which is also the name of its package unless that is in `package`.
    program: &'static str,
    package: &'static str,
    /// Its configuration in `conf/proxies`.
    file: &'static str,
    arguments: fn(&Path) -> Vec<String>,
    /// Replacements that the test needs: paths and ports.
    replaced: fn(&str, &Scene) -> String,
    /// Lines of shapegate's `[server]`.
    server: &'static str,
}

const NGINX: Kind = Kind {
    program: "nginx",
    package: "nginx-light",
    file: "nginx.conf",
    arguments: |file| vec!["-c".into(), text(file), "-g".into(), "daemon off; master_process off;".into()],
    replaced: |conf, scene| {
        conf.replace("/run/nginx.pid", &text(&scene.folder.join("nginx.pid")))
            .replace("/var/log/nginx/error.log", "stderr")
            .replace("listen 443", &format!("listen {}", scene.port))
            .replace("/etc/nginx/tls.crt", &text(&scene.certificate.cert()))
            .replace("/etc/nginx/tls.key", &text(&scene.certificate.key()))
    },
    server: "",
};

const HAPROXY: Kind = Kind {
    program: "haproxy",
    package: "haproxy",
    file: "haproxy.cfg",
    arguments: |file| vec!["-db".into(), "-f".into(), text(file)],
    replaced: |conf, scene| {
        let both =
            [scene.certificate.cert(), scene.certificate.key()].map(|file| std::fs::read_to_string(file).unwrap());
        let pem = scene.folder.join("tls.pem");
        std::fs::write(&pem, both.concat()).unwrap();
        // HAProxy does not start if the test may not open as many files.
        conf.replace("maxconn 40000", "maxconn 2000")
            .replace("bind :443", &format!("bind 127.0.0.1:{}", scene.port))
            .replace("/etc/haproxy/tls.pem", &text(&pem))
    },
    server: "",
};

/// With the PROXY protocol instead of `X-Forwarded-For`.
const HAPROXY_V2: Kind = Kind {
    replaced: |conf, scene| {
        (HAPROXY.replaced)(conf, scene)
            .replace("    http-request set-header X-Forwarded-For %[src]\n", "")
            .replace("    # default-server send-proxy-v2", "    default-server send-proxy-v2")
    },
    server: "proxy_protocol = true",
    ..HAPROXY
};

const CADDY: Kind = Kind {
    program: "caddy",
    package: "caddy",
    file: "Caddyfile",
    arguments: |file| vec!["run".into(), "--adapter".into(), "caddyfile".into(), "--config".into(), text(file)],
    replaced: |conf, scene| {
        conf.replace("https://sync.example.com:443", &format!("https://127.0.0.1:{}", scene.port))
            .replace("/etc/caddy/tls.crt", &text(&scene.certificate.cert()))
            .replace("/etc/caddy/tls.key", &text(&scene.certificate.key()))
    },
    server: "",
};

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// What a proxy's configuration refers to.
struct Scene {
    folder: PathBuf,
    certificate: Certificate,
    port: u16,
}

/// Returns a port that nothing listens on.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn start(kind: &Kind, scene: &Scene, servers: [SocketAddr; 2]) -> Child {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/proxies").join(kind.file);
    let recipe = std::fs::read_to_string(recipe).unwrap();
    let [one, two] = servers.map(|address| address.to_string());
    let conf = (kind.replaced)(&recipe, scene).replace("10.0.0.11:8080", &one).replace("10.0.0.12:8080", &two);
    let file = scene.folder.join(kind.file);
    std::fs::write(&file, conf).unwrap();
    let mut command = Command::new(kind.program);
    // Debian's path for programs of the system is not in the path of every user.
    command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap()));
    command.args((kind.arguments)(&file)).env("HOME", &scene.folder).stdout(Stdio::null()).kill_on_drop(true);
    command.spawn().unwrap_or_else(|error| {
        panic!("{}: {error}; install the Debian package {}, or run .ci/setup-test", kind.program, kind.package)
    })
}

/// Starts a shapegate at `address`, for the Electric and the issuer of `of`.
async fn shapegate(kind: &Kind, address: SocketAddr, of: Option<&Gate>) -> Gate {
    let limits =
        "trusted_proxies = ['127.0.0.0/8']\nrate_per_address = 0\nrate_per_subject = 0\nshapes_per_subject = 0";
    Gate::with(Setup {
        rules: format!("{RULES}\n[limits]\n{limits}\n"),
        listen: format!("'{address}'"),
        server: format!("health_path = '/healthz'\n{}", kind.server),
        electric: Options { hold: Duration::from_secs(1), ..Options::default() },
        electric_url: of.map(|gate| gate.electric.url()),
        issuer_url: of.map(|gate| gate.issuer.url().to_owned()),
        ..Setup::default()
    })
    .await
}

/// One client that follows the log of a shape, as Electric's client does, and returns its titles in order.
struct Follower {
    client: reqwest::Client,
    url: String,
    token: String,
    events: bool,
    titles: Vec<String>,
    /// Titles since the last `up-to-date` event. Like Electric's client, it asks again for them if the stream ends before.
    pending: Vec<String>,
    handle: String,
    offset: String,
    /// Whether it has every row so far, and waits for the next one.
    live: bool,
}

impl Follower {
    async fn run(mut self) -> Result<Vec<String>, String> {
        let last = title(ROWS);
        while self.titles.last() != Some(&last) {
            self.ask().await?;
        }
        Ok(self.titles)
    }

    async fn ask(&mut self) -> Result<(), String> {
        let live = match (self.offset.as_str(), self.live, self.events) {
            ("-1", ..) => String::new(),
            (_, false, _) => format!("&handle={}", self.handle),
            (_, true, false) => format!("&handle={}&live=true", self.handle),
            (_, true, true) => format!("&handle={}&live=true&live_sse=true", self.handle),
        };
        let url = format!("{}{SHAPE}&offset={}{live}", self.url, self.offset);
        let answer =
            self.client.get(url).bearer_auth(&self.token).send().await.map_err(|error| format!("{error:?}"))?;
        if answer.status() != 200 {
            let (status, headers) = (answer.status(), answer.headers().clone());
            return Err(format!("{status} {headers:?}: {:?}", answer.text().await));
        }
        let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        self.handle = header("electric-handle").unwrap();
        if header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")) {
            return self.read_events(answer).await;
        }
        self.offset = header("electric-offset").unwrap();
        self.live = header("electric-up-to-date").is_some();
        let body = answer.bytes().await.map_err(|error| format!("{error:?}"))?;
        let messages: Vec<Value> = serde_json::from_slice(&body).unwrap();
        messages.iter().for_each(|message| self.take(message));
        self.titles.append(&mut self.pending);
        Ok(())
    }

    async fn read_events(&mut self, mut answer: reqwest::Response) -> Result<(), String> {
        let mut text = String::new();
        self.pending.clear();
        while let Some(chunk) = answer.chunk().await.map_err(|error| format!("{error:?}"))? {
            text.push_str(std::str::from_utf8(&chunk).unwrap());
            while let Some(end) = text.find("\n\n") {
                let event: String = text.drain(..end + 2).collect();
                if let Some(data) = event.strip_prefix("data: ") {
                    self.take(&serde_json::from_str(data).unwrap());
                }
            }
            if self.titles.last() == Some(&title(ROWS)) {
                return Ok(());
            }
        }
        assert_eq!(text, "", "the stream ends between two events");
        Ok(())
    }

    fn take(&mut self, message: &Value) {
        if let Some(title) = message["value"]["title"].as_str() {
            self.pending.push(title.to_owned());
        }
        if let Some(lsn) = message["headers"]["global_last_seen_lsn"].as_str().filter(|_| self.events && self.live) {
            self.offset = format!("{lsn}_0");
            self.titles.append(&mut self.pending);
        }
    }
}

fn title(number: u32) -> String {
    format!("row {number:03}")
}

/// Waits until `url` answers 200 through the proxy.
async fn until_healthy(client: &reqwest::Client, url: &str) {
    let healthy = async {
        while !client.get(url).send().await.is_ok_and(|answer| answer.status() == 200) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG / 3, healthy).await.unwrap_or_else(|_| panic!("{url} is never healthy"));
}

/// Starts the clients: half of them over HTTP/1.1, half of them by event streams.
fn followers(clients: &[reqwest::Client; 2], url: &str, token: &str) -> JoinSet<Result<Vec<String>, String>> {
    let mut following = JoinSet::new();
    for number in 0..4 * CLIENTS {
        let client = clients[number % 2].clone();
        let follower = Follower {
            client,
            url: url.to_owned(),
            token: token.to_owned(),
            events: number % 4 < 2,
            titles: Vec::new(),
            pending: Vec::new(),
            handle: String::new(),
            offset: "-1".to_owned(),
            live: false,
        };
        following.spawn(follower.run());
    }
    following
}

/// Waits until a client waits at this shapegate.
async fn until_busy(gate: &Gate) {
    let busy = async {
        while gate.metric("shapegate_requests_in_flight").await == 0.0 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG, busy).await.expect("this shapegate gets no requests");
}

/// Two hundred clients follow a shape through the proxy, while one of two shapegates stops and starts again.
async fn no_client_fails_and_no_row_is_lost(kind: Kind) {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene { folder: folder.path().to_owned(), certificate: Certificate::new(), port: free_port() };
    let servers = [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let one = shapegate(&kind, servers[0], None).await;
    let mut two = shapegate(&kind, servers[1], Some(&one)).await;
    let _proxy = start(&kind, &scene, servers);
    let url = format!("https://127.0.0.1:{}", scene.port);
    let clients = [true, false].map(|http1| {
        let client = scene.certificate.client();
        if http1 { client.http1_only().build().unwrap() } else { client.build().unwrap() }
    });
    until_healthy(&clients[0], &format!("{url}/healthz")).await;
    let token = one.token(&["org_1"]);
    let version = clients[1].get(format!("{url}/healthz")).send().await.unwrap().version();
    assert_eq!(version, http::Version::HTTP_2);
    // The proxy's own client is not believed about addresses, and a subset passes.
    let post = clients[1].post(format!("{url}{SHAPE}&offset=-1")).bearer_auth(&token).body("{}");
    assert_eq!(Answer::of(post.send().await.unwrap()).await.code(), "method_not_allowed");

    let mut following = followers(&clients, &url, &token);
    let waiting = async || {
        let metric = "shapegate_requests_in_flight";
        one.metric(metric).await + two.metric(metric).await
    };
    let all = async {
        while waiting().await < 4.0 * CLIENTS as f64 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG / 3, all).await.expect("not every client waits");
    let insert = async |rows: std::ops::RangeInclusive<u32>| {
        for row in rows {
            one.insert_task(row, "org_1", &title(row));
            sleep(Duration::from_millis(100)).await;
        }
    };
    insert(1..=ROWS / 3).await;
    until_busy(&two).await;
    tokio::join!(two.stop(), insert(ROWS / 3 + 1..=2 * ROWS / 3));
    let again = shapegate(&kind, servers[1], Some(&one)).await;
    // It serves again before the last rows.
    until_busy(&again).await;
    insert(2 * ROWS / 3 + 1..=ROWS).await;
    let wanted: BTreeSet<_> = (1..=ROWS).map(title).collect();
    while let Some(titles) = timeout(LONG, following.join_next()).await.expect("a client gets no more rows") {
        let titles = titles.unwrap().unwrap_or_else(|error| panic!("a client failed: {error}"));
        assert_eq!(titles.iter().cloned().collect::<BTreeSet<_>>(), wanted);
        assert!(titles.is_sorted() && titles.len() == wanted.len(), "{titles:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_in_front_of_two_shapegates() {
    no_client_fails_and_no_row_is_lost(NGINX).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_in_front_of_two_shapegates() {
    no_client_fails_and_no_row_is_lost(HAPROXY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_with_the_proxy_protocol_in_front_of_two_shapegates() {
    no_client_fails_and_no_row_is_lost(HAPROXY_V2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy_in_front_of_two_shapegates() {
    no_client_fails_and_no_row_is_lost(CADDY).await;
}
