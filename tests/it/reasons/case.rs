//! One request, and the reason why it is rejected.

use std::path::Path;

use shapegate::demo::http::Reply;

use crate::harness::{GATEKEEPER_SECRET, shapegate};

/// A request, and the reason why it is rejected.
pub(super) struct Case {
    pub(super) reason: &'static str,
    pub(super) method: &'static str,
    pub(super) target: String,
    pub(super) token: Option<String>,
    /// Further header lines.
    pub(super) headers: String,
    pub(super) body: Option<&'static str>,
    /// Whether `explain` can be asked about it.
    pub(super) explained: bool,
    /// What Electric replies.
    pub(super) electric: Option<fn() -> Reply>,
    /// How often it is sent; only the last time counts.
    pub(super) times: usize,
    /// The last part of the client's address. Each case of a table has its own.
    pub(super) address: usize,
}

impl Case {
    /// A GET.
    pub(super) fn get(reason: &'static str, target: impl Into<String>, token: impl Into<String>) -> Self {
        Self {
            reason,
            method: "GET",
            target: target.into(),
            token: Some(token.into()),
            headers: String::new(),
            body: None,
            explained: true,
            electric: None,
            times: 1,
            address: 0,
        }
    }

    /// A request with header lines that `explain` does not know.
    pub(super) fn with(self, headers: impl Into<String>) -> Self {
        Self { headers: headers.into(), explained: false, ..self }
    }

    pub(super) fn post(self, body: &'static str) -> Self {
        Self { method: "POST", body: Some(body), ..self }
    }

    pub(super) fn if_electric(self, reply: fn() -> Reply) -> Self {
        Self { electric: Some(reply), explained: false, ..self }
    }

    /// A request of a client at this address.
    pub(super) fn at(self, address: usize) -> Self {
        Self { address, ..self }
    }

    /// Returns the request as bytes.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let Self { method, target, headers, address, .. } = self;
        let (third, fourth) = (address / 250, address % 250);
        let from = format!("198.18.{third}.{fourth}");
        let host = if headers.contains("Host:") { "" } else { "Host: gate.test\r\n" };
        let mut text = format!("{method} {target} HTTP/1.1\r\nX-Forwarded-For: {from}\r\n{host}{headers}");
        text += "Connection: close\r\n";
        if let Some(token) = &self.token {
            text += &format!("Authorization: Bearer {token}\r\n");
        }
        if let Some(body) = self.body {
            let json = if headers.contains("Content-Type") { "" } else { "Content-Type: application/json\r\n" };
            text += &format!("{json}Content-Length: {}\r\n\r\n{body}", body.len());
        } else {
            text += "\r\n";
        }
        text.into_bytes()
    }

    /// Returns the reason that `explain` gives.
    pub(super) async fn explain(&self, config: &Path) -> String {
        let mut arguments = vec!["explain", "--config", config.to_str().unwrap(), "--method", self.method];
        arguments.extend(self.token.iter().flat_map(|token| ["--token", token]));
        arguments.extend(self.body.iter().flat_map(|body| ["--body", body]));
        arguments.push(&self.target);
        let output = shapegate(&arguments).env("GATEKEEPER_SECRET", GATEKEEPER_SECRET).output().await.unwrap();
        let words = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{}: {words}", self.reason);
        words.lines().find_map(|line| line.strip_prefix("reason:   ")).unwrap_or_default().to_owned()
    }
}
