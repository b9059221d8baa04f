//! How clients connect: addresses, Unix sockets, the PROXY protocol, plain HTTP where TLS is expected, idle connections
//! and health checks.

use std::time::Duration;

use serde_json::json;
use shapegate::demo::electric::Readiness;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::harness::{Answer, Certificate, Gate, RULES, Setup, Wire, raw};

const TASKS: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";

/// A timeout far longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

fn get(target: &str, token: &str, more: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: gate.test\r\nAuthorization: Bearer {token}\r\n{more}\r\n")
}

async fn gate(server: &str, limits: &str) -> Gate {
    let rules = format!("{RULES}[limits]\nrepeats = 0\n{limits}\n");
    Gate::with(Setup { rules, server: server.to_owned(), ..Setup::default() }).await
}

/// The address rate of 1 allows 5 requests at once.
const ONE_A_SECOND: &str = "trusted_proxies = ['127.0.0.0/8']\nrate_per_address = 1";

#[tokio::test(flavor = "multi_thread")]
async fn unix_socket_serves_requests_whose_address_its_proxy_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    let rules = format!("{RULES}[limits]\nrepeats = 0\n{ONE_A_SECOND}\n");
    let listen = format!("['127.0.0.1:0', 'unix:{}']", path.display());
    let mut gate = Gate::with(Setup { rules, listen, ..Setup::default() }).await;
    let token = gate.token(&["org_1"]);
    let ask = async |address: &str| {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        let more = format!("X-Forwarded-For: {address}\r\nConnection: close\r\n");
        stream.write_all(get(TASKS, &token, &more).as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    for _ in 0..5 {
        let answer = ask("203.0.113.7").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    // One address is limited, others are not.
    let mut limited = false;
    for _ in 0..100 {
        limited |= ask("203.0.113.7").await.starts_with("HTTP/1.1 429 ");
    }
    assert!(limited);
    assert!(ask("203.0.113.8").await.starts_with("HTTP/1.1 200 "));
    assert_eq!(gate.metric("shapegate_connections").await, 0.0);
    gate.stop().await;
    assert!(!path.exists(), "the file is removed when the process stops");
}

/// Sends a request after `header` on a new connection, and returns its status; `None` if the connection is closed.
async fn status(gate: &Gate, header: &[u8], token: &str) -> Option<u16> {
    let mut wire = Wire::open(&gate.url).await;
    wire.send(&[header, get(TASKS, token, "").as_bytes()].concat()).await;
    timeout(LONG, wire.answer(false)).await.unwrap().map(|answer| answer.status.as_u16())
}

fn v1(address: &str) -> Vec<u8> {
    let (family, to) = if address.contains(':') { ("TCP6", "2001:db8::1") } else { ("TCP4", "192.0.2.1") };
    format!("PROXY {family} {address} {to} 40000 443\r\n").into_bytes()
}

/// Returns a header of version 2 with `command`, for an IPv4 address.
fn v2(command: u8, address: [u8; 4], tlvs: &[u8]) -> Vec<u8> {
    let length = u16::try_from(12 + tlvs.len()).unwrap().to_be_bytes();
    let start = [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[0x20 | command, 0x11], &length].concat();
    [start.as_slice(), &address, &[192, 0, 2, 1], &40_000_u16.to_be_bytes(), &443_u16.to_be_bytes(), tlvs].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_protocol_names_the_client_in_both_versions() {
    let gate = gate("proxy_protocol = true", ONE_A_SECOND).await;
    let token = gate.token(&["org_1"]);
    let limited = async |header: &[u8]| {
        for asked in 0..100 {
            match status(&gate, header, &token).await {
                Some(200) => {}
                Some(429) => return asked,
                other => panic!("{other:?}"),
            }
        }
        panic!("never limited")
    };
    for header in [
        v1("203.0.113.7"),
        v1("2001:db8:7::1"),
        v2(1, [203, 0, 113, 8], b""),
        v2(1, [203, 0, 113, 9], &[4, 0, 3, 0, 0, 0]),
    ] {
        let asked = limited(&header).await;
        assert!(asked >= 5, "{asked}");
    }
    // The proxy's own connection, as for its health checks.
    for own in [b"PROXY UNKNOWN\r\n".to_vec(), v2(0, [0; 4], b"")] {
        assert_eq!(status(&gate, &own, &token).await, Some(200));
    }
    // Of what the proxy sends afterwards, X-Forwarded-For does not count: the client is no trusted proxy.
    let more = get(TASKS, &token, "X-Forwarded-For: 203.0.113.200\r\nConnection: close\r\n");
    let request = [v1("203.0.113.7"), more.into_bytes()].concat();
    assert_eq!(raw(&gate.url, &request).await.status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_header_is_required_from_proxies_and_not_believed_from_others() {
    let trusted = gate("proxy_protocol = true", "trusted_proxies = ['127.0.0.0/8']").await;
    let token = trusted.token(&["org_1"]);
    for header in [
        b"".to_vec(),
        b"PROXY TCP4 203.0.113.7\r\n".to_vec(),
        b"PROXY TCP4 a b 1 2\r\n".to_vec(),
        [b"PROXY ".to_vec(), vec![b'x'; 200]].concat(),
        v2(7, [203, 0, 113, 7], b""),
        v2(1, [203, 0, 113, 7], &vec![0; 5_000]),
    ] {
        assert_eq!(status(&trusted, &header, &token).await, None, "{:?}", String::from_utf8_lossy(&header));
    }
    assert_eq!(status(&trusted, &v1("203.0.113.7"), &token).await, Some(200));
    // In pieces.
    let mut wire = Wire::open(&trusted.url).await;
    for byte in [v2(1, [203, 0, 113, 7], b""), get(TASKS, &token, "").into_bytes()].concat() {
        wire.send(&[byte]).await;
    }
    assert_eq!(wire.answer(false).await.unwrap().status, 200);
    // Clients that connect directly have none, and theirs is not HTTP.
    let direct = gate("proxy_protocol = true", "trusted_proxies = ['10.0.0.0/8']").await;
    let token = direct.token(&["org_1"]);
    assert_eq!(status(&direct, b"", &token).await, Some(200));
    assert_eq!(status(&direct, &v1("203.0.113.7"), &token).await, Some(400));
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_header_comes_before_tls() {
    let rules = format!("{RULES}[limits]\ntrusted_proxies = ['127.0.0.0/8']\n");
    let certificate = Certificate::new();
    let setup = Setup { rules, server: "proxy_protocol = true".to_owned(), ..Setup::default() };
    let gate = Gate::with(Setup { certificate: Some(certificate.clone()), ..setup }).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}{TASKS}", listener.local_addr().unwrap());
    let to = gate.url.strip_prefix("https://").unwrap().to_owned();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(to).await.unwrap();
        server.write_all(&v1("203.0.113.7")).await.unwrap();
        tokio::io::copy_bidirectional(&mut client, &mut server).await
    });
    let client = certificate.client().build().unwrap();
    let answer = client.get(url).bearer_auth(gate.token(&["org_1"])).send().await.unwrap();
    assert_eq!((answer.status(), answer.version()), (http::StatusCode::OK, http::Version::HTTP_2));
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_on_a_tls_port_gets_400_that_says_so() {
    let gate = Gate::with(Setup { certificate: Some(Certificate::new()), ..Setup::default() }).await;
    let plain = gate.url.replace("https://", "http://");
    let token = gate.token(&["org_1"]);
    for method in ["GET", "POST", "OPTIONS"] {
        let mut wire = Wire::open(&plain).await;
        wire.send(get(TASKS, &token, "Origin: https://app.test\r\n").replacen("GET", method, 1).as_bytes()).await;
        let answer = wire.answer(false).await.unwrap();
        assert_eq!(answer.status, 400);
        assert_eq!(answer.json()["errors"], json!({ "scheme": ["must be https: this port speaks TLS"] }));
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert_eq!(answer.header("connection"), "close");
        assert_eq!(wire.rest().await, "");
    }
    assert_eq!(gate.electric.request_count(), 0);
    assert_eq!(gate.get(TASKS, &token).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_http_1_connection_is_closed_after_its_timeout() {
    let gate = gate("h1_idle_timeout = '1s'", "").await;
    let token = gate.token(&["org_1"]);
    let mut wire = Wire::open(&gate.url).await;
    wire.send(get(TASKS, &token, "").as_bytes()).await;
    assert_eq!(wire.answer(false).await.unwrap().status, 200);
    assert_eq!(wire.rest().await, "");
    assert_eq!(Wire::open(&gate.url).await.rest().await, "", "also before the first request");
}

/// Sends a request and returns the response, and whether the connection then stays open for another one.
async fn kept(url: &str, line: &str, more: &str) -> (Answer, bool) {
    let mut wire = Wire::open(url).await;
    let request = format!("{line}\r\nHost: gate.test\r\n{more}\r\n");
    wire.send(request.as_bytes()).await;
    let answer = wire.answer(line.starts_with("HEAD")).await.unwrap();
    wire.send(request.as_bytes()).await;
    let again = wire.answer(line.starts_with("HEAD")).await;
    (answer, again.is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_connection_is_closed_without_keep_alive() {
    let gate = gate("health_path = '/up'", "").await;
    let bearer = format!("Authorization: Bearer {}\r\n", gate.token(&["org_1"]));
    gate.get(TASKS, &gate.token(&["org_1"])).await;
    let admin = gate.admin.clone();
    for (url, path, status) in [
        (&admin, "/healthz", 200),
        (&admin, "/x", 404),
        (&gate.url, TASKS, 200),
        (&gate.url, "/x", 404),
        (&gate.url, "/up", 200),
    ] {
        let (answer, kept_open) = kept(url, &format!("GET {path} HTTP/1.0"), &bearer).await;
        assert_eq!((answer.status.as_u16(), kept_open), (status, false), "{path}");
        let (answer, kept_open) = kept(url, &format!("GET {path} HTTP/1.1"), &bearer).await;
        assert_eq!((answer.status.as_u16(), kept_open), (status, true), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_on_the_admin_port_has_the_header_of_get() {
    let gate = Gate::start().await;
    gate.until_metric("shapegate_ready", 1.0).await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        let (head, open) = kept(&gate.admin, &format!("HEAD {path} HTTP/1.1"), "").await;
        assert!(open, "{path}");
        let get = gate.admin(path).await;
        assert_eq!(head.status, get.status, "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
        assert!(head.header("content-length").parse::<usize>().unwrap() > 0, "{path}");
        let post = gate.client().post(format!("{}{path}", gate.admin)).send().await.unwrap();
        assert_eq!(post.status(), 405, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_path_reports_readiness_without_detail_and_counts_against_no_limit() {
    let mut gate = gate("health_path = '/up'", "trusted_proxies = []\nrate_per_address = 1").await;
    gate.until_metric("shapegate_ready", 1.0).await;
    let check = async |method: &str| kept(&gate.url, &format!("{method} /up HTTP/1.1"), "").await.0;
    for _ in 0..20 {
        assert_eq!(
            (check("GET").await.status, check("HEAD").await.status),
            (200.try_into().unwrap(), 200.try_into().unwrap())
        );
    }
    assert!(check("GET").await.body.is_empty());
    assert_eq!(check("POST").await.status, 404);
    gate.electric.set_readiness(Readiness::Waiting);
    gate.until_metric("shapegate_ready", 0.0).await;
    let down = kept(&gate.url, "GET /up HTTP/1.1", "").await.0;
    assert_eq!((down.status.as_u16(), down.body.as_slice()), (503, b"".as_slice()));
    // While the process stops, an open connection learns that no more requests should come.
    gate.electric.set_readiness(Readiness::Active);
    gate.until_metric("shapegate_ready", 1.0).await;
    let mut wire = Wire::open(&gate.url).await;
    wire.send(b"GET /up HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(wire.answer(false).await.unwrap().status, 200);
    let stopping = gate.stopping();
    let admin = format!("{}/readyz", gate.admin);
    while reqwest::get(&admin).await.unwrap().status() == 200 {}
    wire.send(b"GET /up HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let last = wire.answer(false).await.unwrap();
    assert_eq!((last.status.as_u16(), last.header("connection")), (503, "close"));
    stopping.await;
    // Off by default.
    let other = Gate::start().await;
    assert_eq!(kept(&other.url, "GET /up HTTP/1.1", "").await.0.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_are_told_not_to_collect_events() {
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    let first = gate.get(TASKS, &token).await;
    assert_eq!(first.header("x-accel-buffering"), "");
    let (handle, offset) = (first.header("electric-handle"), first.header("electric-offset"));
    let shape = format!("/v1/shape?table=tasks&organizationId=org_1&handle={handle}");
    let next = gate.get(&format!("{shape}&offset={offset}"), &token).await;
    let live = format!("{shape}&offset={}&live=true&live_sse=true", next.header("electric-offset"));
    let stream = gate.request(&live, Some(&token)).send().await.unwrap();
    assert_eq!(stream.headers()["x-accel-buffering"], "no");
}
