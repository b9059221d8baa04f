//! Response headers: of a shared response as each client gets it, and of our own responses.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH, RETRY_AFTER,
    TRANSFER_ENCODING, VARY, WWW_AUTHENTICATE,
};
use http::{HeaderValue, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::date::get_cached_date;
use pingora::{Error, ErrorType, OrErr, Result};

use super::cors::{CorsAnswer, CorsPolicy};
use super::decide::Document;
use crate::flight::{Encoding, Head, Join};
use crate::rejection::Rejection;

/// Builds the headers of responses to one client, from what its request negotiates.
#[derive(Debug, Default)]
pub(super) struct Negotiated {
    cors: CorsAnswer,
    /// The encoding that the client prefers.
    pub(super) encoding: Option<Encoding>,
    /// Whether the request has `If-None-Match`.
    pub(super) conditional: bool,
}

impl Negotiated {
    pub(super) fn of(request: &RequestHeader, cors: &CorsPolicy) -> Self {
        Self {
            cors: cors.answer(request),
            encoding: Encoding::choose(&request.headers),
            conditional: request.headers.contains_key(IF_NONE_MATCH),
        }
    }

    /// Returns the header of a shared response for this client, built from empty.
    pub(super) fn shape_header(&self, head: &Head, delivery: &Delivery<'_>) -> Result<ResponseHeader> {
        let (mut parts, ()) = http::Response::new(()).into_parts();
        (parts.status, parts.headers) = (head.status, head.fields.iter().cloned().collect());
        if delivery.not_modified {
            // A 304 has the header of the 200 (RFC 9110 section 15.4.5), except the fields that describe a body.
            parts.status = StatusCode::NOT_MODIFIED;
            parts.headers.remove(CONTENT_TYPE);
            parts.headers.remove("electric-schema");
        }
        let mut header = ResponseHeader::from(parts);
        self.shape_fields(head, delivery, |name, value| header.insert_header(name, value.to_header()?))?;
        Ok(header)
    }

    /// Returns the same header serialized for HTTP/1.1, for a connection that stays open and a body that is not
    /// encoded.
    pub(super) fn shape_text(&self, head: &Head, delivery: &Delivery<'_>) -> Result<Vec<u8>> {
        let mut text = Vec::with_capacity(TEXT + head.lines.len());
        let reason = head.status.canonical_reason().unwrap_or_default();
        for part in ["HTTP/1.1 ", head.status.as_str(), " ", reason, "\r\ndate: "] {
            text.extend_from_slice(part.as_bytes());
        }
        text.extend_from_slice(get_cached_date().as_bytes());
        text.extend_from_slice(b"\r\nconnection: keep-alive\r\n");
        self.shape_fields(head, delivery, |name, value| {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            value.append_to(&mut text)?;
            text.extend_from_slice(b"\r\n");
            Ok(())
        })?;
        text.extend_from_slice(&head.lines);
        text.extend_from_slice(b"\r\n");
        Ok(text)
    }

    /// Writes the header fields of a shared response that do not come from Electric.
    fn shape_fields(
        &self,
        head: &Head,
        delivery: &Delivery<'_>,
        mut put: impl FnMut(HeaderName, FieldValue<'_>) -> Result<()>,
    ) -> Result<()> {
        self.cors.fields(|name, value| put(name, FieldValue::Ready(value)))?;
        put(X_REQUEST_ID, FieldValue::Text(delivery.request_id))?;
        if let Some(cursor) = delivery.cursor {
            put(ELECTRIC_CURSOR, FieldValue::Number(cursor))?;
        }
        if let (Some(encoding), Some(etag)) = (delivery.encoding, head.etag()) {
            put(ETAG, FieldValue::Text(&encoded_etag(etag, encoding)))?;
        }
        if !delivery.not_modified {
            if let Some(encoding) = delivery.encoding {
                put(CONTENT_ENCODING, FieldValue::Text(encoding.as_str()))?;
            }
            match delivery.length {
                Some(length) => put(CONTENT_LENGTH, FieldValue::Number(length as u64))?,
                None if delivery.version == Version::HTTP_11 => put(TRANSFER_ENCODING, FieldValue::Text("chunked"))?,
                None => {}
            }
        }
        let cache_control = private_cache_control(head, delivery.fresh_for, delivery.max_age);
        put(CACHE_CONTROL, FieldValue::Text(&cache_control))?;
        if head.events {
            // nginx otherwise collects the events (its directive `proxy_buffering`).
            put(X_ACCEL_BUFFERING, FieldValue::Text("no"))?;
        }
        // For CDNs that ignore `private` and `Vary` (Electric pull request 3889).
        put(CDN_CACHE_CONTROL, FieldValue::Text(NO_STORE))?;
        let vary = match (self.cors.varies, self.cors.cookies) {
            (false, _) => VARY_ANY,
            (true, false) => VARY_ORIGIN,
            (true, true) => VARY_COOKIE,
        };
        put(VARY, FieldValue::Text(vary))?;
        if let Some(join) = delivery.join {
            let join = if join == Join::First { "miss" } else { join.as_str() };
            put(SHAPEGATE_CACHE, FieldValue::Text(join))?;
        }
        Ok(())
    }

    /// Returns the header of a rejection with a body of `length` bytes.
    pub(super) fn rejection_header(
        &self,
        rejection: &Rejection,
        length: usize,
        request_id: &str,
    ) -> Result<ResponseHeader> {
        let mut header = self.header(rejection.answer().0, request_id)?;
        header.insert_header(CONTENT_TYPE, "application/json; charset=utf-8")?;
        header.insert_header(CONTENT_LENGTH, length)?;
        header.insert_header(CACHE_CONTROL, "no-store")?;
        if let Some(after) = rejection.retry_after() {
            header.insert_header(RETRY_AFTER, after.as_secs().max(1))?;
        }
        if let Some(challenge) = rejection.challenge() {
            header.insert_header(WWW_AUTHENTICATE, challenge)?;
        }
        if let Rejection::MethodNotAllowed(methods) = rejection {
            header.insert_header(ALLOW, *methods)?;
        }
        if self.cors.varies {
            header.insert_header(VARY, "origin")?;
        }
        Ok(header)
    }

    /// Returns the header of the response to a health check, which has no body.
    pub(super) fn health_header(&self, ready: bool, request_id: &str) -> Result<ResponseHeader> {
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let mut header = self.header(status, request_id)?;
        header.insert_header(CONTENT_LENGTH, 0)?;
        header.insert_header(CACHE_CONTROL, NO_STORE)?;
        Ok(header)
    }

    /// Returns the header of a document.
    pub(super) fn document_header(&self, document: &Document, request_id: &str) -> Result<ResponseHeader> {
        let mut header = self.header(StatusCode::OK, request_id)?;
        header.insert_header(CONTENT_TYPE, "application/json; charset=utf-8")?;
        header.insert_header(CONTENT_LENGTH, document.body.len())?;
        header.insert_header(CACHE_CONTROL, document.cache_control)?;
        if self.cors.varies {
            header.insert_header(VARY, "origin")?;
        }
        Ok(header)
    }

    /// Returns the header of the response to OPTIONS.
    pub(super) fn preflight_header(
        &self,
        request: &RequestHeader,
        methods: &'static str,
        request_id: &str,
    ) -> Result<ResponseHeader> {
        let mut header = self.header(StatusCode::NO_CONTENT, request_id)?;
        header.insert_header(ALLOW, methods)?;
        header.insert_header(VARY, "origin, access-control-request-headers")?;
        self.cors.write_preflight(request, methods, &mut header)?;
        Ok(header)
    }

    fn header(&self, status: StatusCode, request_id: &str) -> Result<ResponseHeader> {
        let mut header = ResponseHeader::build(status, Some(16))?;
        self.cors.fields(|name, value| header.insert_header(name, value))?;
        header.insert_header(X_REQUEST_ID, request_id)?;
        Ok(header)
    }
}

/// How one client receives a shared response.
#[derive(Debug)]
pub(super) struct Delivery<'a> {
    pub(super) request_id: &'a str,
    pub(super) version: Version,
    /// The length of the body as it is sent; `None` if it is not known yet.
    pub(super) length: Option<usize>,
    pub(super) encoding: Option<Encoding>,
    pub(super) not_modified: bool,
    /// The client's next cursor, if the response has one.
    pub(super) cursor: Option<u64>,
    /// `cache.max_age`.
    pub(super) max_age: Duration,
    /// How long the cached response stays fresh; `None` if it comes directly from Electric.
    pub(super) fresh_for: Option<Duration>,
    /// How the client joined the flight; `None` if `cache.header` is off.
    pub(super) join: Option<Join>,
}

/// Whether `If-None-Match` names this response, in any of its encodings. Tags are compared weakly, and `*` matches every
/// response (RFC 9110 section 13.1.2).
pub(super) fn is_not_modified(request: &RequestHeader, head: &Head) -> bool {
    let values = || request.headers.get_all(IF_NONE_MATCH).iter();
    if head.status != StatusCode::OK || head.events || values().next().is_none() {
        return false;
    }
    let etags = head.etag().into_iter().flat_map(|etag| {
        let encoded = Encoding::ALL.into_iter().map(move |encoding| encoded_etag(etag, encoding));
        encoded.chain([etag.to_owned()])
    });
    let etags: Vec<_> = etags.collect();
    let mut tags = values().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || etags.iter().any(|etag| tag.strip_prefix("W/").unwrap_or(tag) == etag))
}

/// Returns the entity tag of an encoded body. A strong tag identifies exact bytes, so each encoding needs its own.
fn encoded_etag(etag: &str, encoding: Encoding) -> String {
    format!("{}-{}\"", etag.trim_end_matches('"'), encoding.as_str())
}

/// Returns the `Cache-Control` for clients. Electric's `public` assumes that the URL identifies the response
/// (tests/electric/01), but behind shapegate the response depends on the token too. So only the client itself may cache
/// it, and no longer than it is fresh here.
///
/// A response that ends at the end of the log is out of date with the next change. A live one does no harm, since no
/// client asks for it twice; every other one is revalidated each time.
fn private_cache_control(head: &Head, fresh_for: Option<Duration>, max_age: Duration) -> Cow<'static, str> {
    let electric = &head.cache_control;
    // A browser that caches a 409 would get it again from its cache on each refetch (Electric issue 3020).
    if head.status != StatusCode::OK || electric.unshared {
        return NO_STORE.into();
    }
    if head.is_up_to_date() && !head.cursor {
        return REVALIDATED.into();
    }
    // Long enough for every value.
    let mut private = String::with_capacity(80);
    private.push_str("private");
    let mut left = max_age;
    if let Some(age) = electric.max_age {
        let age = age.min(fresh_for.unwrap_or(Duration::MAX)).min(MAX_AGE).min(left);
        left -= age;
        let _ = write!(private, ", max-age={}", age.as_secs());
    }
    if let Some(age) = electric.stale_while_revalidate {
        let _ = write!(private, ", stale-while-revalidate={}", age.min(MAX_STALE).min(left).as_secs());
    }
    if electric.must_revalidate {
        private.push_str(", must-revalidate");
    }
    private.into()
}

/// The value of a field that shapegate writes. Most responses are written without a header map, which needs a copy of
/// each value.
enum FieldValue<'a> {
    Ready(HeaderValue),
    Text(&'a str),
    Number(u64),
}

impl FieldValue<'_> {
    fn to_header(&self) -> Result<HeaderValue> {
        match self {
            Self::Ready(value) => Ok(value.clone()),
            Self::Text(text) => HeaderValue::from_str(text).or_err(ErrorType::InvalidHTTPHeader, OWN_VALUE),
            Self::Number(number) => Ok((*number).into()),
        }
    }

    /// Appends the value as HTTP/1.1 writes it. The same values are errors as for [`HeaderValue`].
    fn append_to(&self, line: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Ready(value) => line.extend_from_slice(value.as_bytes()),
            Self::Text(text) => {
                // A fold, unlike `any`, looks at many bytes at once.
                let is_bad = |byte: u8| byte.is_ascii_control() && byte != b'\t';
                if text.bytes().fold(false, |bad, byte| bad | is_bad(byte)) {
                    return Error::e_explain(ErrorType::InvalidHTTPHeader, OWN_VALUE);
                }
                line.extend_from_slice(text.as_bytes());
            }
            Self::Number(number) => {
                let _ = write!(line, "{number}");
            }
        }
        Ok(())
    }
}

const OWN_VALUE: &str = "a header value of our own";

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
const ELECTRIC_CURSOR: HeaderName = HeaderName::from_static("electric-cursor");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const SHAPEGATE_CACHE: HeaderName = HeaderName::from_static("shapegate-cache");

/// Bytes to reserve for the part of a header that does not come from Electric.
const TEXT: usize = 768;

const NO_STORE: &str = "no-store";
const REVALIDATED: &str = "private, no-cache";
const VARY_ANY: &str = "accept-encoding, authorization";
const VARY_ORIGIN: &str = "accept-encoding, authorization, origin";
const VARY_COOKIE: &str = "accept-encoding, authorization, cookie, origin";

/// How long a browser may cache rows. It bounds how long revoked rows stay in its cache.
const MAX_AGE: Duration = Duration::from_secs(60);

/// How long a browser may use rows while it revalidates them.
const MAX_STALE: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::proxy::{CorsSettings, Origins};

    fn head(cache_control: &'static str) -> Head {
        Head::new(StatusCode::OK, &headers(cache_control))
    }

    fn headers(cache_control: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache_control));
        headers.insert(ETAG, HeaderValue::from_static("\"7-1:-1:0_0\""));
        headers
    }

    fn rewritten(cache_control: &'static str, fresh_for: Option<u64>) -> String {
        let value = private_cache_control(&head(cache_control), fresh_for.map(Duration::from_secs), MAX_STALE * 2);
        value.into_owned()
    }

    #[test]
    fn responses_are_private_and_cached_for_at_most_a_minute() {
        let snapshot = "public, max-age=604800, s-maxage=3600, stale-while-revalidate=2629746";
        assert_eq!(rewritten(snapshot, None), "private, max-age=60, stale-while-revalidate=300");
        assert_eq!(rewritten(snapshot, Some(7)), "private, max-age=7, stale-while-revalidate=300");
        assert_eq!(
            rewritten("public, max-age=5, stale-while-revalidate=5", Some(60)),
            "private, max-age=5, stale-while-revalidate=5"
        );
        assert_eq!(rewritten("public, max-age=1, must-revalidate", None), "private, max-age=1, must-revalidate");
        assert_eq!(rewritten("no-store", None), "no-store");
        assert_eq!(rewritten("max-age=x, public", None), "private");
        let bounded = private_cache_control(&head(snapshot), None, Duration::from_secs(90));
        assert_eq!(bounded, "private, max-age=60, stale-while-revalidate=30");
        let bounded = private_cache_control(&head(snapshot), None, Duration::from_secs(20));
        assert_eq!(bounded, "private, max-age=20, stale-while-revalidate=0");
    }

    #[test]
    fn responses_at_the_end_of_the_log_are_revalidated_unless_they_are_live() {
        let mut headers = headers("public, max-age=60, stale-while-revalidate=300");
        headers.insert("electric-up-to-date", HeaderValue::from_static(""));
        let mut head = Head::new(StatusCode::OK, &headers);
        assert_eq!(private_cache_control(&head, None, MAX_STALE), "private, no-cache");
        head.cursor = true;
        assert_eq!(private_cache_control(&head, None, MAX_STALE), "private, max-age=60, stale-while-revalidate=240");
    }

    #[test]
    fn serialized_header_has_the_same_fields() {
        let cors = CorsSettings {
            origins: Origins::List(vec!["https://app.test".to_owned()]),
            credentials: true,
            cookies: true,
            max_age: Duration::ZERO,
        };
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.insert_header("origin", "https://app.test").unwrap();
        let negotiated = Negotiated::of(&request, &CorsPolicy::new(cors));
        let mut delivery = Delivery {
            request_id: "0123",
            version: Version::HTTP_11,
            length: Some(42),
            encoding: None,
            not_modified: false,
            cursor: Some(66_793_720),
            max_age: Duration::ZERO,
            fresh_for: None,
            join: Some(Join::First),
        };
        let head = head("max-age=5");
        let text = negotiated.shape_text(&head, &delivery).unwrap();
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut parsed = httparse::Response::new(&mut fields);
        assert_eq!(parsed.parse(&text).unwrap(), httparse::Status::Complete(text.len()));
        assert_eq!((parsed.version, parsed.code, parsed.reason), (Some(1), Some(200), Some("OK")));
        let mut read = HeaderMap::new();
        for field in parsed.headers.iter() {
            let name = HeaderName::try_from(field.name).unwrap();
            assert!(read.insert(name, HeaderValue::from_bytes(field.value).unwrap()).is_none(), "{}", field.name);
        }
        assert_eq!(read.remove("connection").unwrap(), "keep-alive");
        assert!(httpdate::parse_http_date(read.remove("date").unwrap().to_str().unwrap()).is_ok());
        assert_eq!(read, negotiated.shape_header(&head, &delivery).unwrap().headers);
        // A line break in a value is an error.
        delivery.request_id = "1\r\nx: y";
        assert!(negotiated.shape_text(&head, &delivery).is_err());
    }

    #[test]
    fn if_none_match_accepts_the_tag_of_any_encoding() {
        let head = head("max-age=60");
        let not_modified = |values: &[&str]| {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            for value in values {
                request.append_header(IF_NONE_MATCH, *value).unwrap();
            }
            is_not_modified(&request, &head)
        };
        for values in [
            &["\"7-1:-1:0_0\""][..],
            &["\"7-1:-1:0_0-gzip\""],
            &["\"a\", \"7-1:-1:0_0-zstd\""],
            &["\"a\"", "\"7-1:-1:0_0\""],
            &["W/\"7-1:-1:0_0\""],
            &["W/\"a\", W/\"7-1:-1:0_0-gzip\""],
            &["*"],
            &[" * "],
        ] {
            assert!(not_modified(values), "{values:?}");
        }
        let commas = ",".repeat(30_000);
        assert!(!not_modified(&[&commas]) && not_modified(&[&format!("{commas}\"7-1:-1:0_0\"")]));
        for values in [&[][..], &["\"*\""], &["w/\"7-1:-1:0_0\""], &["\"7-1:-1:0_0-x\""], &["7-1:-1:0_0"]] {
            assert!(!not_modified(values), "{values:?}");
        }
    }
}
