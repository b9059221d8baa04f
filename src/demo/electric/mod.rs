//! A stand-in for Electric: tables in memory, served as shapes over HTTP, with every response byte for byte as
//! observed.
//!
//! It follows the recordings of Electric 1.7.12 in tests/electric. It also reproduces Electric's weaknesses, since
//! tests of the proxy depend on them: a comment or a NUL in `where` cuts off the rest, and a POST body replaces the
//! definition in the URL (docs/electric.md, "Composing a where" and "POST bodies"). It has no subqueries and never
//! compresses.

mod answer;
mod body;
mod control;
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
use crate::shape::cursor;
pub use control::Readiness;
use database::TableName;
pub use database::{Change, ChangeError, Column};
use serve::Service;

/// Options of the stand-in. The defaults are Electric's.
#[derive(Clone, Debug)]
pub struct Options {
    /// The port on loopback; 0 takes a free one.
    pub port: u16,
    /// The required `secret` parameter, until [`Electric::set_secret`] changes it.
    pub secret: String,
    /// How long a live request waits for a change.
    pub hold: Duration,
    /// The interval of `electric-cursor`.
    pub cursor_interval: Duration,
    /// The silence on an event stream before a keep-alive.
    pub sse_keep_alive: Duration,
    /// How long an event stream lasts.
    pub sse_life: Duration,
    /// How long a request waits for a lost database.
    pub not_ready_wait: Duration,
    /// Bytes of snapshot or log in one response.
    pub chunk_bytes: usize,
    /// Whether DELETE is allowed.
    pub allow_delete: bool,
    /// The limits of the HTTP server.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 0,
            secret: "test-secret".to_owned(),
            hold: Duration::from_secs(20),
            cursor_interval: cursor::INTERVAL,
            sse_keep_alive: Duration::from_secs(21),
            sse_life: Duration::from_secs(60),
            not_ready_wait: Duration::from_secs(5),
            chunk_bytes: 10 << 20,
            allow_delete: false,
            limits: Limits::default(),
        }
    }
}

/// A running stand-in. Dropping it closes its listener and every connection.
#[derive(Debug)]
pub struct Electric {
    service: Arc<Service>,
    addr: SocketAddr,
    _serving: Serving,
}

impl Electric {
    /// Starts the stand-in on loopback, without tables.
    ///
    /// # Errors
    /// The port cannot be bound.
    pub async fn start(options: Options) -> io::Result<Self> {
        let server = Server::bind((Ipv4Addr::LOCALHOST, options.port).into()).await?.with_limits(options.limits);
        let addr = server.local_addr()?;
        let service = Arc::new(Service::new(options));
        let handler = Arc::clone(&service);
        let serving = server.serve(move |request| Arc::clone(&handler).answer(request));
        Ok(Self { service, addr, _serving: serving })
    }

    /// Returns its address.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns its base URL, without a trailing slash.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Adds an empty table. An existing table of that name is replaced and loses its shapes. `name` is as in a request:
    /// `tasks`, `auth.users`.
    ///
    pub fn create_table(&self, name: &str, columns: Vec<Column>) {
        let Ok(name) = TableName::parse(name) else { return };
        self.service.change(|store| {
            store.drop_shapes_of(&name);
            store.database.create(name, columns);
        });
    }

    /// Inserts a row, and returns the transaction's position.
    ///
    /// # Errors
    /// The table, a column or the key is wrong.
    pub fn insert(&self, table: &str, row: Value) -> Result<u64, ChangeError> {
        self.transaction(&[Change::Insert(table.to_owned(), row)])
    }

    /// Updates the row that has the primary key in `row`.
    ///
    /// # Errors
    /// There is no such row, or a name is wrong.
    pub fn update(&self, table: &str, row: Value) -> Result<u64, ChangeError> {
        self.transaction(&[Change::Update(table.to_owned(), row)])
    }

    /// Deletes the row that has the primary key in `row`.
    ///
    /// # Errors
    /// There is no such row, or a name is wrong.
    pub fn delete(&self, table: &str, row: Value) -> Result<u64, ChangeError> {
        self.transaction(&[Change::Delete(table.to_owned(), row)])
    }

    /// Deletes all rows, and every shape of the table.
    ///
    /// # Errors
    /// There is no such table.
    pub fn truncate(&self, table: &str) -> Result<u64, ChangeError> {
        self.transaction(&[Change::Truncate(table.to_owned())])
    }

    /// Makes several changes in one transaction. If one fails, those before it remain.
    ///
    /// # Errors
    /// A change cannot be made.
    pub fn transaction(&self, changes: &[Change]) -> Result<u64, ChangeError> {
        self.service.change(|store| store.commit(changes))
    }

    /// Deletes a shape, as a clean-up does. Returns whether it existed.
    pub fn delete_shape(&self, handle: &str) -> bool {
        self.service.change(|store| store.delete_shape(handle))
    }

    /// Deletes all shapes of a table, as a change of its columns does.
    pub fn delete_shapes_of(&self, table: &str) {
        if let Ok(name) = TableName::parse(table) {
            self.service.change(|store| store.drop_shapes_of(&name));
        }
    }

    /// Switches between a ready and a lost database.
    pub fn set_ready(&self, ready: bool) {
        self.set_readiness(if ready { Readiness::Active } else { Readiness::Starting });
    }

    /// Sets whether it can serve shapes. Live requests that already wait are not affected.
    pub fn set_readiness(&self, readiness: Readiness) {
        self.service.control.set_readiness(readiness);
    }

    /// Changes the required secret, as a restart with another one does.
    pub fn set_secret(&self, secret: &str) {
        self.service.control.set_secret(secret);
    }

    /// Answers 503 from now on, as if `limit` requests were too many; `None` ends this.
    pub fn set_overload(&self, limit: Option<u32>) {
        self.service.control.set_overload(limit);
    }

    /// Sends this response to the next shape request, whatever it asks. Several are sent in order.
    pub fn script(&self, reply: Reply) {
        self.service.control.script(reply);
    }

    /// Holds back every shape request until [`Electric::release`].
    pub fn hold(&self) {
        self.service.control.hold(true);
    }

    /// Lets the requests that were held back continue.
    pub fn release(&self) {
        self.service.control.hold(false);
    }

    /// Returns the requests on the shape path, the oldest first. Only the last 10,000 are remembered.
    pub fn requests(&self) -> Vec<Request> {
        self.service.control.seen()
    }

    /// Returns how many requests there were on the shape path.
    pub fn request_count(&self) -> usize {
        self.service.control.count()
    }

    /// Returns how many live requests wait for a change, event streams included.
    pub fn waiting(&self) -> usize {
        self.service.control.waiting()
    }

    /// Waits until there have been at least `count` requests on the shape path.
    pub async fn wait_for_requests(&self, count: usize) {
        self.service.control.wait_for_count(count).await;
    }

    /// Waits until exactly `count` live requests wait.
    pub async fn wait_for_waiting(&self, count: usize) {
        self.service.control.wait_for_waiting(count).await;
    }
}

#[cfg(test)]
mod tests;
