//! The header of an answer, as all who share it see it.

use http::header::{CONTENT_TYPE, ETAG, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::freshness::CacheControl;

/// Status and headers of Electric's answer, cut to what a client may see.
#[derive(Clone, Debug)]
pub struct Head {
    /// 200, 400 or 409; every other status of Electric is a [`crate::fault::Fault`].
    pub status: StatusCode,
    /// `content-type`, `etag` and Electric's own (docs/security.md, C6).
    pub headers: HeaderMap,
    /// What Electric says of keeping it.
    pub cache_control: CacheControl,
    /// Whether it is a stream of events.
    pub events: bool,
    /// `headers` as HTTP/1.1 writes them: made once, where thousands of followers would each do so at the same moment.
    pub lines: Box<[u8]>,
}

impl Head {
    /// The head of an answer with these headers.
    pub fn new(status: StatusCode, upstream: &HeaderMap) -> Self {
        let passed = upstream.iter().filter_map(|(name, value)| Some((passed(name)?, unshared(value))));
        let headers: HeaderMap = passed.collect();
        let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let events = content_type.is_some_and(|value| value.starts_with(b"text/event-stream"));
        let lines = lines(&headers);
        Self { status, headers, cache_control: CacheControl::parse(upstream), events, lines }
    }

    /// The same head, after Electric has confirmed it with a 304 that has these headers (RFC 9111 section 4.3.4).
    #[must_use]
    pub fn renewed(&self, confirmation: &HeaderMap) -> Self {
        let mut renewed = self.clone();
        let Self { headers, cache_control, .. } = Self::new(self.status, confirmation);
        for (name, value) in &headers {
            renewed.headers.insert(name.clone(), value.clone());
        }
        renewed.lines = lines(&renewed.headers);
        renewed.cache_control = cache_control;
        renewed
    }

    /// The strong entity tag, with its quotes.
    pub fn etag(&self) -> Option<&str> {
        self.headers.get(ETAG)?.to_str().ok().filter(|etag| etag.len() > 2 && etag.starts_with('"'))
    }

    /// Where a client that has this answer goes on: handle and offset. A 409 leads back to the start, which is no
    /// progress.
    pub fn next(&self) -> Option<(&str, &str)> {
        let offset = self.headers.get("electric-offset")?.to_str().ok()?;
        (self.status == StatusCode::OK).then_some((self.handle()?, offset))
    }

    /// The shape's handle.
    pub(super) fn handle(&self) -> Option<&str> {
        self.headers.get("electric-handle")?.to_str().ok()
    }
}

fn lines(headers: &HeaderMap) -> Box<[u8]> {
    let mut lines = Vec::new();
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            lines.extend_from_slice(part);
        }
    }
    lines.into()
}

/// What of Electric's header reaches a client (docs/security.md, C6); the rest is ours or nobody's.
///
/// The name is a static one: thousands of followers clone it at the same moment, and a counter that they share would
/// go back and forth between the cores.
fn passed(name: &HeaderName) -> Option<HeaderName> {
    const ELECTRIC: [&str; 8] = [
        "electric-cursor",
        "electric-handle",
        "electric-has-data",
        "electric-internal-known-error",
        "electric-offset",
        "electric-schema",
        "electric-snapshot",
        "electric-up-to-date",
    ];
    if [CONTENT_TYPE, ETAG].contains(name) {
        return Some(name.clone());
    }
    ELECTRIC.into_iter().find(|known| name.as_str() == *known).map(HeaderName::from_static)
}

/// The same value; a common one is static, as the names are.
fn unshared(value: &HeaderValue) -> HeaderValue {
    const COMMON: [&str; 4] = ["", "true", "false", "application/json; charset=utf-8"];
    let common = COMMON.into_iter().find(|common| value.as_bytes() == common.as_bytes());
    common.map_or_else(|| value.clone(), HeaderValue::from_static)
}
