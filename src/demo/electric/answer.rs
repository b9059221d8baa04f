//! Responses with Electric's headers in Electric's order.

use bytes::{Bytes, BytesMut};
use rand::RngExt as _;

use super::shape::Offset;
use crate::demo::http::{Reply, Request};

const SERVER: &str = "ElectricSQL/1.7.12";
const EXPOSED: &str = "electric-cursor,electric-handle,electric-has-data,electric-offset,electric-schema,\
                       electric-up-to-date,electric-internal-known-error,retry-after";
const SHAPE_METHODS: &str = "GET, POST, HEAD, DELETE, OPTIONS";
const JSON: &str = "application/json; charset=utf-8";
/// The `cache-control` that Plug sends unless told otherwise.
const PLUG_DEFAULT: &str = "max-age=0, private, must-revalidate";
const NEVER: &str = "no-cache, no-store, must-revalidate";

/// Items in one chunk, as Electric streams them.
const ITEMS_IN_CHUNK: usize = 250;

/// What a response repeats of its request.
#[derive(Clone, Debug)]
pub(super) struct Echo {
    origin: String,
    request_id: String,
    /// Whether the response must not be cached, as those to POST and DELETE.
    uncached: bool,
}

impl Echo {
    pub(super) fn of(request: &Request) -> Self {
        let given = request.header("x-request-id").filter(|id| (20..=200).contains(&id.len()));
        Self {
            origin: request.header("origin").unwrap_or("*").to_owned(),
            request_id: given.map_or_else(random_id, str::to_owned),
            uncached: matches!(request.method.as_str(), "POST" | "DELETE"),
        }
    }

    /// Returns a response about a shape, to a request with a valid secret.
    pub(super) fn shape(&self, status: u16, cache_control: &str) -> Reply {
        let cache_control = if self.uncached { "no-cache" } else { cache_control };
        self.cors(self.plain(status, cache_control), SHAPE_METHODS).with_header("content-type", JSON)
    }

    pub(super) fn event_stream(&self) -> Reply {
        let reply = self.cors(self.plain(200, "public, max-age=59"), SHAPE_METHODS);
        reply.with_header("content-type", "text/event-stream")
    }

    fn plain(&self, status: u16, cache_control: &str) -> Reply {
        let reply = Reply::new(status).with_header("vary", "accept-encoding");
        self.identified(reply.with_header("cache-control", cache_control))
    }

    fn identified(&self, reply: Reply) -> Reply {
        reply.with_header("x-request-id", &self.request_id).with_header("electric-server", SERVER)
    }

    fn cors(&self, reply: Reply, methods: &str) -> Reply {
        let reply = reply.with_header("access-control-allow-origin", &self.origin);
        let reply = reply.with_header("access-control-expose-headers", EXPOSED);
        reply.with_header("access-control-allow-methods", methods)
    }

    pub(super) fn unauthorized(&self) -> Reply {
        self.plain(401, PLUG_DEFAULT).with_body(r#"{"message":"Unauthorized - Invalid API secret"}"#)
    }

    pub(super) fn not_found(&self) -> Reply {
        self.cors(self.plain(404, PLUG_DEFAULT), "GET, HEAD").with_body("Not found")
    }

    pub(super) fn root(&self) -> Reply {
        self.cors(self.plain(200, PLUG_DEFAULT), "GET, HEAD").with_body("")
    }

    pub(super) fn health(&self, status: u16, state: &str) -> Reply {
        let reply = self.cors(self.plain(status, NEVER), "GET, HEAD").with_header("content-type", JSON);
        reply.with_body(format!(r#"{{"status":"{state}"}}"#))
    }

    /// Answers a preflight. Electric allows each of these two headers, but only one at a time.
    pub(super) fn preflight(&self, request: &Request) -> Reply {
        let reply = self.cors(self.identified(Reply::new(204)), SHAPE_METHODS);
        let mut reply = reply.with_header("access-control-max-age", "86400");
        let wanted = request.header("access-control-request-headers");
        if let Some(wanted) = wanted.filter(|wanted| ["if-none-match", "traceparent"].contains(wanted)) {
            reply = reply.with_header("access-control-allow-headers", wanted);
        }
        reply.with_header("connection", "keep-alive")
    }

    pub(super) fn bad_body(&self, status: u16, json: String) -> Reply {
        let reply = self.cors(self.plain(status, PLUG_DEFAULT), SHAPE_METHODS);
        reply.with_header("content-type", JSON).with_body(json)
    }

    pub(super) fn crash(&self) -> Reply {
        let reply = self.cors(self.plain(500, PLUG_DEFAULT), SHAPE_METHODS);
        reply.with_body(r#"{"error":"Internal server error"}"#)
    }

    /// Returns an error that no cache may store.
    fn error(&self, status: u16) -> Reply {
        let reply = self.shape(status, "no-store");
        if self.uncached { reply } else { reply.with_header("surrogate-control", "no-store") }
    }

    pub(super) fn invalid(&self, errors: &str) -> Reply {
        self.error(400).with_body(format!(r#"{{"message":"Invalid request","errors":{errors}}}"#))
    }

    /// Returns the response to a DELETE; all are alike.
    pub(super) fn message(&self, status: u16, message: &str) -> Reply {
        self.shape(status, "no-cache").with_body(format!(r#"{{"message":"{message}"}}"#))
    }

    pub(super) fn deleted(&self) -> Reply {
        self.shape(202, "no-cache").with_header("electric-has-data", "true").with_body("")
    }

    pub(super) fn unavailable(&self, message: &str, retry_after: u32) -> Reply {
        let reply = self.error(503).with_header("retry-after", &retry_after.to_string());
        reply.with_body(format!(r#"{{"message":"{message}"}}"#))
    }

    pub(super) fn overloaded(&self, kind: &str, limit: u32) -> Reply {
        let retry_after = rand::rng().random_range(6..=10).to_string();
        let reply = self.error(503).with_header("electric-internal-known-error", "true");
        let message = format!("Concurrent {kind} request limit exceeded (limit: {limit}), please retry");
        reply
            .with_header("retry-after", &retry_after)
            .with_body(format!(r#"{{"code":"concurrent_request_limit_exceeded","message":"{message}"}}"#))
    }

    /// Tells the client that its handle is not this shape's, and to start over with the one given here.
    pub(super) fn must_refetch(&self, handle: &str) -> Reply {
        let reply = self.shape(409, "public, max-age=60, must-revalidate");
        let reply = reply.with_header("etag", &format!("\"{handle}::\"")).with_header("electric-handle", handle);
        reply.with_body(MUST_REFETCH)
    }

    /// Tells the client that the shape was deleted while it waited.
    pub(super) fn gone(&self) -> Reply {
        self.shape(409, "public, max-age=1, must-revalidate").with_body(MUST_REFETCH)
    }
}

const MUST_REFETCH: &str = r#"[{"headers":{"control":"must-refetch"}}]"#;

/// The headers of a 200 that describe the shape's state.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) cursor: Option<u64>,
    pub(super) etag: String,
    pub(super) handle: String,
    pub(super) schema: Option<String>,
    pub(super) up_to_date: bool,
    pub(super) has_data: bool,
    pub(super) offset: Offset,
}

impl State {
    pub(super) fn write(&self, mut reply: Reply) -> Reply {
        if let Some(cursor) = self.cursor {
            reply = reply.with_header("electric-cursor", &cursor.to_string());
        }
        reply = reply.with_header("etag", &self.etag).with_header("electric-handle", &self.handle);
        if let Some(schema) = &self.schema {
            reply = reply.with_header("electric-schema", schema);
        }
        if self.up_to_date {
            reply = reply.with_header("electric-up-to-date", "");
        }
        reply = reply.with_header("electric-has-data", if self.has_data { "true" } else { "false" });
        reply.with_header("electric-offset", &self.offset.to_string())
    }

    /// Whether the client has this response already. Only strong comparison counts.
    pub(super) fn matches(&self, request: &Request) -> bool {
        let mut tags = request.headers_named("if-none-match").flat_map(|value| value.split(','));
        tags.any(|tag| tag.trim() == self.etag)
    }
}

/// Returns the control message at the end of a log.
pub(super) fn up_to_date(lsn: u64) -> Bytes {
    format!(r#"{{"headers":{{"control":"up-to-date","global_last_seen_lsn":"{lsn}"}}}}"#).into()
}

/// Returns `items` as a JSON array, in the chunks in which Electric streams it.
pub(super) fn array(items: &[Bytes]) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    for (at, group) in items.chunks(ITEMS_IN_CHUNK).enumerate() {
        let mut chunk = BytesMut::new();
        for (place, item) in group.iter().enumerate() {
            let first = at == 0 && place == 0;
            chunk.extend_from_slice(if first { b"[" } else { b"," });
            chunk.extend_from_slice(item);
        }
        chunks.push(chunk);
    }
    match chunks.last_mut() {
        Some(last) => last.extend_from_slice(b"]"),
        None => chunks.push(BytesMut::from("[]")),
    }
    chunks.into_iter().map(BytesMut::freeze).collect()
}

fn random_id() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut random = rand::rng();
    (0..20).map(|_| char::from(ALPHABET[random.random_range(0..64)])).collect()
}
