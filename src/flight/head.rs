//! The header of a response, as all followers see it.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, ETAG, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::freshness::CacheControl;
use super::offset::Offset;

/// Status and headers of Electric's response, reduced to what a client may see.
#[derive(Clone, Debug)]
pub struct Head {
    /// 200, 400 or 409. Every other status of Electric is a [`crate::fault::Fault`].
    pub status: StatusCode,
    /// `content-type`, `etag` and Electric's own headers (docs/security.md, C6), except `electric-cursor`. Not a map,
    /// which takes longer to build and more memory. The values are parts of `lines`.
    pub fields: Box<[Field]>,
    /// Electric's `cache-control`.
    pub cache_control: CacheControl,
    /// Whether the body is a stream of events.
    pub events: bool,
    /// Whether Electric sent an `electric-cursor`. Each client gets one of its own.
    pub cursor: bool,
    /// `fields` as HTTP/1.1 writes them. Written once here, since thousands of followers need the same bytes at the
    /// same moment.
    pub lines: Bytes,
    /// Which of `fields` say where in the shape's log the response ends. Read once here too.
    handle: Option<usize>,
    offset: Option<usize>,
    parsed_offset: Option<Offset>,
    up_to_date: bool,
}

/// A header field with its value.
type Field = (HeaderName, HeaderValue);

impl Head {
    /// Returns the head for a response with the status `status` and these headers of Electric.
    pub fn new(status: StatusCode, upstream: &HeaderMap) -> Self {
        let passed = upstream.iter().filter_map(|(name, value)| Some((passed(name)?, value.clone())));
        Self::with(status, passed.collect(), CacheControl::parse(upstream), upstream.contains_key(CURSOR))
    }

    fn with(status: StatusCode, mut fields: Box<[Field]>, cache_control: CacheControl, cursor: bool) -> Self {
        let lines = lines(&mut fields);
        let find = |name| fields.iter().position(|(known, _)| *known == name);
        let (offset, content_type) = (find(OFFSET), find(CONTENT_TYPE));
        let parsed_offset = offset.and_then(|at| Offset::parse(fields[at].1.to_str().ok()?));
        Self {
            status,
            events: content_type.is_some_and(|at| fields[at].1.as_bytes().starts_with(b"text/event-stream")),
            cursor,
            cache_control,
            handle: find(HANDLE),
            offset,
            parsed_offset,
            up_to_date: find(UP_TO_DATE).is_some(),
            fields,
            lines,
        }
    }

    /// Returns this head, updated from a 304 with these headers that confirms it (RFC 9111 section 4.3.4).
    #[must_use]
    pub fn renewed(&self, confirmation: &HeaderMap) -> Self {
        let Self { fields: confirmed, cache_control, .. } = Self::new(self.status, confirmation);
        let kept = self.fields.iter().filter(|(name, _)| confirmed.iter().all(|(other, _)| other != name));
        let fields = kept.chain(&confirmed).cloned().collect();
        Self::with(self.status, fields, cache_control, self.cursor)
    }

    /// Returns the strong entity tag, with its quotes.
    pub fn etag(&self) -> Option<&str> {
        let (_, etag) = self.fields.iter().find(|(name, _)| *name == ETAG)?;
        etag.to_str().ok().filter(|etag| etag.len() > 2 && etag.starts_with('"'))
    }

    /// Returns the handle and offset that a client with this response asks for next. `None` for a 409, which sends it
    /// back to the start.
    pub fn next(&self) -> Option<(&str, &str)> {
        (self.status == StatusCode::OK).then_some((self.handle()?, self.text(self.offset)?))
    }

    /// Returns this head of an event stream, for a client that joins it at `offset`.
    #[must_use]
    pub(super) fn starting_at(&self, offset: &HeaderValue) -> Self {
        // The entity tag names the offset at which Electric's response starts.
        let kept = self.fields.iter().filter(|(name, _)| ![ETAG, OFFSET].contains(name)).cloned();
        let fields = kept.chain([(OFFSET, offset.clone())]).collect();
        Self::with(self.status, fields, self.cache_control, self.cursor)
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
        self.lines.len() + size_of_val(&*self.fields)
    }

    /// Returns the shape's handle.
    pub(super) fn handle(&self) -> Option<&str> {
        self.text(self.handle)
    }

    fn text(&self, field: Option<usize>) -> Option<&str> {
        self.fields.get(field?)?.1.to_str().ok()
    }
}

const CURSOR: HeaderName = HeaderName::from_static("electric-cursor");
const HANDLE: HeaderName = HeaderName::from_static("electric-handle");
const OFFSET: HeaderName = HeaderName::from_static("electric-offset");
const UP_TO_DATE: HeaderName = HeaderName::from_static("electric-up-to-date");

/// Writes the fields as HTTP/1.1 does, and lets their values share that memory. A value from Pingora would keep the
/// buffer into which Pingora has read the whole header, and a copy of each would take more memory.
fn lines(fields: &mut [Field]) -> Bytes {
    let length = fields.iter().map(|(name, value)| name.as_str().len() + value.len() + BETWEEN.len() + END.len()).sum();
    let mut lines = BytesMut::with_capacity(length);
    for (name, value) in &*fields {
        for part in [name.as_str().as_bytes(), BETWEEN, value.as_bytes(), END] {
            lines.put_slice(part);
        }
    }
    let lines = lines.freeze();
    let mut end = 0;
    for (name, value) in fields {
        let start = end + name.as_str().len() + BETWEEN.len();
        end = start + value.len() + END.len();
        if let Ok(shared) = HeaderValue::from_maybe_shared(lines.slice(start..start + value.len())) {
            *value = shared;
        }
    }
    lines
}

const BETWEEN: &[u8] = b": ";
const END: &[u8] = b"\r\n";

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
