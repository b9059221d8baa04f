//! Clients that follow the rows of `org-1`, each with a token and a connection of its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::{Client, Response, StatusCode};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::issuer::IssuerServer;

/// The clients, and how the last row reached them.
pub(super) struct Crowd {
    shared: Arc<Shared>,
    clients: Mutex<JoinSet<()>>,
}

struct Shared {
    client: Client,
    shape_url: String,
    issuer: Arc<IssuerServer>,
    /// Clients that have loaded the shape and wait for its next change.
    live: watch::Sender<usize>,
    delivery: watch::Sender<Delivery>,
}

/// How many clients have received the last row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery {
    started: Instant,
    /// Clients that waited when it was written.
    pub(super) expected: usize,
    /// Clients that have it.
    pub(super) clients: usize,
    /// How long after the row the last of them got it.
    pub(super) took: Duration,
}

impl Default for Delivery {
    fn default() -> Self {
        Self::begin(0)
    }
}

impl Delivery {
    fn begin(expected: usize) -> Self {
        Self { started: Instant::now(), expected, clients: 0, took: Duration::ZERO }
    }

    fn arrived(&mut self) {
        // Rows that nobody asked for arrive too, and are not counted.
        if self.clients < self.expected {
            self.clients += 1;
            self.took = self.started.elapsed();
        }
    }
}

/// The most clients. Each has a connection, whose two ends are in this process.
pub(super) const MOST: usize = 1000;

/// How long a row may take until it is reported with the clients that have it.
const PATIENCE: Duration = Duration::from_secs(5);

impl Crowd {
    pub(super) fn new(client: Client, shape_url: String, issuer: Arc<IssuerServer>) -> Self {
        let (live, delivery) = (watch::Sender::new(0), watch::Sender::new(Delivery::default()));
        let shared = Arc::new(Shared { client, shape_url, issuer, live, delivery });
        Self { shared, clients: Mutex::new(JoinSet::new()) }
    }

    /// Adds clients, up to [`MOST`]. Returns how many there are then.
    pub(super) fn add(&self, count: usize) -> usize {
        let mut clients = self.clients();
        for number in (clients.len()..MOST).take(count) {
            let shared = Arc::clone(&self.shared);
            clients.spawn(async move { shared.follow(&format!("client-{number}")).await });
        }
        clients.len()
    }

    /// Disconnects all clients.
    pub(super) fn clear(&self) {
        // Dropping the set aborts its tasks.
        *self.clients() = JoinSet::new();
    }

    pub(super) fn len(&self) -> usize {
        self.clients().len()
    }

    /// Waits until every client waits for the next change, but at most a few seconds.
    pub(super) async fn settle(&self) {
        let (all, mut live) = (self.len(), self.shared.live.subscribe());
        let _ = timeout(PATIENCE, live.wait_for(|live| *live >= all)).await;
    }

    /// Returns the query of a live poll at the end of the log, as a client that has caught up sends it.
    pub(super) async fn live_query(&self) -> Option<String> {
        let now = Position { offset: Some("now".to_owned()), ..Position::default() };
        let token = self.shared.issuer.token("you", "org-1")?;
        let answer = self.shared.ask(&now, &token).await.ok()?;
        let position = Position::after(&answer);
        (answer.status() == StatusCode::OK).then(|| Position { live: true, ..position }.query())
    }

    fn clients(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a row, and returns how it reached the clients once all have it, or after a few seconds.
    pub(super) async fn deliver<T>(&self, write: impl FnOnce() -> T) -> (T, Delivery) {
        let mut delivery = self.shared.delivery.subscribe();
        self.shared.delivery.send_replace(Delivery::begin(*self.shared.live.borrow()));
        let written = write();
        let complete = delivery.wait_for(|delivery| delivery.clients >= delivery.expected);
        // After a timeout the current state is reported.
        let _ = timeout(PATIENCE, complete).await;
        let reached = *self.shared.delivery.borrow();
        (written, reached)
    }
}

/// The position of a client in the shape's log.
#[derive(Default)]
struct Position {
    handle: Option<String>,
    offset: Option<String>,
    cursor: Option<String>,
    live: bool,
}

/// Counts a live client for as long as it waits.
struct Live<'a>(&'a watch::Sender<usize>);

impl<'a> Live<'a> {
    fn begin(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Shared {
    /// Follows the shape as Electric's client does: loads it, waits for changes, and starts over after 409.
    async fn follow(&self, subject: &str) {
        let (mut position, mut token, mut pause) = (Position::default(), None, Duration::ZERO);
        loop {
            sleep(pause).await;
            pause = AGAIN;
            token = token.or_else(|| self.issuer.token(subject, "org-1"));
            let Some(bearer) = &token else { continue };
            let live = position.live.then(|| Live::begin(&self.live));
            let Ok(answer) = self.ask(&position, bearer).await else { continue };
            let status = answer.status();
            let Ok(next) = self.read(answer, position.live).await else { continue };
            drop(live);
            match status {
                StatusCode::OK => (position, pause) = (next, Duration::ZERO),
                StatusCode::CONFLICT => {
                    (position, pause) = (Position { handle: next.handle, ..Position::default() }, Duration::ZERO);
                }
                StatusCode::UNAUTHORIZED => token = None,
                _ => {}
            }
        }
    }

    async fn ask(&self, position: &Position, token: &str) -> reqwest::Result<Response> {
        self.client.get(format!("{}?{}", self.shape_url, position.query())).bearer_auth(token).send().await
    }

    /// Reads a response, and returns the position after it.
    async fn read(&self, answer: Response, was_live: bool) -> reqwest::Result<Position> {
        let next = Position::after(&answer);
        let is_change = was_live && answer.status() == StatusCode::OK;
        let messages: Vec<Value> = serde_json::from_slice(&answer.bytes().await?).unwrap_or_default();
        if is_change && messages.iter().any(|message| message["headers"]["operation"] == "insert") {
            self.delivery.send_modify(Delivery::arrived);
        }
        Ok(next)
    }
}

impl Position {
    /// Reads the position after a response from its header.
    fn after(answer: &Response) -> Self {
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self {
            handle: header("electric-handle"),
            offset: header("electric-offset"),
            cursor: header("electric-cursor"),
            live: answer.headers().contains_key("electric-up-to-date"),
        }
    }

    /// Returns the query that continues here.
    fn query(&self) -> String {
        let mut query = vec![("table", "tasks"), ("organizationId", "org-1")];
        query.push(("offset", self.offset.as_deref().unwrap_or("-1")));
        query.extend(self.handle.as_deref().map(|handle| ("handle", handle)));
        query.extend(self.cursor.as_deref().map(|cursor| ("cursor", cursor)));
        query.extend(self.live.then_some(("live", "true")));
        url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish()
    }
}

/// The pause after an error.
const AGAIN: Duration = Duration::from_secs(1);
