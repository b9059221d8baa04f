//! The header of a response, as all followers see it.

use http::header::{CONTENT_TYPE, ETAG, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::freshness::CacheControl;
use super::offset::Offset;

/// Status and headers of Electric's response, reduced to what a client may see.
#[derive(Clone, Debug)]
pub struct Head {
    /// 200, 400 or 409. Every other status of Electric is a [`crate::fault::Fault`].
    pub status: StatusCode,
    /// `content-type`, `etag` and Electric's own headers (docs/security.md, C6), except `electric-cursor`.
    pub headers: HeaderMap,
    /// Electric's `cache-control`.
    pub cache_control: CacheControl,
    /// Whether the body is a stream of events.
    pub events: bool,
    /// Whether Electric sent an `electric-cursor`. Each client gets one of its own.
    pub cursor: bool,
    /// `headers` as HTTP/1.1 writes them. Written once here, since thousands of followers need the same bytes at the
    /// same moment.
    pub lines: Box<[u8]>,
    /// What `headers` says about the shape. Read once here too.
    handle: Option<Box<str>>,
    offset: Option<Box<str>>,
    parsed_offset: Option<Offset>,
    up_to_date: bool,
}

impl Head {
    /// Returns the head for a response with the status `status` and these headers of Electric.
    pub fn new(status: StatusCode, upstream: &HeaderMap) -> Self {
        let passed = upstream.iter().filter_map(|(name, value)| Some((passed(name)?, unshared(value))));
        let cache_control = CacheControl::parse(upstream);
        Self::with(status, passed.collect(), cache_control, upstream.contains_key(CURSOR))
    }

    fn with(status: StatusCode, headers: HeaderMap, cache_control: CacheControl, cursor: bool) -> Self {
        let text = |name| Some(Box::from(headers.get(name)?.to_str().ok()?));
        let (handle, offset) = (text(HANDLE), text(OFFSET));
        let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        Self {
            status,
            events: content_type.is_some_and(|value| value.starts_with(b"text/event-stream")),
            cursor,
            cache_control,
            lines: lines(&headers),
            parsed_offset: offset.as_deref().and_then(Offset::parse),
            up_to_date: headers.contains_key(UP_TO_DATE),
            handle,
            offset,
            headers,
        }
    }

    /// Returns this head, updated from a 304 with these headers that confirms it (RFC 9111 section 4.3.4).
    #[must_use]
    pub fn renewed(&self, confirmation: &HeaderMap) -> Self {
        let Self { headers: confirmed, cache_control, .. } = Self::new(self.status, confirmation);
        let mut headers = self.headers.clone();
        for (name, value) in &confirmed {
            headers.insert(name.clone(), value.clone());
        }
        Self::with(self.status, headers, cache_control, self.cursor)
    }

    /// Returns the strong entity tag, with its quotes.
    pub fn etag(&self) -> Option<&str> {
        self.headers.get(ETAG)?.to_str().ok().filter(|etag| etag.len() > 2 && etag.starts_with('"'))
    }

    /// Returns the handle and offset that a client with this response asks for next. `None` for a 409, which sends it
    /// back to the start.
    pub fn next(&self) -> Option<(&str, &str)> {
        (self.status == StatusCode::OK).then_some((self.handle()?, self.offset.as_deref()?))
    }

    /// Returns this head of an event stream, for a client that joins it at `offset`.
    #[must_use]
    pub(super) fn starting_at(&self, offset: &HeaderValue) -> Self {
        let mut headers = self.headers.clone();
        headers.insert(OFFSET, offset.clone());
        // It names the offset at which Electric's response starts.
        headers.remove(ETAG);
        Self::with(self.status, headers, self.cache_control, self.cursor)
    }

    /// Returns where in the shape's log the response ends; an event stream, where it starts.
    pub(super) fn offset(&self) -> Option<Offset> {
        self.parsed_offset
    }

    /// Whether the response ends at the end of the log.
    pub fn is_up_to_date(&self) -> bool {
        self.up_to_date
    }

    /// Returns about how many bytes it takes.
    pub(super) fn weight(&self) -> usize {
        // A name and a value in a table take about 160 bytes besides the text of the value.
        const FIELD: usize = 160;
        self.lines.len() + self.headers.iter().map(|(_, value)| FIELD + value.len()).sum::<usize>()
    }

    /// Returns the shape's handle.
    pub(super) fn handle(&self) -> Option<&str> {
        self.handle.as_deref()
    }
}

const CURSOR: HeaderName = HeaderName::from_static("electric-cursor");
const HANDLE: HeaderName = HeaderName::from_static("electric-handle");
const OFFSET: HeaderName = HeaderName::from_static("electric-offset");
const UP_TO_DATE: HeaderName = HeaderName::from_static("electric-up-to-date");

fn lines(headers: &HeaderMap) -> Box<[u8]> {
    let mut lines = Vec::new();
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            lines.extend_from_slice(part);
        }
    }
    lines.into()
}

/// Returns the name if the header is passed to clients (docs/security.md, C6). All others are dropped or replaced by
/// our own.
///
/// The name is static. Thousands of followers clone it at the same moment, and a shared reference counter would move
/// between the caches of the cores.
fn passed(name: &HeaderName) -> Option<HeaderName> {
    static PASSED: [HeaderName; 9] = [
        CONTENT_TYPE,
        ETAG,
        HANDLE,
        HeaderName::from_static("electric-has-data"),
        HeaderName::from_static("electric-internal-known-error"),
        OFFSET,
        HeaderName::from_static("electric-schema"),
        HeaderName::from_static("electric-snapshot"),
        UP_TO_DATE,
    ];
    PASSED.iter().find(|known| *known == name).cloned()
}

/// Returns the same value. Common values are static, for the same reason as names. Others are copied: a value is a part
/// of the buffer that Pingora has read the whole header into, and a cached response would keep that buffer.
fn unshared(value: &HeaderValue) -> HeaderValue {
    const COMMON: [&str; 4] = ["", "true", "false", "application/json; charset=utf-8"];
    let common = COMMON.into_iter().find(|common| value.as_bytes() == common.as_bytes());
    common.map_or_else(
        || HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone()),
        HeaderValue::from_static,
    )
}
