//! Headers of answers: one allow-list for Electric's, one place for our own.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, RETRY_AFTER, TRANSFER_ENCODING, VARY,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, StatusCode, Version};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use serde_json::{Value, json};

use super::admit::METHODS;
use super::cors::{CorsAnswer, CorsPolicy};
use crate::fault::Fault;
use crate::rejection::Rejection;

/// What an answer says to this one client, whatever it answers.
#[derive(Debug, Default)]
pub(super) struct Edge {
    cors: CorsAnswer,
}

impl Edge {
    pub(super) fn of(request: &RequestHeader, cors: &CorsPolicy) -> Self {
        Self { cors: cors.answer(request) }
    }

    /// The header of Electric's answer as the client gets it, built from empty.
    pub(super) fn answer_header(
        &self,
        upstream: &ResponseHeader,
        client: Version,
        request_id: &str,
    ) -> Result<ResponseHeader> {
        let mut header = self.header(upstream.status, request_id)?;
        for (name, value) in &upstream.headers {
            if is_passed(name) {
                header.append_header(name.clone(), value)?;
            }
        }
        if upstream.status == StatusCode::BAD_REQUEST {
            // The body is replaced, so its length is not known yet.
            header.remove_header(&CONTENT_LENGTH);
            header.insert_header(TRANSFER_ENCODING, "chunked")?;
        }
        if client == Version::HTTP_10 {
            header.remove_header(&TRANSFER_ENCODING);
        }
        header.insert_header(CACHE_CONTROL, private_cache_control(&upstream.headers))?;
        // A shared cache in front that heeds neither `private` nor `Vary` may heed this (PEERS 2).
        header.insert_header("cdn-cache-control", "no-store")?;
        header.append_header(VARY, if self.cors.varies { "authorization, origin" } else { "authorization" })?;
        Ok(header)
    }

    /// The header of an answer of our own with a body of `length` bytes.
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

    /// The answer to OPTIONS.
    pub(super) fn preflight_header(&self, request: &RequestHeader, request_id: &str) -> Result<ResponseHeader> {
        let mut header = self.header(StatusCode::NO_CONTENT, request_id)?;
        header.insert_header(ALLOW, METHODS)?;
        header.insert_header(VARY, "origin, access-control-request-headers")?;
        self.cors.write_preflight(request, &mut header)?;
        Ok(header)
    }

    fn header(&self, status: StatusCode, request_id: &str) -> Result<ResponseHeader> {
        let mut header = ResponseHeader::build(status, Some(20))?;
        self.cors.write(&mut header)?;
        header.insert_header("x-request-id", request_id)?;
        Ok(header)
    }
}

/// A status of Electric that its client must not see as it is.
pub(super) fn fault_of(response: &ResponseHeader) -> Option<Fault> {
    let after = || retry_after(&response.headers);
    match response.status.as_u16() {
        200 | 304 | 400 | 409 => None,
        503 if response.headers.contains_key("electric-internal-known-error") => Some(Fault::Overloaded(after())),
        503 => Some(Fault::NotReady(after())),
        status => Some(Fault::UpstreamRefused(status)),
    }
}

/// The body of a 400: Electric's words on the parameters that a client sets, none on those that the rule does.
pub(super) fn refused_parameters(body: &[u8]) -> RefusedParameters {
    let electric: Value = serde_json::from_slice(body).unwrap_or_default();
    let named = CLIENT_PARAMETERS.iter().filter_map(|name| Some((*name, electric["errors"].get(name)?)));
    let errors: serde_json::Map<_, _> = named.map(|(name, words)| (name.to_owned(), words.clone())).collect();
    let (_, code, message) = Rejection::InvalidRequest(Vec::new()).answer();
    if !errors.is_empty() {
        let ours = json!({ "code": code, "message": message, "errors": errors });
        return RefusedParameters { body: ours.to_string().into(), rule_fault: None };
    }
    let ours = json!({ "code": code, "message": "The sync service refused what the rule made of this request." });
    let words: String = String::from_utf8_lossy(body).chars().take(MAX_WORDS).collect();
    RefusedParameters { body: ours.to_string().into(), rule_fault: Some(words) }
}

/// What becomes of a 400.
#[derive(Debug)]
pub(super) struct RefusedParameters {
    pub(super) body: Bytes,
    /// Electric's words for the log, where the fault is not the client's but the rule's, or a value's.
    pub(super) rule_fault: Option<String>,
}

/// Characters of Electric's words that go to the log.
const MAX_WORDS: usize = 500;

/// Electric's messages are far shorter; what is longer is cut, and then says nothing.
pub(super) const MAX_ERROR_BODY: usize = 64 * 1024;

const CLIENT_PARAMETERS: [&str; 6] = ["cursor", "handle", "live", "live_sse", "log", "offset"];

/// What of Electric's header reaches a client (SECURITY C6); the rest is ours or nobody's.
fn is_passed(name: &HeaderName) -> bool {
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
    [CONTENT_LENGTH, CONTENT_TYPE, ETAG, TRANSFER_ENCODING, VARY].contains(name) || ELECTRIC.contains(&name.as_str())
}

/// Electric's `public` takes the URL for the whole identity; here the token is a part of it (PROTOCOL 4.9).
fn private_cache_control(upstream: &HeaderMap) -> String {
    let directives =
        upstream.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    let mut private = String::from("private");
    for directive in directives.map(str::trim) {
        let (name, seconds) =
            directive.split_once('=').map_or((directive, None), |(name, value)| (name, value.parse().ok()));
        match (name, seconds) {
            ("max-age", Some(age)) => private.push_str(&format!(", max-age={}", MAX_AGE.min(age))),
            ("stale-while-revalidate", Some(age)) => private.push_str(&format!(", {name}={}", MAX_STALE.min(age))),
            ("must-revalidate" | "no-cache" | "no-store", None) => private.push_str(&format!(", {name}")),
            _ => {}
        }
    }
    private
}

/// A browser keeps rows no longer than this, in seconds: what is revoked must go.
const MAX_AGE: u64 = 60;
const MAX_STALE: u64 = 300;

/// Electric's own `retry-after`, in seconds, within bounds.
fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5).clamp(1, 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(cache_control: &'static str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, http::HeaderValue::from_static(cache_control));
        private_cache_control(&headers)
    }

    #[test]
    fn shared_caches_are_told_no_and_browsers_a_minute() {
        assert_eq!(
            rewritten("public, max-age=604800, s-maxage=3600, stale-while-revalidate=2629746"),
            "private, max-age=60, stale-while-revalidate=300"
        );
        assert_eq!(
            rewritten("public, max-age=5, stale-while-revalidate=5"),
            "private, max-age=5, stale-while-revalidate=5"
        );
        assert_eq!(rewritten("public, max-age=1, must-revalidate"), "private, max-age=1, must-revalidate");
        assert_eq!(rewritten("no-store"), "private, no-store");
        assert_eq!(rewritten("max-age=x, public"), "private");
    }

    #[test]
    fn a_400_keeps_the_words_on_the_client_s_parameters_only() {
        let body = br#"{"message":"Invalid request","errors":{"offset":["out of bounds"],"where":["At location 8: secret_column"]}}"#;
        let refused = refused_parameters(body);
        assert!(refused.rule_fault.is_none());
        let answer = String::from_utf8(refused.body.to_vec()).unwrap();
        assert!(answer.contains("out of bounds") && answer.contains("invalid_request"), "{answer}");
        assert!(!answer.contains("secret_column"), "{answer}");
        let rules = refused_parameters(br#"{"errors":{"where":["At location 8: hidden"]}}"#);
        assert!(rules.rule_fault.unwrap().contains("hidden") && rules.body.starts_with(b"{"));
        assert!(!String::from_utf8(rules.body.to_vec()).unwrap().contains("hidden"));
        assert!(refused_parameters(b"<html>").body.starts_with(b"{"));
    }
}
