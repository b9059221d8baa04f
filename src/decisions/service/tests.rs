use std::net::SocketAddr;

use cel::common::types::{CelList, CelString};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::question::Kind;
use super::*;
use crate::auth::Endpoint;
use crate::secret::Secret;

/// A service that answers each request with a text that may be no HTTP at all.
struct Pdp {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Pdp {
    /// Answers with what `answer` makes of the request; `None` never answers.
    async fn start(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answer, seen) = (Arc::new(answer), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                tokio::spawn(async move {
                    let request = read(&mut stream).await;
                    seen.lock().push(request.clone());
                    match answer(&request) {
                        Some(text) => drop(stream.write_all(text.as_bytes()).await),
                        None => std::future::pending().await,
                    }
                });
            }
        });
        Self { address, requests }
    }

    fn settings(&self) -> ServiceSettings {
        ServiceSettings {
            endpoint: Endpoint {
                url: format!("http://{}", self.address).parse().unwrap(),
                // Only tests of a service that does not answer wait for it.
                timeout: Duration::from_secs(5),
                private_address: true,
                plain_http: false,
                ca: Vec::new(),
            },
            discover: false,
            token: Some(Secret::new("pdp-token")),
            identity: None,
            cache: Duration::from_secs(30),
            cache_bytes: 1 << 20,
            response_bytes: 4096,
            most: 3,
        }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().clone()
    }
}

/// Reads a request to the end of its body.
async fn read(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    loop {
        let mut part = [0; 4096];
        let length = stream.read(&mut part).await.unwrap();
        text.extend_from_slice(&part[..length]);
        let request = String::from_utf8(text.clone()).unwrap();
        let Some((head, body)) = request.split_once("\r\n\r\n") else { continue };
        let expected =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= expected.unwrap_or(0) {
            return request;
        }
    }
}

fn ok(body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

fn service(settings: ServiceSettings) -> Service {
    crate::server::install_crypto();
    Service::new("pdp", settings, Arc::new(Metrics::new().unwrap())).unwrap()
}

fn evaluation(body: &str) -> Question {
    Question { kind: Kind::Evaluation, body: body.as_bytes().to_vec() }
}

fn search() -> Question {
    Question { kind: Kind::Search("doc".into()), body: br#"{"resource":{"type":"doc"}}"#.to_vec() }
}

async fn outcome_of(
    answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    question: &Question,
) -> &'static str {
    service(Pdp::start(answer).await.settings()).ask(question).await.as_str()
}

#[tokio::test]
async fn an_evaluation_is_sent_once_and_cached() {
    let pdp = Pdp::start(|request| Some(ok(&format!(r#"{{"decision":{}}}"#, request.contains("alice"))))).await;
    let service = service(pdp.settings());
    let (alice, bob) = (evaluation(r#"{"subject":"alice"}"#), evaluation(r#"{"subject":"bob"}"#));
    for _ in 0..3 {
        assert_eq!(service.ask(&alice).await.as_str(), "allow");
        assert_eq!(service.ask(&bob).await.as_str(), "deny");
    }
    let [first, second] = &pdp.requests()[..] else { panic!("{:?}", pdp.requests()) };
    assert!(first.starts_with("POST /access/v1/evaluation HTTP/1.1\r\n"), "{first}");
    assert!(
        first.contains("authorization: Bearer pdp-token\r\n") && first.ends_with(r#"{"subject":"alice"}"#),
        "{first}"
    );
    assert!(second.ends_with(r#"{"subject":"bob"}"#), "{second}");
    let (allowed, denied) = (service.find(&alice).unwrap().until, service.find(&bob).unwrap().until);
    assert!(
        allowed > denied && denied <= Instant::now() + DENIED,
        "an answer that denies is cached for a shorter time"
    );
}

#[tokio::test]
async fn whatever_is_not_an_answer_is_a_failure() {
    for (answer, expected) in [
        ("HTTP/1.1 500 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(), "status"),
        ("HTTP/1.1 401 No\r\ncontent-length: 17\r\nconnection: close\r\n\r\n{\"decision\":true}".to_owned(), "status"),
        ("HTTP/1.1 302 No\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n".to_owned(), "status"),
        (ok("{\"decision\":true}").replace("application/json", "text/html"), "malformed"),
        (ok("{\"decision\":\"true\"}"), "malformed"),
        (ok(&format!("{{\"decision\":true,\"context\":{{\"a\":\"{}\"}}}}", "a".repeat(4096))), "too_large"),
        (ok("{\"decision\":true}").replace("content-length: 17", "content-length: 18"), "unreachable"),
        ("\0".to_owned(), "unreachable"),
    ] {
        let text = answer.clone();
        let outcome = outcome_of(move |_| Some(answer.clone()), &evaluation("{}")).await;
        assert_eq!(outcome, expected, "{text}");
        assert!(OUTCOMES.contains(&outcome), "{outcome}");
    }
}

#[tokio::test]
async fn a_service_that_is_down_or_silent_is_a_failure() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let down = service(Pdp { address: gone, requests: Arc::default() }.settings());
    let answer = down.ask(&evaluation("{}")).await;
    assert_eq!(answer.as_str(), "unreachable");
    assert!(answer.until <= Instant::now() + FAILED, "a failure is cached for a moment only");
    let silent = Pdp::start(|_| None).await;
    let mut settings = silent.settings();
    settings.endpoint.timeout = Duration::from_millis(50);
    assert_eq!(service(settings).ask(&evaluation("{}")).await.as_str(), "timeout");
}

#[tokio::test]
async fn a_search_reads_every_page() {
    let pdp = Pdp::start(|request| {
        Some(ok(if request.contains(r#""page":{"token":"t"}"#) {
            r#"{"results":[{"type":"doc","id":"a"}],"page":{"next_token":""}}"#
        } else {
            r#"{"results":[{"type":"doc","id":"b"}],"page":{"next_token":"t"}}"#
        }))
    });
    let pdp = pdp.await;
    let answer = service(pdp.settings()).ask(&search()).await;
    let Ok(Verdict::Found(ids)) = &answer.verdict else { panic!("{answer:?}") };
    let ids: Vec<_> = ids.downcast_ref::<CelList<'_>>().unwrap().inner().to_vec();
    let ids: Vec<_> = ids.iter().map(|id| id.downcast_ref::<CelString<'_>>().unwrap().inner()).collect();
    assert_eq!(ids, ["a", "b"]);
    let requests = pdp.requests();
    assert!(requests.iter().all(|request| request.starts_with("POST /access/v1/search/resource ")), "{requests:?}");
    assert_eq!(requests.len(), 2);
}

#[tokio::test]
async fn a_search_without_end_or_with_other_types_finds_nothing() {
    let many = r#"{"results":[{"type":"doc","id":"a"},{"type":"doc","id":"b"},{"type":"doc","id":"c"},{"type":"doc","id":"d"}]}"#;
    assert_eq!(outcome_of(move |_| Some(ok(many)), &search()).await, "too_many");
    let endless = r#"{"results":[],"page":{"next_token":"t"}}"#;
    assert_eq!(outcome_of(move |_| Some(ok(endless)), &search()).await, "malformed");
    let long = format!(r#"{{"results":[],"page":{{"next_token":"{}"}}}}"#, "t".repeat(3000));
    assert_eq!(outcome_of(move |_| Some(ok(&long)), &search()).await, "too_large", "the bound is for all pages");
    let other = r#"{"results":[{"type":"doc","id":"a"},{"type":"user","id":"b"}]}"#;
    assert_eq!(outcome_of(move |_| Some(ok(other)), &search()).await, "malformed");
    assert_eq!(outcome_of(|_| Some(ok(r#"{"decision":true}"#)), &search()).await, "malformed");
}

#[tokio::test]
async fn metadata_names_the_endpoints() {
    let pdp = Pdp::start(|request| {
        let host = request.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned();
        Some(ok(&if request.starts_with("GET /.well-known/authzen-configuration ") {
            format!(r#"{{"policy_decision_point":"http://{host}","access_evaluation_endpoint":"http://{host}/other"}}"#)
        } else {
            format!(r#"{{"decision":{}}}"#, request.starts_with("POST /other "))
        }))
    });
    let pdp = pdp.await;
    let service = service(ServiceSettings { discover: true, ..pdp.settings() });
    assert_eq!(service.ask(&evaluation("{}")).await.as_str(), "allow");
    assert_eq!(service.ask(&evaluation("[]")).await.as_str(), "allow");
    assert_eq!(pdp.requests().len(), 3, "the metadata is fetched once");
    assert_eq!(service.ask(&search()).await.as_str(), "malformed", "no search endpoint is named");
}

#[tokio::test]
async fn a_reload_keeps_the_answers_of_an_unchanged_service_only() {
    crate::server::install_crypto();
    let pdp = Pdp::start(|_| Some(ok(r#"{"decision":true}"#))).await;
    let metrics = Arc::new(Metrics::new().unwrap());
    let named = |settings| BTreeMap::from([("pdp".to_owned(), settings)]);
    let services = Services::new(named(pdp.settings()), &metrics).unwrap();
    let question = evaluation("{}");
    services.get("pdp").unwrap().ask(&question).await;
    let same = services.renewed(named(pdp.settings()), &metrics).unwrap();
    assert!(same.get("pdp").unwrap().find(&question).is_some());
    for changed in [
        ServiceSettings { token: Some(Secret::new("other")), ..pdp.settings() },
        ServiceSettings { discover: true, ..pdp.settings() },
        ServiceSettings { most: 4, ..pdp.settings() },
    ] {
        let renewed = same.renewed(named(changed), &metrics).unwrap();
        assert!(renewed.get("pdp").unwrap().find(&question).is_none());
    }
    assert!(same.renewed(BTreeMap::new(), &metrics).unwrap().get("pdp").is_none());
}

/// Answers over TLS to clients with a certificate of this authority only.
async fn tls_pdp() -> (String, Vec<u8>, String) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let trusted = authority.self_signed(&authority_key).unwrap().der().clone();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let sign = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        (certificate, key)
    };
    let (server, server_key) = sign("127.0.0.1");
    let (client, client_key) = sign("shapegate");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let config = rustls::ServerConfig::builder().with_client_cert_verifier(verifier);
    let key = rustls::pki_types::PrivateKeyDer::try_from(server_key.serialize_der()).unwrap();
    let config = config.with_single_cert(vec![server.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(ok(r#"{"decision":true}"#).as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (url, trusted.to_vec(), format!("{}{}", client.pem(), client_key.serialize_pem()))
}

#[tokio::test]
async fn a_client_certificate_is_sent() {
    crate::server::install_crypto();
    let (url, authority, identity) = tls_pdp().await;
    let gone = Pdp { address: ([127, 0, 0, 1], 9).into(), requests: Arc::default() };
    let mut settings = gone.settings();
    settings.endpoint = Endpoint { url: url.parse().unwrap(), ca: vec![authority.into()], ..settings.endpoint };
    let without = service(settings.clone());
    assert_eq!(without.ask(&evaluation("{}")).await.as_str(), "unreachable");
    let with = service(ServiceSettings { identity: Some(Secret::new(identity)), ..settings });
    assert_eq!(with.ask(&evaluation("{}")).await.as_str(), "allow");
}
