//! From a request to a response: routes, the secret, validation, and the states of a shape.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use rand::RngExt as _;
use serde_json::{Map, Value};
use tokio::sync::watch;

use super::answer::{Echo, State, array, up_to_date};
use super::control::{Control, Readiness};
use super::params::{DeleteParams, Refusal, ShapeParams, Subset};
use super::shape::{Definition, Offset, Position, Shape, Slice};
use super::store::Store;
use super::{Options, body, query};
use crate::clock::{Clock, SystemClock};
use crate::demo::http::{Reply, Request};
use crate::shape::cursor;

const LONG: &str = "public, max-age=604800, s-maxage=3600, stale-while-revalidate=2629746";
const SHORT: &str = "public, max-age=60, stale-while-revalidate=300";
const LIVE: &str = "public, max-age=5, stale-while-revalidate=5";

/// Where Erlang's monotonic clock starts. It ends the etags of responses that are never the same twice.
const MONOTONIC_START: i128 = -576_460_752_303_423_488;

#[derive(Debug)]
pub(super) struct Service {
    pub(super) options: Options,
    pub(super) control: Control,
    store: Mutex<Store>,
    /// Notified of every change to the store.
    changes: watch::Sender<()>,
    started: Instant,
}

/// A request for a shape that exists, with the right handle.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) echo: Echo,
    pub(super) params: ShapeParams,
    pub(super) handle: String,
    schema: String,
}

impl Asked {
    /// Returns the headers for the shape's state. A live response has no schema.
    pub(super) fn state(&self, etag: &str, slice: &Slice, cursor: Option<u64>) -> State {
        State {
            cursor,
            etag: format!("\"{}:{etag}\"", self.handle),
            handle: self.handle.clone(),
            schema: (!self.params.live).then(|| self.schema.clone()),
            up_to_date: slice.up_to_date,
            has_data: true,
            offset: slice.to,
        }
    }

    /// Returns 200 with `items`, or 304 if the client has them.
    pub(super) fn reply(&self, state: State, cache_control: &str, items: &[Bytes]) -> Reply {
        if state.matches(&self.request) {
            let state = State { schema: None, ..state };
            return state.write(self.echo.shape(304, cache_control));
        }
        state.write(self.echo.shape(200, cache_control)).with_chunks(array(items))
    }
}

impl Service {
    pub(super) fn new(options: Options) -> Self {
        let store = Mutex::new(Store::new(options.chunk_bytes));
        let control = Control::new(options.secret.clone());
        Self { options, control, store, changes: watch::Sender::new(()), started: Instant::now() }
    }

    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the store, and wakes the requests that wait for it.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let outcome = change(&mut self.store());
        self.changes.send_replace(());
        outcome
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Answers one request.
    pub(super) async fn answer(self: Arc<Self>, request: Request) -> Reply {
        let echo = Echo::of(&request);
        if request.headers_named("origin").count() > 1 {
            return Reply::refusal(500);
        }
        let segments = segments(request.path());
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match (request.method.as_str(), segments.as_slice()) {
            ("GET" | "HEAD", []) => echo.root(),
            ("GET" | "HEAD", ["v1", "health"]) => self.health(&echo),
            ("OPTIONS", ["v1", "shape"]) => echo.preflight(&request),
            ("GET" | "HEAD" | "POST" | "DELETE", ["v1", "shape"]) => self.shape_route(request, echo).await,
            _ => echo.not_found(),
        }
    }

    fn health(&self, echo: &Echo) -> Reply {
        match self.control.readiness() {
            Readiness::Active => echo.health(200, "active"),
            Readiness::Waiting => echo.health(202, "waiting"),
            Readiness::Starting => echo.health(202, "starting"),
        }
    }

    async fn shape_route(self: Arc<Self>, request: Request, echo: Echo) -> Reply {
        self.control.record(&request);
        self.control.gate().await;
        if let Some(reply) = self.control.scripted() {
            return reply;
        }
        let Ok(mut params) = query::parse(request.query()) else {
            return Reply::refusal(400);
        };
        if !query::carries(&params, &self.control.secret()) {
            return echo.unauthorized();
        }
        if request.method == "DELETE" {
            return self.delete(&echo, &params);
        }
        if request.method == "POST"
            && let Err(bad) = body::merge(&mut params, &request)
        {
            return echo.bad_body(bad.status, bad.json);
        }
        if let Some(reply) = self.unable(&echo, &params).await {
            return reply;
        }
        let checked = ShapeParams::check(&params, &self.store().database);
        let asked = match checked {
            Ok(params) => self.lookup(request, echo, params),
            Err(refusal) => Err(refused(&echo, &refusal)),
        };
        match asked {
            Ok(asked) => self.shape(asked).await,
            Err(reply) => reply,
        }
    }

    /// Returns 503 if Electric cannot serve shapes now.
    async fn unable(&self, echo: &Echo, params: &Map<String, Value>) -> Option<Reply> {
        if let Some(limit) = self.control.overload() {
            let handle = params.get("handle").and_then(Value::as_str);
            let known = handle.is_some_and(|handle| self.store().by_handle(handle).is_some());
            return Some(echo.overloaded(if known { "existing" } else { "initial" }, limit));
        }
        match self.control.readiness() {
            Readiness::Active => None,
            Readiness::Waiting => {
                let message = "Cannot connect to the database to verify the shape. Please try again later.";
                Some(echo.unavailable(message, 1))
            }
            Readiness::Starting => {
                tokio::time::sleep(self.options.not_ready_wait).await;
                let message = "Timeout waiting for Postgres lock acquisition: \
                               connection closed while connecting to the database";
                Some(echo.unavailable(message, 5))
            }
        }
    }

    /// Finds or creates the shape. Returns 409 if the request has the handle of another one.
    fn lookup(&self, request: Request, echo: Echo, params: ShapeParams) -> Result<Asked, Reply> {
        let mut store = self.store();
        let Some(handle) = store.shape(&params.definition).map(|shape| shape.handle.clone()) else {
            return Err(echo.crash());
        };
        if matches!(params.position, Position::At(_)) && params.handle != handle {
            return Err(echo.must_refetch(&handle));
        }
        let table = store.database.table(&params.definition.table);
        let schema = table.map(|table| params.definition.schema(table)).unwrap_or_default();
        Ok(Asked { request, echo, params, handle, schema })
    }

    async fn shape(self: Arc<Self>, asked: Asked) -> Reply {
        let from = match asked.params.position {
            _ if asked.params.subset.is_some() => return self.subset(&asked),
            Position::Start => return self.start(&asked),
            Position::Now => return self.now(&asked),
            Position::At(from) => from,
        };
        if !self.reached(&asked, from).await {
            return asked.echo.invalid(r#"{"offset":["out of bounds for this shape"]}"#);
        }
        match (asked.params.live, asked.params.sse) {
            (false, _) => self.catch_up(&asked, from),
            (true, false) => self.long_poll(&asked, from).await,
            (true, true) => self.event_stream(asked, from),
        }
    }

    /// Answers `offset=-1`: the snapshot as it was made, without later changes.
    fn start(&self, asked: &Asked) -> Reply {
        let Some(slice) = self.store().existing(&asked.params.definition).map(Shape::start) else {
            return asked.echo.gone();
        };
        let state = asked.state(&format!("-1:{}", slice.to), &slice, None);
        asked.reply(state, LONG, &slice.items)
    }

    /// Answers `offset=now`: the end of the log.
    fn now(&self, asked: &Asked) -> Reply {
        let store = self.store();
        let Some(to) = store.existing(&asked.params.definition).map(Shape::last) else {
            return asked.echo.gone();
        };
        let slice = Slice { items: Vec::new(), to, up_to_date: true };
        let state = asked.state(&format!("now:{to}:{}", self.monotonic()), &slice, None);
        self.nothing_new(asked, state, SHORT, store.lsn)
    }

    /// Returns only the control message, in one piece.
    pub(super) fn nothing_new(&self, asked: &Asked, state: State, cache_control: &str, lsn: u64) -> Reply {
        let state = State { has_data: false, ..state };
        let body = format!("[{}]", String::from_utf8_lossy(&up_to_date(lsn)));
        state.write(asked.echo.shape(200, cache_control)).with_body(body)
    }

    fn catch_up(&self, asked: &Asked, from: Offset) -> Reply {
        match self.slice(asked, from) {
            Some(slice) => asked.reply(asked.state(&format!("{from}:{}", slice.to), &slice, None), SHORT, &slice.items),
            None => asked.echo.gone(),
        }
    }

    /// Returns what follows `from`, with the control message at the end of the log; `None` if the shape was deleted.
    pub(super) fn slice(&self, asked: &Asked, from: Offset) -> Option<Slice> {
        let store = self.store();
        let mut slice = store.after(&asked.handle, &asked.params.definition, from)?;
        if slice.up_to_date {
            slice.items.push(up_to_date(store.lsn));
        }
        Some(slice)
    }

    /// Returns a live response with data, or 304.
    pub(super) fn live_reply(&self, asked: &Asked, from: Offset, slice: &Slice) -> Reply {
        let state = asked.state(&format!("{from}:{}", slice.to), slice, Some(self.cursor(asked)));
        asked.reply(state, LIVE, &slice.items)
    }

    /// Returns the live response at the end of the hold.
    pub(super) fn live_timeout(&self, asked: &Asked, from: Offset, to: Offset) -> Reply {
        let slice = Slice { items: Vec::new(), to, up_to_date: true };
        let state = asked.state(&format!("{from}:{to}:{}", self.monotonic()), &slice, Some(self.cursor(asked)));
        self.nothing_new(asked, state, LIVE, self.store().lsn)
    }

    pub(super) fn cursor(&self, asked: &Asked) -> u64 {
        cursor::next(SystemClock.now(), self.options.cursor_interval, asked.params.cursor)
    }

    fn monotonic(&self) -> i128 {
        MONOTONIC_START + i128::try_from(self.started.elapsed().as_nanos()).unwrap_or_default()
    }

    /// Answers with the current rows that are both in the shape and in the subset.
    fn subset(&self, asked: &Asked) -> Reply {
        let definition = &asked.params.definition;
        let mark: u32 = rand::rng().random_range(0..1 << 31);
        let (store, Some(subset)) = (self.store(), &asked.params.subset) else {
            return asked.echo.crash();
        };
        let items = subset_items(&store, definition, subset, mark);
        let (xmin, lsn) = (store.next_txid, store.lsn);
        let metadata = format!(
            r#"{{"xip_list":[],"xmax":"{xmin}","xmin":"{xmin}","snapshot_mark":{mark},"database_lsn":"{lsn}"}}"#
        );
        let to = match (asked.params.position, store.existing(definition)) {
            (Position::At(from), Some(shape)) => shape.after(from, self.options.chunk_bytes).to,
            (Position::Now, Some(shape)) => shape.last(),
            (Position::Start | Position::At(_) | Position::Now, _) => Offset::new(0, 0),
        };
        let reply = asked.echo.shape(200, "no-cache").with_header("electric-snapshot", "true");
        let mut reply = reply.with_header("electric-handle", &asked.handle);
        if !asked.params.live {
            reply = reply.with_header("electric-schema", &asked.schema);
        }
        let mut chunks: Vec<Bytes> = vec![r#"{"metadata":"#.into(), metadata.into(), r#", "data": "#.into()];
        chunks.extend(array(&items));
        chunks.push("}".into());
        reply.with_header("electric-offset", &to.to_string()).with_chunks(chunks)
    }

    fn delete(&self, echo: &Echo, params: &Map<String, Value>) -> Reply {
        if !self.options.allow_delete {
            return echo.message(405, "DELETE not allowed");
        }
        let checked = DeleteParams::check(params, &self.store().database);
        let DeleteParams { definition, handle } = match checked {
            Ok(checked) => checked,
            Err(refusal) => return refused(echo, &refusal),
        };
        let existing =
            definition.map(|definition| self.store().existing(&definition).map(|shape| shape.handle.clone()));
        let handle = match (existing, handle) {
            (Some(Some(existing)), Some(handle)) if existing != handle => {
                let hint = "Please ensure the shape definition is correct or omit the shape handle from the request";
                let text =
                    format!("The specified shape definition and handle do not match. {hint} to obtain a new one.");
                return echo.message(400, &text);
            }
            (Some(existing), _) => existing,
            (None, handle) => handle,
        };
        if handle.is_some_and(|handle| self.change(|store| store.delete_shape(&handle))) {
            return echo.deleted();
        }
        echo.message(404, "No existing shape found")
    }
}

fn refused(echo: &Echo, refusal: &Refusal) -> Reply {
    match refusal {
        Refusal::Invalid(errors) => echo.invalid(errors),
        Refusal::Crash => echo.crash(),
    }
}

fn subset_items(store: &Store, definition: &Definition, subset: &Subset, mark: u32) -> Vec<Bytes> {
    let Some(table) = store.database.table(&definition.table) else {
        return Vec::new();
    };
    let wanted = |row: &&super::database::Row| {
        definition.includes(row) && subset.condition.as_ref().is_none_or(|condition| condition.holds(row))
    };
    let mut rows: Vec<_> = table.rows().filter(wanted).collect();
    if let Some(order_by) = &subset.order_by {
        rows.sort_by(|left, right| order_by.compare(left, right));
    }
    let rows = rows.into_iter().skip(subset.offset).take(subset.limit.unwrap_or(usize::MAX));
    rows.map(|row| definition.snapshot_item(table, row, Some(mark))).collect()
}

/// Splits a path into decoded parts. Empty ones are dropped, so `//v1/shape/` equals `/v1/shape`.
fn segments(path: &str) -> Vec<String> {
    let parts = path.split('/').filter(|part| !part.is_empty());
    parts.map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned()).collect()
}
