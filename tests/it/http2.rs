//! TLS and HTTP/2 towards clients: the same responses as over HTTP/1.1, and bodies without a length, which only HTTP/2
//! allows.

mod bounds;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request, StatusCode, Version};
use serde_json::json;
use shapegate::server::Server;
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Answer, Certificate, Gate, Setup, tls_line};

const TASKS: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";

async fn https() -> (Gate, reqwest::Client) {
    let certificate = Certificate::new();
    let http1 = certificate.client().http1_only().build().unwrap();
    let gate = Gate::with(Setup { certificate: Some(certificate), ..Setup::default() }).await;
    (gate, http1)
}

async fn h2c() -> Gate {
    Gate::with(Setup { server: "h2c = true".to_owned(), ..Setup::default() }).await
}

/// Opens a connection with HTTP/2 prior knowledge, for tests that need to control its streams.
pub(crate) async fn connect(url: &str) -> Result<SendRequest<Bytes>, h2::Error> {
    let stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(connection);
    sender.ready().await
}

fn request(gate: &Gate, target: &str) -> http::request::Builder {
    let token = gate.token(&["org_1"]);
    let uri = format!("{}{target}", gate.url);
    Request::get(uri).header("authorization", format!("Bearer {token}"))
}

/// Forwards connections to `to`, and counts them.
async fn relay(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let accepted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            accepted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut server = TcpStream::connect(to).await.unwrap();
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    (address, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn https_serves_http_2_by_alpn_and_http_1_1_otherwise() {
    let (gate, http1) = https().await;
    let token = gate.token(&["org_1"]);
    let two = gate.request(TASKS, Some(&token)).send().await.unwrap();
    assert_eq!((two.status(), two.version()), (StatusCode::OK, Version::HTTP_2));
    let one = http1.get(format!("{}{TASKS}&handle=1", gate.url)).bearer_auth(&token);
    let one = one.send().await.unwrap();
    assert_eq!((one.status(), one.version()), (StatusCode::OK, Version::HTTP_11));
    assert_eq!(gate.electric.request_count(), 2);
    assert_eq!(gate.electric.request_count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_polls_share_a_connection_and_each_gets_its_own_change() {
    let (gate, _) = https().await;
    let (address, relayed) = relay(gate.url.strip_prefix("https://").unwrap().parse().unwrap()).await;
    // Twelve shapes, so that no two polls share a response.
    let organizations: Vec<_> = (0..12).map(|number| format!("org_{number}")).collect();
    let token = gate.token(&organizations.iter().map(String::as_str).collect::<Vec<_>>());
    let ask = |target: String| {
        let request = gate.client().get(format!("https://{address}{target}"));
        request.bearer_auth(&token).send()
    };
    let mut polls = Vec::new();
    for organization in &organizations {
        let shape = format!("/v1/shape?table=tasks&organizationId={organization}");
        let first = Answer::of(ask(format!("{shape}&offset=-1")).await.unwrap()).await;
        let (handle, offset) = (first.header("electric-handle"), first.header("electric-offset"));
        let caught_up = format!("{shape}&handle={handle}&offset={offset}");
        let caught_up = Answer::of(ask(caught_up).await.unwrap()).await;
        let offset = caught_up.header("electric-offset");
        let live = ask(format!("{shape}&handle={handle}&offset={offset}&live=true"));
        polls.push(tokio::spawn(live));
    }
    gate.electric.wait_for_waiting(12).await;
    for (number, organization) in organizations.iter().enumerate() {
        let id = format!("00000000-0000-0000-0000-{number:012}");
        let row = json!({ "id": id, "organization_id": organization, "title": organization });
        gate.electric.insert("tasks", row).unwrap();
    }
    for (poll, organization) in polls.into_iter().zip(&organizations) {
        let answer = Answer::of(poll.await.unwrap().unwrap()).await;
        assert_eq!(answer.rows("title"), [organization.as_str()]);
    }
    assert_eq!(relayed.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_in_fields_of_their_own_count_as_one_header() {
    let gate = h2c().await;
    let get = async |name: &str, count: usize, length: usize| {
        let mut sender = connect(&gate.url).await.unwrap();
        let mut request = request(&gate, TASKS);
        for number in 0..count {
            let name = if name == "cookie" { name.to_owned() } else { format!("{name}{number}") };
            request = request.header(name, format!("c{number:03}={}", "v".repeat(length - 5)));
        }
        sender.send_request(request.body(()).unwrap(), true).unwrap().0.await.unwrap().status()
    };
    assert_eq!(get("cookie", 55, 20).await, 200);
    assert_eq!(get("cookie", 300, 20).await, 200);
    assert_eq!(get("x-", 70, 20).await, 431);
    // Joined, they take 32,000 and 33,000 bytes.
    assert_eq!(get("cookie", 32, 1_000).await, 200);
    assert_eq!(get("cookie", 33, 1_000).await, 431);
    // HTTP/1.1 joins them.
    let cookies: Vec<_> = (0..300).map(|number| format!("c{number}=v")).collect();
    let one = gate.request(TASKS, Some(&gate.token(&["org_1"]))).header("cookie", cookies.join("; "));
    assert_eq!(one.send().await.unwrap().status(), 200);
}

/// Returns the parts of a response that must be equal over both versions.
fn comparable(answer: &Answer) -> (StatusCode, HeaderMap, String) {
    let mut headers = answer.headers.clone();
    assert_eq!(headers.remove("x-request-id").unwrap().len(), 32);
    for own in ["connection", "date"] {
        headers.remove(own);
    }
    (answer.status, headers, answer.text())
}

#[tokio::test(flavor = "multi_thread")]
async fn own_responses_are_equal_over_http_1_1_and_http_2() {
    // docs/security.md, T16, P8, C17
    let (gate, http1) = https().await;
    let http2 = gate.client();
    let (good, other) = (gate.token(&["org_1"]), gate.token(&["org_2"]));
    let bearer = |token: &str| format!("Bearer {token}");
    for (status, target, authorization, body) in [
        (401, TASKS, vec![], None),
        (401, TASKS, vec![bearer("a.b.c")], None),
        (401, TASKS, vec![bearer(&good), bearer(&good)], None),
        (403, TASKS, vec![bearer(&other)], None),
        (404, "/nothing", vec![bearer(&good)], None),
        (404, "/v1/shape?table=nothing&offset=-1", vec![bearer(&good)], None),
        (413, TASKS, vec![bearer(&good)], Some("{}")),
    ] {
        let ask = async |client: &reqwest::Client| {
            let mut request = client.get(format!("{}{target}", gate.url));
            for value in &authorization {
                request = request.header("authorization", value);
            }
            if let Some(body) = body {
                request = request.body(body);
            }
            Answer::of(request.send().await.unwrap()).await
        };
        let (one, two) = (ask(&http1).await, ask(http2).await);
        assert_eq!(two.status, status, "{target}: {}", two.text());
        assert_eq!(comparable(&one), comparable(&two));
    }
    assert_eq!(gate.electric.request_count(), 0);
    assert_eq!(gate.get(TASKS, &good).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn h2c_is_served_only_if_enabled() {
    let gate = h2c().await;
    let mut sender = connect(&gate.url).await.unwrap();
    let (answer, _) = sender.send_request(request(&gate, TASKS).body(()).unwrap(), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    assert_eq!(gate.get(TASKS, &gate.token(&["org_1"])).await.status, 200, "HTTP/1.1 too");

    let gate = Gate::start().await;
    let refused = async {
        let mut sender = connect(&gate.url).await?;
        let (answer, _) = sender.send_request(request(&gate, TASKS).body(()).unwrap(), true)?;
        answer.await
    };
    assert!(refused.await.is_err());
    assert_eq!(gate.electric.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn body_without_a_content_length_is_rejected() {
    // docs/security.md, P8: HTTP/2 needs neither Content-Length nor Transfer-Encoding for a body
    let gate = h2c().await;
    let mut sender = connect(&gate.url).await.unwrap();
    let get = || request(&gate, TASKS).body(()).unwrap();
    let (answer, mut body) = sender.send_request(get(), false).unwrap();
    let hidden = "GET /v1/shape?table=items&offset=-1 HTTP/1.1\r\nHost: a\r\n\r\n";
    // The response may arrive before the body is sent.
    let _ = body.send_data(Bytes::from(hidden), true);
    assert_eq!(answer.await.unwrap().status(), 413);
    // A body that stays open is rejected too.
    let (answer, _open) = sender.send_request(get(), false).unwrap();
    assert_eq!(answer.await.unwrap().status(), 413);
    assert_eq!(gate.electric.request_count(), 0);
    let (answer, _) = sender.send_request(get(), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200, "the connection stays usable");
    assert_eq!(gate.electric.request_count(), 1);
}

/// Returns the error of `Server::bind` for these files, or an empty text.
fn bind_error(cert: &Path, key: &Path) -> String {
    let setup = Setup { server: tls_line(cert, key), ..Setup::default() };
    let config = setup.config("http://127.0.0.1:1", "http://127.0.0.1:1");
    let error = Server::bind(config).err();
    error.map_or_else(String::new, |error| format!("{error:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_certificate_is_an_error_at_start() {
    let (one, other) = (Certificate::new(), Certificate::new());
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let missing = folder.path().join("missing.pem");
    let garbage = file("garbage.pem", "no PEM at all");
    let broken = file("broken.pem", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n");
    let no_der = file("no_der.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let empty = file("empty.pem", "");
    for (cert, key, named) in [
        (&one.cert(), &other.key(), "server.tls:"),
        (&no_der, &one.key(), "server.tls:"),
        (&missing, &one.key(), "server.tls.cert:"),
        (&garbage, &one.key(), "server.tls.cert:"),
        (&broken, &one.key(), "server.tls.cert:"),
        (&empty, &one.key(), "server.tls.cert:"),
        (&one.key(), &one.key(), "server.tls.cert:"),
        (&one.cert(), &missing, "server.tls.key:"),
        (&one.cert(), &garbage, "server.tls.key:"),
        (&one.cert(), &empty, "server.tls.key:"),
        (&one.cert(), &one.cert(), "server.tls.key:"),
    ] {
        let error = bind_error(cert, key);
        assert!(error.starts_with(named), "{} {}: {error:?}", cert.display(), key.display());
    }
    assert_eq!(bind_error(&one.cert(), &one.key()), "");
}
