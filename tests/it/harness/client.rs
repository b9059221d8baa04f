//! Clients that read whole responses, send exact bytes, or read chunk by chunk.

use http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A complete response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub(crate) async fn of(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, body: response.bytes().await.unwrap().to_vec() }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// Returns the `code` of an error response that shapegate made itself.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns a header as text, or an empty text if it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Returns all values of a header, separated by commas.
    pub(crate) fn all(&self, name: &str) -> String {
        let values = self.headers.get_all(name).iter().map(|value| value.to_str().unwrap());
        values.collect::<Vec<_>>().join(", ")
    }

    /// Returns the value of `column` in each row.
    pub(crate) fn rows(&self, column: &str) -> Vec<String> {
        let messages = self.json();
        let values = messages.as_array().unwrap().iter().filter_map(|message| message["value"][column].as_str());
        values.map(str::to_owned).collect()
    }
}

/// Sends exact bytes and reads until the server closes the connection. The bytes should ask it to close.
pub(crate) async fn raw(url: &str, request: &[u8]) -> Answer {
    let mut stream = connect(url).await;
    stream.write_all(request).await.unwrap();
    let mut bytes = Vec::new();
    // A reset after the response counts as a close.
    let _ = stream.read_to_end(&mut bytes).await;
    parse(&bytes)
}

pub(super) async fn connect(url: &str) -> TcpStream {
    TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap()
}

pub(super) fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no complete header: {:?}", String::from_utf8_lossy(bytes)));
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(':').unwrap();
        (name.parse::<http::HeaderName>().unwrap(), value.trim().parse::<http::HeaderValue>().unwrap())
    });
    Answer { status, headers: headers.collect(), body: bytes[end + 4..].to_vec() }
}

/// A response that is read chunk by chunk.
pub(crate) struct Stream {
    response: reqwest::Response,
}

impl Stream {
    pub(crate) async fn open(request: reqwest::RequestBuilder) -> Self {
        Self { response: request.send().await.unwrap() }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.response.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Reads until `text` has arrived, and returns all that was read.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            let chunk = self.response.chunk().await.unwrap();
            let chunk = chunk.unwrap_or_else(|| panic!("ended before {text:?}: {seen}"));
            seen.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        seen
    }

    /// Reads to the end; an error if the response is truncated.
    pub(crate) async fn rest(mut self) -> Result<String, reqwest::Error> {
        let mut seen = String::new();
        while let Some(chunk) = self.response.chunk().await? {
            seen.push_str(&String::from_utf8_lossy(&chunk));
        }
        Ok(seen)
    }
}
