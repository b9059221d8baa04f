use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

async fn serve(limits: Limits) -> (SocketAddr, Serving) {
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap().with_limits(limits);
    let addr = server.local_addr().unwrap();
    let serving = server.serve(|request: Request| async move {
        match request.path() {
            "/chunks" => Reply::new(200).with_chunks([Bytes::from("ab"), Bytes::from("c")]),
            "/cut" => Reply::new(200).with_chunks([Bytes::from("ab")]).with_end(End::Truncate),
            "/short" => Reply::new(200).with_body("ab").with_end(End::Truncate),
            "/reset" => Reply::new(200).with_body("ab").with_end(End::Reset),
            _ => Reply::new(200).with_body(format!("{} {}", request.body.len(), request.body_too_large)),
        }
    });
    (addr, serving)
}

/// Sends `request` and reads until the server closes the connection.
async fn exchange(addr: SocketAddr, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
}

#[tokio::test]
async fn bodies_have_a_length_or_chunks() {
    let (addr, _serving) = serve(Limits::default()).await;
    let chunked = exchange(addr, &get("/chunks")).await.unwrap();
    assert!(chunked.starts_with("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ndate: "));
    assert!(chunked.ends_with("\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"));
    let full = exchange(addr, &get("/")).await.unwrap();
    assert!(full.ends_with("\r\ncontent-length: 7\r\n\r\n0 false"), "{full}");
    let head = exchange(addr, &get("/chunks").replace("GET", "HEAD")).await.unwrap();
    assert!(!head.contains("transfer-encoding") && head.ends_with("\r\n\r\n"));
}

#[tokio::test]
async fn truncated_and_reset_bodies_are_incomplete() {
    let (addr, _serving) = serve(Limits::default()).await;
    assert!(exchange(addr, &get("/cut")).await.unwrap().ends_with("2\r\nab\r\n"));
    assert!(exchange(addr, &get("/short")).await.unwrap().ends_with("content-length: 3\r\n\r\nab"));
    assert!(exchange(addr, &get("/reset")).await.is_err());
}

#[tokio::test]
async fn bodies_are_read_up_to_the_limit() {
    let (addr, _serving) = serve(Limits { body: 5, ..Limits::default() }).await;
    let post = |framing: &str, body: &str| {
        format!("POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{framing}\r\n\r\n{body}")
    };
    let sized = exchange(addr, &post("content-length: 5", "abcde")).await.unwrap();
    assert!(sized.ends_with("5 false"));
    let long = exchange(addr, &post("content-length: 6", "abcdef")).await.unwrap();
    assert!(long.ends_with("5 true"));
    let chunked =
        exchange(addr, &post("transfer-encoding: chunked", "2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n")).await.unwrap();
    assert!(chunked.ends_with("3 false"));
    let both = exchange(addr, &post("content-length: 3\r\ntransfer-encoding: chunked", "0\r\n\r\n")).await.unwrap();
    assert!(both.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn connections_close_without_notice_after_their_last_request() {
    let (addr, _serving) = serve(Limits { requests: 3, ..Limits::default() }).await;
    let request = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let answers = exchange(addr, &request.repeat(4)).await.unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 3);
    assert!(!answers.contains("connection: close"));
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let (addr, _serving) = serve(Limits { idle: Duration::from_millis(20), ..Limits::default() }).await;
    assert_eq!(exchange(addr, "GET / HT").await.unwrap(), "");
}

#[tokio::test]
async fn oversized_heads_are_rejected() {
    let (addr, _serving) = serve(Limits::default()).await;
    // The method, two spaces and the version are part of the request line.
    let line = |length: usize| get(&format!("/{}", "a".repeat(length - "GET / HTTP/1.1".len())));
    assert!(exchange(addr, &line(9_999)).await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(exchange(addr, &line(10_000)).await.unwrap().starts_with("HTTP/1.0 414"));
    let headers = |count: usize| {
        let more = "x: y\r\n".repeat(count - 2);
        get("/").replace("\r\n\r\n", &format!("\r\n{more}\r\n"))
    };
    assert!(exchange(addr, &headers(50)).await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(exchange(addr, &headers(51)).await.unwrap().starts_with("HTTP/1.0 431"));
    let long = get("/").replace("host", &format!("x: {}\r\nhost", "y".repeat(10_000)));
    assert!(exchange(addr, &long).await.unwrap().starts_with("HTTP/1.0 431"));
    let hostless = "GET / HTTP/1.1\r\n\r\n";
    assert_eq!(exchange(addr, hostless).await.unwrap(), "HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
}
