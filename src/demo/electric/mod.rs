//! A stand-in for Electric: tables in memory, shapes of them over HTTP, and every answer byte for byte as observed.
//!
//! It follows the recordings of Electric 1.7.12 in tests/electric, including its weaknesses, since tests of the proxy
//! depend on them: a comment or a NUL in `where` drops what follows, and a POST body replaces the URL's definition
//! (docs/electric.md, "Composing a where" and "POST bodies"). It has no subqueries and never compresses.

mod answer;
mod body;
mod control;
mod cursor;
mod database;
mod live;
mod params;
mod query;
mod serve;
mod shape;
mod sql;
mod store;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::http::{Limits, Reply, Request, Server, Serving};
pub use control::Readiness;
use database::TableName;
pub use database::{Change, ChangeError, Column};
use serve::Service;

/// What can be set; the defaults are Electric's.
#[derive(Clone, Debug)]
pub struct Options {
    /// The port on the loopback address; 0 takes a free one.
    pub port: u16,
    /// What `secret` in the query must be, at the start.
    pub secret: String,
    /// How long a live request waits for a change.
    pub hold: Duration,
    /// What `electric-cursor` counts in.
    pub cursor_interval: Duration,
    /// Silence on an event stream before a keep-alive.
    pub sse_keep_alive: Duration,
    /// How long an event stream lives.
    pub sse_life: Duration,
    /// How long a request waits for a database that was lost.
    pub not_ready_wait: Duration,
    /// Bytes of snapshot or log that go into one answer.
    pub chunk_bytes: usize,
    /// Whether DELETE is served.
    pub allow_delete: bool,
    /// Where the HTTP server stops.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 0,
            secret: "test-secret".to_owned(),
            hold: Duration::from_secs(20),
            cursor_interval: Duration::from_secs(20),
            sse_keep_alive: Duration::from_secs(21),
            sse_life: Duration::from_secs(60),
            not_ready_wait: Duration::from_secs(5),
            chunk_bytes: 10 << 20,
            allow_delete: false,
            limits: Limits::default(),
        }
    }
}

/// A running stand-in; dropping it closes its listener and every connection.
#[derive(Debug)]
pub struct Electric {
    service: Arc<Service>,
    addr: SocketAddr,
    _serving: Serving,
}

impl Electric {
    /// Starts it on the loopback address, without tables.
    /// # Errors
    /// Where the port cannot be bound.
    pub async fn start(options: Options) -> io::Result<Self> {
        let server = Server::bind((Ipv4Addr::LOCALHOST, options.port).into()).await?.with_limits(options.limits);
        let addr = server.local_addr()?;
        let service = Arc::new(Service::new(options));
        let handler = Arc::clone(&service);
        let serving = server.serve(move |request| Arc::clone(&handler).answer(request));
        Ok(Self { service, addr, _serving: serving })
    }

    /// Where it listens.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Adds an empty table, or replaces one with its shapes; `name` is as in a request: `tasks`, `auth.users`.
    ///
    pub fn create_table(&self, name: &str, columns: Vec<Column>) {
        let Ok(name) = TableName::parse(name) else { return };
        self.service.change(|store| {
            store.drop_shapes_of(&name);
            store.database.create(name, columns);
        });
    }

    /// Inserts a row and gives the transaction's position.
    ///
    /// # Errors
    /// Where the table, a column or the key is wrong.
    pub fn insert(&self, table: &str, row: Value) -> Result<u64, ChangeError> {
        self.transaction(&[Change::Insert(table.to_owned(), row)])
    }

    /// Gives the row with the primary key in `row` the other values in it.
    ///
    /// # Errors
    /// Where there is no such row, or a name is wrong.
    pub fn update(&self, table: &str, row: Value) -> Result<u64, ChangeError> {
        self.transaction(&[Change::Update(table.to_owned(), row)])
    }

    /// Deletes the row with the primary key in `row`.
    ///
    /// # Errors
    /// Where there is no such row, or a name is wrong.
    pub fn delete(&self, table: &str, row: Value) -> Result<u64, ChangeError> {
        self.transaction(&[Change::Delete(table.to_owned(), row)])
    }

    /// Deletes all rows, and with them every shape of the table.
    ///
    /// # Errors
    /// Where there is no such table.
    pub fn truncate(&self, table: &str) -> Result<u64, ChangeError> {
        self.transaction(&[Change::Truncate(table.to_owned())])
    }

    /// Makes several changes in one transaction; those before a bad one stay.
    ///
    /// # Errors
    /// Where a change cannot be made.
    pub fn transaction(&self, changes: &[Change]) -> Result<u64, ChangeError> {
        self.service.change(|store| store.commit(changes))
    }

    /// Forgets a shape, as a clean-up would; tells whether it was there.
    pub fn delete_shape(&self, handle: &str) -> bool {
        self.service.change(|store| store.delete_shape(handle))
    }

    /// Forgets all shapes of a table, as a change of its columns would.
    pub fn delete_shapes_of(&self, table: &str) {
        if let Ok(name) = TableName::parse(table) {
            self.service.change(|store| store.drop_shapes_of(&name));
        }
    }

    /// Ready, or as when the database is lost.
    pub fn set_ready(&self, ready: bool) {
        self.set_readiness(if ready { Readiness::Active } else { Readiness::Starting });
    }

    /// Whether it can serve shapes; live requests that wait already are not affected.
    pub fn set_readiness(&self, readiness: Readiness) {
        self.service.control.set_readiness(readiness);
    }

    /// Takes this secret from here on, as if it had started anew with it.
    pub fn set_secret(&self, secret: &str) {
        self.service.control.set_secret(secret);
    }

    /// Answers 503 from here on as if this many requests were too many; `None` ends it.
    pub fn set_overload(&self, limit: Option<u32>) {
        self.service.control.set_overload(limit);
    }

    /// Gives the next shape request this answer, whatever it asks; several are given in turn.
    pub fn script(&self, reply: Reply) {
        self.service.control.script(reply);
    }

    /// Holds every shape request back until [`Electric::release`].
    pub fn hold(&self) {
        self.service.control.hold(true);
    }

    /// Lets what was held back go on.
    pub fn release(&self) {
        self.service.control.hold(false);
    }

    /// The requests on the shape path, the oldest first; of very many only the last.
    pub fn requests(&self) -> Vec<Request> {
        self.service.control.seen()
    }

    /// How many requests there were on the shape path.
    pub fn request_count(&self) -> usize {
        self.service.control.count()
    }

    /// How many live requests wait for a change, event streams included.
    pub fn waiting(&self) -> usize {
        self.service.control.waiting()
    }

    /// Returns once there were at least `count` requests on the shape path.
    pub async fn wait_for_requests(&self, count: usize) {
        self.service.control.wait_for_count(count).await;
    }

    /// Returns once exactly `count` live requests wait.
    pub async fn wait_for_waiting(&self, count: usize) {
        self.service.control.wait_for_waiting(count).await;
    }
}

#[cfg(test)]
mod tests;
