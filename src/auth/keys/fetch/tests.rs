use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::auth::http::LONGEST_EXCHANGE;
use crate::auth::testing::remote_keys;

/// Serves every connection with `answer`, once the head of its request was read. Returns the number of connections and
/// the endpoint.
async fn serve<F: Future<Output = ()> + Send>(
    answer: impl Fn(TcpStream) -> F + Send + Sync + 'static,
) -> (Arc<AtomicUsize>, RemoteKeys) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks", listener.local_addr().unwrap()).parse().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let mut head = [0; 4096];
            let length = stream.read(&mut head).await.unwrap();
            let head = String::from_utf8_lossy(&head[..length]).to_ascii_lowercase();
            assert!(!head.contains("accept-encoding"), "{head}");
            answer(stream).await;
        }
    });
    let endpoint = Endpoint { url, timeout: Duration::from_millis(300), ..remote_keys().endpoint };
    (connections, RemoteKeys { endpoint, ..remote_keys() })
}

async fn fetch_text(text: impl Into<String>) -> Result<Document, FetchError> {
    let text = text.into();
    let (_, remote) = serve(move |mut stream| {
        let text = text.clone();
        async move {
            let _ = stream.write_all(text.as_bytes()).await;
        }
    })
    .await;
    HttpFetch::new().unwrap().fetch(&remote).await
}

fn ok(headers: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_set_is_fetched_with_its_max_age() {
    let answer = ok("content-type: application/json\r\ncache-control: public, max-age=90\r\n", "{}");
    let fetched = fetch_text(answer).await.unwrap();
    assert_eq!((fetched.body.as_slice(), fetched.max_age), (b"{}".as_slice(), Some(Duration::from_secs(90))));
    assert_eq!(fetch_text(ok("", "{}")).await.unwrap().max_age, None);
}

#[tokio::test]
async fn j5_only_status_200_is_accepted() {
    for (line, status) in
        [("204 No Content", 204), ("304 Not Modified", 304), ("404 Not Found", 404), ("503 Oops", 503)]
    {
        let result = fetch_text(format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n")).await;
        assert_eq!(result.unwrap_err(), FetchError::Status(status));
    }
}

#[tokio::test]
async fn j5_other_content_types_are_rejected() {
    for content_type in ["text/html", "text/html; charset=utf-8", "application/xml", "image/png", "", "json"] {
        let result = fetch_text(ok(&format!("content-type: {content_type}\r\n"), "{}")).await;
        assert_eq!(result.unwrap_err(), FetchError::ContentType, "{content_type}");
    }
    for content_type in ["Application/JSON; charset=utf-8", "application/jwk-set+json", "text/plain"] {
        assert!(fetch_text(ok(&format!("content-type: {content_type}\r\n"), "{}")).await.is_ok(), "{content_type}");
    }
}

#[tokio::test]
async fn j5_compressed_responses_are_rejected() {
    for encoding in ["gzip", "br", "zstd", "deflate", "gzip, gzip"] {
        let result = fetch_text(ok(&format!("content-encoding: {encoding}\r\n"), "\u{1f}")).await;
        assert_eq!(result.unwrap_err(), FetchError::Compressed, "{encoding}");
    }
}

#[tokio::test]
async fn j6_a_redirect_is_not_followed() {
    let (connections, target) = serve(|_| async {}).await;
    for status in ["301", "302", "307", "308"] {
        let answer =
            format!("HTTP/1.1 {status} Moved\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", target.endpoint.url);
        let error = fetch_text(answer).await.unwrap_err();
        assert_eq!(error, FetchError::Redirect(Some(target.endpoint.url.to_string())));
        assert_eq!(error.to_string(), format!("the response redirects: write url = \"{}\"", target.endpoint.url));
    }
    let relative = fetch_text("HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(relative.unwrap_err(), FetchError::Redirect(None));
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn j4_a_huge_body_is_rejected_while_it_streams() {
    let endless = |head: &'static str| {
        serve(move |mut stream| async move {
            let _ = stream.write_all(head.as_bytes()).await;
            while stream.write_all(format!("4000\r\n{}\r\n", "x".repeat(0x4000)).as_bytes()).await.is_ok() {}
        })
    };
    for head in
        ["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n"]
    {
        let (_, remote) = endless(head).await;
        let mut patient = remote;
        patient.endpoint.timeout = LONGEST_EXCHANGE;
        assert_eq!(HttpFetch::new().unwrap().fetch(&patient).await.unwrap_err(), FetchError::TooLarge, "{head}");
    }
}

#[tokio::test]
async fn a_truncated_body_is_an_error() {
    let result = fetch_text("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{\"keys\":[]}").await;
    assert!(matches!(result.unwrap_err(), FetchError::Network(_)));
}

#[tokio::test]
async fn j7_the_whole_fetch_is_bounded_in_time() {
    for head in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"] {
        let (_, remote) = serve(move |mut stream| async move {
            let _ = stream.write_all(head.as_bytes()).await;
            // The whole response takes longer than the limit, each piece of it does not.
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if !head.is_empty() && stream.write_all(b"a").await.is_err() {
                    return;
                }
            }
        })
        .await;
        assert_eq!(HttpFetch::new().unwrap().fetch(&remote).await.unwrap_err(), FetchError::Timeout, "{head}");
    }
}

#[tokio::test]
async fn j6_a_literal_address_in_the_url_and_localhost_are_allowed() {
    let (connections, remote) = serve(|mut stream| async move {
        let _ = stream.write_all(ok("", "{}").as_bytes()).await;
    })
    .await;
    let mut by_name = remote.clone();
    by_name.endpoint.url.set_host(Some("localhost")).unwrap();
    for remote in [remote, by_name] {
        assert!(HttpFetch::new().unwrap().fetch(&remote).await.is_ok(), "{}", remote.endpoint.url);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn errors_do_not_show_the_url() {
    let mut remote = serve(|_| async {}).await.1;
    remote.endpoint.url.set_port(Some(1)).unwrap();
    remote.endpoint.url.set_query(Some("key=canary"));
    let FetchError::Network(text) = HttpFetch::new().unwrap().fetch(&remote).await.unwrap_err() else { panic!() };
    assert!(!text.contains("canary") && !text.contains("127.0.0.1/"), "{text}");
}

/// Serves each path with a response, and every other path with 404. `{at}` in a response is the server's URL.
async fn serve_paths(paths: &[(&'static str, &'static str)]) -> RemoteKeys {
    let paths = paths.to_vec();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("http://{}", listener.local_addr().unwrap());
    let url: Url = at.parse().unwrap();
    let issuer = at.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let length = stream.read(&mut head).await.unwrap();
            let head = String::from_utf8_lossy(&head[..length]).into_owned();
            let path = head.split(' ').nth(1).unwrap();
            let found = paths.iter().find(|(served, _)| *served == path).map(|(_, body)| body.replace("{at}", &at));
            let missing = || "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned();
            let answer = found.map_or_else(missing, |body| ok("content-type: application/json\r\n", &body));
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let endpoint = Endpoint { url, private_address: true, ..remote_keys().endpoint };
    RemoteKeys { endpoint, metadata_of: Some(issuer), ..remote_keys() }
}

const METADATA: &str = r#"{"issuer":"{at}","jwks_uri":"{at}/keys"}"#;

#[tokio::test]
async fn a_set_is_found_by_the_metadata_of_its_issuer() {
    for paths in [
        &[("/.well-known/openid-configuration", METADATA), ("/keys", "{}")],
        &[("/.well-known/oauth-authorization-server", METADATA), ("/keys", "{}")],
    ] {
        let remote = serve_paths(paths).await;
        assert_eq!(HttpFetch::new().unwrap().fetch(&remote).await.unwrap().body, b"{}");
    }
}

#[tokio::test]
async fn j14_metadata_that_leads_elsewhere_is_rejected() {
    async fn failure(paths: &[(&'static str, &'static str)]) -> FetchError {
        HttpFetch::new().unwrap().fetch(&serve_paths(paths).await).await.unwrap_err()
    }
    assert_eq!(failure(&[]).await, FetchError::Status(404));
    assert_eq!(failure(&[("/.well-known/openid-configuration", METADATA)]).await, FetchError::Status(404), "no keys");
    let other = r#"{"issuer":"{at}/","jwks_uri":"{at}/keys"}"#;
    let named = failure(&[("/.well-known/openid-configuration", other), ("/keys", "{}")]).await;
    assert!(matches!(named, FetchError::OtherIssuer(name) if name.starts_with("http://127.0.0.1")));
    let plain = r#"{"issuer":"{at}","jwks_uri":"http://192.0.2.1/keys"}"#;
    let error = failure(&[("/.well-known/openid-configuration", plain), ("/keys", "{}")]).await;
    assert!(matches!(error, FetchError::Metadata(_)), "{error}");
    // A key set in place of the metadata is not taken for it.
    let error = failure(&[("/.well-known/openid-configuration", r#"{"keys":[]}"#)]).await;
    assert_eq!(error, FetchError::Metadata("has no issuer"));
}

#[tokio::test]
async fn a_private_authority_is_trusted_only_if_it_is_configured() {
    crate::server::install_crypto();
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (der, key) = (certificate.cert.der().clone(), certificate.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![der.clone()], rustls::pki_types::PrivatePkcs8KeyDer::from(key).into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/jwks", listener.local_addr().unwrap().port()).parse().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(ok("", "{}").as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    let system = RemoteKeys { endpoint: Endpoint { url, ..remote_keys().endpoint }, ..remote_keys() };
    let mut private = system.clone();
    private.endpoint.ca = vec![der];
    let fetch = HttpFetch::new().unwrap();
    assert_eq!(fetch.fetch(&private).await.unwrap().body, b"{}");
    assert!(matches!(fetch.fetch(&system).await, Err(FetchError::Network(why)) if why.contains("certificate")));
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    private.endpoint.ca = vec![other.cert.der().clone()];
    assert!(matches!(fetch.fetch(&private).await, Err(FetchError::Network(_))));
}
