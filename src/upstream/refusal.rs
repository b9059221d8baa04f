//! Interprets Electric's error responses, and decides which parts of them a client may see.

use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};

use crate::fault::Fault;
use crate::rejection::Rejection;
use crate::rewrite::UpstreamRequest;

/// Maps a status of Electric that clients must not see to a fault. `None` for 200, 409 and 400, whose body is checked
/// separately.
pub(crate) fn fault_of(status: StatusCode, headers: &HeaderMap) -> Option<Fault> {
    match status.as_u16() {
        200 | 400 | 409 => None,
        503 if headers.contains_key("electric-internal-known-error") => Some(Fault::Overloaded(retry_after(headers))),
        503 => Some(Fault::NotReady(retry_after(headers))),
        status => Some(Fault::UpstreamRefused(status)),
    }
}

/// Builds the body of a 400 for the client, from Electric's messages on parameters that clients set. If the client only
/// chose a value in the rule's `where`, Electric's message is not shown: it could quote the rule.
///
/// # Errors
/// If Electric names no such parameter, the rule is at fault. The error is then Electric's message, for the log
/// (docs/security.md, Q14).
pub(crate) fn refused_parameters(body: &[u8], request: &UpstreamRequest) -> Result<Bytes, String> {
    let electric: Value = serde_json::from_slice(body).unwrap_or_default();
    let refused = &electric["errors"];
    let named = CLIENT_PARAMETERS.iter().filter_map(|name| Some(((*name).to_owned(), refused.get(name)?.clone())));
    let mut errors: Map<String, Value> = named.collect();
    // A subset comes from the client, and was already checked not to name hidden columns.
    for name in SUBSET_FIELDS.iter().filter(|_| request.body().is_some()) {
        let words = refused["subset"].get(name).map(|words| (format!("subset.{name}"), words.clone()));
        errors.extend(words);
    }
    // If `where` combines the rule's and the client's, Electric's message could quote the rule.
    if request.has_client_where() && refused.get("where").is_some() {
        errors.insert("where".to_owned(), json!(["Electric rejects it: compare each column with values of its type"]));
    }
    // Electric's message names columns, and the rule may hide some.
    if request.has_client_columns() && refused.get("columns").is_some() {
        errors.insert(
            "columns".to_owned(),
            json!(["Electric rejects them: name columns of the table, and its primary key"]),
        );
    }
    if errors.is_empty() && request.has_client_values() && VALUES.iter().any(|name| refused.get(name).is_some()) {
        errors.insert("query".to_owned(), json!(["Electric rejects a value: it may not fit the type of its column"]));
    }
    if errors.is_empty() {
        return Err(String::from_utf8_lossy(body).chars().take(MAX_WORDS).collect());
    }
    let (_, code, message) = Rejection::InvalidRequest(Vec::new()).answer();
    Ok(json!({ "code": code, "message": message, "errors": errors }).to_string().into())
}

/// The maximum number of characters of Electric's message in the log.
const MAX_WORDS: usize = 500;

/// The maximum size of Electric's error body in bytes. Real messages are far shorter; a longer one is truncated and not
/// interpreted.
pub(crate) const MAX_BODY: usize = 64 * 1024;

const CLIENT_PARAMETERS: [&str; 5] = ["handle", "live", "live_sse", "log", "offset"];

/// Where Electric reports a value that it cannot compare.
const VALUES: [&str; 2] = ["where", "params"];

const SUBSET_FIELDS: [&str; 5] = ["limit", "offset", "order_by", "params", "where"];

/// Reads Electric's `retry-after` in seconds: 5 if missing, limited to 1 to 60.
fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5).clamp(1, 60))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rewrite::tests::rewritten;

    const PLAIN: &str = "table=tasks&offset=-1";

    fn refused(body: &[u8], query: &str) -> Result<String, String> {
        let rules = "[[shape]]\ntable = 'tasks'\nwhere = 'none'\nsubset = true\nclient_where = true\n";
        let request = rewritten(rules, query, None).unwrap();
        refused_parameters(body, &request).map(|body| String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn a_400_keeps_only_messages_on_the_client_s_parameters() {
        let body = br#"{"message":"Invalid request","errors":{"offset":["out of bounds"],"where":["At location 8: secret_column"]}}"#;
        let answer = refused(body, PLAIN).unwrap();
        assert!(answer.contains("out of bounds") && answer.contains("invalid_request"), "{answer}");
        assert!(!answer.contains("secret_column"), "{answer}");
        let hidden = br#"{"errors":{"where":["At location 8: hidden"],"subset":{"where":["hidden"]}}}"#;
        assert!(refused(hidden, PLAIN).unwrap_err().contains("hidden"));
        assert!(refused(b"<html>", PLAIN).is_err());
    }

    #[test]
    fn a_400_is_the_client_s_if_it_chose_a_value_and_the_rule_s_otherwise() {
        let rule = "[[shape]]\ntable = 'tasks'\nwhere = '\"id\" = {{ query.id }}'\ndanger_client_chosen = 'id'\n";
        let request = rewritten(rule, "table=tasks&offset=-1&id=x", None).unwrap();
        for (body, of_client) in [
            (&br#"{"errors":{"where":["At location 8: hidden is no uuid"]}}"#[..], true),
            (br#"{"errors":{"params":["hidden"]}}"#, true),
            (br#"{"errors":{"columns":["hidden"]}}"#, false),
            (br#"{"errors":{"table":["hidden"]}}"#, false),
            (b"<html>hidden", false),
        ] {
            match refused_parameters(body, &request) {
                Ok(answer) => assert!(of_client && !answer.windows(6).any(|word| word == b"hidden"), "{answer:?}"),
                Err(words) => assert!(!of_client && words.contains("hidden"), "{words}"),
            }
        }
    }

    #[test]
    fn a_400_about_columns_is_the_client_s_if_it_named_fewer_than_the_rule() {
        let rule = "[[shape]]\ntable = 'tasks'\nwhere = 'none'\ncolumns = ['id', 'title']\n";
        let body = br#"{"errors":{"columns":["Must include all primary key columns, missing: hidden"]}}"#;
        let refused = |columns| {
            let request = rewritten(rule, &format!("{PLAIN}&columns={columns}"), None).unwrap();
            refused_parameters(body, &request).map(|body| String::from_utf8(body.to_vec()).unwrap())
        };
        let answer = refused("title").unwrap();
        assert!(answer.contains(r#"{"columns":["Electric rejects them"#) && !answer.contains("hidden"), "{answer}");
        assert!(refused("title,id").unwrap_err().contains("hidden"));
    }

    #[test]
    fn subset_errors_are_shown_and_errors_of_a_combined_where_are_hidden() {
        let body = br#"{"errors":{"subset":{"where":["no operator"],"secret":["x"]},"columns":["hidden"]}}"#;
        let answer = refused(body, "table=tasks&offset=-1&subset__where=id%20%3D%201").unwrap();
        assert!(answer.contains(r#"{"subset.where":["no operator"]}"#), "{answer}");
        let body = br#"{"errors":{"where":["At location 8: hidden"]}}"#;
        let answer = refused(body, "table=tasks&offset=-1&where=id%20%3D%20'x'").unwrap();
        assert!(answer.contains(r#""where":["Electric rejects it"#) && !answer.contains("hidden"), "{answer}");
    }
}
