//! Many clients that wait for the same change.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use h2::client::SendRequest;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout_at;

use crate::http::{Answer, Connection};
use crate::http2;
use crate::scene::Scene;
use crate::server::Server;
use crate::target::{Position, Target};

/// Clients, each with a connection or a stream on one.
#[derive(Default)]
pub(crate) struct Crowd(Vec<Client>);

enum Client {
    Http1(Connection),
    Http2(SendRequest<Bytes>),
}

/// Clients with a request in flight.
pub(crate) struct Asked(Vec<JoinHandle<(Client, anyhow::Result<Answer>)>>);

impl Crowd {
    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Connects until there are `count` clients.
    pub(crate) async fn fill(&mut self, target: &Target, count: usize, http2: bool) -> anyhow::Result<()> {
        if http2 {
            while self.len() < count {
                let client = http2::open(target.address).await?;
                let streams = http2::STREAMS.min(count - self.len());
                self.0.extend((0..streams).map(|_| Client::Http2(client.clone())));
            }
            return Ok(());
        }
        // Not all at once: the listener's queue is bounded.
        let (mut opening, address) = (JoinSet::new(), target.address);
        while self.len() < count {
            while opening.len() < AT_A_TIME.min(count - self.len()) {
                opening.spawn(Connection::open(address));
            }
            let opened = opening.join_next().await.context("a connection")??;
            self.0.push(Client::Http1(opened?));
        }
        Ok(())
    }

    /// Sends every client's request for what follows `position`.
    pub(crate) fn ask(self, target: &Target, position: &Position) -> Asked {
        let parameters = position.live();
        let ask = |(number, mut client): (usize, Client)| match &mut client {
            Client::Http1(_) => {
                let request = target.request(number, &parameters);
                tokio::spawn(async move {
                    let answer = client.ask_http1(&request).await;
                    (client, answer)
                })
            }
            Client::Http2(sender) => {
                let (sender, request) = (sender.clone(), http2::request(target, number, &parameters));
                tokio::spawn(async move { (client, http2::ask(sender, request).await) })
            }
        };
        Asked(self.0.into_iter().enumerate().map(ask).collect())
    }
}

impl Client {
    async fn ask_http1(&mut self, request: &[u8]) -> anyhow::Result<Answer> {
        match self {
            Self::Http1(connection) => connection.ask(request).await,
            Self::Http2(_) => bail!("expected an HTTP/1.1 client, found an HTTP/2 client"),
        }
    }
}

impl Asked {
    /// Waits until the server has every request, and Electric has what the server forwards of them.
    pub(crate) async fn wait_until_all_wait(&mut self, server: &Server, scene: &Scene) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut upstream = None;
        loop {
            tokio::time::sleep(STILL).await;
            if let Some(early) = self.0.iter().position(JoinHandle::is_finished) {
                let (_, answer) = self.0.swap_remove(early).await?;
                bail!("a client was answered before all of them waited: {}", answer?.summary());
            }
            let in_flight = server.in_flight().await?;
            let here = in_flight.is_none_or(|count| count == self.0.len());
            let there = scene.upstream_waiting().is_none_or(|count| count > 0);
            let before = upstream.replace(scene.upstream_requests());
            if here && there && before == upstream {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} of {} clients wait, and no more arrive", in_flight.unwrap_or(0), self.0.len());
            }
        }
    }

    /// Returns the responses, and the clients that can send another request.
    pub(crate) async fn answers(self) -> (Crowd, Vec<anyhow::Result<Answer>>) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let (mut crowd, mut answers) = (Crowd::default(), Vec::with_capacity(self.0.len()));
        // In this order, not as they finish: a wake-up for each would be work of this process, not of the server.
        for mut task in self.0 {
            let answer = match timeout_at(deadline, &mut task).await {
                Ok(Ok((client, answer))) => {
                    if answer.as_ref().is_ok_and(|answer| !answer.closes) {
                        crowd.0.push(client);
                    }
                    answer
                }
                Ok(Err(error)) => Err(error.into()),
                Err(late) => {
                    task.abort();
                    Err(late.into())
                }
            };
            answers.push(answer);
        }
        (crowd, answers)
    }
}

/// Connections that are opened at the same time.
const AT_A_TIME: usize = 128;

/// The stand-in has all requests if none arrives for this long.
const STILL: Duration = Duration::from_millis(200);

/// The timeout for everything; longer than Electric holds a poll.
const PATIENCE: Duration = Duration::from_secs(90);
