use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
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
    (connections, RemoteKeys { url, timeout: Duration::from_millis(300), ..remote_keys() })
}

async fn fetch_text(text: impl Into<String>) -> Result<FetchedKeys, FetchError> {
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

#[test]
fn j12_the_shortest_of_all_cache_directives_applies() {
    for (values, expected) in [
        (vec!["max-age=90"], Some(90)),
        (vec!["MAX-AGE=\"90\" , public"], Some(90)),
        (vec!["max-age=90, max-age=30"], Some(30)),
        (vec!["max-age=90", "no-cache"], Some(0)),
        (vec!["no-store"], Some(0)),
        (vec!["s-maxage=5, stale-if-error=3"], None),
        (vec!["max-age=-1"], None),
        (vec!["max-age=99999999999999999999999"], None),
        (vec![], None),
    ] {
        let mut headers = HeaderMap::new();
        for value in &values {
            headers.append(CACHE_CONTROL, value.parse().unwrap());
        }
        assert_eq!(max_age(&headers), expected.map(Duration::from_secs), "{values:?}");
    }
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
        let answer = format!("HTTP/1.1 {status} Moved\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", target.url);
        let error = fetch_text(answer).await.unwrap_err();
        assert_eq!(error, FetchError::Redirect(Some(target.url.to_string())));
        assert_eq!(error.to_string(), format!("the response redirects: write url = \"{}\"", target.url));
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
        let patient = RemoteKeys { timeout: LONGEST_FETCH, ..remote };
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
        let begun = tokio::time::Instant::now();
        assert_eq!(HttpFetch::new().unwrap().fetch(&remote).await.unwrap_err(), FetchError::Timeout, "{head}");
        assert!(begun.elapsed() < Duration::from_secs(3));
    }
}

#[tokio::test]
async fn j6_a_literal_address_in_the_url_and_localhost_are_allowed() {
    let (connections, remote) = serve(|mut stream| async move {
        let _ = stream.write_all(ok("", "{}").as_bytes()).await;
    })
    .await;
    let mut by_name = remote.clone();
    by_name.url.set_host(Some("localhost")).unwrap();
    for remote in [remote, by_name] {
        assert!(HttpFetch::new().unwrap().fetch(&remote).await.is_ok(), "{}", remote.url);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn errors_do_not_show_the_url() {
    let mut remote = serve(|_| async {}).await.1;
    remote.url.set_port(Some(1)).unwrap();
    remote.url.set_query(Some("key=canary"));
    let FetchError::Network(text) = HttpFetch::new().unwrap().fetch(&remote).await.unwrap_err() else { panic!() };
    assert!(!text.contains("canary") && !text.contains("127.0.0.1/"), "{text}");
}
