//! Resident memory of the program under clients that do not read, within the configured budgets.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::harness::{IssuerServer, Process, config};

const MIB: usize = 1024 * 1024;

/// An Electric whose responses have a body of some length and a schema of some length. It counts what it has sent.
struct Large {
    url: String,
    sent: Arc<AtomicUsize>,
}

impl Large {
    async fn start(body: usize, schema: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&sent);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(respond(stream, body, schema, Arc::clone(&counted)));
            }
        });
        Self { url, sent }
    }

    /// Waits until it can send no more, because nobody reads.
    async fn stalled(&self) {
        let (mut before, mut same) = (0, 0);
        while same < 20 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let sent = self.sent.load(Ordering::SeqCst);
            same = if sent == before { same + 1 } else { 0 };
            before = sent;
        }
    }
}

async fn respond(mut stream: TcpStream, body: usize, schema: usize, sent: Arc<AtomicUsize>) {
    let header = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {body}\r\nelectric-handle: 1-1\r\n\
         electric-offset: 0_0\r\nelectric-schema: {}\r\netag: \"1-1:-1:0_0\"\r\ncache-control: max-age=600\r\n\r\n",
        "s".repeat(schema)
    );
    let piece = vec![b'x'; 64 * 1024];
    let mut request = Vec::new();
    while stream.read_buf(&mut request).await.unwrap_or_default() > 0 {
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        request.clear();
        let mut left = body;
        if stream.write_all(header.as_bytes()).await.is_err() {
            return;
        }
        while left > 0 {
            let Ok(written) = stream.write(&piece[..left.min(piece.len())]).await else { return };
            left -= written;
            sent.fetch_add(written, Ordering::SeqCst);
        }
    }
}

/// A shapegate with limits.
struct Scene {
    process: Process,
    client: reqwest::Client,
    electric: Large,
    /// Resident memory of a program at work that holds nothing yet.
    before: usize,
    /// Each is for a hundred organizations.
    tokens: Vec<String>,
    issuer: IssuerServer,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn start(electric: Large, organizations: usize, settings: &str) -> Self {
        let issuer = IssuerServer::start().await;
        let folder = tempfile::tempdir().unwrap();
        let path = config(folder.path(), &electric.url, issuer.url());
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}\n[log]\nformat = \"json\"\naccess = false\n{settings}")).unwrap();
        let process = Process::start(&path).await;
        let token = |first: usize| {
            let organizations: Vec<_> = (first..first + 100).map(|number| format!("org_{number}")).collect();
            issuer.token(&json!({ "sub": "user-1", "organizationIds": organizations }))
        };
        let tokens = (0..organizations).step_by(100).map(token).collect();
        let client = reqwest::Client::new();
        let mut scene = Self { process, client, electric, before: 0, tokens, issuer, _folder: folder };
        assert_eq!(scene.get(0).await.status(), 200);
        scene.before = scene.resident();
        scene
    }

    fn target(number: usize) -> String {
        format!("/v1/shape?table=tasks&organizationId=org_{number}&offset=-1")
    }

    async fn get(&self, number: usize) -> reqwest::Response {
        let url = format!("{}{}", self.process.url, Self::target(number));
        self.client.get(url).bearer_auth(&self.tokens[number / 100]).send().await.unwrap()
    }

    /// Sends a request whose response is not read, except by the kernel's smallest buffer.
    async fn unread(&self, number: usize) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let address = self.process.url.strip_prefix("http://").unwrap().parse().unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let (target, token) = (Self::target(number), &self.tokens[number / 100]);
        let request = format!("GET {target} HTTP/1.1\r\nHost: gate.test\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn metric(&self, name: &str) -> usize {
        let text = reqwest::get(format!("{}/metrics", self.process.admin)).await.unwrap().text().await.unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap().parse().unwrap()
    }

    async fn until_open_bytes(&self, bytes: usize) {
        while self.metric("shapegate_open_bytes").await != bytes {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn resident(&self) -> usize {
        let status = std::fs::read_to_string(Path::new("/proc").join(self.process.pid().to_string()).join("status"));
        let status = status.unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().trim().parse::<usize>().unwrap() * 1024
    }

    /// Asserts that memory has grown by no more than these budgets and 15 percent.
    fn assert_within(&self, budgets: usize) {
        let grown = self.resident().saturating_sub(self.before);
        eprintln!("resident memory has grown by {} of {} MiB", grown / MIB, budgets / MIB);
        assert!(grown <= budgets * 115 / 100, "{} MiB for budgets of {} MiB", grown / MIB, budgets / MIB);
    }
}

/// Limits of one client that may open many flights.
const MANY: &str = "write_timeout = '5m'\nrate_per_subject = 0\nshapes_per_subject = 0\nrequests_per_subject = 20000\n\
                    initial_flights = 10000\ninitial_flights_per_subject = 9999\nflights_per_subject = 7999\n";

#[tokio::test(flavor = "multi_thread")]
async fn unread_responses_stay_within_open_bytes() {
    let settings = format!("[limits]\nopen_bytes = '256MiB'\n{MANY}[cache]\nbytes = '0B'\ncompress = false\n");
    let scene = Scene::start(Large::start(10 * MIB, 20).await, 256, &settings).await;
    let mut unread = Vec::new();
    for number in 0..256 {
        unread.push(scene.unread(number).await);
    }
    scene.electric.stalled().await;
    scene.assert_within(256 * MIB);
    assert!(scene.metric("shapegate_open_bytes").await > 200 * MIB);
    drop(unread);
    scene.until_open_bytes(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_long_responses_are_rejected_and_the_others_continue() {
    let settings = format!("[limits]\nopen_bytes = '128MiB'\n{MANY}[cache]\nbytes = '0B'\ncompress = false\n");
    let scene = Scene::start(Large::start(8 * MIB, 20).await, 600, &settings).await;
    let first = scene.get(0).await;
    let mut slow = Vec::new();
    for number in 1..600 {
        slow.push(scene.unread(number).await);
    }
    scene.electric.stalled().await;
    scene.assert_within(128 * MIB);
    let late = scene.get(0).await;
    assert_eq!((late.status().as_u16(), late.headers().contains_key("retry-after")), (503, true));
    // Those let in get their whole response once they read.
    assert_eq!(first.bytes().await.unwrap().len(), 8 * MIB);
    let mut refused = 0;
    for stream in &mut slow {
        let mut start = [0; 13];
        stream.read_exact(&mut start).await.unwrap();
        refused += usize::from(&start == b"HTTP/1.1 503 ");
    }
    assert!((400..500).contains(&refused), "{refused} of 600");
    drop(slow);
    scene.until_open_bytes(0).await;
    assert_eq!(scene.get(0).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_responses_with_large_headers_stay_within_cache_bytes() {
    let settings = format!("[limits]\n{MANY}[cache]\nbytes = '128MiB'\n");
    let scene = Scene::start(Large::start(100, 8 * 1024).await, 12_000, &settings).await;
    let scene = &scene;
    each(12_000, async |number| assert_eq!(scene.get(number).await.status(), 200)).await;
    let counted = scene.metric("shapegate_kept_bytes").await;
    assert!((120 * MIB..=128 * MIB).contains(&counted), "{counted}");
    scene.assert_within(128 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn verified_tokens_stay_within_verdict_bytes() {
    let settings = format!("[limits]\nverdict_bytes = '128MiB'\n{MANY}");
    let scene = Scene::start(Large::start(100, 20).await, 1, &settings).await;
    let scene = &scene;
    // A token of 8 KiB whose claims take about 200 KiB once they are parsed.
    let objects = vec![json!({ "": 0 }); 840];
    let url = format!("{}{}", scene.process.url, Scene::target(0));
    each(2_000, async |number| {
        let claims = json!({ "sub": format!("user-{number}"), "organizationIds": ["org_0"], "objects": objects });
        let token = scene.issuer.token(&claims);
        assert!((7 * 1024..9 * 1024).contains(&token.len()), "{}", token.len());
        assert_eq!(scene.client.get(&url).bearer_auth(token).send().await.unwrap().status(), 200);
    })
    .await;
    scene.assert_within(128 * MIB);
    assert!(scene.resident() - scene.before > 64 * MIB, "the budget is used");
}

/// Runs `task` for each number below `count`, four at a time.
async fn each(count: usize, task: impl AsyncFn(usize)) {
    let next = AtomicUsize::new(0);
    let worker = async || {
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            if number >= count {
                return;
            }
            task(number).await;
        }
    };
    tokio::join!(worker(), worker(), worker(), worker());
}
