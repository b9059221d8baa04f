//! The shape that is requested, the server, and the users' tokens.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use bytes::Bytes;

use crate::http::{Answer, Connection};

/// One shape at one address.
#[derive(Clone)]
pub(crate) struct Target {
    pub address: SocketAddr,
    /// The `Host` header.
    pub host: String,
    pub path: String,
    /// The part of the query that names the shape. Offset and handle are added.
    pub query: String,
    /// One token for each user; empty if the shape needs none.
    pub tokens: Vec<String>,
}

impl Target {
    /// Returns the path, with the query that names the shape and these parameters.
    pub(crate) fn uri(&self, parameters: &str) -> String {
        let joint = if self.query.is_empty() { "" } else { "&" };
        format!("{}?{}{joint}{parameters}", self.path, self.query)
    }

    /// Returns the token of client number `client`.
    pub(crate) fn token(&self, client: usize) -> Option<&str> {
        let user = client.checked_rem(self.tokens.len())?;
        Some(&self.tokens[user])
    }

    /// Returns the GET request of client number `client`.
    pub(crate) fn request(&self, client: usize, parameters: &str) -> Bytes {
        let authorization =
            self.token(client).map_or_else(String::new, |token| format!("authorization: Bearer {token}\r\n"));
        let (uri, host) = (self.uri(parameters), &self.host);
        Bytes::from(format!("GET {uri} HTTP/1.1\r\nhost: {host}\r\n{authorization}\r\n"))
    }

    /// Returns the response to the first client, on a new connection. Fails unless it is 200.
    pub(crate) async fn get(&self, parameters: &str) -> anyhow::Result<Answer> {
        let answer = Connection::open(self.address).await?.ask(&self.request(0, parameters)).await?;
        ensure!(answer.status == 200, "{} answered {}", self.address, answer.summary());
        Ok(answer)
    }
}

/// A position in the log of a shape.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    handle: String,
    offset: String,
    cursor: Option<String>,
}

impl Position {
    /// Finds the end of the log, as every client does: from the start, until a response says that it is up to date.
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

    /// Returns the position that follows a response.
    pub(crate) fn behind(answer: &Answer) -> anyhow::Result<Self> {
        let header = |name: &str| {
            let value = answer.header(name).map(str::to_owned);
            value.with_context(|| format!("no {name} in the response: {}", answer.summary()))
        };
        let cursor = answer.header("electric-cursor").map(str::to_owned);
        Ok(Self { handle: header("electric-handle")?, offset: header("electric-offset")?, cursor })
    }

    /// Returns the parameters of a request that waits at this position for a change.
    pub(crate) fn live(&self) -> String {
        let cursor = self.cursor.as_ref().map_or_else(String::new, |cursor| format!("&cursor={cursor}"));
        format!("{}&live=true{cursor}", self.parameters())
    }

    fn parameters(&self) -> String {
        format!("handle={}&offset={}", self.handle, self.offset)
    }
}
