//! The head of a request, and the checks that need nothing else.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, ORIGIN, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Version};

use crate::limits::LimitSettings;
use crate::rejection::Rejection;

/// The head of a request as it arrived.
#[derive(Debug)]
pub(crate) struct RequestHead<'a> {
    pub(crate) method: &'a Method,
    /// The request target, byte for byte.
    pub(crate) target: Bytes,
    pub(crate) version: Version,
    pub(crate) headers: &'a HeaderMap,
    /// Whether a body may follow.
    pub(crate) has_body: bool,
    /// `None` if the sizes were checked when the request arrived: a reload does not reject a waiting request for them.
    pub(crate) sizes: Option<&'a LimitSettings>,
}

impl RequestHead<'_> {
    /// Checks sizes, and that certain headers are given at most once (docs/security.md, P11, T16, C17).
    pub(super) fn check_headers(&self) -> Result<(), Rejection> {
        if let Some(limit) = self.sizes.and_then(|sizes| self.exceeded(sizes)) {
            return Err(Rejection::HeadersTooLarge(limit));
        }
        let hosts = self.headers.get_all(HOST).iter().count();
        if hosts > 1 || (hosts == 0 && self.version == Version::HTTP_11) {
            return Err(Rejection::invalid("host", "must be given exactly once"));
        }
        if !self.headers.get(HOST).is_none_or(is_host) {
            return Err(Rejection::invalid("host", "must be a host and an optional port"));
        }
        if self.headers.get_all(ORIGIN).iter().count() > 1 {
            return Err(Rejection::invalid("origin", "is given more than once"));
        }
        if self.headers.contains_key(EXPECT) {
            return Err(Rejection::invalid("expect", "is not supported"));
        }
        Ok(())
    }

    /// Returns the limit that the headers exceed. HTTP/2 clients may send each cookie in a field of its own, which all
    /// together are one header (RFC 9113 section 8.2.3).
    fn exceeded(&self, sizes: &LimitSettings) -> Option<&'static str> {
        let bytes: usize = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let cookies = if self.version == Version::HTTP_2 { self.headers.get_all(COOKIE).iter().count() } else { 0 };
        let joined = cookies.saturating_sub(1);
        // Of each further cookie, `; ` remains instead of the name.
        let bytes = bytes - joined * (COOKIE.as_str().len() - "; ".len());
        if self.headers.len() - joined > sizes.headers {
            return Some("headers");
        }
        (bytes > sizes.header_bytes).then_some("header_bytes")
    }

    /// Returns path and query of a target in origin form; every other form is rejected (docs/security.md, Q7).
    pub(super) fn split_target(&self) -> Result<(&str, &str), Rejection> {
        if self.sizes.is_some_and(|sizes| self.target.len() > sizes.uri_bytes) {
            return Err(Rejection::UriTooLong);
        }
        let text = std::str::from_utf8(&self.target).map_err(|_| Rejection::invalid("target", "is not UTF-8"))?;
        if !text.starts_with('/') || text.contains('#') || text.chars().any(|c| c.is_control() || c == ' ') {
            return Err(Rejection::invalid("target", "must be a path and a query"));
        }
        Ok(text.split_once('?').unwrap_or((text, "")))
    }

    /// Checks that the request has no body (docs/security.md, P4, P8). Over HTTP/2, a body needs no header.
    pub(super) fn check_bodiless(&self) -> Result<(), Rejection> {
        let length = self.headers.get_all(CONTENT_LENGTH).iter().any(|length| length.as_bytes() != b"0");
        if self.has_body || length || self.headers.contains_key(TRANSFER_ENCODING) {
            return Err(Rejection::ContentTooLarge);
        }
        Ok(())
    }

    /// Checks that a page of another origin could send this request only after a preflight, if its method is POST. A
    /// browser adds cookies to requests of any page (docs/security.md, C18).
    pub(super) fn check_preflighted(&self) -> Result<(), Rejection> {
        if *self.method == Method::POST && !self.headers.get(CONTENT_TYPE).is_some_and(is_json) {
            return Err(Rejection::invalid("content-type", "must be application/json for a token in a cookie"));
        }
        Ok(())
    }

    /// Checks the headers of a request whose body will be read.
    pub(super) fn check_json_body(&self) -> Result<(), Rejection> {
        let length = self.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if self.sizes.is_some_and(|sizes| length.is_some_and(|length| length > sizes.body_bytes)) {
            return Err(Rejection::ContentTooLarge);
        }
        if !self.headers.get_all(CONTENT_TYPE).iter().all(is_json) {
            return Err(Rejection::invalid("content-type", "must be application/json"));
        }
        if self.headers.contains_key(CONTENT_ENCODING) {
            return Err(Rejection::invalid("content-encoding", "is not supported"));
        }
        Ok(())
    }
}

/// Whether a `Host` is valid (RFC 9110 section 7.2). It may be empty.
fn is_host(host: &HeaderValue) -> bool {
    let host = host.as_bytes();
    host.is_empty() || (!host.contains(&b'@') && Authority::try_from(host).is_ok())
}

fn is_json(content_type: &HeaderValue) -> bool {
    let essence = content_type.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
}
