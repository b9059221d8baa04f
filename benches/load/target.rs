//! What is asked, of whom, and with whose tokens.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use bytes::Bytes;

use crate::http::{Answer, Connection};

/// One shape at one address.
#[derive(Clone)]
pub(crate) struct Target {
    pub address: SocketAddr,
    /// The `Host` that is sent.
    pub host: String,
    pub path: String,
    /// What names the shape; offset and handle are added.
    pub query: String,
    /// One for each user; empty where the shape needs none.
    pub tokens: Vec<String>,
}

impl Target {
    /// The path with the query that names the shape and these parameters.
    pub(crate) fn uri(&self, parameters: &str) -> String {
        let joint = if self.query.is_empty() { "" } else { "&" };
        format!("{}?{}{joint}{parameters}", self.path, self.query)
    }

    /// The token of client number `client`.
    pub(crate) fn token(&self, client: usize) -> Option<&str> {
        let user = client.checked_rem(self.tokens.len())?;
        Some(&self.tokens[user])
    }

    /// A GET by client number `client`.
    pub(crate) fn request(&self, client: usize, parameters: &str) -> Bytes {
        let authorization =
            self.token(client).map_or_else(String::new, |token| format!("authorization: Bearer {token}\r\n"));
        let (uri, host) = (self.uri(parameters), &self.host);
        Bytes::from(format!("GET {uri} HTTP/1.1\r\nhost: {host}\r\n{authorization}\r\n"))
    }

    /// What the first client gets on a connection of its own; anything but 200 is an error.
    pub(crate) async fn get(&self, parameters: &str) -> anyhow::Result<Answer> {
        let answer = Connection::open(self.address).await?.ask(&self.request(0, parameters)).await?;
        ensure!(answer.status == 200, "{} answered {}", self.address, answer.summary());
        Ok(answer)
    }
}

/// A place in the log of a shape.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    handle: String,
    offset: String,
    cursor: Option<String>,
}

impl Position {
    /// The end of the log, reached as every client reaches it: from the start, until it is told that it is there.
    pub(crate) async fn end(target: &Target) -> anyhow::Result<Self> {
        let mut answer = target.get("offset=-1").await?;
        loop {
            let position = Self::behind(&answer)?;
            if answer.header("electric-up-to-date").is_some() {
                return Ok(position);
            }
            answer = target.get(&position.parameters()).await?;
        }
    }

    /// Where the next request goes on.
    pub(crate) fn behind(answer: &Answer) -> anyhow::Result<Self> {
        let header = |name: &str| {
            let value = answer.header(name).map(str::to_owned);
            value.with_context(|| format!("no {name} in the answer: {}", answer.summary()))
        };
        let cursor = answer.header("electric-cursor").map(str::to_owned);
        Ok(Self { handle: header("electric-handle")?, offset: header("electric-offset")?, cursor })
    }

    /// The parameters of a request that waits here for a change.
    pub(crate) fn live(&self) -> String {
        let cursor = self.cursor.as_ref().map_or_else(String::new, |cursor| format!("&cursor={cursor}"));
        format!("{}&live=true{cursor}", self.parameters())
    }

    fn parameters(&self) -> String {
        format!("handle={}&offset={}", self.handle, self.offset)
    }
}
