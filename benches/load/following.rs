//! Clients that follow a shape as `@electric-sql/client` does: with a cursor, and with cache busters after a 409.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::http::{Answer, Connection};
use crate::report::Answers;
use crate::target::Target;

/// Clients that join one after another, and follow until they are dropped.
pub(crate) struct Following {
    target: Target,
    clients: JoinSet<anyhow::Result<()>>,
    /// What each client has.
    progress: Vec<watch::Receiver<Progress>>,
}

/// What one client has.
#[derive(Clone, Debug, Default)]
struct Progress {
    rows: u64,
    reloads: u64,
    statuses: BTreeMap<u16, u64>,
}

/// One client.
struct Client {
    target: Arc<Target>,
    number: usize,
    connection: Connection,
    handle: Option<String>,
    offset: String,
    cursor: Option<String>,
    expired: Option<String>,
    live: bool,
    progress: watch::Sender<Progress>,
}

impl Following {
    pub(crate) fn new(target: &Target) -> Self {
        Self { target: target.clone(), clients: JoinSet::new(), progress: Vec::new() }
    }

    /// Lets another client join.
    pub(crate) async fn join(&mut self) -> anyhow::Result<()> {
        let (progress, seen) = watch::channel(Progress::default());
        let client = Client {
            target: Arc::new(self.target.clone()),
            number: self.progress.len(),
            connection: Connection::open(self.target.address).await?,
            handle: None,
            offset: "-1".to_owned(),
            cursor: None,
            expired: None,
            live: false,
            progress,
        };
        self.clients.spawn(client.follow());
        self.progress.push(seen);
        Ok(())
    }

    /// Waits until every client has at least `rows` rows, after `reloads` reloads.
    pub(crate) async fn until(&mut self, rows: u64, reloads: u64) -> anyhow::Result<()> {
        for (number, seen) in self.progress.iter_mut().enumerate() {
            let complete = seen.wait_for(|has| has.rows >= rows && has.reloads >= reloads);
            let waited = timeout(PATIENCE, complete).await;
            let waited = waited.with_context(|| format!("client {number} does not get all {rows} rows"))?;
            waited.with_context(|| format!("client {number} has failed"))?;
        }
        Ok(())
    }

    /// Returns the statuses so far. A client that does not have exactly `rows` rows is wrong.
    pub(crate) fn answers(&self, rows: u64) -> Answers {
        let mut answers = Answers::default();
        for (number, seen) in self.progress.iter().enumerate() {
            let has = seen.borrow();
            for (status, count) in &has.statuses {
                *answers.statuses.entry(*status).or_default() += count;
            }
            if has.rows != rows {
                answers.wrong(|| format!("client {number} has {} rows, not {rows}", has.rows));
            }
        }
        answers
    }
}

impl Client {
    async fn follow(mut self) -> anyhow::Result<()> {
        loop {
            let request = self.target.request(self.number, &self.parameters());
            let answer = self.connection.ask(&request).await?;
            if answer.closes {
                self.connection = Connection::open(self.target.address).await?;
            }
            self.take(&answer)?;
        }
    }

    fn parameters(&self) -> String {
        let mut parameters = format!("log=full&offset={}", self.offset);
        let mut add = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                parameters += &format!("&{name}={value}");
            }
        };
        add("handle", self.handle.as_deref());
        if self.live {
            add("live", Some("true"));
            add("cursor", Some(self.cursor.as_deref().unwrap_or_default()));
        }
        add("expired_handle", self.expired.as_deref());
        if self.expired.is_some() && self.offset == "-1" {
            add("cache-buster", Some(&format!("{:x}", rand::random::<u64>())));
        }
        parameters
    }

    fn take(&mut self, answer: &Answer) -> anyhow::Result<()> {
        let header = |name: &str| answer.header(name).map(str::to_owned);
        if answer.status == 409 {
            self.expired = self.handle.take().or(self.expired.take());
            (self.handle, self.offset, self.live) = (header("electric-handle"), "-1".to_owned(), false);
        } else {
            ensure!(answer.status == 200, "{}", answer.summary());
            (self.handle, self.offset) =
                (header("electric-handle"), header("electric-offset").context("no electric-offset")?);
            let cursor = header("electric-cursor");
            ensure!(cursor.is_none() || cursor != self.cursor, "the cursor that was sent: {}", answer.summary());
            self.cursor = cursor.or(self.cursor.take());
            self.live |= answer.header("electric-up-to-date").is_some();
        }
        let inserts = count(&answer.body, b"\"operation\":\"insert\"");
        self.progress.send_modify(|has| {
            *has.statuses.entry(answer.status).or_default() += 1;
            if answer.status == 409 {
                (has.rows, has.reloads) = (0, has.reloads + 1);
            } else {
                has.rows += inserts;
            }
        });
        Ok(())
    }
}

fn count(body: &[u8], text: &[u8]) -> u64 {
    body.windows(text.len()).filter(|window| *window == text).count() as u64
}

/// The timeout for one client to catch up.
const PATIENCE: Duration = Duration::from_secs(60);
