//! What Electric says when it gives no shape, and what of it a client may hear.

use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::fault::Fault;
use crate::rejection::Rejection;

/// A status of Electric that its client must not see as it is. A 400 is judged by its body.
pub(super) fn fault_of(status: StatusCode, headers: &HeaderMap) -> Option<Fault> {
    match status.as_u16() {
        200 | 400 | 409 => None,
        503 if headers.contains_key("electric-internal-known-error") => Some(Fault::Overloaded(retry_after(headers))),
        503 => Some(Fault::NotReady(retry_after(headers))),
        status => Some(Fault::UpstreamRefused(status)),
    }
}

/// The body for the client of a 400, made of Electric's words on the parameters that a client sets. Where it names
/// none of them, the fault is the rule's, or a value's: the error holds Electric's words for the log (SECURITY Q14).
pub(super) fn refused_parameters(body: &[u8]) -> Result<Bytes, String> {
    let electric: Value = serde_json::from_slice(body).unwrap_or_default();
    let named = CLIENT_PARAMETERS.iter().filter_map(|name| Some((*name, electric["errors"].get(name)?)));
    let errors: serde_json::Map<_, _> = named.map(|(name, words)| (name.to_owned(), words.clone())).collect();
    if errors.is_empty() {
        return Err(String::from_utf8_lossy(body).chars().take(MAX_WORDS).collect());
    }
    let (_, code, message) = Rejection::InvalidRequest(Vec::new()).answer();
    Ok(json!({ "code": code, "message": message, "errors": errors }).to_string().into())
}

/// Characters of Electric's words that go to the log.
const MAX_WORDS: usize = 500;

/// Electric's messages are far shorter; what is longer is cut, and then says nothing.
pub(super) const MAX_BODY: usize = 64 * 1024;

const CLIENT_PARAMETERS: [&str; 6] = ["cursor", "handle", "live", "live_sse", "log", "offset"];

/// Electric's own `retry-after`, in seconds, within bounds.
fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5).clamp(1, 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_400_keeps_the_words_on_the_client_s_parameters_only() {
        let body = br#"{"message":"Invalid request","errors":{"offset":["out of bounds"],"where":["At location 8: secret_column"]}}"#;
        let answer = String::from_utf8(refused_parameters(body).unwrap().to_vec()).unwrap();
        assert!(answer.contains("out of bounds") && answer.contains("invalid_request"), "{answer}");
        assert!(!answer.contains("secret_column"), "{answer}");
        assert!(
            refused_parameters(br#"{"errors":{"where":["At location 8: hidden"]}}"#).unwrap_err().contains("hidden")
        );
        assert!(refused_parameters(b"<html>").is_err());
    }
}
